# shellcheck shell=bash
# The lab through a tunnel, and who counts on its wire; sourced by the lab's suite and by that of the virtual machine.

# The network namespace of the bridge between the lab's nodes.
wire=manx-lab-fabric
# The range of IPv4 that pods of the lab have their addresses from, here.
wrapped_range=10.66.0.0/16

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
spec: { cidr: "fd00:66::/96", vxlanMode: Always }
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
    ip6 saddr fd00:66::/96 ip6 daddr fd00:66::/96 counter name clear
  }
}
NFT
}

# counted NAME: how many packets.
counted() { ip netns exec "$wire" nft list counter bridge counted "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }

# wrapped_only NAME: packets went this way, and none between pods as it is.
wrapped_only() {
  local way clear
  way="$(counted "$1")" && clear="$(counted clear)" || return 1
  echo "$way packets by $1, $clear as they are"
  [ "$way" -gt 0 ] && [ "$clear" = 0 ]
}
