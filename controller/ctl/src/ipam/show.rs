//! `manx ipam show`: how many addresses of each pool and block are used, and who holds one.

use super::ledger::{Ledger, Reader};
use crate::policy::print::{self, Output};
use crate::source::{self, ClusterArguments};
use crate::status::report::size;
use clap::Args;
use policy_model::Attributes;
use policy_model_ipam::block;
use serde::Serialize;
use std::net::IpAddr;
use std::process::ExitCode;

/// Shows how many addresses of each pool are used.
///
/// Used are all that are held: by pods, by tunnels, and those that a node keeps ready for its next pods.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Each block too, with the node that owns it.
    #[arg(long)]
    pub blocks: bool,
    /// Who holds this address.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "blocks")]
    pub ip: Option<IpAddr>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// A pool or a block, as programs read it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    grouping: &'static str,
    name: String,
    cidr: String,
    /// The owner of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    total: u128,
    used: u128,
    free: u128,
}

/// An address, as programs read it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Held {
    ip: IpAddr,
    held: bool,
    pool: Option<String>,
    block: Option<String>,
    handle: Option<String>,
    attributes: Attributes,
    /// The same in words.
    #[serde(skip)]
    words: String,
}

/// Runs the command.
///
/// # Errors
/// Pools or blocks cannot be read.
pub fn run(arguments: &ShowArguments) -> anyhow::Result<ExitCode> {
    let ledger = source::block_on(async { Reader::open(&arguments.cluster).await?.read(false).await })?;
    let text = match (arguments.ip, arguments.output) {
        (Some(address), Output::Json) => print::json_line(&held(&ledger, address)),
        (Some(address), Output::Table) => held(&ledger, address).words,
        (None, Output::Json) => rows(&ledger, arguments.blocks)
            .iter()
            .map(print::json_line)
            .collect(),
        (None, Output::Table) => table(&rows(&ledger, arguments.blocks)),
    };
    print::out(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The pools, each with its blocks behind it; then blocks of no pool.
fn rows(ledger: &Ledger, with_blocks: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rest: Vec<_> = ledger.blocks.iter().collect();
    for pool in &ledger.pools {
        let (inside, outside): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|block| pool.cidr.contains(&block.cidr));
        rest = outside;
        let total = size(&pool.cidr);
        let used = inside
            .iter()
            .map(|block| block::holders(block).count() as u128)
            .sum();
        rows.push(Row {
            grouping: "pool",
            name: pool.name.clone(),
            cidr: pool.cidr.to_string(),
            node: None,
            total,
            used,
            free: total.saturating_sub(used),
        });
        if with_blocks {
            rows.extend(inside.into_iter().map(block_row));
        }
    }
    if with_blocks {
        rows.extend(rest.into_iter().map(block_row));
    }
    rows
}

fn block_row(block: &policy_model::IpamBlockSpec) -> Row {
    let (total, used) = (size(&block.cidr), block::holders(block).count() as u128);
    Row {
        grouping: "block",
        name: policy_model_ipam::name::of_cidr(&block.cidr),
        cidr: block.cidr.to_string(),
        node: block::owner(block).map(str::to_owned),
        total,
        used,
        free: total.saturating_sub(used),
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "there are no pools\n".to_owned();
    }
    let mut cells = vec![["GROUPING", "NAME", "CIDR", "TOTAL", "USED", "FREE"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let name = match (row.grouping, &row.node) {
            ("block", Some(node)) => format!("of node {node}"),
            ("block", None) => "of no node".to_owned(),
            _ => row.name.clone(),
        };
        [
            row.grouping.to_owned(),
            name,
            row.cidr.clone(),
            row.total.to_string(),
            share(row.used, row.total),
            share(row.free, row.total),
        ]
    }));
    print::table(&cells).into_iter().map(|line| line + "\n").collect()
}

/// A number with what part it is of another, in whole per cent.
fn share(part: u128, whole: u128) -> String {
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or(0);
    format!("{part} ({percent}%)")
}

