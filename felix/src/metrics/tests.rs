//! The names that graphs are drawn from, and the text in which they are read.

use super::*;
use crate::http::Pages;
use std::collections::BTreeMap;
use std::time::Duration;

fn metrics(process: bool) -> Metrics {
    Metrics::new(&MetricsOptions {
        host: "node-1".into(),
        process,
    })
    .unwrap()
}

/// Every metric used once, so that those with labels show.
fn used() -> Metrics {
    let metrics = metrics(true);
    metrics.log_errors().inc();
    metrics.object_rejected("NetworkPolicy");
    metrics.set_invalid_objects("NetworkPolicy", 2);
    metrics.set_exhausted([("IPv4", "pods")]);
    let calculation = metrics.calculation();
    calculation.set_local(1, 2, 3);
    calculation.set_cluster(ClusterSize {
        hosts: 4,
        workload_endpoints: 5,
        host_endpoints: 6,
        policies: 7,
        profiles: 8,
        tiers: 9,
    });
    calculation.update_processed("workload-endpoint", Duration::from_millis(500));
    calculation.events_sent(15);
    calculation.set_resync_state(ResyncState::Resyncing);
    calculation.set_resync_state(ResyncState::InSync);
    let dataplane = metrics.dataplane();
    dataplane.applied(Duration::from_millis(250), false);
    dataplane.messages("policy", 1);
    dataplane.batch(16);
    dataplane.set_initial_resync_time(Duration::from_millis(1500));
    dataplane.nft_transaction(true);
    dataplane.nft_transaction(false);
    dataplane.set_nft_size(TableSize {
        chains: 17,
        rules: 18,
        sets: 19,
        maps: 20,
    });
    dataplane.nft_drift_mended(21);
    dataplane.set_routes(254, 22);
    dataplane.conntrack_removed(23);
    dataplane.set_tunnels_with_own_checksums(24);
    dataplane.policy_programmed(Duration::from_millis(4));
    metrics
}

/// Each name with its type.
fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect()
}

