#!/usr/bin/env bash
# down.sh: end the node's init (its pid namespace takes every process with it), then remove its cgroups and all it kept.
. "$(dirname "$0")/env.sh"
[ -d "$RUN" ] || exit 0
if [ -e "$RUN/init.pid" ]; then
  p=$(cat "$RUN/init.pid"); kill -KILL "$p" 2>/dev/null
  for _ in $(seq 100); do [ -d "/proc/$p" ] || break; sleep .1; done
fi
for _ in 1 2 3 4 5; do
  left=
  for d in /sys/fs/cgroup/*/"$GROUP" /sys/fs/cgroup/"$GROUP"; do [ -d "$d" ] || continue; find "$d" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "$d" ] && left=1; done
  [ -n "$left" ] || break; sleep .2
done
[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$RUN"
