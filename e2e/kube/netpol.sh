#!/usr/bin/env bash
# Kubernetes' own end-to-end tests against the cluster of cluster.sh: all NetworkPolicy specs, or any others.
#
#   ./e2e/kube/netpol.sh [--focus REGEX] [--skip REGEX] [--processes N] [--timeout 90m] [--report FOLDER] [-- FLAG...]
#   ./e2e/kube/netpol.sh --list [--focus REGEX] [--skip REGEX]     only prints the names of the specs
#
#   --focus       which specs (Netpol); give it again for more
#   --skip        and not these (SCTP: it wants a kernel that knows it); give it again for more
#   --processes   how many specs run at a time (3: two processors are busy then)
#   --timeout     when the rest is given up, and counts as failed (90m)
#   --report      where junit.xml and e2e.log go (the cluster's folder)
#
# FLAGs are the test program's own. Ends with "N passed, N failed, N skipped"; a skipped spec is one that looked at the
# cluster and said why it does not apply, not one that nobody asked for. The code is 1 where any failed or none passed.
#
# Environment: MANX_CLUSTER   the cluster's folder, as for cluster.sh
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${MANX_CLUSTER:-/var/lib/manx-cluster}"
focus=()
skip=()
processes=3
limit=90m
report="$work/report"
list=""

fail() { printf '%s\n' "$*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case "$1" in
    --list) list=yes; shift; continue ;;
    --) shift; break ;;
    -*) [ $# -gt 1 ] || fail "$1 wants a value" ;;
    *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  case "$1" in
    --focus) focus+=("--focus=$2") ;;
    --skip) skip+=("--skip=$2") ;;
    --processes) processes="$2" ;;
    --timeout) limit="$2" ;;
    --report) report="$2" ;;
    *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift 2
done
[ "${#focus[@]}" -gt 0 ] || focus=(--focus=Netpol)
[ "${#skip[@]}" -gt 0 ] || skip=(--skip=SCTP)
{ read -r ginkgo; read -r suite; } < <("$here/build.sh" --tools ginkgo e2e.test)

# The lines of the report that are specs, not what the suite does before and after them.
specs() { grep -ao '<testcase name="\[It\][^>]*' "$report/junit.xml" 2>/dev/null || true; }
names() { sed 's/.*name="\[It\] \([^"]*\)".*/\1/' | sed 's/&#34;/"/g; s/&#39;/'"'"'/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g'; }
with_status() { specs | grep -aE " status=\"($1)\"" || true; }

run() {
  # The program's own limit ends specs with their clean-up; this one is for a program that no longer listens.
  timeout --kill-after=30 --preserve-status 6h "$ginkgo" --no-color --timeout="$limit" --grace-period=60s \
    --procs="$processes" "${focus[@]}" "${skip[@]}" --junit-report=junit.xml --output-dir="$report" \
    "$suite" -- "$@" </dev/null >"$report/e2e.log" 2>&1
}

mkdir -p "$report"
rm -f "$report/junit.xml"
if [ -n "$list" ]; then
  processes=1
  "$ginkgo" --no-color --dry-run "${focus[@]}" "${skip[@]}" --junit-report=junit.xml --output-dir="$report" "$suite" -- \
    --kubeconfig=/dev/null --provider=local </dev/null >"$report/e2e.log" 2>&1 || true
  with_status passed | names
  exit
fi
[ -f "$work/kubeconfig" ] || fail "there is no cluster in $work: ./e2e/kube/cluster.sh up"
code=0
run --kubeconfig="$work/kubeconfig" --provider=local --disable-log-dump=true --dump-logs-on-failure=false "$@" || code=$?
bad='failed|timedout|aborted|panicked|interrupted'
with_status passed | names | sed 's/^/passed: /'
with_status "$bad" | names | sed 's/^/FAILED: /'
# Why each of them failed, in its own words; the whole story is in the report.
grep -ao '<failure message="[^"]*' "$report/junit.xml" 2>/dev/null | cut -c19-318 | sed 's/&#xA;/ /g; s/^/    /' || true
passed="$(with_status passed | wc -l)"
failed="$(with_status "$bad" | wc -l)"
skipped="$(grep -ac '<skipped message="skipped - ' "$report/junit.xml" 2>/dev/null || true)"
if [ "$code" != 0 ] && [ "$failed" = 0 ]; then
  tail -n 30 "$report/e2e.log" >&2
  echo "the run itself failed ($code): $report/e2e.log"
  failed=1
fi
printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "${skipped:-0}"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
