//! FelixConfiguration as it is followed while the agent runs. Pure.
//!
//! A value there that cannot be is not allowed to stop an agent that runs: what is in force stays in force, and the
//! value is named once. At a start nothing is in force yet, so that such a value is left out and the next source holds.

use super::layer::Source;
use super::registry::{REGISTRY, Settings};
use super::resolve::{Change, Layers, Notice, Resolution, SettingsError};
use super::resource;
use policy_model::FelixConfigurationSpec;
use std::collections::BTreeSet;

/// The sources that are kept in the datastore.
const CLUSTER: [Source; 2] = [Source::ClusterDefault, Source::Node];

/// All sources of settings, of which those in the datastore may change.
#[derive(Debug)]
pub struct ClusterSettings {
    layers: Layers,
    node: String,
    in_force: Resolution,
    /// What was said already, so that it is said once.
    said: BTreeSet<String>,
    /// Values that were refused at the start: they change nothing as long as they stay.
    refused_at_start: BTreeSet<String>,
}

/// What became of the settings after a change of the resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What an operator should hear of, each once.
    pub warnings: Vec<String>,
    /// What follows.
    pub verdict: Verdict,
}

/// Whether the settings in force are still what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are, as far as they have an effect.
    Same,
    /// Others are asked for; they take effect when the agent is started anew.
    Changed(Vec<Change>),
    /// Something is asked for that cannot be: what is in force stays.
    Refused,
}

