#!/usr/bin/env bash
# up.sh: a real single-node cluster in network, mount and pid namespaces of its own, below $SIGNET_CLUSTER, which must not exist yet or
# hold nothing but images/*.tar (docker archives, imported before the kubelet starts). Enter it with in.sh CMD..., end it with down.sh.
set -euo pipefail
. "$(dirname "$0")/env.sh"
[ ! -e "$RUN/init.pid" ] || { echo "up.sh: $RUN is up already; run down.sh" >&2; exit 1; }
mkdir -p "$RUN/log" "$RUN/images" "$RUN/cni"
"$NODE/certs.sh"
for f in containerd.toml kubelet.yaml Corefile 10-bridge.conflist; do
  sed "s#@RUN@#$RUN#g; s#@ROOT@#$ROOT#g; s#@PKI@#$PKI#g; s#@IP@#$IP#g; s#@GROUP@#$GROUP#g" "$NODE/$f.in" > "$RUN/$f"
done
mv "$RUN/10-bridge.conflist" "$RUN/cni/"
began=$SECONDS
setsid unshare --net --mount --pid --fork --kill-child "$NODE/node.sh" </dev/null >"$RUN/log/init.log" 2>&1 9>&- &
parent=$!
for _ in $(seq 100); do child=$(pgrep -P $parent || true); [ -n "$child" ] && break; sleep .05; done
[ -n "$child" ] || { echo "up.sh: the node did not start" >&2; cat "$RUN/log/init.log" >&2; exit 1; }
echo "$child" > "$RUN/init.pid"
k() { "$NODE/in.sh" kubectl "$@"; }
check() {
  [ -d "/proc/$child" ] || { echo "up.sh: the node's init died" >&2; cat "$RUN/log/init.log" >&2; exit 1; }
  [ $((SECONDS - began)) -lt 240 ] || { echo "up.sh: the node is not ready after 240 s; its logs are in $RUN/log" >&2; tail -n 20 "$RUN"/log/*.log >&2; exit 1; }
}
until k -n default get sa default >/dev/null 2>&1; do sleep .2; check; done
until k wait --for=condition=Ready node/node1 --timeout=10s >/dev/null 2>&1; do sleep .3; check; done
echo "cluster is up after $((SECONDS - began)) s"
