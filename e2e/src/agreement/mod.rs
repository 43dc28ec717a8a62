//! Law 1: oracle, simulator and kernel asked the same, for whole histories of a cluster.
//!
//! A [`Case`] is a history and the flows that are asked after its last step. One that ends in a disagreement is made
//! smaller and kept as YAML, and asked again before anything else.

mod case;
mod reduce;
mod written;

pub use case::{Case, Step};
pub use reduce::reduce;

use crate::engine::{Core, NODE};
use crate::packet::Probe;
use crate::random::{Change, Cluster, flow_from};
use crate::world::{Place, World};
use policy_model::{
    HostEndpointSpec, Kind, LABEL_NAMESPACE, LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT, Object, Resource,
};
use policy_model_rules::oracle::{Facts, Settings, Verdict};
use std::fmt;
use std::net::IpAddr;

/// How often a packet that has to arrive is sent: a queue of the kernel may have been full.
const TRIES: usize = 4;

/// One flow about which they disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The flow.
    pub probe: Probe,
    /// Whether each lets it pass.
    pub answers: Answers,
}

/// Whether each lets a flow pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// What policy means.
    pub oracle: bool,
    /// What our table says, read by ourselves.
    pub simulator: bool,
    /// What happened to a packet.
    pub kernel: bool,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe {
            source,
            destination,
            protocol,
            x,
            y,
            ..
        } = self.probe;
        let Answers {
            oracle,
            simulator,
            kernel,
        } = self.answers;
        let word = |passes| if passes { "allow" } else { "deny" };
        let (oracle, simulator, kernel) = (word(oracle), word(simulator), word(kernel));
        let (x_is, y_is) = if protocol.is_icmp() {
            ("type", "code")
        } else {
            ("port", "source port")
        };
        write!(f, "{source} -> {destination} {protocol} {x_is} {x} {y_is} {y}: ")?;
        write!(f, "oracle {oracle}, simulator {simulator}, kernel {kernel}")
    }
}

/// A world with the cluster that is in force there.
#[derive(Debug)]
pub struct Enforced {
    /// The world.
    pub world: World,
    cluster: Cluster,
}

impl Enforced {
    /// A world in which nothing is programmed yet.
    pub fn new(world: World) -> Self {
        world.silence();
        Enforced {
            world,
            cluster: Cluster::default(),
        }
    }

    /// Brings a step into force.
    pub fn take(&mut self, step: &Step) {
        self.cluster.apply(&step.change);
        if step.restart {
            self.world.engine.restart(self.cluster.resources());
            // What the life before left over goes after a while.
            self.settle();
        } else {
            let Change { upsert, delete } = step.change.clone();
            self.world.engine.run(move |core| {
                core.upsert(&upsert);
                core.delete(&delete);
                core.apply();
            });
        }
    }

    /// Whether the pods of a flow are in the datastore: what an unknown pod does is nobody's question here.
    pub fn concerns(&self, flow: &Probe) -> bool {
        let is_known = |address: IpAddr| {
            let Some(interface) = self.world.interface(self.world.place(address)) else {
                return true;
            };
            self.cluster.of_kind(Kind::WorkloadEndpoint).any(|r| {
                let Resource::WorkloadEndpoint(e) = r else {
                    return false;
                };
                let here = e.spec.node == NODE && e.spec.interface_name == interface;
                here && e.spec.ip_networks.iter().any(|n| n.addr() == address)
            })
        };
        is_known(flow.source) && is_known(flow.destination)
    }

    /// Law 5, and what the table must never hold: says what is wrong.
    pub fn check_table(&self) -> Result<(), String> {
        self.world.engine.run(|core| {
            let differing = core.differences();
            if differing > 0 {
                return Err(format!(
                    "{differing} objects in the kernel are not as they were written"
                ));
            }
            written::dangling(&core.dataplane)
        })
    }

    /// Removes from the table what waits for it.
    pub fn settle(&self) {
        self.world.engine.run(Core::settle);
    }

