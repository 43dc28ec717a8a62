//! Decides what the interfaces that already have a workload's names mean. Pure.

use crate::links::Link;

/// What is to be done about the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// There is nothing: make it.
    Make,
    /// There is the pair: bring it to what is wanted.
    Keep,
    /// There is a pair of ours on the node whose other end is elsewhere, left over from an earlier sandbox
    /// of the same workload or from an attempt that ended half-way: delete it, and make the pair.
    Remake,
    /// The name on the node belongs to something that is no virtual pair.
    ForeignHost,
    /// The name inside belongs to something that is not the other end.
    ForeignContainer,
}

/// Decides.
///
/// `number` is the number by which the node's namespace knows the workload's; it has one as soon as a pair
/// crosses between them.
pub(crate) fn decide(host: Option<&Link>, container: Option<&Link>, number: Option<i32>) -> Pairing {
    match (host, container) {
        (Some(host), _) if !host.is_veth() => Pairing::ForeignHost,
        (Some(host), Some(container)) if are_ends(host, container, number) => Pairing::Keep,
        (_, Some(_)) => Pairing::ForeignContainer,
        (Some(_), None) => Pairing::Remake,
        (None, None) => Pairing::Make,
    }
}

/// Whether two interfaces are the two ends of one pair.
///
/// Numbers of interfaces are unique in one namespace only, so the node's end must also say that its other end
/// is in this workload's namespace.
pub(crate) fn are_ends(host: &Link, container: &Link, number: Option<i32>) -> bool {
    container.is_veth()
        && host.peer == Some(container.index)
        && container.peer == Some(host.index)
        && number.is_some()
        && host.peer_namespace == number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::OperState;
    use crate::names::InterfaceName;

    fn link(kind: &str, index: u32, peer: u32, peer_namespace: i32) -> Link {
        Link {
            index,
            name: InterfaceName::new("x").unwrap(),
            kind: Some(kind.into()),
            mac: None,
            mtu: 1500,
            up: true,
            oper_state: OperState::Up,
            peer: Some(peer),
            peer_namespace: Some(peer_namespace),
            master: None,
            group: 0,
        }
    }

    #[test]
    fn each_case_has_its_answer() {
        let host = link("veth", 7, 2, 5);
        let container = link("veth", 2, 7, 0);
        let (other_number, other_peer) = (link("veth", 7, 2, 6), link("veth", 2, 9, 0));
        let bridge = link("bridge", 7, 2, 5);
        for (host, container, number, expected) in [
            (None, None, None, Pairing::Make),
            (Some(&host), Some(&container), Some(5), Pairing::Keep),
            (Some(&host), None, Some(5), Pairing::Remake),
            (Some(&other_number), None, None, Pairing::Remake),
            (
                Some(&other_number),
                Some(&container),
                Some(5),
                Pairing::ForeignContainer,
            ),
            (Some(&host), Some(&other_peer), Some(5), Pairing::ForeignContainer),
            (Some(&host), Some(&container), None, Pairing::ForeignContainer),
            (None, Some(&container), Some(5), Pairing::ForeignContainer),
            (Some(&bridge), None, None, Pairing::ForeignHost),
            (Some(&bridge), Some(&container), Some(5), Pairing::ForeignHost),
        ] {
            assert_eq!(decide(host, container, number), expected);
        }
    }
}
