# shellcheck shell=bash
# Policy moves under traffic from nftables into both variants of iptables and back: nothing opens, nothing is cut, nothing of
# the earlier way remains, kube-proxy's rules stay. Kubernetes' own specs find the same policies in force.

# Kubernetes' specs that are run with each variant; not the same ones, so that both together cover more.
through_legacy=(
  "should support a 'default-deny-ingress' policy"
  'should enforce policy based on PodSelector and NamespaceSelector'
  'should enforce policy based on Ports'
  'should work with Ingress, Egress specified together'
  'should enforce except clause while egress access to server in CIDR block'
)
through_nft=(
  "should support a 'default-deny-all' policy"
  'should enforce policy to allow traffic only from a different namespace, based on NamespaceSelector'
  'should allow egress access on one named port'
  'should enforce updated policy'
  'should allow ingress access from updated pod'
)

# Whoever may send to `two`, and who may not, beside each other.
only_one() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: only-one, namespace: pods }
spec:
  podSelector: { matchLabels: { app: two } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: one } } }] }]
YAML
}

# In which ways a node holds policy of ours now: each that has anything of it.
ways_of() {
  # shellcheck disable=SC2016
  cluster node-exec "$1" -- /bin/bash -c '
    ! nft list tables | grep -qw "inet manx" || echo NFTables
    ! { iptables-legacy-save; ip6tables-legacy-save; } 2>/dev/null | grep -q cali- || echo IptablesLegacy
    ! { iptables-nft-save; ip6tables-nft-save; } 2>/dev/null | grep -q cali- || echo IptablesNFT
    ! ipset list -name | grep -q ^cali || echo sets' | xargs
}
# holds_policy_in NODE WAY: in this way alone.
holds_policy_in() {
  local found wanted="$2"
  [ "$2" = NFTables ] || wanted="$2 sets"
  found="$(ways_of "$1")"
  echo "$1 has: $found"
  [ "$found" = "$wanted" ]
}
# kube-proxy's rules of a node, without what counts.
proxy_rules_of() {
  cluster node-exec "$1" -- /bin/bash -c '{ iptables-save; ip6tables-save; } 2>/dev/null' |
    sed 's/\[[0-9]*:[0-9]*\]//' | grep KUBE- | sort
}
# has_proxy_rules NODE: it has some, which are kept for comparing.
has_proxy_rules() { proxy_rules_of "$1" >"$work/proxy-$1" && grep -q KUBE-SERVICES "$work/proxy-$1"; }
proxy_rules_stay() {
  local node
  for node in "${nodes[@]}"; do
    diff "$work/proxy-$node" <(proxy_rules_of "$node") || return 1
  done
}
# An agent has two capabilities, whatever it works with, and can gain none.
has_two_capabilities() {
  local pid word
  pid="$(felix_of "$1")" || return 1
  for word in CapEff CapPrm CapBnd; do
    grep "$word" "/proc/$pid/status"
    grep -q "^$word:.0000000000003000\$" "/proc/$pid/status" || return 1
  done
}
# The lock under which an agent writes is the one that everybody on its node takes.
shares_the_lock() {
  local pid
  pid="$(felix_of "$1")" || return 1
  [ "$(stat -L -c %d:%i "/proc/$pid/root/run/xtables.lock")" = "$(cluster node-exec "$1" -- /usr/bin/stat -c %d:%i /run/xtables.lock)" ]
}
# to_rules WAY: helm upgrade to another way, under the traffic that goes on, and what has to be so after it.
to_rules() {
  local node
  check "helm upgrade to $1" helm upgrade manx "$root/charts/manx" --namespace "$namespace" --reset-values \
    --set "felix.rules=$1" --wait --timeout 10m
  for node in "${nodes[@]}"; do
    check "$node holds policy in $1, and nothing of another way is left" within 180 holds_policy_in "$node" "$1"
    check "its agent has no more rights than before" has_two_capabilities "$node"
    [ "$1" = NFTables ] || check "and the node's own lock" shares_the_lock "$node"
  done
  check "what is allowed is reached" within 60 asks one "$(address_of_pod two)"
  check "in either family" asks one "$(address_of_pod two pods 1)"
  check "what is denied is not" denied asks three "$(address_of_pod two)"
  check "in either family" denied asks three "$(address_of_pod two pods 1)"
  check "the stream was not cut" not grep -q closed "$work/iptables-stream"
  check "and goes on" grows "$work/iptables-stream"
  check "nothing denied was heard" not grep -q heard "$work/iptables-denied"
  check "kube-proxy's rules are as they were" within 60 proxy_rules_stay
}
# specs_with NAME SPEC...: these of Kubernetes' specs, or all.
specs_with() {
  local name="$1" spec wanted=()
  shift
  if [ -n "${MANX_WHOLE:-}" ]; then
    specs "$name" --timeout 90m
    return
  fi
  # Only what stands at the beginning of the suite's name: other suites have specs of the same words.
  for spec; do wanted+=(--focus "Netpol NetworkPolicy.*$spec"); done
  specs "$name" --timeout 30m "${wanted[@]}"
}

if wanted iptables; then
  part "policy that moves into iptables and back"
  check "kube-proxy works with iptables" cluster proxy iptables
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; server three node1; } >"$work/iptables.yaml"
  check "pods on both nodes" kubectl apply -f "$work/iptables.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  two="$(address_of_pod two)"
  one_pid="$(pid_in one)"
  two_pid="$(pid_in two)"
  three_pid="$(pid_in three)"
  (enter "$two_pid" perl -e "$listen" 6000) >"$work/iptables-stream" 2>&1 & background+=($!)
  (enter "$two_pid" perl -e "$hear" 6001) >"$work/iptables-heard" 2>&1 & background+=($!)
  (enter "$two_pid" perl -e "$hear" 6002) >"$work/iptables-denied" 2>&1 & background+=($!)
  for server in stream heard denied; do check "a server stands: $server" within 60 grep -q ready "$work/iptables-$server"; done
  (enter "$one_pid" perl -e "$talk" "$two" 6000) & background+=($!)
  (enter "$three_pid" perl -e "$flood" "$two" 6001) & asker=$! background+=($!)
  check "a stream flows" grows "$work/iptables-stream"
  check "without a policy everybody is heard" grows "$work/iptables-heard"
  only_one >"$work/only-one.yaml"
  check "a policy that allows one" kubectl apply -f "$work/only-one.yaml"
  check "closes the pod for another" within 60 denied asks three "$two"
  kill "$asker"
  (enter "$three_pid" perl -e "$flood" "$two" 6002) & background+=($!)
  for node in "${nodes[@]}"; do
    check "kube-proxy has its rules on $node" within 60 has_proxy_rules "$node"
  done

  to_rules IptablesLegacy
  specs_with legacy "${through_legacy[@]}"
  to_rules IptablesNFT
  specs_with nft "${through_nft[@]}"
  to_rules NFTables

  check "helm upgrade to the chart's own" helm upgrade manx "$root/charts/manx" --namespace "$namespace" --reset-values \
    --wait --timeout 10m
  check "kube-proxy works with nftables again" cluster proxy nftables
  check "address management is sound" within 180 manx ipam check
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
