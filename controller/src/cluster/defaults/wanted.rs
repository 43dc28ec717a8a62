//! The pools that the environment asks for, by the names that Calico's node reads. Pure.
//!
//! Whatever contradicts itself is refused before anything runs: a pool that was made wrongly cannot be made right
//! under pods that hold its addresses.

use crate::cluster::variable::{InvalidVariable, Variables};
use ipnet::IpNet;
use policy_model::{EncapsulationMode, InvalidResource, IpPoolSpec, Object, Resource};
use policy_model_ipam::Family;

/// The pools to make where there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPools {
    /// One for each family; empty if none is to be made (`NO_DEFAULT_POOLS`).
    pub(crate) pools: Vec<WantedPool>,
}

/// A pool as the environment asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedPool {
    pub(crate) family: Family,
    /// Its range; none is the cluster's own.
    pub(crate) cidr: Option<IpNet>,
    block_size: Option<u8>,
    ipip: EncapsulationMode,
    vxlan: EncapsulationMode,
    nat_outgoing: bool,
    node_selector: String,
    disable_bgp_export: bool,
}

impl WantedPools {
    /// Reads an environment.
    ///
    /// # Errors
    /// The first variable that makes no sense, by itself or beside the others.
    pub(crate) fn read(variables: &Variables) -> Result<WantedPools, InvalidVariable> {
        let families = [Family::V4, Family::V6];
        if variables.truth("NO_DEFAULT_POOLS")?.unwrap_or(false) {
            for family in families {
                let name = variable(family, "CIDR");
                if variables.get(&name).is_some() {
                    return Err(variables.complain(
                        &name,
                        "is set although NO_DEFAULT_POOLS is true; unset one of them",
                    ));
                }
            }
            return Ok(WantedPools { pools: Vec::new() });
        }
        let pools = families.map(|family| WantedPool::read(family, variables));
        Ok(WantedPools {
            pools: pools.into_iter().collect::<Result<_, _>>()?,
        })
    }
}

impl WantedPool {
    fn read(family: Family, variables: &Variables) -> Result<WantedPool, InvalidVariable> {
        let name = |field| variable(family, field);
        let cidr = variables.parse(&name("CIDR"), |text| range(family, text))?;
        let block_size = variables.parse(&name("BLOCK_SIZE"), |text| {
            let size: Option<u8> = text.trim_start_matches('/').parse().ok();
            size.ok_or_else(|| "is no prefix length".to_owned())
        })?;
        let ipip = variables.parse(&name("IPIP"), mode)?.unwrap_or_default();
        let vxlan = variables.parse(&name("VXLAN"), mode)?.unwrap_or_default();
        let wanted = WantedPool {
            family,
            cidr,
            block_size,
            ipip,
            vxlan,
            nat_outgoing: variables
                .truth(&name("NAT_OUTGOING"))?
                .unwrap_or(family == Family::V4),
            node_selector: variables
                .get(&name("NODE_SELECTOR"))
                .unwrap_or("all()")
                .to_owned(),
            disable_bgp_export: variables.truth(&name("DISABLE_BGP_EXPORT"))?.unwrap_or(false),
        };
        // Against a range that holds blocks of any size, where the real one is not known yet.
        let stand_in = match family {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        };
        if let Some(range) = cidr.or_else(|| stand_in.parse().ok())
            && let Err(error) = wanted.pool(range)
        {
            return Err(wanted.complaint(&error, variables));
        }
        Ok(wanted)
    }

