//! What others do to our table in nf_tables.

use crate::deed::Deed;
use e2e::bed::{our_table, tool};

/// The names of our objects of one sort, as `nft` lists them.
fn names(sort: &str) -> Vec<String> {
    let listed = our_table();
    let lines = listed.lines().map(str::trim);
    let names = lines.filter_map(|l| l.strip_prefix(sort)?.strip_suffix('{'));
    names.map(|n| n.trim().to_string()).collect()
}

/// Maps and sets with their first element: sort, name, element.
fn elements() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for sort in ["set", "map"] {
        for name in names(&format!("{sort} ")) {
            let listed = tool("nft", &["list", sort, "inet", "manx", &name]);
            let Some((_, elements)) = listed.split_once("elements = {") else {
                continue;
            };
            let first = elements.split([',', '}']).next().unwrap();
            let element = first.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((sort.to_string(), name, element));
        }
    }
    found
}

/// Every kind of thing that a person, a script or another program does to a table that is not theirs.
pub(crate) fn deeds() -> Vec<Deed> {
    let mut commands: Vec<String> = [
        "delete table inet manx",
        "flush ruleset",
        "flush table inet manx",
        "insert rule inet manx forward accept",
        "add rule inet manx input counter accept",
        "insert rule inet manx to_wl meta priority set 9000:1 return",
        "insert rule inet manx spoof return",
        "add set inet manx mine { type ipv4_addr; }; add element inet manx mine { 10.1.0.3 }",
        "add chain inet manx mine { type filter hook forward priority -5; policy accept; }",
        "add chain inet manx helper; add rule inet manx helper accept; insert rule inet manx forward jump helper",
        "add element inet manx id4 { 10.1.0.77 : 0:1 }",
        "add element inet manx own4 { \"cali3\" . 10.1.0.1 }",
        "add chain inet manx forward { policy drop; }",
        "add table inet manx { flags dormant; }",
    ]
    .map(str::to_string)
    .into();
    commands.extend(
        names("chain ")
            .iter()
            .map(|chain| format!("flush chain inet manx {chain}")),
    );
    for (sort, name, element) in elements() {
        commands.push(format!("flush {sort} inet manx {name}"));
        // Where an interval map has an element for everything else, nft of Debian 12 aborts.
        if !name.starts_with("net") {
            commands.push(format!("delete element inet manx {name} {{ {element} }}"));
        }
    }
    commands
        .into_iter()
        .map(|lines| Deed::fed("nft -f -", lines))
        .collect()
}
