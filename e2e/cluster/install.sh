# shellcheck shell=bash
# From nothing to a cluster whose pods have a network, as README tells people to do it.

is_ready_node() {
  [ "$(kubectl get node "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
has_network() {
  [ "$(kubectl get node "$1" -o jsonpath='{.status.conditions[?(@.type=="NetworkUnavailable")].status}')" = False ]
}

# blocks_of NODE: the networks that the node's pods have their addresses from.
blocks_of() {
  kubectl get blockaffinities.projectcalico.org -o jsonpath="{range .items[?(@.spec.node==\"$1\")]}{.spec.cidr}{\"\n\"}{end}"
}
# An agent's system calls are filtered, because its own manifest says so.
is_filtered() { grep "^Seccomp:" "/proc/$(felix_of "$1")/status" | grep -qw 2; }
agents_ready() { kubectl -n "$namespace" rollout status daemonset/manx-node --timeout=20s; }
has_blocks() { [ "$(kubectl get blockaffinities.projectcalico.org -o name | wc -l)" -ge "$1" ]; }

if wanted install; then
  part "helm install"
  check "the image is imported into every node" cluster import "$image"
  check "a namespace" kubectl create namespace "$namespace"
  check "with its label" kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=privileged
  for node in "${nodes[@]}"; do
    check "$node has no network before" not is_ready_node "$node"
  done
  check "helm install" helm install manx "$root/charts/manx" --namespace "$namespace" --wait --timeout 10m
  for node in "${nodes[@]}"; do
    check "$node is ready" within 180 is_ready_node "$node"
    check "and says that its network is there" within 60 has_network "$node"
    check "its agent's system calls are filtered" is_filtered "$node"
  done
  check "the controller made the pools" kubectl get ippools.projectcalico.org default-ipv4-ippool default-ipv6-ippool
  check "every node has a block of each family" within 60 has_blocks $((2 * ${#nodes[@]}))
  # The API server is no node, and asks pods all the same: somebody has to tell it the way to them.
  check "the world outside learns the way to pods" cluster routes
  check "cluster DNS comes up as pods" kubectl apply -f "$here/kube/manifests/coredns.yaml"
  check "and is available" kubectl -n kube-system rollout status deployment/coredns --timeout=240s
  check "helm test" helm test manx --namespace "$namespace" --timeout 10m
  says "manx status by kubectl exec" "pool" manx status
  check "and is content" manx status --wait=240
fi
