# shellcheck shell=bash
# The way out and the way between: a host that knows no way to pods, and pods that go over to a tunnel and back.

far=manx-outside
far_addresses=(10.91.0.200 fd91::200)
pools4=default-ipv4-ippool
pools6=default-ipv6-ippool

# A host on the nodes' network that has no route but that network's own.
far_up() {
  ip netns add "$far" && ip netns exec "$far" ip link set lo up || return 1
  ip -n "$far" link add eth0 type veth peer name outside0 netns manx-control || return 1
  ip -n manx-control link set outside0 master switch up || return 1
  ip -n "$far" addr add "${far_addresses[0]}/24" dev eth0 || return 1
  ip -n "$far" addr add "${far_addresses[1]}/64" dev eth0 nodad || return 1
  ip -n "$far" link set eth0 up
}
far_down() { ip netns del "$far"; }
# Answers every connection with the address that it comes from.
mirror='use IO::Socket::IP; $|=1; my $s=IO::Socket::IP->new(LocalHost=>"::",LocalPort=>$ARGV[0],V6Only=>0,Listen=>16,ReuseAddr=>1) or die "listen: $@"; print "ready\n";
while(my $c=$s->accept){ my $from=$c->peerhost; $from=~s/^::ffff://; 1 while defined($_=<$c>) && /\S/; print $c "HTTP/1.0 200 OK\r\nContent-Length: ".length($from)."\r\n\r\n$from"; close $c }'
# seen_from POD ADDRESS: the address by which the host outside sees the pod.
seen_from() { kubectl -n pods exec "$1" -- curl -gsS --max-time "${patience:-20}" "http://$2:8080/"; }
is_seen_as() { local seen; seen="$(seen_from "$1" "$2")" && echo "seen as $seen" && [ "$seen" = "$3" ]; }

# pool NAME PATCH: changes a pool's specification.
pool() { kubectl patch ippools.projectcalico.org "$1" --type=merge -p "{\"spec\":$2}"; }
range_of() { kubectl get ippools.projectcalico.org "$1" -o jsonpath='{.spec.cidr}'; }

# Counts on the nodes' network what is wrapped, and what goes between two pods as it is.
count_on_the_switch() {
  ip netns exec manx-control nft -f - <<NFT
table bridge counted {
  counter wrapped { }
  counter clear { }
  chain forward {
    type filter hook forward priority 0;
    udp dport 4789 counter name wrapped
    ip saddr $1 ip daddr $1 counter name clear
    ip6 saddr $2 ip6 daddr $2 counter name clear
  }
}
NFT
}
counted() { ip netns exec manx-control nft list counter bridge counted "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }
count_anew() { ip netns exec manx-control nft reset counters table bridge counted >/dev/null; }
only_wrapped() {
  local wrapped clear
  wrapped="$(counted wrapped)" && clear="$(counted clear)" || return 1
  echo "$wrapped packets wrapped, $clear as they are"
  [ "$wrapped" -gt 0 ] && [ "$clear" = 0 ]
}
# through DEVICE: every node's routes to the others' blocks lead into the device of each family, or, with "plain", into none.
through() {
  local node routes
  for node in "${nodes[@]}"; do
    routes="$(cluster node-exec "$node" -- /sbin/ip route show proto 80; cluster node-exec "$node" -- /sbin/ip -6 route show proto 80)"
    printf '%s\n' "$node" "$routes"
    if [ "$1" = plain ]; then
      grep -q ' dev eth0' <<<"$routes" && ! grep -q 'vxlan' <<<"$routes" || return 1
    else
      grep -q ' dev vxlan.calico' <<<"$routes" && grep -q ' dev vxlan-v6.calico' <<<"$routes" && ! grep -q ' dev eth0' <<<"$routes" || return 1
    fi
  done
}
# both_ways: two pods of different nodes reach each other in both families, and each sees the other's own address.
both_ways() {
  local family
  for family in 0 1; do
    asks one "$(address_of_pod two pods "$family")" || return 1
    asks two "$(address_of_pod one pods "$family")" || return 1
  done
}
no_tunnels() {
  local node
  for node in "${nodes[@]}"; do
    if cluster node-exec "$node" -- /sbin/ip link show type vxlan | grep .; then return 1; fi
  done
}

pods_up() {
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; server three node1; echo ---; allow_one; } >"$work/outside.yaml"
  check "pods and a policy" kubectl apply -f "$work/outside.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
}

if wanted outside; then
  part "the way out"
  pods_up
  check "a host that knows no way to pods" far_up
  (exec ip netns exec "$far" perl -e "$mirror" 8080) >"$work/mirror" 2>&1 &
  mirror_pid=$!
  background+=("$mirror_pid")
  check "answers" within 60 grep -q ready "$work/mirror"
  check "the IPv4 pool says natOutgoing" [ "$(kubectl get ippools.projectcalico.org "$pools4" -o jsonpath='{.spec.natOutgoing}')" = true ]
  check "a pod of node1 reaches it, by its node's address" within 60 is_seen_as one "${far_addresses[0]}" 10.91.0.11
  check "one of node2 too" within 60 is_seen_as two "${far_addresses[0]}" 10.91.0.12
  check "the IPv6 pool says it from now on" pool "$pools6" '{"natOutgoing":true}'
  check "and its pods reach it too" within 60 is_seen_as one "[${far_addresses[1]}]" fd91::11
  check "it is taken back" pool "$pools6" '{"natOutgoing":false}'
  check "and no answer finds the way" within 60 denied seen_from one "[${far_addresses[1]}]"
  check "between pods nothing changes sides: one may" within 60 asks one "$(address_of_pod two)"
  check "and another may not" denied asks three "$(address_of_pod two)"
  kill "$mirror_pid" 2>/dev/null
  wait "$mirror_pid" 2>/dev/null
  check "the host goes" far_down
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi

if wanted vxlan; then
  part "pods that go over to VXLAN and back"
  pods_up
  check "plain routes" within 60 through plain
  check "somebody counts on the nodes' network" count_on_the_switch "$(range_of "$pools4")" "$(range_of "$pools6")"
  check "pods reach each other" within 60 both_ways
  one_pid="$(pid_in one)"
  two_pid="$(pid_in two)"
  check "one may speak to all of two for a while" kubectl -n pods delete networkpolicy allow
  (enter "$two_pid" perl -e "$listen" 6000) >"$work/carried" 2>&1 & background+=($!)
  check "a stream's server stands" within 60 grep -q ready "$work/carried"
  (enter "$one_pid" perl -e "$talk" "$(address_of_pod two)" 6000) & background+=($!)
  check "the stream flows" grows "$work/carried"
  for name in "$pools4" "$pools6"; do
    check "$name goes over to VXLAN" pool "$name" '{"vxlanMode":"Always"}'
  done
  check "every route leads into the tunnel" within 120 through vxlan
  check "the stream goes on" grows "$work/carried"
  check "the agents are well" within 120 agents_ready
  count_anew
  check "pods reach each other" within 60 both_ways
  check "nothing goes as it is" only_wrapped
  check "policy judges the pod's own address: one may" kubectl apply -f "$work/outside.yaml"
  check "and reaches it" within 60 asks one "$(address_of_pod two)"
  check "another may not" within 60 denied asks three "$(address_of_pod two)"
  check "a node reaches a pod of the other" kubectl -n pods delete networkpolicy allow
  check "through the tunnel" within 60 cluster node-exec node1 -- /usr/bin/curl -gsS -o /dev/null --max-time 20 "http://$(address_of_pod two):8080/hostname"
  check "address management is sound with the tunnels' addresses" within 180 manx ipam check
  if [ -n "${MANX_WHOLE:-}" ]; then
    specs vxlan --timeout 90m
  else
    # What a tunnel could break of each sort: ingress, egress, namespaces, ports, ranges, updates.
    specs vxlan --timeout 60m \
      --focus "should support a 'default-deny-ingress' policy" \
      --focus "should support a 'default-deny-all' policy" \
      --focus 'should enforce policy to allow traffic only from a different namespace' \
      --focus 'should enforce policy based on PodSelector or NamespaceSelector' \
      --focus 'should enforce policy based on Ports' \
      --focus 'should allow egress access on one named port' \
      --focus 'should enforce egress policy allowing traffic to a server in a different namespace' \
      --focus 'should enforce except clause while egress access to server in CIDR block' \
      --focus 'should enforce updated policy' \
      --focus 'should not allow access by TCP when a policy specifies only UDP'
  fi
  check "nothing went as it is meanwhile" only_wrapped
  check "the stream still flows" grows "$work/carried"
  for name in "$pools4" "$pools6"; do
    check "$name goes back to plain routes" pool "$name" '{"vxlanMode":"Never"}'
  done
  check "every route is plain" within 120 through plain
  check "the stream goes on" grows "$work/carried"
  if grep -q closed "$work/carried"; then fail "the stream was closed"; else pass; fi
  check "pods reach each other" within 60 both_ways
  check "the devices go when nobody sends into them any more" within 120 no_tunnels
  check "and their addresses are free again" within 180 manx ipam check
  check "nobody counts any more" ip netns exec manx-control nft delete table bridge counted
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