    /// The name under which Calico makes it.
    pub(crate) fn name(&self) -> &'static str {
        match self.family {
            Family::V4 => "default-ipv4-ippool",
            Family::V6 => "default-ipv6-ippool",
        }
    }

    /// The name of one of its variables.
    pub(crate) fn variable(&self, field: &str) -> String {
        variable(self.family, field)
    }

    /// The pool, on a range.
    ///
    /// # Errors
    /// What the range and the rest say against each other.
    pub(crate) fn pool(&self, cidr: IpNet) -> Result<Resource, InvalidResource> {
        let spec = IpPoolSpec {
            ipip_mode: self.ipip,
            vxlan_mode: self.vxlan,
            nat_outgoing: self.nat_outgoing,
            node_selector: self.node_selector.clone(),
            block_size: self.block_size,
            disable_bgp_export: self.disable_bgp_export,
            ..IpPoolSpec::of(cidr)
        };
        let pool = Resource::from(Object::named(self.name(), spec));
        pool.validate()?;
        Ok(pool)
    }

    /// The variable that is behind a fault of the pool.
    fn complaint(&self, error: &InvalidResource, variables: &Variables) -> InvalidVariable {
        let Some(fault) = error.faults.first() else {
            return variables.complain(&self.variable("CIDR"), error.to_string());
        };
        let field = match fault.field.as_str() {
            "spec.nodeSelector" => "NODE_SELECTOR",
            "spec.blockSize" => "BLOCK_SIZE",
            "spec.ipipMode" => "IPIP",
            "spec.vxlanMode" => "VXLAN",
            // So is a block that is larger than the range.
            _ => "CIDR",
        };
        let reason = if field == "VXLAN" {
            format!("cannot be combined with {}", self.variable("IPIP"))
        } else {
            fault.reason.clone()
        };
        variables.complain(&self.variable(field), reason)
    }
}

fn variable(family: Family, field: &str) -> String {
    match family {
        Family::V4 => format!("CALICO_IPV4POOL_{field}"),
        Family::V6 => format!("CALICO_IPV6POOL_{field}"),
    }
}

fn range(family: Family, text: &str) -> Result<IpNet, String> {
    let range: IpNet = text
        .parse()
        .map_err(|_| "is no range: write one such as 10.244.0.0/16 or fd00:10:244::/56".to_owned())?;
    if Family::of_net(&range) != family {
        return Err(format!("is no range of {family} addresses"));
    }
    Ok(range)
}

