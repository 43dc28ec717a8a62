#!/usr/bin/env bash
# Whether the image's programs of iptables and this machine's own mean the same: each golden rule set of the driver is
# written by the one and read by the other, for both variants and families, and each has to print what the other does.
#
#   ./charts/check/iptables.sh PROGRAMS     a folder, as charts/image/iptables.sh prints it
#
# Needs root and the packages iptables and ipset. All is in network namespaces that end with it. /etc/protocols is hidden
# there, since the image has none: names of protocols that only that file knows are printed as numbers.
set -euo pipefail
programs="$(cd "${1:?the folder of the programs}" && pwd)"
golden="$(cd "$(dirname "$0")/../../dataplane/iptables/tests/golden" && pwd)"
export PATH="$PATH:/usr/sbin:/sbin" XTABLES_LOCKFILE=/dev/null

# Counters and comments of the time differ.
plain() { sed -e '/^#/d' -e 's/\[[0-9]*:[0-9]*\]/[0:0]/'; }
# The rules of one family in a golden file: its tables come one after the other under a line that says which it is.
rules_of() { awk -v family="# $1" '/^#/ { ours = $0 == family; next } ours' "$2"; }

# One variant, one golden rule set, in a namespace of its own.
compare() {
  local variant="$1" case="$2" family base
  ipset restore <"$case/sets.ipset"
  mount --bind /dev/null /etc/protocols
  for family in IPv4 IPv6; do
    base=iptables
    [ "$family" = IPv4 ] || base=ip6tables
    rules_of "$family" "$case/chains.iptables" >"$work/rules"
    "$programs/$base-$variant-restore" --noflush <"$work/rules"
    "$programs/$base-$variant-save" | plain >"$work/ours"
    "$base-$variant-save" | plain >"$work/theirs"
    diff "$work/theirs" "$work/ours" || { echo "$case, $family, $variant: the image's program reads otherwise"; return 1; }
    grep -q -- '-A cali-' "$work/ours" || { echo "$case, $family, $variant: nothing was written"; return 1; }
    # And the other way around: written by the machine's own, changed by the image's.
    "$base-$variant-restore" <"$work/rules"
    "$programs/$base-$variant-restore" --noflush <"$work/rules"
    "$programs/$base-$variant-save" | plain >"$work/ours"
    "$base-$variant-save" | plain >"$work/theirs"
    diff "$work/theirs" "$work/ours" || { echo "$case, $family, $variant: they differ after both wrote"; return 1; }
  done
}

if [ "${2:-}" = inside ]; then
  compare "$3" "$4"
  exit
fi
export work
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
for case in "$golden"/*/; do
  for variant in legacy nft; do
    unshare --net --mount --propagation private "$0" "$programs" inside "$variant" "${case%/}"
  done
done
