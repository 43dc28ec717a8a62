//! The page of metrics of the running program, held against the specification of its form and against the kernel.

use crate::bed::{Node, wait_for};
use crate::text_format::{Family, Labels, parse};
use dataplane_nftables::observe::observe;
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::SetData;
use std::collections::BTreeMap;

pub(crate) fn value(families: &BTreeMap<String, Family>, name: &str) -> f64 {
    families[name].samples[&(name.to_owned(), Labels::new())]
}

#[test]
fn the_page_has_the_form_that_the_specification_wants() {
    let node = Node::new();
    let felix = node.start();
    felix.wait_until_ready(9099);
    let families = parse(&node.wait_for_page(9091, "/metrics")).unwrap();

    // Every family says something: what is registered is fed.
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no series");
        assert!(
            name.starts_with("felix_") || name.starts_with("process_"),
            "{name}"
        );
    }
    for name in [
        "felix_active_local_endpoints",
        "felix_resync_state",
        "felix_nft_calls",
        "process_open_fds",
    ] {
        assert!(families.contains_key(name), "{name}");
    }
    assert_eq!(value(&families, "felix_resync_state"), 3.0, "in sync");

    // What the table has in it is what the kernel says. What an address map left goes after a while.
    wait_for("sizes that are the kernel's", || {
        let families = parse(&node.wait_for_page(9091, "/metrics")).unwrap();
        let observed = node
            .namespace
            .run(|| observe(&mut Link::open().unwrap()).unwrap().unwrap())
            .unwrap();
        let maps = observed
            .sets
            .values()
            .filter(|(set, _)| set.data != Some(SetData::None))
            .count();
        let rules: usize = observed.rules.values().map(Vec::len).sum();
        assert!(rules > 10, "{observed:?}");
        let sizes = [
            ("felix_nft_chains", observed.chains.len()),
            ("felix_nft_rules", rules),
            ("felix_nft_sets", observed.sets.len() - maps),
            ("felix_nft_maps", maps),
        ];
        sizes
            .iter()
            .all(|(name, size)| value(&families, name) == *size as f64)
            .then_some(())
    });

    // Counters only grow.
    let later = parse(&node.wait_for_page(9091, "/metrics")).unwrap();
    for (name, family) in families.iter().filter(|(_, family)| family.kind == "counter") {
        for (series, before) in &family.samples {
            assert!(later[name].samples[series] >= *before, "{name} {series:?}");
        }
    }
    assert_eq!(felix.stop().code(), Some(0));
}