#[test]
fn names_and_types_are_those_of_the_graphs() {
    let text = used().render().unwrap();
    let mut found = types(&text);
    // Present only where the kernel tracks connections.
    found.remove("felix_conntrack_entries");
    found.remove("felix_conntrack_limit");
    let expected = BTreeMap::from([
        ("felix_active_local_endpoints", "gauge"),
        ("felix_active_local_policies", "gauge"),
        ("felix_active_local_selectors", "gauge"),
        ("felix_build_info", "gauge"),
        ("felix_calc_graph_output_events", "counter"),
        ("felix_calc_graph_update_time_seconds", "summary"),
        ("felix_calc_graph_updates_processed", "counter"),
        ("felix_cluster_num_host_endpoints", "gauge"),
        ("felix_cluster_num_hosts", "gauge"),
        ("felix_cluster_num_policies", "gauge"),
        ("felix_cluster_num_profiles", "gauge"),
        ("felix_cluster_num_tiers", "gauge"),
        ("felix_cluster_num_workload_endpoints", "gauge"),
        ("felix_conntrack_entries_removed_total", "counter"),
        ("felix_host", "gauge"),
        ("felix_int_dataplane_apply_time_seconds", "summary"),
        ("felix_int_dataplane_failures", "counter"),
        ("felix_int_dataplane_initial_resync_time_seconds", "gauge"),
        ("felix_int_dataplane_messages", "counter"),
        ("felix_int_dataplane_msg_batch_size", "summary"),
        ("felix_invalid_objects", "gauge"),
        ("felix_ipam_exhausted", "gauge"),
        ("felix_ipset_calls", "counter"),
        ("felix_ipset_errors", "counter"),
        ("felix_iptables_drift_total", "counter"),
        ("felix_iptables_lines_executed", "counter"),
        ("felix_iptables_lock_timeouts_total", "counter"),
        ("felix_iptables_restore_calls", "counter"),
        ("felix_iptables_restore_errors", "counter"),
        ("felix_iptables_restore_seconds_total", "counter"),
        ("felix_iptables_save_calls", "counter"),
        ("felix_iptables_save_errors", "counter"),
        ("felix_log_errors", "counter"),
        ("felix_nft_calls", "counter"),
        ("felix_nft_chains", "gauge"),
        ("felix_nft_drift_total", "counter"),
        ("felix_nft_errors", "counter"),
        ("felix_nft_maps", "gauge"),
        ("felix_nft_rules", "gauge"),
        ("felix_nft_sets", "gauge"),
        ("felix_objects_rejected_total", "counter"),
        ("felix_policy_programming_latency_seconds", "histogram"),
        ("felix_resync_state", "gauge"),
        ("felix_resyncs_started", "counter"),
        ("felix_route_table_num_routes", "gauge"),
        ("felix_tunnels_checksum_offload_off", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_max_fds", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_threads", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn values_are_what_was_measured() {
    let text = used().render().unwrap();
    let version = format!("felix_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    for line in [
        "felix_active_local_endpoints 1",
        "felix_active_local_policies 2",
        "felix_active_local_selectors 3",
        "felix_cluster_num_hosts 4",
        "felix_cluster_num_workload_endpoints 5",
        "felix_cluster_num_host_endpoints 6",
        "felix_cluster_num_policies 7",
        "felix_cluster_num_profiles 8",
        "felix_cluster_num_tiers 9",
        "felix_calc_graph_updates_processed{type=\"workload-endpoint\"} 1",
        "felix_calc_graph_update_time_seconds{quantile=\"0.5\"} 0.5",
        "felix_calc_graph_update_time_seconds{quantile=\"0.99\"} 0.5",
        "felix_calc_graph_update_time_seconds_sum 0.5",
        "felix_calc_graph_update_time_seconds_count 1",
        "felix_calc_graph_output_events 15",
        "felix_resync_state 3",
        "felix_resyncs_started 1",
        "felix_int_dataplane_apply_time_seconds_sum 0.25",
        "felix_int_dataplane_failures 1",
        "felix_int_dataplane_messages{type=\"policy\"} 1",
        "felix_int_dataplane_msg_batch_size_sum 16",
        "felix_int_dataplane_initial_resync_time_seconds 1.5",
        "felix_nft_calls 2",
        "felix_nft_errors 1",
        "felix_nft_chains 17",
        "felix_nft_rules 18",
        "felix_nft_sets 19",
        "felix_nft_maps 20",
        "felix_nft_drift_total 21",
        "felix_route_table_num_routes{table=\"254\"} 22",
        "felix_conntrack_entries_removed_total 23",
        "felix_tunnels_checksum_offload_off 24",
        "felix_policy_programming_latency_seconds_bucket{le=\"0.003\"} 0",
        "felix_policy_programming_latency_seconds_bucket{le=\"0.005\"} 1",
        "felix_policy_programming_latency_seconds_count 1",
        "felix_objects_rejected_total{kind=\"NetworkPolicy\"} 1",
        "felix_invalid_objects{kind=\"NetworkPolicy\"} 2",
        "felix_log_errors 1",
        "felix_host{host=\"node-1\"} 1",
        version.as_str(),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

/// The conventions that `promtool check metrics` holds a text against, as far as they concern our own names.
#[test]
fn own_names_follow_the_conventions() {
    /// Names and types that are Calico's, whatever today's conventions say.
    const CALICO: [&str; 17] = [
        "felix_calc_graph_output_events",
        "felix_calc_graph_updates_processed",
        "felix_int_dataplane_failures",
        "felix_int_dataplane_messages",
        "felix_log_errors",
        "felix_nft_calls",
        "felix_nft_errors",
        "felix_resyncs_started",
        "felix_host",
        "felix_nft_chains",
        "felix_ipset_calls",
        "felix_ipset_errors",
        "felix_iptables_lines_executed",
        "felix_iptables_restore_calls",
        "felix_iptables_restore_errors",
        "felix_iptables_save_calls",
        "felix_iptables_save_errors",
    ];
    let text = used().render().unwrap();
    for (name, kind) in types(&text) {
        let help = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# HELP {name} ")))
            .unwrap_or_default();
        assert!(!help.is_empty(), "{name} has no help");
        assert!(
            name.chars()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
        );
        if CALICO.contains(&name) {
            continue;
        }
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        for suffix in ["_count", "_sum", "_bucket", "_milliseconds", "_ms", "_kilobytes"] {
            assert!(!name.ends_with(suffix), "{name}");
        }
        assert!(!name.contains(kind), "{name} names its type");
    }
    let mut samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, _)| series)
        .collect();
    let all = samples.len();
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), all, "a series is there twice");
}

#[test]
fn there_is_no_global_state() {
    let (one, other) = (metrics(false), metrics(false));
    one.calculation().set_local(5, 0, 0);
    assert!(one.render().unwrap().contains("felix_active_local_endpoints 5\n"));
    assert!(
        other
            .render()
            .unwrap()
            .contains("felix_active_local_endpoints 0\n")
    );
}

#[test]
fn figures_of_the_process_can_be_left_out() {
    assert!(
        metrics(true)
            .render()
            .unwrap()
            .contains("process_resident_memory_bytes ")
    );
    assert!(!metrics(false).render().unwrap().contains("process_"));
}

#[test]
fn outside_words_cannot_break_the_text() {
    let metrics = metrics(false);
    metrics.object_rejected("a\"} 1\nfelix_evil{x=\"");
    let text = metrics.render().unwrap();
    assert!(text.lines().all(|line| !line.starts_with("felix_evil")), "{text}");
}

#[test]
fn there_is_one_page() {
    let pages = MetricsPages::new(metrics(false));
    let page = pages.page("/metrics").unwrap();
    assert_eq!(
        (page.status.as_u16(), page.content_type),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(pages.page("/"), None);
}

#[test]
fn a_pool_is_exhausted_until_it_is_not() {
    let metrics = metrics(false);
    let shown = || {
        let text = metrics.render().unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("felix_ipam_exhausted{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown(), Vec::<String>::new());
    metrics.set_exhausted([("IPv4", "a"), ("IPv4", "b"), ("IPv6", "")]);
    assert_eq!(
        shown(),
        [
            "felix_ipam_exhausted{family=\"IPv4\",pool=\"a\"} 1",
            "felix_ipam_exhausted{family=\"IPv4\",pool=\"b\"} 1",
            "felix_ipam_exhausted{family=\"IPv6\",pool=\"\"} 1",
        ]
    );
    metrics.set_exhausted([("IPv4", "b")]);
    assert_eq!(shown(), ["felix_ipam_exhausted{family=\"IPv4\",pool=\"b\"} 1"]);
}
