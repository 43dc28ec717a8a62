# shellcheck shell=bash
# The pools of the running cluster change to VXLAN and back: pods talk before, meanwhile and afterwards, nothing between
# pods is in clear while they say VXLAN, and Kubernetes' own specs find the same policies in force.

# shellcheck source=../tunnelled.sh
. "$here/tunnelled.sh"

# A server that gives 8 MiB to each that connects, and who takes them.
# shellcheck disable=SC2016
give='use IO::Socket::INET; $|=1; my $s=IO::Socket::INET->new(LocalPort=>$ARGV[0],Listen=>8,ReuseAddr=>1) or die "listen: $!"; print "ready\n"; while(1){ my $c=$s->accept or next; print $c "x" x 65536 for 1..128; close $c }'
# shellcheck disable=SC2016
take='use IO::Socket::INET; my $c=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>$ARGV[1],Timeout=>20) or die "connect: $!"; my $n=0; $SIG{ALRM}=sub{die "only $n bytes\n"}; alarm 60; while(my $got=sysread($c,my $d,65536)){$n+=$got} print "$n bytes\n"; exit($n!=8388608)'
# takes_much POD ADDRESS: large packets pass as well as small ones.
takes_much() { (enter "$(pid_in "$1")" perl -e "$take" "$2" 6100); }

pool_range() { kubectl get ippools.projectcalico.org "$1" -o 'jsonpath={.spec.cidr}'; }
# pools_to MODE: how the packets of both families' pools go.
pools_to() {
  local pool
  for pool in default-ipv4-ippool default-ipv6-ippool; do
    kubectl patch ippools.projectcalico.org "$pool" --type merge --patch "{\"spec\":{\"vxlanMode\":\"$1\"}}" || return 1
  done
}
# all_routes_by DEVICE4 DEVICE6: every node reaches every block of the others by these.
all_routes_by() {
  local node other range route device family
  for node in "${nodes[@]}"; do
    for other in "${nodes[@]}"; do
      [ "$node" != "$other" ] || continue
      for range in $(blocks_of "$other"); do
        case "$range" in *:*) family=-6 device="$2" ;; *) family=-4 device="$1" ;; esac
        # Without its family iproute2 looks among the routes of IPv4 only.
        route="$(cluster node-exec "$node" -- /usr/sbin/ip "$family" route show exact "$range")"
        echo "$node: $route"
        [[ "$route " = *" dev $device "* ]] || return 1
      done
    done
  done
}
has_tunnel() { cluster node-exec "$1" -- /usr/sbin/ip -d link show vxlan.calico | grep -q 'vxlan id 4096 .*dstport 4789'; }
is_uncut() { ! grep -q closed "$work/vxlan-stream"; }
# answers_all: each pod is answered by the other, in both families.
answers_all() {
  local family
  for family in 0 1; do
    asks one "$(address_of_pod two pods "$family")" && asks two "$(address_of_pod one pods "$family")" || return 1
  done
}

if wanted vxlan; then
  part "pools that change to VXLAN and back"
  wire=manx-control
  wrapped_range="$(pool_range default-ipv4-ippool)"
  wrapped_range6="$(pool_range default-ipv6-ippool)"
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; } >"$work/vxlan.yaml"
  check "a pod on each node" kubectl apply -f "$work/vxlan.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  check "the nodes reach each other's blocks as they are" within 60 all_routes_by eth0 eth0
  check "and the pods each other" within 60 answers_all
  two="$(address_of_pod two)"
  (enter "$(pid_in two)" perl -e "$listen" 6000) >"$work/vxlan-stream" 2>&1 & background+=($!)
  (enter "$(pid_in two)" perl -e "$give" 6100) >"$work/vxlan-give" 2>&1 & background+=($!)
  for server in stream give; do check "a server stands: $server" within 60 grep -q ready "$work/vxlan-$server"; done
  (enter "$(pid_in one)" perl -e "$talk" "$two" 6000) & background+=($!)
  check "a stream flows" grows "$work/vxlan-stream"
  check "much is taken at once" takes_much one "$two"

  check "the pools say VXLAN" pools_to Always
  for node in "${nodes[@]}"; do check "$node has the tunnel" within 180 has_tunnel "$node"; done
  check "and every block is behind it" within 180 all_routes_by vxlan.calico vxlan-v6.calico
  check "the stream goes on" grows "$work/vxlan-stream"
  check "somebody counts on the wire" count_on_the_wire
  check "the pods reach each other" within 60 answers_all
  check "a node reaches a pod of the other through the tunnel" within 60 from_node node1 "$two:8080"
  check "in either family" within 60 from_node node1 "[$(address_of_pod two pods 1)]:8080"
  check "the stream goes on" grows "$work/vxlan-stream"
  check "much is taken at once by a pod that is older than the tunnel" within 180 takes_much one "$two"
  server three node1 >"$work/three.yaml"
  check "a new pod" kubectl apply -f "$work/three.yaml"
  check "becomes ready" kubectl -n pods wait --for=condition=Ready pod/three --timeout=240s
  check "and takes much as well" within 180 takes_much three "$two"
  check "the pods' packets of IPv4 are wrapped, and none is in clear" wrapped_only vxlan
  check "and those of IPv6" wrapped_only vxlan6
  specs vxlan --timeout 90m
  check "nothing was in clear meanwhile" wrapped_only vxlan
  check "address management is sound" within 180 manx ipam check
  check "nobody counts any more" stop_counting

  check "the pools say that nothing is wrapped" pools_to Never
  check "the nodes reach each other's blocks as they are" within 180 all_routes_by eth0 eth0
  check "the pods reach each other" within 60 answers_all
  check "and the new one takes much" within 60 takes_much three "$two"
  check "the stream was never cut" is_uncut
  check "and goes on" grows "$work/vxlan-stream"
  for node in "${nodes[@]}"; do check "the tunnel of $node is gone" within 180 not has_tunnel "$node"; done
  check "address management is sound" within 180 manx ipam check
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
