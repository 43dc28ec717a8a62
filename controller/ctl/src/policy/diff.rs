//! `manx diff`: which flows a changed set of manifests opens and closes.

mod matrix;
mod outside;

use super::answer::Answer;
use super::flow::Question;
use super::print::{self, Output};
use super::world::World;
use crate::cluster::{Cluster, objects};
use crate::source;
use clap::Args;
use matrix::{Compared, Ends};
use policy_model_rules::oracle::{Direction, Verdict};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Lists the flows that a changed set of manifests opens and closes.
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, override_usage = USAGE)]
pub struct DiffArguments {
    /// Folder of Kubernetes manifests as they were (or one file); with --live the only one, as they shall be.
    #[arg(value_name = "OLD")]
    first: PathBuf,
    /// Folder of Kubernetes manifests as they shall be (or one file).
    #[arg(value_name = "NEW", required_unless_present = "live", conflicts_with = "live")]
    second: Option<PathBuf>,
    /// Compares the live cluster with itself after the folder would have been applied to it.
    #[arg(long)]
    live: bool,
    /// How the API server is reached; without it KUBECONFIG, ~/.kube/config, or the service account of this pod.
    #[arg(long, value_name = "FILE", requires = "live")]
    kubeconfig: Option<PathBuf>,
    /// How the differences are written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

const USAGE: &str = "manx diff [OPTIONS] <OLD> <NEW>\n       manx diff --live [OPTIONS] <NEW>";

const LONG_ABOUT: &str = "\
Lists the flows that a changed set of manifests opens and closes. With --live the old side is the live cluster, and the
new one the same after the folder was applied: what the folder defines replaces what is there under the same name, or is
added; nothing is removed, and nothing is written.

Compared are the flows between all pods that both sets have, to every port that the receiving pod declares or that a
changed policy names (and to VXLAN's port where a FelixConfiguration changes what pods may send there), and the flows
from and to addresses outside: one inside each network that a policy or network set of either side names, one inside each
exception, and one outside all of them. Pods that only one side has are listed by themselves. A flow counts as allowed
when it is allowed between all addresses that it could use.

With -o json each difference gives one object: {change: opened|closed, from, to, protocol, port, old, new}, old and new
being {verdict, side, policy, rule, reason} as in 'manx simulate', or {change: pod-added|pod-removed, pod}.

Exit code: 0 no difference; 1 differences; 2 bad input: a manifest that is not valid (the rest is compared).";

/// A difference, as programs read it.
#[derive(Debug, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
enum Line<'a> {
    PodRemoved { pod: String },
    PodAdded { pod: String },
    Opened(FlowLine<'a>),
    Closed(FlowLine<'a>),
}

#[derive(Debug, Serialize)]
struct FlowLine<'a> {
    from: &'a str,
    to: &'a str,
    protocol: String,
    port: u16,
    old: Why<'a>,
    new: Why<'a>,
}

/// One side's answer.
#[derive(Debug, Serialize)]
struct Why<'a> {
    verdict: Verdict,
    side: Option<Direction>,
    policy: Option<&'a str>,
    rule: Option<usize>,
    reason: &'a str,
}

impl<'a> Why<'a> {
    fn of(answer: &'a Answer) -> Self {
        Why {
            verdict: answer.verdict,
            side: answer.side,
            policy: answer.policy.as_deref(),
            rule: answer.rule,
            reason: &answer.reason,
        }
    }
}

/// A flow whose verdict changed, with both answers.
struct Changed {
    flow: matrix::MatrixFlow,
    old: Answer,
    new: Answer,
}

/// Runs the command.
///
/// # Errors
/// One of the sides cannot be read at all.
pub fn run(arguments: &DiffArguments) -> anyhow::Result<ExitCode> {
    let (old, new) = worlds(arguments)?;
    let ends = Ends::of(&old, &new);
    let compared = matrix::compare(&old, &new, &ends);
    let changed: Vec<Changed> = compared
        .changed
        .iter()
        .filter_map(|flow| changed(&old, &new, &ends, *flow))
        .collect();
    print::out(&match arguments.output {
        Output::Json => json(&ends, &changed),
        Output::Table => table(&ends, &changed, &compared),
    })?;
    let is_bad = !old.faults.is_empty() || !new.faults.is_empty();
    let differs = !(changed.is_empty() && ends.removed.is_empty() && ends.added.is_empty());
    Ok(ExitCode::from(if is_bad { 2 } else { u8::from(differs) }))
}

/// Both sides, after what is wrong with them was said.
fn worlds(arguments: &DiffArguments) -> anyhow::Result<(World, World)> {
    let Some(second) = &arguments.second else {
        return worlds_of_cluster(arguments);
    };
    let old = World::load(&arguments.first)?;
    // What the manifests leave open must not differ for any other reason than that the manifests do.
    let new = World::load_knowing(second, &old.known())?;
    for (path, world) in [(&arguments.first, &old), (second, &new)] {
        // A single file, or a folder, is part of each line already; faults of resources are not.
        print::complain(world.faults.iter().map(|fault| {
            let place = path.display().to_string();
            if fault.starts_with(&place) {
                fault.clone()
            } else {
                format!("{place}: {fault}")
            }
        }));
    }
    Ok((old, new))
}

fn worlds_of_cluster(arguments: &DiffArguments) -> anyhow::Result<(World, World)> {
    let objects = source::block_on(async {
        let cluster = Cluster::connect(arguments.kubeconfig.as_deref()).await?;
        Ok(objects::read(&cluster).await?)
    })?;
    let old = objects.world();
    let new = objects.world_with(&arguments.first, &old.known())?;
    // Most faults are of both sides.
    let only_new = new.faults.iter().filter(|fault| !old.faults.contains(fault));
    print::complain(old.faults.iter().chain(only_new));
    Ok((old, new))
}

/// Both answers to a flow. What one side cannot judge is of a pod that only the other has, and was not compared.
fn changed(old: &World, new: &World, ends: &Ends, flow: matrix::MatrixFlow) -> Option<Changed> {
    let (from, to) = (ends.all.get(flow.from)?, ends.all.get(flow.to)?);
    let answer = |world: &World, n: usize| {
        let question = Question {
            from: from.in_worlds.get(n)?.clone(),
            to: to.in_worlds.get(n)?.clone(),
            protocol: flow.protocol,
            port: Some(flow.port),
            icmp: None,
        };
        world.answer(&question).ok()
    };
    Some(Changed {
        flow,
        old: answer(old, 0)?,
        new: answer(new, 1)?,
    })
}

fn json(ends: &Ends, changed: &[Changed]) -> String {
    let pod = |pod: &String| pod.clone();
    let removed = ends
        .removed
        .iter()
        .map(|name| Line::PodRemoved { pod: pod(name) });
    let added = ends.added.iter().map(|name| Line::PodAdded { pod: pod(name) });
    let flows = changed.iter().map(|found| {
        let line = FlowLine {
            from: ends.name(found.flow.from),
            to: ends.name(found.flow.to),
            protocol: found.flow.protocol.to_string(),
            port: found.flow.port,
            old: Why::of(&found.old),
            new: Why::of(&found.new),
        };
        match found.new.verdict {
            Verdict::Allow => Line::Opened(line),
            Verdict::Deny => Line::Closed(line),
        }
    });
    removed
        .chain(added)
        .chain(flows)
        .map(|line| print::json_line(&line))
        .collect()
}

fn table(ends: &Ends, changed: &[Changed], compared: &Compared) -> String {
    let mut text = String::new();
    for (what, pods) in [("removed", &ends.removed), ("added", &ends.added)] {
        for pod in pods {
            text.push_str(&format!("pod {what}: {pod}\n"));
        }
    }
    if !changed.is_empty() {
        let mut rows = vec![["", "FROM", "TO", "FLOW", "WHY NOW"].map(str::to_string)];
        rows.extend(changed.iter().map(|found| {
            let flow = &found.flow;
            [
                change(found).to_string(),
                ends.name(flow.from).to_string(),
                ends.name(flow.to).to_string(),
                format!("{}/{}", flow.protocol, flow.port),
                found.new.reason.clone(),
            ]
        }));
        for line in print::table(&rows) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let opened = changed
        .iter()
        .filter(|found| found.new.verdict == Verdict::Allow)
        .count();
    let closed = changed.len() - opened;
    text + &format!(
        "{opened} flows opened, {closed} closed, of {} compared\n",
        compared.count
    )
}

fn change(found: &Changed) -> &'static str {
    match found.new.verdict {
        Verdict::Allow => "opened",
        Verdict::Deny => "closed",
    }
}
