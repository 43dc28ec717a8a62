//! The recommended layout (`tests/golden/layout.nft`), said in our own words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_nftables::wire::{
    Batch, Chain, CtKey, Datatype, Element, Expr, Family, Hook, KeyType, Limit, Log, MetaKey, OnHit,
    Register, Rule, Set, SetData, SetRef, Source, Table, Value, Verdict, concat, ct_state, drop_counted,
    icmp_type, icmpv6_type, inline, interface_starts_with, only_family, priority, set_priority,
    set_priority_from_map, vmap,
};

const TABLE: &str = "manx";
const ALLOW: u32 = 0x9000_0001;
const DENY: u32 = 0x9000_0002;
const ROW_LOG: u32 = 0x9000_0003;
const CLASS: Source = Source::Meta(MetaKey::Priority);
const PROTOCOL: Source = Source::Meta(MetaKey::L4Protocol);

/// The whole layout as one batch, in the order in which the nft program writes it: table, chains, sets with their elements, rules.
pub(crate) fn batch() -> Batch {
    let mut batch = Batch::new(Family::Inet);
    batch.table(&Table::new(TABLE));
    chains(&mut batch);
    maps(&mut batch);
    rules(&mut batch);
    batch
}

fn chains(batch: &mut Batch) {
    for name in [
        "in_1",
        "in_2",
        "in_3",
        "out_4",
        "would_deny",
        "row_3",
        "row_4",
        "log_3",
        "to_wl",
        "from_wl",
        "spoof",
    ] {
        batch.chain(&Chain::regular(TABLE, name));
    }
    batch.chain(&Chain::filter(
        TABLE,
        "prerouting",
        Hook::Prerouting,
        priority::RAW,
    ));
    batch.chain(&Chain::filter(TABLE, "forward", Hook::Forward, priority::FILTER));
}

fn v4(text: &str) -> Value {
    Value::ipv4(text.parse::<Ipv4Addr>().unwrap())
}

fn v6(text: &str) -> Value {
    Value::ipv6(text.parse::<Ipv6Addr>().unwrap())
}

fn put(batch: &mut Batch, set: Set<'_>, elements: Vec<Element>) {
    let id = batch.set(&set);
    let set = SetRef {
        table: set.table,
        name: set.name,
        id: Some(id),
        keys: set.keys(),
    };
    batch.elements(&set, elements);
}

fn classes(pairs: &[(u32, u32)], otherwise: Option<u32>) -> Vec<Element> {
    let pair = |&(key, data): &(u32, u32)| Element::value(Value::host32(key)).to(Value::host32(data));
    let otherwise = otherwise.map(|data| Element::any().to(Value::host32(data)));
    pairs.iter().map(pair).chain(otherwise).collect()
}

