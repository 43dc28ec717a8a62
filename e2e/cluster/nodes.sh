# shellcheck shell=bash
# A leader that stands still past its lease; a node that is rebooted; one that goes and comes again with an empty disk.

leader() { kubectl -n "$namespace" get lease manx-controller -o jsonpath='{.spec.holderIdentity}'; }
# The process of a pod's controller, not that of its sandbox.
controller_of() {
  local uid pid
  uid="$(kubectl -n "$namespace" get pod "$1" -o jsonpath='{.metadata.uid}')" || return 1
  for pid in $(pgrep -x manx-controller); do
    grep -qs "pod${uid}\|pod${uid//-/_}" "/proc/$pid/cgroup" && { echo "$pid"; return; }
  done
  return 1
}
another_leads() { local now; now="$(leader)"; [ -n "$now" ] && [ "$now" != "$1" ]; }
controllers_ready() { kubectl -n "$namespace" rollout status deployment/manx-controller --timeout=20s; }
has_no_blocks() { [ -z "$(blocks_of "$1")" ]; }
# The pod's address may be another one by now.
answers() { local address; address="$(address_of_pod "$2")" && [ -n "$address" ] && asks "$1" "$address"; }
# Pods that were bound to a node that is gone go with it, when the controller manager sees it.
no_pods_on() { [ -z "$(kubectl -n pods get pods --field-selector="spec.nodeName=$1" -o name)" ]; }

if wanted nodes; then
  part "leaders and nodes that go and come"
  first="$(leader)"
  # A replica is its pod and the life that it is in.
  first_pid="$(controller_of "${first%%_*}")"
  check "a controller leads" [ -n "$first_pid" ]
  check "it is stopped past its lease" kill -STOP "$first_pid"
  check "another leads" within 180 another_leads "$first"
  check "it goes on" kill -CONT "$first_pid"
  check "and both are well" within 180 controllers_ready
  check "and it leads no more" another_leads "$first"

  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; server three node1; echo ---; allow_one; } >"$work/nodes.yaml"
  check "pods and a policy" kubectl apply -f "$work/nodes.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  check "one may" within 60 answers one two
  check "another may not" denied answers three two

  check "node2 is rebooted" cluster reboot node2
  check "its pod is back, on a network of its own" within 600 answers one two
  check "under its policy" denied answers three two
  check "its agent is well" within 180 agents_ready
  check "address management is sound" within 180 manx ipam check

  check "node2 goes" cluster remove node2
  check "with its pods" within 600 no_pods_on node2
  check "its blocks are free again" within 180 has_no_blocks node2
  check "address management is sound without it" within 180 manx ipam check
  check "a new node2 comes, with an empty disk" cluster add node2
  check "it gets the image" cluster import "$image"
  check "its agent comes up" within 600 agents_ready
  check "it is ready" within 180 is_ready_node node2
  server two node2 >"$work/two.yaml"
  check "a pod on it" kubectl apply -f "$work/two.yaml"
  check "gets its network" kubectl -n pods wait --for=condition=Ready pod/two --timeout=240s
  check "the world outside learns the way" cluster routes
  check "one may reach it" within 60 answers one two
  check "another may not" denied answers three two
  check "address management is sound with it" within 180 manx ipam check
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
