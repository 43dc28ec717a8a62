//! The agents' settings that verdicts depend on, read as the agents read them: by their layers and their parsers.

use felix::settings::parse::{Bool, EndpointToHostAction as Action, OneOf, Parser, Port};
use felix::settings::resource::{CLUSTER_DEFAULT, layer};
use felix::settings::{Layer, Source};
use policy_model::{FelixConfigurationSpec, Resource};
use policy_model_rules::oracle::{EndpointToHostAction, NodeSettings, RefusedTunnels, Settings};
use std::collections::BTreeMap;

/// What FelixConfiguration `node.NAME` begins with.
const OF_A_NODE: &str = "node.";

/// The settings that FelixConfiguration objects amount to: those of `default`, and before them, for a node, those of its
/// `node.NAME`. What the agents' own environment says, where it is known, comes before both.
///
/// For packets to the node itself the default is ACCEPT, as in the lab and in the usual installation.
pub(crate) fn settings<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    environment: Option<&Layer>,
) -> Settings {
    let written: BTreeMap<&str, &FelixConfigurationSpec> = resources
        .into_iter()
        .filter_map(|resource| match resource {
            Resource::FelixConfiguration(found) => Some((found.metadata.name.as_str(), &found.spec)),
            _ => None,
        })
        .collect();
    let of_all = written
        .get(CLUSTER_DEFAULT)
        .and_then(|spec| layer(CLUSTER_DEFAULT, "", spec));
    let common: Vec<&Layer> = environment.into_iter().chain(&of_all).collect();
    let of_node = |(name, spec): (&&str, &&FelixConfigurationSpec)| {
        let node = name.strip_prefix(OF_A_NODE)?;
        let own = layer(name, node, spec)?;
        let layers: Vec<&Layer> = environment.into_iter().chain([&own]).chain(&of_all).collect();
        Some((node.to_owned(), of_layers(&layers)))
    };
    Settings {
        of_all: of_layers(&common),
        of_nodes: written.iter().filter_map(of_node).collect(),
    }
}

/// The settings of an agent that reads these layers, the first that says something being right.
fn of_layers(layers: &[&Layer]) -> NodeSettings {
    NodeSettings {
        default_endpoint_to_host_action: match value::<OneOf<Action>>(layers, "DefaultEndpointToHostAction") {
            Some(Action::Drop) => EndpointToHostAction::Drop,
            Some(Action::Return) => EndpointToHostAction::Return,
            Some(Action::Accept) | None => EndpointToHostAction::Accept,
        },
        refused_tunnels: refused_tunnels(layers),
    }
}

/// The environment of agents of which only one thing is known.
pub(crate) fn environment_saying(setting: &str, value: &str) -> Layer {
    Layer::new(Source::Environment).with(setting, value)
}

fn refused_tunnels(layers: &[&Layer]) -> RefusedTunnels {
    let usual = RefusedTunnels::default();
    let is_allowed = |setting| value::<Bool>(layers, setting).unwrap_or(false);
    let port = value::<Port>(layers, "VXLANPort").filter(|port| *port != 0);
    RefusedTunnels {
        ipip: usual.ipip && !is_allowed("AllowIPIPPacketsFromWorkloads"),
        vxlan_port: port
            .or(usual.vxlan_port)
            .filter(|_| !is_allowed("AllowVXLANPacketsFromWorkloads")),
    }
}

/// What the first layer says that says anything; none where it cannot be read, because then the agent takes its default
/// and not what another layer says.
fn value<P: Parser>(layers: &[&Layer], setting: &str) -> Option<P::Value> {
    let key = setting.to_ascii_lowercase();
    let written = layers.iter().find_map(|layer| layer.values().get(&key))?;
    P::parse(&written.value).ok()
}
