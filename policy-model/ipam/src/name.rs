//! The keys under which blocks and affinities are kept: the range with dashes, as Calico writes it.

use crate::spread;
use ipnet::IpNet;
use policy_model::{Key, Kind};

/// The only name that the settings of address management are read under.
pub const CONFIG_NAME: &str = "default";

/// Longest name of an object in bytes (a DNS subdomain).
const MAX_NAME: usize = 253;

/// The range with `.`, `/` and `:` replaced by `-`: `10.0.0.0/26` gives `10-0-0-0-26`.
///
/// A range that begins with `::` gets a leading `0`, because a name cannot begin with a dash.
pub fn of_cidr(cidr: &IpNet) -> String {
    let text = cidr.to_string().replace(['.', '/', ':'], "-");
    if text.starts_with('-') {
        format!("0{text}")
    } else {
        text
    }
}

/// The key of a block.
pub fn block_key(cidr: &IpNet) -> Key {
    Key::global(Kind::IPAMBlock, of_cidr(cidr))
}

/// The key of a node's affinity for a block: `<node>-<range>`.
///
/// A node's name that would make it longer than a name may be is cut, and a hash of all of it takes the place of the
/// rest.
pub fn affinity_key(node: &str, cidr: &IpNet) -> Key {
    let range = of_cidr(cidr);
    let name = format!("{node}-{range}");
    if name.len() <= MAX_NAME {
        return Key::global(Kind::BlockAffinity, name);
    }
    let hash = format!("{:016x}", spread::of_text(node));
    let room = MAX_NAME - range.len() - hash.len() - 2;
    let mut end = room.min(node.len());
    while !node.is_char_boundary(end) {
        end -= 1;
    }
    let start = node.get(..end).unwrap_or_default().trim_end_matches(['-', '.']);
    Key::global(Kind::BlockAffinity, format!("{start}-{hash}-{range}"))
}

/// The key of the settings.
pub fn config_key() -> Key {
    Key::global(Kind::IPAMConfig, CONFIG_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{AffinityState, BlockAffinitySpec, Object, Resource};

    #[test]
    fn names_are_ranges_with_dashes() {
        assert_eq!(of_cidr(&"10.65.0.64/26".parse().unwrap()), "10-65-0-64-26");
        assert_eq!(of_cidr(&"fd00:1::40/122".parse().unwrap()), "fd00-1--40-122");
        assert_eq!(of_cidr(&"::/122".parse().unwrap()), "0---122");
        let key = affinity_key("node-1.example", &"10.65.0.64/26".parse().unwrap());
        assert_eq!(key.name, "node-1.example-10-65-0-64-26");
    }

    #[test]
    fn names_of_the_longest_nodes_are_valid_and_differ() {
        let cidr: IpNet = "fd00:1111:2222:3333:4444:5555:6666:7740/122".parse().unwrap();
        let long = |end: &str| format!("{}{end}", "a.b".repeat(84));
        let keys = [affinity_key(&long("a"), &cidr), affinity_key(&long("b"), &cidr)];
        assert_ne!(keys[0], keys[1]);
        for key in keys {
            let spec = BlockAffinitySpec {
                state: AffinityState::Pending,
                node: long("a"),
                cidr,
                affinity_type: String::from("host"),
            };
            Resource::from(Object::named(key.name, spec)).validate().unwrap();
        }
    }
}
