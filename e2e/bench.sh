#!/usr/bin/env bash
# Builds the benchmark and the programs that it measures, runs it, and prints the table.
#
#   e2e/bench.sh            every usual group of figures
#   e2e/bench.sh NAME...    only these: connections packets reaction snapshot single changes nodes between backends
#   e2e/bench.sh kubernetes         20,000 pods and 10,000 policies behind a real API server with etcd: the agent's start
#                                   and memory, policy changes, pods that come and go; about ten minutes
#   e2e/bench.sh kubernetes-pods    50 pods on one node of a real cluster of two (e2e/kube/cluster.sh), created to running
#
# The last two run only when they are named, with the programs of the image (charts/image/build.sh), and need Go besides;
# Kubernetes is built for them once. It needs root. It makes network namespaces of its own, sends packets only there, and
# leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
cluster=./e2e/kube/cluster.sh
# Which groups need a whole cluster, which an API server, and which the agent and the controller of the usual build.
pods="" real="" others=() packages=(-p e2e-bench)
[ $# -gt 0 ] || packages+=(-p felix -p controller)
for name in "$@"; do
  case "$name" in
    kubernetes-pods) pods=yes ;;
    kubernetes) real=yes; others+=("$name") ;;
    *) others+=("$name"); packages=(-p e2e-bench -p felix -p controller) ;;
  esac
done

# Programs that are not measured but needed, from where the network is: a group has a namespace of its own.
prepare_kubernetes() {
  MANX_BENCH_PROGRAMS="$(./charts/image/build.sh --programs | tail -n 1)"
  MANX_BENCH_IPTABLES="$(./charts/image/iptables.sh | tail -n 1)"
  export MANX_BENCH_PROGRAMS MANX_BENCH_IPTABLES
  ./e2e/kube/build.sh >/dev/null
  ./e2e/kube/build.sh --tools helm >/dev/null
}

# Runs the benchmark with a folder for its files that goes also when it is interrupted.
measure_here() {
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM
  TMPDIR="$work" "$target/release/manx-bench" "$@"
  rm -rf "$work"
}

# A cluster with Manx for as long as its group runs. One that is there already is somebody's, and stays.
measure_pods() {
  local image
  image="$(./charts/image/build.sh | tail -n 1)"
  export MANX_CLUSTER="${MANX_CLUSTER:-/var/lib/manx-cluster}"
  if [ -e "$MANX_CLUSTER/pid" ] || [ -e /run/netns/manx-control ]; then
    echo "a cluster is there already: $cluster down" >&2
    return 1
  fi
  trap '"$cluster" down' EXIT
  trap 'exit 130' INT TERM
  "$cluster" up 2 >&2
  eval "$("$cluster" env)"
  "$cluster" import "$image" >&2
  helm install manx charts/manx --namespace manx-system --create-namespace --wait --timeout 3m >&2
  kubectl wait --for=condition=Ready nodes --all --timeout=120s >&2
  "$target/release/manx-bench" kubernetes-pods
}

if [ -n "$real$pods" ]; then prepare_kubernetes; fi
cargo build --release --locked "${packages[@]}"
if [ "$(id -u)" != 0 ]; then
  echo "the benchmark makes network namespaces and must run as root" >&2
  exit 1
fi
# Its programs stand beside it, whatever folder they were built in.
if [ -z "$pods" ] || [ "${#others[@]}" -gt 0 ]; then measure_here "${others[@]}"; fi
if [ -n "$pods" ]; then measure_pods; fi
