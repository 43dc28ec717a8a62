# shellcheck shell=bash
# Debian's packages for the programs that this machine lacks.

# install_missing PROGRAM:PACKAGE...: a program is a name of the path, or a path.
install_missing() {
  local program missing=()
  for program in "$@"; do
    command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
  done
  [ "${#missing[@]}" = 0 ] && return
  printf '== installing %s\n' "${missing[*]}" >&2
  apt-get update -qq </dev/null >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}
