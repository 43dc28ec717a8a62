//! Which value of each setting holds, what a bad one does, and what changed since the last reading.

use super::demands;
use super::elsewhere::known_elsewhere;
use super::file::{self, ConfigFileError};
use super::layer::{Layer, Source, Written};
use super::registry::{REGISTRY, Settings};
use super::table::Definition;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use thiserror::Error;

/// What stands in place of a value that must not be seen.
const HIDDEN: &str = "(hidden)";

/// Why there are no settings to start with.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The configuration file could not be read.
    #[error(transparent)]
    File(#[from] ConfigFileError),
    /// A value that the agent cannot do without was refused.
    #[error("{place}: {setting} cannot be {value}: {reason}; write {expected}")]
    Refused {
        /// Where it was written.
        place: String,
        /// The setting's name.
        setting: &'static str,
        /// The value in quotation marks, unless it is secret.
        value: String,
        /// Why it was refused.
        reason: String,
        /// What would be right.
        expected: String,
    },
    /// The settings ask together for what cannot be done.
    #[error("{}", .0.join("; "))]
    Unmet(Vec<String>),
}

/// Something that an operator should know and that does not stop the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A value was refused and the default holds.
    Replaced {
        /// Where it was written.
        place: String,
        /// The setting's name.
        setting: &'static str,
        /// The value in quotation marks, unless it is secret.
        value: String,
        /// Why it was refused.
        reason: String,
        /// The default that holds; none if another source's value holds anyway.
        default: Option<String>,
    },
    /// A setting that only the environment or the file may set was set in the datastore.
    OnlyLocal {
        /// Where it was written.
        place: String,
        /// The setting's name.
        setting: &'static str,
    },
    /// Settings that Calico knows and that have no effect here.
    NoEffect(BTreeSet<&'static str>),
    /// A name that nobody knows.
    Unknown {
        /// Where it was written.
        place: String,
        /// The name.
        name: String,
        /// A setting whose name is nearly the same.
        meant: Option<&'static str>,
    },
    /// One source sets the same name twice; the later one holds.
    Repeated {
        /// Where the one was written that does not hold.
        place: String,
        /// The name.
        name: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Replaced {
                place,
                setting,
                value,
                reason,
                default: Some(default),
            } => {
                write!(
                    f,
                    "{place}: {setting} cannot be {value}: {reason}; the default {default:?} holds"
                )
            }
            Notice::Replaced {
                place,
                setting,
                value,
                reason,
                default: None,
            } => {
                write!(
                    f,
                    "{place}: {setting} cannot be {value}: {reason}; another source sets it"
                )
            }
            Notice::OnlyLocal { place, setting } => write!(
                f,
                "{place}: {setting} is only taken from the environment and the configuration file, and is ignored here"
            ),
            Notice::NoEffect(names) => {
                let names: Vec<&str> = names.iter().copied().collect();
                write!(
                    f,
                    "these settings are known from Calico and have no effect here: {}",
                    names.join(", ")
                )
            }
            Notice::Unknown {
                place,
                name,
                meant: None,
            } => write!(f, "{place}: there is no setting {name:?}; ignored"),
            Notice::Unknown {
                place,
                name,
                meant: Some(meant),
            } => {
                write!(
                    f,
                    "{place}: there is no setting {name:?}; ignored; {meant} may be meant"
                )
            }
            Notice::Repeated { place, name } => {
                write!(f, "{place}: {name:?} is set again by the same source; ignored")
            }
        }
    }
}

/// One setting as it holds, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The name.
    pub name: &'static str,
    /// The value as it would be written; secrets are hidden.
    pub value: String,
    /// Whose value it is.
    pub source: Source,
    /// Where exactly it was written.
    pub place: String,
}

/// One setting that has another value than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name.
    pub name: &'static str,
    /// The value before; secrets are hidden.
    pub before: String,
    /// The value now; secrets are hidden.
    pub after: String,
}

