//! Makes each part and gives it to the next.

use super::announcing::Announcement;
use super::dataplane_settings::dataplane_settings;
use super::engine::Engine;
use super::following;
use super::handle::{EngineError, EngineHandle, EngineOptions, Input};
use super::network_config::{self, NetworkConfig, has_tunnels, takes_from_pools};
use super::state::{StateError, StateFolder};
use super::workload_mtu::WorkloadMtu;
use super::{shortages, tunnel_notes};
use crate::health::{Counts, HealthAggregator, HealthPages};
use crate::http::{BindError, Limits, Pages, Purpose, ServerThread, bind};
use crate::metrics::{Metrics, MetricsPages};
use crate::rules;
use crate::settings::parse::{SpoofingAllowed, Switch};
use crate::settings::{ClusterSettings, Settings};
use crate::uninstall::{Door, Guarded, Orders, Reports, until_empty};
use dataplane::RulesBackend;
pub(crate) use dataplane_netlink::chain;
use dataplane_netlink::routes::RouteOwnership;
use dataplane_netlink::sysctl::{self, SysctlKey, Sysctls};
use dataplane_netlink::workload::{ReversePath, RouteSources, WorkloadSettings};
use dataplane_netlink::{InterfacePrefixes, Patience};
use felix_cni::{AttachSettings, Attacher, ClusterView, EndpointView, StatedAddresses};
use policy_model::UninstallOrder;
use policy_model_datastore::Datastore;
use policy_model_datastore_kube::KubeStore;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A loop that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);
/// How often the node is looked at for what lets traffic by-pass policy.
const BYPASS_INTERVAL: Duration = Duration::from_secs(30);
/// How long an attachment waits for what it needs.
const ATTACH_PATIENCE: Duration = Duration::from_secs(50);

/// The agent could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The settings ask for what cannot be.
    #[error("{0}")]
    Settings(String),
    /// A server cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A server's thread or the signal handlers could not be made.
    #[error("starting {what}")]
    Start {
        /// What was to be started.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The engine could not begin.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The journal of attachments cannot be used.
    #[error("opening the journal of attachments")]
    Journal(#[from] felix_cni::journal::JournalError),
    /// The folder for what must be remembered cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The socket for CNI cannot be used.
    #[error(
        "pods cannot be attached without the socket {}: make its folder usable, or set CNISocketPath (FELIX_CNISOCKETPATH) to another path", path.display()
    )]
    Cni {
        /// Where the socket was to be.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine ended by itself: its supervisor starts the agent anew, and what is in force stays.
    #[error("the engine ended unexpectedly")]
    EngineEnded,
}

/// Why the agent ended, when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The datastore asks for other settings, which take effect when the agent is started anew.
    SettingsChanged,
    /// Everything of ours is to be taken off this node, and nothing that has to go on is in the way.
    Ordered(UninstallOrder),
}

