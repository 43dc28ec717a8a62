# shellcheck shell=bash
# Services in front of pods: from pods, from nodes and from outside; ports of the node; policy on what a node forwards.

services_manifest() {
  cat <<'YAML'
apiVersion: v1
kind: Service
metadata: { name: web, namespace: pods }
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: { tier: web }
  ports: [{ port: 80, targetPort: web, nodePort: 30080 }]
---
apiVersion: v1
kind: Pod
metadata: { name: on-port, namespace: pods, labels: { app: on-port } }
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{ name: c, image: "manx.test/agnhost:1", imagePullPolicy: Never, args: [netexec, --http-port=8080],
    ports: [{ name: web, containerPort: 8080, hostPort: 18080 }, { name: here, containerPort: 8080, hostPort: 18081, hostIP: 127.0.0.1 }],
    readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1, timeoutSeconds: 3 } }]
YAML
}
only_from_outside() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: on-port, namespace: pods }
spec:
  podSelector: { matchLabels: { app: on-port } }
  ingress: [{ from: [{ ipBlock: { cidr: 10.91.0.254/32 } }, { ipBlock: { cidr: "fd91::fe/128" } }] }]
YAML
}
only_from_one() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: only-one, namespace: pods }
spec:
  podSelector: { matchLabels: { tier: web } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: one } } }] }]
YAML
}
fetch() { curl -gsS -o /dev/null --max-time "${patience:-20}" "http://$1"; }
from_pod() { kubectl -n pods exec "$1" -- curl -gsS -o /dev/null --max-time "${patience:-20}" "http://$2"; }
from_node() { cluster node-exec "$1" -- /usr/bin/curl -gsS -o /dev/null --max-time "${patience:-20}" "http://$2"; }
# Several replies, so that both replicas were asked.
each_time() { local n; for n in 1 2 3 4 5 6; do "$@" || return 1; done; }

# The same of each of kube-proxy's modes that it recommends: their rules see our packets at different places.
services_in() {
  part "Services and ports of nodes, kube-proxy in mode $1"
  check "kube-proxy starts in that mode" cluster proxy "$1"
  check "a namespace" kubectl create namespace pods
  {
    server one node1
    server two node2 | sed 's/labels: { /labels: { tier: web, /'
    server three node1 | sed 's/labels: { /labels: { tier: web, /'
    echo ---
    services_manifest
  } >"$work/services.yaml"
  check "a Service of two pods" kubectl apply -f "$work/services.yaml"
  check "its pods become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  for family in 0 1; do
    address="$(kubectl -n pods get service web -o "jsonpath={.spec.clusterIPs[$family]}")"
    case "$address" in *:*) address="[$address]" ;; esac
    check "a pod reaches the Service at $address" within 60 each_time from_pod one "$address:80"
    check "a pod of the Service reaches itself through it" within 60 each_time from_pod two "$address:80"
    check "a node reaches it" within 60 each_time from_node node2 "$address:80"
  done
  for address in 10.91.0.11 10.91.0.12 '[fd91::11]' '[fd91::12]'; do
    check "the world outside reaches it at $address, port 30080" within 60 each_time fetch "$address:30080"
  done
  for address in 10.91.0.11 '[fd91::11]'; do
    check "a port of a node leads to its pod from outside, at $address" within 60 fetch "$address:18080"
    check "from the node" from_node node1 "$address:18080"
    check "from another node" from_node node2 "$address:18080"
    check "from a pod of the node" from_pod one "$address:18080"
    check "from a pod of another node" from_pod two "$address:18080"
    check "from the pod itself" from_pod on-port "$address:18080"
  done
  check "at the node's loopback address" from_node node1 127.0.0.1:18080
  check "a port of the loopback address too" from_node node1 127.0.0.1:18081
  check "which is at no other" denied fetch 10.91.0.11:18081
  check "no other node has them" denied fetch 10.91.0.12:18080
  # Policy has to see the address of the world outside, and no address of a node.
  only_from_outside >"$work/on-port.yaml"
  check "a policy that lets in the world outside by its address" kubectl apply -f "$work/on-port.yaml"
  check "closes the port for pods" within 60 denied from_pod one 10.91.0.11:18080
  check "and not for the world outside" each_time fetch 10.91.0.11:18080
  check "in either family" each_time fetch '[fd91::11]:18080'
  check "the pod goes" kubectl -n pods delete pod on-port --wait --timeout=240s
  check "and its port with it" within 60 denied fetch 10.91.0.11:18080
  only_from_one >"$work/only-one.yaml"
  check "a policy that lets in one pod" kubectl apply -f "$work/only-one.yaml"
  address="$(kubectl -n pods get service web -o 'jsonpath={.spec.clusterIP}')"
  check "closes it for the world outside, though a node forwards" within 60 denied fetch 10.91.0.11:30080
  check "on the other node too" denied fetch 10.91.0.12:30080
  check "and not for that pod" each_time from_pod one "$address:80"
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
}

if wanted services; then
  # The last one stays.
  for mode in iptables nftables; do services_in "$mode"; done
fi
