#!/usr/bin/env bash
# node.sh: init of the node's own network, mount and pid namespaces; up.sh starts it through unshare. It starts everything and waits.
set -uo pipefail
. "$(dirname "$0")/env.sh"
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run            # containerd's state, shim sockets, xtables.lock
printf '127.0.0.1 localhost\n%s node1\n' "$IP" > "$RUN/hosts"; mount --bind "$RUN/hosts" /etc/hosts
: > "$RUN/resolv.conf"; mount --bind "$RUN/resolv.conf" "$(readlink -f /etc/resolv.conf)"
ip link set lo up
ip addr add "$IP/32" dev lo; ip addr add "$IP6/128" dev lo
ip route add default dev lo src "$IP"            # the API server's way to a webhook's ClusterIP, before kube-proxy rewrites the packet
ip -6 route add default dev lo src "$IP6"
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
for d in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do [ -e "$d" ] && mkdir -p "$(dirname "$d")/$GROUP"; done
[ ! -e "/sys/fs/cgroup/cpuset/$GROUP" ] || { for f in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$f" > "/sys/fs/cgroup/cpuset/$GROUP/cpuset.$f"; done; }
# Each is started again when it was killed: tests take pieces of the cluster away by their pid, and hold them back by a file NAME.held.
start() {
  local name=$1; shift
  (while :; do
    "$@" >>"$RUN/log/$name.log" 2>&1 & echo $! > "$RUN/$name.pid"; wait $!
    while [ -e "$RUN/$name.held" ]; do sleep .1; done
    sleep .2
  done) &
}
start etcd etcd --data-dir "$RUN/etcd" --name n1 --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster n1=http://127.0.0.1:2380 --unsafe-no-fsync
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$IP" \
  --service-cluster-ip-range=10.96.0.0/16,fd00:96::/112 --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
  --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --kubelet-preferred-address-types=InternalIP \
  --feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true --runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true
start containerd containerd -c "$RUN/containerd.toml"
# The controller manager exits at once unless the RBAC bootstrap roles exist, so wait for readyz.
until kubectl --kubeconfig="$PKI/admin.kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep .2; done
start kcm kube-controller-manager --kubeconfig="$PKI/kcm.kubeconfig" --authentication-kubeconfig="$PKI/kcm.kubeconfig" --authorization-kubeconfig="$PKI/kcm.kubeconfig" \
  --node-monitor-grace-period=10m --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
  --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" --client-ca-file="$PKI/ca.crt"
start scheduler kube-scheduler --kubeconfig="$PKI/scheduler.kubeconfig" --authentication-kubeconfig="$PKI/scheduler.kubeconfig" --authorization-kubeconfig="$PKI/scheduler.kubeconfig" \
  --bind-address=127.0.0.1 --leader-elect=false
for _ in $(seq 100); do ctr -a "$RUN/containerd.sock" version >/dev/null 2>&1 && break; sleep .1; done
for t in "$RUN"/images/*.tar; do [ ! -e "$t" ] || ctr -a "$RUN/containerd.sock" -n k8s.io images import "$t" >> "$RUN/log/import.log" 2>&1; done
start kubelet kubelet --config="$RUN/kubelet.yaml" --kubeconfig="$PKI/node1.kubeconfig" --hostname-override=node1 --node-ip="$IP,$IP6" --root-dir="$RUN/kubelet" --cert-dir="$RUN/kubelet-pki" --v=2
start proxy kube-proxy --kubeconfig="$PKI/proxy.kubeconfig" --proxy-mode=nftables --hostname-override=node1 --cluster-cidr=10.244.0.0/24,fd00:244::/64 --bind-address="$IP" --metrics-bind-address=127.0.0.1:10249 \
  --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s
start coredns coredns -conf "$RUN/Corefile"      # on $IP:53, which is kubelet.yaml's clusterDNS
touch "$RUN/started"
wait
