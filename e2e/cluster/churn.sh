# shellcheck shell=bash
# Many pods come and go: no address is given twice, none is lost.

no_pods() { [ -z "$(kubectl -n pods get pods -o name)" ]; }
addresses_twice() {
  kubectl get pods -A -o jsonpath='{range .items[?(@.spec.hostNetwork!=true)]}{range .status.podIPs[*]}{.ip}{"\n"}{end}{end}' | sort | uniq -d | grep .
}

if wanted churn; then
  part "500 pods come and go on ${#nodes[@]} nodes"
  check "a namespace" kubectl create namespace pods
  each=25
  # 50 pods at a time, ten times.
  for round in 1 2 3 4 5 6 7 8 9 10; do
    for node in "${nodes[@]}"; do crowd "$node" "$each"; echo ---; done >"$work/crowd.yaml"
    check "round $round: pods are asked for" kubectl apply -f "$work/crowd.yaml"
    check "round $round: all run" within 600 pods_running $((each * ${#nodes[@]}))
    check "round $round: no address twice" not addresses_twice
    check "round $round: they are told to go" kubectl delete -f "$work/crowd.yaml" --wait=false
    check "round $round: they are gone" within 600 no_pods
  done
  check "address management is sound" within 180 manx ipam check
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
