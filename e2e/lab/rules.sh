# shellcheck shell=bash disable=SC2154
# What holds policy on a node of the lab, in the hands of others; sourced by the parts of the lab's suite.

node() { local node="$1"; shift; lab exec "node:$node" -- "$@"; }

# tables NODE FAMILY ARGUMENT...: iptables or ip6tables of the variant in use.
tables() { local node="$1" family="$2"; shift 2; node "$node" "$family-${rules#iptables-}" "$@"; }

# Whether rules of ours are in force on a node.
in_force() {
  local family
  if [ "$rules" = nftables ]; then
    node "$1" nft list table inet manx
    return
  fi
  for family in iptables ip6tables; do
    # Ours come before everybody else's, and lead to what judges workloads.
    tables "$1" "$family" -S FORWARD | grep -m 1 '^-A' | grep -e '-j cali-FORWARD$' || return 1
    tables "$1" "$family" -S cali-FORWARD | grep -e '-j cali-to-wl-dispatch' || return 1
    tables "$1" "$family" -t raw -S PREROUTING | grep -m 1 '^-A' | grep -e '-j cali-PREROUTING$' || return 1
  done
}

others_and_our_table() {
  if node node1 nft delete table inet manx 2>/dev/null; then
    check "the owned table was deleted and comes back" within 60 in_force node1
  else
    check "the kernel keeps others from the table" in_force node1
  fi
  FELIX_NFTABLESOWNEDTABLE=false check "a felix whose table is not owned" lab restart node1
  check "becomes ready" within 60 lab status
  for round in 1 2 3; do
    check "round $round: the table is deleted" node node1 nft delete table inet manx
    check "round $round: it is mended" within 60 in_force node1
  done
  check "all flows are as before" lab probe --flows "$work/flows.yaml"
  check "lab restart gives felix its table again" lab restart node1
  check "and it becomes ready" within 60 lab status
}

# An administrator's script that restores what it knows of the table, by the programs of the variant.
restore_empty() { # NODE FAMILY
  printf '*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n' >"$work/empty"
  node "$1" "$2-${rules#iptables-}-restore" "$work/empty"
}

others_and_our_chains() {
  local family
  check "our rules are in force" in_force node1
  for family in iptables ip6tables; do
    check "$family: others empty the chain of forwarded packets" tables node1 "$family" -F FORWARD
    check "$family: it is mended" within 20 in_force node1
    check "$family: others let everything through before ours" tables node1 "$family" -I FORWARD -j ACCEPT
    check "$family: ours come first again" within 20 in_force node1
    check "$family: theirs is still there" tables node1 "$family" -C FORWARD -j ACCEPT
    check "$family: they take it back" tables node1 "$family" -D FORWARD -j ACCEPT
    check "$family: others empty a chain of ours" tables node1 "$family" -F cali-FORWARD
    check "$family: it is mended" within 20 in_force node1
    check "$family: an old table is restored" restore_empty node1 "$family"
    check "$family: it is mended" within 20 in_force node1
  done
}

# Objects of others on a node.
make_neighbours() {
  local family
  node "$1" nft 'add table inet neighbour; add chain inet neighbour forward { type filter hook forward priority 0; }'
  node "$1" ip link add neighbour0 type bridge
  node "$1" ip route add 192.0.2.0/24 dev eth0
  [ "$rules" != nftables ] || return 0
  for family in iptables ip6tables; do
    tables "$1" "$family" -N NEIGHBOUR
    tables "$1" "$family" -A NEIGHBOUR -i cali+ -j RETURN
    tables "$1" "$family" -A FORWARD -j NEIGHBOUR
  done
}

rules_of_neighbours_stand() {
  local family
  node "$1" nft list table inet neighbour || return 1
  [ "$rules" != nftables ] || return 0
  for family in iptables ip6tables; do
    tables "$1" "$family" -C FORWARD -j NEIGHBOUR && tables "$1" "$family" -C NEIGHBOUR -i cali+ -j RETURN || return 1
  done
}
