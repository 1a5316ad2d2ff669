#!/usr/bin/env bash
# certs.sh: the cluster's CA, serving and client certificates and kubeconfigs, in $PKI.
set -euo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$PKI"; cd "$PKI"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }
key ca; openssl req -x509 -new -key ca.key -subj /CN=kube-ca -days 3650 -out ca.crt
openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
sign() { # NAME SUBJECT EXTENSIONS
  key "$1"; openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile <(printf "$3") -out "$1.crt" 2>/dev/null
}
sign apiserver /CN=kube-apiserver "extendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,IP:$IP,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
client="extendedKeyUsage=clientAuth\n"
sign admin /O=system:masters/CN=admin "$client"
sign kubelet-client /O=system:masters/CN=apiserver-kubelet-client "$client"
sign kcm /CN=system:kube-controller-manager "$client"
sign scheduler /CN=system:kube-scheduler "$client"
sign proxy /CN=system:kube-proxy "$client"
sign node1 /O=system:nodes/CN=system:node:node1 "$client"
for u in admin kcm scheduler proxy node1; do cat > $u.kubeconfig <<K
apiVersion: v1
kind: Config
clusters: [{name: k, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $PKI/ca.crt}}]
users: [{name: u, user: {client-certificate: $PKI/$u.crt, client-key: $PKI/$u.key}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
current-context: c
K
done
