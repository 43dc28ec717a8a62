//! The sources of settings, one layer each, and the environment as one of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

/// Variables that Calico's manifests set for all of its parts, and the settings that they are for.
pub const COMMON_VARIABLES: [(&str, &str); 2] =
    [("DATASTORE_TYPE", "DatastoreType"), ("NODENAME", "FelixHostname")];

/// Where a value comes from. The order is the precedence: what is greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The agent's own defaults, and the host's name.
    BuiltIn,
    /// The FelixConfiguration resource `default`.
    ClusterDefault,
    /// The FelixConfiguration resource `node.<name of this node>`.
    Node,
    /// The configuration file.
    File,
    /// Environment variables `FELIX_<name>`.
    Environment,
    /// What the agent itself insists on.
    Override,
}

impl Source {
    /// Whether local settings may come from here: they are needed before the datastore can be read.
    pub fn is_local(self) -> bool {
        match self {
            Source::BuiltIn | Source::File | Source::Environment | Source::Override => true,
            Source::ClusterDefault | Source::Node => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::BuiltIn => "default",
            Source::ClusterDefault => "FelixConfiguration default",
            Source::Node => "FelixConfiguration of the node",
            Source::File => "configuration file",
            Source::Environment => "environment",
            Source::Override => "override",
        })
    }
}

/// One value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The name as it was written.
    pub name: String,
    /// The place, for messages: `environment variable FELIX_X`, `/etc/calico/felix.cfg line 3`, ...
    pub place: String,
    /// The value.
    pub value: String,
}

/// What one source sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The source.
    pub source: Source,
    values: BTreeMap<String, Written>,
    repeated: Vec<Written>,
}

impl Layer {
    /// A layer that sets nothing.
    pub fn new(source: Source) -> Self {
        Layer {
            source,
            values: BTreeMap::new(),
            repeated: Vec::new(),
        }
    }

    /// Adds a value; of several for one name, whatever the case, the last holds.
    pub fn put(&mut self, name: impl Into<String>, place: impl Into<String>, value: impl Into<String>) {
        let written = Written {
            name: name.into(),
            place: place.into(),
            value: value.into(),
        };
        let key = written.name.to_ascii_lowercase();
        if let Some(earlier) = self.values.insert(key, written) {
            self.repeated.push(earlier);
        }
    }

    /// The same, for values that come from inside.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        let place = self.source.to_string();
        self.put(name, place, value);
        self
    }

    /// The values by their names in lower case.
    pub fn values(&self) -> &BTreeMap<String, Written> {
        &self.values
    }

    /// Leaves the value out that was written at a place; says whether there was one.
    pub(super) fn leave_out(&mut self, place: &str) -> bool {
        let before = self.values.len();
        self.values.retain(|_, written| written.place != place);
        self.values.len() < before
    }

    /// Values that a later one in the same source replaced.
    pub fn repeated(&self) -> &[Written] {
        &self.repeated
    }

    /// The layer of the environment: `FELIX_<name>`, in any case, and where that says nothing the names that Calico's
    /// manifests give to all parts alike ([`COMMON_VARIABLES`]).
    ///
    /// Variables are taken in the order of their names, so that two spellings of one name give the same result
    /// every time. Bytes that are no text are replaced, and the parsers refuse what that leaves.
    pub fn from_environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        const PREFIX: &str = "FELIX_";
        let (mut found, mut common) = (Vec::new(), Vec::new());
        for (variable, value) in variables {
            let variable = variable.to_string_lossy().into_owned();
            let value = value.to_string_lossy().into_owned();
            let start = variable.get(..PREFIX.len());
            if start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)) {
                found.push((variable, value));
            } else if let Some((_, setting)) = COMMON_VARIABLES.iter().find(|(name, _)| *name == variable) {
                common.push((*setting, variable, value));
            }
        }
        found.sort();
        let mut layer = Layer::new(Source::Environment);
        for (setting, variable, value) in common {
            let is_said = |name: &str| name[PREFIX.len()..].eq_ignore_ascii_case(setting);
            if !value.is_empty() && !found.iter().any(|(name, _)| is_said(name)) {
                layer.put(setting, format!("environment variable {variable}"), value);
            }
        }
        for (variable, value) in found {
            layer.put(
                &variable[PREFIX.len()..],
                format!("environment variable {variable}"),
                value,
            );
        }
        layer
    }
}
