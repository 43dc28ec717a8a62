//! `manx check`: what this machine lacks for Manx, and what to do about it.

use crate::policy::print;
use clap::Args;
use felix::checks::{self, Finding, Severity};
use std::process::ExitCode;

/// Says what this machine lacks for Manx, and what to do about it. Changes nothing.
///
/// Looks at the kernel and its modules, forwarding, the reverse-path filter, the table of connections, other firewalls
/// that drop forwarded packets, kube-proxy in IPVS mode and other agents. What needs root and was asked without it is
/// said. Exit code: 0 Manx can work here (perhaps with warnings); 1 it cannot, or policy could be by-passed.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// One JSON object a line: {name, severity: ok|warning|bypass|fatal, what, remedy}.
    #[arg(long)]
    pub json: bool,
    /// How the names of workload interfaces begin.
    #[arg(long, value_name = "PREFIX", default_value = "cali", value_delimiter = ',')]
    pub interface_prefix: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// The answer cannot be written.
pub fn run(arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    let findings = checks::run(&arguments.interface_prefix);
    print::out(&if arguments.json {
        findings.iter().map(print::json_line).collect()
    } else {
        describe(&findings)
    })?;
    let is_fit = !findings.iter().any(Finding::forbids_readiness);
    Ok(if is_fit {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn describe(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let line = format!(
            "{:<8} {:<16} {}",
            finding.severity.to_string(),
            finding.name,
            finding.what
        );
        text.push_str(&if finding.forbids_readiness() {
            print::red(&line)
        } else {
            line
        });
        text.push('\n');
        if !finding.remedy.is_empty() {
            text.push_str(&format!("{:<8} {:<16} -> {}\n", "", "", finding.remedy));
        }
    }
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let (fatal, bypass, warning) = (
        count(Severity::Fatal),
        count(Severity::Bypass),
        count(Severity::Warning),
    );
    if findings.iter().any(Finding::is_unseen) && fatal + bypass == 0 {
        return text + "\nNothing that was looked at keeps Manx from working on this machine\n";
    }
    text + &match (fatal, bypass, warning) {
        (0, 0, 0) => "\nManx can work on this machine\n".to_string(),
        (0, 0, n) => format!("\nManx can work on this machine; {n} warnings\n"),
        (0, ..) => "\nPolicy could be by-passed on this machine\n".to_string(),
        _ => "\nManx cannot work on this machine\n".to_string(),
    }
}
