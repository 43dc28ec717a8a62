# shellcheck shell=bash
# The end of a release: pods are spared unless somebody says otherwise, and nothing of ours stays on any node.

# Everything of ours that is on a node, by its own shell. Its folder for state is a mount of the bed's own, which stays, empty.
left_on() {
  # shellcheck disable=SC2016
  cluster node-exec "$1" -- /bin/bash -c '
    nft list tables | grep -w "inet manx"
    for variant in legacy nft; do iptables-$variant-save; ip6tables-$variant-save; done 2>/dev/null | grep cali-
    ipset list -name | grep ^cali
    ip -o link | grep ": cali"
    for family in -4 -6; do ip "$family" route show proto 80; done
    find /run/manx /opt/cni/bin/manx* /opt/cni/bin/calico* /opt/cni/bin/loopback 2>/dev/null
    find /etc/cni/net.d /var/lib/manx -mindepth 1 2>/dev/null
    true'
}
has_all() {
  local left word
  left="$(left_on "$1")"
  for word in "inet manx" /run/manx/cni.sock /opt/cni/bin/manx /etc/cni/net.d/10-calico.conflist /var/lib/manx/attachments; do
    grep -qF "$word" <<<"$left" || { echo "without $word: $left"; return 1; }
  done
}
has_release() { helm status manx --namespace "$namespace"; }
has_nothing() {
  local left
  left="$(left_on "$1")"
  echo "$left"
  [ -z "$left" ]
}
# What the node's own object says of us.
says_nothing() {
  local said
  said="$(kubectl get node "$1" -o jsonpath='{.status.conditions[?(@.type=="NetworkUnavailable")].reason} {.metadata.annotations}')"
  echo "$said"
  ! grep -qE 'Manx|projectcalico.org/(IPv[46]Address|manx)' <<<"$said"
}
pods_with_network() {
  kubectl get pods -A -o jsonpath='{range .items[?(@.spec.hostNetwork!=true)]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}' | grep .
}
order_stands() {
  local now
  now="$(kubectl get clusterinformations.projectcalico.org default -o 'jsonpath={.metadata.annotations.projectcalico\.org/manx-uninstall}')"
  echo "the order is: $now"
  [ "$now" = "$1" ]
}
uninstall() { helm uninstall manx --namespace "$namespace" --wait --timeout 5m; }
install_again() { helm install manx "$root/charts/manx" --namespace "$namespace" --wait --timeout 10m; }
nothing_of_the_release() {
  local left
  left="$(kubectl -n "$namespace" get daemonsets,deployments,jobs,pods,serviceaccounts -o name | grep manx)"
  echo "$left"
  [ -z "$left" ]
}

if wanted uninstall; then
  part "uninstall"
  for node in "${nodes[@]}"; do check "what is looked for is on $node now" has_all "$node"; done
  check "a pod that has its network from us" kubectl create namespace pods
  server one node1 >"$work/one.yaml"
  check "is asked for" kubectl apply -f "$work/one.yaml"
  check "and runs" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  # That of an earlier uninstall of this cluster, if there was one.
  before="$(order_stands x | sed 's/^the order is: //')"
  says "helm uninstall refuses while it runs, and names it" "pods/one" uninstall
  check "nobody was told anything" order_stands "$before"
  check "the agents are ready" kubectl -n "$namespace" rollout status daemonset/manx-node --timeout=20s
  server two node2 >"$work/two.yaml"
  check "and pods still come up" kubectl apply -f "$work/two.yaml"
  check "with a network" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  check "which works" asks one "$(address_of_pod two)"
  check "all pods go" kubectl delete namespace pods --wait --timeout=240s
  check "those of cluster DNS too" kubectl delete -f "$here/kube/manifests/coredns.yaml" --wait --timeout=240s
  check "no pod is left on our network" within 180 not pods_with_network
  check "helm uninstall" uninstall
  for node in "${nodes[@]}"; do
    check "nothing of ours is left on $node" has_nothing "$node"
    check "nor on its object" says_nothing "$node"
    check "which says that it is not ready" within 180 not is_ready_node "$node"
  done
  check "nothing of the release is left" within 180 nothing_of_the_release
  check "definitions and pools stay" kubectl get ippools.projectcalico.org default-ipv4-ippool default-ipv6-ippool

  part "install again, over what an uninstall left"
  check "helm install" install_again
  for node in "${nodes[@]}"; do check "$node is ready" within 180 is_ready_node "$node"; done
  check "two pods" kubectl create namespace pods
  check "are asked for" kubectl apply -f "$work/one.yaml" -f "$work/two.yaml"
  check "and run" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  check "and reach each other" within 60 asks one "$(address_of_pod two)"
  check "address management is sound" within 180 manx ipam check

  part "uninstall that cuts pods off"
  one_pid="$(pid_in one)"
  check "a pod has an interface" enter "$one_pid" ip link show eth0
  check "it is allowed to cut it" kubectl annotate clusterinformations.projectcalico.org default \
    projectcalico.org/manx-uninstall-force=true
  check "helm uninstall" uninstall
  for node in "${nodes[@]}"; do
    check "nothing of ours is left on $node" has_nothing "$node"
    check "nor on its object" says_nothing "$node"
  done
  check "the pod still runs" test -d "/proc/$one_pid"
  check "and is cut off, not open" not nsenter -t "$one_pid" -n ip link show eth0
  check "helm install over it" install_again
  check "what was cut off can go" kubectl delete namespace pods --wait --timeout=240s
  check "address management is sound" within 180 manx ipam check
fi
