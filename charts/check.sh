#!/usr/bin/env bash
# Holds the chart to Helm, to a real API server and to what it promises: nothing is installed that is not allowed, no
# agent gets further than its own node, and what must stay stays.
#
#   ./charts/check.sh           ends with "N passed, N failed", and with an exit status that says the same
#   ./charts/check.sh dry-run   only what an API server says of it
#
# It starts an API server of its own on loopback (e2e/kube/apiserver.sh) and leaves nothing behind.
#
# Environment: MANX_CACHE   the cache's folder, where helm and the API server are
#              HELM         another helm
#              MANX_KUBE_VERSION   another version of Kubernetes, as e2e/kube/build.sh builds it
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/.." && pwd)"
chart="$here/manx"
cache="${MANX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/manx}"
namespace=manx-check
passed=0 failed=0

say() { printf '\n== %s\n' "$*"; }

pass() { passed=$((passed + 1)); printf 'ok    %s\n' "$1"; }

# What was seen goes with it: nobody should have to repeat a check to learn why it failed.
fail() {
  failed=$((failed + 1))
  printf 'FAIL  %s\n' "$1"
  head -n 20 <<<"${2:-}" | sed 's/^/      /'
}

# A command that must succeed.
holds() {
  local name="$1" said
  shift
  if said="$("$@" 2>&1)"; then pass "$name"; else fail "$name" "$said"; fi
}

# A command that must fail, and say so in these words: one that fails for another reason proves nothing.
refused() {
  local name="$1" words="$2" said
  shift 2
  if said="$("$@" 2>&1)"; then
    fail "$name" "it was not refused: $said"
  elif grep -qE -- "$words" <<<"$said"; then
    pass "$name"
  else
    fail "$name" "refused, but without the words '$words': $said"
  fi
}

# Tries until it succeeds: an API server takes a moment to follow what it was told. The time is for what never comes.
until_holds() {
  local end=$((SECONDS + 180))
  while [ "$SECONDS" -lt "$end" ]; do
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
  done
  "$@"
}

find_programs() {
  HELM="${HELM:-$("$root/e2e/kube/build.sh" --tools helm | tail -n 1)}"
  kubectl="$("$root/e2e/kube/build.sh" | tail -n 1)/kubectl"
}

template() { "$HELM" template manx "$chart" --namespace "$namespace" --kube-version "${MANX_KUBE_VERSION:-1.35.4}" "$@"; }
kube() { "$kubectl" --kubeconfig "$bed/kubeconfig" "$@"; }
helm() { "$HELM" --kubeconfig "$bed/kubeconfig" --namespace "$namespace" "$@"; }

# Charts alone: no API server is needed.

check_lint() {
  say "lint"
  holds "the chart is clean with its defaults" "$HELM" lint --strict "$chart"
  holds "with all options on" "$HELM" lint --strict "$chart" --values "$here/check/all-options.yaml"
  holds "as policy beside another network" "$HELM" lint --strict "$chart" --set networking=none
  holds "its version is the programs'" versions_agree
  holds "every value has a comment, and the README has them all" "$here/values.sh" --check
}

versions_agree() {
  local programs chart_says
  programs="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")"
  chart_says="$(sed -n 's/^appVersion: //p' "$chart/Chart.yaml")"
  [ "$programs" = "$chart_says" ] || { echo "Cargo.toml says $programs, Chart.yaml $chart_says"; return 1; }
}

check_schema() {
  say "values that make no sense are refused"
  local value words
  while read -r value words; do
    refused "$value" "$words" template --set "$value"
  done <<'LIST'
networking=calico networking
neworking=manx neworking
image.digest=latest digest
cni.confName=../x.conf confName
cni.binDir=opt/cni binDir
cni.mtu=9 mtu
cni.skipBinaries={bridge} skipBinaries
ip.autodetectionMethod=guess autodetectionMethod
pools.ipv4.cidr=10.0.0.0 cidr
pools.ipv4.blockSize=19 blockSize
pools.ipv4.vxlan=Always,pools.ipv4.ipip=Always anyOf|ipv4
felix.healthPort=0 healthPort
felix.maxUnavailable=0% maxUnavailable
felix.config.HealthPort=9 the.chart.sets.it.itself
felix.rules=iptables rules
felix.rules=Iptables,felix.config.NFTablesMode=Enabled the.chart.sets.it.itself
felix.resource=x resource
controller.logLevel=loud logLevel
controller.enabledControllers=node;pool enabledControllers
controller.leakGrace=15 leakGrace
uninstall.timeout=soon timeout
uninstall.hooks=sometimes hooks
LIST
}

