//! Who computes the checksums of packets into one tunnel device: the operator says it, or else the [`super::probe`] finds
//! it out, and here is what is wanted of the device by either.

use super::probe::{Finding, Footing, Word};
use crate::interfaces::describe;
use dataplane_netlink::NetlinkError;
use dataplane_netlink::links::Link;
use dataplane_netlink::tunnels::offload::{ChecksumOffload, DeviceSettings};

/// How an operator says it for good, in messages.
const FOR_GOOD: &str = "FeatureDetectOverride (FELIX_FEATUREDETECTOVERRIDE)";

/// What is known of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Knowledge {
    /// It cannot be known, or nobody needs to: the operator said what to do.
    #[default]
    Unasked,
    /// It was off before anybody asked: an earlier life found so, or an administrator wants it.
    OffBefore,
    /// It is being tried.
    Trying,
    /// It was tried.
    Found(Finding),
}

/// The checksums of one device.
#[derive(Debug, Default)]
pub(super) struct Offload {
    footing: Option<Footing>,
    knowledge: Knowledge,
    /// What the probe wants; nothing where the device is to be left as it is.
    wanted: Option<ChecksumOffload>,
    in_force: Option<ChecksumOffload>,
    /// Whether a switch was asked for and not tried yet, and how many were tried.
    asked: bool,
    switches: u32,
}

impl Offload {
    /// Brings a device to what the operator told, or to what the probe wants.
    ///
    /// # Errors
    /// The kernel refused what the operator told. What the probe wants is no reason to do without the device.
    pub(super) fn settle(
        &mut self,
        link: &Link,
        carrier: Option<u32>,
        told: Option<ChecksumOffload>,
    ) -> Result<(), NetlinkError> {
        if let Some(told) = told {
            *self = Offload::default();
            return DeviceSettings::open()?.set_checksum_offload(link, told).map(drop);
        }
        let footing = Footing {
            link: link.index,
            carrier,
        };
        if self.footing != Some(footing) {
            self.stand_on(footing);
        }
        if self.wanted.is_none() && self.knowledge != Knowledge::Unasked {
            return Ok(());
        }
        let outcome = DeviceSettings::open().and_then(|mut settings| match self.wanted {
            Some(wanted) => settings.set_checksum_offload(link, wanted),
            None => settings.checksum_offload(link),
        });
        self.take(link, outcome);
        Ok(())
    }

    /// What was found holds no more where the device is another, or what is below it.
    fn stand_on(&mut self, footing: Footing) {
        let before = std::mem::take(self);
        self.footing = Some(footing);
        let is_same_device = before.footing.is_some_and(|before| before.link == footing.link);
        if is_same_device {
            if before.knowledge == Knowledge::OffBefore {
                self.knowledge = Knowledge::OffBefore;
            } else if before.wanted.is_some() {
                self.wanted = Some(ChecksumOffload::On);
            }
        }
    }

    fn take(&mut self, link: &Link, outcome: Result<ChecksumOffload, NetlinkError>) {
        self.switches += u32::from(std::mem::take(&mut self.asked));
        let in_force = match outcome {
            Ok(in_force) => in_force,
            Err(error) => {
                tracing::debug!(
                    device = %link.name,
                    error = describe(&error),
                    "who computes a tunnel's checksums cannot be read or switched"
                );
                return;
            }
        };
        self.in_force = Some(in_force);
        if self.wanted == Some(ChecksumOffload::On) && in_force == ChecksumOffload::On {
            // From now on somebody else may switch it.
            self.wanted = None;
        }
        if self.knowledge == Knowledge::Unasked {
            self.knowledge = match in_force {
                ChecksumOffload::On => Knowledge::Trying,
                ChecksumOffload::Off => {
                    tracing::info!(
                        device = %link.name,
                        "checksum offload of the tunnel's device is off already and stays so, as an earlier life of the \
                         agent or an administrator left it; ChecksumOffloadBroken=false in {FOR_GOOD} switches it on"
                    );
                    Knowledge::OffBefore
                }
            };
        }
    }

    /// Takes in what the probe says; true where a pass has to see to it.
    pub(super) fn hears(&mut self, device: &Link, footing: Footing, word: Word) -> bool {
        if self.footing != Some(footing) || self.knowledge != Knowledge::Trying {
            return false;
        }
        match word {
            Word::Switch(to) => {
                self.wanted = Some(to);
                self.asked = true;
                true
            }
            Word::Found(finding) => {
                self.knowledge = Knowledge::Found(finding);
                say(device, finding);
                true
            }
        }
    }

    /// Where it stands and who computes now, while that is to be found out; with the number of switches tried so far.
    pub(super) fn trying(&self) -> Option<(Footing, ChecksumOffload, u32)> {
        match self.knowledge {
            Knowledge::Trying => Some((self.footing?, self.in_force?, self.switches)),
            Knowledge::Unasked | Knowledge::OffBefore | Knowledge::Found(_) => None,
        }
    }

