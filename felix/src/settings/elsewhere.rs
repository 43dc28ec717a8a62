//! Settings that Calico knows and that mean nothing here.
//!
//! They are accepted, so that an existing configuration carries over, and named once in a notice, so that nobody relies
//! on them. A name that is in neither list is a slip of the pen or belongs to a newer version, and is told apart by that.

/// Names of Calico settings without a meaning here, in Calico's spelling.
pub const ELSEWHERE: &[&str] = &[
    "AllowIPIPPacketsFromWorkloads", "AllowVXLANPacketsFromWorkloads", "AWSSrcDstCheck", "BPFAttachType",
    "BPFConnectTimeLoadBalancing", "BPFConnectTimeLoadBalancingEnabled", "BPFConntrackCleanupMode",
    "BPFConntrackLogLevel", "BPFConntrackTimeouts", "BPFCTLBLogFilter", "BPFDataIfacePattern",
    "BPFDisableGROForIfaces", "BPFDisableUnprivileged", "BPFDSROptoutCIDRs", "BPFEnforceRPF",
    "BPFExcludeCIDRsFromNAT", "BPFExportBufferSizeMB", "BPFExternalServiceMode", "BPFExtToServiceConnmark",
    "BPFForceTrackPacketsFromIfaces", "BPFHostConntrackBypass", "BPFHostNetworkedNATWithoutCTLB",
    "BPFIPFragmentReassemblyEnabled", "BPFIPFragTimeout", "BPFJITHardening", "BPFKubeProxyHealthzPort",
    "BPFKubeProxyIptablesCleanupEnabled", "BPFKubeProxyMinSyncPeriod", "BPFL3IfacePattern", "BPFLogFilters",
    "BPFLogLevel", "BPFMaglevMaxEndpointsPerService", "BPFMaglevMaxServices", "BPFMapSizeConntrack",
    "BPFMapSizeConntrackCleanupQueue", "BPFMapSizeConntrackScaling", "BPFMapSizeIfState",
    "BPFMapSizeIPSets", "BPFMapSizeNATAffinity", "BPFMapSizeNATBackend", "BPFMapSizeNATFrontend",
    "BPFMapSizePerCPUConntrack", "BPFMapSizeRoute", "BPFOverlayHostSourceIP", "BPFPolicyDebugEnabled",
    "BPFProfiling", "BPFPSNATPorts", "BPFRedirectToPeer", "CgroupV2Path", "DebugBPFCgroupV2",
    "DebugSimulateDataRace", "FeatureGates", "FloatingIPs", "FlowLogsCollectorDebugTrace",
    "FlowLogsFlushInterval", "FlowLogsGoldmaneServer", "FlowLogsLocalReporter",
    "FlowLogsPolicyEvaluationMode", "GoGCThreshold", "GoMaxProcs", "GoMemoryLimitMB", "IgnoreLooseRPF",
    "IptablesLockFilePath", "IptablesLockTimeoutSecs", "IPv4ElevatedRoutePriority",
    "IPv6ElevatedRoutePriority", "IPv6VXLANTunnelAddr", "IstioAmbientMode", "IstioDSCPMark",
    "LiveMigrationRouteConvergenceTime", "LocalSubnetL2Reachability",
    "LocalSubnetL2ReachabilityRefreshInterval", "LogActionRateLimit", "LogActionRateLimitBurst",
    "LogDebugFilenameRegex", "MTUIfacePattern", "NATOutgoingExclusions",
    "NFTablesFlowTableDataIfacePattern", "NFTablesFlowTableOffload", "ProgramClusterRoutes",
    "PrometheusMetricsClientAuth", "PrometheusWireGuardMetricsEnabled", "RequireMTUFile", "RouteSource",
    "Variant", "VXLANMTUV6", "VXLANTunnelMACAddrV6", "WindowsManageFirewallRules", "WireguardEnabled",
    "WireguardEnabledV6", "WireguardHostEncryptionEnabled", "WireguardInterfaceName",
    "WireguardInterfaceNameV6", "WireguardListeningPort", "WireguardListeningPortV6", "WireguardMTU",
    "WireguardMTUV6", "WireguardPersistentKeepAlive", "WireguardRoutingRulePriority",
    "WireguardThreadingEnabled",
];

/// The name in Calico's spelling, whatever the case, if it is one of these.
pub fn known_elsewhere(name: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|known| known.eq_ignore_ascii_case(name)).copied()
}
