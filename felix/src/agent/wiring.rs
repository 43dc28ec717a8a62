//! Makes each part and gives it to the next.

use super::engine::{Engine, EngineError, EngineHandle, EngineOptions, Input};
use crate::health::{Counts, HealthAggregator, HealthPages, Report, Reporter};
use crate::http::{BindError, Limits, Pages, Purpose, ServerThread, bind};
use crate::metrics::{Metrics, MetricsPages};
use crate::settings::Settings;
use crate::settings::parse::{DenyAction, EndpointToHostAction, FlowsOnPolicyChange as FlowsSetting, Switch};
use dataplane::{DataplaneSettings, FlowsOnPolicyChange};
use dataplane_netlink::InterfacePrefixes;
use dataplane_netlink::routes::RouteOwnership;
use dataplane_netlink::sysctl;
use dataplane_netlink::workload::WorkloadSettings;
use dataplane_nftables::layout::{EndpointToHost, Refusal};
use felix_cni::{AttachSettings, Attacher, EndpointView};
use policy_model::Kind;
use policy_model_datastore::{BackOff, Datastore, Selection, Syncer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Most events that are handed over at once.
const LARGEST_BATCH: usize = 10_000;
/// A loop that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);
/// How often the node is looked at for what lets traffic by-pass policy.
const BYPASS_INTERVAL: Duration = Duration::from_secs(30);
/// How long an attachment waits for what it needs.
const ATTACH_PATIENCE: Duration = Duration::from_secs(50);
/// Largest packet of workload interfaces where routes are plain and nobody says otherwise.
const PLAIN_MTU: u32 = 1500;

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
    /// The engine ended by itself: its supervisor starts the agent anew, and what is in force stays.
    #[error("the engine ended unexpectedly")]
    EngineEnded,
}

/// Runs the agent until it is told to stop. Stopping leaves everything in force.
///
/// # Errors
/// Why it could not begin or go on.
pub async fn run(settings: &Settings, store: Arc<dyn Datastore>, metrics: Metrics) -> Result<(), AgentError> {
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
    let options = EngineOptions {
        node: settings.felix_hostname.clone(),
        dataplane: dataplane_settings(settings, &workloads),
        refresh: settings.nftables_refresh_interval,
    };
    let engine = Arc::new(Engine::start(options, view, engine_reporter, metrics.clone())?);

    let (stop, stopped) = watch::channel(false);
    let attacher = Attacher::open(
        AttachSettings {
            node: settings.felix_hostname.clone(),
            journal: PathBuf::from(&settings.state_dir).join("attachments"),
            mtu: PLAIN_MTU,
            workloads,
            patience: ATTACH_PATIENCE,
        },
        store.clone(),
        programmed,
    )?;
    let socket = PathBuf::from(&settings.cni_socket_path);
    let cni = tokio::spawn({
        let stopped = stopped.clone();
        async move { felix_cni::serve(&socket, Arc::new(attacher), stopped).await }
    });
    let sync = tokio::spawn(follow(store, engine.clone(), sync_reporter));
    let bypasses = tokio::spawn(look_for_bypasses(engine.clone()));

    let ended = wait_for_end(&engine).await?;
    let _ = stop.send(true);
    match cni.await {
        Ok(Err(error)) => {
            tracing::error!(error = %crate::agent::wiring::chain(&error), "the CNI socket failed")
        }
        Err(error) => tracing::error!(%error, "the CNI server ended"),
        Ok(Ok(())) => {}
    }
    for task in [sync, bypasses] {
        task.abort();
        let _ = task.await;
    }
    if let Ok(engine) = Arc::try_unwrap(engine) {
        engine.stop();
    }
    ended
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Waits for a signal to stop or for the end of the engine.
async fn wait_for_end(engine: &EngineHandle) -> Result<Result<(), AgentError>, AgentError> {
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
            _ = terminate.recv() => return Ok(Ok(())),
            _ = interrupt.recv() => return Ok(Ok(())),
            _ = look.tick() => {
                if !engine.is_running() {
                    return Ok(Err(AgentError::EngineEnded));
                }
            }
        }
    }
}

/// Hands what the datastore says to the engine.
async fn follow(store: Arc<dyn Datastore>, engine: Arc<EngineHandle>, reporter: Reporter) {
    let kinds = [
        Kind::Tier,
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::Profile,
        Kind::WorkloadEndpoint,
        Kind::HostEndpoint,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::ServiceEndpoints,
        Kind::IPPool,
        Kind::IPAMBlock,
        Kind::Node,
    ];
    let back_off = BackOff {
        initial: Duration::from_millis(100),
        longest: Duration::from_secs(10),
        jitter: 0.5,
    };
    let mut seed = u64::from(std::process::id());
    let random = move || {
        // Pauses need to differ between agents, no more.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut syncer = Syncer::new(store, Selection::kinds(kinds), back_off, random);
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            batch = syncer.next_batch(LARGEST_BATCH) => {
                if let (Some(error), Some(policy_model_datastore::SyncStatus::WaitForDatastore)) =
                    (syncer.last_error(), syncer.status())
                {
                    tracing::warn!(error = chain(error), "the datastore is away; what is in force stays in force");
                }
                engine.send(Input::Events(batch));
            }
            _ = beat.tick() => {}
        }
        reporter.report(Report::ready());
    }
}

/// Looks now and then for what lets traffic by-pass policy on this node (kube-proxy in IPVS mode, a kernel that is too
/// old): felix is not ready there.
async fn look_for_bypasses(engine: Arc<EngineHandle>) {
    let mut look = tokio::time::interval(BYPASS_INTERVAL);
    loop {
        look.tick().await;
        if let Ok(found) = tokio::task::spawn_blocking(crate::checks::bypasses).await {
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

fn workload_settings(settings: &Settings) -> Result<WorkloadSettings, AgentError> {
    let prefixes = InterfacePrefixes::new(settings.interface_prefix.clone())
        .map_err(|e| AgentError::Settings(format!("InterfacePrefix: {e}")))?;
    let device_protocol = u8::try_from(settings.device_route_protocol)
        .map_err(|_| AgentError::Settings("DeviceRouteProtocol is not between 0 and 255".to_string()))?;
    let ownership = RouteOwnership {
        device_protocol,
        prefixes,
        ..RouteOwnership::default()
    };
    Ok(WorkloadSettings {
        ownership,
        ..WorkloadSettings::default()
    })
}

fn dataplane_settings(settings: &Settings, workloads: &WorkloadSettings) -> DataplaneSettings {
    DataplaneSettings {
        workloads: workloads.clone(),
        endpoint_to_host: match settings.default_endpoint_to_host_action {
            EndpointToHostAction::Drop => EndpointToHost::Drop,
            EndpointToHostAction::Return => EndpointToHost::Return,
            EndpointToHostAction::Accept => EndpointToHost::Accept,
        },
        refusal: match settings.nftables_filter_deny_action {
            DenyAction::Drop => Refusal::Drop,
            DenyAction::Reject => Refusal::Reject,
        },
        flows_on_policy_change: match settings.flows_on_policy_change {
            FlowsSetting::Keep => FlowsOnPolicyChange::Keep,
            FlowsSetting::Recheck => FlowsOnPolicyChange::Recheck,
        },
        drop_invalid: !settings.disable_conntrack_invalid_check,
        owned_table: settings.nftables_owned_table,
        ..DataplaneSettings::default()
    }
}
