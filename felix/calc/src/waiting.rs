//! The rules of a policy that nobody needs yet, in as few bytes as can be.
//!
//! Most policies of a cluster wait on a node for good: none of its endpoints is selected. A rule as the language has it
//! takes some hundred bytes, nearly all of them for what it does not say; here it takes about twenty, and its selectors,
//! which policies have in common, stand beside it. Both directions of the translation name every field, so that none is
//! forgotten.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_model::{Icmp, PortRange, Protocol};
use policy_model_rules::{AddressSet, IpVersion, PortMatch, Rule, RuleAction, Side};
use policy_model_selector::Selector;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Rules of both directions: to the endpoint, and from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub(crate) ingress: Vec<Rule<AddressSet>>,
    pub(crate) egress: Vec<Rule<AddressSet>>,
}

/// Rules that wait.
pub(crate) struct Waiting {
    bytes: Box<[u8]>,
    /// The selectors that the bytes mean by their places.
    selectors: Box<[Selector]>,
}

impl Waiting {
    /// Has rules wait. `share` gives the selector to keep in the place of an equal one.
    pub(crate) fn new(rules: &Rules, share: impl FnMut(&Selector) -> Selector) -> Self {
        let mut writer = Writer {
            bytes: Vec::new(),
            selectors: Vec::new(),
            share,
        };
        let Rules { ingress, egress } = rules;
        for list in [ingress, egress] {
            writer.number(list.len() as u64);
            list.iter().for_each(|rule| writer.rule(rule));
        }
        Waiting {
            bytes: writer.bytes.into(),
            selectors: writer.selectors.into(),
        }
    }

    /// The rules again.
    ///
    /// The bytes are always our own. If they could not be read, there would be no rule, which allows nothing.
    pub(crate) fn rules(&self) -> Rules {
        let mut reader = Reader {
            rest: &self.bytes,
            selectors: &self.selectors,
        };
        let mut list = || {
            let count = reader.number()?;
            (0..count).map(|_| reader.rule()).collect::<Option<Vec<_>>>()
        };
        match (list(), list()) {
            (Some(ingress), Some(egress)) => Rules { ingress, egress },
            _ => Rules::default(),
        }
    }
}

const SELECTED: u8 = 0;
const NETS: u8 = 1;
const NAMED_PORT: u8 = 2;
const SERVICE: u8 = 3;
const SERVICE_WITH_PORTS: u8 = 4;

struct Writer<S> {
    bytes: Vec<u8>,
    selectors: Vec<Selector>,
    share: S,
}

impl<S: FnMut(&Selector) -> Selector> Writer<S> {
    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Seven bits a byte, the lowest first; all but the last byte have the highest bit.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn maybe(&mut self, byte: Option<u8>) {
        self.byte(byte.is_some().into());
        self.bytes.extend(byte);
    }

    fn selector(&mut self, selector: &Selector) {
        let place = match self.selectors.iter().position(|known| known == selector) {
            Some(place) => place,
            None => {
                let kept = (self.share)(selector);
                self.selectors.push(kept);
                self.selectors.len() - 1
            }
        };
        self.number(place as u64);
    }

    fn rule(&mut self, rule: &Rule<AddressSet>) {
        let Rule {
            action,
            index,
            ip_version,
            protocol,
            not_protocol,
            icmp,
            not_icmp,
            source,
            destination,
        } = rule;
        self.byte(match action {
            RuleAction::Allow => 0,
            RuleAction::Deny => 1,
            RuleAction::Pass => 2,
            RuleAction::Log => 3,
        });
        self.number(*index as u64);
        self.byte(match ip_version {
            None => 0,
            Some(IpVersion::V4) => 4,
            Some(IpVersion::V6) => 6,
        });
        self.maybe(protocol.map(Protocol::number));
        self.maybe(not_protocol.map(Protocol::number));
        for icmp in [icmp, not_icmp] {
            self.byte(icmp.is_some().into());
            if let Some(Icmp { icmp_type, code }) = icmp {
                self.maybe(*icmp_type);
                self.maybe(*code);
            }
        }
        self.side(source);
        self.side(destination);
    }

    fn side(&mut self, side: &Side<AddressSet>) {
        let Side {
            sets,
            not_sets,
            ports,
            not_ports,
        } = side;
        self.sets(sets);
        self.sets(not_sets);
        for ports in [ports, not_ports] {
            self.byte(ports.is_some().into());
            if let Some(ports) = ports {
                let PortMatch { ranges, named } = &**ports;
                self.number(ranges.len() as u64);
                for range in ranges {
                    self.number(range.first().into());
                    self.number(range.last().into());
                }
                self.sets(named);
            }
        }
    }

