#!/usr/bin/env bash
# Builds a real Kubernetes and a real etcd from their Go modules, once: the proofs run against these, not against doubles.
#
#   ./e2e/kube/build.sh                      all programs of the default version, and etcd
#   ./e2e/kube/build.sh --api-server [V...]  only the API server, of these versions (of the last four minors if none)
#   ./e2e/kube/build.sh --versions           only prints those of the last four minors
#   ./e2e/kube/build.sh --where [V]          only prints the folder where the programs of a version are
#   ./e2e/kube/build.sh --tools [NAME...]    what a suite works with, and prints the path of each: helm, cnitool, coredns,
#                                            and Kubernetes' own e2e.test, ginkgo and agnhost; all of them if none
#
# What is built stays in the cache, and a second call returns at once. Six minutes on two cores when it is not there, and
# as much again for all tools.
#
# Environment: MANX_CACHE   the cache's folder
#              MANX_NICE    the niceness of the build (10)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}/kube"
export PATH="$PATH:/usr/local/go/bin"
# The version that the suites run with, and the newest of each minor that is held to the datastore's suite besides.
kubernetes=1.35.4
others=(1.37.0 1.36.3 1.34.4)
# The first etcd line with all that streaming lists need.
etcd=3.6.5
helm=3.22.0
cnitool=1.3.0
coredns=1.13.1