fn held(ledger: &Ledger, address: IpAddr) -> Held {
    let pool = ledger.pools.iter().find(|pool| pool.cidr.contains(&address));
    let block = ledger.blocks.iter().find(|block| block.cidr.contains(&address));
    let holder = block.and_then(|block| block::holder(block, address));
    let pool_name = pool.map(|pool| pool.name.clone());
    let words = match (&holder, block, &pool_name) {
        (Some(holder), ..) => format!("{address} is held by {}", block::describe(holder.attribute)),
        (None, Some(block), _) => match block::owner(block) {
            Some(node) => format!("{address} is free, in block {} of node {node}", block.cidr),
            None => format!("{address} is free, in block {}", block.cidr),
        },
        (None, None, Some(pool)) => format!("{address} is free, in pool {pool}; no block has it yet"),
        (None, None, None) => format!("{address} is in no pool"),
    };
    let mut lines = vec![words];
    let attribute = holder.as_ref().map(|holder| holder.attribute);
    if let Some(attribute) = attribute {
        let handle = attribute
            .handle_id
            .iter()
            .map(|handle| format!("  handle: {handle}"));
        lines.extend(handle);
        lines.extend(
            attribute
                .secondary
                .iter()
                .map(|(key, value)| format!("  {key}: {value}")),
        );
    }
    Held {
        ip: address,
        held: holder.is_some(),
        pool: pool_name,
        block: block.map(|block| block.cidr.to_string()),
        handle: attribute.and_then(|attribute| attribute.handle_id.clone()),
        attributes: attribute
            .map(|attribute| attribute.secondary.clone())
            .unwrap_or_default(),
        words: lines.join("\n") + "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::ledger;
    use super::*;

    #[test]
    fn pools_and_blocks_are_counted() {
        let mut ledger = ledger();
        let all = rows(&ledger, true);
        let short: Vec<_> = all
            .iter()
            .map(|row| (row.grouping, row.cidr.as_str(), row.total, row.used))
            .collect();
        assert_eq!(
            short,
            [
                ("pool", "10.0.0.0/24", 256, 3),
                ("block", "10.0.0.0/29", 8, 3),
                ("block", "10.9.0.0/30", 4, 0),
            ]
        );
        assert_eq!(rows(&ledger, false).len(), 1);
        assert_eq!(
            table(&all),
            "GROUPING  NAME        CIDR         TOTAL  USED     FREE\n\
             pool      main        10.0.0.0/24  256    3 (1%)   253 (98%)\n\
             block     of node n1  10.0.0.0/29  8      3 (37%)  5 (62%)\n\
             block     of no node  10.9.0.0/30  4      0 (0%)   4 (100%)\n"
        );
        ledger.pools.clear();
        assert_eq!(table(&rows(&ledger, false)), "there are no pools\n");
    }

    #[test]
    fn the_holder_of_an_address_is_told() {
        let ledger = ledger();
        let words = |address: &str| held(&ledger, address.parse().unwrap()).words;
        assert_eq!(
            words("10.0.0.0"),
            "10.0.0.0 is held by pod shop/web on node n1\n  handle: net.web\n  namespace: shop\n  node: n1\n  pod: web\n  uid: u-web\n"
        );
        assert_eq!(
            words("10.0.0.7"),
            "10.0.0.7 is free, in block 10.0.0.0/29 of node n1\n"
        );
        assert_eq!(words("10.9.0.1"), "10.9.0.1 is free, in block 10.9.0.0/30\n");
        assert_eq!(
            words("10.0.0.99"),
            "10.0.0.99 is free, in pool main; no block has it yet\n"
        );
        assert_eq!(words("192.0.2.1"), "192.0.2.1 is in no pool\n");
        let json = serde_json::to_value(held(&ledger, "10.0.0.0".parse().unwrap())).unwrap();
        assert_eq!(
            (&json["held"], &json["attributes"]["pod"]),
            (&true.into(), &"web".into())
        );
    }
}
