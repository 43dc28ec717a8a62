//! One thread owns calculation and dataplane: events in, kernel state out.
//!
//! Everything that decides about policy happens here, one thing after the other, so that there is one order of writes
//! and no lock. The thread waits for the datastore, for the kernel's events and for its own deadlines, whichever
//! comes first.

mod telling;

use super::attached::Attached;
use super::figures::{self, Invalid};
use super::handle::{EngineError, EngineHandle, EngineOptions, Input};
use super::host_ports::HostPorts;
use super::timers::Timers;
use crate::health::Reporter;
use crate::metrics::{Metrics, calculation::ClusterSize, calculation::ResyncState};
use dataplane::{ApplyError, Dataplane, IptablesCounts, PassReport};
use felix_calc::{CalcConfig, CalcGraph};
use felix_cni::EndpointView;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use policy_model::Resource;
use policy_model_datastore::{SyncEvent, SyncStatus};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The engine reports its health at least so often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Pause after a first failed pass; it doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest pause after failed passes.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The engine.
pub struct Engine {
    options: EngineOptions,
    calc: CalcGraph,
    attached: Attached,
    host_ports: HostPorts,
    dataplane: Dataplane,
    inputs: Receiver<Input>,
    wake: UnixStream,
    view: watch::Sender<EndpointView>,
    reporter: Reporter,
    metrics: Metrics,
    started: Instant,
    in_sync: bool,
    store: Option<SyncStatus>,
    bypasses: Vec<String>,
    failures: u32,
    retry_at: Option<Instant>,
    /// When single interfaces and routes are tried again that could not be programmed, and how often they were.
    revisit_at: Option<Instant>,
    revisits: u32,
    timers: Timers,
    invalid: Invalid,
    last_error: Option<String>,
    /// When the oldest event arrived that is not in force yet.
    waiting_since: Option<Instant>,
    /// What the metrics were told of iptables.
    iptables_counted: IptablesCounts,
    /// When the metrics were last told how much the kernel has of ours.
    sizes_told: Option<Instant>,
    /// When they are to be told next, where that has changed since.
    sizes_due: Option<Instant>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the engine on a thread of its own, in the caller's network namespace.
    ///
    /// # Errors
    /// See [`EngineError`]; the reason names what lacks.
    pub fn start(
        options: EngineOptions,
        view: watch::Sender<EndpointView>,
        reporter: Reporter,
        metrics: Metrics,
    ) -> Result<EngineHandle, EngineError> {
        let (inputs, receiver) = channel();
        let (wake, woken) = UnixStream::pair().map_err(EngineError::Thread)?;
        wake.set_nonblocking(true)
            .and_then(|()| woken.set_nonblocking(true))
            .map_err(EngineError::Thread)?;
        let (report_start, started) = channel();
        let body = move || {
            let dataplane = match Dataplane::open(options.dataplane.clone()) {
                Ok(dataplane) => dataplane,
                Err(error) => {
                    let _ = report_start.send(Err(EngineError::Dataplane(error)));
                    return;
                }
            };
            let _ = report_start.send(Ok(()));
            let now = Instant::now();
            let timers = Timers::new(options.refresh, now);
            Engine {
                calc: CalcGraph::new(
                    CalcConfig::for_node(options.node.clone()).with_node_ranges(options.node_ranges),
                ),
                attached: Attached::of_node(&options.node, &options.dataplane.workloads.ownership.prefixes),
                host_ports: HostPorts::default(),
                options,
                dataplane,
                inputs: receiver,
                wake: woken,
                view,
                reporter,
                metrics,
                started: now,
                in_sync: false,
                store: None,
                bypasses: Vec::new(),
                failures: 0,
                retry_at: None,
                revisit_at: None,
                revisits: 0,
                timers,
                invalid: Invalid::default(),
                last_error: None,
                waiting_since: None,
                iptables_counted: IptablesCounts::default(),
                sizes_told: None,
                sizes_due: None,
            }
            .run();
        };
        let thread = std::thread::Builder::new()
            .name("engine".to_string())
            .spawn(body)
            .map_err(EngineError::Thread)?;
        match started.recv() {
            Ok(Ok(())) => Ok(EngineHandle {
                inputs,
                wake,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Ended),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn run(mut self) {
        loop {
            if !self.take_inputs() {
                tracing::info!("the engine stops; what is in force stays in force");
                return;
            }
            self.calculate();
            if let Err(error) = self.dataplane.take_events() {
                self.failed(&error);
            }
            self.apply();
            // How it stands is said before anything else is tried: what hangs, hangs for a minute each time.
            self.report();
            if !self.is_backing_off() {
                self.retire();
                self.refresh();
                self.report();
            }
            self.tell_due_sizes();
            self.wait();
        }
    }

    /// Takes in everything that has arrived. False at the end.
    fn take_inputs(&mut self) -> bool {
        while let Ok(input) = self.inputs.try_recv() {
            match input {
                Input::Events(events) => {
                    self.waiting_since.get_or_insert_with(Instant::now);
                    events.into_iter().for_each(|e| self.take_event(e));
                }
                Input::Attachments(attachments) => {
                    self.waiting_since.get_or_insert_with(Instant::now);
                    for endpoint in self.attached.attach(&attachments) {
                        self.upsert(Arc::new(endpoint));
                    }
                    let updates = self.host_ports.follow(attachments.iter().map(Arc::as_ref));
                    if !updates.is_empty() {
                        figures::updates(&updates, self.metrics.dataplane());
                        self.dataplane.take(&updates);
                    }
                }
                Input::Kept(addresses) => self.dataplane.keep(addresses),
                Input::Bypasses(bypasses) => {
                    for bypass in bypasses.iter().filter(|b| !self.bypasses.contains(b)) {
                        tracing::warn!(reason = bypass, "policy can be by-passed on this node");
                    }
                    self.bypasses = bypasses;
                }
                Input::Stop => return false,
            }
        }
        true
    }

    fn take_event(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Upsert(versioned) => {
                let object = self.attached.upsert(versioned.resource);
                self.upsert(object);
            }
            SyncEvent::Delete(key) => {
                let begun = Instant::now();
                self.attached.delete(&key);
                self.calc.on_delete(&key);
                self.metrics
                    .calculation()
                    .update_processed(key.kind.as_str(), begun.elapsed());
                self.invalid.set(key, false, &self.metrics);
            }
            SyncEvent::InSync => {
                self.in_sync = true;
                self.calc.on_in_sync();
            }
            SyncEvent::Status(status) => {
                self.store = Some(status);
                let state = match status {
                    SyncStatus::WaitForDatastore => ResyncState::WaitingForDatastore,
                    SyncStatus::ResyncInProgress => ResyncState::Resyncing,
                    SyncStatus::InSync => ResyncState::InSync,
                };
                self.metrics.calculation().set_resync_state(state);
            }
        }
    }

    fn upsert(&mut self, object: Arc<Resource>) {
        let begun = Instant::now();
        let kind = object.kind();
        let was_invalid = self.invalid.any().then(|| object.key());
        match self.calc.on_upsert_shared(object) {
            Ok(()) => {
                if let Some(key) = was_invalid {
                    self.invalid.set(key, false, &self.metrics);
                }
            }
            Err(fault) => {
                tracing::warn!(%fault, "an object is not valid; what was in force for it stays in force");
                self.metrics.object_rejected(kind.as_str());
                self.invalid.set(fault.key, true, &self.metrics);
            }
        }
        self.metrics
            .calculation()
            .update_processed(kind.as_str(), begun.elapsed());
    }

    fn calculate(&mut self) {
        if !self.in_sync {
            // Nothing is programmed before everything is known, and what is derived from half of it is derived again.
            return;
        }
        let mut updates = Vec::new();
        self.calc.flush(&mut updates);
        if updates.is_empty() {
            return;
        }
        self.metrics.calculation().events_sent(updates.len());
        figures::updates(&updates, self.metrics.dataplane());
        self.dataplane.take(&updates);
        let stats = self.calc.stats();
        let metrics = self.metrics.calculation();
        metrics.set_local(
            stats.local_endpoints,
            stats.active_policies,
            stats.active_selectors,
        );
        metrics.set_cluster(ClusterSize {
            hosts: stats.nodes,
            workload_endpoints: stats.workload_endpoints,
            host_endpoints: stats.host_endpoints,
            policies: stats.policies,
            profiles: stats.profiles,
            tiers: stats.tiers,
        });
    }

    fn apply(&mut self) {
        if self.revisit_at.is_some_and(|at| Instant::now() >= at) {
            self.revisit_at = None;
            self.dataplane.retry_faults();
        }
        if self.is_backing_off() || !self.dataplane.is_dirty() {
            if !self.dataplane.is_dirty() {
                self.waiting_since = None;
                // A pause that is over and has nothing to try again would end each wait at once.
                self.retry_at = self.retry_at.filter(|at| Instant::now() < *at);
            }
            return;
        }
        self.retry_at = None;
        let first = !self.dataplane.is_programmed();
        let begun = Instant::now();
        let now = self.now();
        match self.dataplane.apply(now) {
            Ok(report) => {
                self.metrics
                    .dataplane()
                    .applied(begun.elapsed(), report.faults.is_empty());
                if first && self.dataplane.is_programmed() {
                    self.metrics
                        .dataplane()
                        .set_initial_resync_time(self.started.elapsed());
                    tracing::info!(
                        endpoints = self.dataplane.programmed().len(),
                        transactions = report.transactions,
                        owned = self.dataplane.is_table_owned(),
                        "in sync and programmed"
                    );
                }
                let waited = self.waiting_since.take().map(|since| since.elapsed());
                if let Some(waited) = waited {
                    self.metrics.dataplane().policy_programmed(waited);
                }
                tracing::debug!(
                    took = ?begun.elapsed(),
                    since_news = ?waited,
                    transactions = report.transactions,
                    messages = report.messages,
                    flows_removed = report.flows_removed,
                    "a pass"
                );
                // First of all: pods wait for it.
                self.publish();
                self.count(&report);
                self.failures = 0;
                self.revisit(&report.faults);
            }
            Err(error) => {
                self.metrics.dataplane().applied(begun.elapsed(), false);
                if self.dataplane.driver().nftables().is_some() {
                    self.metrics.dataplane().nft_transaction(false);
                }
                self.sizes_changed();
                self.failed(&error);
            }
        }
    }

    /// Has what a pass could not do with single interfaces and routes tried again, ever later while it is the same. It
    /// holds up nothing else: every pass tries it as well.
    fn revisit(&mut self, faults: &[String]) {
        let text = (!faults.is_empty()).then(|| faults.join("; "));
        if self.last_error != text {
            self.revisits = 0;
            for fault in faults {
                tracing::warn!(fault, "not everything could be done; it is tried again");
            }
        }
        self.revisit_at = text.as_ref().map(|_| Instant::now() + pause_after(self.revisits));
        self.revisits = self.revisits.saturating_add(1);
        self.last_error = text;
    }

    fn failed(&mut self, error: &ApplyError) {
        let text = Dataplane::describe(error);
        if self.last_error.as_ref() != Some(&text) {
            tracing::error!(
                error = text,
                "the kernel could not be programmed; what was in force stays, and it is tried again"
            );
        }
        self.last_error = Some(text);
        self.back_off();
    }

    /// Whether something failed just now, so that nothing is tried for a moment.
    fn is_backing_off(&self) -> bool {
        self.retry_at.is_some_and(|at| Instant::now() < at)
    }

    fn back_off(&mut self) {
        self.retry_at = Some(Instant::now() + pause_after(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    fn retire(&mut self) {
        let now = self.now();
        if self.dataplane.next_retirement().is_none_or(|due| due > now) {
            return;
        }
        let retired = self.dataplane.retire(now);
        self.looked(retired);
    }

    fn refresh(&mut self) {
        let due = self.timers.take_due(Instant::now());
        if due.routes {
            self.dataplane.resync_routes();
        }
        if due.interfaces
            && let Err(error) = self.dataplane.resync_interfaces()
        {
            self.failed(&error);
        }
        if due.policy {
            let looked = self.dataplane.resync_policy();
            self.looked(looked);
        }
        // The look at everything has looked at them.
        if due.sets && !due.policy {
            let looked = self.dataplane.resync_sets();
            self.looked(looked);
        }
        if due.routes || due.interfaces {
            // What was found is mended now, not at the next event.
            self.apply();
        }
    }

    fn looked(&mut self, looked: Result<PassReport, ApplyError>) {
        match looked {
            Ok(report) => self.count(&report),
            Err(error) => self.failed(&error),
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let retirement = self
            .dataplane
            .next_retirement()
            .map(|due| self.started + Duration::from_millis(due));
        let deadlines = if self.is_backing_off() {
            [self.retry_at, self.sizes_due, None, None, None]
        } else {
            let (retry, revisit) = (self.retry_at, self.revisit_at);
            [retirement, retry, revisit, self.sizes_due, self.timers.next()]
        };
        let until = deadlines
            .into_iter()
            .flatten()
            .fold(now + HEARTBEAT, Instant::min);
        // One millisecond more than the deadline, so that it has passed when the wait ends.
        let left = until.saturating_duration_since(now).as_millis() + 1;
        let timeout =
            PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
        {
            let descriptors = std::iter::once(self.wake.as_fd()).chain(self.dataplane.event_fds());
            let mut fds: Vec<PollFd<'_>> = descriptors
                .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
                .collect();
            if let Err(error) = poll(&mut fds, timeout)
                && error != nix::errno::Errno::EINTR
            {
                tracing::error!(%error, "cannot wait for events");
                std::thread::sleep(FIRST_RETRY);
            }
        }
        let mut bytes = [0u8; 64];
        while matches!(self.wake.read(&mut bytes), Ok(n) if n > 0) {}
    }
}

/// How long to wait before what failed so often is tried again.
fn pause_after(failures: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(1 << failures.min(8))
        .min(LONGEST_RETRY)
}
