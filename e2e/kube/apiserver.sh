#!/usr/bin/env bash
# A real API server with a real etcd, on loopback, in a folder of its own: what the datastore's adapter is proven against.
#
#   ./e2e/kube/apiserver.sh start DIR [FLAG...]   starts both; flags are added to the API server's own
#   ./e2e/kube/apiserver.sh stop DIR              stops them and removes the folder
#   ./e2e/kube/apiserver.sh run DIR [FLAG...]     starts both, and stops them when standard input ends: whoever holds
#                                                 the other end may die as it likes, nothing is left behind
#   ./e2e/kube/apiserver.sh restart DIR [FLAG...] stops the API server and starts it again on the same port and data
#
# DIR/kubeconfig is an administrator's; DIR/tokens.csv has bearer tokens; DIR/*.pid and DIR/*.log are what they say.
# Nobody else may read the folder. Programs that are missing are built by build.sh, which takes minutes once.
#
# Environment: MANX_KUBE_VERSION   another version of Kubernetes, as `build.sh --api-server` builds it
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

fail() { printf '%s\n' "$*" >&2; exit 1; }

# The folders of the programs, built where they are missing.
programs() {
  local built
  if [ -n "${MANX_KUBE_VERSION:-}" ]; then
    built="$("$here/build.sh" --api-server "$MANX_KUBE_VERSION" | tail -n 1)"
  else
    built="$("$here/build.sh" | tail -n 1)"
  fi
  apiserver="$built/kube-apiserver"
  etcd="$(ls -d "$(dirname "$built")"/etcd-*/ | sort -V | tail -n 1)etcd"
  [ -x "$apiserver" ] && [ -x "$etcd" ] || fail "the programs are not where build.sh says"
}

# A certificate of our authority: its name, its subject, and what it says besides. Saying anything makes it one of
# version 3, and careful clients take no other.
certificate() {
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.csr" \
    -subj "$2" 2>/dev/null
  printf '%s\n' "$3" >"$1.cnf"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 30 \
    -extfile "$1.cnf" 2>/dev/null
}

certificates() {
  cd "$dir"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt \
    -subj /CN=manx-test -days 30 2>/dev/null
  certificate server /CN=kube-apiserver "subjectAltName=DNS:localhost,IP:127.0.0.1"
  certificate admin "/O=system:masters/CN=admin" "extendedKeyUsage=clientAuth"
  openssl genrsa -out accounts.key 2048 2>/dev/null
  openssl rsa -in accounts.key -pubout -out accounts.pub 2>/dev/null
  printf '%s\n' 'admin-token,token-admin,1,"system:masters"' 'nobody-token,nobody,2' >tokens.csv
  cd - >/dev/null
}

kubeconfig() {
  cat >"$dir/kubeconfig" <<X
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$port", certificate-authority: "$dir/ca.crt"}}]
users: [{name: admin, user: {client-certificate: "$dir/admin.crt", client-key: "$dir/admin.key"}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
X
}

is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Three ports in a row below those that the kernel gives to clients.
choose_ports() {
  local tries
  for tries in $(seq 50); do
    port=$((20000 + RANDOM % 12000))
    if is_free "$port" && is_free "$((port + 1))" && is_free "$((port + 2))"; then return; fi
  done
  fail "no free ports"
}

is_alive() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }

start_etcd() {
  "$etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --name test --log-level warn \
    --listen-client-urls "http://127.0.0.1:$((port + 1))" --advertise-client-urls "http://127.0.0.1:$((port + 1))" \
    --listen-peer-urls "http://127.0.0.1:$((port + 2))" --initial-advertise-peer-urls "http://127.0.0.1:$((port + 2))" \
    --initial-cluster "test=http://127.0.0.1:$((port + 2))" </dev/null >"$dir/etcd.log" 2>&1 9>&- &
  disown $! 2>/dev/null || true
  echo $! >"$dir/etcd.pid"
}

# Nothing in this server writes by itself once it is up, so that a test sees only its own changes: no controllers, no
# leases of the server's own, no endpoints of its own Service. From 1.36 on the first gate is closed only together with
# the second.
start_apiserver() {
  "$apiserver" --etcd-servers="http://127.0.0.1:$((port + 1))" --service-cluster-ip-range=10.96.0.0/16 \
    --bind-address=127.0.0.1 --secure-port="$port" --advertise-address=192.0.2.1 --endpoint-reconciler-type=none \
    --client-ca-file="$dir/ca.crt" --tls-cert-file="$dir/server.crt" --tls-private-key-file="$dir/server.key" \
    --token-auth-file="$dir/tokens.csv" --authorization-mode=RBAC --disable-admission-plugins=ServiceAccount \
    --service-account-key-file="$dir/accounts.pub" --service-account-signing-key-file="$dir/accounts.key" \
    --service-account-issuer=https://kubernetes.default.svc --profiling=false \
    --feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false "$@" \
    </dev/null >>"$dir/apiserver.log" 2>&1 9>&- &
  disown $! 2>/dev/null || true
  echo $! >"$dir/apiserver.pid"
}

answers() {
  curl -sf --max-time 20 --cacert "$dir/ca.crt" --cert "$dir/admin.crt" --key "$dir/admin.key" \
    "https://127.0.0.1:$port$1" >/dev/null
}

# Ready, and done with the namespaces that it makes itself when it has been ready for a moment.
is_ready() {
  local namespace
  answers /readyz || return 1
  for namespace in default kube-system kube-public kube-node-lease; do
    answers "/api/v1/namespaces/$namespace" || return 1
  done
}

# Both must live: an etcd that found its port taken would leave the API server with somebody else's.
wait_until_ready() {
  local end=$((SECONDS + 180))
  while [ "$SECONDS" -lt "$end" ]; do
    is_alive apiserver && is_alive etcd || return 1
    if is_ready; then is_alive etcd; return; fi
    sleep 0.2
  done
  return 1
}

start() {
  programs
  umask 077
  mkdir -p "$dir"
  dir="$(cd "$dir" && pwd)"
  [ -f "$dir/ca.crt" ] || certificates
  local tries
  # A port that was free a moment ago may be taken by the time that it is wanted.
  for tries in 1 2 3; do
    choose_ports
    echo "$port" >"$dir/port"
    start_etcd
    start_apiserver "$@"
    kubeconfig
    if wait_until_ready; then return; fi
    halt
    rm -rf "$dir/etcd"
  done
  tail -n 20 "$dir/apiserver.log" "$dir/etcd.log" >&2
  fail "the API server does not become ready"
}

# end PROGRAM [SIGNAL]: ends one program, by force where it does not go.
end() {
  local pid tries
  [ -f "$dir/$1.pid" ] || return 0
  pid="$(cat "$dir/$1.pid")"
  kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
  for tries in $(seq 25); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$dir/$1.pid"
}

# They hold nothing that anybody wants back. Asked, an API server would wait for whoever follows it.
halt() { end apiserver KILL; end etcd KILL; }

command="${1:-}"
[ $# -ge 2 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
dir="$2"
shift 2
case "$command" in
  start) start "$@"; echo "$dir/kubeconfig" ;;
  stop) halt; rm -rf "$dir" ;;
  run)
    trap 'halt; rm -rf "$dir"' EXIT
    start "$@"
    echo "$dir/kubeconfig"
    cat >/dev/null
    ;;
  restart)
    programs
    dir="$(cd "$dir" && pwd)"
    port="$(cat "$dir/port")"
    end apiserver
    start_apiserver "$@"
    wait_until_ready || fail "the API server does not become ready"
    ;;
  *) fail "$command: not start, stop, run or restart" ;;
esac
