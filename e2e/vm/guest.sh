#!/usr/bin/env bash
# Runs inside the virtual machine: the suites of a list, one after the other, told through files on the host.
#
# usage: guest.sh FOLDER. FOLDER/suites has one suite a line: a name, the most seconds it may take, its command.
# What happens goes to FOLDER/events, one line each, and a suite's own words to FOLDER/NAME.log.
set -u
folder="$1"
export PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A test that leaves a file leaves it in the machine's own memory, which goes with the machine.
export TMPDIR=/tmp RUST_BACKTRACE=1

event() { printf '%s\n' "$*" >>"$folder/events"; }

event "booted $(uname -r) $(nft --version | cut -d' ' -f1,2)"
ip link set lo up
while IFS=$'\t' read -r name seconds command; do
  [ -n "$name" ] || continue
  event "begin $name"
  began=$SECONDS
  # Not from the list on standard input, which the loop reads.
  timeout -k 5 "$seconds" bash -c "$command" >"$folder/$name.log" 2>&1 </dev/null
  event "end $name $? $((SECONDS - began))"
done <"$folder/suites"
# Nothing was loaded by hand: these came because our code asked the kernel for them.
event "modules $(awk '{print $1}' /proc/modules | grep -E '^(nf|nft|veth|bridge|sctp|libcrc|vxlan|ipip)' | sort | tr '\n' ' ')"
event "done"
sync
