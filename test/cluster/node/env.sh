# Sourced by every script here. NODE is this folder, BUILT what is built once a machine and shared by all clones, HOME_DIR what one
# cluster runs in (SIGNET_CLUSTER, which the caller chooses).
NODE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBE_VERSION=v1.36.3
key=$(cat "$NODE/../kubernetes/go.sum" "$NODE/../kubernetes"/*/main.go "$NODE/../coredns/go.sum" "$NODE/../coredns/main.go" "$NODE/build.sh" | sha256sum | cut -c1-12)
BUILT=${XDG_CACHE_HOME:-$HOME/.cache}/signet-cluster/$KUBE_VERSION-$key
BIN=$BUILT/bin ROOT=$BUILT/root
RUN=${SIGNET_CLUSTER:-/tmp/signet-cluster}
PKI=$RUN/pki
IP=10.200.0.1 IP6=fd00:200::1
GROUP=signet-$(printf %s "$RUN" | sha256sum | cut -c1-8)
export PATH=$BIN:$ROOT/usr/bin:$ROOT/usr/sbin:$PATH LD_LIBRARY_PATH=$ROOT/usr/lib/x86_64-linux-gnu
