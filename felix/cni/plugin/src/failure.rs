//! The error document of the CNI specification: a code, a sentence, and what else helps.

use felix_cni_protocol::{CallError, code};
use serde_json::{Value, json};
use std::fmt::Display;

/// The sandbox is not one that may be worked on (code 8 of the reference library).
const INVALID_NAMESPACE: u32 = 8;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    /// What is wrong where.
    pub(crate) message: String,
    /// What else helps; may be empty.
    pub(crate) details: String,
}

impl Failure {
    fn new(code: u32, message: impl Display) -> Self {
        Failure {
            code,
            message: message.to_string(),
            details: String::new(),
        }
    }

    pub(crate) fn with_details(mut self, details: impl Display) -> Self {
        self.details = details.to_string();
        self
    }

    /// A version that is not supported, or that does not have the command.
    pub(crate) fn version(message: impl Display) -> Self {
        Self::new(code::INCOMPATIBLE_VERSION, message)
    }

    /// A field asks for what there is not.
    pub(crate) fn unsupported(field: &str, reason: impl Display) -> Self {
        Self::new(code::UNSUPPORTED_FIELD, format!("field {field}: {reason}"))
    }

    /// The sandbox is not there.
    pub(crate) fn unknown_sandbox(message: impl Display) -> Self {
        Self::new(code::UNKNOWN_SANDBOX, message)
    }

    /// An environment variable lacks or is wrong.
    pub(crate) fn environment(variable: &str, reason: impl Display) -> Self {
        Self::new(code::INVALID_REQUEST, format!("{variable}: {reason}"))
    }

    /// Something could not be read or written.
    pub(crate) fn io(what: impl Display, error: impl Display) -> Self {
        Self::new(code::IO, format!("{what}: {error}"))
    }

    /// The network configuration could not be read.
    pub(crate) fn input(error: &std::io::Error) -> Self {
        Self::io("reading the network configuration from standard input", error)
    }

    /// The network configuration is no JSON.
    pub(crate) fn decode(message: impl Display) -> Self {
        Self::new(code::DECODE, message)
    }

    /// A field of the network configuration is wrong.
    pub(crate) fn configuration(field: &str, reason: impl Display) -> Self {
        Self::new(code::INVALID_CONFIGURATION, format!("field {field}: {reason}"))
    }

    /// The sandbox is the node itself.
    pub(crate) fn own_namespace(message: impl Display) -> Self {
        Self::new(INVALID_NAMESPACE, message)
    }

    /// The interface is not as it should be.
    pub(crate) fn kernel(message: impl Display) -> Self {
        Self::new(code::KERNEL, message)
    }

    /// The node cannot connect pods now.
    pub(crate) fn not_available(message: impl Display) -> Self {
        Self::new(code::NOT_AVAILABLE, message)
    }

    /// It may go well later.
    pub(crate) fn again(message: impl Display) -> Self {
        Self::new(code::TRY_AGAIN, message)
    }

    /// The document.
    pub(crate) fn document(&self, version: &str) -> Value {
        let mut document = json!({"cniVersion": version, "code": self.code, "msg": self.message});
        if !self.details.is_empty() {
            document["details"] = Value::from(self.details.as_str());
        }
        document
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refused) => Self::new(refused.code, refused.message),
            CallError::Away {
                path,
                seconds,
                reason,
            } => Self::new(
                code::TRY_AGAIN,
                format!("felix, the agent on this node, does not answer at {path} within {seconds} s"),
            )
            .with_details(format!(
                "{reason}; see whether the agent's pod on this node runs and is ready"
            )),
        }
    }
}
