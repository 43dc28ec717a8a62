#!/usr/bin/env bash
# The lab's suite: real processes, real packets, in network namespaces of this machine only.
#
#   MANX_BIN=folder of manx, felix and manx-controller   ./e2e/lab.sh [PART ...]
#
# Parts, in the order in which they run: shop tunnels cases live crash drift pages nodes bad clean. Without any: all with
# policy in nftables, and with iptables those that see rules.
# Needs root, iproute2, nft, iptables, perl. Ends with "N passed, N failed"; the exit code is 1 where any failed.
#
# Environment: MANX_RULES  what holds policy, of nftables, iptables-legacy and iptables-nft: the parts run with each that is
#                          named, all of them where none are
#              MANX_WHOLE  not empty: all parts with each, and not a choice
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
bin="$(cd "${MANX_BIN:-$here/../target/release}" && pwd)" || { echo "MANX_BIN is no folder" >&2; exit 2; }
cd "$here" || exit 2
all_parts="shop tunnels cases live crash drift pages nodes bad clean"
# What sees rules: every flow of every case, and what others do to them.
covering_parts="cases drift clean"
for program in manx felix manx-controller; do
  [ -x "$bin/$program" ] || { echo "$bin/$program is missing; build it first" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "the lab makes network namespaces and needs root" >&2; exit 2; }
export PATH="$PATH:/usr/sbin:/sbin" NO_COLOR=1
manx="$bin/manx"
work="$(mktemp -d /tmp/manx-lab-suite.XXXXXX)"
manifests="$work/manifests"
background=()

finish() {
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null; done
  "$manx" lab down >/dev/null 2>&1
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# shellcheck source=checks.sh
. "$here/checks.sh"
# shellcheck source=traffic.sh
. "$here/traffic.sh"
# shellcheck source=tunnelled.sh
. "$here/tunnelled.sh"
# shellcheck source=lab/rules.sh
. "$here/lab/rules.sh"
lab() { "$manx" lab "$@"; }
pid_of() { lab status | sed -n "s/^  $1 *pid \([0-9]*\) .*/\1/p"; }
flows() { cat >"$work/some.yaml"; lab probe --flows "$work/some.yaml"; }
# Replaces a manifest in one step, as editors do.
put() { cat >"$work/new" && mv "$work/new" "$manifests/$1"; }

# What of the machine the lab must leave as it was.
machine() {
  ip -o link show | sed 's/^[0-9]*: //'
  ip netns list
  ip route show table all
  ip -6 route show table all | grep -v 'expires'
  ip rule list
  nft list ruleset 2>/dev/null
  sysctl -a 2>/dev/null | grep '^net\.' | grep -v -e 'nf_conntrack_count' -e 'fib_.*hash' -e 'stable_secret'
  ls -d /run/netns /run/manx-lab 2>/dev/null
  grep -c manx /proc/self/mountinfo
  for found in /proc/[0-9]*/environ; do
    grep -qsz '^MANX_LAB=' "$found" && echo "process $found"
  done
}

# hold_policy_in RULES: what each felix is told that starts from now on.
hold_policy_in() {
  rules="$1"
  case "$rules" in
    nftables) export FELIX_NFTABLESMODE=Enabled; unset FELIX_IPTABLESBACKEND ;;
    iptables-legacy) export FELIX_NFTABLESMODE=Disabled FELIX_IPTABLESBACKEND=Legacy ;;
    iptables-nft) export FELIX_NFTABLESMODE=Disabled FELIX_IPTABLESBACKEND=NFT ;;
    *) echo "MANX_RULES: '$rules' is none of nftables, iptables-legacy, iptables-nft" >&2; exit 2 ;;
  esac
}

lab down >/dev/null 2>&1
machine >"$work/before"

wanted() { [[ " $wanted_parts " == *" $1 "* ]]; }
first=yes
for one in ${MANX_RULES:-nftables iptables-legacy iptables-nft}; do
  hold_policy_in "$one"
  wanted_parts="${*:-$all_parts}"
  [ "$first" = yes ] || [ -n "$*${MANX_WHOLE:-}" ] || wanted_parts="$covering_parts"
  first=no
  part "policy in $rules: $wanted_parts"
  began=$SECONDS
  # shellcheck source=lab/parts.sh
  . "$here/lab/parts.sh"
  printf '\npolicy in %s: %s s\n' "$rules" "$((SECONDS - began))"
done

close
