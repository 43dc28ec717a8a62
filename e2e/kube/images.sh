#!/usr/bin/env bash
# Builds the images that the cluster's nodes are given, out of programs and files, without Docker or a registry.
#
#   ./e2e/kube/images.sh      builds what is missing and prints the folder of the images
#
# pause.tar     what holds a pod's namespaces
# agnhost.tar   what Kubernetes' own tests run, under the names by which they ask for it
# coredns.tar   the cluster's DNS (manifests/coredns.yaml)
#
# What is built stays in the cache, and a second call returns at once.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}/kube"
export PATH="$PATH:/usr/sbin:/sbin"

say() { printf '== %s\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
# shellcheck source=cluster/packages.sh
. "$here/cluster/packages.sh"

# Kubernetes' specs run a shell, curl, nc, dig and nslookup in the pods of agnhost, each in the form that Debian has it: the
# applets of busybox by these names know other options.
programs=(curl:curl dash:dash nc.openbsd:netcat-openbsd dig:bind9-dnsutils openssl:openssl busybox:busybox-static)
applets=(awk cat chmod cp cut date dd echo env expr false grep head hostname id ip ls mkdir mktemp mv ping ping6 printf ps rm
  sed seq sleep sort stat tail tar test timeout touch tr true uname wc which xargs)

# put PROGRAM TREE/PATH: a program with the libraries that it is linked with, at the paths where it looks for them.
put() {
  local library
  install -D -m 755 "$1" "$2"
  # A static program has none, and that is no failure.
  { ldd "$1" 2>/dev/null || true; } | sed -n 's|^[^/]*\(/[^ ]*\) (0x.*|\1|p' | while read -r library; do
    [ -e "$tree$library" ] || install -D -m 755 "$library" "$tree$library"
  done
}

# A new file tree with what every program expects.
start_tree() {
  tree="$work/tree"
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,dev,etc,proc,sys,tmp,var}
  chmod 1777 "$tree/tmp"
  printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
  printf 'hosts: files dns\n' >"$tree/etc/nsswitch.conf"
}

digest() { sha256sum "$1" | cut -d' ' -f1; }

# image FILE ENTRYPOINT COMMAND NAME...: the tree as an image of one layer, as `docker save` writes them. The same tree
# gives the same bytes.
image() {
  local file="$1" entrypoint="$2" command="$3" layer configuration name names=""
  shift 3
  mkdir -p "$work/image"
  tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/image/layer.tar" .
  layer="$(digest "$work/image/layer.tar")"
  cat >"$work/image/configuration.json" <<JSON
{"architecture":"$(dpkg --print-architecture)","os":"linux","config":{"Entrypoint":["$entrypoint"],"Cmd":["$command"],"Env":["PATH=/bin:/"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created_by":"images.sh"}]}
JSON
  configuration="$(digest "$work/image/configuration.json").json"
  mv "$work/image/configuration.json" "$work/image/$configuration"
  for name in "$@"; do names+="${names:+,}\"$name\""; done
  printf '[{"Config":"%s","RepoTags":[%s],"Layers":["layer.tar"]}]\n' "$configuration" "$names" >"$work/image/manifest.json"
  tar -C "$work/image" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/out/$file" .
  rm -rf "$work/image"
}

# The names that Kubernetes' tests give to some images: it alone knows which versions it wants.
wanted() { "$suite" --list-images | grep -E "/($1):" | LC_ALL=C sort || fail "Kubernetes' tests name no image $1"; }

make_pause() {
  start_tree
  "${CC:-cc}" -static -Os -s -o "$work/pause" "$here/images/pause.c"
  put "$work/pause" "$tree/pause"
  # shellcheck disable=SC2046
  image pause.tar /pause "" manx.test/pause:1 $(wanted pause)
}

make_agnhost() {
  local applet
  start_tree
  put "$agnhost" "$tree/agnhost"
  put "$(command -v busybox)" "$tree/bin/busybox"
  for applet in "${applets[@]}"; do ln -s busybox "$tree/bin/$applet"; done
  put "$(command -v dash)" "$tree/bin/sh"
  put "$(command -v curl)" "$tree/bin/curl"
  put "$(command -v nc.openbsd)" "$tree/bin/nc"
  put "$(command -v dig)" "$tree/bin/dig"
  put "$(command -v nslookup)" "$tree/bin/nslookup"
  put "$(command -v getent)" "$tree/bin/getent"
  # What agnhost serves TLS with, and where it puts what is uploaded.
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -days 3650 \
    -keyout "$tree/localhost.key" -out "$tree/localhost.crt" 2>/dev/null
  chmod 644 "$tree/localhost.key"
  mkdir -p "$tree/uploads"
  # Some specs want another image that knows names, one with a shell, or any that stays: this one is all of that.
  # shellcheck disable=SC2046
  image agnhost.tar /agnhost pause manx.test/agnhost:1 $(wanted 'agnhost|jessie-dnsutils|busybox|nginx')
}

make_coredns() {
  start_tree
  put "$coredns" "$tree/coredns"
  image coredns.tar /coredns -version manx.test/coredns:1
}

install_missing "${programs[@]}"
{ read -r agnhost; read -r suite; read -r coredns; } < <("$here/build.sh" --tools agnhost e2e.test coredns)
[ -x "$agnhost" ] && [ -x "$suite" ] && [ -x "$coredns" ] || fail "the programs are not where build.sh says"
# Another program or another way of making images makes other images.
version="$(cat "$here/images.sh" "$here/images/pause.c" <(echo "$agnhost $suite $coredns") | sha256sum | cut -c1-12)"
to="$cache/images-$version"
if [ ! -d "$to" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/images.lock"
  flock 9
fi
if [ ! -d "$to" ]; then
  work="$(mktemp -d "$cache/images.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/out"
  say "building images"
  make_pause
  make_agnhost
  make_coredns
  # Those of before, unless a cluster of today may still give them to a new node.
  find "$cache" -maxdepth 1 -name "images-*" -type d -mmin +1440 -exec rm -rf {} +
  # Whole or not at all.
  mv "$work/out" "$to"
fi
echo "$to"
