//! Which pod has which address, read from a block: what every node learns from it long before the pod's own object says.

use crate::{block, handle};
use policy_model::IpamBlockSpec;
use std::net::IpAddr;

/// An address that a block says is a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assigned<'a> {
    /// The address.
    pub address: IpAddr,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Name of the pod.
    pub pod: &'a str,
    /// UID of the pod; empty where the block does not say.
    pub uid: &'a str,
    /// The node on which the address is used; empty where the block does not say. A borrowed address is not used on the
    /// node that owns the block.
    pub node: &'a str,
}

/// The addresses of a block that are pods', in their order. Reserves, tunnels and other uses are left out.
pub fn assigned(block: &IpamBlockSpec) -> impl Iterator<Item = Assigned<'_>> {
    block::holders(block).filter_map(|held| {
        let said = |key: &str| held.attribute.secondary.get(key).map_or("", String::as_str);
        let assigned = Assigned {
            address: held.address,
            namespace: said(handle::ATTRIBUTE_NAMESPACE),
            pod: said(handle::ATTRIBUTE_POD),
            uid: said(handle::ATTRIBUTE_UID),
            node: said(handle::ATTRIBUTE_NODE),
        };
        (!assigned.namespace.is_empty() && !assigned.pod.is_empty()).then_some(assigned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::AutoAssign;
    use crate::reservation::Reservations;
    use policy_model::AllocationAttribute;

    #[test]
    fn pods_are_told_and_what_is_no_pods_is_not() {
        let mut block = block::new("10.0.0.0/30".parse().unwrap(), Some("n1"), false, 1)
            .unwrap()
            .spec;
        let none = Reservations::default();
        let reserve = AutoAssign::reserve("n1", 1, 0);
        let reserved = AllocationAttribute {
            handle_id: Some(reserve.handle),
            secondary: reserve.attributes,
        };
        block::assign_next(&mut block, 1, &reserved, &none);
        let pod = AllocationAttribute {
            handle_id: Some("k8s-pod-network.c".into()),
            secondary: [
                ("namespace", "shop"),
                ("pod", "web"),
                ("uid", "u"),
                ("node", "n2"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        };
        block::assign_next(&mut block, 1, &pod, &none);
        let found: Vec<_> = assigned(&block).collect();
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(
            found,
            [Assigned {
                address,
                namespace: "shop",
                pod: "web",
                uid: "u",
                node: "n2"
            }]
        );
    }
}
