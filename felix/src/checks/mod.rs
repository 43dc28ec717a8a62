//! What this machine lacks for Manx, and what to do about it.
//!
//! Looks, and changes nothing: what the kernel can do is tried in a network namespace that is made for it and vanishes
//! with it. What cannot be looked at (usually for want of root) is said, never taken for good.
//!
//! | room | what it looks at |
//! |---|---|
//! | `machine` | `/proc`: kernel, privileges, forwarding, reverse-path filter, connection tracking, IPVS, old iptables |
//! | `features` | what nf_tables and rtnetlink of this kernel can do |
//! | `iptables` | its programs, and whether policy is held there |
//! | `firewalls` | other nftables tables that drop what Manx accepts, and other agents |

mod features;
mod firewalls;
mod iptables;
mod machine;

use dataplane::RulesBackend;
use dataplane_netlink::chain;
use serde::Serialize;
use std::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Something may not work, or could not be looked at.
    Warning,
    /// Traffic goes a way on which policy is not enforced: the agent must not say that it is ready.
    Bypass,
    /// Manx cannot work here.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Bypass => "bypass",
            Severity::Fatal => "fatal",
        })
    }
}

/// How it is said that something could not be looked at.
const UNSEEN: &str = "could not be looked at";

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word: `kernel`, `nf_tables`, `ipvs`.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// How it stands.
    pub what: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Finding::new(name, Severity::Ok, what, "")
    }

    fn new(
        name: &'static str,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding {
            name,
            severity,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Something that nobody can say anything about.
    fn unseen(name: &'static str, what: impl fmt::Display, remedy: &str) -> Self {
        Finding::new(name, Severity::Warning, format!("{UNSEEN}: {what}"), remedy)
    }

    /// Whether this could not be looked at.
    pub fn is_unseen(&self) -> bool {
        self.what.starts_with(UNSEEN)
    }

    /// Whether policy can be by-passed, or cannot be enforced at all.
    pub fn forbids_readiness(&self) -> bool {
        matches!(self.severity, Severity::Bypass | Severity::Fatal)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)?;
        if self.remedy.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.remedy)
        }
    }
}

/// Looks at everything, in the calling thread's network namespace. Takes some milliseconds, and never panics.
///
/// `interface_prefixes` are the beginnings of workload interfaces' names.
pub fn run(interface_prefixes: &[String]) -> Vec<Finding> {
    let proc = machine::Proc::default();
    let held = iptables::held();
    let programs = iptables::programs();
    let mut findings = vec![proc.kernel(), proc.privileges()];
    findings.extend(iptables::replacing(features::findings(), &programs));
    findings.push(programs);
    findings.extend(proc.forwarding());
    findings.push(proc.reverse_path());
    findings.push(proc.connection_table());
    findings.push(proc.ipvs());
    findings.extend(proc.old_iptables(interface_prefixes, held));
    findings.extend(firewalls::findings(interface_prefixes, held));
    findings
}

/// Why policy could be by-passed on this node now, a sentence each with its remedy; empty where it cannot. `backend` is what
/// holds policy.
///
/// Quick enough for every half minute: what the kernel can do is tried until it is found sufficient, once. What could
/// not be looked at does not count.
pub fn bypasses(backend: &RulesBackend) -> Vec<String> {
    let proc = machine::Proc::default();
    let mut findings = vec![proc.ipvs()];
    match backend {
        RulesBackend::Nftables => {
            findings.push(proc.kernel());
            findings.extend(features::findings());
        }
        RulesBackend::Iptables(_) => {
            findings.push(proc.kernel_for_iptables());
            let others = features::findings().into_iter();
            findings.extend(others.filter(|finding| finding.name != features::NF_TABLES));
        }
    }
    findings
        .iter()
        .filter(|finding| finding.forbids_readiness())
        .map(ToString::to_string)
        .collect()
}

/// What nf_tables of this kernel lacks of what policies need, in a sentence; nothing where it lacks nothing, or where that
/// cannot be tried.
pub(crate) fn lacking_features() -> Option<String> {
    let is_lack =
        |finding: &Finding| finding.name == features::NF_TABLES && finding.severity == Severity::Fatal;
    let findings = features::findings().into_iter();
    findings.filter(is_lack).map(|finding| finding.what).next()
}

#[cfg(test)]
mod tests;
