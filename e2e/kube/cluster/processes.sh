# shellcheck shell=bash
# The cluster's processes: each is known by its part's name, and each carries a mark in its environment.
#
# The mark is what makes `down` complete: a process that a crash left without a pid file, a shim that containerd started,
# a command that somebody runs in a node, all are found by it, and nothing else is. It also tells whether the number in
# a pid file still means the process that wrote it.

# spawn PART COMMAND...: starts a part in the background, away from the terminal and its signals.
spawn() {
  local part="$1"
  shift
  MANX_CLUSTER_PART="$work:$part" setsid "$@" </dev/null >>"$work/log/$part" 2>&1 9>&- &
  echo $! >"$work/pid/$part"
}

# carries PID PREFIX: the process belongs to a part whose name begins so.
carries() { grep -qzF "MANX_CLUSTER_PART=$work:$2" "/proc/$1/environ" 2>/dev/null; }

# The pid of a part that runs; fails where it does not.
pid_of() {
  local pid
  pid="$(cat "$work/pid/$1" 2>/dev/null)" && [ -n "$pid" ] && carries "$pid" "$1" && echo "$pid"
}

# has_ended PID: all of a process is gone, and with it what it holds. Its first thread waits for all others, without an
# environment of its own, and each of them holds what the process has.
has_ended() {
  local threads=("/proc/$1/task/"*)
  [ ! -e "/proc/$1" ] || { [ "${#threads[@]}" -le 1 ] && grep -qs '^State:.Z' "/proc/$1/status"; }
}

is_alive() { pid_of "$1" >/dev/null; }
is_gone() { ! is_alive "$1"; }

# within SECONDS COMMAND...: the command succeeds before the time is over.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# Sends a part a signal, and for one that ends it waits until it has gone: whoever kills wants it dead on return.
signal() {
  local part="$1" signal="$2" pid
  pid="$(pid_of "$part")" || fail "$part does not run"
  kill -s "$signal" "$pid"
  case "$signal" in
    KILL | TERM) within 60 has_ended "$pid" || fail "$part ($pid) does not end" ;;
  esac
}

# Every process of the parts whose names begin so.
marked() {
  local folder
  for folder in /proc/[0-9]*; do
    if carries "${folder#/proc/}" "$1"; then echo "${folder#/proc/}"; fi
  done
}

# Ends every process of the parts whose names begin so. They hold nothing that anybody wants back, so none is asked.
# Again and again, because one of them may have just started another.
end_marked() {
  local tries pids
  for tries in $(seq 50); do
    pids="$(marked "$1")"
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086
    kill -9 $pids 2>/dev/null || true
    sleep 0.1
  done
  fail "still there: $pids"
}

# The mounted hierarchies of control groups: those of version 1, that of version 2, or both beside each other.
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts | sort -u; }

# Makes the group that holds all containers of a node. A cpuset of version 1 takes nobody in before it is filled, and one
# of version 2 has what its parent hands down.
make_groups() {
  local top file controller
  for top in $(hierarchies); do
    mkdir -p "$top/$1"
    for file in cpuset.cpus cpuset.mems; do
      if [ -f "$top/$file" ] && [ -f "$top/tasks" ]; then cat "$top/$file" >"$top/$1/$file"; fi
    done
    [ -f "$top/cgroup.controllers" ] || continue
    for controller in $(cat "$top/cgroup.controllers"); do
      echo "+$controller" >"$top/cgroup.subtree_control" 2>/dev/null || true
    done
  done
}

members() {
  local top
  for top in $(hierarchies); do
    [ ! -d "$top/$1" ] || find "$top/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -u
}

# Ends all containers of a node and removes its group.
remove_groups() {
  local tries pids top
  for tries in $(seq 50); do
    pids="$(members "$1")"
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
    for top in $(hierarchies); do
      [ ! -d "$top/$1" ] || find "$top/$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    [ -n "$(groups_left "$1")" ] || return 0
    sleep 0.1
  done
  fail "control groups that do not go: $(groups_left "$1")"
}

groups_left() {
  local top
  for top in $(hierarchies); do
    if [ -d "$top/$1" ]; then echo "$top/$1"; fi
  done
}
