//! Where tunnels stand in a pass: devices before the routes into them, and the rules that guard both.

use super::{ApplyError, Dataplane, PassReport};

impl Dataplane {
    /// Whoever makes no routes makes no tunnels.
    pub(super) fn tunnels_are_due(&self) -> bool {
        !self.settings.workloads.leaves_routes && self.tunnels.is_dirty()
    }

    /// What goes before the rules of a pass: what carries packets is looked at, what nobody wants begins to go, and the rules
    /// are told.
    pub(super) fn prepare_tunnels(&mut self, now: u64) -> Result<(), ApplyError> {
        if !self.tunnels_are_due() {
            return Ok(());
        }
        self.tunnels.survey().map_err(ApplyError::Tunnels)?;
        self.tunnels.let_go(now).map_err(ApplyError::Tunnels)?;
        // Who may send through a tunnel is said before there is one.
        self.dirty |= self.driver.want_tunnels(self.tunnels.in_use());
        self.free_from_tunnels();
        Ok(())
    }

    /// What need not be wrapped any more is let out before its routes lead elsewhere. A first pass says all at once: what
    /// an earlier life confined stays so.
    fn free_from_tunnels(&mut self) {
        let wanted = self.tunnels.confined();
        let kept = if self.synced_once {
            self.driver.wanted_confined().kept_by(&wanted)
        } else {
            wanted
        };
        self.dirty |= self.driver.want_confined(kept);
    }

    /// What is to be wrapped from now on is confined once its routes lead into the tunnel: until then it went as it was, and
    /// nothing of it is lost. In force after one more pass.
    pub(super) fn confine_to_tunnels(&mut self) {
        if !self.settings.workloads.leaves_routes {
            self.dirty |= self.driver.want_confined(self.tunnels.confined());
        }
    }

    /// Devices come before the routes into them.
    pub(super) fn apply_tunnels(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        if self.tunnels_are_due() {
            self.tunnel_faults = self.tunnels.apply().map_err(ApplyError::Tunnels)?;
        }
        report.faults.extend(self.tunnel_faults.iter().cloned());
        let changed = self.tunnels.take_changed();
        self.interfaces
            .set_tunnels(self.tunnels.ready(), changed)
            .map_err(ApplyError::Interfaces)
    }
}