fn mode(text: &str) -> Result<EncapsulationMode, String> {
    match text.to_ascii_lowercase().as_str() {
        "never" | "off" => Ok(EncapsulationMode::Never),
        "always" => Ok(EncapsulationMode::Always),
        "crosssubnet" | "cross-subnet" => Ok(EncapsulationMode::CrossSubnet),
        _ => Err("is not Always, CrossSubnet or Never".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(wanted: &WantedPool) -> IpPoolSpec {
        match wanted.pool(wanted.cidr.unwrap()).unwrap() {
            Resource::IPPool(pool) => pool.spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_variable_says_its_field() {
        let variables = Variables::from([
            ("CALICO_IPV4POOL_CIDR", "10.1.0.0/16"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "28"),
            ("CALICO_IPV4POOL_IPIP", "CrossSubnet"),
            ("CALICO_IPV4POOL_NAT_OUTGOING", "false"),
            ("CALICO_IPV4POOL_NODE_SELECTOR", "zone == 'a'"),
            ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "true"),
            ("CALICO_IPV6POOL_CIDR", "fd00:1::/56"),
            ("CALICO_IPV6POOL_BLOCK_SIZE", "/120"),
            ("CALICO_IPV6POOL_VXLAN", "Always"),
            ("CALICO_IPV6POOL_NAT_OUTGOING", "true"),
        ]);
        let wanted = WantedPools::read(&variables).unwrap().pools;
        let v4 = spec(&wanted[0]);
        assert_eq!(v4.cidr.to_string(), "10.1.0.0/16");
        assert_eq!(v4.block_size, Some(28));
        assert_eq!(v4.ipip_mode, EncapsulationMode::CrossSubnet);
        assert!(!v4.nat_outgoing && v4.disable_bgp_export && !v4.disabled);
        assert_eq!(v4.node_selector, "zone == 'a'");
        let v6 = spec(&wanted[1]);
        assert_eq!(v6.vxlan_mode, EncapsulationMode::Always);
        assert!(v6.nat_outgoing && !v6.disable_bgp_export);
        assert_eq!(v6.block_size, Some(120));
    }

    #[test]
    fn without_variables_pools_are_plain_and_their_range_is_the_clusters() {
        let wanted = WantedPools::read(&Variables::default()).unwrap().pools;
        assert_eq!(wanted.len(), 2);
        assert_eq!((wanted[0].cidr, wanted[1].cidr), (None, None));
        let of_cluster = wanted[0].pool("10.244.0.0/16".parse().unwrap()).unwrap();
        let Resource::IPPool(pool) = of_cluster else {
            panic!("a pool is made");
        };
        assert_eq!(pool.metadata.name, "default-ipv4-ippool");
        assert_eq!(pool.spec.ipip_mode, EncapsulationMode::Never);
        assert_eq!(pool.spec.vxlan_mode, EncapsulationMode::Never);
        assert!(pool.spec.nat_outgoing);
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_value() {
        for (pairs, variable, word) in [
            (
                [("CALICO_IPV4POOL_CIDR", "10.0.0.0"), ("X", "")],
                "CALICO_IPV4POOL_CIDR",
                "range",
            ),
            (
                [("CALICO_IPV4POOL_CIDR", "fd00::/56"), ("X", "")],
                "CALICO_IPV4POOL_CIDR",
                "IPv4",
            ),
            (
                [("CALICO_IPV4POOL_CIDR", "10.0.0.1/16"), ("X", "")],
                "CALICO_IPV4POOL_CIDR",
                "10.0.0.0/16",
            ),
            (
                [("CALICO_IPV4POOL_CIDR", "10.0.0.0/28"), ("X", "")],
                "CALICO_IPV4POOL_CIDR",
                "/26",
            ),
            (
                [("CALICO_IPV4POOL_BLOCK_SIZE", "19"), ("X", "")],
                "CALICO_IPV4POOL_BLOCK_SIZE",
                "20",
            ),
            (
                [("CALICO_IPV6POOL_BLOCK_SIZE", "64"), ("X", "")],
                "CALICO_IPV6POOL_BLOCK_SIZE",
                "116",
            ),
            (
                [("CALICO_IPV4POOL_BLOCK_SIZE", "many"), ("X", "")],
                "CALICO_IPV4POOL_BLOCK_SIZE",
                "prefix",
            ),
            (
                [("CALICO_IPV4POOL_IPIP", "sometimes"), ("X", "")],
                "CALICO_IPV4POOL_IPIP",
                "CrossSubnet",
            ),
            (
                [
                    ("CALICO_IPV4POOL_IPIP", "Always"),
                    ("CALICO_IPV4POOL_VXLAN", "Always"),
                ],
                "CALICO_IPV4POOL_VXLAN",
                "CALICO_IPV4POOL_IPIP",
            ),
            (
                [("CALICO_IPV6POOL_IPIP", "Always"), ("X", "")],
                "CALICO_IPV6POOL_IPIP",
                "IPv6",
            ),
            (
                [("CALICO_IPV4POOL_NODE_SELECTOR", "zone =="), ("X", "")],
                "CALICO_IPV4POOL_NODE_SELECTOR",
                "",
            ),
            (
                [
                    ("NO_DEFAULT_POOLS", "true"),
                    ("CALICO_IPV6POOL_CIDR", "fd00::/56"),
                ],
                "CALICO_IPV6POOL_CIDR",
                "NO_DEFAULT_POOLS",
            ),
        ] {
            let variables = Variables::from(pairs);
            let error = WantedPools::read(&variables).unwrap_err();
            assert_eq!(error.variable, variable, "{error}");
            assert!(error.reason.contains(word), "{error}");
            assert_eq!(Some(error.value.as_str()), variables.get(variable));
        }
        let none = WantedPools::read(&Variables::from([("NO_DEFAULT_POOLS", "true")])).unwrap();
        assert!(none.pools.is_empty());
    }
}
