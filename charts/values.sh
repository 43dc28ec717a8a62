#!/usr/bin/env bash
# The table of the chart's values in charts/README.md, made from the comments in values.yaml, so that neither is older
# than the other.
#
#   ./charts/values.sh            writes the table into the README
#   ./charts/values.sh --check    fails where the README has another table, or a value has no comment
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
readme="$here/README.md"
begin='<!-- Values: made by values.sh from manx/values.yaml. -->'
end='<!-- End of values. -->'

# One row a value. What is deeper than a list or a map of free content is that value's default, not a value.
table() {
  printf '| value | default | what it does |\n|---|---|---|\n'
  awk '
    function row(name, value, text) {
      gsub(/\|/, "\\|", text)
      gsub(/\|/, "\\|", value)
      printf "| `%s` | %s | %s |\n", name, value == "" ? "see values.yaml" : "`" value "`", text
    }
    /^ *#/ { line = $0; sub(/^ *# ?/, "", line); comment = comment == "" ? line : comment " " line; next }
    /^$/ { comment = ""; next }
    free && (/^ *- / || match($0, /^ */) && RLENGTH > free_depth) { next }
    {
      match($0, /^ */); depth = RLENGTH / 2; free = 0
      name = $0; sub(/^ */, "", name)
      value = name; sub(/:.*/, "", name); sub(/^[^:]*: ?/, "", value)
      path[depth] = name
      full = path[0]; for (i = 1; i <= depth; i++) full = full "." path[i]
      if (name ~ /^(tolerations|nodeSelector|resources|installResources|labels)$/ && value == "") {
        free = 1; free_depth = depth * 2
      } else if (value == "") { comment = ""; next }
      if (comment == "") { print "no comment in values.yaml, line " NR ": " full > "/dev/stderr"; exit 1 }
      row(full, value, comment)
      comment = ""
    }' "$here/manx/values.yaml"
}

# The README with the table in its place.
with_table() {
  awk -v from="$begin" '{ print } $0 == from { exit }' "$readme"
  printf '\n'
  table
  printf '\n'
  awk -v to="$end" '$0 == to { rest = 1 } rest' "$readme"
}

new="$(with_table; printf x)"
new="${new%x}"
if [ "${1:-}" = --check ]; then
  diff -u "$readme" <(printf '%s' "$new") || { echo "charts/README.md: run ./charts/values.sh" >&2; exit 1; }
else
  printf '%s' "$new" >"$readme"
fi