check_contents() {
  say "what the chart holds"
  local all none
  all="$(template --values "$here/check/all-options.yaml")"
  none="$(template --set networking=none)"
  holds "no custom resource of ours" lacks "$all" '^apiVersion: projectcalico.org'
  holds "every definition stays when the release goes" definitions_stay "$all"
  holds "no definition where none is wanted" lacks "$(template --set crds.install=false)" 'CustomResourceDefinition'
  holds "no privileged container, no host process, no SYS_ADMIN" lacks "$all" 'privileged: true|hostPID: true|SYS_ADMIN'
  holds "policy only: no plugin, no configuration, no pools" lacks "$none" 'install-cni|name: CNI_CONF_DIR|/opt/cni|/etc/cni'
  holds "who only renders the chart uninstalls nothing" lacks "$(template)" 'pre-delete|manx-uninstall'
  holds "pods are cut only where that is said" lacks "$(template --set uninstall.hooks=always)" '--force'
  holds "and where it is said they are" has "$all" '^ *- --force$'
  holds "policy only: pods of another network are not in the way" has "$(template --set uninstall.hooks=always,networking=none)" '--policy-only'
  holds "the plugin's folder is seen by the steps that install and uninstall only" sees_programs "$all"
  holds "policy only: the controller makes no pools" has "$none" 'name: NO_DEFAULT_POOLS'
  holds "whole numbers stay whole" has "$all" 'value: "1000000"'
  holds "nobody says what holds policy, where the values do not" lacks "$(template)" 'NFTABLESMODE|IPTABLESBACKEND'
  while read -r rules mode backend lock; do
    holds "policy in $rules" holds_policy_in "$(template --set "felix.rules=$rules")" "$mode" "$backend" "$lock"
  done <<'LIST'
Auto Auto Auto 2
NFTables Enabled Auto 0
Iptables Disabled Auto 2
IptablesLegacy Disabled Legacy 2
IptablesNFT Disabled NFT 2
LIST
  holds "the network configuration is JSON" network_configuration_is_json "$all"
  holds "so is that of the defaults" network_configuration_is_json "$(template)"
  holds "host ports are our plugin's, where nobody says otherwise" has "$(template)" '"capabilities": \{"portMappings": true\}$'
  holds "or those of portmap after it" has "$all" '"type": "portmap", .*"capabilities": \{"portMappings": true\}\}'
  holds "or nobody's" lacks "$(template --set cni.hostPorts=none)" portMappings
  holds "the dashboard is JSON" is_json "$(cat "$chart/files/dashboard.json")"
  if command -v promtool >/dev/null; then
    holds "promtool takes the alerts" promtool check rules "$chart/files/alerts.yaml"
    holds "each alert fires when it should, and none otherwise" promtool test rules "$here/check/alerts.yaml"
  else
    echo "-     promtool is not here (package prometheus): the alerts are checked by the API server only"
  fi
}

# Comments may name what is absent.
lacks() { ! grep -vE '^ *#' <<<"$1" | grep -nE -- "$2"; }
has() { grep -qE -- "$2" <<<"$1"; }

# One mount is the agent's own only in its first container, the other is the uninstalling step's.
sees_programs() { [ "$(grep -c 'mountPath: /host/opt/cni/bin' <<<"$1")" = 2 ]; }

# The two settings, and the lock in which the node's other programs wait as well.
holds_policy_in() {
  [ "$(grep -A1 'name: FELIX_NFTABLESMODE' <<<"$1" | sed -n 's/^ *value: //p')" = "$2" ] || return 1
  [ "$(grep -A1 'name: FELIX_IPTABLESBACKEND' <<<"$1" | sed -n 's/^ *value: //p')" = "$3" ] || return 1
  [ "$(grep -c 'ath: /run/xtables.lock' <<<"$1")" = "$4" ]
}

