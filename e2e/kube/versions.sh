#!/usr/bin/env bash
# Holds the Kubernetes datastore and the chart to the last minor versions of Kubernetes: to the API server of each.
#
#   ./e2e/kube/versions.sh [V...]     these versions, or the newest of each of the last four minors
#
# For each the API server is built once (build.sh; some minutes), every test of the datastore runs against it, and the
# chart is given to it, all options on, in a dry run. Prints a line for each version; what failed is shown, and the exit
# status is 1.
#
# Environment: MANX_CACHE   the cache's folder
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
bad=0

# A log goes with the run.
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
log="$work/log"

# shown COMMAND...: runs it, and shows the end of what it said where it fails.
shown() {
  "$@" >"$log" 2>&1 </dev/null && return
  tail -n 60 "$log" >&2
  return 1
}

datastore() { (cd "$root" && cargo test --locked -p policy-model-datastore-kube --no-fail-fast -- --test-threads="$(nproc)"); }

# How many tests passed, as cargo sums them up program by program.
tests_passed() { sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }

# hold VERSION: says in one line how it went.
hold() {
  local version="$1" said=() code=0 passed
  # The one that the suites run with is there as a whole.
  if [ "$("$here/build.sh" --where)" = "$("$here/build.sh" --where "$version")" ]; then
    unset MANX_KUBE_VERSION
  else
    export MANX_KUBE_VERSION="$version"
  fi
  if ! shown "$here/build.sh" ${MANX_KUBE_VERSION:+--api-server "$version"}; then
    echo "Kubernetes $version: FAILED: its API server cannot be built here"
    return 1
  fi
  if shown datastore; then
    passed="$(tests_passed)"
    said+=("the datastore: $passed tests passed")
    [ "$passed" -gt 0 ] || code=1
  else
    said+=("the datastore: FAILED")
    code=1
  fi
  if shown "$root/charts/check.sh" dry-run; then
    said+=("the chart: $(tail -n 1 "$log")")
  else
    said+=("the chart: FAILED")
    code=1
  fi
  printf 'Kubernetes %s: %s; %s\n' "$version" "${said[@]}"
  return "$code"
}

# The list is kept where versions are built.
[ $# -gt 0 ] || mapfile -t versions < <("$here/build.sh" --versions)
[ $# = 0 ] || versions=("$@")
for version in "${versions[@]}"; do hold "$version" || bad=1; done
exit "$bad"
