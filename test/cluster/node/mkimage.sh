#!/usr/bin/env bash
# mkimage.sh NAME:TAG BINARY OUT.tar: a one-layer image from scratch that holds BINARY as /app (docker archive).
set -euo pipefail
name=$1 bin=$2 out=$3
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
mkdir -p "$d/fs/tmp" "$d/fs/etc" "$(dirname "$out")"; chmod 1777 "$d/fs/tmp"
echo 'root:x:0:0::/:/app' > "$d/fs/etc/passwd"
install -m755 "$bin" "$d/fs/app"
tar -C "$d/fs" --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$d/layer.tar" .
sum=$(sha256sum "$d/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Entrypoint":["/app"],"Cmd":["pause"],"Env":["PATH=/"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}' "$sum" > "$d/config.json"
config=$(sha256sum "$d/config.json" | cut -d' ' -f1); mv "$d/config.json" "$d/$config.json"
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$config" "$name" > "$d/manifest.json"
tar -C "$d" --mtime=@0 -cf "$out" manifest.json "$config.json" layer.tar
