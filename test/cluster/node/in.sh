#!/usr/bin/env bash
# in.sh CMD...: run CMD inside the node's namespaces, as its administrator.
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export KUBECONFIG=$PKI/admin.kubeconfig CONTAINERD_ADDRESS=$RUN/containerd.sock
exec nsenter -t "$(cat "$RUN/init.pid")" -n -m -p --wd="$PWD" "$@"
