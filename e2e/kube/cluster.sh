#!/usr/bin/env bash
# A real Kubernetes cluster on this machine: nodes are namespaces, everything that runs in them is the real thing.
#
#   ./e2e/kube/cluster.sh up [N] [--reference-network]   N nodes (2). They are NotReady until a network is installed; with
#                                    the option it is the CNI project's bridge, for trying the cluster itself
#   ./e2e/kube/cluster.sh down                           leaves nothing behind, also after a crash, also twice
#   ./e2e/kube/cluster.sh kubectl ARGUMENT...            as administrator
#   ./e2e/kube/cluster.sh env                            prints what a shell needs: eval "$(./e2e/kube/cluster.sh env)"
#   ./e2e/kube/cluster.sh import IMAGE.tar...            into the containerd of every node
#   ./e2e/kube/cluster.sh node-exec NODE -- COMMAND...   in the namespaces of a node ("control": in the control plane's)
#   ./e2e/kube/cluster.sh add NODE | remove NODE         a node with an empty disk comes; one goes with its object
#   ./e2e/kube/cluster.sh reboot NODE                    all that ran is gone, and /run; the rest of the disk stays
#   ./e2e/kube/cluster.sh kill PART [SIGNAL]             and back with: start PART. Without a signal: KILL
#   ./e2e/kube/cluster.sh proxy MODE                     every node's kube-proxy cleans up and starts in another mode
#   ./e2e/kube/cluster.sh status                         every part with its pid; fails where one does not run
#   ./e2e/kube/cluster.sh routes                         the control plane learns the way to the pods of every node
#
# Parts: etcd apiserver controller-manager scheduler, and NODE.containerd NODE.kubelet NODE.kube-proxy (also "containerd
# NODE"). Nodes are node1, node2 ... with 10.91.0.11, 10.91.0.12 ... and fd91::11, fd91::12 ...; this machine is their
# neighbour 10.91.0.254, and nobody else can reach them or be reached by them. One cluster at a time.
#
# Environment: MANX_CLUSTER      the cluster's folder (/var/lib/manx-cluster; not below /run, which every node has anew)
#              NODES             how many nodes
#              KUBE_PROXY_MODE   nftables (default) or iptables
#              MANX_CACHE        where the programs are kept once they are built (build.sh)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${MANX_CLUSTER:-/var/lib/manx-cluster}"
export PATH="$PATH:/usr/sbin:/sbin"

fail() { printf '%s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

# shellcheck source=cluster/packages.sh
. "$here/cluster/packages.sh"
# shellcheck source=cluster/processes.sh
. "$here/cluster/processes.sh"
# shellcheck source=cluster/control.sh
. "$here/cluster/control.sh"
# shellcheck source=cluster/node.sh
. "$here/cluster/node.sh"
# shellcheck source=cluster/routes.sh
. "$here/cluster/routes.sh"

# Settings of the machine that kubelet changes for everybody.
machine_settings=(vm.overcommit_memory kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
  kernel.keys.root_maxbytes)

# Finds programs and images, or builds them. Every other command reads where they are and builds nothing.
prepare() {
  local program
  install_missing containerd:containerd runc:runc ip:iproute2 nft:nftables iptables:iptables ipset:ipset \
    conntrack:conntrack openssl:openssl curl:curl sysctl:procps
  (install_missing crun:crun) || say "crun cannot be installed: runc starts what runs in pods, and takes longer"
  mkdir -p "$work/bin"
  kubernetes="$("$here/build.sh" | tail -n 1)"
  etcd="$(find "$(dirname "$kubernetes")" -path '*/etcd-*/etcd' | sort -V | tail -n 1)"
  images="$("$here/images.sh")"
  for program in "$kubernetes/kubectl" $("$here/build.sh" --tools); do ln -sf "$program" "$work/bin/"; done
  printf '%s=%q\n' kubernetes "$kubernetes" etcd "$etcd" images "$images" >"$work/programs"
}

require_cluster() {
  [ -d "$work/pid" ] || fail "there is no cluster in $work: ./e2e/kube/cluster.sh up"
  # shellcheck source=/dev/null
  . "$work/programs"
}

kubectl() { "$kubernetes/kubectl" --kubeconfig "$work/kubeconfig" "$@"; }

has_ranges() { [ -n "$(kubectl get node "$1" -o jsonpath='{.spec.podCIDRs}')" ]; }

wait_for_node() {
  within 180 has_ranges "$1" || { tail -n 20 "$work/log/$1.kubelet" >&2; fail "$1 does not register"; }
}

# What must be so before anything is made.
check_machine() {
  [ "$(id -u)" = 0 ] || fail "namespaces want root"
  case "$work" in
    /run/* | /var/run/*) fail "$work: every node has a /run of its own, so the cluster cannot be there" ;;
  esac
  if [ -e "$work/pid" ] || ip link show "$outside_link" >/dev/null 2>&1; then
    fail "a cluster is there already, or what is left of one: ./e2e/kube/cluster.sh down"
  fi
  [ -z "$(ip route show root 10.91.0.0/24)" ] || fail "10.91.0.0/24 is in use on this machine"
}

up() {
  local number="${NODES:-2}" reference="" node
  while [ $# -gt 0 ]; do
    case "$1" in
      --reference-network) reference=yes ;;
      [1-9] | [1-9][0-9]) number="$1" ;;
      *) fail "$1: neither a number of nodes nor --reference-network" ;;
    esac
    shift
  done
  check_machine
  prepare
  mkdir -p "$work/pid" "$work/log" "$work/nodes"
  echo "${KUBE_PROXY_MODE:-nftables}" >"$work/proxy-mode"
  sysctl "${machine_settings[@]}" 2>/dev/null | tr -d ' ' >"$work/settings"
  make_mount_points
  make_authority
  make_switch
  say "control plane"
  start_control
  for node in $(seq -f 'node%g' "$number"); do
    say "$node"
    make_node "$node"
  done
  for node in $(nodes); do wait_for_node "$node"; done
  [ -z "$reference" ] || install_reference_network
  kubectl get nodes -o wide
}

# In the order in which nothing is started anew meanwhile. Every step holds for what a crash left of it, too.
down() {
  local top group node setting path
  end_marked ""
  for top in $(hierarchies); do
    for group in "$top"/manx-node*/; do
      if [ -d "$group" ]; then remove_groups "$(basename "$group")"; fi
    done
  done
  end_marked ""
  for node in $(ip netns list | awk '/^manx-node[0-9]+( |$)/ { print $1 }'); do ip netns del "$node"; done
  remove_switch
  if [ -f "$work/settings" ]; then
    while read -r setting; do sysctl -qw "$setting" || true; done <"$work/settings"
  fi
  # Nothing of a node is mounted outside its own namespace; should it be, it is not deleted through.
  awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | sort -r |
    while read -r path; do umount -l "$path"; done
  if [ -f "$work/made" ]; then
    sort -r "$work/made" | while read -r path; do rmdir "$path" 2>/dev/null || true; done
  fi
  rm -rf --one-file-system "$work"
}

environment() {
  printf 'export KUBECONFIG=%q\n' "$work/kubeconfig"
  printf 'export PATH=%q:"$PATH"\n' "$work/bin"
  printf 'export MANX_NODES="%s"\n' "$(nodes | xargs)"
}

# A part's name; a node's parts may also be given as two words, the other way around.
name_of_part() {
  case "$1" in
    kcm) echo controller-manager ;;
    containerd | kubelet | kube-proxy) [ -n "${2:-}" ] || fail "$1 of which node?"; echo "$2.$1" ;;
    *) echo "$1" ;;
  esac
}

