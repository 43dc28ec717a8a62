#!/usr/bin/env bash
# Builds the image with all of Manx's programs and those of iptables that felix starts: no shell, no libraries, nothing but
# static programs. It needs no Docker daemon, and the same programs give the same bytes.
#
#   ./charts/image/build.sh                     builds the programs and the image; prints the image's file
#   ./charts/image/build.sh --programs          builds Manx's programs only; prints their folder
#   ./charts/image/build.sh --from DIR [...]    takes Manx's programs that are in a folder
#   ./charts/image/build.sh --output FILE       writes the image there
#   ./charts/image/build.sh --reference NAME    calls the image so; more than once for more names
#   ./charts/image/build.sh --within BYTES      fails where the programs together are larger
#
# The file is a "docker archive": `ctr -n k8s.io images import FILE`, `docker load -i FILE` and `podman load -i FILE`
# take it. It is for the kind of machine that it is built on.
#
# Environment: MANX_CACHE          the cache's folder
#              MANX_NICE           the niceness of the build (10)
#              SOURCE_DATE_EPOCH   the time that the image says it is of, in seconds (0)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}"
# Agent, controller and command are one program that is each of them by its name (see src/main.rs); the plugin is apart.
programs=(manx-all manx-cni)
names=(felix manx manx-controller)
# Those of iptables come out of iptables.sh, which says how they are called.
tools=(xtables-legacy-multi xtables-nft-multi)
linking=()

say() { printf '== %s\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml"; }

# The image's word for this kind of machine, and Rust's.
case "$(uname -m)" in
  x86_64)
    architecture=amd64 target=x86_64-unknown-linux-gnu
    # Rust's own linker, which knows these, is the default here alone: relocations in a form that takes a tenth of the place,
    # and functions of the same code once.
    linking=(-C link-arg=-Wl,--pack-dyn-relocs=relr -C link-arg=-Wl,--icf=all)
    ;;
  aarch64) architecture=arm64 target=aarch64-unknown-linux-gnu ;;
  *) fail "no image is made for $(uname -m)" ;;
esac

# Whether Rust's library for a target is here; it is fetched where rustup is.
has_target() {
  local library
  library="$(rustc --print target-libdir --target "$1" 2>/dev/null)" || return 1
  [ -d "$library" ] || timeout 300 rustup target add "$1" >&2 || return 1
  [ -d "$library" ]
}

# Static programs, in a folder of their own beside the usual builds, whose flags differ.
build_programs() {
  local to="$cache/target-static" flags light="${target/-gnu/-musl}"
  say "building static programs (some minutes the first time)"
  # glibc answers for names from /etc/hosts and DNS also when it is linked in. Paths of the machine that builds do not
  # belong into the programs, or another machine's would differ; cargo names our own files from the root of the tree.
  flags="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
  (
    cd "$root"
    export RUSTFLAGS="$flags" CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=false
    built() { nice -n "${MANX_NICE:-10}" cargo rustc --release --locked --target-dir "$to" --bins "$@" >&2; }
    built -p charts-image --target "$target" -- "${linking[@]}"
    # The plugin is started for every pod that comes and goes. glibc begins each program with some fifty questions to the
    # processor, which on a virtual machine go to its hypervisor: 0.72 ms from start to end, and 0.18 ms with musl.
    if has_target "$light"; then
      built -p felix-cni-plugin --target "$light"
    else
      say "Rust has no library for $light here: the plugin has glibc's, and takes longer to start"
      built -p felix-cni-plugin --target "$target" -- "${linking[@]}"
      light="$target"
    fi
    mkdir -p "$to/programs"
    install -m 0755 "$to/$target/release/manx-all" "$to/$light/release/manx-cni" "$to/programs"
  )
  from="$to/programs"
}

# put PROGRAM FOLDER: a program that needs nothing else is put into the folder.
put() {
  local headers
  [ -f "$1" ] || fail "there is no $1"
  # Whole first: who reads a part of it only would end readelf, and that end would look like a program without the word.
  headers="$(readelf -l "$1")"
  if grep -q INTERP <<<"$headers"; then
    fail "$1 needs a dynamic linker, and the image has none: build it with this script"
  fi
  install -m 0755 "$1" "$2"
}

