#!/usr/bin/env bash
# Runs inside the virtual machine: the lab on this kernel, and what only this kernel can show of it.
#
# usage: lab.sh BIN SHOP [RULES]. BIN is the folder of our programs, SHOP the lab's example manifests, RULES what holds policy:
# nftables, which is meant without it, iptables-legacy or iptables-nft.
# Prints one line a check, in the form of a cargo test, so that one reader counts both.
set -u
bin="$1"
shop="$2"
rules="${3:-nftables}"
case "$rules" in
  nftables) export FELIX_NFTABLESMODE=Enabled ;;
  iptables-legacy) export FELIX_NFTABLESMODE=Disabled FELIX_IPTABLESBACKEND=Legacy ;;
  iptables-nft) export FELIX_NFTABLESMODE=Disabled FELIX_IPTABLESBACKEND=NFT ;;
  *) echo "there is no way to hold policy of the name $rules" >&2; exit 2 ;;
esac
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
manifests="$work/manifests"
node=manx-lab-node-node1
# shellcheck source=../tunnelled.sh
. "$here/../tunnelled.sh"
passed=0
failed=0

# A check is a function; its words are shown when it fails.
check() {
  if "$1" >"$work/said" 2>&1; then
    passed=$((passed + 1))
    echo "test $1 ... ok"
  else
    failed=$((failed + 1))
    echo "test $1 ... FAILED"
    tail -n 40 "$work/said" | sed 's/^/    /'
  fi
}

# Whether the running kernel is older than MAJOR MINOR.
older_than() {
  local major minor
  IFS=. read -r major minor _ < <(uname -r)
  [ "$major" -lt "$1" ] || { [ "$major" -eq "$1" ] && [ "${minor%%[!0-9]*}" -lt "$2" ]; }
}

in_node() { ip netns exec "$node" "$@"; }

# The maps of address ranges that the rules use at the moment.
interval_maps() { in_node nft list chain inet manx to_wl | grep -o '@net[^ ]*' | sort; }

# Measures every flow; those that differ are what is said.
measure() {
  local code=0
  "$bin/manx" lab probe -o json >"$work/flows.json" 2>"$work/errors" || code=$?
  grep -v '"agrees":true' "$work/flows.json" "$work/errors"
  echo "$(wc -l <"$work/flows.json") flows measured, exit status $code"
  [ "$code" = 0 ] && [ -s "$work/flows.json" ]
}

# Number of measured flows of SCTP with this verdict of the kernel.
sctp_flows() { grep '"protocol":"SCTP"' "$work/flows.json" | grep -c "\"kernel\":\"$1\""; }

the_lab_stands() { "$bin/manx" lab up --manifests "$manifests" --no-probe && "$bin/manx" lab status; }

kernel_and_policies_agree() { measure; }

sctp_sockets_are_let_through_and_held_back() {
  local allowed held
  allowed="$(sctp_flows allow)"
  held="$(sctp_flows deny)"
  echo "$allowed SCTP flows passed, $held did not"
  [ "$allowed" -gt 0 ] && [ "$held" -gt 0 ]
}

an_old_kernel_has_an_open_table_and_says_so() {
  in_node nft list tables
  if older_than 6 9; then
    in_node nft list table inet manx >"$work/table" && ! grep -q 'flags.*owner' "$work/table"
  else
    in_node nft list table inet manx | grep -q 'flags.*owner'
  fi
}

policy_is_in_iptables_and_in_no_table_of_ours() {
  in_node "iptables-${rules#iptables-}" -S FORWARD | grep -e '-j cali-FORWARD$' || return 1
  ! in_node nft list tables | grep 'inet manx'
}

the_distributions_nft_lists_and_loads_the_table() {
  in_node nft list ruleset >"$work/ruleset" || return 1
  in_node nft -j list ruleset >/dev/null || return 1
  grep -q 'table inet manx' "$work/ruleset" || return 1
  ip netns add manx-vm-reload || return 1
  # An owned table would go with the process that loads it.
  sed -i '/^\tflags .*owner/d' "$work/ruleset"
  ip netns exec manx-vm-reload nft -f "$work/ruleset" && ip netns exec manx-vm-reload nft list ruleset >"$work/again"
  local code=$?
  ip netns delete manx-vm-reload
  [ "$code" = 0 ] && diff <(sort "$work/ruleset") <(sort "$work/again")
}

# Before Linux 6.18 a packet can meet a half-cut interval, so a changed range has to become a new map.
ranges_change_in_a_twin_map() {
  local before after n
  before="$(interval_maps)" || return 1
  sed 's#198.51.100.0/24, #198.51.100.0/24, 192.0.2.0/25, #' "$manifests/shop.yaml" >"$work/shop.new"
  ! cmp -s "$work/shop.new" "$manifests/shop.yaml" || { echo "the example has no such range any more"; return 1; }
  mv "$work/shop.new" "$manifests/shop.yaml"
  for n in $(seq 300); do
    in_node nft list table inet manx | grep -q '192\.0\.2\.\(0\|128\)' && break
    sleep 0.2
  done
  after="$(interval_maps)"
  printf 'before: %s\nafter: %s (%s times looked)\n' "$(echo $before)" "$(echo $after)" "$n"
  [ "$n" -lt 300 ] || return 1
  if older_than 6 18; then [ "$before" != "$after" ]; else [ "$before" = "$after" ]; fi
}

kernel_and_policies_agree_after_the_change() { measure; }

the_lab_stands_through_ipip() {
  pools_by ipipMode >"$manifests/pools.yaml"
  "$bin/manx" lab up --manifests "$manifests" --no-probe && "$bin/manx" lab status && count_on_the_wire
}

kernel_and_policies_agree_through_ipip() { measure; }

packets_between_pods_were_wrapped_in_ipip() { wrapped_only ipip; }

the_lab_goes_without_a_trace() {
  "$bin/manx" lab down || return 1
  ! ip netns list | grep manx-lab && [ ! -e /run/manx-lab ]
}

mkdir -p "$manifests"
cp "$shop" "$manifests/shop.yaml"
cp "$here/manifests/"*.yaml "$manifests/"
check the_lab_stands
if [ "$failed" = 0 ]; then
  check kernel_and_policies_agree
  check sctp_sockets_are_let_through_and_held_back
fi
if [ "$failed" = 0 ] && [ "$rules" != nftables ]; then
  check policy_is_in_iptables_and_in_no_table_of_ours
elif [ "$failed" = 0 ]; then
  check an_old_kernel_has_an_open_table_and_says_so
  check the_distributions_nft_lists_and_loads_the_table
  check ranges_change_in_a_twin_map
  check kernel_and_policies_agree_after_the_change
fi
if [ "$failed" -gt 0 ]; then
  for log in controller agent node1 node2 node3; do
    echo "--- the log of $log"
    "$bin/manx" lab logs "$log" 2>&1 | tail -n 15
  done
fi
check the_lab_goes_without_a_trace
if [ "$failed" = 0 ]; then
  check the_lab_stands_through_ipip
  check kernel_and_policies_agree_through_ipip
  check packets_between_pods_were_wrapped_in_ipip
  check the_lab_goes_without_a_trace
fi
rm -rf "$work"
[ "$failed" = 0 ] && word=ok || word=FAILED
echo "test result: $word. $passed passed; $failed failed"
[ "$failed" = 0 ]