fn maps(batch: &mut Batch) {
    let class = || SetData::value(Datatype::Classid);
    let jump =
        |key: &str, chain: &str| Element::value(Value::interface(key)).verdict(Verdict::Jump(chain.into()));
    let names = Set::new(TABLE, "wl_in", Datatype::InterfaceName).to(SetData::Verdict);
    put(
        batch,
        names,
        vec![
            jump("cali0", "in_1"),
            jump("cali1", "in_2"),
            jump("cali2", "in_3"),
        ],
    );
    let names = Set::new(TABLE, "wl_out", Datatype::InterfaceName).to(SetData::Verdict);
    put(
        batch,
        names,
        vec![
            jump("cali0", "out_4"),
            jump("cali1", "out_4"),
            jump("cali2", "out_4"),
        ],
    );

    let own = |name: &str, address: Value| Element::value(Value::interface(name).and(address));
    let key = KeyType::concat([Datatype::InterfaceName, Datatype::Ipv4]);
    let pods = [
        ("cali0", "10.1.0.1"),
        ("cali1", "10.1.0.2"),
        ("cali2", "10.1.0.3"),
    ];
    let elements = pods.map(|(name, address)| own(name, v4(address))).to_vec();
    put(batch, Set::new(TABLE, "own4", key).sized(8192), elements);
    let key = KeyType::concat([Datatype::InterfaceName, Datatype::Ipv6]);
    let pods = [
        ("cali0", "fd00:1::1"),
        ("cali1", "fd00:1::2"),
        ("cali2", "fd00:1::3"),
    ];
    let elements = pods.map(|(name, address)| own(name, v6(address))).to_vec();
    put(batch, Set::new(TABLE, "own6", key).sized(8192), elements);

    let id = |address: Value, class: u32| Element::value(address).to(Value::host32(class));
    let ids4 = [
        ("10.2.0.5", 0x10),
        ("10.2.0.9", 0x11),
        ("10.1.0.1", 0x12),
        ("10.1.0.2", 0x12),
    ];
    let elements = ids4.map(|(address, class)| id(v4(address), class)).to_vec();
    put(
        batch,
        Set::new(TABLE, "id4", Datatype::Ipv4).to(class()).sized(65536),
        elements,
    );
    let ids6 = [
        ("fd00:2::5", 0x10),
        ("fd00:2::9", 0x11),
        ("fd00:1::1", 0x12),
        ("fd00:1::2", 0x12),
    ];
    let elements = ids6.map(|(address, class)| id(v6(address), class)).to_vec();
    put(
        batch,
        Set::new(TABLE, "id6", Datatype::Ipv6).to(class()).sized(65536),
        elements,
    );

    let net = |first: Value, last: Value, class: u32| Element::range(first, last).to(Value::host32(class));
    let nets = vec![
        net(v4("172.16.0.0"), v4("172.16.4.255"), 0x20),
        net(v4("172.16.6.0"), v4("172.16.255.255"), 0x20),
        Element::any().to(Value::host32(0)),
    ];
    put(
        batch,
        Set::new(TABLE, "net4", Datatype::Ipv4).to(class()).of_intervals(),
        nets,
    );
    let nets = vec![
        net(
            v6("2001:db8::"),
            v6("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            0x20,
        ),
        Element::any().to(Value::host32(1)),
    ];
    put(
        batch,
        Set::new(TABLE, "net6", Datatype::Ipv6).to(class()).of_intervals(),
        nets,
    );

    let group = |name: &'static str| Set::new(TABLE, name, Datatype::Classid).to(class()).sized(2048);
    let peers = [(0x10, 0x8000_0001), (0x11, ROW_LOG), (0x20, 0x8000_0003)];
    put(batch, group("in_1"), classes(&peers, Some(DENY)));
    let peers = [(0x10, 0x8000_0002), (0x11, ROW_LOG), (0x20, 0x8000_0003)];
    put(batch, group("in_2"), classes(&peers, Some(DENY)));
    put(
        batch,
        group("in_3"),
        classes(&[(0x11, ROW_LOG), (0x12, 0x8000_0004)], Some(DENY)),
    );
    put(batch, group("out_4"), classes(&[], Some(ALLOW)));

    let to_chain = |class: u32, verdict: Verdict| Element::value(Value::host32(class)).verdict(verdict);
    let staged = Set::new(TABLE, "staged_3", Datatype::Classid).to(SetData::Verdict);
    put(
        batch,
        staged,
        vec![to_chain(0x12, Verdict::Goto("would_deny".into()))],
    );

    let key = KeyType::concat([Datatype::Classid, Datatype::Protocol, Datatype::Port]);
    let port = |row: u32, protocol: u8, port: u16| {
        Element::value(
            Value::host32(row)
                .and(Value::byte(protocol))
                .and(Value::port(port)),
        )
        .to(Value::host32(ALLOW))
    };
    let ports = Set::new(TABLE, "ports", key).to(class()).sized(65536);
    put(
        batch,
        ports,
        vec![port(0x8000_0001, 6, 8080), port(0x8000_0002, 6, 9090)],
    );
    let key = KeyType::concat([Datatype::Classid, Datatype::Protocol]);
    let protocol = |protocol: u8| {
        Element::value(Value::host32(0x8000_0004).and(Value::byte(protocol))).to(Value::host32(ALLOW))
    };
    let protocols = Set::new(TABLE, "protos", key).to(class()).sized(16384);
    put(batch, protocols, vec![protocol(6), protocol(17), protocol(132)]);
    let rows = Set::new(TABLE, "rows", Datatype::Classid).to(SetData::Verdict);
    let row = |class, chain: &str| to_chain(class, Verdict::Jump(chain.into()));
    put(
        batch,
        rows,
        vec![
            row(0x8000_0003, "row_3"),
            row(0x8000_0004, "row_4"),
            row(ROW_LOG, "log_3"),
        ],
    );
}

fn rule(batch: &mut Batch, chain: &str, parts: &[&[Expr]]) {
    batch.rule(&Rule::new(TABLE, chain, &parts.concat()));
}

fn rules(batch: &mut Batch) {
    let drop = drop_counted();
    let from_group = |map: &str| set_priority_from_map([CLASS], map);
    rule(batch, "in_1", &[&from_group("in_1")]);
    rule(batch, "in_2", &[&from_group("in_2")]);
    rule(batch, "in_3", &[&vmap([CLASS], "staged_3")]);
    rule(batch, "in_3", &[&from_group("in_3")]);
    rule(batch, "out_4", &[&from_group("out_4")]);
    rule(
        batch,
        "would_deny",
        &[&[
            Expr::counter(),
            Expr::Log(Log::to_group(7, "manx would-deny staged:db/no-web ")),
        ]],
    );
    rule(batch, "would_deny", &[&from_group("in_3")]);
    row_with_ranges(batch);
    rule(batch, "row_4", &[&icmp_type(8), &set_priority(ALLOW)]);
    rule(batch, "row_4", &[&icmpv6_type(128), &set_priority(ALLOW)]);
    let log = Expr::Log(Log::to_group(7, "manx deny admin/bad "));
    rule(
        batch,
        "log_3",
        &[&[Expr::Limit(Limit::packets_per_second(100)), log]],
    );
    way(batch, "to_wl", true, MetaKey::OutInterfaceName, "wl_in");
    way(batch, "from_wl", false, MetaKey::InInterfaceName, "wl_out");
    spoof(batch);
    forward(batch, &drop);
}

fn row_with_ranges(batch: &mut Batch) {
    let key = KeyType::concat([Datatype::Protocol, Datatype::Port]);
    let map = Set::new(TABLE, "", key)
        .to(SetData::value(Datatype::Classid))
        .of_intervals()
        .sized(2);
    let ports = |protocol: u8, first, last| {
        let end = |port| Value::byte(protocol).and(Value::port(port));
        Element::range(end(first), end(last)).to(Value::host32(ALLOW))
    };
    let id = batch.anonymous(&map, [ports(6, 8000, 9000), ports(17, 53, 53)]);
    let load: Vec<Expr> = concat([PROTOCOL, Source::DestinationPort]).collect();
    let set = [
        inline(&map, id, OnHit::Load(Register::FIRST)),
        Expr::set_meta(MetaKey::Priority),
    ];
    rule(batch, "row_3", &[&load, &set]);
}

fn way(batch: &mut Batch, chain: &str, source: bool, interface: MetaKey, dispatch: &str) {
    for (family, net, id) in [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), "net4", "id4"),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), "net6", "id6"),
    ] {
        for map in [net, id] {
            let address = Source::address(family, source);
            rule(
                batch,
                chain,
                &[&only_family(family), &set_priority_from_map([address], map)],
            );
        }
    }
    rule(batch, chain, &[&vmap([Source::Meta(interface)], dispatch)]);
    rule(
        batch,
        chain,
        &[&set_priority_from_map(
            [CLASS, PROTOCOL, Source::DestinationPort],
            "ports",
        )],
    );
    rule(batch, chain, &[&vmap([CLASS], "rows")]);
    rule(
        batch,
        chain,
        &[&set_priority_from_map([CLASS, PROTOCOL], "protos")],
    );
}

