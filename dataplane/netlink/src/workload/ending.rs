//! Interfaces that end together.
//!
//! Whoever removes an interface holds up everybody else at the kernel's routing side for about 20 ms, and a hundred pods
//! that go would hold up those that come for two seconds. The kernel removes a whole group of interfaces in one such time.

use super::WorkloadSettings;
use crate::error::NetlinkError;
use crate::links::{self, LinkStep};
use crate::names::InterfaceName;
use crate::rtnetlink::Rtnetlink;
use std::collections::BTreeSet;

/// The group of interfaces that are about to be removed: four letters, so that nobody else comes upon the same number.
const ENDING: u32 = u32::from_be_bytes(*b"manx");

/// Removes those of these interfaces that are there and ours, if they are several. Nothing is removed where anything else
/// is in the group.
pub(super) fn remove_together(
    netlink: &mut Rtnetlink,
    settings: &WorkloadSettings,
    interfaces: &[InterfaceName],
) -> Result<(), NetlinkError> {
    if interfaces.len() < 2 {
        return Ok(());
    }
    let names: BTreeSet<&InterfaceName> = interfaces.iter().collect();
    let mut ours = links::list(netlink)?;
    ours.retain(|link| {
        let is_ours = settings.ownership.prefixes.is_ours(link.name.as_str());
        is_ours && link.is_veth() && names.contains(&link.name)
    });
    let mut indexes = BTreeSet::new();
    for link in &ours {
        match links::execute(netlink, link, &[LinkStep::SetGroup(ENDING)]) {
            Ok(()) => drop(indexes.insert(link.index)),
            // It went with its sandbox meanwhile.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    let members = links::list(netlink)?;
    let mut others = members
        .iter()
        .filter(|link| link.group == ENDING && !indexes.contains(&link.index));
    if let Some(other) = others.next() {
        tracing::warn!(interface = %other.name, group = ENDING, "an interface is in the group of those that end, and does not end");
        return Ok(());
    }
    links::delete_group(netlink, ENDING).map(drop)
}