/// Runs the agent until it is told to stop, its settings change, or there is an order that it can go by. Ending leaves
/// everything in force.
///
/// # Errors
/// Why it could not begin or go on.
pub async fn run(
    cluster: ClusterSettings,
    store: Arc<dyn Datastore>,
    kubernetes: Option<KubeStore>,
    metrics: Metrics,
    orders: Orders,
) -> Result<Ended, AgentError> {
    let settings = &cluster.settings().clone();
    let _state = StateFolder::take(&settings.state_dir)?;
    let network_config =
        NetworkConfig::from_environment(&settings.felix_hostname, |name| std::env::var_os(name))
            .map_err(|error| AgentError::Settings(error.to_string()))?;
    let announcement =
        Announcement::from_environment(&settings.felix_hostname, |name| std::env::var(name).ok())
            .map_err(|error| AgentError::Settings(error.to_string()))?;
    let health = HealthAggregator::new(&settings.health_timeout_overrides);
    let now = Instant::now();
    let engine_reporter = health.register("engine", Counts::Both, settings.dataplane_watchdog_timeout, now);
    let sync_reporter = health.register("datastore", Counts::Liveness, SILENCE, now);
    let _servers = serve_pages(settings, &health, &metrics)?;

    let workloads = workload_settings(settings)?;
    if settings.ip_forwarding == Some(Switch::Enabled) {
        switch_forwarding_on(&workloads);
    }
    let (view, programmed) = watch::channel(EndpointView::default());
    let mtu = WorkloadMtu::default();
    let dataplane = dataplane_settings(settings, &workloads);
    let backend = dataplane.rules.clone();
    let options = EngineOptions {
        node: settings.felix_hostname.clone(),
        node_ranges: network_config
            .as_ref()
            .is_some_and(NetworkConfig::takes_from_node_ranges),
        refresh: rules::refresh(settings, &backend),
        dataplane,
        mtu: mtu.clone(),
    };
    let engine = Arc::new(Engine::start(options, view, engine_reporter, metrics.clone())?);

    let (stop, stopped) = watch::channel(false);
    let view = Arc::new(ClusterView::of_node(&settings.felix_hostname));
    let mut attacher = Attacher::open(
        AttachSettings {
            node: settings.felix_hostname.clone(),
            journal: PathBuf::from(&settings.state_dir).join("attachments"),
            mtu: mtu.follow(),
            workloads,
            patience: ATTACH_PATIENCE,
        },
        store.clone(),
        programmed,
    )?
    .with_unreadiness(network_config::unreadiness(health.clone()))
    .with_view(view.clone())
    .with_stated_addresses(if kubernetes.is_some() {
        StatedAddresses::LastKnown
    } else {
        StatedAddresses::Wanted
    });
    if kubernetes.is_some() {
        // The cluster's admission policy holds each agent to its own node's blocks.
        attacher = attacher.leaving_abandoned_blocks();
    }
    if !takes_from_pools(network_config.as_ref(), settings) {
        attacher = attacher.reserving_nothing();
    }
    if has_tunnels(network_config.as_ref(), settings) {
        attacher = attacher.keeping_tunnel_addresses();
    }
    let tunnels = attacher.tunnel_addresses();
    let lacking = shortages::tell(
        settings.felix_hostname.clone(),
        kubernetes.clone(),
        metrics,
        attacher.shortages(),
    );
    let mut attachments = attacher.attachments();
    let mut kept = attacher.kept_addresses();
    let door = Door::default();
    let reports = kubernetes.clone().map(|store| Reports {
        store,
        node: settings.felix_hostname.clone(),
        // Not ready before it is known that the network is to stay: no configuration is written, nothing is announced.
        reporter: health.register(crate::uninstall::REPORTER, Counts::Readiness, Duration::ZERO, now),
    });
    let leaving = until_empty(orders, door.clone(), attacher.attachments(), reports);
    // Before the first event, so that no pod is put into force without the addresses that it has.
    engine.send(Input::Attachments(attachments.borrow_and_update().clone()));
    let attached = tokio::spawn({
        let engine = engine.clone();
        async move {
            loop {
                let input = tokio::select! {
                    Ok(()) = attachments.changed() => {
                        Input::Attachments(attachments.borrow_and_update().clone())
                    }
                    Ok(()) = kept.changed() => Input::Kept(kept.borrow_and_update().clone()),
                    else => return,
                };
                engine.send(input);
            }
        }
    });
    let socket = PathBuf::from(&settings.cni_socket_path);
    refuse_foreign_file(&socket)?;
    let mut cni = tokio::spawn({
        let (stopped, socket) = (stopped.clone(), socket.clone());
        async move { felix_cni::serve(&socket, Arc::new(Guarded::new(attacher, door)), stopped).await }
    });
    let sync = tokio::spawn(following::objects(
        store.clone(),
        engine.clone(),
        view,
        sync_reporter,
    ));
    let mut other_settings = tokio::spawn(following::settings(store, cluster));
    let bypasses = tokio::spawn(look_for_bypasses(engine.clone(), backend));
    let lacking = tokio::spawn(lacking);
    let announced = kubernetes.map(|store| {
        let reporter = health.register("node", Counts::Readiness, Duration::ZERO, now);
        let tunnels = tunnel_notes::keep(settings.felix_hostname.clone(), store.clone(), tunnels);
        let node = announcement.keep(store, reporter, health.clone());
        async { tokio::join!(node, tunnels) }
    });
    let announcing = tokio::spawn(async move {
        if let Some(announced) = announced {
            announced.await;
        }
    });
    let configuring = tokio::spawn(async move {
        if let Some(config) = network_config {
            config.write_when_ready(health).await;
        }
    });

    let ended = tokio::select! {
        ended = wait_for_end(&engine, &mut other_settings) => ended?,
        order = leaving => Ok(Ended::Ordered(order)),
        // Without it no pod can be attached: not a state to be ready in.
        finished = &mut cni => {
            let source = match finished {
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
                Ok(Ok(())) => "its server ended".into(),
            };
            Err(AgentError::Cni { path: socket, source })
        }
    };
    let _ = stop.send(true);
    if !cni.is_finished() {
        match cni.await {
            Ok(Err(error)) => tracing::error!(error = %chain(&error), "the CNI socket failed"),
            Err(error) => tracing::error!(%error, "the CNI server ended"),
            Ok(Ok(())) => {}
        }
    }
    for task in [
        sync,
        attached,
        bypasses,
        other_settings,
        announcing,
        configuring,
        lacking,
    ] {
        task.abort();
        // The one that ended the agent has been waited for.
        if !task.is_finished() {
            let _ = task.await;
        }
    }
    if let Ok(engine) = Arc::try_unwrap(engine) {
        engine.stop();
    }
    ended
}

/// A socket of an earlier life makes way for ours; anything else in its place is somebody's, and stays.
fn refuse_foreign_file(socket: &Path) -> Result<(), AgentError> {
    match std::fs::symlink_metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => Err(AgentError::Cni {
            path: socket.to_owned(),
            source: "something that is no socket is in its place".into(),
        }),
        _ => Ok(()),
    }
}