definitions_stay() {
  local definitions kept
  definitions="$(grep -c '^kind: CustomResourceDefinition' <<<"$1")"
  kept="$(grep -c 'helm.sh/resource-policy: keep' <<<"$1")"
  echo "$definitions definitions, $kept of them kept"
  [ "$definitions" -gt 10 ] && [ "$definitions" = "$kept" ]
}

network_configuration_is_json() {
  local text
  text="$(awk '/cni_network_config:/ { inside = 1; next } inside && !/^    / { exit } inside' <<<"$1")"
  is_json "$(sed 's/__CNI_MTU__/0/' <<<"$text")"
}

# Helm reads JSON itself, and refuses what is none.
is_json() { template --set-json "global=$1" >/dev/null; }

# With a real API server.

start_bed() {
  bed="$(mktemp -d)"
  trap stop_bed EXIT
  "$root/e2e/kube/apiserver.sh" start "$bed/server" >/dev/null
  ln -s "$bed/server/kubeconfig" "$bed/kubeconfig"
  kube create namespace "$namespace" >/dev/null
  kube apply -f "$here/check/prometheus-operator.yaml" >/dev/null
  until_holds kube get podmonitors.monitoring.coreos.com,prometheusrules.monitoring.coreos.com -A >/dev/null
}

stop_bed() {
  "$root/e2e/kube/apiserver.sh" stop "$bed/server" || true
  rm -rf "$bed"
}

check_dry_run() {
  say "what the API server says of it"
  local options
  for options in "" "--values $here/check/all-options.yaml" "--set networking=none" "--set crds.install=false"; do
    holds "taken as a whole: ${options:-defaults}" dry_run "$options"
  done
}

# Strictly: a field that the API server does not know would be dropped without a word otherwise.
dry_run() {
  # shellcheck disable=SC2086 # Several words on purpose.
  template $1 | kube apply --server-side --dry-run=server --validate=strict -f -
}

check_release() {
  say "a release's life"
  holds "install" helm install manx "$chart"
  holds "install is ready for objects" until_holds kube get ippools.projectcalico.org
  holds "upgrade to all options" helm upgrade manx "$chart" --values "$here/check/all-options.yaml"
  holds "the upgrade is in force" said_by_pods example/manx:next
  holds "rollback" helm rollback manx 1
  holds "the rollback is in force" said_by_pods 'manx/manx:[0-9.]+'
  holds "an object of ours" until_holds make_object
  check_uninstall
  holds "the object outlives the release" kube get globalnetworksets.projectcalico.org kept
  holds "nothing else does" nothing_is_left
  holds "install again" helm install manx "$chart"
}

check_uninstall() {
  local asked
  # Nobody here carries jobs out, so the check says in its controller's place how this one ended.
  helm uninstall manx >"$bed/said" 2>&1 &
  asked=$!
  holds "uninstall asks the nodes first" until_holds job_waits
  holds "under these roles and no others" uninstalls_under_stated_roles
  account=manx-uninstall
  while read -r verb rest; do
    # shellcheck disable=SC2086 # Several words on purpose.
    holds "may not $verb $rest" may_not "$verb" $rest
  done <<'LIST'
patch nodes
delete pods
get secrets
delete daemonsets.apps
patch clusterinformations.projectcalico.org/other
patch ippools.projectcalico.org
LIST
  holds "the job fails" job_ends '{"type":"FailureTarget","status":"True"},{"type":"Failed","status":"True","reason":"BackoffLimitExceeded"}' '"failed":1'
  ended=0
  wait "$asked" || ended=$?
  refused "a node that does not answer keeps the release" 'job manx-uninstall failed' as_helm_ended
  holds "with its agents" kube -n "$namespace" get daemonset manx-node
  holds "and without the steps" lacks_steps
  helm uninstall manx >"$bed/said" 2>&1 &
  asked=$!
  holds "it may be repeated" until_holds job_waits
  holds "the job ends well" job_ends '{"type":"SuccessCriteriaMet","status":"True"},{"type":"Complete","status":"True"}' \
    "\"succeeded\":1,\"completionTime\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\""
  ended=0
  wait "$asked" || ended=$?
  holds "uninstall" as_helm_ended
}

