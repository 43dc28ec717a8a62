#!/usr/bin/env bash
# The virtual machine suite: Debian's stock kernel, booted once under emulation, runs what only it can show.
#
# That kernel lacks what newer ones have (owned tables, interval maps that are safe to change in place), has what small
# ones lack (SCTP sockets), and loads its modules when somebody asks. Emulated code is ten times slower, so everything
# is built outside, and each suite here is one that such a kernel could fail.
#
#   ./e2e/vm.sh              all suites
#   ./e2e/vm.sh NAME...      these only
#   ./e2e/vm.sh between      no suite but the benchmark of the way between nodes, IPIP included; only when it is named
#
# Environment: MANX_BIN           folder of manx, felix and manx-controller (built when missing)
#              MANX_VM_KERNEL     the kernel's file, in place of the newest that is installed
#              MANX_VM_PACKAGES   what cargo builds tests of, in place of --workspace
#              MANX_VM_SECONDS    the most that the machine may take in all (5500)
#              MANX_VM_KVM=1      hardware virtualisation in place of emulation, where it works
#              MANX_WHOLE         not empty: with iptables all that runs with nftables, and not a choice
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"
bin="$(realpath -m "${MANX_BIN:-$CARGO_TARGET_DIR/release}")"
home="$cache/vm"
# The one folder that the machine may write to; everything else of the host it can only read.
exchange="$home/exchange"
# What is known to start this kernel; a newer one is a decision, not an accident.
virtme=1.42

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# --- the suites ---------------------------------------------------------------------------------------------------

# A suite of cargo: its name, the package's folder, the test target, the most seconds, the arguments of the test, the
# environment. Left out are the tests whose mere size takes minutes here and which no kernel version could change, and
# one that reads a set while somebody else changes it: no kernel promises that reader anything, and slow ones show it.
suites() {
  suite nftables-driver dataplane/nftables driver 600
  suite nftables-kernel dataplane/nftables kernel 600 "--skip a_quarter_of_a_million"
  suite nftables-socket dataplane/nftables socket 600 "--skip a_flood_of_events --skip dumps_show_one_state"
  suite netlink-kernel dataplane/netlink kernel 900 "--skip five_thousand" "MANX_NEEDS_IPIP=1"
  suite following dataplane following 900 "what_others_do"
  worlds nftables ""
  command_suite lab 1000 "bash '$root/e2e/vm/lab.sh' '$bin' '$root/controller/ctl/examples/shop.yaml'"
  # The programs, the sets and the matches of iptables as this kernel has them; what of it is the same code for every kernel
  # runs everywhere else.
  suite iptables-kernel dataplane/iptables kernel 900 "$(whole "" "ipsets:: tables::")"
  for variant in legacy nft; do
    if [ -n "${MANX_WHOLE:-}" ]; then
      worlds "iptables-$variant" "-$variant"
      command_suite "lab-$variant" 1000 "bash '$root/e2e/vm/lab.sh' '$bin' '$root/controller/ctl/examples/shop.yaml' iptables-$variant"
    else
      some_worlds "iptables-$variant" "-$variant"
    fi
  done
  # Ratios of paired rounds say something of emulated code too; its times do not.
  is_named between &&
    command_suite between 1500 "env MANX_BENCH_CONNECTION_ROUNDS=9 MANX_BENCH_CONNECTIONS=400 MANX_BENCH_STREAM_MB=48 MANX_BENCH_ROUNDS=40 '$bin/manx-bench' between"
  return 0
}

# whole ALL CHOICE: what runs of something.
whole() { if [ -n "${MANX_WHOLE:-}" ]; then printf '%s' "$1"; else printf '%s' "$2"; fi; }

# worlds RULES SUFFIX: the suites of a node and its pods, with policy held in this way; their names get a suffix.
worlds() {
  local rules="MANX_RULES=$1" suffix="$2"
  suite "node$suffix" e2e node 600 "" "$rules"
  suite "sources$suffix" e2e sources 600 "" "$rules"
  # What only this kernel has, and what goes through it: the rest runs everywhere else.
  suite "tunnels$suffix" e2e tunnels 1500 "ipip policy:: confined::" "$rules MANX_NEEDS_IPIP=1 MANX_FEW_WAYS=1"
  suite "flows$suffix" e2e flows 600 "" "$rules"
  suite "departures$suffix" e2e departures 600 "" "$rules"
  suite "vacant$suffix" e2e vacant 900 "" "$rules"
  # Two worlds are one of even and one of odd number. The kept cases grow in number, and run everywhere else.
  suite "agreement$suffix" e2e agreement 1000 "--skip kept_cases" "$rules MANX_WORLDS=2"
  # One at a time: a flood that waits for its share of the processor sees few changes.
  suite "flips$suffix" e2e flips 1500 "--test-threads=1" "$rules MANX_FLOOD=220000"
}

