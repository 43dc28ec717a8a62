//! Invents what happens next in a world, in the order that the wall promises.

use super::{Dice, Flow, Kind, World};
use dataplane_api::{
    AtomId, AtomScope, EndpointId, Member, Policy, PolicyId, PortKey, TierPolicies, Update, WorkloadEndpoint,
};
use policy_model::{Action, DefaultAction, Icmp, PortRange, Protocol};
use policy_model_rules::{IpVersion, PolicyKind, PortMatch, Rule, Side};
use policy_model_selector::Selector;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

const PROTOCOLS: [u8; 6] = [6, 17, 132, 1, 58, 47];
const PORTS: [u16; 10] = [0, 1, 79, 80, 81, 443, 8000, 8017, 9000, 65_535];

/// What a set is for: its members are of one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Nets,
    Ports,
}

impl World {
    /// One flush: something happens, or several things.
    pub(crate) fn happen(&mut self, dice: &mut Dice) -> Vec<Update> {
        let before = self.clone();
        let things = match self.kind {
            Kind::Rich => 1 + dice.roll(4),
            Kind::Dense => 1 + dice.roll(2),
        };
        for _ in 0..things {
            match dice.roll(10) {
                0..=3 => self.move_members(dice),
                4..=5 => self.change_policy(dice),
                6..=8 => self.change_endpoint(dice),
                _ => self.clear_up(dice),
            }
        }
        self.since(&before)
    }

    /// A world to begin with.
    pub(crate) fn begin(&mut self, dice: &mut Dice) -> Vec<Update> {
        let before = self.clone();
        for _ in 0..4 {
            self.change_policy(dice);
        }
        for _ in 0..4 {
            self.change_endpoint(dice);
        }
        self.move_members(dice);
        self.since(&before)
    }

    fn move_members(&mut self, dice: &mut Dice) {
        let atoms: Vec<AtomId> = self.atoms.keys().copied().collect();
        if atoms.is_empty() {
            return;
        }
        // A label that changes moves one address out of some sets and into others.
        let peer = dice.chance(70).then(|| Member::Net(self.net(dice)));
        for _ in 0..1 + dice.roll(3) {
            let atom = *dice.pick(&atoms);
            let (scope, members) = self.atoms[&atom].clone();
            let form = form_of(&members);
            let member = match peer {
                Some(peer) if form != Form::Ports => peer,
                _ => self.member(scope, form, dice),
            };
            let (added, removed) = if members.contains(&member) {
                (Vec::new(), vec![member])
            } else {
                (vec![member], Vec::new())
            };
            self.take_in(&Update::Members { atom, added, removed });
        }
    }

    fn net(&self, dice: &mut Dice) -> ipnet::IpNet {
        let text = match self.kind {
            Kind::Dense => [
                "10.0.0.1/32",
                "10.0.0.2/32",
                "10.0.0.3/32",
                "10.0.0.0/30",
                "0.0.0.0/0",
                "fd00::1/128",
            ][dice.roll(6)],
            Kind::Rich => [
                "10.0.0.1/32",
                "10.0.0.2/32",
                "10.0.0.3/32",
                "10.0.0.9/32",
                "0.0.0.0/32",
                "255.255.255.255/32",
                "0.0.0.0/0",
                "10.0.0.0/8",
                "10.0.0.0/30",
                "128.0.0.0/1",
                "fd00::1/128",
                "fd00::2/128",
                "fd00::9/128",
                "::/0",
                "fd00::/64",
                "fd00::/126",
            ][dice.roll(16)],
        };
        text.parse().expect("a network")
    }

    fn member(&self, scope: AtomScope, form: Form, dice: &mut Dice) -> Member {
        let net = loop {
            let net = self.net(dice);
            if scope == AtomScope::Peer && form == Form::Nets || net.prefix_len() == net.max_prefix_len() {
                break net;
            }
        };
        if form == Form::Nets || dice.chance(10) {
            return Member::Net(net);
        }
        let protocol = *dice.pick(&[Protocol::TCP, Protocol::UDP]);
        let port = *dice.pick(&PORTS);
        Member::Port(net.addr(), PortKey { protocol, port })
    }

