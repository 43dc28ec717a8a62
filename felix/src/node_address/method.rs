//! The ways to find a node's address, by Calico's names for them.

use ipnet::IpNet;
use regex_lite::Regex;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// How a node's address is found where nobody states it.
#[derive(Clone, Debug)]
pub enum Method {
    /// `kubernetes-internal-ip`: the one that Kubernetes gives as the node's InternalIP.
    InternalIp,
    /// `first-found`: the first usable one, without the interfaces of virtual machines and containers.
    FirstFound,
    /// `can-reach=HOST`: the one from which a destination would be reached.
    CanReach(String),
    /// `interface=PATTERN,...`: the first of the first interface that fits a pattern, in the order of the patterns.
    Interface(Vec<Regex>),
    /// `skip-interface=PATTERN,...`: like `first-found`, without the interfaces that fit.
    SkipInterface(Vec<Regex>),
    /// `cidr=NET,...`: the first that lies in one of these networks.
    Cidr(Vec<IpNet>),
}

/// A text is no method.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no way to find a node's address: {reason}")]
pub struct InvalidMethod {
    text: String,
    reason: String,
}

impl FromStr for Method {
    type Err = InvalidMethod;

    fn from_str(text: &str) -> Result<Self, InvalidMethod> {
        let invalid = |reason: String| InvalidMethod {
            text: text.to_owned(),
            reason,
        };
        let list = |value: &str| {
            value
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let patterns = |value: &str| {
            let read = |part: &String| {
                if part.is_empty() {
                    return Err(invalid("a pattern is empty".to_owned()));
                }
                // As a whole, so that eth1 does not mean eth10 too.
                Regex::new(&format!("^(?:{part})$")).map_err(|error| invalid(error.to_string()))
            };
            list(value).iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        match text.split_once('=') {
            None if matches!(text, "kubernetes-internal-ip" | "") => Ok(Method::InternalIp),
            None if text == "first-found" => Ok(Method::FirstFound),
            Some(("can-reach", host)) if !host.is_empty() => Ok(Method::CanReach(host.to_owned())),
            Some(("interface", value)) => patterns(value).map(Method::Interface),
            Some(("skip-interface", value)) => patterns(value).map(Method::SkipInterface),
            Some(("cidr" | "cidrs", value)) => {
                let read = |part: &String| {
                    part.parse::<IpNet>()
                        .map(|net| net.trunc())
                        .map_err(|_| invalid(format!("{part:?} is no network")))
                };
                list(value)
                    .iter()
                    .map(read)
                    .collect::<Result<_, _>>()
                    .map(Method::Cidr)
            }
            _ => Err(invalid(
                "it is one of kubernetes-internal-ip, first-found, can-reach=HOST, interface=PATTERN, \
                 skip-interface=PATTERN and cidr=NET"
                    .to_owned(),
            )),
        }
    }
}

/// What is wanted of one family: a stated address, a way to find it, or none.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// No address is announced.
    None,
    /// This one.
    Stated(IpNet),
    /// One that is found.
    Found(Method),
}

/// The variables of a family do not say what is wanted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWish {
    /// The address is none, or of the other family.
    #[error(
        "{variable}: {value:?} is no {family} address with the length of its network, nor autodetect, nor none"
    )]
    Address {
        /// Name of the variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        family: &'static str,
    },
    /// The method is none.
    #[error("{variable}: {source}")]
    Method {
        /// Name of the variable.
        variable: &'static str,
        /// Why.
        source: InvalidMethod,
    },
}

impl Wanted {
    /// Reads what `IP` and `IP_AUTODETECTION_METHOD` say, or their relatives for IPv6.
    ///
    /// # Errors
    /// A variable says what cannot be.
    pub fn read(is_ipv4: bool, variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidWish> {
        let (address, method, family) = if is_ipv4 {
            ("IP", "IP_AUTODETECTION_METHOD", "IPv4")
        } else {
            ("IP6", "IP6_AUTODETECTION_METHOD", "IPv6")
        };
        let value = variable(address).unwrap_or_default();
        match value.trim() {
            "none" => Ok(Wanted::None),
            "" | "autodetect" => {
                let method_text = variable(method).unwrap_or_default();
                let method_read = method_text.trim().parse();
                method_read
                    .map(Wanted::Found)
                    .map_err(|source| InvalidWish::Method {
                        variable: method,
                        source,
                    })
            }
            text => {
                let net = text
                    .parse::<IpNet>()
                    .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                match net {
                    Ok(net) if net.addr().is_ipv4() == is_ipv4 => Ok(Wanted::Stated(net)),
                    _ => Err(InvalidWish::Address {
                        variable: address,
                        value,
                        family,
                    }),
                }
            }
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = |list: &[Regex]| {
            let texts: Vec<&str> = list.iter().map(Regex::as_str).collect();
            texts.join(",")
        };
        match self {
            Method::InternalIp => f.write_str("kubernetes-internal-ip"),
            Method::FirstFound => f.write_str("first-found"),
            Method::CanReach(host) => write!(f, "can-reach={host}"),
            Method::Interface(list) => write!(f, "interface={}", patterns(list)),
            Method::SkipInterface(list) => write!(f, "skip-interface={}", patterns(list)),
            Method::Cidr(nets) => {
                let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
                write!(f, "cidr={}", texts.join(","))
            }
        }
    }
}