# some_worlds RULES SUFFIX: of these the ones that meet most of what the kernel has for the rules.
some_worlds() {
  local rules="MANX_RULES=$1" suffix="$2"
  suite "node$suffix" e2e node 600 "a_flow_from_outside a_pods_traffic_to_its_node" "$rules"
  suite "agreement$suffix" e2e agreement 1000 "odd_worlds" "$rules MANX_WORLDS=2"
}

# --- the machine --------------------------------------------------------------------------------------------------

# The newest kernel of Debian that is installed; the running one only when there is no other.
stock_kernel() {
  local file release
  if [ -n "${MANX_VM_KERNEL:-}" ]; then
    printf '%s\n' "$MANX_VM_KERNEL"
    return
  fi
  for file in $(ls /boot/vmlinuz-*-amd64 2>/dev/null | sort -V -r); do
    release="${file#/boot/vmlinuz-}"
    if [ "$release" != "$(uname -r)" ] && [ -d "/lib/modules/$release" ]; then
      printf '%s\n' "$file"
      return
    fi
  done
  file="/boot/vmlinuz-$(uname -r)"
  [ ! -e "$file" ] || printf '%s\n' "$file"
}

setup() {
  local missing=() command package
  while read -r command package; do
    command -v "$command" >/dev/null 2>&1 || missing+=("$package")
  done <<'LIST'
qemu-system-x86_64 qemu-system-x86
busybox busybox-static
modprobe kmod
udevadm udev
nft nftables
ip iproute2
conntrack conntrack
iptables-restore iptables
ipset ipset
ping iputils-ping
LIST
  [ -n "$(stock_kernel)" ] || missing+=(linux-image-amd64)
  [ -x "$home/venv/bin/vng" ] || python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  if [ "${#missing[@]}" -gt 0 ]; then
    say "installing for the virtual machine: ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "this needs root; run: apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
  [ -n "$(stock_kernel)" ] || fail "no kernel of Debian in /boot; install linux-image-amd64"
  if [[ "$("$home/venv/bin/vng" --version 2>/dev/null || true)" != *"$virtme"* ]]; then
    say "installing virtme-ng $virtme into $home/venv"
    mkdir -p "$home"
    python3 -m venv --clear "$home/venv"
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check "virtme-ng==$virtme"
  fi
}

# --- what runs in it ----------------------------------------------------------------------------------------------

# Builds all tests; says of each its package's folder, its target and its file.
build_tests() {
  # shellcheck disable=SC2086 # several words on purpose
  cargo test --no-run --locked --message-format=json ${MANX_VM_PACKAGES:---workspace} | python3 -c '
import json, os, sys
for line in sys.stdin:
    try:
        message = json.loads(line)
    except ValueError:
        continue
    if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message.get("executable"):
        folder = os.path.relpath(os.path.dirname(message["manifest_path"]))
        print(folder, message["target"]["name"], message["executable"], sep="\t")
' >"$exchange/tests"
}

chosen=()
is_named() {
  local name
  for name in "${chosen[@]}"; do [ "$name" != "$1" ] || return 0; done
  return 1
}
wanted() { [ "${#chosen[@]}" = 0 ] || is_named "$1"; }

suite() {
  local name="$1" folder="$2" target="$3" seconds="$4" arguments="${5:-}" environment="${6:-}" file
  wanted "$name" || return 0
  file="$(awk -F'\t' -v f="$folder" -v t="$target" '$1 == f && $2 == t { print $3 }' "$exchange/tests" | tail -n 1)"
  # A suite that is not there must not look like one that passed.
  [ -n "$file" ] || file="echo 'there is no test target $target in $folder'; false"
  command_suite "$name" "$seconds" "cd '$root/$folder' && ${environment:+env $environment} $file $arguments"
}

command_suite() {
  ! wanted "$1" || printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$exchange/suites"
}

# --- the run ------------------------------------------------------------------------------------------------------

