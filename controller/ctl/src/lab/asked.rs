//! `lab probe --flows`: the questions of `manx simulate`, asked of the kernel too.

use super::flows::LabFlow;
use super::matrix::verdict;
use super::measure::{Measured, measure};
use super::names;
use super::picture::Picture;
use super::probe::{Outcome, Probe};
use super::state::{PodKind, PodState};
use crate::policy::answer::Answer;
use crate::policy::flow::{End, Ends, FlowFault, Question, WrittenFlow};
use crate::policy::flow_file::{self, Placed};
use crate::policy::line;
use crate::policy::print::{self, Output};
use anyhow::Context;
use policy_model::Protocol;
use policy_model_rules::oracle::{Peer, Verdict};
use serde::Serialize;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

/// One answer, as programs read it: the fields of `manx simulate`, then the kernel's.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    policies: line::Line<'a>,
    kernel: Option<Verdict>,
    agrees: bool,
    answer: String,
}

/// A flow of the file, with what policies and kernel say.
struct Asked<'a> {
    flow: &'a WrittenFlow,
    answer: Answer,
    /// One for each pair of addresses that it could use.
    ways: Vec<Measured>,
    /// Why there is none.
    missing: Option<Missing>,
}

/// Why there is no way to try a flow.
enum Missing {
    /// There cannot be one: an end has finished, or no packet would be a proof.
    ByNature(String),
    /// There should be one: a pod is not connected.
    ByFault(String),
}

impl Asked<'_> {
    /// What the kernel does. Allowed means between all addresses that count, as in the answer.
    fn kernel(&self) -> Option<Verdict> {
        let counting: Vec<&Measured> = self.ways.iter().filter(|m| m.flow.counts).collect();
        let deciding = if counting.is_empty() {
            self.ways.iter().collect()
        } else {
            counting
        };
        let passed: Option<Vec<bool>> = deciding.into_iter().map(Measured::passed).collect();
        let passed = passed.filter(|ways| !ways.is_empty())?;
        Some(verdict(passed.iter().all(|way| *way)))
    }

    fn agrees(&self) -> bool {
        !matches!(self.missing, Some(Missing::ByFault(_))) && self.ways.iter().all(Measured::agrees)
    }

    fn ok(&self) -> bool {
        self.agrees()
            && self
                .flow
                .expect
                .is_none_or(|expected| expected == self.answer.verdict)
    }

    fn said(&self) -> String {
        if let Some(Missing::ByNature(reason) | Missing::ByFault(reason)) = &self.missing {
            return format!("not measured: {reason}");
        }
        let decisive = self.ways.iter().find(|m| !m.agrees());
        let decisive = decisive.or_else(|| self.ways.iter().find(|m| m.passed() != Some(true)));
        match decisive.or(self.ways.first()) {
            Some(way) => way.said(),
            None => "not measured: there is no way to try it".to_string(),
        }
    }

    fn line(&self) -> Line<'_> {
        Line {
            policies: line::Line::of(self.flow, &self.answer, self.ok()),
            kernel: self.kernel(),
            agrees: self.agrees(),
            answer: self.said(),
        }
    }
}

