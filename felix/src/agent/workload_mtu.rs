//! How large the packets of new pods may be: the engine tells it after each pass, and who makes their interfaces hears it.

use tokio::sync::watch;

/// What fits where routes are plain and nobody says otherwise, in bytes.
const PLAIN_MTU: u32 = 1500;

/// Tells it, and lets others follow. Clones tell the same ones.
#[derive(Clone, Debug, Default)]
pub struct WorkloadMtu(watch::Sender<Option<u32>>);

impl WorkloadMtu {
    /// Takes what the dataplane found out; a usual network's where it found nothing out.
    pub(super) fn tell(&self, found: Option<u32>) {
        let mtu = found.unwrap_or(PLAIN_MTU);
        let is_new = self.0.send_if_modified(|known| known.replace(mtu) != Some(mtu));
        if is_new {
            tracing::info!(mtu, "new pods' interfaces take packets of this size, in bytes");
        }
    }

    /// Follows it; nothing before the first pass.
    pub fn follow(&self) -> watch::Receiver<Option<u32>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_told_once() {
        let mtu = WorkloadMtu::default();
        let mut followed = mtu.follow();
        assert_eq!(*followed.borrow_and_update(), None);
        for (found, told) in [
            (None, Some(PLAIN_MTU)),
            (Some(PLAIN_MTU), None),
            (Some(1450), Some(1450)),
            (Some(1450), None),
            (None, Some(PLAIN_MTU)),
        ] {
            mtu.clone().tell(found);
            assert_eq!(followed.has_changed().unwrap(), told.is_some(), "{found:?}");
            if told.is_some() {
                assert_eq!(*followed.borrow_and_update(), told);
            }
        }
    }
}
