#!/usr/bin/env bash
# Builds the programs of iptables that the image brings, both variants, static and from Debian's sources, and prints their
# folder. What is built stays in the cache, and a second call returns at once; the first takes a minute or two.
#
#   ./charts/image/iptables.sh              builds, prints the folder
#   ./charts/image/iptables.sh --links DIR  writes into a folder the names by which the programs are started there
#
# The folder has the two programs, and in `licences` what their licence wants to go with them. They are programs of their
# own under the GPL: felix starts them, and nothing of Manx is linked with them.
#
# Everything is fetched by apt from a mirror of Debian's that this machine has among its sources, so Debian's signatures
# are checked; versions are fixed here. The same compiler makes the same bytes of them.
#
# Environment: MANX_CACHE    the cache's folder
#              MANX_NICE     the niceness of the build (10)
#              MANX_DEBIAN   a mirror of Debian's, in place of this machine's own
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}/iptables"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# The sources, and the two libraries as their packages bring them for linking. libmnl has had that since Debian 13 only.
iptables=1.8.9-2
libnftnl=1.2.4-2
libmnl=1.0.5-3
releases=(bookworm trixie)
programs=(xtables-legacy-multi xtables-nft-multi)

say() { printf '== %s\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Each program is what its name says. Nothing is called just `iptables`, since that would be one of the two.
make_links() {
  local family variant action
  for family in iptables ip6tables; do
    for variant in legacy nft; do
      for action in "" -restore -save; do ln -s "xtables-$variant-multi" "$1/$family-$variant$action"; done
    done
  done
}

mirror() {
  local found
  found="${MANX_DEBIAN:-$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk '$2 ~ /^(bookworm|trixie|forky|sid|stable|testing|unstable)$/ { print $1; exit }')}"
  [ -n "$found" ] || fail "none of apt's sources is a mirror of Debian's; set MANX_DEBIAN to one (http://…/debian)"
  echo "$found"
}

# apt with sources, lists and locks of its own, so that the machine's stay as they are.
apt() {
  apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State="$work/state" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"
}

fetch() {
  local from release
  [ -f "$keys" ] || fail "$keys is not there: install debian-archive-keyring"
  from="$(mirror)"
  mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/fetched"
  for release in "${releases[@]}"; do
    printf '%s [signed-by=%s] %s %s main\n' deb "$keys" "$from" "$release" deb-src "$keys" "$from" "$release"
  done >"$work/sources.list"
  say "fetching iptables $iptables, libnftnl $libnftnl and libmnl $libmnl"
  apt update >&2
  (
    cd "$work/fetched"
    apt source --download-only "iptables=$iptables" >&2
    apt download "libnftnl-dev=$libnftnl" "libmnl-dev=$libmnl" >&2
  ) || fail "Debian's mirror $from does not have them; MANX_DEBIAN may name another"
}

unpack() {
  local patch upstream="${iptables%-*}"
  mkdir "$work/build" "$work/libraries"
  tar -xf "$work/fetched/iptables_$upstream.orig.tar.xz" -C "$work/build" --strip-components=1
  tar -xf "$work/fetched/iptables_$iptables.debian.tar.xz" -C "$work/build"
  while read -r patch; do
    case "$patch" in "" | \#*) ;; *) patch -d "$work/build" -p1 -s <"$work/build/debian/patches/$patch" ;; esac
  done <"$work/build/debian/patches/series"
  for patch in "$work/fetched"/*.deb; do dpkg-deb -x "$patch" "$work/libraries"; done
}

# All extensions are linked in: who reads a table has to know whatever anybody wrote into it.
compile() {
  local headers="-I$work/libraries/usr/include" libraries part flags smaller="-Wl,--gc-sections"
  libraries="$(dirname "$(find "$work/libraries" -name libmnl.a)")"
  flags="-Os -ffunction-sections -fdata-sections -ffile-prefix-map=$work=."
  cd "$work/build"
  PKG_CONFIG=none libmnl_CFLAGS="$headers" libmnl_LIBS="$libraries/libmnl.a" \
    libnftnl_CFLAGS="$headers" libnftnl_LIBS="$libraries/libnftnl.a $libraries/libmnl.a" \
    ./configure --prefix=/usr --enable-static --disable-shared --disable-connlabel --disable-dependency-tracking \
    --with-xtlibdir=/nowhere CFLAGS="$flags" LDFLAGS="$smaller"
  for part in libiptc libxtables extensions; do make -j"$(nproc)" -C "$part"; done
  make -j"$(nproc)" -C iptables LDFLAGS="$smaller -all-static" "${programs[@]}"
}

# What the licence wants to go along: who may do what, its own text, and where the sources are.
licences() {
  install -d "$1"
  install -m 0644 "$work/build/debian/copyright" "$1/iptables.copyright"
  install -m 0644 "$work/build/COPYING" "$1/GPL-2"
  install -m 0644 "$work/libraries/usr/share/doc/libnftnl-dev/copyright" "$1/libnftnl.copyright"
  install -m 0644 "$work/libraries/usr/share/doc/libmnl-dev/copyright" "$1/libmnl.copyright"
  cat >"$1/iptables.sources" <<TEXT
The programs xtables-legacy-multi and xtables-nft-multi in this image are those of iptables, under the GNU General Public
License, version 2 or newer (GPL-2 beside this file). They are programs of their own; nothing of Manx is part of them.
They were built by charts/image/iptables.sh of Manx, whose text says how, from these source packages of Debian:

  iptables $iptables, with its patches   (GPL, iptables.copyright)
  libnftnl $libnftnl                       (GPL, libnftnl.copyright)
  libmnl $libmnl                         (LGPL, libmnl.copyright)
  $(libc_package)   (LGPL)

Debian keeps the complete sources of every version: "apt-get source NAME=VERSION", or its archive of snapshots.
TEXT
  chmod 0644 "$1/iptables.sources"
}
# The C library that the compiler links with.
libc_package() { dpkg-query -W -f '${source:Package} ${source:Version}' libc6-dev 2>/dev/null || echo "glibc"; }

build() {
  local program
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  fetch
  unpack
  say "building the programs of iptables (a minute or two)"
  (compile) >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; fail "the programs of iptables cannot be built"; }
  mkdir -p "$cache"
  part="$(mktemp -d "$cache/part.XXXXXX")"
  for program in "${programs[@]}"; do
    install -m 0755 -s "$work/build/iptables/$program" "$part/$program"
  done
  make_links "$part"
  licences "$part/licences"
  chmod 0755 "$part"
  # Whole or not at all; who was quicker has made the same.
  mv -T "$part" "$folder" 2>/dev/null || rm -rf "$part"
}

case "${1:-}" in
  "") ;;
  --links) make_links "${2:?a folder}"; exit ;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
for program in apt-get gcc make patch xz dpkg-deb; do
  command -v "$program" >/dev/null || fail "$program is not there: apt-get install gcc libc6-dev make patch xz-utils"
done
# What was built with other versions, another way or by another compiler is another thing.
key="$({ cat "$here/iptables.sh"; gcc -dumpfullversion -dumpmachine; libc_package; } | sha256sum | cut -c 1-12)"
folder="$cache/${iptables%-*}-$key"
[ -d "$folder" ] || build
echo "$folder"
