# shellcheck shell=bash
# Pods have addresses of their node's own ranges (host-local) in place of pools' blocks: nodes reach these by the same ways.
# Policy is in iptables from the first moment on, and goes with the release.

# ranges_of NODE: the node's own ranges, of both families.
ranges_of() { kubectl get node "$1" -o 'jsonpath={.spec.podCIDRs[*]}' | tr ' ' '\n'; }
# is_within NODE POD FAMILY: the pod's address lies in the range that Kubernetes gave the node.
is_within() {
  ranges_of "$1" | python3 -c '
import ipaddress, sys
address = ipaddress.ip_address(sys.argv[1])
ranges = [ipaddress.ip_network(line.strip()) for line in sys.stdin]
print(address, "of", *ranges)
sys.exit(not any(address in range for range in ranges))' "$(address_of_pod "$2" pods "$3")"
}
# ranges_by DEVICE4 DEVICE6: every node reaches the ranges of the others by these, and by routes of felix's.
ranges_by() {
  local node other range route device family
  for node in "${nodes[@]}"; do
    for other in "${nodes[@]}"; do
      [ "$node" != "$other" ] || continue
      for range in $(ranges_of "$other"); do
        case "$range" in *:*) family=-6 device="$2" ;; *) family=-4 device="$1" ;; esac
        route="$(cluster node-exec "$node" -- /usr/sbin/ip "$family" route show exact "$range" proto 80)"
        echo "$node: $route"
        [[ "$route " = *" dev $device "* ]] || return 1
      done
    done
  done
}
# none_in_blocks NAMESPACE: no pod of it has its address from a block.
none_in_blocks() {
  local blocks
  blocks="$(kubectl get ipamblocks.projectcalico.org -o yaml)" || return 1
  ! grep -E "^ *namespace: $1\$" <<<"$blocks"
}

if wanted podcidr; then
  part "addresses of the nodes' own ranges"
  if has_release >/dev/null 2>&1; then check "an earlier network goes" uninstall; fi
  kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace" >/dev/null
  check "agents may have their privileges" kubectl label --overwrite namespace "$namespace" pod-security.kubernetes.io/enforce=privileged
  check "the image is on every node" cluster import "$image"
  check "helm install, with host-local" helm install manx "$root/charts/manx" --namespace "$namespace" --wait --timeout 10m \
    --set cni.ipam=host-local --set felix.rules=IptablesLegacy
  for node in "${nodes[@]}"; do check "policy of $node is in legacy iptables alone" within 60 holds_policy_in "$node" IptablesLegacy; done
  check "manx status is content" manx status --wait=240
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; server three node2; } >"$work/podcidr.yaml"
  check "pods on both nodes" kubectl apply -f "$work/podcidr.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  for family in 0 1; do
    check "the first has an address of its node" is_within node1 one "$family"
    check "and the second of its own" is_within node2 two "$family"
  done
  check "the nodes reach each other's ranges as they are" within 60 ranges_by eth0 eth0
  check "and the pods each other" within 60 answers_all
  two="$(address_of_pod two)"
  deny_all >"$work/deny.yaml"
  check "a policy that allows nobody" kubectl apply -f "$work/deny.yaml"
  check "closes the pod for another node" within 60 denied asks one "$two"
  check "and by its other family" denied asks one "$(address_of_pod two pods 1)"
  allow_one >"$work/allow.yaml"
  check "a policy that allows one" kubectl apply -f "$work/allow.yaml"
  check "opens it for that one" within 60 asks one "$two"
  check "and for nobody else" denied asks three "$two"
  check "policies go" kubectl -n pods delete networkpolicies --all
  check "the pools say VXLAN" pools_to Always
  check "and every range is behind the tunnel" within 180 ranges_by vxlan.calico vxlan-v6.calico
  check "the pods reach each other through it" within 60 answers_all
  check "a node reaches a pod of the other" within 60 from_node node1 "$two:8080"
  check "the pools say that nothing is wrapped" pools_to Never
  check "and nothing is" within 180 ranges_by eth0 eth0
  check "the pods reach each other" within 60 answers_all
  check "no block has an address of theirs" none_in_blocks pods
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
  check "helm uninstall" uninstall
  for node in "${nodes[@]}"; do check "nothing of ours is left on $node" within 60 has_nothing "$node"; done
fi
