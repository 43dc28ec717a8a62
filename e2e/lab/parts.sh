# shellcheck shell=bash disable=SC2154,SC2015
# The parts of the lab's suite; sourced by it once for each way to hold policy.

if wanted shop; then
  part "the example shop"
  check "lab up agrees with the policies" lab up
  check "lab status is content" lab status
  code "a second lab up is refused" 2 lab up
  says "and says what to do" "manx lab down" lab up
  says "lab exec runs in the pod" "$(hostname)" lab exec shop/api -- hostname
  code "lab exec gives the command's code" 7 lab exec shop/api -- bash -c 'exit 7'
  says "lab logs shows a felix" "felix starts" lab logs node1
  code "lab logs knows its nodes" 2 lab logs nobody
  check "lab probe agrees" lab probe
  check "the shop's promises hold in the kernel" lab probe --flows ../controller/ctl/examples/shop-flows.yaml
  check "and by its manifests alone" "$manx" simulate --manifests ../controller/ctl/examples/shop.yaml --flows ../controller/ctl/examples/shop-flows.yaml
  says "lab probe writes JSON" '"kernel":"allow"' lab probe -o json
  check "lab down" lab down
  code "without a lab, status says so" 2 lab status
  says "and what to do" "manx lab up" lab status
fi

if wanted tunnels; then
  part "the example shop through VXLAN"
  rm -rf "$manifests"
  mkdir -p "$manifests"
  cp ../controller/ctl/examples/shop.yaml "$manifests/shop.yaml"
  pools_by vxlanMode | put pools.yaml
  check "lab up" lab up --manifests "$manifests" --no-probe
  check "somebody counts on the wire" count_on_the_wire
  check "kernel and policies agree on every flow" lab probe
  check "what nodes said to each other of pods was wrapped" wrapped_only vxlan
  check "and so was IPv6" wrapped_only vxlan6
  check "lab status is content" lab status
  pools_by ipipMode | sed '/^---/,$d' >"$work/ipip.yaml"
  if ip netns exec "$wire" ip link add trial0 type ipip 2>/dev/null; then
    ip netns exec "$wire" ip link del trial0
    skip "a kernel without IPIP" "this one has it; the virtual machine's suite goes through it"
  else
    cat "$work/ipip.yaml" <(echo ---) <(pools_by vxlanMode | sed '1,/^---/d') | put pools.yaml
    check "a mode that the kernel lacks is told with its module" within 60 wrote "modprobe ipip" lab status
    check "and nothing goes as it is" lab exec node:node1 -- bash -c "! ip route show proto 80 | grep -q ' via .*eth0'"
  fi
  check "lab down" lab down
fi

