//! How one row of the table of settings becomes a field, a definition and three functions.
//!
//! A macro, because the type of a field, its parser and its default must not be able to drift apart.

use super::parse::{Invalid, Shape};
use super::registry::Settings;

/// What a setting demands beyond its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The value `none` is refused, whatever the source: the agent cannot work without one.
    pub non_zero: bool,
    /// A value that cannot be read stops the agent, because the default could do harm in its place.
    pub die_on_fail: bool,
    /// Only the environment and the configuration file may set it: it is needed before the datastore can be read.
    pub local: bool,
    /// The value is checked, and has no effect in this version.
    pub inert: bool,
    /// The value may hold a password and is never shown or logged.
    pub secret: bool,
}

impl Flags {
    /// No demand.
    pub const NONE: Flags = Flags {
        non_zero: false,
        die_on_fail: false,
        local: false,
        inert: false,
        secret: false,
    };
}

/// One setting: name, type, default and demands.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The name, in Calico's spelling.
    pub name: &'static str,
    /// The field of [`Settings`] that has it.
    pub field: &'static str,
    /// The default, as it would be written in the configuration file. Empty means: nothing.
    pub default: &'static str,
    /// What it demands beyond its type.
    pub flags: Flags,
    /// What it is for.
    pub purpose: &'static str,
    /// What a value must look like, for messages.
    pub expected: fn() -> String,
    /// Which forms a FelixConfiguration resource may use for it.
    pub shape: Shape,
    /// Whether the type has a value that means nothing. A type without one must be `non_zero`.
    pub has_empty: bool,
    pub(super) put: fn(&mut Settings, &str) -> Result<(), Invalid>,
    pub(super) clear: fn(&mut Settings),
    pub(super) reset: fn(&mut Settings),
    pub(super) show: fn(&Settings) -> String,
}

/// The value that a default's text stands for.
///
/// A default that cannot be read would be a defect of the table, which a test rules out; the agent then starts with
/// the empty value in place of ending.
pub(super) fn built_in<P: super::parse::Parser>(text: &str) -> P::Value {
    if text.is_empty() {
        return P::empty();
    }
    P::parse(text).unwrap_or_else(|_| P::empty())
}

/// Makes [`Settings`] and the list of definitions from rows of `Name field: Type = "default" [flags];`.
macro_rules! settings_table {
    ($( $(#[doc = $doc:literal])+ $name:ident $field:ident : $parser:ty = $default:literal [$($flag:ident)*]; )*) => {
        /// Every setting with its value.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $field: <$parser as Parser>::Value, )*
        }

        impl Settings {
            /// The settings when nothing is set anywhere.
            pub fn built_in() -> Self {
                Settings { $( $field: built_in::<$parser>($default), )* }
            }
        }

        /// The table: one definition for each setting, in the order of this file.
        pub static REGISTRY: &[Definition] = &[ $(
            Definition {
                name: stringify!($name),
                field: stringify!($field),
                default: $default,
                flags: Flags { $( $flag: true, )* ..Flags::NONE },
                purpose: concat!($($doc),+),
                expected: <$parser as Parser>::expected,
                shape: <$parser as Parser>::SHAPE,
                has_empty: <$parser as Parser>::HAS_EMPTY,
                put: |settings, raw| {
                    settings.$field = <$parser as Parser>::parse(raw)?;
                    Ok(())
                },
                clear: |settings| settings.$field = <$parser as Parser>::empty(),
                reset: |settings| settings.$field = built_in::<$parser>($default),
                show: |settings| <$parser as Parser>::show(&settings.$field),
            },
        )* ];
    };
}
pub(super) use settings_table;