/// Waits for a signal to stop, for other settings or for the end of the engine.
async fn wait_for_end(
    engine: &EngineHandle,
    other_settings: &mut JoinHandle<()>,
) -> Result<Result<Ended, AgentError>, AgentError> {
    let handler = |kind| {
        signal(kind).map_err(|source| AgentError::Start {
            what: "signal handlers",
            source,
        })
    };
    let (mut terminate, mut interrupt) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(Ok(Ended::Stopped)),
            _ = interrupt.recv() => return Ok(Ok(Ended::Stopped)),
            _ = &mut *other_settings => return Ok(Ok(Ended::SettingsChanged)),
            _ = look.tick() => {
                if !engine.is_running() {
                    return Ok(Err(AgentError::EngineEnded));
                }
            }
        }
    }
}

/// Looks now and then for what lets traffic by-pass policy on this node (kube-proxy in IPVS mode, a kernel that is too
/// old): felix is not ready there.
async fn look_for_bypasses(engine: Arc<EngineHandle>, backend: RulesBackend) {
    let mut look = tokio::time::interval(BYPASS_INTERVAL);
    loop {
        look.tick().await;
        let backend = backend.clone();
        let found = tokio::task::spawn_blocking(move || crate::checks::bypasses(&backend));
        if let Ok(found) = found.await {
            engine.send(Input::Bypasses(found));
        }
    }
}

fn serve_pages(
    settings: &Settings,
    health: &HealthAggregator,
    metrics: &Metrics,
) -> Result<Vec<ServerThread>, AgentError> {
    let mut servers = Vec::new();
    let mut serve = |purpose, name, host: &str, port, pages: Arc<dyn Pages>| -> Result<(), AgentError> {
        let listening = bind(purpose, host, port)?;
        tracing::info!(address = %listening.address(), "{name} listens");
        let server = listening.serve_on_thread(name, pages, Limits::default());
        servers.push(server.map_err(|source| AgentError::Start {
            what: "an HTTP server",
            source,
        })?);
        Ok(())
    };
    if settings.health_enabled {
        let pages = Arc::new(HealthPages::new(health.clone()));
        serve(
            Purpose::Health,
            "health",
            &settings.health_host,
            settings.health_port,
            pages,
        )?;
    }
    if settings.prometheus_metrics_enabled {
        let pages = Arc::new(MetricsPages::new(metrics.clone()));
        serve(
            Purpose::Metrics,
            "metrics",
            &settings.prometheus_metrics_host,
            settings.prometheus_metrics_port,
            pages,
        )?;
    }
    Ok(servers)
}

/// A node forwards its workloads' packets. Where the settings cannot be written (a read-only /proc/sys), the operator has
/// set them already, or hears of it here and from `manx check`.
fn switch_forwarding_on(workloads: &WorkloadSettings) {
    if let Err(error) = workloads.sysctls.apply(&sysctl::forwarding()) {
        tracing::warn!(
            error = chain(&error),
            "forwarding cannot be switched on; set net.ipv4.ip_forward=1 and net.ipv6.conf.all.forwarding=1"
        );
    }
}

pub(crate) fn workload_settings(settings: &Settings) -> Result<WorkloadSettings, AgentError> {
    let prefixes = InterfacePrefixes::new(settings.interface_prefix.clone())
        .map_err(|e| AgentError::Settings(format!("InterfacePrefix: {e}")))?;
    let device_protocol = u8::try_from(settings.device_route_protocol)
        .map_err(|_| AgentError::Settings("DeviceRouteProtocol is not between 0 and 255".to_string()))?;
    let ownership = RouteOwnership {
        device_protocol,
        prefixes,
        ..RouteOwnership::default()
    };
    let sysctls = Sysctls::new(&settings.sysctl_path);
    let reverse_path = if may_spoof(settings) {
        reverse_path_for_spoofing(&sysctls)
    } else {
        ReversePath::default()
    };
    Ok(WorkloadSettings {
        ownership,
        reverse_path,
        sysctls,
        route_sources: RouteSources {
            v4: settings.device_route_source_address,
            v6: settings.device_route_source_address_ipv6,
        },
        patience: Patience(settings.netlink_timeout),
        leaves_routes: settings.route_sync_disabled,
    })
}

pub(super) fn may_spoof(settings: &Settings) -> bool {
    settings.workload_source_spoofing == Some(SpoofingAllowed::Any)
}

/// The kernel's own check of sources knows addresses only. Where workloads may send from more, our table checks alone,
/// which it does for every workload anyway.
///
/// The kernel takes the larger number of an interface's setting and of that for all interfaces: where the one for all
/// is strict (1), only the loose check (2) takes its place.
fn reverse_path_for_spoofing(sysctls: &Sysctls) -> ReversePath {
    let all = SysctlKey::parts(&["net", "ipv4", "conf", "all", "rp_filter"]);
    match sysctls.read(&all).as_deref() {
        Ok("1") => ReversePath::Loose,
        _ => ReversePath::Off,
    }
}
