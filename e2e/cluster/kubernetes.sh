# shellcheck shell=bash
# Kubernetes' own specs.

# specs NAME ARGUMENT...: runs them and counts each.
specs() {
  local name="$1" output counts
  shift
  output="$("$here/kube/netpol.sh" --report "$work/report-$name" "$@" 2>&1)"
  printf '%s\n' "$output" | grep -v '^passed: ' | tail -n 30
  counts="$(printf '%s\n' "$output" | tail -n 1)"
  if [[ "$counts" =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped ]]; then
    passed=$((passed + BASH_REMATCH[1]))
    failed=$((failed + BASH_REMATCH[2]))
    skipped=$((skipped + BASH_REMATCH[3]))
  else
    fail "$name" "no closing line"
  fi
}

if wanted netpol; then
  part "Kubernetes' NetworkPolicy specs"
  [ -e /proc/net/sctp ] || skip "the specs with SCTP" "this kernel has no SCTP sockets; the virtual machine suite has them, without Kubernetes"
  specs netpol --timeout 90m
fi
if wanted conformance; then
  part "Kubernetes' conformance specs of the network"
  specs conformance --focus '\[sig-network\].*\[Conformance\]' --timeout 90m
fi