    fn atom(&mut self, scope: AtomScope, form: Form, dice: &mut Dice) -> AtomId {
        let fits = |(_, (s, members)): &(&AtomId, &(AtomScope, BTreeSet<Member>))| {
            *s == scope && !members.is_empty() && form_of(members) == form
        };
        let known: Vec<AtomId> = self.atoms.iter().filter(fits).map(|(a, _)| *a).collect();
        let most = if self.kind == Kind::Dense { 3 } else { 5 };
        if !known.is_empty() && (known.len() >= most || dice.chance(60)) {
            return *dice.pick(&known);
        }
        let atom = AtomId(self.next_atom);
        self.next_atom += 1;
        self.take_in(&Update::AtomCreated { atom, scope });
        let mut members: BTreeSet<Member> = BTreeSet::new();
        // The first member shows the form.
        while form == Form::Ports && !members.iter().any(|m| matches!(m, Member::Port(..)))
            || members.is_empty()
        {
            members.insert(self.member(scope, form, dice));
        }
        for _ in 0..dice.roll(4) {
            members.insert(self.member(scope, form, dice));
        }
        let added = members.into_iter().collect();
        let removed = Vec::new();
        self.take_in(&Update::Members { atom, added, removed });
        atom
    }

    fn side(&mut self, own: bool, with_ports: bool, dice: &mut Dice) -> Side<AtomId> {
        let scope = if own { AtomScope::Own } else { AtomScope::Peer };
        let mut side = Side::default();
        let often = if own { 12 } else { 60 };
        if dice.chance(often) {
            side.sets.push(self.atom(scope, Form::Nets, dice));
        }
        if dice.chance(often / 4) {
            side.sets.push(self.atom(scope, Form::Nets, dice));
        }
        if dice.chance(often / 4) {
            side.not_sets.push(self.atom(scope, Form::Nets, dice));
        }
        if with_ports && dice.chance(50) {
            side.ports = Some(self.ports(scope, dice));
        }
        if with_ports && dice.chance(15) {
            side.not_ports = Some(self.ports(scope, dice));
        }
        side
    }

    fn ports(&mut self, scope: AtomScope, dice: &mut Dice) -> Box<PortMatch<AtomId>> {
        let mut edges = [*dice.pick(&PORTS), *dice.pick(&PORTS)];
        edges.sort_unstable();
        let range = if dice.chance(60) {
            PortRange::single(edges[0])
        } else {
            PortRange::new(edges[0], edges[1]).expect("sorted")
        };
        let named = if dice.chance(25) {
            vec![self.atom(scope, Form::Ports, dice)]
        } else {
            Vec::new()
        };
        let ranges = if named.is_empty() || dice.chance(40) {
            vec![range]
        } else {
            Vec::new()
        };
        Box::new(PortMatch { ranges, named })
    }

    fn rule(&mut self, index: usize, ingress: bool, dice: &mut Dice) -> Rule<AtomId> {
        let action = match dice.roll(20) {
            0..=10 => Action::Allow,
            11..=15 => Action::Deny,
            16..=18 => Action::Pass,
            _ => Action::Log,
        };
        let dense = self.kind == Kind::Dense;
        let any_protocol = |dice: &mut Dice| Protocol::from_number(*dice.pick(&PROTOCOLS));
        let protocol = match dense {
            true => dice.chance(40).then_some(Protocol::TCP),
            false => dice.chance(70).then(|| any_protocol(dice)),
        };
        let with_ports = !dense || protocol.is_some();
        let icmp = |dice: &mut Dice| Icmp {
            icmp_type: Some(*dice.pick(&[0, 3, 8, 254])),
            code: dice.chance(50).then_some(1),
        };
        Rule {
            action,
            index,
            ip_version: dice
                .chance(if dense { 5 } else { 15 })
                .then(|| *dice.pick(&[IpVersion::V4, IpVersion::V6])),
            protocol,
            not_protocol: (!dense && dice.chance(15)).then(|| any_protocol(dice)),
            icmp: (!dense && dice.chance(10)).then(|| icmp(dice)),
            not_icmp: (!dense && dice.chance(10)).then(|| icmp(dice)),
            source: self.side(!ingress, with_ports && ingress != dice.chance(80), dice),
            destination: self.side(ingress, with_ports, dice),
        }
    }

    fn change_policy(&mut self, dice: &mut Dice) {
        let most = if self.kind == Kind::Dense { 4 } else { 8 };
        let name = format!("p{}", dice.roll(most));
        let id = if dice.chance(20) {
            PolicyId::profile(&name)
        } else {
            PolicyId::namespaced("ns", &name)
        };
        let longest = if self.kind == Kind::Dense { 2 } else { 5 };
        let rules = |world: &mut World, ingress: bool, dice: &mut Dice| {
            (0..dice.roll(longest + 1))
                .map(|n| world.rule(n, ingress, dice))
                .collect()
        };
        let ingress = rules(self, true, dice);
        let egress = rules(self, false, dice);
        let policy = Policy {
            id,
            tier: "default".into(),
            order: None,
            selector: Selector::all(),
            applies_ingress: true,
            applies_egress: true,
            ingress,
            egress,
        };
        self.take_in(&Update::Policy(Arc::new(policy)));
    }