/// Asks everything in a file. The code is that of `manx simulate`, with the kernel as a second judge.
pub(super) fn probe(file: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let name = file.display().to_string();
    let text = if name == "-" {
        std::io::read_to_string(std::io::stdin()).context("reading the flows from the standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| format!("reading the file of flows {name}"))?
    };
    let read = flow_file::read(&name, &text);
    let picture = Picture::settled()?;
    let mut faults = read.faults.clone();
    let mut asked = Vec::new();
    for found in &read.flows {
        let understood = match &found.flow {
            Ok(flow) => picture.ask(flow).map(|(answer, ways)| (flow, answer, ways)),
            Err(faults) => Err(faults.clone()),
        };
        match understood {
            Ok(one) => asked.push(one),
            Err(list) => faults.extend(list.iter().map(|fault| {
                Placed {
                    file: &name,
                    number: found.number,
                    fault,
                }
                .to_string()
            })),
        }
    }
    print::complain(&faults);
    let asked = measure_all(asked)?;
    print::out(&match output {
        Output::Json => asked.iter().map(|one| print::json_line(&one.line())).collect(),
        Output::Table => table(&asked),
    })?;
    Ok(if !faults.is_empty() {
        ExitCode::from(2)
    } else if asked.iter().all(Asked::ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The ways of one flow, or why there is none.
type Ways = Result<Vec<LabFlow>, Missing>;

fn measure_all(asked: Vec<(&WrittenFlow, Answer, Ways)>) -> anyhow::Result<Vec<Asked<'_>>> {
    let mut flows = Vec::new();
    for (_, _, ways) in &asked {
        flows.extend(ways.iter().flatten().cloned());
    }
    // All at once: most of the time is waiting.
    let mut measured = measure(flows)?.into_iter();
    let mut out = Vec::new();
    for (flow, answer, ways) in asked {
        let (count, missing) = match ways {
            Ok(ways) => (ways.len(), None),
            Err(reason) => (0, Some(reason)),
        };
        let ways: Vec<Measured> = measured.by_ref().take(count).collect();
        let cannot = ways.iter().find_map(|m| match &m.outcome {
            Outcome::Unmeasured(reason) => Some(Missing::ByNature(reason.clone())),
            _ => None,
        });
        out.push(Asked {
            flow,
            answer,
            ways,
            missing: missing.or(cannot),
        });
    }
    Ok(out)
}

impl Picture {
    /// What the policies say of a flow, and the ways to try it.
    fn ask(&self, flow: &WrittenFlow) -> Result<(Answer, Ways), Vec<FlowFault>> {
        let question = flow.understand(self)?;
        let answer = self.world.answer(&question);
        let answer = answer.map_err(|error| vec![FlowFault::new("flow", error.to_string())])?;
        let ways = self.ways(flow, &question, &answer);
        Ok((answer, ways))
    }
}

impl Ends for Picture {
    fn end(&self, text: &str) -> Result<End, String> {
        match text.parse::<Peer>().map_err(|error| error.to_string())? {
            Peer::Address(address) => Ok(End::Peer(Peer::Address(address.to_canonical()))),
            Peer::Node(node) if self.lab.nodes.contains_key(&node) => Ok(End::Peer(Peer::Node(node))),
            Peer::Node(node) => {
                let known: Vec<&str> = self.lab.nodes.keys().map(String::as_str).collect();
                Err(format!(
                    "there is no node {node} (there are: {})",
                    known.join(", ")
                ))
            }
            Peer::Endpoint { namespace, name } => match self.agent.pods.get(text) {
                None => Err(format!(
                    "there is no pod {text} in the lab; 'manx lab status' lists them"
                )),
                Some(pod) => Ok(match pod.kind {
                    PodKind::Endpoint => End::Peer(Peer::Endpoint { namespace, name }),
                    PodKind::Host => End::Peer(Peer::Node(pod.node.clone())),
                    PodKind::Finished => End::Finished(text.to_string()),
                }),
            },
        }
    }

    fn port(&self, to: &str, protocol: Protocol, name: &str) -> Result<u16, String> {
        let address = to.strip_prefix("ip:").and_then(|a| a.parse::<IpAddr>().ok());
        let pod = self
            .agent
            .pods
            .get(to)
            .or_else(|| self.agent.pod_of(address?.to_canonical()));
        let pod =
            pod.ok_or_else(|| format!("{to} is no pod, so it declares no port '{name}'; write the number"))?;
        let found = pod
            .named_ports
            .iter()
            .find(|(p, n, _)| *p == protocol.to_string() && n == name);
        found
            .map(|(_, _, number)| *number)
            .ok_or_else(|| format!("pod {} declares no {protocol} port '{name}'", pod.name()))
    }
}

impl Picture {
    fn ways(&self, flow: &WrittenFlow, question: &Question, answer: &Answer) -> Ways {
        let (End::Peer(from), End::Peer(to)) = (&question.from, &question.to) else {
            return Err(Missing::ByNature(
                "a pod that has finished sends and receives nothing".to_string(),
            ));
        };
        let mut ways = Vec::new();
        for way in &answer.ways {
            let (Some(source), Some(target)) = (way.source, way.destination) else {
                continue;
            };
            let (from, _) = self.place(from, source)?;
            let (into, server) = self.place(to, target)?;
            let probe = Probe {
                from,
                into,
                source,
                to: target,
                protocol: question.protocol,
                port: question.port.unwrap_or(0),
                icmp: question.icmp,
                expected: way.judgement.verdict == Verdict::Allow,
            };
            ways.push(LabFlow {
                from: flow.from.clone(),
                to: flow.to.clone(),
                server,
                probe,
                judgement: way.judgement.clone(),
                counts: !self.world.is_made_up(way.source, way.destination),
            });
        }
        if ways.is_empty() {
            return Err(Missing::ByNature("there is no way between the two".to_string()));
        }
        Ok(ways)
    }

    /// The network namespace of an end, and the name that its servers answer with.
    fn place(&self, peer: &Peer, address: IpAddr) -> Result<(String, String), Missing> {
        let pod = match peer {
            Peer::Endpoint { namespace, name } => self.agent.pods.get(&format!("{namespace}/{name}")),
            Peer::Address(address) => self.agent.pod_of(*address),
            Peer::Node(_) => None,
        };
        if let Some(pod) = pod {
            return place_of_pod(pod);
        }
        let node = match peer {
            Peer::Node(node) => Some(node),
            _ => self
                .lab
                .nodes
                .iter()
                .find(|(_, own)| own.contains(&address))
                .map(|(name, _)| name),
        };
        match node {
            Some(node) => Ok((names::node_namespace(node), String::new())),
            None if is_of_the_world(address) => Ok((names::OUTSIDE.to_string(), String::new())),
            None => Err(Missing::ByNature(format!(
                "{address} is no address that a host of the world could have"
            ))),
        }
    }
}

fn place_of_pod(pod: &PodState) -> Result<(String, String), Missing> {
    match pod.why_not() {
        Some(trouble) => Err(Missing::ByFault(format!(
            "pod {} is not connected: {trouble}",
            pod.name()
        ))),
        None => Ok((pod.netns.clone(), pod.name())),
    }
}

fn is_of_the_world(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

fn table(asked: &[Asked<'_>]) -> String {
    let mut rows =
        vec![["", "FROM", "TO", "FLOW", "POLICIES", "KERNEL", "EXPECT", "WHY"].map(str::to_string)];
    for one in asked {
        let mark = match (one.ok(), one.flow.expect) {
            (false, _) => "NO",
            (true, Some(_)) => "ok",
            (true, None) => "",
        };
        let why = if one.agrees() {
            one.answer.reason.clone()
        } else {
            format!("the kernel: {}; the policies: {}", one.said(), one.answer.reason)
        };
        rows.push([
            mark.to_string(),
            one.flow.from.clone(),
            one.flow.to.clone(),
            one.flow.what(),
            one.answer.verdict.to_string(),
            one.kernel().map_or("?".to_string(), |found| found.to_string()),
            one.flow
                .expect
                .map_or(String::new(), |expected| expected.to_string()),
            why,
        ]);
    }
    let mut text = String::new();
    for (n, line) in print::table(&rows).into_iter().enumerate() {
        let is_wrong = n
            .checked_sub(1)
            .and_then(|n| asked.get(n))
            .is_some_and(|one| !one.ok());
        text.push_str(&if is_wrong { print::red(&line) } else { line });
        text.push('\n');
    }
    let wrong = asked.iter().filter(|one| !one.ok()).count();
    let differ = asked.iter().filter(|one| !one.agrees()).count();
    let unmeasured: Vec<&Asked<'_>> = asked.iter().filter(|one| one.kernel().is_none()).collect();
    for one in &unmeasured {
        text.push_str(&format!(
            "{} -> {} {}: {}\n",
            one.flow.from,
            one.flow.to,
            one.flow.what(),
            one.said()
        ));
    }
    let sum = format!(
        "\n{} flows: {wrong} not as expected, {differ} differ between kernel and policies, {} not measured\n",
        asked.len(),
        unmeasured.len()
    );
    text + &if wrong > 0 { print::red(&sum) } else { sum }
}