say() { printf '== %s\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Where the programs of a version are. The API server alone is another build, so it has another folder.
folder() { printf '%s/kubernetes-%s%s\n' "$cache" "$1" "${2:+-$2}"; }

# Reads nothing from standard input, so that a terminal or a pipe of the caller's stays the caller's.
build() { nice -n "${MANX_NICE:-10}" go build -trimpath "$@" </dev/null; }

# The module of our own that builds Kubernetes, out of our sources of a folder. Its own go.mod points at folders beside
# itself ("staging") that are modules of their own outside its repository, under a version that follows from its own.
kubernetes_module() {
  local version="$1" into="$2" sources="${3:-kubernetes}" staging
  cp "$here/$sources"/*.go "$into/"
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

# What the linker writes into Kubernetes' programs: they tell each other their versions.
version_flags() {
  local name
  printf -- '-s -w'
  for name in Version="v$1" Major=1 Minor="$(cut -d. -f2 <<<"$1")"; do
    printf ' -X k8s.io/component-base/version.git%s' "$name"
  done
}

build_kubernetes() {
  local version="$1" only="${2:-}" to work flags tags=() name
  to="$(folder "$version" "$only")"
  [ -x "$to/kube-apiserver" ] && return
  work="$(mktemp -d "$cache/build.XXXXXX")"
  kubernetes_module "$version" "$work"
  [ -z "$only" ] || { tags=(-tags apiserveronly); rm "$work/cluster.go"; }
  flags="$(version_flags "$version")"
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

# build_program NAME VERSION REQUIREMENT...: one of a small module of ours, whose sources are in the folder of that name.
build_program() {
  local name="$1" version="$2" to="$cache/$1-$2" work
  shift 2
  [ -x "$to/$name" ] && return
  work="$(mktemp -d "$cache/build.XXXXXX")"
  cp "$here/$name/main.go" "$work/"
  { printf 'module manx.test/%s\n\ngo 1.24.0\n\n' "$name"; printf 'require %s\n' "$@"; } >"$work/go.mod"
  (
    cd "$work"
    say "building $name $version"
    go mod tidy </dev/null
    CGO_ENABLED=0 build -ldflags "-s -w" -o "out/$name" .
  )
  rm -rf "$to"
  mv "$work/out" "$to"
  rm -rf "$work"
}

build_etcd() { build_program etcd "$etcd" "go.etcd.io/etcd/server/v3 v$etcd"; }

# With Kubernetes' own version of its client, which is compiled already.
build_coredns() {
  local module modules=()
  for module in api apimachinery client-go; do modules+=("k8s.io/$module v0.${kubernetes#1.}"); done
  build_program coredns "$coredns" "github.com/coredns/coredns v$coredns" "${modules[@]}"
}

# install_program NAME VERSION PACKAGE: a program as its own module makes it.
install_program() {
  local name="$1" version="$2" package="$3" to="$cache/$1-$2" work
  [ -x "$to/$name" ] && return
  work="$(mktemp -d "$cache/build.XXXXXX")"
  say "building $name $version"
  GOBIN="$work" CGO_ENABLED=0 nice -n "${MANX_NICE:-10}" go install -trimpath -ldflags "-s -w" "$package@v$version" </dev/null
  rm -rf "$to"
  # Readable for everybody, unlike what mktemp makes.
  chmod 755 "$work"
  mv "$work" "$to"
}

# One of the programs of Kubernetes' own tests. They share a module, and each is built alone: the suite itself takes
# minutes, agnhost seconds.
build_test_program() {
  local name="$1" to="$cache/tests-$kubernetes" work
  [ -x "$to/$name" ] && return
  work="$(mktemp -d "$cache/build.XXXXXX")"
  kubernetes_module "$kubernetes" "$work" tests
  (
    cd "$work"
    go mod tidy </dev/null
    say "building $name of Kubernetes $kubernetes"
    export CGO_ENABLED=0
    case "$name" in
      e2e.test)
        nice -n "${MANX_NICE:-10}" go test -c -vet=off -trimpath -ldflags "$(version_flags "$kubernetes")" -o "out/$name" \
          k8s.io/kubernetes/test/e2e </dev/null
        ;;
      agnhost) build -ldflags "$(version_flags "$kubernetes")" -o "out/$name" k8s.io/kubernetes/test/images/agnhost ;;
      ginkgo) build -ldflags "-s -w" -o "out/$name" github.com/onsi/ginkgo/v2/ginkgo ;;
    esac
  )
  mkdir -p "$to"
  mv "$work/out/$name" "$to/"
  rm -rf "$work"
}

tools=(helm cnitool coredns agnhost ginkgo e2e.test)

build_tool() {
  case "$1" in
    helm) install_program helm "$helm" helm.sh/helm/v3/cmd/helm ;;
    cnitool) install_program cnitool "$cnitool" github.com/containernetworking/cni/cnitool ;;
    coredns) build_coredns ;;
    agnhost | ginkgo | e2e.test) build_test_program "$1" ;;
    *) fail "$1: not one of the tools ${tools[*]}" ;;
  esac
}

path_of_tool() {
  case "$1" in
    helm) echo "$cache/helm-$helm/helm" ;;
    cnitool) echo "$cache/cnitool-$cnitool/cnitool" ;;
    coredns) echo "$cache/coredns-$coredns/coredns" ;;
    *) echo "$cache/tests-$kubernetes/$1" ;;
  esac
}

only=""
case "${1:-}" in
  "") set -- "$kubernetes" ;;
  --versions) printf '%s\n' "$kubernetes" "${others[@]}" | sort -V; exit ;;
  --where) folder "${2:-$kubernetes}"; exit ;;
  --tools) shift; only=tools; [ $# -gt 0 ] || set -- "${tools[@]}" ;;
  --api-server) shift; only=api-server; [ $# -gt 0 ] || set -- "$kubernetes" "${others[@]}" ;;
  -*) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
# The programs that have been asked for, one of each build.
wanted() {
  local name
  if [ "$only" = tools ]; then
    for name in "$@"; do path_of_tool "$name"; done
  else
    echo "$cache/etcd-$etcd/etcd"
    for name in "$@"; do echo "$(folder "$name" "$only")/kube-apiserver"; done
  fi
}

is_built() {
  local program
  for program in $(wanted "$@"); do [ -x "$program" ] || return 1; done
}

build_all() {
  local name
  if [ "$only" = tools ]; then
    for name in "$@"; do build_tool "$name"; done
  else
    build_etcd
    for name in "$@"; do build_kubernetes "$name" "$only"; done
  fi
}

if ! is_built "$@"; then
  command -v go >/dev/null || fail "go is not installed: the Kubernetes programs are built from their Go modules"
  mkdir -p "$cache"
  # Suites that run side by side may all ask; one builds, the others wait and find it built. Who finds everything built
  # does not wait for what somebody else builds.
  exec 9>"$cache/lock"
  flock 9
  build_all "$@"
fi
if [ "$only" = tools ]; then
  wanted "$@"
else
  for version in "$@"; do folder "$version" "$only"; done
fi