    fn change_endpoint(&mut self, dice: &mut Dice) {
        let most = if self.kind == Kind::Dense { 4 } else { 6 };
        let n = dice.roll(most);
        let id = EndpointId {
            namespace: "ns".into(),
            name: format!("pod{n}").as_str().into(),
        };
        if self.endpoints.contains_key(&id) && dice.chance(20) {
            self.take_in(&Update::WorkloadRemoved(id));
            return;
        }
        let known: Vec<PolicyId> = self.policies.keys().cloned().collect();
        let of = |kind: PolicyKind| -> Vec<PolicyId> {
            known.iter().filter(|p| p.kind == kind).cloned().collect()
        };
        let (policies, profiles) = (of(PolicyKind::Namespaced), of(PolicyKind::Profile));
        let tiers = |dice: &mut Dice| -> Vec<TierPolicies> {
            let mut out = Vec::new();
            for name in ["security", "default"] {
                let mut list: Vec<PolicyId> = policies.iter().filter(|_| dice.chance(40)).cloned().collect();
                if dice.chance(2) {
                    list.push(PolicyId::global("never-sent"));
                }
                if !list.is_empty() {
                    let default_action =
                        *dice.pick(&[DefaultAction::Deny, DefaultAction::Deny, DefaultAction::Pass]);
                    out.push(TierPolicies {
                        tier: name.into(),
                        default_action,
                        policies: list,
                    });
                }
            }
            out
        };
        let mut addresses: Vec<IpAddr> = vec![format!("10.0.0.{}", n + 1).parse().expect("an address")];
        if n % 3 != 2 {
            addresses.push(format!("fd00::{}", n + 1).parse().expect("an address"));
        }
        let interface = if dice.chance(95) {
            format!("cali{n}")
        } else {
            format!("calx{n}")
        };
        let endpoint = WorkloadEndpoint {
            id,
            interface,
            mac: None,
            addresses,
            spoofable: Vec::new(),
            ingress: tiers(dice),
            egress: tiers(dice),
            profiles: profiles.into_iter().filter(|_| dice.chance(60)).collect(),
        };
        self.take_in(&Update::Workload(Arc::new(endpoint)));
    }

    /// What nothing refers to goes, as the brain would have it.
    fn clear_up(&mut self, dice: &mut Dice) {
        let named: BTreeSet<PolicyId> = self
            .endpoints
            .values()
            .flat_map(|e| {
                let tiers = e.ingress.iter().chain(&e.egress).flat_map(|t| &t.policies);
                tiers.chain(&e.profiles).cloned().collect::<Vec<_>>()
            })
            .collect();
        let unnamed: Vec<PolicyId> = self
            .policies
            .keys()
            .filter(|p| !named.contains(p))
            .cloned()
            .collect();
        for id in unnamed {
            if dice.chance(50) {
                self.take_in(&Update::PolicyRemoved(id));
            }
        }
        let mut used: BTreeSet<AtomId> = BTreeSet::new();
        for policy in self.policies.values() {
            for rule in policy.ingress.iter().chain(&policy.egress) {
                used.extend(rule.source.all_sets().chain(rule.destination.all_sets()));
            }
        }
        let unused: Vec<AtomId> = self.atoms.keys().filter(|a| !used.contains(a)).copied().collect();
        for atom in unused {
            if dice.chance(70) {
                self.take_in(&Update::AtomRemoved(atom));
            }
        }
    }

    /// Flows worth asking for.
    pub(crate) fn flows(&self, dice: &mut Dice, count: usize) -> Vec<Flow> {
        let addresses = self.addresses();
        let flow = |dice: &mut Dice| {
            let protocol = Protocol::from_number(*dice.pick(&PROTOCOLS));
            let (x, y) = if protocol.is_icmp() {
                (*dice.pick(&[0, 3, 8, 254, 255]), *dice.pick(&[0, 1, 2]))
            } else if protocol.has_ports() {
                (*dice.pick(&PORTS), *dice.pick(&PORTS))
            } else {
                (0, 0)
            };
            Flow {
                peer: *dice.pick(&addresses),
                protocol,
                x,
                y,
            }
        };
        (0..count).map(|_| flow(dice)).collect()
    }
}

fn form_of(members: &BTreeSet<Member>) -> Form {
    if members.iter().any(|m| matches!(m, Member::Port(..))) {
        Form::Ports
    } else {
        Form::Nets
    }
}