make_object() {
  kube apply -f - <<<'{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: kept}, spec: {nets: [192.0.2.0/24]}}'
}

# Waited for outside: a shell knows its own children only, and a check runs in another.
as_helm_ended() { cat "$bed/said"; return "$ended"; }

job_waits() {
  local ended
  ended="$(kube -n "$namespace" get job manx-uninstall -o 'jsonpath={.status.conditions}')" && [ -z "$ended" ]
}
job_ends() {
  kube -n "$namespace" patch job manx-uninstall --subresource=status --type=merge \
    -p "{\"status\":{\"startTime\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",$2,\"conditions\":[$1]}}"
}
lacks_steps() { ! kube -n "$namespace" get daemonset manx-uninstall >/dev/null 2>&1; }

uninstalls_under_stated_roles() {
  diff <(stated_permissions Uninstalling) <({
    kube get clusterrole manx-uninstall -o "go-template=$each_rule"
    kube -n "$namespace" get role manx-uninstall -o "go-template=$each_rule"
  } | sort)
}

said_by_pods() {
  local image
  image="$(kube -n "$namespace" get daemonset manx-node -o 'jsonpath={.spec.template.spec.containers[0].image}')"
  echo "the image is $image"
  grep -qE "$1" <<<"$image"
}

nothing_is_left() {
  local left
  left="$(kube get -A -o name -l app.kubernetes.io/instance=manx \
    daemonsets,deployments,jobs,serviceaccounts,configmaps,roles,rolebindings,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,flowschemas,prioritylevelconfigurations,poddisruptionbudgets)"
  [ -z "$left" ] || { echo "$left"; return 1; }
}

# Roles: each line is a verb, a resource, and where it has one a subresource or a name.

may() { kube auth can-i -n "$namespace" --as "system:serviceaccount:$namespace:$account" "$@"; }
may_not() { ! may "$@"; }

check_roles() {
  local verb rest
  say "what the roles allow an agent"
  account=manx-node
  while read -r verb rest; do
    # shellcheck disable=SC2086 # Several words on purpose.
    holds "may $verb $rest" until_holds may "$verb" $rest
  done <<'LIST'
watch pods
list networkpolicies.networking.k8s.io
watch endpointslices.discovery.k8s.io
watch ipamblocks.projectcalico.org
patch ipamblocks.projectcalico.org
delete blockaffinities.projectcalico.org
patch nodes --subresource=status
get apiservices.apiregistration.k8s.io/v3.projectcalico.org
get leases.coordination.k8s.io/manx-controller
watch clusterinformations.projectcalico.org
create selfsubjectreviews.authentication.k8s.io
LIST
  while read -r verb rest; do
    # shellcheck disable=SC2086 # Several words on purpose.
    holds "may not $verb $rest" may_not "$verb" $rest
  done <<'LIST'
get secrets
get configmaps
create pods
create pods --subresource=exec
patch pods
patch nodes
update nodes
create ippools.projectcalico.org
patch globalnetworkpolicies.projectcalico.org
create networkpolicies.networking.k8s.io
create ipamhandles.projectcalico.org
patch clusterinformations.projectcalico.org
get apiservices.apiregistration.k8s.io/v1.apps
create serviceaccounts --subresource=token
delete events
update leases.coordination.k8s.io/manx-controller
LIST
  say "what the roles allow the controller"
  holds "what controller/README.md says, and nothing else" roles_are_those_of_the_readme
  account=manx-controller
  while read -r verb rest; do
    # shellcheck disable=SC2086 # Several words on purpose.
    holds "may $verb $rest" until_holds may "$verb" $rest
  done <"$here/check/controller-may"
  while read -r verb rest; do
    # shellcheck disable=SC2086 # Several words on purpose.
    holds "may not $verb $rest" may_not "$verb" $rest
  done <"$here/check/controller-may-not"
}

