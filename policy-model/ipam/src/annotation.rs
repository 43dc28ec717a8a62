//! What a pod or namespace asks for by annotation: addresses and pools, as JSON lists of text.

use crate::address::Family;
use crate::pool::PoolRef;
use ipnet::IpNet;
use std::net::IpAddr;

/// Annotation with the addresses that a pod wants: `["10.0.0.7", "fd00::7"]`.
pub const IP_ADDRS: &str = "cni.projectcalico.org/ipAddrs";
/// Annotation with the IPv4 pools, by name or range, that a pod or the pods of a namespace take addresses of.
pub const IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
/// The same for IPv6.
pub const IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";

/// An annotation that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnnotation {
    /// The text is no JSON list of text.
    #[error("annotation {annotation}: '{text}' is not a JSON list of strings such as {example}: {reason}")]
    NotAList {
        /// The annotation.
        annotation: &'static str,
        /// What it says.
        text: String,
        /// What it could say.
        example: &'static str,
        /// What the JSON parser found.
        reason: String,
    },
    /// The list has no member.
    #[error("annotation {annotation}: the list is empty; remove the annotation to ask for nothing")]
    Empty {
        /// The annotation.
        annotation: &'static str,
    },
    /// A member is no address.
    #[error("annotation {annotation}: '{member}' is not an IP address")]
    NotAnAddress {
        /// The annotation.
        annotation: &'static str,
        /// The member.
        member: String,
    },
    /// A member stands twice in the list.
    #[error("annotation {annotation}: '{member}' stands twice in the list")]
    Twice {
        /// The annotation.
        annotation: &'static str,
        /// The member.
        member: String,
    },
    /// A pool's range is of the other family.
    #[error("annotation {annotation}: {member} is not an {family} range")]
    WrongFamily {
        /// The annotation.
        annotation: &'static str,
        /// The member.
        member: IpNet,
        /// The family that the annotation is for.
        family: Family,
    },
    /// A member is neither a range nor a name that a pool can have.
    #[error("annotation {annotation}: '{member}' is neither the name nor the range of an IP pool")]
    NotAPool {
        /// The annotation.
        annotation: &'static str,
        /// The member.
        member: String,
    },
}

/// Reads the addresses that a pod asks for ([`IP_ADDRS`]), in the order in which they stand.
///
/// # Errors
/// The text is no JSON list of addresses, or the list is empty or names one twice.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, InvalidAnnotation> {
    let annotation = IP_ADDRS;
    let mut addresses = Vec::new();
    for member in list(annotation, text, r#"["10.0.0.7"]"#)? {
        let Ok(address) = member.trim().parse::<IpAddr>() else {
            return Err(InvalidAnnotation::NotAnAddress { annotation, member });
        };
        if addresses.contains(&address) {
            return Err(InvalidAnnotation::Twice { annotation, member });
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Reads the pools that a pod or namespace asks for ([`IPV4_POOLS`], [`IPV6_POOLS`]), in the order of preference.
///
/// # Errors
/// The text is no JSON list of names and ranges of this family, or the list is empty or names one twice.
pub fn pools(family: Family, text: &str) -> Result<Vec<PoolRef>, InvalidAnnotation> {
    let (annotation, example) = match family {
        Family::V4 => (IPV4_POOLS, r#"["default-ipv4-ippool"]"#),
        Family::V6 => (IPV6_POOLS, r#"["default-ipv6-ippool"]"#),
    };
    let mut pools = Vec::new();
    for member in list(annotation, text, example)? {
        let trimmed = member.trim();
        let pool = match trimmed.parse::<IpNet>() {
            Ok(net) if Family::of_net(&net) != family => {
                return Err(InvalidAnnotation::WrongFamily {
                    annotation,
                    member: net,
                    family,
                });
            }
            Ok(net) => PoolRef::Range(net.trunc()),
            Err(_) if trimmed.is_empty() || trimmed.contains(['/', ':', ' ']) => {
                return Err(InvalidAnnotation::NotAPool { annotation, member });
            }
            Err(_) => PoolRef::Name(trimmed.to_owned()),
        };
        if pools.contains(&pool) {
            return Err(InvalidAnnotation::Twice { annotation, member });
        }
        pools.push(pool);
    }
    Ok(pools)
}

fn list(
    annotation: &'static str,
    text: &str,
    example: &'static str,
) -> Result<Vec<String>, InvalidAnnotation> {
    let members: Vec<String> = serde_json::from_str(text).map_err(|error| InvalidAnnotation::NotAList {
        annotation,
        text: text.to_owned(),
        example,
        reason: error.to_string(),
    })?;
    if members.is_empty() {
        Err(InvalidAnnotation::Empty { annotation })
    } else {
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_addresses_and_pools_are_read_in_order() {
        let both = addresses(r#"[ "10.0.0.7","fd00::7" ]"#).unwrap();
        assert_eq!(
            both,
            ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]
        );
        let named = pools(Family::V4, r#"["b", "10.1.0.0/16", "a.b"]"#).unwrap();
        let range = PoolRef::Range("10.1.0.0/16".parse().unwrap());
        assert_eq!(
            named,
            [PoolRef::Name("b".into()), range, PoolRef::Name("a.b".into())]
        );
    }

    #[test]
    fn faults_are_named() {
        let of_addresses = |text: &str| addresses(text).unwrap_err().to_string();
        assert!(of_addresses("10.0.0.7").starts_with(
            "annotation cni.projectcalico.org/ipAddrs: '10.0.0.7' is not a JSON list of strings such as"
        ));
        assert!(of_addresses("[10]").contains("is not a JSON list"));
        assert!(of_addresses("[]").contains("the list is empty"));
        assert!(of_addresses(r#"["10.0.0.300"]"#).ends_with("'10.0.0.300' is not an IP address"));
        assert!(of_addresses(r#"["10.0.0.1/32"]"#).ends_with("is not an IP address"));
        assert!(of_addresses(r#"["fd00::1","fd00:0::1"]"#).ends_with("'fd00:0::1' stands twice in the list"));
        let of_pools = |text: &str| pools(Family::V4, text).unwrap_err().to_string();
        assert!(of_pools(r#"["fd00::/64"]"#).ends_with("fd00::/64 is not an IPv4 range"));
        assert!(of_pools(r#"["10.0.0.0/33"]"#).ends_with("is neither the name nor the range of an IP pool"));
        assert!(of_pools(r#"["a","a"]"#).contains("stands twice"));
    }
}
