//! Settings that are one of a few words, whatever the case.

use super::{Invalid, Parser};
use std::marker::PhantomData;

/// A closed list of words.
pub trait Choice: Copy + Clone + std::fmt::Debug + PartialEq + 'static {
    /// Every word with its meaning; the first is what a value has before anything is read.
    const WORDS: &'static [(&'static str, Self)];
}

fn find<C: Choice>(raw: &str) -> Result<C, Invalid> {
    match C::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(raw)) {
        Some((_, choice)) => Ok(*choice),
        None => Err(Invalid(format!("it is not one of {}", words::<C>()))),
    }
}

fn words<C: Choice>() -> String {
    let all: Vec<&str> = C::WORDS.iter().map(|(word, _)| *word).collect();
    all.join(", ")
}

fn word<C: Choice>(choice: C) -> &'static str {
    C::WORDS
        .iter()
        .find(|(_, other)| *other == choice)
        .map_or("", |(word, _)| word)
}

/// One of the words; `none` is not among them.
#[derive(Debug)]
pub struct OneOf<C>(PhantomData<C>);

impl<C: Choice> Parser for OneOf<C> {
    type Value = C;
    const HAS_EMPTY: bool = false;

    fn parse(raw: &str) -> Result<C, Invalid> {
        find(raw)
    }
    fn empty() -> C {
        C::WORDS[0].1
    }
    fn show(value: &C) -> String {
        word(*value).to_owned()
    }
    fn expected() -> String {
        format!("one of {}", words::<C>())
    }
}

/// One of the words, or `none`.
#[derive(Debug)]
pub struct OneOfOrNone<C>(PhantomData<C>);

impl<C: Choice> Parser for OneOfOrNone<C> {
    type Value = Option<C>;

    fn parse(raw: &str) -> Result<Option<C>, Invalid> {
        find(raw).map(Some)
    }
    fn empty() -> Option<C> {
        None
    }
    fn show(value: &Option<C>) -> String {
        value.map_or("none", word).to_owned()
    }
    fn expected() -> String {
        format!("one of {}, or none", words::<C>())
    }
}

/// Declares enums of words.
macro_rules! choices {
    ($( $(#[$doc:meta])+ $name:ident { $( $(#[$inner:meta])+ $variant:ident = $word:literal, )+ } )+) => { $(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $( $(#[$inner])+ $variant, )+ }

        impl Choice for $name {
            const WORDS: &'static [(&'static str, Self)] = &[ $( ($word, $name::$variant), )+ ];
        }
    )+ };
}

choices! {
    /// How grave a message must be to be written.
    LogSeverity {
        /// Everything, packets included.
        Trace = "TRACE",
        /// What helps to find a defect.
        Debug = "DEBUG",
        /// What changed.
        Info = "INFO",
        /// What an operator should look at.
        Warning = "WARNING",
        /// What failed.
        Error = "ERROR",
        /// What ended the agent.
        Fatal = "FATAL",
    }
    /// How a log line is written.
    LogFormat {
        /// A line for people: time, level, place, message and `key=value`.
        Text = "Text",
        /// One JSON object a line.
        Json = "JSON",
    }
    /// Where the model is kept.
    DatastoreKind {
        /// A folder of YAML documents.
        File = "file",
        /// The Kubernetes API.
        Kubernetes = "kubernetes",
        /// An etcd cluster, version 3.
        Etcd = "etcdv3",
    }
    /// What happens to established flows when policy changes.
    FlowsOnPolicyChange {
        /// They go on.
        Keep = "Keep",
        /// They are judged anew, and end if they are denied.
        Recheck = "Recheck",
    }
    /// What happens to a workload's traffic to its own node that its egress policy allows.
    EndpointToHostAction {
        /// It is dropped.
        Drop = "DROP",
        /// The rest of the host's own rules decide.
        Return = "RETURN",
        /// It is accepted.
        Accept = "ACCEPT",
    }
    /// What is done with a packet that policy allows.
    AllowAction {
        /// It is accepted.
        Accept = "ACCEPT",
        /// The rest of the host's own rules decide.
        Return = "RETURN",
    }
    /// What is done with a packet that policy denies.
    DenyAction {
        /// It is dropped without a word.
        Drop = "DROP",
        /// The sender is told.
        Reject = "REJECT",
    }
    /// Whether policy is held in nftables.
    NftablesMode {
        /// Always.
        Enabled = "Enabled",
        /// Never: in iptables.
        Disabled = "Disabled",
        /// As kube-proxy and the kernel have it.
        Auto = "Auto",
    }
    /// Where rules are put in chains that others share.
    InsertMode {
        /// Before theirs.
        Insert = "insert",
        /// Behind theirs.
        Append = "append",
    }
    /// Which iptables is used.
    IptablesVariant {
        /// The one in the kernel since always.
        Legacy = "legacy",
        /// The one that speaks nftables.
        Nft = "nft",
        /// What the host uses.
        Auto = "auto",
    }
    /// How etcd is spoken to.
    EtcdScheme {
        /// In the clear.
        Http = "http",
        /// Encrypted.
        Https = "https",
    }
    /// A switch that is written in words.
    Switch {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }
    /// Where outgoing traffic goes that keeps its own source address.
    NatExclusions {
        /// To addresses of IP pools.
        PoolsOnly = "IPPoolsOnly",
        /// To these and to the nodes.
        PoolsAndNodes = "IPPoolsAndHostIPs",
    }
    /// What happens to packets for Service addresses that no Service takes.
    ServiceLoopPrevention {
        /// They are dropped.
        Drop = "Drop",
        /// They are refused.
        Reject = "Reject",
        /// They are left alone.
        Disabled = "Disabled",
    }
    /// Whether a workload may be allowed to send with addresses that are not its own.
    SpoofingAllowed {
        /// No workload may.
        Disabled = "Disabled",
        /// Those may that say so in an annotation.
        Any = "Any",
    }
}