/// The outcome of a reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    /// The settings.
    pub settings: Settings,
    /// Every setting with its source, in the order of the table.
    pub effective: Vec<EffectiveSetting>,
    /// What an operator should know.
    pub notices: Vec<Notice>,
}

impl Resolution {
    /// Which settings have another value than in an earlier reading. A new source of the same value is no change.
    pub fn changes_since(&self, before: &Resolution) -> Vec<Change> {
        let shown = |row: &Definition, settings: &Settings| match row.flags.secret {
            true => HIDDEN.to_owned(),
            false => (row.show)(settings),
        };
        REGISTRY
            .iter()
            .filter(|row| (row.show)(&self.settings) != (row.show)(&before.settings))
            .map(|row| Change {
                name: row.name,
                before: shown(row, &before.settings),
                after: shown(row, &self.settings),
            })
            .collect()
    }
}

/// All sources together.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    layers: BTreeMap<Source, Layer>,
    host_name: Option<String>,
}

impl Layers {
    /// No source but the agent's own defaults and the host's name.
    pub fn new(host_name: Option<String>) -> Self {
        Layers {
            layers: BTreeMap::new(),
            host_name,
        }
    }

    /// The sources that are there before the datastore is: the file and the environment.
    ///
    /// # Errors
    /// When the configuration file is there and cannot be read.
    pub fn at_start(
        config_file: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        host_name: Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut layers = Layers::new(host_name);
        layers.put(file::read(config_file)?);
        layers.put(Layer::from_environment(environment));
        Ok(layers)
    }

    /// Puts a source in place of what it set before.
    pub fn put(&mut self, layer: Layer) {
        self.layers.insert(layer.source, layer);
    }

    /// Takes a source away.
    pub fn remove(&mut self, source: Source) {
        self.layers.remove(&source);
    }

    /// Whether one of these sources has a value that was written at a place.
    pub(super) fn is_written_in(&self, sources: &[Source], place: &str) -> bool {
        let of_sources = sources.iter().filter_map(|source| self.layers.get(source));
        of_sources
            .flat_map(|layer| layer.values().values())
            .any(|w| w.place == place)
    }

    /// Leaves the value out that was written at a place of these sources; says whether there was one.
    pub(super) fn leave_out(&mut self, sources: &[Source], place: &str) -> bool {
        sources.iter().any(|source| {
            self.layers
                .get_mut(source)
                .is_some_and(|layer| layer.leave_out(place))
        })
    }

    /// Finds out which values hold.
    ///
    /// # Errors
    /// When a value that holds is refused and the setting has no harmless default, when `none` holds for a setting
    /// that needs a value, or when the settings cannot be honoured together.
    pub fn resolve(&self) -> Result<Resolution, SettingsError> {
        let mut settings = Settings::built_in();
        let mut notices = self.unread_names();
        let mut effective = Vec::with_capacity(REGISTRY.len());
        for row in REGISTRY {
            let key = row.name.to_ascii_lowercase();
            let mut holds = None;
            for layer in self.layers.values().rev() {
                let Some(written) = layer.values().get(&key) else {
                    continue;
                };
                if row.flags.local && !layer.source.is_local() {
                    notices.push(Notice::OnlyLocal {
                        place: written.place.clone(),
                        setting: row.name,
                    });
                } else if holds.is_none() {
                    apply(row, written, &mut settings, &mut notices)?;
                    holds = Some((layer.source, written.place.clone()));
                } else if let Err(reason) = would_refuse(row, written) {
                    notices.push(replaced(row, written, reason, None));
                }
            }
            let (source, place) = holds.unwrap_or((Source::BuiltIn, Source::BuiltIn.to_string()));
            if row.name == "FelixHostname" && settings.felix_hostname.is_empty() {
                settings.felix_hostname = self
                    .host_name
                    .clone()
                    .unwrap_or_default()
                    .trim()
                    .to_ascii_lowercase();
            }
            let value = match row.flags.secret && !(row.show)(&settings).is_empty() {
                true => HIDDEN.to_owned(),
                false => (row.show)(&settings),
            };
            effective.push(EffectiveSetting {
                name: row.name,
                value,
                source,
                place,
            });
        }
        let unmet = demands::unmet(&settings);
        if !unmet.is_empty() {
            return Err(SettingsError::Unmet(unmet));
        }
        Ok(Resolution {
            settings,
            effective,
            notices,
        })
    }

