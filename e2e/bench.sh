#!/usr/bin/env bash
# Builds the benchmark and the programs that it measures, runs it, and prints the table.
#
#   e2e/bench.sh            every group of figures
#   e2e/bench.sh NAME...    only these: connections packets reaction snapshot single changes
#
# It needs root. It makes network namespaces of its own, sends packets only there, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
cargo build --release --locked -p felix -p controller -p e2e-bench
if [ "$(id -u)" != 0 ]; then
  echo "the benchmark makes network namespaces and must run as root" >&2
  exit 1
fi
# Its programs stand beside it, whatever folder they were built in.
exec "$target/release/manx-bench" "$@"
