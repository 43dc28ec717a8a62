# shellcheck shell=bash
# Parts die, one after the other and together, under traffic: nothing denied passes, nothing allowed is cut.

new_pod() {
  server "$1" "$2" | kubectl apply -f - && kubectl -n pods wait --for=condition=Ready "pod/$1" --timeout=240s
}
policies() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: streams, namespace: pods }
spec:
  podSelector: { matchLabels: { app: two } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: one } } }], ports: [{ port: 6000 }] }]
YAML
}
is_cut() { grep -q closed "$work/stream"; }
heard() { grep -q heard "$work/heard"; }
# lives NAME: with a part dead, flows go on and nothing else passes.
lives() {
  check "without $1 the stream goes on" grows "$work/stream"
  check "and nothing denied is heard" not heard
}
# recovers NAME: after its return the cluster works as before.
recovers() {
  deaths=$((deaths + 1))
  check "$1 is back: a new pod comes up" new_pod "after-$deaths" node2
  check "$1 is back: and may be reached" within 60 asks one "$(address_of_pod "after-$deaths")"
  check "$1 is back: and may not reach what is denied" denied asks "after-$deaths" "$two"
  check "$1 is back: the stream was not cut" not is_cut
  check "$1 is back: nothing denied was heard" not heard
  check "$1 is back: the pod goes" kubectl -n pods delete pod "after-$deaths" --wait --timeout=240s
}

if wanted crash; then
  part "parts that die"
  deaths=0
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; echo ---; policies; } >"$work/crash.yaml"
  check "pods and a policy" kubectl apply -f "$work/crash.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  two="$(address_of_pod two)"
  one_pid="$(pid_in one)"
  two_pid="$(pid_in two)"
  check "the policy is in force" within 60 denied asks one "$two"
  (enter "$two_pid" perl -e "$listen" 6000) >"$work/stream" 2>&1 & background+=($!)
  (enter "$two_pid" perl -e "$hear" 6001) >"$work/heard" 2>&1 & background+=($!)
  check "a stream's server stands" within 60 grep -q ready "$work/stream"
  check "a listener stands where nothing may arrive" within 60 grep -q ready "$work/heard"
  (enter "$one_pid" perl -e "$talk" "$two" 6000) & background+=($!)
  (enter "$one_pid" perl -e "$flood" "$two" 6001) & background+=($!)
  check "the stream flows" grows "$work/stream"
  for node in "${nodes[@]}"; do check "felix of $node is killed" slay "$(felix_of "$node")"; done
  lives felix
  check "felix comes back" within 180 agents_ready
  recovers felix
  for dead in controller-manager apiserver etcd node2.containerd node2.kubelet node2.kube-proxy; do
    check "$dead is killed" cluster kill "$dead"
    lives "$dead"
    check "$dead is started" cluster start "$dead"
    check "the API answers" within 180 kubectl get nodes
    check "every node is ready" within 180 kubectl wait --for=condition=Ready nodes --all --timeout=20s
    recovers "$dead"
  done
  for node in "${nodes[@]}"; do check "felix of $node is killed" slay "$(felix_of "$node")"; done
  for dead in etcd apiserver node1.containerd; do check "and $dead" cluster kill "$dead"; done
  lives "all of them"
  for dead in etcd apiserver node1.containerd; do check "$dead is started" cluster start "$dead"; done
  check "the API answers" within 180 kubectl get nodes
  check "felix comes back everywhere" within 600 agents_ready
  recovers "everything"
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
