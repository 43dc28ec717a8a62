//! `manx ipam check`: where blocks and pods disagree about addresses.
//!
//! Blocks and pods are read one after the other while pods come and go, so a first disagreement proves nothing: what is
//! reported was found twice, with a pause between.

use super::ledger::{Ledger, PodRecord, Reader};
use crate::policy::print::{self, Output};
use crate::source::{self, ClusterArguments};
use clap::Args;
use policy_model_ipam::block::{self, Holding};
use policy_model_ipam::handle;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

/// The pause before what was found is looked at again: longer than an address takes to its block and a pod to its status.
const PAUSE: Duration = Duration::from_secs(3);

/// Looks for addresses about which blocks and pods disagree.
///
/// Found are addresses that are held for pods or nodes that do not exist, pods whose address nobody or somebody else
/// holds, and addresses that two have. What is found is looked at again three seconds later, and told only if it is
/// still so. Changes nothing: the controller gives addresses back when it has proof. Exit code: 0 nothing was found; 1
/// something was; 2 pods or blocks cannot be read.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// How the answer is written; as JSON one object a line: {finding, ip, reason}.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Two have it.
    Duplicate,
    /// A pod has it, and a block says that it is another's.
    HeldByAnother,
    /// A pod has it, and no block says so.
    NotHeld,
    /// It is held for somebody who does not exist.
    Leaked,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    ip: IpAddr,
    finding: Kind,
    reason: String,
}

/// Runs the command.
///
/// # Errors
/// Pods or blocks cannot be read.
pub fn run(arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    let (ledger, findings) = source::block_on(async {
        let reader = Reader::open(&arguments.cluster).await?;
        let mut ledger = reader.read(true).await?;
        let mut findings = check(&ledger);
        if !findings.is_empty() {
            tokio::time::sleep(PAUSE).await;
            ledger = reader.read(true).await?;
            let again: BTreeSet<Finding> = check(&ledger).into_iter().collect();
            findings.retain(|finding| again.contains(finding));
        }
        Ok((ledger, findings))
    })?;
    if ledger.nodes.is_none() {
        print::complain(["this account may not read nodes; whether those of blocks exist was not looked at"]);
    }
    print::out(&match arguments.output {
        Output::Json => findings.iter().map(print::json_line).collect(),
        Output::Table => table(&ledger, &findings),
    })?;
    Ok(ExitCode::from(u8::from(!findings.is_empty())))
}

type Name<'a> = (&'a str, &'a str);

/// Everything that is wrong, in the order of the addresses.
fn check(ledger: &Ledger) -> Vec<Finding> {
    let pods: BTreeMap<Name<'_>, &PodRecord> = ledger
        .pods
        .iter()
        .map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod))
        .collect();
    let mut held: BTreeMap<IpAddr, Vec<Holding<'_>>> = BTreeMap::new();
    for holding in ledger.blocks.iter().flat_map(block::holders) {
        held.entry(holding.address).or_default().push(holding);
    }
    let mut findings = Vec::new();
    for (address, holdings) in &held {
        let of = |finding, reason| Finding {
            ip: *address,
            finding,
            reason,
        };
        if let [first, second, ..] = holdings.as_slice() {
            let [first, second] = [first, second].map(|one| block::describe(one.attribute));
            findings.push(of(
                Kind::Duplicate,
                format!("two blocks hold it: for {first}, and for {second}"),
            ));
        }
        let leaks = holdings
            .iter()
            .filter_map(|holding| leak(holding, &pods, ledger.nodes.as_ref()));
        findings.extend(leaks.map(|reason| of(Kind::Leaked, reason)));
    }
    findings.extend(of_pods(ledger, &held));
    findings.sort();
    findings
}

