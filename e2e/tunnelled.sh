# shellcheck shell=bash
# Pods through a tunnel, and who counts on the wire; sourced by the suites of the lab, of the virtual machine and of the
# cluster.

# The network namespace of the bridge between the nodes; here the lab's.
wire=manx-lab-fabric
# The ranges that pods have their addresses from, here.
wrapped_range=10.66.0.0/16
wrapped_range6=fd00:66::/96

# pools_by MODE: pools of both families whose packets go by IPIP or VXLAN, IPv6 always by VXLAN.
pools_by() {
  cat <<YAML
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: wrapped }
spec: { cidr: $wrapped_range, $1: Always }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: wrapped-v6 }
spec: { cidr: "$wrapped_range6", vxlanMode: Always }
YAML
}

# Counts on the wire what is wrapped, and what goes between two pods as it is.
count_on_the_wire() {
  ip netns exec "$wire" nft -f - <<NFT
table bridge counted {
  counter vxlan { }
  counter vxlan6 { }
  counter ipip { }
  counter clear { }
  chain forward {
    type filter hook forward priority 0;
    ip protocol 4 counter name ipip
    ip protocol udp udp dport 4789 counter name vxlan
    ip6 nexthdr udp udp dport 4789 counter name vxlan6
    ip saddr $wrapped_range ip daddr $wrapped_range counter name clear
    ip6 saddr $wrapped_range6 ip6 daddr $wrapped_range6 counter name clear
  }
}
NFT
}

# Nobody counts any more.
stop_counting() { ip netns exec "$wire" nft delete table bridge counted; }

# counted NAME: how many packets.
counted() { ip netns exec "$wire" nft list counter bridge counted "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }

# wrapped_only NAME: packets went this way, and none between pods as it is.
wrapped_only() {
  local way clear
  way="$(counted "$1")" && clear="$(counted clear)" || return 1
  echo "$way packets by $1, $clear as they are"
  [ "$way" -gt 0 ] && [ "$clear" = 0 ]
}