# Both as lines of group, resource, name and verb.
roles_are_those_of_the_readme() {
  diff <(stated_permissions Permissions) <(shipped_permissions)
}

# stated_permissions HEADING: of the tables below a heading of the README.
stated_permissions() {
  awk -F '|' -v heading="## $1" '/^## /{ inside = ($0 == heading) }
    inside && NF == 7 && $2 ~ /`/ {
      gsub(/[` ]/, ""); if ($2 == "core") $2 = ""
      n = split($3, resources, ","); m = split($5, verbs, ",")
      for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) print $2 "|" resources[i] "|" $4 "|" verbs[j]
    }' "$root/controller/README.md" | sort
}

each_rule='{{range .rules}}{{$rule := .}}{{range $group := .apiGroups}}{{range $resource := $rule.resources}}{{range $verb := $rule.verbs}}'
each_rule+='{{if $rule.resourceNames}}{{range $rule.resourceNames}}{{$group}}|{{$resource}}|{{.}}|{{$verb}}{{"\n"}}{{end}}'
each_rule+='{{else}}{{$group}}|{{$resource}}||{{$verb}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}{{end}}'
shipped_permissions() {
  {
    kube get clusterrole manx-controller -o "go-template=$each_rule"
    kube -n "$namespace" get role manx-controller -o "go-template=$each_rule"
    kube -n kube-system get role manx-controller-kubeadm -o "go-template=$each_rule"
  } | sort
}

# A stolen token: everything that the role allows, tried with the token of one node's agent.

agent() {
  local node="$1"
  shift
  "$kubectl" --kubeconfig "$bed/agent-$node" "$@"
}

# Makes a configuration that has the token and nothing of the administrator's.
steal_token() {
  local node="$1" token
  token="$(kube -n "$namespace" create token manx-node ${2:+--bound-object-kind=Pod "--bound-object-name=$2"})"
  server="$(kube config view -o 'jsonpath={.clusters[0].cluster.server}')"
  printf 'Authorization: Bearer %s\n' "$token" >"$bed/agent-$node.header"
  cat >"$bed/agent-$node" <<X
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "$server", certificate-authority: "$bed/server/ca.crt"}}]
users: [{name: agent, user: {token: "$token"}}]
contexts: [{name: test, context: {cluster: test, user: agent}}]
current-context: test
X
}

block() {
  printf '{apiVersion: projectcalico.org/v3, kind: IPAMBlock, metadata: {name: %s}, spec: {cidr: %s, affinity: "host:%s", allocations: [null, null, null, null], unallocated: [0, 1, 2, 3], attributes: []}}' "$1" "$2" "$3"
}
claim() {
  printf '{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {name: %s}, spec: {state: pending, node: %s, cidr: %s, type: host}}' "$1" "$2" "$3"
}
give() { agent "$1" create --validate=false -f - <<<"$2"; }
change() { agent "$1" patch "$2" "$3" --type=json -p "$4"; }

# kubectl reads a status before it patches it, which an agent need not and may not.
change_status() {
  curl --silent --show-error --fail-with-body --max-time 60 --cacert "$bed/server/ca.crt" --request PATCH \
    --header @"$bed/agent-$1.header" --header "Content-Type: application/strategic-merge-patch+json" --data "$3" \
    "$server/api/v1/nodes/$2/status"
}

policy_is_in_force() {
  local said
  said="$(agent a create --dry-run=server --validate=false -f - <<<"$(block x 10.0.9.0/30 node-b)" 2>&1)" && return 1
  grep -q 'own node only' <<<"$said"
}

check_stolen_token() {
  say "what a stolen token is good for"
  kube apply -f "$here/check/cluster.yaml" >/dev/null
  steal_token a agent-a
  steal_token b agent-b
  steal_token nowhere ""
  holds "the policies are in force" until_holds policy_is_in_force
  check_blocks
  check_claims
  check_status
}