fn spoof(batch: &mut Batch) {
    for (family, set) in [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), "own4"),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), "own6"),
    ] {
        let own = [
            Source::Meta(MetaKey::InInterfaceName),
            Source::address(family, true),
        ];
        let load: Vec<Expr> = concat(own).collect();
        let end = [Expr::lookup(set, OnHit::Match), Expr::Verdict(Verdict::Return)];
        rule(batch, "spoof", &[&only_family(family), &load, &end]);
    }
    rule(batch, "spoof", &[&drop_counted()]);
    rule(
        batch,
        "prerouting",
        &[
            &interface_starts_with(MetaKey::InInterfaceName, "cali"),
            &[Expr::jump("spoof")],
        ],
    );
}

fn forward(batch: &mut Batch, drop: &[Expr]) {
    let map = Set::new(TABLE, "", Datatype::CtState)
        .to(SetData::Verdict)
        .sized(3);
    let state = |state: u32, verdict| Element::value(Value::host32(state)).verdict(verdict);
    let id = batch.anonymous(
        &map,
        [
            state(ct_state::ESTABLISHED, Verdict::Accept),
            state(ct_state::RELATED, Verdict::Accept),
            state(ct_state::INVALID, Verdict::Drop),
        ],
    );
    rule(
        batch,
        "forward",
        &[&[Expr::ct(CtKey::State), inline(&map, id, OnHit::Verdict)]],
    );
    rule(batch, "forward", &[&set_priority(0)]);
    for (key, chain) in [
        (MetaKey::InInterfaceName, "from_wl"),
        (MetaKey::OutInterfaceName, "to_wl"),
    ] {
        let workload = interface_starts_with(key, "cali");
        rule(batch, "forward", &[&workload, &[Expr::jump(chain)]]);
        let not_allowed = [Expr::meta(MetaKey::Priority), Expr::differs(Value::host32(ALLOW))];
        rule(batch, "forward", &[&workload, &not_allowed, drop]);
    }
    rule(batch, "forward", &[&set_priority(0)]);
}
