//! What nf_tables and rtnetlink of this kernel can do: tried in a network namespace that vanishes.
//!
//! Versions say too little, because distributions carry features back and leave modules out. Each feature is one small
//! transaction, so that the one that is refused has a name.

use super::{Finding, Severity, chain};
use dataplane_netlink::links::{VethEnd, create_veth};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink};
use dataplane_nftables::socket::{Link, TransactError};
use dataplane_nftables::wire::{
    BaseChain, Batch, Chain, ChainType, CtKey, Datatype, Element, Expr, Family, Fib, FibResult, Hook,
    KeyType, MetaKey, Nat, NatKind, NatRange, OnHit, Policy, Register, Rule, Set, SetData, SetRef, Source,
    Table, TableFlags, Value, Verdict, concat, ct_state, drop_counted, fib_flag, only_family, priority,
    set_priority_from_map, vmap,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

/// What the finding about nf_tables is called.
pub(super) const NF_TABLES: &str = "nf_tables";
const TABLE: &str = "probe";
const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Linux that has tables which are owned and persist.
const OWNED_SINCE: &str = "6.9";

/// Something that is wanted of nf_tables: what it is called, and what needs it.
type Feature = (&'static str, fn(&mut Batch));

const WANTED: [Feature; 8] = [
    ("base chains in family inet", base_chains),
    ("maps to numbers with a value for all other keys", catch_all),
    ("maps with intervals", intervals),
    ("sets and maps with several fields in a key", several_fields),
    ("verdict maps", verdict_maps),
    ("setting a packet's priority from a map", priority_from_map),
    ("connection tracking in rules", connection_tracking),
    ("address translation by maps", translation),
];

/// The findings. Once everything was found to be there it is not tried again: a running kernel loses no features.
pub(super) fn findings() -> Vec<Finding> {
    static SUFFICIENT: OnceLock<Vec<Finding>> = OnceLock::new();
    if let Some(known) = SUFFICIENT.get() {
        return known.clone();
    }
    let findings = look();
    if findings.iter().all(|finding| finding.severity == Severity::Ok) {
        let _ = SUFFICIENT.set(findings.clone());
    }
    findings
}

fn look() -> Vec<Finding> {
    let tried = NetworkNamespace::anonymous().and_then(|namespace| namespace.run(try_all));
    tried.unwrap_or_else(|error| vec![Finding::unseen(NF_TABLES, chain(&error), "run it as root")])
}

/// Tries everything in the calling thread's network namespace.
fn try_all() -> Vec<Finding> {
    let mut findings = Vec::new();
    match Link::open() {
        Ok(mut link) => {
            findings.push(nf_tables(&mut link));
            findings.push(owned(&mut link));
        }
        Err(error) => findings.push(Finding::new(
            NF_TABLES,
            Severity::Fatal,
            format!("this kernel has no nf_tables: {}", chain(&error)),
            "modprobe nf_tables; a kernel without it must be built with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
        )),
    }
    findings.push(veth());
    findings
}

fn nf_tables(link: &mut Link) -> Finding {
    let name = NF_TABLES;
    let mut refused = Vec::new();
    for (feature, fill) in WANTED {
        match attempt(link, TableFlags::NONE, fill) {
            Ok(()) => {}
            Err(error @ TransactError::Refused { .. }) => refused.push(format!("{feature} ({error})")),
            // Nothing about the feature was said.
            Err(error) => return Finding::unseen(name, chain(&error), "run it as root"),
        }
    }
    if refused.is_empty() {
        return Finding::ok(name, "everything that policies need is there");
    }
    Finding::new(
        name,
        Severity::Fatal,
        format!("nf_tables of this kernel lacks: {}", refused.join("; ")),
        "load the modules nf_tables, nft_ct, nft_fib_inet, nft_nat and nft_masq (modprobe), install the distribution's extra kernel modules, or use a newer kernel",
    )
}

fn owned(link: &mut Link) -> Finding {
    let name = "owned-tables";
    match attempt(link, TableFlags::OWNER.and(TableFlags::PERSIST), |_| {}) {
        Ok(()) => Finding::ok(name, "other programs can be kept from writing to our table"),
        Err(TransactError::Refused { .. }) => Finding::ok(
            name,
            format!(
                "not in this kernel (Linux {OWNED_SINCE} has them): what others write to our table is noticed and mended"
            ),
        ),
        Err(error) => Finding::unseen(name, chain(&error), "run it as root"),
    }
}

fn attempt(link: &mut Link, flags: TableFlags, fill: impl Fn(&mut Batch)) -> Result<(), TransactError> {
    let mut batch = Batch::new(Family::Inet);
    batch.table(&Table {
        flags,
        ..Table::new(TABLE)
    });
    fill(&mut batch);
    link.transact(&mut batch)?;
    let mut removal = Batch::new(Family::Inet);
    removal.remove_table(TABLE);
    link.transact(&mut removal).map(|_| ())
}

fn number() -> SetData {
    SetData::value(Datatype::Classid)
}

fn base_chains(batch: &mut Batch) {
    for (name, hook, priority) in [
        ("prerouting", Hook::Prerouting, priority::RAW),
        ("forward", Hook::Forward, priority::FILTER),
        ("input", Hook::Input, priority::FILTER),
    ] {
        batch.chain(&Chain::filter(TABLE, name, hook, priority));
        batch.rule(&Rule::new(TABLE, name, &drop_counted()));
    }
}

fn catch_all(batch: &mut Batch) {
    batch.set(&Set::new(TABLE, "m", Datatype::Classid).to(number()).sized(16));
    let elements = [
        Element::value(Value::host32(1)).to(Value::host32(2)),
        Element::any().to(Value::host32(3)),
    ];
    batch.elements(&SetRef::exact(TABLE, "m"), elements);
}

fn intervals(batch: &mut Batch) {
    let address = |last: u8| Value::ipv4(Ipv4Addr::new(192, 0, 2, last));
    batch.set(&Set::new(TABLE, "m4", Datatype::Ipv4).to(number()).of_intervals());
    let elements = [
        Element::range(address(1), address(9)).to(Value::host32(1)),
        Element::any().to(Value::host32(2)),
    ];
    batch.elements(&SetRef::interval(TABLE, "m4"), elements);
    batch.set(&Set::new(TABLE, "m6", Datatype::Ipv6).to(number()).of_intervals());
    let (first, last) = (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9),
    );
    let element = Element::range(Value::ipv6(first), Value::ipv6(last)).to(Value::host32(1));
    batch.elements(&SetRef::interval(TABLE, "m6"), [element]);
}

fn several_fields(batch: &mut Batch) {
    let own = KeyType::concat([Datatype::InterfaceName, Datatype::Ipv4]);
    batch.set(&Set::new(TABLE, "own", own).sized(16));
    let key = Value::interface("cali0").and(Value::ipv4(Ipv4Addr::new(192, 0, 2, 1)));
    batch.elements(&SetRef::exact(TABLE, "own"), [Element::value(key)]);
    let ports = KeyType::concat([Datatype::Classid, Datatype::Protocol, Datatype::Port]);
    batch.set(&Set::new(TABLE, "ports", ports).to(number()).sized(16));
    let key = Value::host32(1).and(Value::byte(6)).and(Value::port(80));
    batch.elements(
        &SetRef::exact(TABLE, "ports"),
        [Element::value(key).to(Value::host32(1))],
    );
    batch.chain(&Chain::regular(TABLE, "c"));
    let name = Source::Meta(MetaKey::InInterfaceName);
    let mut rule = only_family(V4).to_vec();
    rule.extend(concat([name, Source::address(V4, true)]));
    rule.push(Expr::lookup("own", OnHit::Match));
    batch.rule(&Rule::new(TABLE, "c", &rule));
}

fn verdict_maps(batch: &mut Batch) {
    batch.chain(&Chain::regular(TABLE, "to"));
    batch.chain(&Chain::regular(TABLE, "c"));
    batch.set(&Set::new(TABLE, "v", Datatype::InterfaceName).to(SetData::Verdict));
    let element = Element::value(Value::interface("cali0")).verdict(Verdict::Jump("to".into()));
    batch.elements(&SetRef::exact(TABLE, "v"), [element]);
    batch.rule(&Rule::new(
        TABLE,
        "c",
        &vmap([Source::Meta(MetaKey::OutInterfaceName)], "v"),
    ));
}

fn priority_from_map(batch: &mut Batch) {
    batch.set(&Set::new(TABLE, "m", Datatype::Classid).to(number()).sized(16));
    batch.chain(&Chain::regular(TABLE, "c"));
    let rule = set_priority_from_map([Source::Meta(MetaKey::Priority)], "m");
    batch.rule(&Rule::new(TABLE, "c", &rule));
}

fn connection_tracking(batch: &mut Batch) {
    batch.chain(&Chain::filter(TABLE, "forward", Hook::Forward, priority::FILTER));
    let rule = [
        Expr::ct(CtKey::State),
        Expr::differs(Value::host32(ct_state::INVALID)),
        Expr::Verdict(Verdict::Accept),
    ];
    batch.rule(&Rule::new(TABLE, "forward", &rule));
}

/// What ports of the node need: a new destination from a map, for packets to this host, and the host's own address as
/// source.
fn translation(batch: &mut Batch) {
    let port = KeyType::concat([Datatype::Protocol, Datatype::Port]);
    let to = SetData::Value(KeyType::concat([Datatype::Ipv4, Datatype::Port]));
    batch.set(&Set::new(TABLE, "ports", port).to(to));
    let chain = |hook, priority| BaseChain {
        chain_type: ChainType::Nat,
        hook,
        priority,
        policy: Policy::Accept,
    };
    let mut rule = vec![
        Expr::Fib(Fib {
            result: FibResult::AddressType,
            flags: fib_flag::DADDR,
            to: Register::FIRST,
        }),
        Expr::equals(Value::host32(2)),
    ];
    rule.extend(concat([
        Source::Meta(MetaKey::L4Protocol),
        Source::DestinationPort,
    ]));
    let range = |first| Some(NatRange { first, last: None });
    rule.extend([
        Expr::lookup("ports", OnHit::Load(Register::FIRST)),
        Expr::Nat(Nat {
            kind: NatKind::Destination,
            family: 2,
            address: range(Register::FIRST),
            port: range(Register::word(1)),
            flags: 0,
        }),
    ]);
    let (flags, ports) = (0, None);
    let masquerade = vec![Expr::Masquerade { flags, ports }];
    for (name, base, rule) in [
        ("output", chain(Hook::Output, priority::DSTNAT), rule),
        (
            "postrouting",
            chain(Hook::Postrouting, priority::SRCNAT),
            masquerade,
        ),
    ] {
        batch.chain(&Chain {
            base: Some(base),
            ..Chain::regular(TABLE, name)
        });
        batch.rule(&Rule::new(TABLE, name, &rule));
    }
}

/// Whether pairs of virtual interfaces can be made.
fn veth() -> Finding {
    let name = "veth";
    let end = |name: &str| {
        let name = InterfaceName::new(name).map_err(|error| chain(&error))?;
        Ok::<VethEnd, String>(VethEnd { name, mac: None })
    };
    let made = || -> Result<(), String> {
        let here = NetworkNamespace::current().map_err(|error| chain(&error))?;
        let mut netlink = Rtnetlink::open().map_err(|error| chain(&error))?;
        create_veth(&mut netlink, &end("probe0")?, &end("probe1")?, &here, 1500)
            .map_err(|error| chain(&error))
    };
    match made() {
        Ok(()) => Finding::ok(name, "pairs of virtual interfaces can be made"),
        Err(error) => Finding::new(
            name,
            Severity::Fatal,
            format!("no pair of virtual interfaces can be made: {error}"),
            "modprobe veth, or install the distribution's extra kernel modules",
        ),
    }
}