    /// Whether the device computes checksums itself though no operator told so.
    pub(super) fn is_off_unasked(&self) -> bool {
        matches!(
            self.knowledge,
            Knowledge::OffBefore | Knowledge::Found(Finding::Broken)
        )
    }
}

fn say(device: &Link, finding: Finding) {
    let device = &device.name;
    match finding {
        Finding::Works => {
            tracing::debug!(%device, "checksums of packets into the tunnel arrive as they should")
        }
        Finding::Broken => tracing::warn!(
            %device,
            "checksum offload is broken below this tunnel: another node answered pings through it and no UDP until this \
             node computed the checksums itself. Offload is switched off for this device, which costs throughput. If it is \
             to stay so without being tried at each start, set ChecksumOffloadBroken=true in {FOR_GOOD}; if the network \
             card's driver or the virtual switch is mended, ChecksumOffloadBroken=false"
        ),
        Finding::NoHelp => tracing::info!(
            %device,
            "several nodes answer pings through this tunnel and no UDP, whoever computes the checksums; offload stays on. \
             A firewall on them may drop UDP"
        ),
        Finding::Unswitchable => tracing::warn!(
            %device,
            "a node answers pings through this tunnel and no UDP, and the kernel does not let checksum offload of this \
             device be switched: whether that is the reason cannot be found out"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_netlink::InterfaceName;
    use dataplane_netlink::links::OperState;

    fn link(index: u32) -> Link {
        Link {
            index,
            name: InterfaceName::new("vxlan.calico").unwrap(),
            kind: Some("vxlan".into()),
            mac: None,
            mtu: 1450,
            up: true,
            oper_state: OperState::Unknown,
            peer: None,
            peer_namespace: None,
            master: None,
            group: 0,
        }
    }

    fn on(link: u32, carrier: u32) -> Footing {
        Footing {
            link,
            carrier: Some(carrier),
        }
    }

    /// One that was tried on this footing and found broken.
    fn broken(footing: Footing) -> Offload {
        let mut offload = Offload::default();
        offload.stand_on(footing);
        offload.take(&link(footing.link), Ok(ChecksumOffload::On));
        assert!(offload.trying().is_some());
        assert!(offload.hears(&link(footing.link), footing, Word::Switch(ChecksumOffload::Off)));
        assert_eq!(offload.wanted, Some(ChecksumOffload::Off));
        offload.take(&link(footing.link), Ok(ChecksumOffload::Off));
        assert_eq!(offload.trying(), Some((footing, ChecksumOffload::Off, 1)));
        assert!(offload.hears(&link(footing.link), footing, Word::Found(Finding::Broken)));
        assert!(offload.is_off_unasked() && offload.trying().is_none());
        offload
    }

    #[test]
    fn what_was_found_stays_wanted() {
        let mut offload = broken(on(3, 2));
        offload.take(&link(3), Ok(ChecksumOffload::Off));
        assert_eq!(offload.wanted, Some(ChecksumOffload::Off));
    }

    #[test]
    fn another_device_or_another_below_it_is_tried_anew() {
        for (footing, wanted) in [(on(4, 2), None), (on(3, 9), Some(ChecksumOffload::On))] {
            let mut offload = broken(on(3, 2));
            offload.stand_on(footing);
            assert_eq!(offload.wanted, wanted, "{footing:?}");
            assert!(!offload.is_off_unasked());
            offload.take(&link(footing.link), Ok(ChecksumOffload::On));
            assert_eq!(offload.trying(), Some((footing, ChecksumOffload::On, 0)));
            assert_eq!(offload.wanted, None, "who switches it by hand now is let be");
        }
    }

    #[test]
    fn one_that_was_off_before_is_let_be() {
        let mut offload = Offload::default();
        offload.stand_on(on(3, 2));
        offload.take(&link(3), Ok(ChecksumOffload::Off));
        assert!(offload.trying().is_none() && offload.is_off_unasked());
        offload.stand_on(on(3, 9));
        assert_eq!(offload.wanted, None);
        offload.take(&link(3), Ok(ChecksumOffload::Off));
        assert!(offload.trying().is_none() && offload.is_off_unasked());
    }

    #[test]
    fn words_about_an_earlier_footing_and_after_the_end_mean_nothing() {
        let mut offload = broken(on(3, 2));
        let device = link(3);
        assert!(!offload.hears(&device, on(3, 2), Word::Switch(ChecksumOffload::On)));
        offload.stand_on(on(4, 2));
        offload.take(&link(4), Ok(ChecksumOffload::On));
        assert!(!offload.hears(&device, on(3, 2), Word::Switch(ChecksumOffload::Off)));
        assert_eq!(offload.wanted, None);
    }
}