# A folder that has everything that the layer will, with modes that the caller's umask does not change.
stage() {
  local into="$1" program name
  install -d -m 0755 "$into/bin" "$into/licences"
  for program in "${programs[@]}"; do put "$from/$program" "$into/bin"; done
  for name in "${names[@]}"; do ln -s manx-all "$into/bin/$name"; done
  for program in "${tools[@]}"; do put "$iptables/$program" "$into/bin"; done
  "$here/iptables.sh" --links "$into/bin"
  install -m 0644 "$root/LICENSE" "$into/licences/Apache-2.0"
  install -m 0644 "$iptables/licences"/* "$into/licences"
}

# A tar whose bytes depend on names, modes and contents alone.
archive() {
  tar --create --file "$1" --directory "$2" --format=ustar --sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" \
    --owner=0 --group=0 --numeric-owner "${@:3}"
}

checksum() { sha256sum "$1" | cut -d ' ' -f 1; }

# The configuration of the image: nothing is started by itself, since the chart names the program.
configuration() {
  local created
  created="$(date -u -d "@${SOURCE_DATE_EPOCH:-0}" +%Y-%m-%dT%H:%M:%SZ)"
  printf '{"architecture":"%s","os":"linux","created":"%s","config":{"Cmd":["manx","--help"],"Env":["PATH=/bin"],"Labels":{"org.opencontainers.image.title":"manx","org.opencontainers.image.version":"%s","org.opencontainers.image.licenses":"Apache-2.0 AND GPL-2.0-or-later"}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"%s","created_by":"charts/image/build.sh"}]}' \
    "$architecture" "$created" "$(version)" "$1" "$created"
}

build_image() {
  local layer config quoted="" reference
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  stage "$work/layer"
  install -d "$work/image"
  archive "$work/layer.tar" "$work/layer" bin licences
  layer="$(checksum "$work/layer.tar")"
  mv "$work/layer.tar" "$work/image/$layer.tar"
  configuration "$layer" >"$work/config"
  config="$(checksum "$work/config")"
  mv "$work/config" "$work/image/$config.json"
  for reference in "${references[@]}"; do quoted+="${quoted:+,}\"$reference\""; done
  printf '[{"Config":"%s.json","RepoTags":[%s],"Layers":["%s.tar"]}]' "$config" "$quoted" "$layer" \
    >"$work/image/manifest.json"
  chmod 0644 "$work/image"/*
  mkdir -p "$(dirname "$output")"
  # Whole or not at all, and never half a file under the name that somebody imports.
  archive "$output.part" "$work/image" manifest.json "$config.json" "$layer.tar"
  mv "$output.part" "$output"
  report "$work/layer/bin"
}

report() {
  local program total=0 size
  for program in "${programs[@]}" "${tools[@]}"; do
    size="$(stat -c %s "$1/$program")"
    total=$((total + size))
    printf '%12d  %s\n' "$size" "$program" >&2
  done
  printf '%12d  all\n' "$total" >&2
  [ -z "$within" ] || [ "$total" -le "$within" ] || fail "that is more than $within"
}

from="" output="" programs_only="" within="" references=()
while [ $# -gt 0 ]; do
  case "$1" in
    --programs) programs_only=yes; shift ;;
    --from) from="${2:?a folder}"; shift 2 ;;
    --output) output="${2:?a file}"; shift 2 ;;
    --within) within="${2:?a number of bytes}"; shift 2 ;;
    --reference) references+=("${2:?a name}"); shift 2 ;;
    *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ "${#references[@]}" -gt 0 ] || references=("manx/manx:$(version)")
[ -n "$output" ] || output="$cache/image/manx-$(version)-$architecture.tar"
[ -n "$from" ] || build_programs
if [ -n "$programs_only" ]; then
  echo "$from"
else
  iptables="$("$here/iptables.sh" | tail -n 1)"
  build_image
  echo "$output"
fi
