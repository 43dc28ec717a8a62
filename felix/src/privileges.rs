//! What the process must be allowed to do, found out before anything is begun.

use nix::unistd::geteuid;

/// Bit of `CAP_NET_ADMIN` (`linux/capability.h`): nftables, routes and interfaces.
const NET_ADMIN: u32 = 12;

/// What lacks, and what to do; none if nothing does.
pub fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some(
            "felix changes the node's network and must run as root: start it with sudo or as a service of the system, \
             or, in a container, with securityContext.runAsUser 0 and privileged true"
                .to_owned(),
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    lacks(&status, NET_ADMIN).then(|| {
        "felix runs as root without the capability CAP_NET_ADMIN, without which nobody may change the network: in a \
         container, set securityContext.privileged true or add the capabilities NET_ADMIN, NET_RAW and SYS_ADMIN; in a \
         service of systemd, take it into CapabilityBoundingSet"
            .to_owned()
    })
}

/// Whether the effective capabilities in `/proc/<pid>/status` lack one; what cannot be read lacks nothing.
fn lacks(status: &str, capability: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << capability) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read() {
        let status =
            |bits: &str| format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{bits}\nCapBnd:\t0\n");
        assert!(!lacks(&status("000001ffffffffff"), NET_ADMIN));
        assert!(!lacks(&status("0000000000001000"), NET_ADMIN));
        assert!(lacks(&status("000001ffffffefff"), NET_ADMIN));
        assert!(lacks(&status("0000000000000000"), NET_ADMIN));
        assert!(!lacks(&status("what"), NET_ADMIN));
        assert!(!lacks("", NET_ADMIN));
    }
}