impl ClusterSettings {
    /// The local sources, with the settings that they amount to.
    pub fn new(layers: Layers, local: Resolution) -> Self {
        ClusterSettings {
            layers,
            node: local.settings.felix_hostname.clone(),
            said: local.notices.iter().map(ToString::to_string).collect(),
            in_force: local,
            refused_at_start: BTreeSet::new(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.in_force.settings
    }

    /// Takes over a resource. One of another node is nothing to us.
    pub fn upsert(&mut self, name: &str, spec: &FelixConfigurationSpec) {
        if let Some(layer) = resource::layer(name, &self.node, spec) {
            self.layers.put(layer);
        }
    }

    /// Forgets a resource.
    pub fn delete(&mut self, name: &str) {
        if let Some(source) = resource::source_of(name, &self.node) {
            self.layers.remove(source);
        }
    }

    /// Puts into force what the resources say at the start. Returns what changed by that and what to say.
    ///
    /// # Errors
    /// When the settings cannot be honoured together, or a local one is refused.
    pub fn begin(&mut self) -> Result<(Vec<Change>, Vec<String>), SettingsError> {
        let reading = self.read()?;
        let changes = reading.resolution.changes_since(&self.in_force);
        self.in_force = reading.resolution;
        let mut warnings = Vec::new();
        for (text, rest) in &reading.refused {
            self.refused_at_start.insert(text.clone());
            warnings.push(format!("{text}; {rest}"));
        }
        warnings.extend(reading.others);
        warnings.retain(|text| self.said.insert(text.clone()));
        Ok((changes, warnings))
    }

    /// Holds what the resources say against what is in force.
    pub fn judge(&mut self) -> Judgement {
        let mut warnings = Vec::new();
        let verdict = match self.read() {
            Err(error) => {
                warnings.push(format!("{error}; what is in force stays in force"));
                Verdict::Refused
            }
            Ok(reading) => {
                warnings.extend(reading.others);
                let new: Vec<&String> = reading
                    .refused
                    .iter()
                    .map(|(text, _)| text)
                    .filter(|text| !self.refused_at_start.contains(*text))
                    .collect();
                warnings.extend(
                    new.iter()
                        .map(|text| format!("{text}; what is in force stays in force")),
                );
                let mut changes = reading.resolution.changes_since(&self.in_force);
                // A setting without effect is no reason to start anew.
                changes.retain(|change| !is_inert(change.name));
                match (new.is_empty(), changes.is_empty()) {
                    (false, _) => Verdict::Refused,
                    (true, true) => Verdict::Same,
                    (true, false) => Verdict::Changed(changes),
                }
            }
        };
        warnings.retain(|text| self.said.insert(text.clone()));
        Judgement { warnings, verdict }
    }

    fn read(&self) -> Result<Reading, SettingsError> {
        let mut layers = self.layers.clone();
        let mut refused = Vec::new();
        let resolution = loop {
            match layers.resolve() {
                Ok(resolution) => break resolution,
                Err(SettingsError::Refused {
                    place,
                    setting,
                    value,
                    reason,
                    expected,
                }) if layers.leave_out(&CLUSTER, &place) => {
                    let text = format!("{place}: {setting} cannot be {value}: {reason}; write {expected}");
                    refused.push((text, "it is left out".to_owned()));
                }
                Err(error) => return Err(error),
            }
        };
        let mut others = Vec::new();
        for notice in &resolution.notices {
            match notice {
                Notice::Replaced {
                    place,
                    setting,
                    value,
                    reason,
                    default: Some(default),
                } if self.layers.is_written_in(&CLUSTER, place) => {
                    let text = format!("{place}: {setting} cannot be {value}: {reason}");
                    refused.push((text, format!("the default {default:?} holds")));
                }
                other => others.push(other.to_string()),
            }
        }
        Ok(Reading {
            resolution,
            refused,
            others,
        })
    }
}

/// What the sources amount to.
struct Reading {
    resolution: Resolution,
    /// Values in the datastore that cannot be, each with what holds in its place at a start.
    refused: Vec<(String, String)>,
    /// What else there is to say.
    others: Vec<String>,
}

fn is_inert(name: &str) -> bool {
    REGISTRY.iter().any(|row| row.name == name && row.flags.inert)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Layer;
    use serde_json::{Value, json};

    fn spec(settings: &[(&str, Value)]) -> FelixConfigurationSpec {
        FelixConfigurationSpec {
            settings: settings
                .iter()
                .map(|(n, v)| ((*n).to_owned(), v.clone()))
                .collect(),
        }
    }

    fn begun(environment: &[(&str, &str)], default: &[(&str, Value)]) -> (ClusterSettings, Vec<String>) {
        let mut layers = Layers::new(Some("node-1".to_owned()));
        let mut layer = Layer::new(Source::Environment);
        for (name, value) in environment {
            layer.put(*name, format!("environment variable FELIX_{name}"), *value);
        }
        layers.put(layer);
        let local = layers.resolve().unwrap();
        let mut cluster = ClusterSettings::new(layers, local);
        cluster.upsert("default", &spec(default));
        let (_, warnings) = cluster.begin().unwrap();
        (cluster, warnings)
    }

    fn names(verdict: &Verdict) -> Vec<(&'static str, &str)> {
        match verdict {
            Verdict::Changed(changes) => changes.iter().map(|c| (c.name, c.after.as_str())).collect(),
            Verdict::Same | Verdict::Refused => Vec::new(),
        }
    }

    #[test]
    fn only_what_has_an_effect_here_is_a_change() {
        let (mut cluster, warnings) = begun(&[("HEALTHPORT", "9100")], &[("ipv6Support", json!(true))]);
        assert_eq!(
            warnings.len(),
            1,
            "a setting without effect is named: {warnings:?}"
        );
        let mut after = |name: &str, settings: &[(&str, Value)]| {
            cluster.upsert(name, &spec(settings));
            cluster.judge().verdict
        };
        assert_eq!(after("default", &[("ipv6Support", json!(true))]), Verdict::Same);
        assert_eq!(
            after("default", &[("ipv6Support", json!(false))]),
            Verdict::Same,
            "inert"
        );
        assert_eq!(
            after("default", &[("healthPort", json!(7))]),
            Verdict::Same,
            "the environment wins"
        );
        assert_eq!(
            after("node.node-2", &[("healthHost", json!("::1"))]),
            Verdict::Same,
            "another node's"
        );
        assert_eq!(
            after("default", &[("felixHostname", json!("x"))]),
            Verdict::Same,
            "only local"
        );
        let changed = after("default", &[("interfacePrefix", json!("cali,tap"))]);
        assert_eq!(names(&changed), [("InterfacePrefix", "cali,tap")]);
        let changed = after("node.node-1", &[("interfacePrefix", json!("tap"))]);
        assert_eq!(
            names(&changed),
            [("InterfacePrefix", "tap")],
            "that of the node wins"
        );
        assert_eq!(
            after("node.node-1", &[("interfacePrefix", json!("cali"))]),
            Verdict::Same
        );
        cluster.delete("node.node-1");
        cluster.delete("node.node-2");
        assert_eq!(names(&cluster.judge().verdict), [("InterfacePrefix", "cali,tap")]);
        cluster.delete("default");
        assert_eq!(cluster.judge().verdict, Verdict::Same);
    }

    #[test]
    fn a_value_that_cannot_be_changes_nothing_and_is_said_once() {
        for (field, value) in [
            ("interfacePrefix", json!("much-too-long-for-a-name")),
            ("healthPort", json!(99_999)),
            ("defaultEndpointToHostAction", json!("perhaps")),
            ("prometheusMetricsCertFile", json!("/etc/cert.pem")),
        ] {
            let (mut cluster, warnings) = begun(&[], &[("healthPort", json!(9100))]);
            assert!(warnings.is_empty(), "{warnings:?}");
            cluster.upsert("default", &spec(&[("healthHost", json!("::1")), (field, value)]));
            let judgement = cluster.judge();
            assert_eq!(judgement.verdict, Verdict::Refused, "{field}");
            let [said] = judgement.warnings.as_slice() else {
                panic!("{field}: {:?}", judgement.warnings)
            };
            assert!(said.to_lowercase().contains(&field.to_lowercase()), "{said}");
            assert!(said.ends_with("what is in force stays in force"), "{said}");
            let again = cluster.judge();
            assert_eq!((again.verdict, again.warnings), (Verdict::Refused, Vec::new()));
            assert_eq!(cluster.settings().health_port, 9100);
            // Mended, the rest holds.
            cluster.upsert(
                "default",
                &spec(&[("healthHost", json!("::1")), ("healthPort", json!(9100))]),
            );
            assert_eq!(names(&cluster.judge().verdict), [("HealthHost", "::1")]);
        }
    }

    #[test]
    fn at_a_start_a_value_that_cannot_be_is_left_out() {
        let settings = [
            ("interfacePrefix", json!("much-too-long-for-a-name")),
            ("healthPort", json!("far")),
            ("healthHost", json!("::1")),
        ];
        let (mut cluster, warnings) = begun(&[], &settings);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .any(|w| w.contains("spec.interfacePrefix") && w.ends_with("it is left out"))
        );
        assert!(
            warnings
                .iter()
                .any(|w| w.contains("spec.healthPort") && w.contains("default \"9099\" holds"))
        );
        assert_eq!(cluster.settings().health_host, "::1");
        assert_eq!(
            cluster.settings().interface_prefix,
            Settings::built_in().interface_prefix
        );
        // As long as it stays, it keeps nothing else from being followed.
        let judgement = cluster.judge();
        assert_eq!(
            (judgement.verdict, judgement.warnings),
            (Verdict::Same, Vec::new())
        );
        let mut other = settings.to_vec();
        other[2].1 = json!("127.0.0.1");
        cluster.upsert("default", &spec(&other));
        assert_eq!(names(&cluster.judge().verdict), [("HealthHost", "127.0.0.1")]);
    }
}
