# shellcheck shell=bash
# Ways to the pods: for the control plane and for this machine as a client outside the cluster, and, as an option, a whole
# network for the pods out of the CNI project's plugins.
#
# A network makes its nodes know where pods are, and nobody else. An API server that is to reach pods (proxying, webhooks)
# has to be told, as in a cluster whose control plane is not a node.

# Our mark on the routes that are made here, so that they can be replaced as a whole.
route_protocol=91

# Lines "NODE RANGE": the blocks of nodes where the network keeps any, or what the cluster gave to each node.
ranges_of_nodes() {
  local blocks node range
  blocks="$(kubectl get blockaffinities.projectcalico.org \
    -o jsonpath='{range .items[*]}{.spec.node}{" "}{.spec.cidr}{"\n"}{end}' 2>/dev/null || true)"
  if [ -n "$blocks" ]; then echo "$blocks"; return; fi
  for node in $(nodes); do
    for range in $(kubectl get node "$node" -o jsonpath='{.spec.podCIDRs[*]}'); do echo "$node $range"; done
  done
}

# The address of a node in the family of a range.
way_to() {
  case "$2" in
    *:*) address6_of "$1" ;;
    *) address_of "$1" ;;
  esac
}

learn_routes() {
  local node range where family
  for where in "-n $control" ""; do
    # shellcheck disable=SC2086
    for family in -4 -6; do ip $where $family route flush proto "$route_protocol" 2>/dev/null || true; done
  done
  ranges_of_nodes | while read -r node range; do
    for where in "-n $control" ""; do
      # shellcheck disable=SC2086
      ip $where route replace "$range" via "$(way_to "$node" "$range")" proto "$route_protocol"
    done
  done
}

# The bridge of one node: a range of each family, as the cluster gave them.
reference_configuration() {
  local range ranges=""
  for range in $(kubectl get node "$1" -o jsonpath='{.spec.podCIDRs[*]}'); do
    ranges+="${ranges:+,}[{ \"subnet\": \"$range\" }]"
  done
  cat <<JSON
{ "cniVersion": "0.4.0", "name": "reference", "plugins": [
  { "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {
    "type": "host-local", "ranges": [$ranges], "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true } }
] }
JSON
}

install_reference_network() {
  local node range other
  install_missing /usr/lib/cni/bridge:containernetworking-plugins
  for node in $(nodes); do
    cp /usr/lib/cni/{bridge,host-local,loopback,portmap} "$(folder_of "$node")/own/opt/cni/bin/"
    # Answers of a Service between two pods of one bridge must pass where their addresses were changed.
    in_node "$node" /usr/sbin/sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1 2>/dev/null || true
  done
  ranges_of_nodes | while read -r node range; do
    for other in $(nodes); do
      [ "$other" = "$node" ] || ip -n "$(space_of "$other")" route add "$range" via "$(way_to "$node" "$range")"
    done
  done
  learn_routes
  for node in $(nodes); do
    reference_configuration "$node" >"$(folder_of "$node")/own/etc/cni/net.d/10-reference.conflist"
  done
  kubectl wait --for=condition=Ready nodes --all --timeout=60s >/dev/null
}