check_blocks() {
  local blocks=ipamblocks.projectcalico.org
  holds "a block of its own node" give a "$(block 10-0-0-0-30 10.0.0.0/30 node-a)"
  refused "a block for another node" 'own node only' give a "$(block 10-0-8-0-30 10.0.8.0/30 node-b)"
  refused "a block with a token of no node" 'does not say on which node' give nowhere "$(block 10-0-8-0-30 10.0.8.0/30 node-a)"
  refused "a block for nobody" 'own node only' give a "$(block 10-0-8-0-30 10.0.8.0/30 x | sed 's/affinity: "host:x", //')"
  holds "an address of its own block" change a "$blocks" 10-0-0-0-30 \
    '[{"op":"replace","path":"/spec/allocations","value":[0,null,null,null]},{"op":"add","path":"/spec/attributes/-","value":{"handle_id":"net.c","secondary":{"node":"node-a"}}}]'
  holds "an address borrowed from another node's block" change a "$blocks" 10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/allocations","value":[0,1,2,null]},{"op":"add","path":"/spec/attributes/-","value":{"handle_id":"net.d","secondary":{"node":"node-a"}}}]'
  holds "the borrowed address given back" change a "$blocks" 10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/allocations","value":[0,1,null,null]},{"op":"remove","path":"/spec/attributes/2"}]'
  refused "another holder's address taken" 'may not take addresses' change a "$blocks" 10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/attributes/0/secondary/pod","value":"mine"}]'
  refused "another holder forgotten" 'may not take addresses' change a "$blocks" 10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/allocations","value":[null,1,null,null]},{"op":"replace","path":"/spec/attributes","value":[]}]'
  refused "another node's block made its own" 'whose a block is' change a "$blocks" 10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/affinity","value":"host:node-a"}]'
  refused "another node's block made nobody's" 'whose a block is' change a "$blocks" 10-0-1-0-30 \
    '[{"op":"remove","path":"/spec/affinity"}]'
  refused "nobody's block made its own" 'whose a block is' change a "$blocks" 10-0-2-0-30 \
    '[{"op":"add","path":"/spec/affinity","value":"host:node-a"}]'
  refused "another range" 'does not change' change a "$blocks" 10-0-0-0-30 \
    '[{"op":"replace","path":"/spec/cidr","value":"10.0.0.0/24"}]'
  refused "another node's block deleted" 'may not delete' agent a delete "$blocks" 10-0-1-0-30
  refused "nobody's block deleted with another's address in it" 'may not delete' agent a delete "$blocks" 10-0-2-0-30
  holds "nobody's block deleted with its own last address" agent a delete "$blocks" 10-0-3-0-30
  holds "its own block made nobody's" change a "$blocks" 10-0-0-0-30 '[{"op":"remove","path":"/spec/affinity"}]'
  holds "its own block, as the owner" change b "$blocks" 10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/allocations","value":[null,1,null,null]}]'
  holds "its own block deleted" agent b delete "$blocks" 10-0-1-0-30
}

check_claims() {
  local claims=blockaffinities.projectcalico.org
  holds "a claim of its own" give a "$(claim node-a-10-0-5-0-30 node-a 10.0.5.0/30)"
  refused "a claim for another node" 'may not claim' give a "$(claim node-b-10-0-5-0-30 node-b 10.0.5.0/30)"
  refused "its own claim made another's" 'may not claim' change a "$claims" node-a-10-0-5-0-30 \
    '[{"op":"replace","path":"/spec/node","value":"node-b"}]'
  holds "its own claim confirmed" change a "$claims" node-a-10-0-5-0-30 \
    '[{"op":"replace","path":"/spec/state","value":"confirmed"}]'
  refused "another's claim given back" 'may not c' change a "$claims" node-b-10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/state","value":"pendingDeletion"}]'
  refused "another's claim made its own" 'may not change the claim' change a "$claims" node-b-10-0-1-0-30 \
    '[{"op":"replace","path":"/spec/node","value":"node-a"}]'
  refused "another's claim deleted" 'may not change the claim' agent a delete "$claims" node-b-10-0-1-0-30
  holds "a claim that is being given back cleared away" agent a delete "$claims" node-b-10-0-4-0-30
  holds "its own claim deleted" agent a delete "$claims" node-a-10-0-5-0-30
}

