# shellcheck shell=bash
# What Prometheus, the real one, makes of the pages.

prometheus_config() {
  cat <<YAML
global: { scrape_interval: 1s }
rule_files: ["$work/rules.yaml"]
scrape_configs:
  - job_name: felix
    static_configs: [{ targets: ["10.91.0.11:9091", "10.91.0.12:9091"] }]
  - job_name: controller
    static_configs: [{ targets: ["10.91.0.11:9094", "10.91.0.12:9094"] }]
YAML
}
ask_prometheus() { curl -gsS --max-time 20 "http://127.0.0.1:19090/api/v1/query?query=$1"; }
counts() { [ "$(ask_prometheus "$1" | sed -n 's/.*"value":\[[^,]*,"\([0-9.]*\)"\].*/\1/p' | head -n 1)" = "$2" ]; }
page() { cluster node-exec node1 -- /usr/bin/curl -sS --max-time 20 "http://$1/metrics"; }
# Counters that have Calico's names, so that dashboards carry over; newer customs would end them in _total.
calicos='calc_graph_output_events|calc_graph_updates_processed|int_dataplane_failures|int_dataplane_messages|log_errors'
calicos+='|nft_calls|nft_errors|resyncs_started'
calicos+='|ipset_calls|ipset_errors|iptables_lines_executed|iptables_(restore|save)_(calls|errors)'
# Whether promtool reads a page and finds nothing but those names.
checks_page() {
  local found
  page "$1" >"$work/page" && [ -s "$work/page" ] || return 1
  found="$(promtool check metrics <"$work/page" 2>&1 | grep -Ev "^felix_($calicos) counter metrics should have \"_total\" suffix$")"
  printf '%s' "$found"
  [ -z "$found" ]
}

# The chart's alerts as Prometheus reads them. The version is said: without a cluster helm assumes an old Kubernetes.
rules() {
  local version
  version="$(kubectl get --raw /version | sed -n 's/.*"gitVersion": "\([^"]*\)".*/\1/p')"
  helm template manx "$root/charts/manx" --namespace "$namespace" --set prometheusRule.enabled=true \
    --kube-version "$version" --show-only templates/monitoring/prometheusrule.yaml >"$work/rules-object.yaml" || return 1
  sed -n '/^spec:/,$p' "$work/rules-object.yaml" | sed 1d | sed 's/^  //' >"$work/rules.yaml"
  [ -s "$work/rules.yaml" ]
}

if wanted metrics; then
  part "metrics"
  if ! command -v promtool >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends prometheus </dev/null >/dev/null 2>&1
    systemctl disable --now prometheus >/dev/null 2>&1 || true
  fi
  check "promtool finds nothing wrong with felix's page" checks_page 10.91.0.11:9091
  controller_node="$(kubectl -n "$namespace" get pods -l app.kubernetes.io/name=manx-controller -o jsonpath='{.items[0].status.hostIP}')"
  check "nor with the controller's" checks_page "$controller_node:9094"
  check "there are rules" rules
  check "and it finds nothing wrong with them" promtool check rules "$work/rules.yaml"
  prometheus_config >"$work/prometheus.yaml"
  prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/prometheus" \
    --web.listen-address=127.0.0.1:19090 >"$work/prometheus.log" 2>&1 &
  background+=($!)
  check "Prometheus scrapes every felix" within 180 counts 'sum(up{job="felix"})' 2
  check "and a controller" within 180 counts 'min(max(up{job="controller"}))' 1
  check "which know of each other's pods" within 60 counts 'count(felix_cluster_num_workload_endpoints>0)' 2
fi
