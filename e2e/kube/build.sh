#!/usr/bin/env bash
# Builds a real Kubernetes and a real etcd from their Go modules, once: the proofs run against these, not against doubles.
#
#   ./e2e/kube/build.sh                      all programs of the default version, and etcd
#   ./e2e/kube/build.sh --api-server [V...]  only the API server, of these versions (of the last four minors if none)
#   ./e2e/kube/build.sh --where [V]          only prints the folder where the programs of a version are
#
# What is built stays in the cache, and a second call returns at once. Six minutes on two cores when it is not there.
#
# Environment: MANX_CACHE   the cache's folder
#              MANX_NICE    the niceness of the build (10)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}/kube"
export PATH="$PATH:/usr/local/go/bin"
# The version that the suites run with, and the newest of each minor that is held to the datastore's suite besides.
kubernetes=1.35.4
others=(1.34.4 1.33.13 1.32.13)
# The first etcd line with all that streaming lists need.
etcd=3.6.5

say() { printf '== %s\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Where the programs of a version are. The API server alone is another build, so it has another folder.
folder() { printf '%s/kubernetes-%s%s\n' "$cache" "$1" "${2:+-$2}"; }

# Reads nothing from standard input, so that a terminal or a pipe of the caller's stays the caller's.
build() { nice -n "${MANX_NICE:-10}" go build -trimpath "$@" </dev/null; }

# The module of our own that builds Kubernetes. Its own go.mod points at folders beside itself ("staging") that are
# modules of their own outside its repository, under a version that follows from its own.
kubernetes_module() {
  local version="$1" into="$2" staging
  cp "$here"/kubernetes/*.go "$into/"
  say "fetching Kubernetes $version"
  (cd "$into" && printf 'module manx.test/kubernetes\n\ngo 1.24.0\n' >go.mod && go mod download "k8s.io/kubernetes@v$version")
  staging="$(sed -n 's|^\t\(k8s\.io/[^ ]*\) => \./staging.*|\1|p' \
    "$(go env GOMODCACHE)/cache/download/k8s.io/kubernetes/@v/v$version.mod")"
  [ -n "$staging" ] || fail "Kubernetes $version: no module of its own found in its go.mod"
  {
    printf 'module manx.test/kubernetes\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$version"
    for module in $staging; do printf '\t%s => %s v0.%s\n' "$module" "$module" "${version#1.}"; done
    printf ')\n'
  } >"$into/go.mod"
}

build_kubernetes() {
  local version="$1" only="${2:-}" to work flags tags=() name
  to="$(folder "$version" "$only")"
  [ -x "$to/kube-apiserver" ] && return
  work="$(mktemp -d "$cache/build.XXXXXX")"
  kubernetes_module "$version" "$work"
  [ -z "$only" ] || { tags=(-tags apiserveronly); rm "$work/cluster.go"; }
  flags="-s -w"
  for name in Version="v$version" Major=1 Minor="$(cut -d. -f2 <<<"$version")"; do
    flags+=" -X k8s.io/component-base/version.git$name"
  done
  (
    cd "$work"
    go mod tidy </dev/null
    say "building Kubernetes $version${only:+ ($only)}: some minutes"
    CGO_ENABLED=0 build "${tags[@]}" -ldflags "$flags" -o out/kubernetes .
    for name in kube-apiserver ${only:-kube-controller-manager kube-scheduler kubelet kube-proxy kubectl}; do
      [ "$name" = api-server ] || ln -s kubernetes "out/$name"
    done
  )
  # The folder appears whole or not at all: what an interrupted build left behind is never taken for a program.
  rm -rf "$to"
  mv "$work/out" "$to"
  rm -rf "$work"
}

build_etcd() {
  local to="$cache/etcd-$etcd" work
  [ -x "$to/etcd" ] && return
  work="$(mktemp -d "$cache/build.XXXXXX")"
  cp "$here/etcd/main.go" "$work/"
  printf 'module manx.test/etcd\n\ngo 1.24.0\n\nrequire go.etcd.io/etcd/server/v3 v%s\n' "$etcd" >"$work/go.mod"
  (
    cd "$work"
    say "building etcd $etcd"
    go mod tidy </dev/null
    CGO_ENABLED=0 build -ldflags "-s -w" -o out/etcd .
  )
  rm -rf "$to"
  mv "$work/out" "$to"
  rm -rf "$work"
}

only=""
case "${1:-}" in
  "") set -- "$kubernetes" ;;
  --where) folder "${2:-$kubernetes}"; exit ;;
  --api-server) shift; only=api-server; [ $# -gt 0 ] || set -- "$kubernetes" "${others[@]}" ;;
  -*) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
command -v go >/dev/null || fail "go is not installed: the Kubernetes programs are built from their Go modules"
mkdir -p "$cache"
# Suites that run side by side may all ask; one builds, the others wait and find it built.
exec 9>"$cache/lock"
flock 9
build_etcd
for version in "$@"; do build_kubernetes "$version" "$only"; done
for version in "$@"; do folder "$version" "$only"; done