    /// Notices about names: those that are not in the table, those without effect, those given twice.
    fn unread_names(&self) -> Vec<Notice> {
        let mut without_effect = BTreeSet::new();
        let mut notices = Vec::new();
        for layer in self.layers.values().rev() {
            for written in layer.repeated() {
                notices.push(Notice::Repeated {
                    place: written.place.clone(),
                    name: written.name.clone(),
                });
            }
            for (key, written) in layer.values() {
                let row = REGISTRY.iter().find(|row| row.name.eq_ignore_ascii_case(key));
                match (row, known_elsewhere(key)) {
                    (Some(row), _) if row.flags.inert => drop(without_effect.insert(row.name)),
                    (Some(_), _) => {}
                    (None, Some(name)) => drop(without_effect.insert(name)),
                    (None, None) => notices.push(Notice::Unknown {
                        place: written.place.clone(),
                        name: written.name.clone(),
                        meant: nearest(key),
                    }),
                }
            }
        }
        if !without_effect.is_empty() {
            notices.push(Notice::NoEffect(without_effect));
        }
        notices
    }
}

/// Puts the value that holds into the settings, or the default in its place if that is harmless.
fn apply(
    row: &'static Definition,
    written: &Written,
    settings: &mut Settings,
    notices: &mut Vec<Notice>,
) -> Result<(), SettingsError> {
    let none = written.value.eq_ignore_ascii_case("none");
    if none && !row.flags.non_zero {
        (row.clear)(settings);
        return Ok(());
    }
    let reason = match none {
        true => "it needs a value".to_owned(),
        false => match (row.put)(settings, &written.value) {
            Ok(()) => return Ok(()),
            Err(reason) => reason.to_string(),
        },
    };
    // Asking for nothing where there must be something is a decision that no default can stand for.
    if none || row.flags.die_on_fail {
        return Err(SettingsError::Refused {
            place: written.place.clone(),
            setting: row.name,
            value: quoted(row, written),
            reason,
            expected: (row.expected)(),
        });
    }
    (row.reset)(settings);
    notices.push(replaced(row, written, reason, Some((row.show)(settings))));
    Ok(())
}

/// Why a value that does not hold anyway would be refused.
fn would_refuse(row: &Definition, written: &Written) -> Result<(), String> {
    if written.value.eq_ignore_ascii_case("none") {
        return if row.flags.non_zero {
            Err("it needs a value".to_owned())
        } else {
            Ok(())
        };
    }
    (row.put)(&mut Settings::built_in(), &written.value).map_err(|reason| reason.to_string())
}

fn replaced(row: &'static Definition, written: &Written, reason: String, default: Option<String>) -> Notice {
    Notice::Replaced {
        place: written.place.clone(),
        setting: row.name,
        value: quoted(row, written),
        reason,
        default,
    }
}

fn quoted(row: &Definition, written: &Written) -> String {
    match row.flags.secret {
        true => HIDDEN.to_owned(),
        false => format!("{:?}", written.value),
    }
}

/// The setting whose name differs in at most two letters.
fn nearest(key: &str) -> Option<&'static str> {
    REGISTRY
        .iter()
        .map(|row| (distance(key, &row.name.to_ascii_lowercase()), row.name))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be added, left out or replaced to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    // Names from outside may be of any length; one that is much longer is near to nothing.
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, against) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != against);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
