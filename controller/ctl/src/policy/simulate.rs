//! `manx simulate`: what the policies say of a file of flows. Needs neither root nor a kernel.

use super::answer::Answer;
use super::flow::WrittenFlow;
use super::flow_file::{self, FlowFile, Placed};
use super::line::Line;
use super::print::{self, Output};
use super::world::World;
use crate::source::SourceArguments;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Asks what the policies of the live cluster, or of a folder of manifests, say of flows.
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT)]
pub struct SimulateArguments {
    /// Where policies and pods are read.
    #[command(flatten)]
    pub source: SourceArguments,
    /// File of flows; `-` is the standard input.
    #[arg(long, value_name = "FILE")]
    pub flows: PathBuf,
    /// How the answers are written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

const LONG_ABOUT: &str = "\
Asks what the policies of the live cluster, or with --manifests of a folder of manifests (without a cluster), say of
flows.

The file of flows is YAML (a list, or a mapping with 'flows:', also in several documents) or one JSON object a line:
  {from: shop/web, to: shop/db, protocol: TCP, port: 5432, expect: allow}
'from' and 'to' are namespace/pod, ip:ADDRESS or node:NAME; the address of a pod is that pod, and a pod of its node's
network is its node. 'port' is a number or the name of a port that the destination declares. ICMP and ICMPv6 take
'type' and 'code' in its place (an echo request without them). 'expect' is allow or deny, and may be left out.

With -o json each flow gives one object:
  from, to, protocol, port   as asked (type and code beside them for ICMP)
  verdict                    allow or deny; allow means between all addresses that the flow could use
  side                       whose policies decided, egress or ingress; null where none was asked
  policy                     tier/namespace/name in its author's words (a NetworkPolicy web of namespace shop is
                             default/shop/web; a policy of the whole cluster is tier/name)
  rule                       position, from 0, in the policy's own list of that side; null where no rule matched
  reason                     why, in words
  expect, ok                 what was expected (or null), and whether it holds (true where nothing was expected)

What pods may not send themselves is denied whatever policies say: IPIP (protocol 4) and VXLAN (UDP to vxlanPort), unless
a FelixConfiguration has allowIPIPPacketsFromWorkloads or allowVXLANPacketsFromWorkloads.

What manifests leave open is filled in, always alike: nodes, and addresses out of the IP pools (10.65.0.0/16 and
fd65:6c61:6200::/64 where there is none). IPv6 addresses that are filled in so, without a pool in the manifests, do not
decide where IPv4 is possible; 'reason' says where they would be treated otherwise. Of a live cluster nothing is filled
in: a pod that has no node or no address yet has none.

Exit code: 0 every expectation holds; 1 one does not; 2 bad input: a flow that cannot be understood, or a manifest that
is not valid, or an object may not be read, so that the answers (which are given all the same, from the rest) cannot be
relied on.";

/// A flow with its answer.
struct Answered<'a> {
    flow: &'a WrittenFlow,
    answer: Answer,
}

impl Answered<'_> {
    fn ok(&self) -> bool {
        self.flow
            .expect
            .is_none_or(|expected| expected == self.answer.verdict)
    }

    fn line(&self) -> Line<'_> {
        Line::of(self.flow, &self.answer, self.ok())
    }
}

/// Runs the command.
///
/// # Errors
/// Manifests, cluster or the file of flows cannot be read at all.
pub fn run(arguments: &SimulateArguments) -> anyhow::Result<ExitCode> {
    let world = arguments.source.world()?;
    let name = arguments.flows.display().to_string();
    let text = if name == "-" {
        std::io::read_to_string(std::io::stdin()).context("reading the flows from the standard input")?
    } else {
        std::fs::read_to_string(&arguments.flows)
            .with_context(|| format!("reading the file of flows {name}"))?
    };
    let file = flow_file::read(&name, &text);
    print::complain(&world.faults);
    let mut bad = !world.faults.is_empty();
    let (answered, faults) = answer(&world, &name, &file);
    print::complain(&faults);
    bad |= !faults.is_empty();
    print::out(&match arguments.output {
        Output::Json => answered
            .iter()
            .map(|found| print::json_line(&found.line()))
            .collect(),
        Output::Table => table(&answered),
    })?;
    Ok(if bad {
        ExitCode::from(2)
    } else if answered.iter().all(Answered::ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// The answers to all flows that can be understood, and a line for everything that cannot.
fn answer<'a>(world: &World, name: &str, file: &'a FlowFile) -> (Vec<Answered<'a>>, Vec<String>) {
    let mut answered = Vec::new();
    let mut lines = file.faults.clone();
    for found in &file.flows {
        let mut complain = |faults: &[super::flow::FlowFault]| {
            lines.extend(faults.iter().map(|fault| {
                let number = found.number;
                Placed {
                    file: name,
                    number,
                    fault,
                }
                .to_string()
            }));
        };
        let flow = match &found.flow {
            Ok(flow) => flow,
            Err(faults) => {
                complain(faults);
                continue;
            }
        };
        match flow.understand(world) {
            Err(faults) => complain(&faults),
            Ok(question) => match world.answer(&question) {
                Ok(answer) => answered.push(Answered { flow, answer }),
                Err(error) => complain(&[super::flow::FlowFault::new("flow", error.to_string())]),
            },
        }
    }
    (answered, lines)
}

fn table(answered: &[Answered<'_>]) -> String {
    let mut rows = vec![["", "FROM", "TO", "FLOW", "VERDICT", "EXPECT", "WHY"].map(str::to_string)];
    for found in answered {
        let (flow, answer) = (found.flow, &found.answer);
        let mark = match (found.ok(), flow.expect) {
            (false, _) => "NO",
            (true, Some(_)) => "ok",
            (true, None) => "",
        };
        rows.push([
            mark.to_string(),
            flow.from.clone(),
            flow.to.clone(),
            flow.what(),
            answer.verdict.to_string(),
            flow.expect.map_or(String::new(), |expected| expected.to_string()),
            answer.reason.clone(),
        ]);
    }
    let mut text = String::new();
    for (n, line) in print::table(&rows).into_iter().enumerate() {
        let is_wrong = n
            .checked_sub(1)
            .and_then(|n| answered.get(n))
            .is_some_and(|found| !found.ok());
        text.push_str(&if is_wrong { print::red(&line) } else { line });
        text.push('\n');
    }
    let wrong = answered.iter().filter(|found| !found.ok()).count();
    let expected = answered
        .iter()
        .filter(|found| found.flow.expect.is_some())
        .count();
    let sum = format!(
        "\n{} flows: {} as expected, {wrong} not, {} without expectation\n",
        answered.len(),
        expected - wrong,
        answered.len() - expected
    );
    text + &if wrong > 0 { print::red(&sum) } else { sum }
}