    fn sets(&mut self, sets: &[AddressSet]) {
        self.number(sets.len() as u64);
        for set in sets {
            match set {
                AddressSet::Selected(selector) => {
                    self.byte(SELECTED);
                    self.selector(selector);
                }
                AddressSet::Nets(nets) => {
                    self.byte(NETS);
                    self.number(nets.len() as u64);
                    nets.iter().for_each(|net| self.net(net));
                }
                AddressSet::NamedPort {
                    selector,
                    name,
                    protocol,
                } => {
                    self.byte(NAMED_PORT);
                    self.selector(selector);
                    self.text(name);
                    self.byte(protocol.number());
                }
                AddressSet::Service {
                    namespace,
                    name,
                    with_ports,
                } => {
                    self.byte(if *with_ports { SERVICE_WITH_PORTS } else { SERVICE });
                    self.text(namespace);
                    self.text(name);
                }
            }
        }
    }

    fn net(&mut self, net: &IpNet) {
        match net {
            IpNet::V4(net) => {
                self.byte(4);
                self.bytes.extend(net.addr().octets());
            }
            IpNet::V6(net) => {
                self.byte(6);
                self.bytes.extend(net.addr().octets());
            }
        }
        self.byte(net.prefix_len());
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    selectors: &'a [Selector],
}

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Option<&[u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn length(&mut self) -> Option<usize> {
        self.number()?.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = self.length()?;
        std::str::from_utf8(self.bytes(length)?).ok().map(str::to_owned)
    }

    fn is_there(&mut self) -> Option<bool> {
        Some(self.byte()? != 0)
    }

    /// The outer option says whether it can be read.
    fn maybe(&mut self) -> Option<Option<u8>> {
        Some(if self.is_there()? {
            Some(self.byte()?)
        } else {
            None
        })
    }

    fn selector(&mut self) -> Option<Selector> {
        let place = self.length()?;
        self.selectors.get(place).cloned()
    }

    fn rule(&mut self) -> Option<Rule<AddressSet>> {
        Some(Rule {
            action: match self.byte()? {
                0 => RuleAction::Allow,
                1 => RuleAction::Deny,
                2 => RuleAction::Pass,
                3 => RuleAction::Log,
                _ => return None,
            },
            index: self.length()?,
            ip_version: match self.byte()? {
                4 => Some(IpVersion::V4),
                6 => Some(IpVersion::V6),
                _ => None,
            },
            protocol: self.maybe()?.map(Protocol::from_number),
            not_protocol: self.maybe()?.map(Protocol::from_number),
            icmp: self.icmp()?,
            not_icmp: self.icmp()?,
            source: self.side()?,
            destination: self.side()?,
        })
    }

    fn icmp(&mut self) -> Option<Option<Icmp>> {
        if !self.is_there()? {
            return Some(None);
        }
        Some(Some(Icmp {
            icmp_type: self.maybe()?,
            code: self.maybe()?,
        }))
    }

    fn side(&mut self) -> Option<Side<AddressSet>> {
        Some(Side {
            sets: self.sets()?,
            not_sets: self.sets()?,
            ports: self.ports()?,
            not_ports: self.ports()?,
        })
    }

    fn ports(&mut self) -> Option<Option<Box<PortMatch<AddressSet>>>> {
        if !self.is_there()? {
            return Some(None);
        }
        let count = self.length()?;
        let range = |_| PortRange::new(self.number()?.try_into().ok()?, self.number()?.try_into().ok()?);
        let ranges = (0..count).map(range).collect::<Option<Vec<_>>>()?;
        let named = self.sets()?;
        Some(Some(Box::new(PortMatch { ranges, named })))
    }

    fn sets(&mut self) -> Option<Vec<AddressSet>> {
        let count = self.length()?;
        (0..count).map(|_| self.set()).collect()
    }

    fn set(&mut self) -> Option<AddressSet> {
        Some(match self.byte()? {
            SELECTED => AddressSet::Selected(self.selector()?),
            NETS => {
                let count = self.length()?;
                AddressSet::Nets((0..count).map(|_| self.net()).collect::<Option<Vec<_>>>()?)
            }
            NAMED_PORT => AddressSet::NamedPort {
                selector: self.selector()?,
                name: self.text()?,
                protocol: Protocol::from_number(self.byte()?),
            },
            kind @ (SERVICE | SERVICE_WITH_PORTS) => AddressSet::Service {
                namespace: self.text()?,
                name: self.text()?,
                with_ports: kind == SERVICE_WITH_PORTS,
            },
            _ => return None,
        })
    }

    fn net(&mut self) -> Option<IpNet> {
        match self.byte()? {
            4 => {
                let octets: [u8; 4] = self.bytes(4)?.try_into().ok()?;
                Some(Ipv4Net::new(Ipv4Addr::from(octets), self.byte()?).ok()?.into())
            }
            _ => {
                let octets: [u8; 16] = self.bytes(16)?.try_into().ok()?;
                Some(Ipv6Net::new(Ipv6Addr::from(octets), self.byte()?).ok()?.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    fn selector() -> impl Strategy<Value = Selector> {
        let text = prop::sample::select(vec![
            "all()",
            "app == 'a'",
            "has(b) && c in {'d', 'e'}",
            "!global()",
        ]);
        text.prop_map(|text| Selector::parse(text).unwrap())
    }

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<Ipv4Addr>(), 0u8..=32).prop_map(|(a, l)| Ipv4Net::new(a, l).unwrap().into()),
            (any::<Ipv6Addr>(), 0u8..=128).prop_map(|(a, l)| Ipv6Net::new(a, l).unwrap().into()),
        ]
    }

    fn sets() -> impl Strategy<Value = Vec<AddressSet>> {
        let protocol = any::<u8>().prop_map(Protocol::from_number);
        let set = prop_oneof![
            selector().prop_map(AddressSet::Selected),
            prop::collection::vec(net(), 0..3).prop_map(AddressSet::Nets),
            (selector(), ".{0,3}", protocol).prop_map(|(selector, name, protocol)| AddressSet::NamedPort {
                selector,
                name,
                protocol
            }),
            (".{0,3}", ".{0,200}", any::<bool>()).prop_map(|(namespace, name, with_ports)| {
                AddressSet::Service {
                    namespace,
                    name,
                    with_ports,
                }
            }),
        ];
        prop::collection::vec(set, 0..3)
    }

    fn side() -> impl Strategy<Value = Side<AddressSet>> {
        let range =
            (any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap());
        let ports = (prop::collection::vec(range, 0..3), sets())
            .prop_map(|(ranges, named)| Box::new(PortMatch { ranges, named }));
        let ports = option::of(ports).boxed();
        (sets(), sets(), ports.clone(), ports).prop_map(|(sets, not_sets, ports, not_ports)| Side {
            sets,
            not_sets,
            ports,
            not_ports,
        })
    }

    fn rule() -> impl Strategy<Value = Rule<AddressSet>> {
        let action = prop::sample::select(vec![
            RuleAction::Allow,
            RuleAction::Deny,
            RuleAction::Pass,
            RuleAction::Log,
        ]);
        let ip_version = prop::sample::select(vec![None, Some(IpVersion::V4), Some(IpVersion::V6)]);
        let protocol = option::of(any::<u8>().prop_map(Protocol::from_number)).boxed();
        let icmp = option::of(
            (any::<Option<u8>>(), any::<Option<u8>>()).prop_map(|(icmp_type, code)| Icmp { icmp_type, code }),
        )
        .boxed();
        let what = (
            action,
            any::<usize>(),
            ip_version,
            protocol.clone(),
            protocol,
            icmp.clone(),
            icmp,
        );
        (what, side(), side()).prop_map(|(what, source, destination)| {
            let (action, index, ip_version, protocol, not_protocol, icmp, not_icmp) = what;
            Rule {
                action,
                index,
                ip_version,
                protocol,
                not_protocol,
                icmp,
                not_icmp,
                source,
                destination,
            }
        })
    }

    proptest! {
        #[test]
        fn what_waited_is_what_it_was(
            ingress in prop::collection::vec(rule(), 0..3),
            egress in prop::collection::vec(rule(), 0..3),
        ) {
            let rules = Rules { ingress, egress };
            let waiting = Waiting::new(&rules, Selector::condensed);
            prop_assert_eq!(waiting.rules(), rules);
            // What is cut off cannot be read, and then there is nothing.
            if let Some((_, bytes)) = waiting.bytes.split_last() {
                let cut = Waiting { bytes: bytes.into(), selectors: waiting.selectors.clone() };
                prop_assert_eq!(cut.rules(), Rules::default());
            }
        }
    }
}
