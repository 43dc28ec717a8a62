# shellcheck shell=bash
# How a suite of commands checks and counts; sourced by the suites. What cannot run here is skipped by name, and counts.

passed=0
failed=0
skipped=0

# Says how long the suite has run already, so that what takes its time can be told from its output.
part() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); printf 'FAILED: %s\n' "$1"; shift; [ $# = 0 ] || printf '    %s\n' "$@" | head -20; }

# check NAME COMMAND...: the command succeeds.
check() {
  local name="$1" output
  shift
  if output="$("$@" 2>&1)"; then pass; printf 'ok: %s\n' "$name"; else fail "$name" "$output"; fi
}

# code NAME CODE COMMAND...: the command ends with this code.
code() {
  local name="$1" want="$2" output got
  shift 2
  output="$("$@" 2>&1)"
  got=$?
  if [ "$got" = "$want" ]; then pass; printf 'ok: %s\n' "$name"; else fail "$name" "exit code $got, not $want" "$output"; fi
}

# says NAME TEXT COMMAND...: the command writes the text, whatever its code.
says() {
  local name="$1" text="$2" output
  shift 2
  output="$("$@" 2>&1)"
  if grep -qF -- "$text" <<<"$output"; then pass; printf 'ok: %s\n' "$name"; else fail "$name" "nowhere: $text" "$output"; fi
}

# wrote TEXT COMMAND...: the command writes the text, whatever its code; for what has to become so.
wrote() {
  local text="$1" output
  shift
  output="$("$@" 2>&1)"
  printf '%s\n' "$output"
  grep -qF -- "$text" <<<"$output"
}

# within SECONDS COMMAND...: the command succeeds before the time is over; what it wrote last is shown if not. The time is
# there for what never comes, and is no promise: a slow machine that is busy has to keep within it.
within() {
  local deadline=$((SECONDS + $1)) output
  shift
  until output="$("$@" 2>&1)"; do
    [ "$SECONDS" -lt "$deadline" ] || { printf '%s\n' "$output" | grep -iv -e ' ok *$' | tail -n 15; return 1; }
    sleep 0.05
  done
}

# slay PID: ends a process without a word, and waits for its end: what it holds (a port, a table) goes with it, not before.
slay() {
  kill -9 "$1" && within 60 has_ended "$1"
}
# Its first thread waits for all others, and each of them holds what the process has.
has_ended() {
  local threads=("/proc/$1/task/"*)
  [ ! -e "/proc/$1" ] || { [ "${#threads[@]}" -le 1 ] && grep -qs '^State:.Z' "/proc/$1/status"; }
}

not() { ! "$@"; }
# denied COMMAND...: nothing answers the command, which asks a network for no longer than "patience" says. A refusal is
# silent, so it is waited for as long as it takes; an answer may take as long as a busy machine needs.
denied() { local patience=2; ! "$@"; }
skip() { skipped=$((skipped + 1)); printf 'skipped: %s: %s\n' "$1" "$2"; }

# The closing line, and the suite's code.
close() {
  printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
