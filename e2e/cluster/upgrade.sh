# shellcheck shell=bash
# A rolling upgrade while pods are made, the way back, and the end.

# Sandboxes that failed for another reason than a pod's own end.
failed_sandboxes() { kubectl get events -A --field-selector reason=FailedCreatePodSandBox -o name | grep .; }
# Makes and removes pods one after the other until it is told to stop.
stream_of_pods() {
  local number=0
  while [ ! -e "$work/enough" ]; do
    number=$((number + 1))
    server "stream-$number" "${nodes[$((number % 2))]}" | kubectl apply -f - >/dev/null
    kubectl -n pods wait --for=condition=Ready "pod/stream-$number" --timeout=240s >/dev/null || echo "stream-$number did not come up"
    kubectl -n pods delete pod "stream-$number" --wait=false >/dev/null
  done
}

if wanted upgrade; then
  part "upgrade and rollback"
  check "a namespace" kubectl create namespace pods
  kubectl delete events -A --all >/dev/null 2>&1
  stream_of_pods >"$work/pods-stream" 2>&1 &
  stream=$!
  check "helm upgrade replaces every agent" helm upgrade manx "$root/charts/manx" --namespace "$namespace" \
    --set-string felix.podAnnotations.upgraded=yes --wait --timeout 10m
  check "no pod failed meanwhile" not grep . "$work/pods-stream"
  check "helm rollback" helm rollback manx --namespace "$namespace" --wait --timeout 10m
  touch "$work/enough"
  wait "$stream"
  check "no pod failed then either" not grep . "$work/pods-stream"
  check "no sandbox failed" not failed_sandboxes
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
