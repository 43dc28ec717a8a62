# shellcheck shell=bash
# A node: a network namespace, a mount namespace, a control group, and in them containerd, kubelet and kube-proxy.
#
# It is made so that whatever runs on it finds the usual paths (/run/containerd/containerd.sock, /etc/cni/net.d,
# /var/lib/kubelet) and that none of them is another node's or the machine's: a DaemonSet's host paths just work.

# The folders that are a node's own. /run is its own too, and empty after every start.
own_paths=(/etc/cni /etc/kubernetes /opt/cni /var/lib/calico /var/lib/cni /var/lib/containerd /var/lib/kubelet
  /var/lib/manx /var/log/containers /var/log/manx /var/log/pods)
runtime=/run/containerd/containerd.sock

folder_of() { echo "$work/nodes/$1"; }
space_of() { echo "manx-$1"; }
nodes() { local folder; for folder in "$work"/nodes/*/; do [ ! -d "$folder" ] || basename "$folder"; done; }

# The last part of a node's addresses: node1 is 10.91.0.11 and fd91::11.
number_of() {
  [[ "$1" =~ ^node([1-9][0-9]?)$ ]] || fail "$1: nodes are called node1, node2 and so on"
  echo "$((10 + BASH_REMATCH[1]))"
}
address_of() { echo "10.91.0.$(number_of "$1")"; }
address6_of() { echo "fd91::$(number_of "$1")"; }

# in_node NODE COMMAND...: an absolute path, because the folder that one stands in may be another one there.
in_node() {
  local holder
  holder="$(pid_of "$1.holder")" || fail "$1 does not run"
  shift
  nsenter --target "$holder" --net --mount "$@"
}

make_space() {
  local node="$1" space hardware
  space="$(space_of "$node")"
  # The same after every boot, as a real card's.
  hardware="$(printf '02:91:00:00:00:%02x' "$(number_of "$node")")"
  ip netns add "$space"
  ip -n "$space" link set lo up
  ip -n "$control" link add "$node" type veth peer name eth0 address "$hardware" netns "$space"
  ip -n "$control" link set "$node" master switch up
  ip -n "$space" addr add "$(address_of "$node")/24" dev eth0
  ip -n "$space" addr add "$(address6_of "$node")/64" dev eth0 nodad
  ip -n "$space" link set eth0 up
  # Without a way to them, even addresses of Services could not be sent to.
  ip -n "$space" route add default via "$api_address"
  ip -n "$space" -6 route add default via "$api_address6"
  nsenter --net="/run/netns/$space" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
}

# Mount points that the machine lacks are made, and noted, so that `down` can take them away.
make_mount_points() {
  local path parent
  for path in "${own_paths[@]}"; do
    parent="$path"
    while [ ! -d "$parent" ]; do
      echo "$parent" >>"$work/made"
      parent="$(dirname "$parent")"
    done
    mkdir -p "$path"
  done
}

hold() {
  local node="$1"
  spawn "$node.holder" nsenter --net="/run/netns/$(space_of "$node")" unshare --mount --propagation private \
    "$here/cluster/mounts.sh" "$(folder_of "$node")/own" "${own_paths[@]}"
  within 60 is_mounted "$node" || { cat "$work/log/$node.holder" >&2; fail "$node: its mounts do not come up"; }
}
is_mounted() { test -e "/proc/$(pid_of "$1.holder")/root/run/mounted"; }

# Network configuration and plugins are looked for where an installer of a network puts them; there are none yet.
configure_containerd() {
  cat >"$(folder_of "$1")/containerd.toml" <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "$runtime"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "manx.test/pause:1"
  # Not every machine that tests run on lets processes lower their score or has AppArmor's profiles.
  restrict_oom_score_adj = true
  disable_apparmor = true
# Kubernetes' own tests start thousands of processes in pods, and crun starts each with a fraction of runc's work.
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "$(command -v crun || command -v runc)"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
TOML
}

# No filter of system calls by default, as Kubernetes has it: one is made for each process that a test starts in a pod, which
# is a tenth of all work. What Manx runs asks for its own.
# Images are imported, never pulled: nothing may collect them as unused. Evicting by the disk would make results depend on
# how full the machine's is.
configure_kubelet() {
  local folder
  folder="$(folder_of "$1")"
  : >"$folder/resolv.conf"
  cat >"$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: { enabled: false }
  webhook: { enabled: true }
  x509: { clientCAFile: $work/pki/ca.crt }
authorization: { mode: Webhook }
containerRuntimeEndpoint: unix://$runtime
staticPodPath: /etc/kubernetes/manifests
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /$(space_of "$1")
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: { memory.available: 50Mi }
imageGCHighThresholdPercent: 100
maxPods: 250
resolvConf: $folder/resolv.conf
clusterDNS: [$dns_address]
clusterDomain: cluster.local
YAML
}

configure_proxy() {
  cat >"$(folder_of "$1")/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $(cat "$work/proxy-mode")
hostnameOverride: $1
clusterCIDR: $pod_ranges
clientConnection: { kubeconfig: $work/kube-proxy.kubeconfig }
conntrack: { maxPerCore: 0 }
healthzBindAddress: 0.0.0.0:10256
metricsBindAddress: 0.0.0.0:10249
YAML
}

start_containerd() {
  local node="$1" holder
  holder="$(pid_of "$node.holder")"
  spawn "$node.containerd" nsenter --target "$holder" --net --mount \
    "$(command -v containerd)" --config "$(folder_of "$node")/containerd.toml"
  within 60 in_node "$node" "$(command -v ctr)" --address "$runtime" version ||
    { tail -n 20 "$work/log/$node.containerd" >&2; fail "$node: containerd does not answer"; }
}

start_kubelet() {
  local node="$1" holder
  holder="$(pid_of "$node.holder")"
  spawn "$node.kubelet" nsenter --target "$holder" --net --mount \
    "$kubernetes/kubelet" --kubeconfig "$(folder_of "$node")/kubeconfig" --config "$(folder_of "$node")/kubelet.yaml" \
    --hostname-override "$node" --node-ip "$(address_of "$node"),$(address6_of "$node")"
}

start_kube-proxy() {
  local node="$1" holder
  holder="$(pid_of "$node.holder")"
  spawn "$node.kube-proxy" nsenter --target "$holder" --net --mount \
    "$kubernetes/kube-proxy" --config "$(folder_of "$node")/kube-proxy.yaml"
}

import() { in_node "$1" "$(command -v ctr)" --address "$runtime" --namespace k8s.io images import - <"$2" >/dev/null; }

# Everything of a node that a boot brings up.
boot() {
  make_space "$1"
  make_groups "$(space_of "$1")"
  hold "$1"
  start_containerd "$1"
}

start_agents() {
  start_kubelet "$1"
  start_kube-proxy "$1"
}

# What a power cut does: the namespaces and all that ran in them are gone, the disk stays.
cut_power() {
  end_marked "$1."
  remove_groups "$(space_of "$1")"
  # Containers that hung between two of these have lost their shim and their group by now.
  end_marked "$1."
  rm -f "$work/pid/$1."*
  ip -n "$control" link del "$1" 2>/dev/null || true
  ip netns del "$(space_of "$1")" 2>/dev/null || true
}

# A new node with an empty disk, up to the point where its kubelet can start.
make_node() {
  local node="$1" folder image
  folder="$(folder_of "$node")"
  [ ! -d "$folder" ] || fail "$node is there already"
  number_of "$node" >/dev/null
  mkdir -p "$folder/own/etc/cni/net.d" "$folder/own/opt/cni/bin" "$folder/own/etc/kubernetes/manifests"
  certificate "$node" "/O=system:nodes/CN=system:node:$node" extendedKeyUsage=clientAuth
  kubeconfig "$folder/kubeconfig" "$node"
  configure_containerd "$node"
  configure_kubelet "$node"
  configure_proxy "$node"
  boot "$node"
  for image in "$images"/*.tar; do import "$node" "$image"; done
  start_agents "$node"
}

remove_node() {
  cut_power "$1"
  rm -rf --one-file-system "$(folder_of "$1")"
}
