# shellcheck shell=bash
# Inside pods without anybody's help: an API server, a kubelet or a container runtime may be what is dead.

# pid_in POD: a process of a pod, by the control group that carries its UID.
pid_in() {
  local uid group
  uid="$(kubectl -n pods get pod "$1" -o jsonpath='{.metadata.uid}')" || return 1
  for group in /proc/[0-9]*/cgroup; do
    if grep -qs "pod${uid}\|pod${uid//-/_}" "$group"; then
      group="${group#/proc/}"
      echo "${group%/cgroup}"
      return
    fi
  done
  return 1
}
# enter PID COMMAND...: this machine's program in a pod's network.
enter() { local pid="$1"; shift; exec nsenter -t "$pid" -n "$@"; }
# The process of a node's agent, by the network that it is in.
felix_of() {
  local pid own
  own="$(stat -L -c %i "/run/netns/manx-$1")"
  for pid in $(pgrep -x felix); do
    [ "$(stat -L -c %i "/proc/$pid/ns/net" 2>/dev/null)" = "$own" ] && { echo "$pid"; return; }
  done
  return 1
}
