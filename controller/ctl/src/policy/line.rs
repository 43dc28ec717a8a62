//! One answer as programs read it: a contract with people's pipelines, the same from `simulate` and `lab probe`.

use super::answer::Answer;
use super::flow::{WrittenFlow, WrittenPort};
use policy_model::Protocol;
use policy_model_rules::oracle::{Direction, Verdict};
use serde::Serialize;

/// One answer, as programs read it. The fields and their order are part of the contract.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    from: &'a str,
    to: &'a str,
    #[serde(serialize_with = "as_text")]
    protocol: Protocol,
    port: Option<&'a WrittenPort>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    verdict: Verdict,
    side: Option<Direction>,
    policy: Option<&'a str>,
    rule: Option<usize>,
    reason: &'a str,
    expect: Option<Verdict>,
    ok: bool,
}

/// A protocol is text here, with a name or not.
fn as_text<S: serde::Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(protocol)
}

impl<'a> Line<'a> {
    /// A flow and its answer; `ok` says whether what was expected holds.
    pub fn of(flow: &'a WrittenFlow, answer: &'a Answer, ok: bool) -> Self {
        Line {
            from: &flow.from,
            to: &flow.to,
            protocol: flow.protocol,
            port: flow.port.as_ref(),
            icmp_type: flow.icmp_type,
            code: flow.icmp_code,
            verdict: answer.verdict,
            side: answer.side,
            policy: answer.policy.as_deref(),
            rule: answer.rule,
            reason: &answer.reason,
            expect: flow.expect,
            ok,
        }
    }
}