# Starts the lab of all cases.
up_cases() {
  rm -rf "$manifests"
  mkdir -p "$manifests"
  : >"$work/flows.yaml"
  local case
  for case in cases/*/; do
    cp "${case}manifests.yaml" "$manifests/$(basename "$case").yaml"
    cat "${case}flows.yaml" >>"$work/flows.yaml" 2>/dev/null
  done
  lab up --no-probe --manifests "$manifests"
}

if wanted cases || wanted live || wanted crash || wanted drift || wanted pages; then
  part "all cases in one lab"
  check "lab up" up_cases
fi

if wanted cases; then
  lab probe --flows "$work/flows.yaml" -o json >"$work/kernel.json" 2>"$work/errors"
  code=$?
  good="$(grep -c '"ok":true' "$work/kernel.json")"
  number="$(grep -c '^- {' "$work/flows.yaml")"
  passed=$((passed + good))
  echo "ok: $good of $number flows as expected, kernel and policies agreeing"
  while read -r line; do fail "a flow" "$line"; done < <(grep '"ok":false' "$work/kernel.json"; cat "$work/errors")
  [ "$((good + 0))" = "$number" ] && [ "$code" = 0 ] || fail "all flows were measured (exit code $code)"
  "$manx" simulate --manifests "$manifests" --flows "$work/flows.yaml" -o json >"$work/simulated.json" 2>"$work/errors"
  code "simulate holds too" 0 "$manx" simulate --manifests "$manifests" --flows "$work/flows.yaml"
  same() { diff <(sed 's/,"reason":.*//' "$work/kernel.json") <(sed 's/,"reason":.*//' "$work/simulated.json"); }
  check "simulate and probe say the same of every flow" same
  check "everybody to everybody agrees" lab probe
  code "an expectation that does not hold is 1" 1 flows <<<'- {from: union/one, to: union/server, protocol: TCP, port: 82, expect: allow}'
  code "a flow of nobody is 2" 2 flows <<<'- {from: union/nobody, to: union/server, protocol: TCP, port: 82}'
  code "a file of nonsense is 2" 2 flows <<<'- [1'
fi

policy() { # NAME then the spec
  printf 'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: %s, namespace: live }\nspec: %s\n' "$1" "$2"
}
expect() { # NAME near80 far80 near81
  printf -- '- { from: live/near, to: live/server, protocol: TCP, port: 80, expect: %s }\n' "$2" >"$work/some.yaml"
  printf -- '- { from: live-other/far, to: live/server, protocol: TCP, port: 80, expect: %s }\n' "$3" >>"$work/some.yaml"
  printf -- '- { from: live/near, to: live/server, protocol: TCP, port: 81, expect: %s }\n' "$4" >>"$work/some.yaml"
  check "$1" lab probe --flows "$work/some.yaml"
}
guard='{ podSelector: { matchLabels: { app: server } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { zone: green } }, podSelector: { matchExpressions: [{ key: app, operator: In, values: [near, far] }] } }], ports: [{ port: 80 }] }] }'

if wanted live; then
  part "manifests that change"
  expect "at first everything is open" allow allow allow
  policy guard "$guard" | put guard.yaml
  expect "a policy appears" allow allow deny
  sed 's/name: live-other, labels: { zone: green }/name: live-other, labels: { zone: red }/' "$manifests/live.yaml" | put live.yaml
  expect "a namespace gets another label" allow deny deny
  sed 's/app: near }/app: stranger }/' "$manifests/live.yaml" | put live.yaml
  expect "a pod gets another label" deny deny deny
  sed 's/app: stranger }/app: near }/' "$manifests/live.yaml" | put live.yaml
  expect "and its own again" allow deny deny
  printf 'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: guard, namespace: live\n' | put guard.yaml
  check "a syntax error is told with its file" within 60 wrote "guard.yaml" lab status
  expect "and keeps what was in force" allow deny deny
  policy guard '{ podSelecter: {}, ingress: [{}] }' | put guard.yaml
  check "an unknown field is told with its name" within 60 wrote "podSelecter" lab status
  expect "and keeps what was in force" allow deny deny
  policy guard '{ podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.300/8 } }] }, {}] }' | put guard.yaml
  check "an invalid address is told" within 60 wrote "10.0.0.300" lab status
  expect "and keeps what was in force" allow deny deny
  policy guard "${guard/port: 80/port: 81}" | put guard.yaml
  expect "mended, the policy says what it says" deny deny allow
  not_told() { local told; told="$(lab status)"; echo "$told"; ! grep -qF guard.yaml <<<"$told"; }
  check "and no fault is told" within 60 not_told
  policy late '{ podSelector: { matchLabels: { app: server } }, ingress: [{ from: [{ ipBlock: { cidr: nonsense } }] }] }' | put late.yaml
  rm "$manifests/guard.yaml"
  expect "a policy that never was valid opens nothing" deny deny deny
  rm "$manifests/late.yaml"
  expect "without policies everything is open again" allow allow allow
  # Pods come, move and go.
  pod() { printf 'apiVersion: v1\nkind: Pod\nmetadata: { name: guest, namespace: live }\nspec: { nodeName: %s, containers: [{ name: c, image: c, ports: [{ containerPort: 8%s }] }] }\n' "$1" "$2"; }
  guest() { flows <<<"- { from: live/near, to: live/guest, protocol: TCP, port: $1, expect: allow }"; }
  pod node3 0 | put guest.yaml
  check "a pod comes" guest 80
  pod node2 1 | put guest.yaml
  check "it moves to another node" guest 81
  rm "$manifests/guest.yaml"
  code "it goes" 2 guest 81
  check "its namespace goes too" within 60 not test -e /run/netns/manx-lab-pod-live.guest
  # lab watch.
  lab watch >"$work/watch" 2>&1 &
  background+=($!)
  check "lab watch shows the matrix" within 180 grep -q '^watching' "$work/watch"
  policy guard "$guard" | put guard.yaml
  check "and what a change closed" within 180 grep -q '^closed: live/near -> live/server .* 81/TCP' "$work/watch"
  rm "$manifests/guard.yaml"
  check "and what a change opened" within 180 grep -q '^opened: live/near -> live/server .* 81/TCP' "$work/watch"
  kill "$!" 2>/dev/null
  wait "$!" 2>/dev/null
fi

in_pod() { local pod="$1"; shift; exec "$manx" lab exec "$pod" -- "$@"; }
address_of() { lab status | sed -n "s|^  $1  *[^ ]* *\([0-9.]*\) .*|\1|p"; }

if wanted crash; then
  part "processes that die"
  policy crash '{ podSelector: { matchLabels: { app: server } }, ingress: [{ from: [{ podSelector: { matchLabels: { app: near } } }], ports: [{ port: 6000 }] }] }' | put crash.yaml
  printf -- '- { from: live/near, to: live/server, protocol: TCP, port: 6001, expect: deny }\n- { from: live/near, to: live/server, protocol: TCP, port: 6002, expect: deny }\n- { from: live-other/far, to: live/server, protocol: TCP, port: 6000, expect: deny }\n' >"$work/denied.yaml"
  check "the policy is in force" lab probe --flows "$work/denied.yaml"
  server="$(address_of live/server)"
  (in_pod live/server perl -e "$listen" 6000) >"$work/stream" 2>&1 & background+=($!)
  (in_pod live/server perl -e "$hear" 6001) >"$work/heard" 2>&1 & background+=($!)
  check "a stream's server stands" within 60 grep -q ready "$work/stream"
  check "a listener stands where nothing may arrive" within 60 grep -q ready "$work/heard"
  (in_pod live/near perl -e "$talk" "$server" 6000) & background+=($!)
  (in_pod live/near perl -e "$flood" "$server" 6001) & background+=($!)
  check "the stream flows" grows "$work/stream"
  for round in 1 2 3; do
    slay "$(pid_of 'felix node1')"
    check "round $round: lab status tells of a killed felix" within 60 not lab status
    check "round $round: without felix the stream goes on" grows "$work/stream"
    code "round $round: without felix denied stays denied" 0 lab probe --flows "$work/denied.yaml"
    check "round $round: felix starts anew" lab restart node1
    check "round $round: it becomes ready" within 60 lab status
    check "round $round: the stream was not cut" grows "$work/stream"
  done
  check "a felix that is asked to end, too" lab restart node1
  check "leaves the stream" grows "$work/stream"
  check "and becomes ready" within 60 lab status
  if grep -q closed "$work/stream"; then fail "the stream was closed"; else pass; fi
  check "nothing denied was heard meanwhile" not grep -q heard "$work/heard"
  slay "$(pid_of controller)"
  check "lab status tells of a killed controller" within 60 not lab status
  check "the controller starts anew" lab restart controller
  rm "$manifests/crash.yaml"
  check "and follows the manifests" flows <<<'- { from: live-other/far, to: live/server, protocol: TCP, port: 80, expect: allow }'
  slay "$(pid_of agent)"
  check "lab status tells of a killed agent" within 60 not lab status
  # A port that somebody else has meanwhile is served as soon as it is free.
  (exec ip netns exec manx-lab-node-node2 perl -e "$listen" 7777) >"$work/taken" 2>&1 & stranger=$! background+=($!)
  check "somebody takes the port of a pod of its node's network" within 60 grep -q ready "$work/taken"
  check "the agent starts anew" lab restart agent
  check "lab status tells of the port" within 60 wrote "pod special/host: no server at 7777/TCP: the port is taken" lab status
  kill "$stranger"
  check "and everything stands" within 60 lab status
  check "with every server" flows <<<'- { from: live-other/far, to: live/server, protocol: TCP, port: 80, expect: allow }'
  check "and every flow as before" lab probe --flows "$work/flows.yaml"
fi

if wanted drift; then
  part "others' hands in the node"
  if [ "$rules" = nftables ]; then others_and_our_table; else others_and_our_chains; fi
  check "all flows are as before" lab probe --flows "$work/flows.yaml"
  # Cleaning up.
  make_neighbours node3
  slay "$(pid_of 'felix node3')"
  check "felix --cleanup" node node3 "$bin/felix" --cleanup
  check "leaves no rules of ours" not in_force node3
  check "leaves the neighbours' rules" rules_of_neighbours_stand node3
  check "leaves the neighbours' link" node node3 ip link show neighbour0
  says "leaves the neighbours' route" "192.0.2.0/24" node node3 ip route show
  no_foreign_routes() { local left; left="$(node node3 ip route show proto 80)" && echo "$left" && [ -z "$left" ]; }
  check "leaves no route of ours" no_foreign_routes
  check "a second one finds nothing to do" node node3 "$bin/felix" --cleanup
  check "felix starts again" lab restart node3
  check "and becomes ready" within 180 lab status
  check "all flows are as before it" lab probe --flows "$work/flows.yaml"
fi

get() { # NODE PORT PATH
  node "$1" bash -c "exec 3<>/dev/tcp/127.0.0.1/$2; printf 'GET $3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3; cat <&3"
}
second() { # a felix beside that of node2, with these variables more
  node node2 env FELIX_FELIXHOSTNAME=node2 FELIX_DATASTOREPATH=/run/manx-lab/datastore FELIX_STATEDIR=/run/manx-lab/nodes/node2 \
    FELIX_CNISOCKETPATH=/run/manx-lab/nodes/node2/cni.sock FELIX_LOGFILEPATH=none "$@" timeout 120 "$bin/felix" --config-file /nonexistent
}
refused() { second "$@"; local code=$?; [ "$code" != 0 ] && [ "$code" != 124 ]; }

if wanted pages; then
  part "what a node answers"
  says "liveness" "HTTP/1.1 20" get node1 9099 /liveness
  says "readiness" "HTTP/1.1 20" get node1 9099 /readiness
  says "an unknown page" "HTTP/1.1 404" get node1 9099 /nothing
  says "metrics" "felix_" get node1 9091 /metrics
  says "metrics are a page" "HTTP/1.1 200" get node1 9091 /metrics
  check "a second felix of the node refuses" refused
  says "and says that the port is taken, and by whom it may be" "another" second
  says "a second felix without pages says why it cannot work" "another felix" second FELIX_HEALTHENABLED=false FELIX_PROMETHEUSMETRICSENABLED=false
  check "the first one goes on" within 60 lab status
  check "and so does its policy" lab probe --flows "$work/flows.yaml"
fi

lab down >/dev/null 2>&1

if wanted nodes; then
  part "nodes of the manifests, and more of them"
  rm -rf "$manifests"
  mkdir -p "$manifests"
  put nodes.yaml <<'YAML'
apiVersion: v1
kind: Node
metadata: { name: alpha, labels: { zone: a } }
status: { addresses: [{ type: InternalIP, address: 172.30.7.1 }, { type: InternalIP, address: "fd00:30::1" }, { type: Hostname, address: alpha }] }
---
apiVersion: v1
kind: Node
metadata: { name: beta, labels: { zone: b } }
status: { addresses: [{ type: InternalIP, address: 192.168.44.9 }] }
---
apiVersion: v1
kind: Node
metadata: { name: without-address }
---
apiVersion: v1
kind: Namespace
metadata: { name: n }
---
apiVersion: v1
kind: Pod
metadata: { name: on-alpha, namespace: n }
spec: { nodeName: alpha, containers: [{ name: c, image: c, ports: [{ containerPort: 80 }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: on-beta, namespace: n }
spec: { nodeName: beta, containers: [{ name: c, image: c, ports: [{ containerPort: 80 }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: on-nowhere-defined, namespace: n }
spec: { nodeName: gamma.example.com, containers: [{ name: c, image: c, ports: [{ containerPort: 80, protocol: SCTP }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: anywhere, namespace: n }
spec: { containers: [{ name: c, image: c, ports: [{ containerPort: 80 }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: host-anywhere, namespace: n }
spec: { hostNetwork: true, containers: [{ name: c, image: c, ports: [{ containerPort: 7070 }] }] }
YAML
  check "nodes with addresses of their own" lab up --manifests "$manifests" --nodes 5
  says "an address of a manifest" "172.30.7.1" lab status
  says "a node that no manifest defines" "gamma.example.com" lab status
  says "nodes up to the number asked for" "node1" lab status
  check "nothing is wrong" lab status
  check "lab down" lab down
fi

if wanted bad; then
  part "bad input and half made labs"
  code "a folder that is not there" 2 lab up --manifests "$work/nowhere"
  says "is told by name" "$work/nowhere" lab up --manifests "$work/nowhere"
  code "no nodes" 2 lab up --nodes 0
  code "a probe without a lab" 2 lab probe
  check "lab down without a lab" lab down
  rm -rf "$manifests"
  mkdir -p "$manifests"
  cp cases/union/manifests.yaml "$manifests/union.yaml"
  put bad.yaml <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: unknown-field, namespace: union }
spec: { podSelector: {}, ingres: [] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: bad-port, namespace: union }
spec: { podSelector: { matchLabels: { role: nobody } }, ingress: [{ ports: [{ port: 70000 }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: bad-address, namespace: union, annotations: { cni.projectcalico.org/ipAddrs: '["10.65.0.999"]' } }
spec: { containers: [{ name: c, image: c }] }
---
apiVersion: v1
kind: [
YAML
  lab up --manifests "$manifests" >"$work/out" 2>&1
  code=$?
  if [ "$code" = 0 ]; then pass; else fail "lab up with faults in the manifests brings up the rest" "exit code $code" "$(cat "$work/out")"; fi
  for fault in 'ingres' '70000' '10.65.0.999' 'bad.yaml'; do
    says "lab up tells of $fault" "$fault" cat "$work/out"
    says "lab status tells of $fault" "$fault" lab status
  done
  [ "$(grep -c 'bad.yaml' "$work/out")" = 4 ] && pass || fail "one line for each fault" "$(grep 'bad.yaml' "$work/out")"
  check "the rest is in force" lab probe --flows cases/union/flows.yaml
  # The lab's folder is lost while everything runs.
  rm -rf /run/manx-lab/lab.json
  code "a lab without its state is told" 2 lab status
  says "with what to do" "manx lab down" lab status
  check "lab down removes it all the same" lab down
  machine >"$work/after"
  check "nothing is left of it" diff "$work/before" "$work/after"
  # Killed in the middle; where the machine was quicker than the moment, there was nothing to kill.
  halves=0
  for moment in 0.02 0.05 0.1 0.2 0.5; do
    "$manx" lab up --manifests "$manifests" --no-probe >/dev/null 2>&1 &
    pid=$!
    sleep "$moment"
    kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    if lab status >/dev/null 2>&1; then
      check "after $moment s it stood" lab down
    else
      halves=$((halves + 1))
      printf 'ok: killed after %s s, lab status tells\n' "$moment"
    fi
    check "lab up makes it anew" lab up --manifests "$manifests" --no-probe
    check "which stands" lab status
    slay "$(pid_of 'felix node2')"
    within 60 not lab status
    check "lab up after a crash makes it anew" lab up --manifests "$manifests" --no-probe
    check "lab down" lab down
  done
  check "one at least was killed in the middle" [ "$halves" -ge 1 ]
  # Interrupted, as soon as it says anything; a machine that was quicker is given another try.
  for _ in 1 2 3 4 5 6 7 8; do
    bash -c "exec '$manx' lab up --no-probe" >"$work/out" 2>&1 &
    pid=$!
    within 60 grep -q . "$work/out"
    kill -TERM "$pid" 2>/dev/null
    wait "$pid"
    code=$?
    [ "$code" = 0 ] || break
    lab down >/dev/null 2>&1
  done
  [ "$code" != 0 ] && pass || fail "an interrupted lab up fails" "$(cat "$work/out")"
  machine >"$work/after"
  check "and leaves nothing" diff "$work/before" "$work/after"
fi

if wanted clean; then
  part "the machine as it was"
  lab down >/dev/null 2>&1
  machine >"$work/after"
  check "nothing of the lab is left" diff "$work/before" "$work/after"
fi
