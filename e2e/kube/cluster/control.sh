# shellcheck shell=bash
# The control plane: certificates, etcd, API server, controller manager and scheduler, in a network namespace that is also
# the switch between the nodes.
#
# A namespace of its own keeps its ports from everybody else's, and makes it the nodes' only way out: it forwards
# nothing, so no packet of a node or a pod ever leaves this machine. The machine itself stands on the same switch as one
# more neighbour (link manx-outside); a test that wants a client from outside the cluster has it there.

control=manx-control
api_address=10.91.0.1
api_address6=fd91::1
outside_link=manx-outside
outside_address=10.91.0.254
outside_address6=fd91::fe
service_ranges=10.97.0.0/16,fd00:97::/112
service_addresses=(10.97.0.1 fd00:97::1)
dns_address=10.97.0.10
pod_ranges=10.245.0.0/16,fd00:10:245::/56
api="https://$api_address:6443"

in_control() { nsenter --net="/run/netns/$control" "$@"; }

# certificate NAME SUBJECT EXTENSIONS: one of our authority. Careful clients take none of version 1, and saying anything
# at all makes it one of version 3.
certificate() {
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/pki/$1.key" \
    -out "$work/pki/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$work/pki/$1.csr" -CA "$work/pki/ca.crt" -CAkey "$work/pki/ca.key" -CAcreateserial \
    -out "$work/pki/$1.crt" -days 365 -extfile <(printf '%s\n' "$3") 2>/dev/null
}

# kubeconfig FILE CERTIFICATE: everything inside it, so that it may be carried elsewhere.
kubeconfig() {
  local authority certificate key
  authority="$(base64 -w0 "$work/pki/ca.crt")"
  certificate="$(base64 -w0 "$work/pki/$2.crt")"
  key="$(base64 -w0 "$work/pki/$2.key")"
  (umask 077 && cat >"$1") <<YAML
apiVersion: v1
kind: Config
clusters: [{ name: manx, cluster: { server: "$api", certificate-authority-data: $authority } }]
users: [{ name: $2, user: { client-certificate-data: $certificate, client-key-data: $key } }]
contexts: [{ name: manx, context: { cluster: manx, user: $2 } }]
current-context: manx
YAML
}

make_authority() {
  local names="DNS:localhost,IP:127.0.0.1,IP:$api_address,IP:$api_address6" name
  for name in kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local; do
    names+=",DNS:$name"
  done
  for name in "${service_addresses[@]}"; do names+=",IP:$name"; done
  (
    umask 077
    mkdir -p "$work/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$work/pki/ca.key" \
      -out "$work/pki/ca.crt" -subj /CN=manx-cluster -days 365 2>/dev/null
    openssl genrsa -out "$work/pki/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$work/pki/accounts.key" -pubout -out "$work/pki/accounts.pub" 2>/dev/null
  )
  certificate apiserver /CN=kube-apiserver "subjectAltName=$names"
  certificate admin "/O=system:masters/CN=admin" extendedKeyUsage=clientAuth
  # Kubernetes binds the roles of its components to these names.
  for name in kube-controller-manager kube-scheduler kube-proxy; do
    certificate "$name" "/CN=system:$name" extendedKeyUsage=clientAuth
    kubeconfig "$work/$name.kubeconfig" "$name"
  done
  kubeconfig "$work/kubeconfig" admin
}

# The switch, and the machine's own link to it.
make_switch() {
  ip netns add "$control"
  ip -n "$control" link set lo up
  # With a hardware address of its own: it would change with every node that comes or goes, and be unreachable meanwhile.
  ip -n "$control" link add switch address 02:91:00:00:00:01 type bridge
  ip -n "$control" addr add "$api_address/24" dev switch
  ip -n "$control" addr add "$api_address6/64" dev switch nodad
  ip -n "$control" link set switch up
  # What only crosses the switch is nobody's to filter.
  in_control sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 2>/dev/null || true
  ip link add "$outside_link" type veth peer name outside netns "$control"
  ip -n "$control" link set outside master switch up
  ip addr add "$outside_address/24" dev "$outside_link"
  ip -6 addr add "$outside_address6/64" dev "$outside_link" nodad
  ip link set "$outside_link" up
}

remove_switch() {
  ip link del "$outside_link" 2>/dev/null || true
  ip netns del "$control" 2>/dev/null || true
}

start_etcd() {
  spawn etcd nsenter --net="/run/netns/$control" "$etcd" --data-dir "$work/etcd" --unsafe-no-fsync --log-level warn
}

start_apiserver() {
  spawn apiserver nsenter --net="/run/netns/$control" "$kubernetes/kube-apiserver" \
    --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range="$service_ranges" \
    --bind-address="$api_address" --secure-port=6443 --advertise-address="$api_address" \
    --client-ca-file="$work/pki/ca.crt" --tls-cert-file="$work/pki/apiserver.crt" \
    --tls-private-key-file="$work/pki/apiserver.key" \
    --kubelet-client-certificate="$work/pki/admin.crt" --kubelet-client-key="$work/pki/admin.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-account-key-file="$work/pki/accounts.pub" --service-account-signing-key-file="$work/pki/accounts.key" \
    --service-account-issuer=https://kubernetes.default.svc
}

# Without leader election: a manager that was killed need not wait for its own lease to run out.
start_controller-manager() {
  spawn controller-manager nsenter --net="/run/netns/$control" "$kubernetes/kube-controller-manager" \
    --kubeconfig="$work/kube-controller-manager.kubeconfig" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file="$work/pki/accounts.key" --root-ca-file="$work/pki/ca.crt" \
    --cluster-signing-cert-file="$work/pki/ca.crt" --cluster-signing-key-file="$work/pki/ca.key" \
    --allocate-node-cidrs --cluster-cidr="$pod_ranges" --service-cluster-ip-range="$service_ranges"
}

start_scheduler() {
  spawn scheduler nsenter --net="/run/netns/$control" "$kubernetes/kube-scheduler" \
    --kubeconfig="$work/kube-scheduler.kubeconfig" --leader-elect=false
}

is_ready() {
  curl -sf --max-time 20 --cacert "$work/pki/ca.crt" --cert "$work/pki/admin.crt" --key "$work/pki/admin.key" \
    "$api/readyz" >/dev/null
}

is_settled() { is_ready || is_gone apiserver; }

wait_for_apiserver() {
  within 60 is_alive apiserver || true
  within 300 is_settled || true
  is_ready || { tail -n 3 "$work/log/apiserver" "$work/log/etcd" | cut -c1-500 >&2; fail "the API server does not become ready"; }
}

start_control() {
  start_etcd
  start_apiserver
  wait_for_apiserver
  start_controller-manager
  start_scheduler
}
