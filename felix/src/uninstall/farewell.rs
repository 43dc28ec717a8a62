//! Takes everything off the node, reports it, and stays idle until it is stopped.
//!
//! The agent does not end by itself: whoever watches over it would start it again. Live and not ready, it says what
//! became of the node, and when all reports were seen it takes its own away again.

use super::annotation;
use super::belongings::Belongings;
use super::orders::{Orders, Standing};
use super::step::{Progress, Step};
use crate::agent::{chain, tunnel_annotations};
use crate::health::{Counts, HealthAggregator, HealthPages, Report, Reporter};
use crate::http::{Limits, Purpose, ServerThread, bind};
use crate::settings::Settings;
use felix_cni::TunnelAddresses;
use policy_model::{Key, Kind, Resource, UNINSTALL_REPORT, UninstallOrder, UninstallReport, UninstallState};
use policy_model_datastore::Datastore;
use policy_model_datastore_kube::KubeStore;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Pause before what could not be removed or written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the step beside the agent is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Annotations of the node that an agent wrote while it worked.
const ANNOUNCED: [&str; 2] = ["projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"];

/// The end of an agent on its node.
pub(super) struct Farewell {
    pub(super) node: String,
    pub(super) store: KubeStore,
    pub(super) belongings: Belongings,
}

/// What is known and said of the order.
struct Run<'a> {
    order: UninstallOrder,
    said: Option<UninstallReport>,
    reporter: &'a Reporter,
}

impl Run<'_> {
    /// Takes over what the order says now: another run may ask the same again, and wants reports of its own.
    fn hear(&mut self, standing: &Standing) {
        if let Standing::Ordered(order) = standing {
            self.order.clone_from(order);
        }
    }
}

impl Farewell {
    /// Carries the order out and stays until the process is told to end.
    pub(super) async fn take(self, settings: &Settings, order: UninstallOrder, orders: Orders) {
        let health = HealthAggregator::new(&settings.health_timeout_overrides);
        let reporter = health.register(super::REPORTER, Counts::Both, Duration::ZERO, Instant::now());
        let _server = serve(settings, &health);
        tokio::select! {
            () = told_to_end() => {}
            () = self.leave(order, orders, &reporter) => {}
        }
    }

    async fn leave(&self, order: UninstallOrder, mut orders: Orders, reporter: &Reporter) {
        tracing::info!(force = order.force, "Manx is uninstalled from this node");
        let mut run = Run {
            order,
            said: None,
            reporter,
        };
        while let Err(why) = self.clear(&mut run, &mut orders).await {
            self.wait(&mut run, &why).await;
            tokio::time::sleep(RETRY).await;
        }
        loop {
            let standing = orders.now();
            run.hear(&standing);
            let is_taken_back = standing == Standing::Free;
            reporter.report(Report::not_ready(if is_taken_back {
                "Manx was uninstalled from this node, and the order was taken back: a restart of the agents' DaemonSet \
                 (kubectl rollout restart) installs it again"
            } else {
                "Manx is uninstalled from this node"
            }));
            let report = (!run.order.closing && !is_taken_back).then(|| UninstallReport {
                token: run.order.token.clone(),
                state: UninstallState::Done,
                text: String::new(),
            });
            let is_said = self.say(report.as_ref()).await;
            tokio::select! {
                () = orders.changed() => {}
                () = tokio::time::sleep(RETRY), if !is_said => {}
            }
        }
    }

    /// Takes everything off, and says what could not be.
    async fn clear(&self, run: &mut Run<'_>, orders: &mut Orders) -> Result<(), String> {
        run.hear(&orders.now());
        let (belongings, ipip) = (self.belongings.clone(), self.ipip_address().await);
        let removed = tokio::task::spawn_blocking(move || belongings.remove(ipip)).await;
        let troubles = removed.unwrap_or_else(|error| vec![error.to_string()]);
        if !troubles.is_empty() {
            return Err(troubles.join("; "));
        }
        let step = Step::beside(&self.belongings.socket);
        if !run.order.has_steps {
            step.forget();
            return Ok(());
        }
        step.begin().map_err(|error| {
            format!("telling the step that removes the plugin's programs to begin: {error}")
        })?;
        let begun = Instant::now();
        while let Progress::Waiting(why) = step.progress() {
            run.hear(&orders.now());
            // It usually answers at once.
            if begun.elapsed() > RETRY {
                self.wait(run, &why).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The address that the node's IPIP device has by the node's own word, which stands until everything is off.
    async fn ipip_address(&self) -> Option<Ipv4Addr> {
        if !self.belongings.has_tunnels {
            return None;
        }
        let found = self.store.get(&Key::global(Kind::Node, self.node.as_str())).await;
        match found.ok()??.resource.as_ref() {
            Resource::Node(node) => node.spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr,
            _ => None,
        }
    }

    /// Says what is waited for, once for each reason.
    async fn wait(&self, run: &mut Run<'_>, why: &str) {
        run.reporter
            .report(Report::not_ready(format!("being uninstalled: {why}")));
        let report = UninstallReport {
            token: run.order.token.clone(),
            state: UninstallState::Waiting,
            text: why.to_owned(),
        };
        if run.said.as_ref() != Some(&report) && self.say(Some(&report)).await {
            tracing::warn!(reason = why, "not everything is off this node yet");
            run.said = Some(report);
        }
    }

    /// Writes a report, or takes it away; says whether that is done.
    async fn say(&self, report: Option<&UninstallReport>) -> bool {
        let mut annotations = annotation(report);
        let is_done = report.is_none_or(|report| report.state == UninstallState::Done);
        let written = if is_done {
            annotations.extend(ANNOUNCED.map(|name| (name.to_owned(), None)));
            if self.belongings.has_tunnels {
                // Their addresses stay in the blocks, like the node's reserve: blocks outlive an installation, and the next
                // agent finds them there, or the controller once the node is gone.
                annotations.extend(tunnel_annotations(TunnelAddresses::default()));
            }
            self.store.withdraw_node(&self.node, &annotations).await
        } else {
            self.store.annotate_node(&self.node, &annotations).await
        };
        if let Err(error) = &written {
            tracing::warn!(
                error = chain(error),
                annotation = UNINSTALL_REPORT,
                "what became of this node cannot be reported; it is tried again"
            );
        }
        written.is_ok()
    }
}

/// Probes are answered on, where that is wanted. A port that cannot be had holds nothing up here.
fn serve(settings: &Settings, health: &HealthAggregator) -> Option<ServerThread> {
    if !settings.health_enabled {
        return None;
    }
    let listening = bind(Purpose::Health, &settings.health_host, settings.health_port);
    let listening = match listening {
        Ok(listening) => listening,
        Err(error) => {
            tracing::warn!(error = chain(&error), "probes are not answered");
            return None;
        }
    };
    let pages = Arc::new(HealthPages::new(health.clone()));
    listening.serve_on_thread("health", pages, Limits::default()).ok()
}

async fn told_to_end() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut told) => {
                told.recv().await;
            }
            // Then the default of the signal ends the process.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}