kill_part() {
  local part
  part="$(name_of_part "$@")"
  case "$1" in containerd | kubelet | kube-proxy) shift ;; esac
  signal "$part" "${2:-KILL}"
}

start_part() {
  local part
  part="$(name_of_part "$@")"
  is_gone "$part" || fail "$part runs already"
  case "$part" in
    etcd | controller-manager | scheduler) "start_$part" ;;
    apiserver)
      start_apiserver
      wait_for_apiserver
      ;;
    node*.containerd | node*.kubelet | node*.kube-proxy) "start_${part#*.}" "${part%%.*}" ;;
    *) fail "$part: no such part" ;;
  esac
}

status() {
  local part node pid bad=0
  local parts=(etcd apiserver controller-manager scheduler)
  for node in $(nodes); do parts+=("$node.holder" "$node.containerd" "$node.kubelet" "$node.kube-proxy"); done
  for part in "${parts[@]}"; do
    pid="$(pid_of "$part")" || { pid="does not run"; bad=1; }
    printf '%-20s %s\n' "$part" "$pid"
  done
  return "$bad"
}

# Marked as a part, so that what somebody leaves running in a node does not outlive the cluster.
node_exec() {
  local node="$1" holder
  shift
  [ "${1:-}" != -- ] || shift
  [ $# -gt 0 ] || fail "node-exec $node: which command?"
  export MANX_CLUSTER_PART="$work:$node.exec"
  if [ "$node" = control ]; then exec nsenter --net="/run/netns/$control" "$@"; fi
  holder="$(pid_of "$node.holder")" || fail "$node does not run"
  exec nsenter --target "$holder" --net --mount "$@"
}

require_node() { [ -d "$(folder_of "$1")" ] || fail "$1: no such node"; }

add() {
  make_node "$1"
  wait_for_node "$1"
}

remove() {
  require_node "$1"
  remove_node "$1"
  kubectl delete node "$1" --ignore-not-found
}

reboot() {
  require_node "$1"
  cut_power "$1"
  boot "$1"
  start_agents "$1"
}

# What the mode before left in the kernel is cleaned away by kube-proxy itself.
change_proxy() {
  local node
  case "$1" in nftables | iptables) echo "$1" >"$work/proxy-mode" ;; *) fail "$1: kube-proxy's mode is nftables or iptables" ;; esac
  for node in $(nodes); do
    is_gone "$node.kube-proxy" || signal "$node.kube-proxy" KILL
    in_node "$node" "$kubernetes/kube-proxy" --cleanup --config "$(folder_of "$node")/kube-proxy.yaml" >>"$work/log/$node.kube-proxy" 2>&1
    configure_proxy "$node"
    start_kube-proxy "$node"
  done
}

import_everywhere() {
  local node image
  for node in $(nodes); do
    for image in "$@"; do import "$node" "$image"; done
  done
}

command="${1:-}"
[ $# = 0 ] || shift
case "$command" in
  up | down) "$command" "$@" ;;
  kubectl | env | import | node-exec | add | remove | reboot | kill | start | proxy | status | routes) require_cluster ;;
  *) sed -n '2,30s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
case "$command" in
  kubectl) exec "$kubernetes/kubectl" --kubeconfig "$work/kubeconfig" "$@" ;;
  env) environment ;;
  import) import_everywhere "$@" ;;
  node-exec) node_exec "${1:?which node?}" "${@:2}" ;;
  add | remove | reboot) "$command" "${1:?which node?}" ;;
  kill) kill_part "${1:?which part?}" "${@:2}" ;;
  start) start_part "${1:?which part?}" "${@:2}" ;;
  proxy) change_proxy "${1:?which mode?}" ;;
  status) status ;;
  routes) learn_routes ;;
esac
