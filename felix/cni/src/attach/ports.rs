//! Ports of the node that pods ask for: refused where they are another's, gone before a removal is answered.

use super::{Attacher, EndpointView};
use crate::journal::Attachment;
use crate::ports::collide;
use crate::protocol::{Failure, PortMapping, code};
use std::sync::Arc;
use std::time::Duration;

/// How long a removal waits until packets to the node's ports go nowhere any more; nothing passes in any case.
const UNTIL_UNMAPPED: Duration = Duration::from_secs(2);

impl Attacher {
    /// Refuses ports that lead to another pod. The scheduler places no two pods with one port on a node, but others start
    /// pods too.
    ///
    /// Another sandbox of the same pod, and a pod that the cluster does not know any more, give way: their removal is
    /// only late, and takes nothing from who came after them.
    pub(super) fn refuse_taken(&self, wanted: &Attachment) -> Result<(), Failure> {
        if wanted.host_ports.is_empty() {
            return Ok(());
        }
        let view = self.allocator.view();
        let attachments = self.journal.all();
        let lives = |other: &&Arc<Attachment>| {
            let same_pod = (&other.namespace, &other.pod) == (&wanted.namespace, &wanted.pod);
            other.key != wanted.key
                && !same_pod
                && !self.is_of_another_boot(other)
                && view.endpoint(&other.namespace, &other.pod, &other.uid).is_some()
        };
        let taken = |mapping: &PortMapping, other: &Attachment| {
            other.host_ports.iter().any(|theirs| collide(mapping, theirs))
        };
        for other in attachments.iter().filter(lives) {
            if let Some(mapping) = wanted.host_ports.iter().find(|m| taken(m, other)) {
                return Err(Failure::new(
                    code::PORT_TAKEN,
                    format!(
                        "host port {mapping} of node {} leads to pod {}/{} already; remove that pod, or give one of the two another hostPort",
                        self.settings.node, other.namespace, other.pod
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Says which port of the node does not lead where it should.
    pub(super) fn check_ports(&self, attachment: &Attachment) -> Result<(), Failure> {
        let in_force = self.programmed.borrow().clone();
        let ports = attachment.mapped_ports();
        let astray = ports
            .iter()
            .find(|(port, to)| in_force.host_ports.get(port) != Some(to));
        match astray {
            None => Ok(()),
            Some((port, to)) => Err(Failure::new(
                code::KERNEL,
                format!(
                    "host port {} {} of address {} does not lead to {to}",
                    port.protocol, port.port, port.address
                ),
            )),
        }
    }

    /// Waits until no port of the node leads to what is ending. Whoever comes next finds none of its connections led to
    /// an interface that is down.
    pub(super) async fn wait_unmapped(&self, attachment: &Attachment) {
        if attachment.host_ports.is_empty() {
            return;
        }
        let mut programmed = self.programmed.clone();
        let unmapped = |view: &EndpointView| {
            let mut targets = view.host_ports.values();
            !targets.any(|to| attachment.addresses.contains(&to.ip()))
        };
        let waited = tokio::time::timeout(UNTIL_UNMAPPED, programmed.wait_for(unmapped)).await;
        if waited.is_err() {
            tracing::warn!(key = %attachment.key, "ports of the node still lead to an attachment that is ending; they go later");
        }
    }
}
