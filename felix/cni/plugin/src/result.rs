//! What the runtime is told of an attachment, in the form of each version of the specification.

use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// An attachment as the runtime is to hear of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// May be empty.
    pub(crate) mac: String,
    /// In bytes; 0 is not told.
    pub(crate) mtu: u32,
    /// Path of its namespace; empty is the node's.
    pub(crate) sandbox: String,
}

/// An address and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: IpAddr,
    /// Length of the prefix in bits.
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<IpAddr>,
    /// Place in the list of interfaces.
    pub(crate) interface: Option<usize>,
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) gateway: IpAddr,
}

impl Route {
    fn document(&self) -> Value {
        let destination = if self.gateway.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        json!({"dst": destination, "gw": self.gateway})
    }
}

impl Attached {
    /// The document in a version, after what earlier plugins of the chain have made.
    pub(crate) fn document(&self, version: &str, previous: Option<&Value>, dns: Option<&Value>) -> Value {
        let mut document = match version {
            "0.1.0" | "0.2.0" => self.first_form(),
            "0.3.0" | "0.3.1" | "0.4.0" => self.lists(true, false),
            "1.0.0" => self.lists(false, false),
            _ => self.lists(false, true),
        };
        if let Some(Value::Object(previous)) = previous {
            document = after(previous, document);
        }
        document.insert("cniVersion".to_owned(), version.into());
        if let Some(dns) = dns {
            document.entry("dns").or_insert_with(|| dns.clone());
        }
        Value::Object(document)
    }

    /// One address a family, with its routes.
    fn first_form(&self) -> Map<String, Value> {
        let mut document = Map::new();
        for (name, is_v4) in [("ip4", true), ("ip6", false)] {
            let Some(address) = self.addresses.iter().find(|a| a.address.is_ipv4() == is_v4) else {
                continue;
            };
            let mut family = json!({"ip": format!("{}/{}", address.address, address.prefix)});
            if let Some(gateway) = address.gateway {
                family["gateway"] = json!(gateway);
            }
            let routes = self.routes.iter().filter(|r| r.gateway.is_ipv4() == is_v4);
            let routes: Vec<Value> = routes.map(Route::document).collect();
            if !routes.is_empty() {
                family["routes"] = Value::from(routes);
            }
            document.insert(name.to_owned(), family);
        }
        document
    }

    fn lists(&self, has_family: bool, has_mtu: bool) -> Map<String, Value> {
        let interfaces = self.interfaces.iter().map(|interface| {
            let Interface {
                name,
                mac,
                mtu,
                sandbox,
            } = interface;
            let mut told = json!({"name": name});
            for (field, value) in [("mac", mac), ("sandbox", sandbox)] {
                if !value.is_empty() {
                    told[field] = Value::from(value.as_str());
                }
            }
            if has_mtu && *mtu != 0 {
                told["mtu"] = Value::from(*mtu);
            }
            told
        });
        let addresses = self.addresses.iter().map(|address| {
            let mut told = json!({"address": format!("{}/{}", address.address, address.prefix)});
            if has_family {
                told["version"] = Value::from(if address.address.is_ipv4() { "4" } else { "6" });
            }
            if let Some(gateway) = address.gateway {
                told["gateway"] = json!(gateway);
            }
            if let Some(place) = address.interface {
                told["interface"] = Value::from(place);
            }
            told
        });
        let lists: [(&str, Vec<Value>); 3] = [
            ("interfaces", interfaces.collect()),
            ("ips", addresses.collect()),
            ("routes", self.routes.iter().map(Route::document).collect()),
        ];
        let filled = lists.into_iter().filter(|(_, list)| !list.is_empty());
        filled
            .map(|(name, list)| (name.to_owned(), Value::from(list)))
            .collect()
    }
}

/// Puts a result after an earlier plugin's: the lists grow, and our addresses point at our places in them.
fn after(previous: &Map<String, Value>, ours: Map<String, Value>) -> Map<String, Value> {
    let length = |name: &str| previous.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let shift = length("interfaces");
    let mut together = previous.clone();
    for (name, value) in ours {
        let mut list = match value {
            Value::Array(list) => list,
            other => {
                together.insert(name, other);
                continue;
            }
        };
        if name == "ips" {
            for address in &mut list {
                if let Some(place) = address.get("interface").and_then(Value::as_u64) {
                    address["interface"] = Value::from(place + shift as u64);
                }
            }
        }
        match together.get_mut(&name) {
            Some(Value::Array(earlier)) => earlier.append(&mut list),
            _ => {
                together.insert(name, Value::from(list));
            }
        }
    }
    together
}

/// The addresses in a result of any version, without the lengths of their prefixes.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let lists = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let listed = lists.filter_map(|ip| ip.get("address"));
    let first_form = ["ip4", "ip6"]
        .into_iter()
        .filter_map(|name| result.get(name)?.get("ip"));
    listed
        .chain(first_form)
        .filter_map(Value::as_str)
        .filter_map(|text| text.split('/').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
