# shellcheck shell=bash
# What a policy denies is denied from a pod's very first packet on: every address of the node is asked all the time.

# Addresses that are asked a second, by each prober.
probes=3000
addresses_of() {
  kubectl -n pods get pods -l "$1" -o jsonpath='{range .items[*]}{range .status.podIPs[*]}{.ip}{"\n"}{end}{end}' | sort
}
# probers_start PHASE: one in a pod of the same node, one in a pod of another, one outside.
probers_start() {
  local name pid all
  probers=()
  mapfile -t all < <(blocks_of node1)
  for name in near far outside; do
    pid=$$
    [ "$name" = outside ] || pid="$(pid_in "$name")"
    # Before others: what is proven by silence is only proven by a prober that is never kept from asking.
    (enter "$pid" nice -n -10 perl -e "$sweep" "$probes" "${all[@]}") >"$work/$1-$name" 2>&1 &
    probers+=($!)
    background+=($!)
  done
}
# They end by themselves: what they sent is their last word.
probers_stop() { kill "${probers[@]}"; wait "${probers[@]}"; }
# all_answered PHASE LABEL: every prober got an answer of each of the pods.
all_answered() {
  local name
  addresses_of "$2" >"$work/asked"
  [ -s "$work/asked" ] || return 1
  for name in near far outside; do
    sed -n 's/^answered //p' "$work/$1-$name" | sort | comm -13 - "$work/asked" | grep . && { echo "did not answer $name"; return 1; }
  done
  return 0
}
# none_answered PHASE LABEL: no prober got an answer of any of the pods.
none_answered() {
  local name
  addresses_of "$2" >"$work/asked"
  [ -s "$work/asked" ] || { echo "there are no such pods"; return 1; }
  for name in near far outside; do
    sed -n 's/^answered //p' "$work/$1-$name" | sort | comm -12 - "$work/asked" | grep . && { echo "$name"; return 1; }
  done
  return 0
}
# diligent PHASE: every prober sent at least 1,000 probes a second.
diligent() {
  local name sent seconds
  for name in near far outside; do
    read -r _ sent _ seconds < <(tail -n 1 "$work/$1-$name")
    echo "$name: $sent probes in $seconds s"
    [ "${seconds:-0}" -gt 0 ] && [ $((sent / seconds)) -ge 1000 ] || return 1
  done
}
# inside_blocks LABEL: the pods have no address that nobody asked for.
inside_blocks() {
  addresses_of "$1" >"$work/asked"
  local all
  mapfile -t all < <(blocks_of node1)
  perl -e 'use Socket qw(inet_pton AF_INET AF_INET6); my ($f,@n)=@ARGV; open F,$f; ADDRESS: while(<F>){chomp; my $s=/:/; my $a=unpack "B*",inet_pton($s?AF_INET6:AF_INET,$_);
    for(@n){my($n,$l)=split m{/}; next unless ($n=~/:/)==$s; next ADDRESS if substr($a,0,$l) eq substr(unpack("B*",inet_pton($s?AF_INET6:AF_INET,$n)),0,$l)} print "$_ in none of @n\n"; exit 1}' "$work/asked" "${all[@]}"
}
# quiet_pod NAME: a policy that lets nobody in, and its pod; one document after the other, for one apply.
quiet_pod() {
  cat <<YAML
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: $1, namespace: pods }
spec: { podSelector: { matchLabels: { quiet: $1 } }, policyTypes: [Ingress] }
---
apiVersion: v1
kind: Pod
metadata: { name: $1, namespace: pods, labels: { quiet: $1, together: "yes" } }
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: "manx.test/pause:1", imagePullPolicy: Never }]
YAML
}
quiet_pods() {
  local number failures=0
  for number in $(seq "$1"); do
    quiet_pod "quiet-$number" | kubectl apply -f - >/dev/null || failures=$((failures + 1))
  done
  [ "$failures" = 0 ]
}
crowd_denied() {
  cat <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: crowd, namespace: pods }
spec: { podSelector: { matchLabels: { crowd: node1 } }, policyTypes: [Ingress] }
YAML
}

if wanted first; then
  part "first packets"
  check "a namespace" kubectl create namespace pods
  { server near node1; server far node2; } >"$work/probers.yaml"
  check "pods that probe" kubectl apply -f "$work/probers.yaml"
  check "become ready" kubectl -n pods wait --for=condition=Ready pods --all --timeout=240s

  crowd node1 100 >"$work/crowd.yaml"
  check "100 pods without a policy" kubectl apply -f "$work/crowd.yaml"
  check "run" within 600 pods_running 102
  # Blocks came with them, of which the world outside does not know yet.
  check "the world outside learns the way to them" cluster routes
  probers_start open
  check "every one of them answers every prober" within 60 all_answered open crowd=node1
  probers_stop
  check "they go" kubectl -n pods delete deployment crowd-node1 --cascade=foreground --timeout=240s

  crowd_denied >"$work/denied.yaml"
  check "a policy that lets nobody in" kubectl apply -f "$work/denied.yaml"
  probers_start denied
  check "100 pods under it" kubectl apply -f "$work/crowd.yaml"
  check "run" within 600 pods_running 102
  check "on addresses that were asked all the time" inside_blocks crowd=node1
  probers_stop
  check "by probers that were quick enough" diligent denied
  check "none ever answered" none_answered denied crowd=node1
  check "they go" kubectl -n pods delete deployment crowd-node1 --cascade=foreground --timeout=240s

  probers_start together
  check "100 times a policy and its pod in one apply" quiet_pods 100
  check "run" within 600 pods_running 102
  check "on addresses that were asked all the time" inside_blocks together=yes
  probers_stop
  check "none ever answered" none_answered together together=yes
  check "all goes" kubectl delete namespace pods --wait --timeout=240s
fi
