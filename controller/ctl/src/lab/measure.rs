//! Measures flows in the kernel, with what must be there for it: servers where nobody answers yet, addresses of the
//! world outside.

use super::cluster;
use super::flows::LabFlow;
use super::names::{OUTSIDE, OUTSIDE_ADDRESSES};
use super::probe::{self, Outcome, Probe};
use super::servers::{self, Port, Servers};
use policy_model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How often flows that differ are asked again: an agent may be a moment behind the datastore.
const TRIES: usize = 3;
/// Pause before they are.
const PAUSE: Duration = Duration::from_millis(300);

/// One flow with what the kernel did.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// The flow.
    pub(super) flow: LabFlow,
    /// What came of its probe.
    pub(super) outcome: Outcome,
    /// How often it was asked before kernel and policies agreed.
    pub(super) tries: usize,
}

impl Measured {
    /// Whether the kernel let it pass to the right receiver; nothing where that could not be measured.
    pub(super) fn passed(&self) -> Option<bool> {
        match &self.outcome {
            Outcome::Answered(name) => Some(name.is_empty() || self.is_expected(name)),
            Outcome::Silence => Some(false),
            Outcome::Failed(_) | Outcome::Unmeasured(_) => None,
        }
    }

    fn is_expected(&self, name: &str) -> bool {
        self.flow.server.is_empty() || name == self.flow.server
    }

    /// Whether kernel and policies agree. What cannot be measured here is no disagreement.
    pub(super) fn agrees(&self) -> bool {
        match &self.outcome {
            Outcome::Answered(name) if !name.is_empty() && !self.is_expected(name) => false,
            Outcome::Failed(_) => false,
            Outcome::Unmeasured(_) => true,
            Outcome::Answered(_) | Outcome::Silence => self.passed() == Some(self.flow.is_allowed()),
        }
    }

    /// What happened, in words.
    pub(super) fn said(&self) -> String {
        match &self.outcome {
            Outcome::Answered(name) if name.is_empty() => "it arrived".to_string(),
            Outcome::Answered(name) if self.is_expected(name) => format!("answered by {name}"),
            Outcome::Answered(name) => format!("answered by {name} in place of {}", self.flow.server),
            Outcome::Silence => "no answer".to_string(),
            Outcome::Failed(reason) => format!("could not be tried: {reason}"),
            Outcome::Unmeasured(reason) => format!("not measured: {reason}"),
        }
    }
}

/// Measures flows, with progress on a terminal.
pub(super) fn measure(flows: Vec<LabFlow>) -> anyhow::Result<Vec<Measured>> {
    let stage = Stage::set(&flows)?;
    let probes: Vec<&Probe> = flows.iter().map(|f| &f.probe).collect();
    let outcomes = carry_out(&probes, stage.has_sctp, "measuring");
    let made = flows.into_iter().zip(outcomes).map(|(flow, outcome)| Measured {
        flow,
        outcome,
        tries: 1,
    });
    let mut measured: Vec<Measured> = made.collect();
    for tries in 2..=TRIES {
        let differing: Vec<usize> = (0..measured.len()).filter(|n| !measured[*n].agrees()).collect();
        if differing.is_empty() {
            break;
        }
        std::thread::sleep(PAUSE);
        let probes: Vec<&Probe> = differing.iter().map(|n| &measured[*n].flow.probe).collect();
        let outcomes = carry_out(
            &probes,
            stage.has_sctp,
            "asking again where kernel and policies differ",
        );
        for (n, outcome) in differing.into_iter().zip(outcomes) {
            measured[n].outcome = outcome;
            measured[n].tries = tries;
        }
    }
    Ok(measured)
}

fn carry_out(probes: &[&Probe], has_sctp: bool, what: &str) -> Vec<Outcome> {
    let probes: Vec<Probe> = probes.iter().map(|p| (*p).clone()).collect();
    let (done, total) = (AtomicUsize::new(0), probes.len());
    let show = std::io::stderr().is_terminal();
    let outcomes = probe::run(&probes, has_sctp, || {
        let n = done.fetch_add(1, Ordering::Relaxed) + 1;
        if show && (n.is_multiple_of(16) || n == total) {
            eprint!("\r{what}: {n} of {total} flows ");
            let _ = std::io::stderr().flush();
        }
    });
    if show && total > 0 {
        eprintln!();
    }
    outcomes
}

/// What stands only while it is measured.
struct Stage {
    has_sctp: bool,
    /// Addresses of the world that the host outside has meanwhile.
    widened: Vec<IpAddr>,
    servers: Vec<Servers>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Stage {
    /// Gives the host outside the addresses that flows name, and opens a server wherever nobody answers.
    fn set(flows: &[LabFlow]) -> anyhow::Result<Stage> {
        let ends = flows
            .iter()
            .flat_map(|f| [(&f.probe.from, f.probe.source), (&f.probe.into, f.probe.to)]);
        let world: BTreeSet<IpAddr> = ends
            .filter(|(place, _)| *place == OUTSIDE)
            .map(|(_, address)| address)
            .collect();
        let widened: Vec<IpAddr> = world
            .into_iter()
            .filter(|a| !OUTSIDE_ADDRESSES.contains(a))
            .collect();
        cluster::widen_outside(&widened)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut stage = Stage {
            has_sctp: servers::has_sctp(),
            widened,
            servers: Vec::new(),
            runtime: Some(runtime),
        };
        stage.openservers(flows)?;
        Ok(stage)
    }

    /// Servers where flows go. Where one of the lab's answers already, the port is taken, and nothing happens.
    fn openservers(&mut self, flows: &[LabFlow]) -> anyhow::Result<()> {
        let mut wanted: BTreeMap<(&str, &str, IpAddr), BTreeSet<Port>> = BTreeMap::new();
        for flow in flows {
            let probe = &flow.probe;
            let answers = match probe.protocol {
                Protocol::TCP | Protocol::UDP => true,
                Protocol::SCTP => self.has_sctp,
                _ => false,
            };
            if answers {
                let place = (probe.into.as_str(), flow.server.as_str(), probe.to);
                wanted
                    .entry(place)
                    .or_default()
                    .insert((probe.protocol.to_string(), probe.port));
            }
        }
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let _guard = runtime.enter();
        for ((place, name, address), ports) in wanted {
            let ports: Vec<Port> = ports.into_iter().collect();
            // A place that is not there shows in its probes.
            self.servers
                .extend(servers::serve(place, name, &[address], &ports));
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = cluster::narrow_outside(&self.widened) {
            eprintln!("manx lab: {error:#}");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
