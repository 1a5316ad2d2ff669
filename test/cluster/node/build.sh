#!/usr/bin/env bash
# build.sh [envtest]: what a cluster is made of, once a machine: Kubernetes, etcd and CoreDNS from their Go modules, containerd, runc,
# the CNI plugins and nft from Debian. "envtest" builds etcd and kube-apiserver alone. Prints the folder of the binaries.
set -euo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$BIN" "$BUILT/debs" "$ROOT"
exec 9>"$BUILT/lock"
flock 9
export CGO_ENABLED=0
version=k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=$KUBE_VERSION -X $version.gitMajor=1 -X $version.gitMinor=36 -X $version.gitTreeState=clean"
build() { # MODULE PACKAGE NAME
  [ -x "$BIN/$3" ] && return
  echo "building $3 of the test cluster (minutes the first time)" >&2
  (cd "$NODE/../$1" && go build -trimpath -ldflags "$flags" -o "$BIN/.$3" "$2") && mv "$BIN/.$3" "$BIN/$3"
}
if [ "${1:-}" = envtest ] && [ ! -x "$BIN/kube" ]; then
  build kubernetes ./kube1 kube1
  for a in etcd kube-apiserver; do ln -sf kube1 "$BIN/$a"; done
  echo "$BIN"; exit
fi
build kubernetes ./kube kube
for a in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -sf kube "$BIN/$a"; done
[ "${1:-}" != envtest ] || { echo "$BIN"; exit; }
build coredns . coredns
if [ ! -e "$BUILT/debs/done" ]; then
  packages="containerd runc containernetworking-plugins nftables libnftnl11 libnftables1"
  cd "$BUILT/debs"
  apt-get -qq download $packages >&2 || { apt-get -qq update >&2 && apt-get -qq download $packages >&2; }
  for d in *.deb; do dpkg -x "$d" "$ROOT"; done
  touch done
fi
echo "$BIN"
