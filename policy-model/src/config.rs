//! Settings of the agents, as a resource.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Settings by their serialised names (`logSeverityScreen`, `defaultEndpointToHostAction`, ...).
///
/// The agent knows the names, types and defaults; the resource keeps whatever was written, so that an agent of
/// another version loses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FelixConfigurationSpec {
    /// The settings.
    pub settings: BTreeMap<String, Value>,
}
