//! `manx explain`: one flow's way through the policies, for a person.

use super::answer::{Answer, Way, addresses};
use super::flow::{WrittenFlow, WrittenPort};
use super::flow_file::parse_port;
use super::print;
use crate::source::SourceArguments;
use clap::Args;
use policy_model::{LABEL_ORCHESTRATOR, Protocol};
use std::fmt::Write;
use std::process::ExitCode;

/// Explains what the policies of the live cluster, or of a folder of manifests, say of one flow, and why.
///
/// Every policy that was asked is shown with its rules up to the one that decided, each with the clauses that matched
/// (+) or failed (-). Positions of rules count from 0 in the policy's own list. Exit code: 0 whatever the verdict, 2
/// for bad input, and where what was read is not all (the answer is given all the same, from the rest).
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Who opens the flow: namespace/pod, ip:ADDRESS or node:NAME.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Protocol and port (TCP/80, UDP/dns), or ICMP type and code (ICMP, ICMP/8, ICMPv6/128:0).
    #[arg(value_name = "PROTOCOL/PORT", value_parser = parse_what)]
    pub what: What,
    /// Where policies and pods are read.
    #[command(flatten)]
    pub source: SourceArguments,
}

/// Protocol with port, or with ICMP type and code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct What {
    protocol: Protocol,
    port: Option<WrittenPort>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
}

fn parse_what(text: &str) -> Result<What, String> {
    let (protocol, rest) = match text.split_once('/') {
        Some((protocol, rest)) => (protocol, Some(rest)),
        None => (text, None),
    };
    let protocol: Protocol = protocol.parse().map_err(|error| format!("{error}"))?;
    let mut what = What {
        protocol,
        port: None,
        icmp_type: None,
        icmp_code: None,
    };
    match rest {
        None if protocol.has_ports() => return Err(format!("{protocol} needs a port: {protocol}/80")),
        None => {}
        Some(rest) if protocol.is_icmp() => {
            let number = |text: &str| {
                let found = text.parse::<u8>();
                found.map_err(|_| {
                    format!("'{text}' is not a number from 0 to 255; write {protocol}/TYPE:CODE")
                })
            };
            let (kind, code) = rest.split_once(':').unzip();
            what.icmp_type = Some(number(kind.unwrap_or(rest))?);
            what.icmp_code = code.map(number).transpose()?;
        }
        Some(rest) if protocol.has_ports() => what.port = Some(parse_port(rest)?),
        Some(_) => return Err(format!("{protocol} has no ports; write only {protocol}")),
    }
    Ok(what)
}

/// Runs the command.
///
/// # Errors
/// Neither manifests nor a cluster can be read at all.
pub fn run(arguments: &ExplainArguments) -> anyhow::Result<ExitCode> {
    let world = arguments.source.world()?;
    print::complain(&world.faults);
    let What {
        protocol,
        port,
        icmp_type,
        icmp_code,
    } = arguments.what.clone();
    let flow = WrittenFlow {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        protocol,
        port,
        icmp_type,
        icmp_code,
        expect: None,
    };
    let question = match flow.understand(&world) {
        Ok(question) => question,
        Err(faults) => {
            print::complain(faults.iter().map(|fault| {
                let field = fault.field.to_uppercase();
                format!("manx explain: {field}: {}", fault.reason)
            }));
            return Ok(ExitCode::from(2));
        }
    };
    let answer = world.answer(&question)?;
    print::out(&describe(&answer))?;
    Ok(if world.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

/// The answer in words, then the way of each pair of addresses. Pairs that differ in nothing but their addresses share
/// one.
fn describe(answer: &Answer) -> String {
    let mut text = format!("{}: {}\n", answer.verdict, answer.reason);
    // Each way with its names, and with what it is compared by.
    let mut ways: Vec<(Vec<String>, String, String)> = Vec::new();
    for way in &answer.ways {
        let judgement = &way.judgement;
        let mut trace = for_people(&judgement.trace.to_string());
        if trace.is_empty() {
            trace = format!("{}: {}\n", judgement.verdict, judgement.reason);
        }
        let name = addresses(way);
        let compared = anonymous(&trace, way);
        match ways.iter_mut().find(|(_, _, known)| *known == compared) {
            Some((names, ..)) => names.push(name),
            None => ways.push((vec![name], trace, compared)),
        }
    }
    // Where nobody was asked, the reason above is all there is.
    let is_plain = answer
        .ways
        .iter()
        .all(|way| way.judgement.trace.directions.is_empty());
    if is_plain && ways.len() <= 1 {
        return text;
    }
    for (names, trace, _) in ways {
        // Writing to a string does not fail.
        let _ = write!(text, "\n{}\n", names.join(", and alike "));
        for line in trace.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// A trace without the label that every pod carries; it only says that policies are about pods.
fn for_people(trace: &str) -> String {
    let own = format!("{LABEL_ORCHESTRATOR} == \"k8s\"");
    trace
        .replace(&format!(" && {own}"), "")
        .replace(&format!("{own} && "), "")
        .replace(&format!(", {LABEL_ORCHESTRATOR}=\"k8s\""), "")
}

/// A trace with its addresses blotted out.
fn anonymous(trace: &str, way: &Way) -> String {
    let mut text = trace.to_string();
    for (address, word) in [(way.source, "SOURCE"), (way.destination, "DESTINATION")] {
        if let Some(address) = address {
            text = text.replace(&address.to_string(), word);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read() {
        let read = |text| parse_what(text).unwrap();
        assert_eq!(read("tcp/80").port, Some(WrittenPort::Number(80)));
        assert_eq!(read("UDP/dns").port, Some(WrittenPort::Name("dns".to_string())));
        assert_eq!((read("ICMP").icmp_type, read("ICMP").icmp_code), (None, None));
        assert_eq!(
            (read("ICMP/8").icmp_type, read("ICMP/8").icmp_code),
            (Some(8), None)
        );
        assert_eq!(
            (read("ICMPv6/128:1").icmp_type, read("ICMPv6/128:1").icmp_code),
            (Some(128), Some(1))
        );
        assert_eq!(read("47").protocol, Protocol::from_number(47));
        for text in [
            "",
            "TCP",
            "TCP/",
            "TCP/0",
            "TCP/70000",
            "TCP/Http",
            "FOO/1",
            "ICMP/256",
            "ICMP/8:x",
            "47/1",
        ] {
            assert!(parse_what(text).is_err(), "{text}");
        }
    }
}