passed=0
failed=0

# Says how a suite went and adds it up: its own sum, or, if it did not come to one, what its lines say.
report() {
  local name="$1" code="$2" seconds="$3" log="$exchange/$1.log" sum good bad
  sum="$(grep '^test result:' "$log" | tail -n 1 || true)"
  if [ -n "$sum" ]; then
    good="$(sed -E 's/.* ([0-9]+) passed.*/\1/' <<<"$sum")"
    bad="$(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$sum")"
  else
    good="$(grep -cE '^test .* ok$' "$log" || true)"
    bad="$(grep -cE '^test .* FAILED$' "$log" || true)"
  fi
  [ "$code" = 0 ] || [ "$bad" != 0 ] || bad=1
  passed=$((passed + good))
  failed=$((failed + bad))
  grep -E '^test .* (ok|FAILED)$' "$log" | sed "s/^test /  $name: /" || true
  # What a benchmark says.
  grep '^|' "$log" || true
  [ "$code" != 124 ] && [ "$code" != 137 ] || echo "  $name: did not end within its time"
  printf '  %s: %s passed, %s failed, %s s\n' "$name" "$good" "$bad" "$seconds"
  if [ "$code" != 0 ]; then
    echo "--- the end of $log"
    tail -n 60 "$log"
    echo "---"
  fi
}

run() {
  local kernel="$1" limit="${MANX_VM_SECONDS:-5500}" machine word rest current="the start" finished=no
  local accel=(--disable-kvm)
  [ "${MANX_VM_KVM:-}" != 1 ] || accel=()
  say "virtual machine: $(basename "$kernel" | sed 's/^vmlinuz-//') under $([ "${#accel[@]}" = 0 ] && echo KVM || echo emulation)"
  : >"$exchange/events"
  # It looks for the programs beside it by name.
  PATH="$home/venv/bin:$PATH" timeout -k 10 "$limit" "$home/venv/bin/vng" "${accel[@]}" --run "$kernel" --memory 1G --cpus 2 \
    --rwdir="$exchange" --exec "bash '$root/e2e/vm/guest.sh' '$exchange'" >"$exchange/console" 2>&1 </dev/null &
  machine=$!
  # Whoever ends this script ends its machine too.
  trap 'kill "$machine" 2>/dev/null || true' EXIT
  while read -r word rest; do
    # shellcheck disable=SC2086 # name, exit status, seconds
    case "$word" in
      begin) current="the suite $rest"; printf '%s ...\n' "$rest" ;;
      end) report $rest; current="what follows the suite ${rest%% *}" ;;
      done) finished=yes ;;
      *) printf '%s: %s\n' "$word" "$rest" ;;
    esac
  done < <(tail -n +1 -s 0.5 --pid="$machine" -f "$exchange/events")
  wait "$machine" || true
  trap - EXIT
  if [ "$finished" = no ]; then
    failed=$((failed + 1))
    echo "the virtual machine did not finish (at most $limit s): it was at $current"
    echo "--- the end of its console"
    tail -n 40 "$exchange/console"
    if [ "${current#the suite }" != "$current" ]; then
      echo "--- the end of the log of $current"
      tail -n 40 "$exchange/${current#the suite }.log" 2>/dev/null || true
    fi
  fi
}

# A function, so that the shell has read all of this file before it begins: it may be edited while it runs.
main() {
  local program
  chosen=("$@")
  [ "$(uname -m)" = x86_64 ] || fail "the virtual machine suite is written for x86_64"
  setup
  rm -rf "$exchange"
  mkdir -p "$exchange"
  say "building what the virtual machine runs"
  build_tests
  local programs=(manx felix manx-controller) packages=(-p felix -p controller -p controller-ctl)
  if is_named between; then programs+=(manx-bench) packages+=(-p e2e-bench); fi
  for program in "${programs[@]}"; do
    [ -x "$bin/$program" ] && continue
    [ -z "${MANX_BIN:-}" ] || fail "MANX_BIN: $bin/$program is not there"
    cargo build --release --locked "${packages[@]}"
    break
  done
  : >"$exchange/suites"
  suites
  [ -s "$exchange/suites" ] || fail "no suite of that name: ${chosen[*]}"
  local began=$SECONDS
  run "$(stock_kernel)"
  say "virtual machine: $((SECONDS - began)) s"
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

main "$@"; exit