/// Why nobody has an address that is held.
fn leak(
    holding: &Holding<'_>,
    pods: &BTreeMap<Name<'_>, &PodRecord>,
    nodes: Option<&BTreeSet<String>>,
) -> Option<String> {
    let said = |key: &str| holding.attribute.secondary.get(key).map_or("", String::as_str);
    let (namespace, name) = (said(handle::ATTRIBUTE_NAMESPACE), said(handle::ATTRIBUTE_POD));
    if !namespace.is_empty() && !name.is_empty() {
        let Some(pod) = pods.get(&(namespace, name)) else {
            return Some(format!(
                "it is held for pod {namespace}/{name}, which does not exist"
            ));
        };
        let uid = said(handle::ATTRIBUTE_UID);
        if !uid.is_empty() && !pod.ids.is_empty() && !pod.ids.iter().any(|id| id == uid) {
            return Some(format!(
                "it is held for an earlier pod {namespace}/{name}, which does not exist any more"
            ));
        }
        let is_of_family = |other: &&IpAddr| other.is_ipv4() == holding.address.is_ipv4();
        let own: Vec<&IpAddr> = pod.addresses.iter().filter(is_of_family).collect();
        if !pod.finished && !own.is_empty() && !own.contains(&&holding.address) {
            let own: Vec<String> = own.iter().map(ToString::to_string).collect();
            return Some(format!(
                "it is held for pod {namespace}/{name}, which has {}",
                own.join(" and ")
            ));
        }
    }
    let node = said(handle::ATTRIBUTE_NODE);
    let is_gone = nodes.is_some_and(|nodes| !node.is_empty() && !nodes.contains(node));
    is_gone.then(|| {
        let holder = block::describe(holding.attribute);
        format!("it is held by {holder}, and there is no node {node}")
    })
}

/// What is wrong with the addresses that pods say they have.
fn of_pods(ledger: &Ledger, held: &BTreeMap<IpAddr, Vec<Holding<'_>>>) -> Vec<Finding> {
    let mut owners: BTreeMap<IpAddr, Vec<&PodRecord>> = BTreeMap::new();
    for pod in ledger
        .pods
        .iter()
        .filter(|pod| !pod.finished && !pod.host_network)
    {
        for address in &pod.addresses {
            owners.entry(*address).or_default().push(pod);
        }
    }
    let name = |pod: &PodRecord| format!("{}/{}", pod.namespace, pod.name);
    let mut findings = Vec::new();
    for (address, pods) in owners {
        let mut find = |finding, reason| {
            findings.push(Finding {
                ip: address,
                finding,
                reason,
            });
        };
        if pods.len() > 1 {
            let names: Vec<String> = pods.iter().map(|pod| name(pod)).collect();
            find(Kind::Duplicate, format!("pods {} have it", names.join(" and ")));
        }
        // What no pool and no block has is not ours to give: another network's, or a node's own range.
        let is_ours = ledger.pools.iter().any(|pool| pool.cidr.contains(&address))
            || ledger.blocks.iter().any(|block| block.cidr.contains(&address));
        if !is_ours {
            continue;
        }
        for pod in pods {
            let is_of_pod = |holding: &Holding<'_>| {
                let said = |key: &str| holding.attribute.secondary.get(key).map_or("", String::as_str);
                said(handle::ATTRIBUTE_NAMESPACE) == pod.namespace && said(handle::ATTRIBUTE_POD) == pod.name
            };
            match held.get(&address).map(Vec::as_slice) {
                None | Some([]) => find(
                    Kind::NotHeld,
                    format!("pod {} has it, and no block holds it", name(pod)),
                ),
                Some(holdings) if holdings.iter().any(is_of_pod) => {}
                Some([first, ..]) => {
                    let holder = block::describe(first.attribute);
                    find(
                        Kind::HeldByAnother,
                        format!("pod {} has it, and it is held by {holder}", name(pod)),
                    );
                }
            }
        }
    }
    findings
}

