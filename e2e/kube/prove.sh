#!/usr/bin/env bash
# Proves the cluster itself, with the CNI project's plugins as its network: what a suite blames on Manx is not the bed's.
#
#   ./e2e/kube/prove.sh       ends with "N passed, N failed, N skipped"; the code is 1 where any failed
#
# Environment: as for cluster.sh
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
export MANX_CLUSTER="${MANX_CLUSTER:-/var/lib/manx-cluster}" PATH="$PATH:/usr/sbin:/sbin"
work="$(mktemp -d /tmp/manx-cluster-proof.XXXXXX)"
# shellcheck source=../checks.sh
. "$here/../checks.sh"
cluster() { "$here/cluster.sh" "$@"; }
kubectl() { cluster kubectl "$@"; }
trap 'cluster down; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# What of the machine a cluster must leave as it was.
machine() {
  ip -o link show | sed 's/^[0-9]*: //'
  ip netns list
  ip route show table all
  ip -6 route show table all | grep -v expires
  nft list ruleset 2>/dev/null
  cut -d' ' -f2,3 /proc/mounts
  sysctl vm.overcommit_memory kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  find /sys/fs/cgroup -maxdepth 2 -name 'manx-*'
  ls -d /etc/cni /etc/kubernetes /opt/cni /var/lib/{calico,cni,containerd,kubelet,manx} /var/log/{containers,manx,pods} "$MANX_CLUSTER" 2>/dev/null
  grep -lz '^MANX_CLUSTER_PART=' /proc/[0-9]*/environ 2>/dev/null
}

# A pod of agnhost on a node, answering on port 8080.
pod() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: { name: on-$1, labels: { app: proof } }
spec:
  nodeName: $1
  terminationGracePeriodSeconds: 1
  containers: [{ name: c, image: "manx.test/agnhost:1", args: [netexec, --http-port=8080], ports: [{ containerPort: 8080 }],
    readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 } }]
---
YAML
}
service() {
  cat <<'YAML'
apiVersion: v1
kind: Service
metadata: { name: proof }
spec: { type: NodePort, ipFamilyPolicy: RequireDualStack, selector: { app: proof }, ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }] }
YAML
}
are_ready() { kubectl wait --for=condition=Ready pods -l app=proof --timeout=240s; }
address() { kubectl get pod "$1" -o jsonpath="{.status.podIPs[$2].ip}"; }
asks() { kubectl exec "$1" -- curl -gsS --max-time 20 "http://$2/hostname"; }
answers() { curl -gsS --max-time 20 "http://$1/hostname"; }
name_resolves() { kubectl exec on-node1 -- getent hosts proof.default.svc.cluster.local; }
dns_is_ready() { kubectl -n kube-system rollout status deployment coredns --timeout=240s; }

cluster down
machine >"$work/before"
check "the cluster comes up" cluster up 2 --reference-network
check "every part runs" cluster status
check "every node is ready" kubectl wait --for=condition=Ready nodes --all --timeout=240s
check "a second one is refused" not cluster up
{ pod node1; pod node2; service; } >"$work/pods.yaml"
within 60 kubectl get serviceaccount default >/dev/null 2>&1
check "pods are made" kubectl apply -f "$work/pods.yaml"
check "pods run" are_ready
check "logs are read" kubectl logs on-node1
for family in 0 1; do
  host="$(address on-node2 "$family")"
  case "$host" in *:*) host="[$host]" ;; esac
  check "a pod reaches another node's at $host" asks on-node1 "$host:8080"
  check "this machine reaches it" answers "$host:8080"
  host="$(kubectl get service proof -o jsonpath="{.spec.clusterIPs[$family]}")"
  case "$host" in *:*) host="[$host]" ;; esac
  check "a pod reaches the Service at $host" within 60 asks on-node2 "$host:80"
done
check "a node's port answers from outside" within 60 answers 10.91.0.12:30080
check "and in the other family" within 60 answers '[fd91::12]:30080'
check "DNS is made" kubectl apply -f "$here/manifests/coredns.yaml"
check "DNS runs" dns_is_ready
check "a name resolves" within 60 name_resolves
check "a node sees its own folder only" cluster node-exec node1 -- touch /var/lib/manx/of-node1
check "and no other node does" not cluster node-exec node2 -- test -e /var/lib/manx/of-node1
check "nor does the machine" not test -e /var/lib/manx/of-node1
for part in etcd apiserver controller-manager scheduler node1.containerd node1.kubelet node1.kube-proxy; do
  check "$part is killed" cluster kill "$part"
  check "that is told" not cluster status
  check "$part is started" cluster start "$part"
done
check "every part runs again" cluster status
check "pods are still ready" within 180 are_ready
check "a node is rebooted" cluster reboot node2
check "its pods come back" within 180 asks on-node2 10.91.0.12:30080
check "its disk stayed" cluster node-exec node2 -- test -d /var/lib/kubelet/pods
check "a node is added" cluster add node3
check "and removed" cluster remove node3
check "an image is imported" cluster import "$("$here/images.sh")/pause.tar"
check "the cluster goes" cluster down
machine >"$work/after"
check "and leaves nothing" diff "$work/before" "$work/after"
check "a second time too" cluster down
timeout -s KILL 8 "$here/cluster.sh" up 2 >/dev/null 2>&1
check "a cluster that was killed half made goes" cluster down
machine >"$work/after"
check "and leaves nothing" diff "$work/before" "$work/after"
close
