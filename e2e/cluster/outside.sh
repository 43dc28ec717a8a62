# shellcheck shell=bash
# The way out: a server beside the nodes that has no route to any pod. Pods reach it with their node's address, as their
# pool says, and each other with their own.

# Where the server stands: on the nodes' switch, as a machine that nobody told where pods are.
server_space=manx-server
server_address=10.91.0.200
server_address6=fd91::c8

# Answers each that connects with the address that it sees, and notes it.
# shellcheck disable=SC2016
who='use IO::Socket::IP; $|=1; my $s=IO::Socket::IP->new(LocalHost=>"::",LocalPort=>$ARGV[0],Listen=>64,ReuseAddr=>1,V6Only=>0) or die "listen: $@"; print "ready\n";
while(1){ my $c=$s->accept or next; my $from=$c->peerhost; $from=~s/^::ffff://; while(<$c>){last if /^\r?$/} print $c "HTTP/1.0 200 OK\r\nContent-Length: ".length($from)."\r\n\r\n$from"; print "asked by $from\n"; close $c }'

server_up() {
  ip netns add "$server_space" &&
    ip -n "$server_space" link set lo up &&
    ip -n manx-control link add server type veth peer name eth0 netns "$server_space" &&
    ip -n manx-control link set server master switch up &&
    ip -n "$server_space" addr add "$server_address/24" dev eth0 &&
    ip -n "$server_space" addr add "$server_address6/64" dev eth0 nodad &&
    ip -n "$server_space" link set eth0 up
}
server_down() { ip netns del "$server_space"; }
knows_no_way() {
  ip netns exec "$server_space" ip route get "$1" >/dev/null 2>&1 && { echo "there is a way to $1"; return 1; }
  return 0
}
# seen_from POD ADDRESS: as whom somebody outside sees a pod; an address of IPv6 in brackets.
seen_from() { kubectl -n pods exec "$1" -- curl -gsS --max-time "${patience:-20}" "http://$2:9300/"; }
is_seen_as() {
  local seen
  seen="$(seen_from "$1" "$2")" || { echo "$seen"; return 1; }
  echo "seen as '$seen'"
  [ "$seen" = "$3" ]
}
# is_seen_by POD POD FAMILY: the second sees the first with its own address.
is_seen_by() {
  local own other seen
  own="$(address_of_pod "$1" pods "$3")"
  other="$(address_of_pod "$2" pods "$3")"
  case "$other" in *:*) own="[$own]" other="[$other]" ;; esac
  seen="$(kubectl -n pods exec "$1" -- curl -gsS --max-time "${patience:-20}" "http://$other:8080/clientip")" || return 1
  echo "seen as '$seen', and is $own"
  [ "${seen%:*}" = "$own" ]
}
# way_out POOL true|false: whether what leaves all pools takes the node's address.
way_out() { kubectl patch ippools.projectcalico.org "$1" --type merge --patch "{\"spec\":{\"natOutgoing\":$2}}"; }
way_out_of() { kubectl get ippools.projectcalico.org "$1" -o 'jsonpath={.spec.natOutgoing}'; }
no_way_out() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: stay-inside, namespace: pods }
spec:
  podSelector: { matchLabels: { app: one } }
  policyTypes: [Egress]
  egress: [{ to: [{ podSelector: {} }] }]
YAML
}

if wanted outside; then
  part "the way out"
  check "a server on the nodes' network" server_up
  (ip netns exec "$server_space" perl -e "$who" 9300) >"$work/server" 2>&1 & background+=($!)
  check "listens" within 60 grep -q ready "$work/server"
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; } >"$work/outside.yaml"
  check "a pod on each node" kubectl apply -f "$work/outside.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  for pod in one two; do
    check "the server knows no way to $pod" knows_no_way "$(address_of_pod "$pod")"
    check "in either family" knows_no_way "$(address_of_pod "$pod" pods 1)"
  done
  # As the chart makes them; what is there is put back in the end.
  before="$(way_out_of default-ipv4-ippool)"
  before6="$(way_out_of default-ipv6-ippool)"
  check "the IPv4 pool lets its pods out with their nodes' address" [ "$before" = true ]
  check "the server sees node1 in place of its pod" within 60 is_seen_as one "$server_address" 10.91.0.11
  check "and node2 in place of its own" within 60 is_seen_as two "$server_address" 10.91.0.12
  check "pods see each other's own address" within 60 is_seen_by one two 0
  check "both ways" within 60 is_seen_by two one 0
  no_way_out >"$work/inside.yaml"
  check "a policy that lets a pod speak to pods only" kubectl apply -f "$work/inside.yaml"
  check "keeps it from the server" within 60 denied seen_from one "$server_address"
  check "and not from pods" within 60 is_seen_by one two 0
  check "and nobody else" is_seen_as two "$server_address" 10.91.0.12
  check "it goes" kubectl delete -f "$work/inside.yaml"
  check "the server is reached again" within 60 is_seen_as one "$server_address" 10.91.0.11

  check "the pool keeps its pods' addresses" way_out default-ipv4-ippool false
  check "so that no answer comes back" within 60 denied seen_from one "$server_address"
  check "from either node" within 60 denied seen_from two "$server_address"
  check "and pods go on" is_seen_by one two 0
  check "the pool is as before" way_out default-ipv4-ippool true
  check "and so is the way out" within 60 is_seen_as one "$server_address" 10.91.0.11

  check "the IPv6 pool lets its pods out as well" way_out default-ipv6-ippool true
  check "with node1's address" within 60 is_seen_as one "[$server_address6]" fd91::11
  check "and node2's" within 60 is_seen_as two "[$server_address6]" fd91::12
  check "pods see each other's own address" within 60 is_seen_by one two 1
  check "it is as before" way_out default-ipv6-ippool "${before6:-false}"
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
  check "the server too" server_down
fi
