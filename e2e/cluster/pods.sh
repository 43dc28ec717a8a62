# shellcheck shell=bash
# Pods reach each other, and policy decides, on real packets.

# server NAME NODE [LABELS]: a pod of agnhost that answers on 8080.
server() {
  cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: { name: $1, namespace: ${3:-pods}, labels: { app: $1 } }
spec:
  nodeName: $2
  terminationGracePeriodSeconds: 1
  containers: [{ name: c, image: "manx.test/agnhost:1", imagePullPolicy: Never, args: [netexec, --http-port=8080],
    ports: [{ name: web, containerPort: 8080 }], readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1, timeoutSeconds: 3 } }]
YAML
}
# crowd NODE REPLICAS: pods that only hold their address.
crowd() {
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: { name: crowd-$1, namespace: pods }
spec:
  replicas: $2
  selector: { matchLabels: { crowd: $1 } }
  template:
    metadata: { labels: { crowd: $1 } }
    spec:
      nodeName: $1
      terminationGracePeriodSeconds: 0
      containers: [{ name: c, image: "manx.test/pause:1", imagePullPolicy: Never }]
YAML
}
pods_running() { [ "$(kubectl -n pods get pods --field-selector=status.phase=Running -o name | wc -l)" = "$1" ]; }
address_of_pod() { kubectl -n "${2:-pods}" get pod "$1" -o jsonpath="{.status.podIPs[${3:-0}].ip}"; }
is_ready_pod() {
  [ "$(kubectl -n pods get pod "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
# asks POD ADDRESS: the pod gets an answer of the address's port 8080.
asks() {
  local address="$2"
  case "$address" in *:*) address="[$address]" ;; esac
  kubectl -n pods exec "$1" -- curl -gsS -o /dev/null --max-time "${patience:-20}" "http://$address:8080/hostname"
}
deny_all() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: pods }
spec: { podSelector: { matchLabels: { app: two } }, policyTypes: [Ingress] }
YAML
}
allow_one() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: allow, namespace: pods }
spec:
  podSelector: { matchLabels: { app: two } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: one } } }], ports: [{ port: web }] }]
YAML
}

# hook_pod ADDRESS: a pod that is let into the policed one by its label, and has not started before it was answered once.
# Until then kubelet tells nobody its address: the other node has to know it from the block.
hook_pod() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: { name: hook, namespace: pods, labels: { app: one } }
spec:
  nodeName: node1
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: "manx.test/agnhost:1", imagePullPolicy: Never, args: [pause],
    lifecycle: { postStart: { exec: { command: [curl, -gsS, -o, /dev/null, --max-time, "60", "http://$1:8080/hostname"] } } } }]
YAML
}

if wanted pods; then
  part "pods and policies"
  check "a namespace" kubectl create namespace pods
  { server one node1; server two node2; server three node2; } >"$work/pods.yaml"
  check "three pods" kubectl apply -f "$work/pods.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s
  for family in 0 1; do
    two="$(address_of_pod two pods $family)"
    check "another node's pod answers at $two" asks one "$two"
    check "and a pod of the same node" asks three "$two"
  done
  two="$(address_of_pod two)"
  deny_all >"$work/deny.yaml"
  check "a policy that allows nobody" kubectl apply -f "$work/deny.yaml"
  check "closes the pod for another node" within 60 denied asks one "$two"
  check "and for its own" denied asks three "$two"
  check "and by its other family" denied asks one "$(address_of_pod two pods 1)"
  # Longer than three probes that nobody answers take, after which the pod is not ready; that nothing happens is the point.
  sleep 15
  check "kubelet's probes go on" is_ready_pod two
  allow_one >"$work/allow.yaml"
  check "a policy that allows one" kubectl apply -f "$work/allow.yaml"
  check "opens it for that one" within 60 asks one "$two"
  check "and for nobody else" denied asks three "$two"
  hook_pod "$two" >"$work/hook.yaml"
  check "a pod that has to reach it before it counts as started" kubectl apply -f "$work/hook.yaml"
  check "starts" kubectl -n pods wait --for=condition=Ready pod/hook --timeout=240s
  says "manx explain names the policy" "pods/allow" manx explain pods/one pods/two TCP/8080
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