    /// Asks all three about each flow, and returns those about which they disagree.
    pub fn disagreements(&mut self, flows: &[Probe]) -> Vec<Disagreement> {
        let resources = self.cluster.resources();
        let oracle = ask_oracle(&resources, flows);
        let simulator = self.ask_simulator(flows);
        let kernel = self.ask_kernel(flows, &oracle);
        let answers = oracle.into_iter().zip(simulator).zip(kernel);
        let all = flows.iter().zip(answers);
        all.map(|(probe, ((oracle, simulator), kernel))| Disagreement {
            probe: *probe,
            answers: Answers {
                oracle,
                simulator,
                kernel,
            },
        })
        .filter(|d| d.answers.oracle != d.answers.simulator || d.answers.oracle != d.answers.kernel)
        .collect()
    }

    fn ask_simulator(&self, flows: &[Probe]) -> Vec<bool> {
        let way = |address| {
            let interface = self.world.interface(self.world.place(address));
            interface.map(str::to_string)
        };
        let flow = |probe: &Probe| (*probe, way(probe.source), way(probe.destination));
        let flows: Vec<_> = flows.iter().map(flow).collect();
        self.world.engine.run(move |core| {
            let passes = |(probe, from, to): &(Probe, Option<String>, Option<String>)| {
                written::passes(&core.dataplane, probe, from.as_deref(), to.as_deref())
            };
            flows.iter().map(passes).collect()
        })
    }

    fn ask_kernel(&mut self, flows: &[Probe], expected: &[bool]) -> Vec<bool> {
        self.world.forget_flows();
        let mut passed = vec![false; flows.len()];
        let mut asked: Vec<usize> = (0..flows.len()).collect();
        for _ in 0..TRIES {
            let probes: Vec<Probe> = asked
                .iter()
                .map(|n| Probe {
                    number: *n as u32,
                    ..flows[*n]
                })
                .collect();
            let arrived = self.world.send(&probes);
            for (number, places) in arrived {
                let probe = &flows[number as usize];
                let there: Place = self.world.place(probe.destination);
                assert!(
                    places.iter().all(|p| *p == there),
                    "{probe:?} arrived at {places:?} and not at {there:?}"
                );
                passed[number as usize] = true;
            }
            // What was to arrive and did not is sent again; what was not to arrive was refused once and for all.
            asked.retain(|n| expected[*n] && !passed[*n]);
            if asked.is_empty() {
                break;
            }
        }
        passed
    }
}

/// The same cluster as this node polices it: other nodes' pods are peers, and their own policy is their node's work.
fn seen_from_here(resources: &[Resource]) -> Vec<Resource> {
    let seen = |resource: &Resource| match resource {
        Resource::WorkloadEndpoint(e) if e.spec.node != NODE => {
            let mut labels = e.metadata.labels.clone();
            let own = [
                (LABEL_NAMESPACE, &e.metadata.namespace),
                (LABEL_ORCHESTRATOR, &e.spec.orchestrator),
                (LABEL_SERVICE_ACCOUNT, &e.spec.service_account_name),
            ];
            // An empty one is no label, but the namespace always is one.
            labels.extend(
                own.into_iter()
                    .filter(|(_, v)| !v.is_empty())
                    .map(|(k, v)| (k.to_string(), v.clone())),
            );
            let spec = HostEndpointSpec {
                node: e.spec.node.clone(),
                expected_ips: e.spec.ip_networks.iter().map(ipnet::IpNet::addr).collect(),
                profiles: e.spec.profiles.clone(),
                ports: e.spec.ports.clone(),
                ..HostEndpointSpec::default()
            };
            let mut object = Object::named(format!("{}.{}", e.metadata.namespace, e.metadata.name), spec);
            object.metadata.labels = labels;
            object.into()
        }
        other => other.clone(),
    };
    resources.iter().map(seen).collect()
}

fn ask_oracle(resources: &[Resource], flows: &[Probe]) -> Vec<bool> {
    let facts = Facts::new(&seen_from_here(resources), Settings::default());
    let ask = |probe| {
        facts
            .judge_untraced(&flow_from(probe))
            .expect("a flow that can be judged")
    };
    flows
        .iter()
        .map(|probe| ask(probe).verdict == Verdict::Allow)
        .collect()
}

/// The oracle's way to its verdict, for a person who looks at a disagreement.
pub fn explain(resources: &[Resource], probe: &Probe) -> String {
    let facts = Facts::new(&seen_from_here(resources), Settings::default());
    facts
        .judge(&flow_from(probe))
        .map_or_else(|e| e.to_string(), |judgement| judgement.to_string())
}
