//! What was asked of the agent: every setting, where it may come from, and what a bad value does.
//!
//! Names, types, precedence and error behaviour are those of Calico's Felix, so that an existing `felix.cfg`, a
//! DaemonSet's `FELIX_*` variables and a FelixConfiguration resource carry over. Precedence, high to low: internal
//! overrides, the environment, the configuration file, FelixConfiguration `node.<name>`, FelixConfiguration `default`,
//! what is built in.
//!
//! | room | what it does |
//! |---|---|
//! | [`registry`] | the one table of names, types, defaults and flags, and the typed [`Settings`] made from it |
//! | [`parse`] | one parser for each type |
//! | [`layer`] | the sources, and the environment as one |
//! | [`file`] | the configuration file |
//! | [`resource`] | FelixConfiguration |
//! | [`cluster`] | FelixConfiguration as it is followed while the agent runs |
//! | [`resolve`] | precedence, fatal values and fall-backs, differences between two readings |
//! | [`demands`] | what no parser sees: combinations that cannot be honoured |
//! | [`elsewhere`] | names that Calico knows and that mean nothing here |

pub mod cluster;
pub mod demands;
pub mod elsewhere;
pub mod file;
pub mod layer;
pub mod parse;
pub mod registry;
pub mod resolve;
pub mod resource;
mod table;

pub use cluster::{ClusterSettings, Judgement, Verdict};
pub use file::DEFAULT_CONFIG_FILE;
pub use layer::{Layer, Source};
pub use registry::Settings;
pub use resolve::{Change, EffectiveSetting, Layers, Notice, Resolution, SettingsError};
pub use table::{Definition, Flags};

#[cfg(test)]
mod tests;
