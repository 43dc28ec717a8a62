# shellcheck shell=bash
# Policy beside another network: that one gives addresses and makes interfaces and routes, and goes on when we have left.

# The other network's plugin, which it also needs as `loopback`. It names interfaces as several clouds' plugins do:
# a prefix of its own and the beginning of the SHA-1 of the pod's name. One family, a range of the node's own, no address
# twice. What @RANGE@ stands for is filled in for each node.
other_plugin() {
  cat <<'PLUGIN'
#!/bin/bash
set -eu
export PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin"
version="$(sed -n 's/.*"cniVersion" *: *"\([0-9.]*\)".*/\1/p' | head -n 1)"
inside() { nsenter --net="$CNI_NETNS" "$@"; }
if [ "$CNI_COMMAND" = VERSION ]; then
  echo '{ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"] }'
  exit
fi
if [ "${0##*/}" = loopback ]; then
  [ "$CNI_COMMAND" != ADD ] || inside ip link set lo up
  printf '{ "cniVersion": "%s", "interfaces": [{ "name": "lo", "sandbox": "%s" }] }\n' "$version" "${CNI_NETNS:-}"
  exit
fi
declare -A said
IFS=';' read -ra pairs <<<"$CNI_ARGS"
for pair in "${pairs[@]}"; do said[${pair%%=*}]="${pair#*=}"; done
host="eni$(printf %s "${said[K8S_POD_NAMESPACE]}.${said[K8S_POD_NAME]}" | sha1sum | cut -c1-11)"
case "$CNI_COMMAND" in
  ADD)
    exec 9>/var/lib/cni/elsewhere.lock
    flock 9
    number=$(($(cat /var/lib/cni/elsewhere 2>/dev/null || echo 9) + 1))
    echo "$number" >/var/lib/cni/elsewhere
    address="@RANGE@.$number"
    ip link del "$host" 2>/dev/null || true
    echo "$CNI_CONTAINERID" >"/var/lib/cni/$host"
    ip link add "$host" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
    ip link set "$host" up
    hardware="$(ip -o link show "$host" | sed 's/.*link.ether \([^ ]*\).*/\1/')"
    inside ip address add "$address/32" dev "$CNI_IFNAME"
    inside ip link set "$CNI_IFNAME" up
    inside ip route add 169.254.1.1 dev "$CNI_IFNAME" scope link
    inside ip route add default via 169.254.1.1
    inside ip neighbour add 169.254.1.1 lladdr "$hardware" dev "$CNI_IFNAME" nud permanent
    ip route replace "$address/32" dev "$host"
    printf '{ "cniVersion": "%s", "interfaces": [{ "name": "%s", "sandbox": "%s" }], "ips": [{ "address": "%s/32", "interface": 0 }] }\n' \
      "$version" "$CNI_IFNAME" "$CNI_NETNS" "$address"
    ;;
  # A sandbox of an earlier pod of that name may be removed late, when the interface is another's.
  DEL) [ "$(cat "/var/lib/cni/$host" 2>/dev/null)" != "$CNI_CONTAINERID" ] || ip link del "$host" 2>/dev/null || true ;;
esac
PLUGIN
}
range_of() { kubectl get node "$1" -o jsonpath='{.spec.podCIDRs[*]}' | tr ' ' '\n' | grep -v :; }
address_of_node() { kubectl get node "$1" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}' | tr ' ' '\n' | grep -v : | head -n 1; }
install_other() {
  local range other
  range="$(range_of "$1")" || return 1
  # shellcheck disable=SC2016
  other_plugin | sed "s/@RANGE@/${range%.*}/" | cluster node-exec "$1" -- /bin/bash -c '
    mkdir -p /opt/cni/bin /etc/cni/net.d /var/lib/cni && cat >/opt/cni/bin/elsewhere &&
    cp /opt/cni/bin/elsewhere /opt/cni/bin/loopback && chmod 755 /opt/cni/bin/elsewhere /opt/cni/bin/loopback &&
    echo "{ \"cniVersion\": \"1.0.0\", \"name\": \"elsewhere\", \"plugins\": [{ \"type\": \"elsewhere\" }] }" >/etc/cni/net.d/50-elsewhere.conflist' || return 1
  for other in "${nodes[@]}"; do
    [ "$other" = "$1" ] || cluster node-exec "$other" -- /usr/sbin/ip route replace "$range" via "$(address_of_node "$1")" || return 1
  done
}
# The routes to pods are the other network's, and none of them is ours to change.
routes_of() { cluster node-exec "$1" -- /usr/sbin/ip route show | sort; }
same_routes() {
  local now
  now="$(routes_of "$1")"
  diff <(echo "$2") <(echo "$now")
}
ours_is_gone_from() {
  local left
  # shellcheck disable=SC2016
  left="$(cluster node-exec "$1" -- /bin/bash -c 'nft list tables | grep -w "inet manx"; find /run/manx /opt/cni/bin/manx* /etc/cni/net.d/*calico* /var/lib/manx/* 2>/dev/null; true')"
  echo "$left"
  [ -z "$left" ]
}

if wanted beside; then
  part "policy beside another network"
  if has_release >/dev/null 2>&1; then check "our own network goes" uninstall; fi
  kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace" >/dev/null
  check "agents may have their privileges" kubectl label --overwrite namespace "$namespace" pod-security.kubernetes.io/enforce=privileged
  check "the image is on every node" cluster import "$image"
  for node in "${nodes[@]}"; do check "another network comes to $node" install_other "$node"; done
  for node in "${nodes[@]}"; do check "which is ready by that" within 180 is_ready_node "$node"; done
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; server three node2; } >"$work/pods.yaml"
  check "pods that are older than we" kubectl apply -f "$work/pods.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  two="$(address_of_pod two)"
  check "and reach each other" asks one "$two"
  before="$(routes_of node2)"
  check "helm install, for policy only" helm install manx "$root/charts/manx" --namespace "$namespace" --wait --timeout 10m \
    --set networking=none --set felix.config.InterfacePrefix=eni
  check "manx status is content" manx status --wait=240
  check "no route is another" same_routes node2 "$before"
  check "pods still reach each other" asks one "$two"
  check "and on one node" asks three "$two"
  deny_all >"$work/deny.yaml"
  check "a policy that allows nobody" kubectl apply -f "$work/deny.yaml"
  check "closes the pod for another node" within 60 denied asks one "$two"
  check "and for its own" denied asks three "$two"
  check "a pod that nothing is said of stays open" asks one "$(address_of_pod three)"
  check "the pod is made anew" kubectl -n pods delete pod two --wait --timeout=240s
  server two node2 >"$work/two.yaml"
  check "under the policy" kubectl apply -f "$work/two.yaml"
  check "and is ready, by kubelet's probes" kubectl -n pods wait --for=condition=Ready pod/two --timeout=240s
  two="$(address_of_pod two)"
  check "it is closed" within 60 denied asks one "$two"
  allow_one >"$work/allow.yaml"
  check "a policy that allows one" kubectl apply -f "$work/allow.yaml"
  check "opens it for that one" within 60 asks one "$two"
  check "and for nobody else" denied asks three "$two"
  check "helm uninstall, with pods that run" uninstall
  for node in "${nodes[@]}"; do check "nothing of ours is left on $node" within 60 ours_is_gone_from "$node"; done
  check "policy went with us, the network stays" within 60 asks three "$two"
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
