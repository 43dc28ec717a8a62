//! Names of network interfaces: prefixes of ours, and filters of those that are not.

use super::name::made_of;
use super::{Invalid, Parser};

/// Characters beside letters and digits that an interface name may have here.
const NAME_PUNCTUATION: &str = ":._+-";
/// The longest interface name that the kernel takes (IFNAMSIZ without its end mark).
const LONGEST_NAME: usize = 15;

fn is_name(raw: &str) -> bool {
    made_of(raw, NAME_PUNCTUATION, LONGEST_NAME)
}

/// Prefixes of interface names, separated by commas.
#[derive(Debug)]
pub struct InterfacePrefixList;

impl Parser for InterfacePrefixList {
    type Value = Vec<String>;

    fn parse(raw: &str) -> Result<Vec<String>, Invalid> {
        raw.split(',')
            .map(|prefix| match is_name(prefix) {
                true => Ok(prefix.to_owned()),
                false => Err(Invalid(format!(
                    "{prefix:?} cannot begin the name of an interface"
                ))),
            })
            .collect()
    }
    fn empty() -> Vec<String> {
        Vec::new()
    }
    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }
    fn expected() -> String {
        "prefixes of interface names, separated by commas, such as cali or cali,tap".to_owned()
    }
}

/// One interface name, or the iptables form of a prefix (`eth+`).
#[derive(Debug)]
pub struct InterfacePattern;

impl Parser for InterfacePattern {
    type Value = String;

    fn parse(raw: &str) -> Result<String, Invalid> {
        match is_name(raw) {
            true => Ok(raw.to_owned()),
            false => Err(Invalid::new("it cannot be the name of an interface")),
        }
    }
    fn empty() -> String {
        String::new()
    }
    fn show(value: &String) -> String {
        value.clone()
    }
    fn expected() -> String {
        "the name of an interface".to_owned()
    }
}

/// One interface filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceFilter {
    /// The interface of exactly this name.
    Name(String),
    /// Interfaces whose name matches this regular expression, which is kept as text.
    Pattern(String),
}

/// Interface names, and regular expressions between slashes, separated by commas.
#[derive(Debug)]
pub struct InterfaceFilterList;

impl Parser for InterfaceFilterList {
    type Value = Vec<InterfaceFilter>;

    fn parse(raw: &str) -> Result<Vec<InterfaceFilter>, Invalid> {
        raw.split(',')
            .map(|part| {
                let between = part.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
                match between {
                    Some(pattern) if !pattern.is_empty() => Ok(InterfaceFilter::Pattern(pattern.to_owned())),
                    None if is_name(part) => Ok(InterfaceFilter::Name(part.to_owned())),
                    _ => Err(Invalid(format!(
                        "{part:?} is neither an interface name nor /a regular expression/"
                    ))),
                }
            })
            .collect()
    }
    fn empty() -> Vec<InterfaceFilter> {
        Vec::new()
    }
    fn show(value: &Vec<InterfaceFilter>) -> String {
        let parts: Vec<String> = value
            .iter()
            .map(|filter| match filter {
                InterfaceFilter::Name(name) => name.clone(),
                InterfaceFilter::Pattern(pattern) => format!("/{pattern}/"),
            })
            .collect();
        parts.join(",")
    }
    fn expected() -> String {
        "interface names and /regular expressions/, separated by commas".to_owned()
    }
}
