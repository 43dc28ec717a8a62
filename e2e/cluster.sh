#!/usr/bin/env bash
# The suite of a real Kubernetes: a control plane, nodes with containerd and kubelet, kube-proxy, Manx installed by Helm.
#
#   ./e2e/cluster.sh [PART ...]
#
# Parts, in the order in which they run: install pods services outside metrics netpol conformance vxlan iptables first
# churn crash nodes upgrade uninstall podcidr beside.
# Without any: all. Needs root, Debian 12, Go and Rust; what it builds stays in the cache. Ends with "N passed, N failed,
# N skipped"; the code is 1 where any failed.
#
# Environment: MANX_CACHE        where built programs are kept
#              MANX_KEEP         not empty: the cluster stays when the suite ends, for a look at it
#              MANX_WHOLE        not empty: all of Kubernetes' NetworkPolicy specs run with iptables too, and not a choice of them
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/.." && pwd)"
export MANX_CLUSTER="${MANX_CLUSTER:-/var/lib/manx-cluster}" PATH="$PATH:/usr/sbin:/sbin"
namespace=manx-system
nodes=(node1 node2)
[ "$(id -u)" = 0 ] || { echo "the cluster needs root" >&2; exit 2; }
work="$(mktemp -d /tmp/manx-cluster-suite.XXXXXX)"
background=()

# shellcheck source=checks.sh
. "$here/checks.sh"
# shellcheck source=traffic.sh
. "$here/traffic.sh"

cluster() { "$here/kube/cluster.sh" "$@"; }
# Bounded, whatever the API server does.
kubectl() { timeout 300 kubectl "$@"; }
manx() { kubectl -n "$namespace" exec "ds/manx-node" -c felix -- /bin/manx "$@"; }

finish() {
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null; done
  # The server of the part `outside`.
  ip netns del manx-server 2>/dev/null
  [ -n "${MANX_KEEP:-}" ] || cluster down
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

wanted_parts="${*:-install pods services outside metrics netpol conformance vxlan iptables first churn crash nodes upgrade uninstall podcidr beside}"
wanted() { [[ " $wanted_parts " == *" $1 "* ]]; }

# shellcheck disable=SC2034 # Parts use it.
# The image is built before the clock of any check runs, and stays small.
image="${MANX_IMAGE:-}"
[ -n "$image" ] || image="$("$root/charts/image/build.sh" --within 40000000 | tail -n 1)" || exit 1
if cluster status >/dev/null 2>&1 && [ -n "${MANX_KEEP:-}" ]; then
  echo "taking the cluster that is there"
else
  cluster up "${#nodes[@]}" || exit 1
fi
eval "$(cluster env)"

for file in inside install pods services outside metrics kubernetes vxlan iptables first churn crash nodes upgrade uninstall podcidr beside; do
  # shellcheck source=/dev/null
  [ -f "$here/cluster/$file.sh" ] && . "$here/cluster/$file.sh"
done
close