fn table(ledger: &Ledger, findings: &[Finding]) -> String {
    let mut text = String::new();
    if !findings.is_empty() {
        let mut rows = vec![["ADDRESS", "FINDING", "WHY"].map(str::to_owned)];
        rows.extend(findings.iter().map(|found| {
            let finding = match found.finding {
                Kind::Duplicate => "duplicate",
                Kind::HeldByAnother => "held by another",
                Kind::NotHeld => "not held",
                Kind::Leaked => "leaked",
            };
            [found.ip.to_string(), finding.to_owned(), found.reason.clone()]
        }));
        text.extend(print::table(&rows).into_iter().map(|line| line + "\n"));
    }
    let held: usize = ledger
        .blocks
        .iter()
        .map(|block| block::holders(block).count())
        .sum();
    let sum = format!(
        "{held} addresses held in {} blocks, {} pods: {}\n",
        ledger.blocks.len(),
        ledger.pods.len(),
        match findings.len() {
            0 => "they agree".to_owned(),
            count => format!("{count} found"),
        }
    );
    text + &if findings.is_empty() {
        sum
    } else {
        print::red(sum.trim_end()) + "\n"
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ipam::ledger::Pool;
    use policy_model::{AllocationAttribute, IpamBlockSpec};

    pub(crate) fn give(block: &mut IpamBlockSpec, address: &str, handle: &str, said: &[(&str, &str)]) {
        let attribute = AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary: said
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        block::assign(block, address.parse().unwrap(), &attribute).unwrap();
    }

    fn pod(name: &str, address: &str) -> PodRecord {
        PodRecord {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            ids: vec![format!("u-{name}")],
            addresses: vec![address.parse().unwrap()],
            ..PodRecord::default()
        }
    }

    fn block(cidr: &str, node: Option<&str>) -> IpamBlockSpec {
        block::new(cidr.parse().unwrap(), node, false, 1).unwrap().spec
    }

    /// Two pods and a reserve in one block of node n1; an empty block of nobody, outside of the pool.
    pub(crate) fn ledger() -> Ledger {
        let mut first = block("10.0.0.0/29", Some("n1"));
        for (address, name, uid) in [("10.0.0.0", "web", "u-web"), ("10.0.0.1", "db", "u-db")] {
            let said = [("namespace", "shop"), ("pod", name), ("uid", uid), ("node", "n1")];
            give(&mut first, address, &format!("net.{name}"), &said);
        }
        give(&mut first, "10.0.0.2", "manx-reserve-n1", &[("node", "n1")]);
        Ledger {
            pools: vec![Pool {
                name: "main".to_owned(),
                cidr: "10.0.0.0/24".parse().unwrap(),
                disabled: false,
            }],
            blocks: vec![first, block("10.9.0.0/30", None)],
            pods: vec![pod("web", "10.0.0.0"), pod("db", "10.0.0.1")],
            nodes: Some(BTreeSet::from(["n1".to_owned()])),
        }
    }

    fn found(ledger: &Ledger) -> Vec<(Kind, String)> {
        check(ledger)
            .into_iter()
            .map(|found| (found.finding, found.ip.to_string()))
            .collect()
    }

    #[test]
    fn a_cluster_in_order_has_no_findings() {
        let mut ledger = ledger();
        assert_eq!(found(&ledger), []);
        // Of other networks, of its node, or at its end: none of them needs a block.
        ledger.pods.push(pod("elsewhere", "172.16.0.1"));
        let node = PodRecord {
            host_network: true,
            ..pod("host", "10.0.0.5")
        };
        let ended = PodRecord {
            finished: true,
            ..pod("job", "10.0.0.0")
        };
        ledger.pods.extend([node, ended]);
        assert_eq!(found(&ledger), []);
        assert!(table(&ledger, &[]).ends_with("they agree\n"));
    }

    #[test]
    fn every_disagreement_is_found() {
        let mut one = ledger();
        one.pods.remove(0);
        assert_eq!(
            found(&one),
            [(Kind::Leaked, "10.0.0.0".to_owned())],
            "no such pod"
        );
        let mut one = ledger();
        one.pods[0].ids = vec!["u-web-2".to_owned()];
        assert_eq!(
            found(&one),
            [(Kind::Leaked, "10.0.0.0".to_owned())],
            "another pod of that name"
        );
        let mut one = ledger();
        one.nodes = Some(BTreeSet::new());
        assert_eq!(
            found(&one).len(),
            3,
            "the node is gone, and all that is held on it"
        );
        one.nodes = None;
        assert_eq!(found(&one), [], "nobody knows");
        let mut one = ledger();
        one.pods.push(pod("new", "10.0.0.77"));
        assert_eq!(found(&one), [(Kind::NotHeld, "10.0.0.77".to_owned())]);
        let mut one = ledger();
        one.pods.push(pod("new", "10.0.0.2"));
        assert_eq!(found(&one), [(Kind::HeldByAnother, "10.0.0.2".to_owned())]);
        let mut one = ledger();
        one.pods.push(pod("new", "10.0.0.0"));
        let wanted = [
            (Kind::Duplicate, "10.0.0.0".to_owned()),
            (Kind::HeldByAnother, "10.0.0.0".to_owned()),
        ];
        assert_eq!(found(&one), wanted);
        let mut one = ledger();
        one.pods[1].addresses = vec!["10.0.0.6".parse().unwrap()];
        let wanted = [
            (Kind::Leaked, "10.0.0.1".to_owned()),
            (Kind::NotHeld, "10.0.0.6".to_owned()),
        ];
        assert_eq!(found(&one), wanted, "it has another address than the block says");
        let mut one = ledger();
        let mut overlapping = block("10.0.0.0/30", Some("n1"));
        give(
            &mut overlapping,
            "10.0.0.0",
            "net.web",
            &[("namespace", "shop"), ("pod", "web"), ("uid", "u-web")],
        );
        one.blocks.push(overlapping);
        assert_eq!(
            found(&one),
            [(Kind::Duplicate, "10.0.0.0".to_owned())],
            "two blocks"
        );
    }
}
