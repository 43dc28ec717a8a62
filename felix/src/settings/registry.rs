//! The table of settings: name, field, type, default, demands. Every setting is read here and nowhere else.
//!
//! Names, types and defaults are Calico's, except where a row says so. `inert` rows are checked, so that a bad value is
//! found before the feature comes, and do nothing yet. What differs from Calico on purpose: health and metrics are on,
//! because an agent that does not say how it stands is found out too late, and the datastore is the embedded one.

use super::parse::*;
use super::table::{Definition, Flags, built_in, settings_table};

settings_table! {
    // Who and where.
    /// The name of this node; the host's own name when nothing is set.
    FelixHostname felix_hostname: Hostname = "" [local non_zero];
    /// Where the model is kept. Calico's default is etcdv3; here it is the embedded store.
    DatastoreType datastore_type: OneOf<DatastoreKind> = "file" [non_zero die_on_fail local];
    /// The folder of the embedded datastore.
    DatastorePath datastore_path: File = "/var/lib/manx/datastore" [local die_on_fail];
    /// The folder for what the agent must remember over a restart.
    StateDir state_dir: File = "/var/lib/manx" [local non_zero die_on_fail];
    /// The folder of the kernel's settings; a container has it elsewhere, for its own is read-only.
    SysctlPath sysctl_path: File = "/proc/sys" [local non_zero die_on_fail];
    /// The Unix socket on which the CNI plugin finds the agent.
    CNISocketPath cni_socket_path: File = "/run/manx/cni.sock" [local non_zero die_on_fail];

    // Policy.
    /// What happens to established flows when policy changes.
    FlowsOnPolicyChange flows_on_policy_change: OneOf<FlowsOnPolicyChange> = "Keep" [non_zero die_on_fail];
    /// What happens to a workload's traffic to its own node that its egress policy allows.
    DefaultEndpointToHostAction default_endpoint_to_host_action: OneOf<EndpointToHostAction> = "DROP" [non_zero die_on_fail];
    /// Beginnings of the names of workload interfaces.
    InterfacePrefix interface_prefix: InterfacePrefixList = "cali" [non_zero die_on_fail];
    /// Interfaces that are never taken for host endpoints.
    InterfaceExclude interface_exclude: InterfaceFilterList = "kube-ipvs0" [inert];
    /// Ports that stay open towards host endpoints whatever policy says.
    FailsafeInboundHostPorts failsafe_inbound_host_ports: PortList = "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667" [die_on_fail inert];
    /// Ports that stay open from host endpoints whatever policy says.
    FailsafeOutboundHostPorts failsafe_outbound_host_ports: PortList = "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667" [die_on_fail inert];
    /// Whether packets that connection tracking calls invalid are let past the check that drops them.
    DisableConntrackInvalidCheck disable_conntrack_invalid_check: Bool = "false" [];
    /// Whether IPv6 is programmed beside IPv4.
    Ipv6Support ipv6_support: Bool = "true" [inert];
    /// Whether a workload may be allowed to send with addresses that are not its own.
    WorkloadSourceSpoofing workload_source_spoofing: OneOfOrNone<SpoofingAllowed> = "Disabled" [];
    /// What happens to packets for Service addresses that no Service takes.
    ServiceLoopPrevention service_loop_prevention: OneOfOrNone<ServiceLoopPrevention> = "Drop" [inert];
    /// The beginning of log lines that a Log rule writes.
    LogPrefix log_prefix: Text = "calico-packet" [inert];

    // nftables.
    /// Whether the table is owned, so that nobody else can write to it, where the kernel can do that.
    NftablesOwnedTable nftables_owned_table: Bool = "true" [];
    /// How often the table is compared with what it should be, beside every notification of a change; 0 is never.
    NftablesRefreshInterval nftables_refresh_interval: Seconds = "180" [];
    /// What is done with a forwarded packet that policy allows.
    NftablesFilterAllowAction nftables_filter_allow_action: OneOf<AllowAction> = "ACCEPT" [non_zero die_on_fail inert];
    /// What is done with a packet that policy allows before it is routed.
    NftablesMangleAllowAction nftables_mangle_allow_action: OneOf<AllowAction> = "ACCEPT" [non_zero die_on_fail inert];
    /// What is done with a packet that policy denies.
    NftablesFilterDenyAction nftables_filter_deny_action: OneOf<DenyAction> = "DROP" [non_zero die_on_fail];
    /// Packet mark bits that may be used.
    NftablesMarkMask nftables_mark_mask: MarkBitmask = "0xffff0000" [non_zero die_on_fail inert];
    /// Whether policy is held in nftables or in iptables. Auto follows kube-proxy and what the kernel has.
    NFTablesMode nftables_mode: OneOfOrNone<NftablesMode> = "Auto" [];

    // Interfaces and routes.
    /// How often routes are compared with what they should be, beside every notification of a change; 0 is never.
    RouteRefreshInterval route_refresh_interval: Seconds = "90" [];
    /// How often interfaces are listed anew; 0 is never.
    InterfaceRefreshInterval interface_refresh_interval: Seconds = "90" [];
    /// The source address in routes to workloads; the kernel chooses when nothing is set.
    DeviceRouteSourceAddress device_route_source_address: Ipv4 = "" [];
    /// The same for IPv6.
    DeviceRouteSourceAddressIPv6 device_route_source_address_ipv6: Ipv6 = "" [];
    /// The protocol number that marks routes as ours.
    DeviceRouteProtocol device_route_protocol: Int<0, 255> = "3" [];
    /// Whether routes that others put on workload interfaces are removed.
    RemoveExternalRoutes remove_external_routes: Bool = "true" [inert];
    /// Whether forwarding is switched on in the kernel.
    IPForwarding ip_forwarding: OneOfOrNone<Switch> = "Enabled" [];
    /// How long the kernel may take to answer a netlink request; 0 is without end.
    NetlinkTimeoutSecs netlink_timeout: Seconds = "10" [];
    /// Metric of routes to IPv4 workloads.
    IPv4NormalRoutePriority ipv4_normal_route_priority: Int<1, 2147483646> = "1024" [inert];
    /// Metric of routes to IPv6 workloads.
    IPv6NormalRoutePriority ipv6_normal_route_priority: Int<1, 2147483646> = "1024" [inert];
    /// Routing tables that may be used, as one range.
    RouteTableRange route_table_range: RouteTableRange = "" [die_on_fail inert];
    /// Routing tables that may be used, as several ranges.
    RouteTableRanges route_table_ranges: RouteTableRanges = "" [die_on_fail inert];
    /// Whether routes are left to somebody else.
    RouteSyncDisabled route_sync_disabled: Bool = "false" [];
    /// Networks whose hosts may send tunnelled traffic though they are no nodes.
    ExternalNodesCIDRList external_nodes_cidr_list: CidrList = "" [die_on_fail inert];

    // Logs.
    /// The least severity that is written to the screen.
    LogSeverityScreen log_severity_screen: OneOfOrNone<LogSeverity> = "INFO" [];
    /// The least severity that is written to the file.
    LogSeverityFile log_severity_file: OneOfOrNone<LogSeverity> = "INFO" [];
    /// The least severity that is sent to syslog.
    LogSeveritySys log_severity_sys: OneOfOrNone<LogSeverity> = "INFO" [inert];
    /// The log file; none writes no file.
    LogFilePath log_file_path: File = "/var/log/calico/felix.log" [die_on_fail];
    /// How a log line is written.
    LogFormat log_format: OneOf<LogFormat> = "Text" [non_zero];

    // Health and metrics.
    /// Whether liveness and readiness are answered. Calico's default is false.
    HealthEnabled health_enabled: Bool = "true" [];
    /// Where they are answered.
    HealthHost health_host: HostAddress = "localhost" [];
    /// The port on which they are answered.
    HealthPort health_port: Port = "9099" [];
    /// How long named loops may be silent, in place of their own limits.
    HealthTimeoutOverrides health_timeout_overrides: KeyDurationList = "" [];
    /// How long the dataplane may be silent.
    DataplaneWatchdogTimeout dataplane_watchdog_timeout: Seconds = "90" [];
    /// Whether metrics are served. Calico's default is false.
    PrometheusMetricsEnabled prometheus_metrics_enabled: Bool = "true" [];
    /// Where they are served; nothing is all addresses.
    PrometheusMetricsHost prometheus_metrics_host: HostAddress = "" [];
    /// The port on which they are served.
    PrometheusMetricsPort prometheus_metrics_port: Port = "9091" [];
    /// Accepted for what exists: there is no Go runtime to measure.
    PrometheusGoMetricsEnabled prometheus_go_metrics_enabled: Bool = "true" [inert];
    /// Whether memory, processor time and files of the process are among the metrics.
    PrometheusProcessMetricsEnabled prometheus_process_metrics_enabled: Bool = "true" [];
    /// The authority that signs the certificates of those who may read metrics.
    PrometheusMetricsCAFile prometheus_metrics_ca_file: File = "" [die_on_fail];
    /// The certificate with which metrics are served.
    PrometheusMetricsCertFile prometheus_metrics_cert_file: File = "" [die_on_fail];
    /// The key of that certificate.
    PrometheusMetricsKeyFile prometheus_metrics_key_file: File = "" [die_on_fail];

    // Reports.
    /// How often the agent writes how it stands into the datastore; 0 is never.
    ReportingIntervalSecs reporting_interval: Seconds = "30" [inert];
    /// After how long such a report is no longer believed.
    ReportingTTLSecs reporting_ttl: Seconds = "90" [inert];
    /// Whether the state of each endpoint is reported.
    EndpointReportingEnabled endpoint_reporting_enabled: Bool = "false" [inert];
    /// How long reports of endpoints are collected before they are written.
    EndpointReportingDelaySecs endpoint_reporting_delay: Seconds = "1" [inert];
    /// The folder in which the state of each endpoint is told to the node.
    EndpointStatusPathPrefix endpoint_status_path_prefix: File = "/var/run/calico" [inert];
    /// The folder in which policy is told to sidecars.
    PolicySyncPathPrefix policy_sync_path_prefix: File = "" [inert];

    // Other dataplanes.
    /// Whether the agent programs the kernel itself.
    UseInternalDataplaneDriver use_internal_dataplane_driver: Bool = "true" [];
    /// The program that would do it in its place. Found when it is set, not when it is the default.
    DataplaneDriver dataplane_driver: Executable = "" [non_zero die_on_fail inert];
    /// Whether eBPF takes the place of nftables.
    BPFEnabled bpf_enabled: Bool = "false" [inert];
    /// Which variant of iptables is used where policy is held there. Auto follows kube-proxy, the kubelet and the rules of others.
    IptablesBackend iptables_backend: OneOfOrNone<IptablesVariant> = "auto" [];
    /// How often iptables rules are compared with what they should be, beside every notification of a change; 0 is never.
    IptablesRefreshInterval iptables_refresh_interval: Seconds = "180" [];
    /// How soon after a write iptables rules are read back; 0 is never. Calico's default is 5: what another program writes at
    /// the same moment may be heard of by nothing else.
    IptablesPostWriteCheckIntervalSecs iptables_post_write_check_interval: Seconds = "1" [];
    /// How often an iptables before 1.8.8 looks whether the lock is free that somebody else holds.
    IptablesLockProbeIntervalMillis iptables_lock_probe_interval: Millis = "50" [];
    /// How long one write waits for that lock: whole seconds, at least one.
    IptablesLockTimeoutSecs iptables_lock_timeout: Seconds = "10" [];
    /// Where that lock is. All programs of a node have to use the same file.
    IptablesLockFilePath iptables_lock_file_path: File = "/run/xtables.lock" [non_zero die_on_fail];
    /// What iptables does with a forwarded packet that policy allows.
    IptablesFilterAllowAction iptables_filter_allow_action: OneOf<AllowAction> = "ACCEPT" [non_zero die_on_fail];
    /// What iptables does with a packet that policy allows before it is routed.
    IptablesMangleAllowAction iptables_mangle_allow_action: OneOf<AllowAction> = "ACCEPT" [non_zero die_on_fail inert];
    /// What iptables does with a packet that policy denies.
    IptablesFilterDenyAction iptables_filter_deny_action: OneOf<DenyAction> = "DROP" [non_zero die_on_fail];
    /// Packet mark bits that may be used in iptables: the lowest that kube-proxy leaves is.
    IptablesMarkMask iptables_mark_mask: IptablesMarks = "0xffff0000" [non_zero die_on_fail];
    /// Interfaces whose outgoing traffic is given the node's address.
    IptablesNATOutgoingInterfaceFilter iptables_nat_outgoing_interface_filter: InterfacePattern = "" [inert];
    /// Where rules are put in chains that others share.
    ChainInsertMode chain_insert_mode: OneOf<InsertMode> = "insert" [non_zero die_on_fail];
    /// How often IP sets are compared with what they should be; 0 is never.
    IpsetsRefreshInterval ipsets_refresh_interval: Seconds = "90" [];
    /// How many members an IP set may have.
    MaxIpsetSize max_ipset_size: Int<1, { u32::MAX as i64 }> = "1048576" [non_zero];
    /// How often XDP programs are compared with what they should be.
    XDPRefreshInterval xdp_refresh_interval: Seconds = "90" [inert];
    /// Whether XDP speeds up what it can.
    XDPEnabled xdp_enabled: Bool = "true" [inert];
    /// Whether XDP is used where the driver has none.
    GenericXDPEnabled generic_xdp_enabled: Bool = "false" [inert];
    /// Whether traffic between a sidecar and its workload is sped up.
    SidecarAccelerationEnabled sidecar_acceleration_enabled: Bool = "false" [inert];
    /// What the agent is told of the kernel's features instead of finding it out: ChecksumOffloadBroken.
    FeatureDetectOverride feature_detect_override: KeyValueList = "" [];

    // Tunnels and translation of addresses.
    /// Whether VXLAN is set up; none lets the pools decide.
    VXLANEnabled vxlan_enabled: MaybeBool = "" [];
    /// The UDP port of VXLAN.
    VXLANPort vxlan_port: Port = "4789" [];
    /// The network identifier of VXLAN.
    VXLANVNI vxlan_vni: Int<0, 16777215> = "4096" [];
    /// The MTU of the VXLAN interface; 0 finds it out.
    VXLANMTU vxlan_mtu: Int<0, 65535> = "0" [];
    /// The same of the interface for IPv6.
    VXLANMTUV6 vxlan_mtu_v6: Int<0, 65535> = "0" [];
    /// The address of this node's VXLAN interface.
    IPv4VXLANTunnelAddr ipv4_vxlan_tunnel_addr: Ipv4 = "" [inert];
    /// The hardware address of this node's VXLAN interface.
    VXLANTunnelMACAddr vxlan_tunnel_mac_addr: Text = "" [inert];
    /// Whether IPIP is set up; none lets the pools decide.
    IpInIpEnabled ip_in_ip_enabled: MaybeBool = "" [];
    /// The MTU of the IPIP interface; 0 finds it out.
    IpInIpMtu ip_in_ip_mtu: Int<0, 65535> = "0" [];
    /// The address of this node's IPIP interface.
    IpInIpTunnelAddr ip_in_ip_tunnel_addr: Ipv4 = "" [inert];
    /// Whether workloads may send VXLAN packets themselves.
    AllowVXLANPacketsFromWorkloads allow_vxlan_packets_from_workloads: Bool = "false" [];
    /// Whether workloads may send IPIP packets themselves.
    AllowIPIPPacketsFromWorkloads allow_ipip_packets_from_workloads: Bool = "false" [];
    /// Ports that NodePort Services use.
    KubeNodePortRanges kube_node_port_ranges: PortRangeList = "30000:32767" [inert];
    /// Source ports that outgoing traffic is given.
    NATPortRange nat_port_range: PortRangeOrNone = "" [];
    /// The source address that outgoing traffic is given.
    NATOutgoingAddress nat_outgoing_address: Ipv4 = "" [];
    /// Where traffic goes that keeps its own source address.
    NATOutgoingExclusions nat_outgoing_exclusions: OneOfOrNone<NatExclusions> = "IPPoolsOnly" [];

    // Other datastores.
    /// The etcd server, when there is no list.
    EtcdAddr etcd_addr: Authority = "127.0.0.1:2379" [local inert];
    /// How it is spoken to.
    EtcdScheme etcd_scheme: OneOfOrNone<EtcdScheme> = "http" [local inert];
    /// The key of the agent's certificate for etcd.
    EtcdKeyFile etcd_key_file: ExistingFile = "" [local inert];
    /// The agent's certificate for etcd.
    EtcdCertFile etcd_cert_file: ExistingFile = "" [local inert];
    /// The authority that signs etcd's certificates.
    EtcdCaFile etcd_ca_file: ExistingFile = "" [local inert];
    /// The etcd servers.
    EtcdEndpoints etcd_endpoints: EndpointList = "" [local inert secret];
    /// The relay between the agents and the API server.
    TyphaAddr typha_addr: Authority = "" [local inert];
    /// The Service of that relay.
    TyphaK8sServiceName typha_k8s_service_name: Text = "" [local inert];
    /// The namespace of that Service.
    TyphaK8sNamespace typha_k8s_namespace: Text = "kube-system" [non_zero local inert];
    /// How long the relay may be silent.
    TyphaReadTimeout typha_read_timeout: Seconds = "30" [local inert];
    /// How long the relay may take to accept what is sent.
    TyphaWriteTimeout typha_write_timeout: Seconds = "10" [local inert];
    /// The key of the agent's certificate for the relay.
    TyphaKeyFile typha_key_file: ExistingFile = "" [local inert];
    /// The agent's certificate for the relay.
    TyphaCertFile typha_cert_file: ExistingFile = "" [local inert];
    /// The authority that signs the relay's certificates.
    TyphaCAFile typha_ca_file: ExistingFile = "" [local inert];
    /// The name that the relay's certificate must have.
    TyphaCN typha_cn: Text = "" [local inert];
    /// The URI that the relay's certificate must have.
    TyphaURISAN typha_uri_san: Text = "" [local inert];

    // Surroundings that Calico knows.
    /// Where OpenStack's metadata server is.
    MetadataAddr metadata_addr: Hostname = "127.0.0.1" [die_on_fail inert];
    /// The port of OpenStack's metadata server.
    MetadataPort metadata_port: Port = "8775" [die_on_fail inert];
    /// The OpenStack region.
    OpenstackRegion openstack_region: Region = "" [die_on_fail inert];
    /// Accepted for what exists: nothing is ever reported to anybody.
    UsageReportingEnabled usage_reporting_enabled: Bool = "true" [inert];
    /// Likewise.
    UsageReportingInitialDelaySecs usage_reporting_initial_delay: Seconds = "300" [inert];
    /// Likewise.
    UsageReportingIntervalSecs usage_reporting_interval: Seconds = "86400" [inert];
    /// The cluster's identity.
    ClusterGUID cluster_guid: Text = "baddecaf" [inert];
    /// What kind of cluster it is.
    ClusterType cluster_type: Text = "" [inert];
    /// Which Calico it was made with.
    CalicoVersion calico_version: Text = "" [inert];
    /// Where a memory profile would be written.
    DebugMemoryProfilePath debug_memory_profile_path: File = "" [inert];
    /// Where a processor profile would be written.
    DebugCPUProfilePath debug_cpu_profile_path: File = "felix-cpu-<timestamp>.pprof" [inert];
    /// Whether log lines are written even when that slows the agent down, which is always so here.
    DebugDisableLogDropping debug_disable_log_dropping: Bool = "false" [inert];
    /// After how long the calculation graph stops on purpose, to test the health reports; 0 is never.
    DebugSimulateCalcGraphHangAfter debug_simulate_calc_graph_hang_after: Seconds = "0" [inert];
    /// After how long the dataplane stops on purpose, to test the health reports; 0 is never.
    DebugSimulateDataplaneHangAfter debug_simulate_dataplane_hang_after: Seconds = "0" [inert];
    /// How long each pass of the dataplane waits on purpose.
    DebugSimulateDataplaneApplyDelay debug_simulate_dataplane_apply_delay: Seconds = "0" [inert];
    /// After how long the agent ends on purpose; 0 is never.
    DebugPanicAfter debug_panic_after: Seconds = "0" [inert];
    /// Where the debugging interface would listen.
    DebugHost debug_host: HostAddress = "localhost" [inert];
    /// The port of the debugging interface.
    DebugPort debug_port: MaybePort = "" [inert];
}
