//! Who holds an address, as the blocks say it: handle and attributes of an attachment, and the way back.

use crate::journal::Attachment;
use crate::protocol::AttachmentKey;
use policy_model::AllocationAttribute;
use policy_model_ipam::handle;

/// The pod of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Attribute with the network's name, where the handle does not say where it ends.
const NETWORK: &str = "network";
/// Attribute with the interface's name inside, where it is not the usual one.
const INTERFACE: &str = "interface";
/// The interface of a sandbox that stands in no handle.
const USUAL_INTERFACE: &str = "eth0";

/// What the blocks say of an attachment's addresses.
pub(crate) fn attribute(node: &str, key: &AttachmentKey, pod: &PodRef) -> AllocationAttribute {
    let network = if key.network.contains('.') {
        &*key.network
    } else {
        ""
    };
    let interface = if key.interface == USUAL_INTERFACE {
        ""
    } else {
        &*key.interface
    };
    let stated = [
        (handle::ATTRIBUTE_NAMESPACE, &*pod.namespace),
        (handle::ATTRIBUTE_POD, &*pod.name),
        (handle::ATTRIBUTE_NODE, node),
        (handle::ATTRIBUTE_UID, &*pod.uid),
        (NETWORK, network),
        (INTERFACE, interface),
    ];
    let stated = stated.into_iter().filter(|(_, value)| !value.is_empty());
    AllocationAttribute {
        handle_id: Some(key.handle()),
        secondary: stated
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}

/// The same for an attachment of the journal.
pub(crate) fn attribute_of(node: &str, attachment: &Attachment) -> AllocationAttribute {
    attribute(node, &attachment.key, &pod_of(attachment))
}

/// The pod of an attachment of the journal.
pub(crate) fn pod_of(attachment: &Attachment) -> PodRef {
    PodRef {
        namespace: attachment.namespace.clone(),
        name: attachment.pod.clone(),
        uid: attachment.uid.clone(),
    }
}

/// The attachment of which a block speaks, and its pod; nothing where there is no handle of an attachment.
pub(crate) fn read(attribute: &AllocationAttribute) -> Option<(AttachmentKey, PodRef)> {
    let said = |name: &str| attribute.secondary.get(name).cloned().unwrap_or_default();
    let handle = attribute.handle_id.as_deref()?;
    let (network, rest) = match &*said(NETWORK) {
        "" => handle.split_once('.')?,
        network => {
            let rest = handle.strip_prefix(network)?.strip_prefix('.')?;
            handle.get(..network.len()).map(|network| (network, rest))?
        }
    };
    let (container, interface) = match said(INTERFACE) {
        usual if usual.is_empty() => (rest, USUAL_INTERFACE.to_owned()),
        interface => (rest.strip_suffix(&*interface)?.strip_suffix('.')?, interface),
    };
    let key = AttachmentKey {
        network: network.to_owned(),
        container_id: container.to_owned(),
        interface,
    };
    let pod = PodRef {
        namespace: said(handle::ATTRIBUTE_NAMESPACE),
        name: said(handle::ATTRIBUTE_POD),
        uid: said(handle::ATTRIBUTE_UID),
    };
    Some((key, pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_read_back_from_what_the_block_says() {
        for (network, container, interface) in [
            ("k8s-pod-network", "0123abc", "eth0"),
            ("lab", "shop.web", "eth0"),
            ("net.with.dots", "a.b", "net1"),
            ("net", "eth0", "eth0.7"),
        ] {
            let key = AttachmentKey {
                network: network.into(),
                container_id: container.into(),
                interface: interface.into(),
            };
            let pod = PodRef {
                namespace: "shop".into(),
                name: "web-0".into(),
                uid: "u".into(),
            };
            let attribute = attribute("n1", &key, &pod);
            assert_eq!(attribute.handle_id.as_deref(), Some(&*key.handle()));
            assert_eq!(read(&attribute), Some((key, pod)));
        }
        assert_eq!(read(&AllocationAttribute::default()), None);
    }
}