check_status() {
  local ready='{"status":{"conditions":[{"type":"%s","status":"%s","reason":"Test"}]}}'
  # shellcheck disable=SC2059 # The format is the template.
  holds "its own node's NetworkUnavailable" change_status a node-a "$(printf "$ready" NetworkUnavailable False)"
  holds "its own node's annotations of projectcalico.org" change_status a node-a \
    '{"metadata":{"annotations":{"projectcalico.org/IPv4Address":"192.0.2.1/24"}}}'
  holds "both taken back, and a report of an uninstall" change_status a node-a '{"metadata":{"annotations":{
    "projectcalico.org/IPv4Address":null,"projectcalico.org/manx-uninstall-report":"{}"}},
    "status":{"conditions":[{"type":"NetworkUnavailable","$patch":"delete"}]}}'
  # shellcheck disable=SC2059
  refused "another node's NetworkUnavailable" 'may not change the status of node-b' change_status a node-b "$(printf "$ready" NetworkUnavailable False)"
  # shellcheck disable=SC2059
  refused "its own node's Ready" 'NetworkUnavailable only' change_status a node-a "$(printf "$ready" Ready True)"
  refused "its own node's labels" 'no labels' change_status a node-a '{"metadata":{"labels":{"zone":"two"}}}'
  refused "its own node's other annotations" 'projectcalico.org only' change_status a node-a '{"metadata":{"annotations":{"example.org/note":"changed"}}}'
  refused "its own node's annotations of others removed" 'projectcalico.org only' change_status a node-a '{"metadata":{"annotations":{"example.org/note":null}}}'
  refused "its own node's capacity" 'capacity' change_status a node-a '{"status":{"capacity":{"cpu":"64"}}}'
  refused "its own node's taints" 'forbidden|Forbidden' agent a patch node node-a -p '{"spec":{"unschedulable":true}}'
}

# The image, made of a small program: the real ones take minutes, and how they are packed is the same.
check_image() {
  local work image="$here/image/build.sh" one two
  say "the image"
  work="$(mktemp -d)"
  mkdir "$work/static" "$work/dynamic"
  printf 'int main(void) { return 0; }\n' >"$work/program.c"
  gcc -static-pie -o "$work/program" "$work/program.c"
  for program in manx-all manx-cni; do cp "$work/program" "$work/static/$program"; done
  holds "an image is made" "$image" --from "$work/static" --output "$work/one.tar"
  touch -d 2001-01-01 "$work/static"/*
  chmod 0700 "$work/static"/*
  holds "again, at another time, of files with other modes" bash -c 'umask 077; exec "$@"' - "$image" --from "$work/static" --output "$work/two.tar"
  one="$(sha256sum <"$work/one.tar")"
  two="$(sha256sum <"$work/two.tar")"
  holds "the same programs give the same bytes" test "$one" = "$two"
  refused "an image that is too large" 'more than 1000' "$image" --from "$work/static" --output "$work/three.tar" --within 1000
  holds "it has the programs of iptables by their names" has "$(contents "$work/one.tar")" '^bin/ip6tables-nft-restore -> xtables-nft-multi$'
  holds "and what their licence wants to go along" has "$(contents "$work/one.tar")" '^licences/iptables.sources$'
  if command -v ipset >/dev/null && [ "$(id -u)" = 0 ]; then
    holds "which read and write rules as this machine's own do" "$here/check/iptables.sh" "$("$here/image/iptables.sh")"
  else
    echo "-     the programs of iptables are not compared: that needs root and the packages iptables and ipset"
  fi
  gcc -o "$work/dynamic/manx-all" "$work/program.c"
  refused "a program that needs libraries" 'dynamic linker' "$image" --from "$work/dynamic" --output "$work/three.tar"
  rm -rf "$work"
}

# Each file of an image's only layer, and what it leads to.
contents() {
  tar -xOf "$1" --wildcards '*.tar' | tar -tv | awk '{ print $6, $7, $8 }' | sed 's/ *$//'
}

check_all() {
  check_lint
  check_schema
  check_contents
  check_image
  start_bed
  check_dry_run
  check_release
  check_roles
  check_stolen_token
}

case "${1:-}" in
  "") find_programs; check_all ;;
  dry-run) find_programs; start_bed; check_dry_run ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
