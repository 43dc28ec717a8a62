//! The network configuration that makes a container runtime call the plugin: rendered from a template, written last.
//!
//! A runtime calls a node ready as soon as it finds a configuration. So felix writes it, and only once everything that
//! the datastore holds is in force; a file that is there already as it should be is not touched.

use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the file where nobody chooses another; it sorts before those of most other networks.
pub const DEFAULT_NAME: &str = "10-calico.conflist";

/// The template where nobody brings another.
pub const DEFAULT_TEMPLATE: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "manx",
      "log_level": "info",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": {"type": "calico-ipam"},
      "policy": {"type": "k8s"},
      "capabilities": {"portMappings": true}
    }
  ]
}
"#;

/// What stands in the template's places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// For `__KUBERNETES_NODE_NAME__`.
    pub node: String,
    /// For `__CNI_MTU__`, in bytes; 0 leaves the choice to felix.
    pub mtu: u32,
    /// For `__KUBECONFIG_FILEPATH__`; the plugin needs none and ignores it.
    pub kubeconfig: String,
}

/// The configuration could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// The rendered text is not what a runtime could read.
    #[error(
        "the CNI network configuration (CNI_NETWORK_CONFIG) is not valid after its placeholders were filled in: {0}"
    )]
    Invalid(String),
    /// The name of the file is none.
    #[error("CNI_CONF_NAME {0:?} is not a plain file name that ends in .conf, .conflist or .json")]
    Name(String),
    /// The file or its folder could not be written.
    #[error("writing the CNI network configuration {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Fills the template in.
///
/// # Errors
/// The result is no JSON object with a `name` and a `type` or a list of `plugins`.
pub fn render(template: &str, values: &Values) -> Result<String, ConflistError> {
    let Values {
        node,
        mtu,
        kubeconfig,
    } = values;
    let text = template
        .replace("__KUBERNETES_NODE_NAME__", &inside_quotes(node))
        .replace("__CNI_MTU__", &mtu.to_string())
        .replace("__KUBECONFIG_FILEPATH__", &inside_quotes(kubeconfig));
    let invalid = |reason: &str| ConflistError::Invalid(reason.to_owned());
    let read: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| ConflistError::Invalid(error.to_string()))?;
    if read["name"].as_str().is_none_or(str::is_empty) {
        return Err(invalid("it has no name"));
    }
    let has_type = |plugin: &serde_json::Value| plugin["type"].as_str().is_some_and(|t| !t.is_empty());
    match &read["plugins"] {
        serde_json::Value::Null if has_type(&read) => Ok(text),
        serde_json::Value::Array(plugins) if !plugins.is_empty() && plugins.iter().all(has_type) => Ok(text),
        _ => Err(invalid(
            "it has neither a type nor a list of plugins that each have one",
        )),
    }
}

/// Whether what calls by a rendered configuration may ask for addresses of pools, and not only for ranges of the node's
/// own or another program's addresses.
pub fn takes_from_pools(text: &str) -> bool {
    let read: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let takes = |plugin: &serde_json::Value| match plugin["ipam"]["type"].as_str() {
        None | Some("") => matches!(plugin["type"].as_str(), Some("manx" | "calico")),
        Some(source) => matches!(source, "manx-ipam" | "calico-ipam"),
    };
    any_plugin(&read, takes)
}

/// Whether what calls by a rendered configuration gives addresses from the ranges that the cluster gave its nodes: where
/// `host-local` names them, or names no range at all.
pub fn takes_from_node_ranges(text: &str) -> bool {
    let read: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    any_plugin(&read, |plugin| {
        let ipam = &plugin["ipam"];
        ipam["type"] == "host-local" && (names_node_range(ipam) || names_no_range(ipam))
    })
}

fn names_no_range(section: &serde_json::Value) -> bool {
    let subnet = section["subnet"].as_str().unwrap_or_default();
    let ranges = section["ranges"].as_array().map_or(&[][..], Vec::as_slice);
    subnet.is_empty() && ranges.is_empty()
}

/// Whether a word for the node's own range stands anywhere in a `host-local` section: alone, or in one of its lists.
fn names_node_range(section: &serde_json::Value) -> bool {
    match section {
        serde_json::Value::String(text) => matches!(text.as_str(), "usePodCidr" | "usePodCidrIPv6"),
        serde_json::Value::Array(items) => items.iter().any(names_node_range),
        serde_json::Value::Object(fields) => fields.values().any(names_node_range),
        _ => false,
    }
}

fn any_plugin(read: &serde_json::Value, is: impl Fn(&serde_json::Value) -> bool) -> bool {
    let listed = read["plugins"].as_array();
    is(read) || listed.is_some_and(|plugins| plugins.iter().any(is))
}

/// A text as it stands between the quotes of a JSON string.
fn inside_quotes(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted
        .strip_prefix('"')
        .and_then(|q| q.strip_suffix('"'))
        .unwrap_or_default()
        .to_owned()
}

/// Writes the configuration under its name, unless it stands there already; says whether it was written.
///
/// # Errors
/// The name is none, or the folder or file cannot be written.
pub fn write(folder: &Path, name: &str, text: &str) -> Result<bool, ConflistError> {
    let known = [Some("conf"), Some("conflist"), Some("json")];
    let is_plain = Path::new(name).file_name() == Some(OsStr::new(name));
    if !is_plain || !known.contains(&Path::new(name).extension().and_then(OsStr::to_str)) {
        return Err(ConflistError::Name(name.to_owned()));
    }
    let path = folder.join(name);
    let failed = |source| ConflistError::Write {
        path: path.clone(),
        source,
    };
    match std::fs::read(&path) {
        Ok(found) if found == text.as_bytes() => return Ok(false),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(failed)?;
    // Hidden and without one of the known endings: no runtime takes it for a configuration before it is whole.
    let temporary = folder.join(format!(".{name}.manx"));
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            node: "node-1".into(),
            mtu: 1440,
            kubeconfig: "/etc/cni/net.d/calico-kubeconfig".into(),
        }
    }

    #[test]
    fn the_default_is_a_list_of_version_1_0_0() {
        let text = render(DEFAULT_TEMPLATE, &values()).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["cniVersion"], "1.0.0");
        assert_eq!(read["plugins"][0]["nodename"], "node-1");
        assert_eq!(read["plugins"][0]["mtu"], 1440);
        assert!(!text.contains("__"));
    }

    #[test]
    fn templates_of_existing_manifests_are_filled_in() {
        let template = r#"{"name":"n","plugins":[{"type":"calico","nodename":"__KUBERNETES_NODE_NAME__",
            "mtu":__CNI_MTU__,"kubernetes":{"kubeconfig":"__KUBECONFIG_FILEPATH__"}},
            {"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let odd = Values {
            node: "a\"b\\c".into(),
            ..values()
        };
        let read: serde_json::Value = serde_json::from_str(&render(template, &odd).unwrap()).unwrap();
        assert_eq!(read["plugins"][0]["nodename"], "a\"b\\c");
        assert_eq!(
            read["plugins"][0]["kubernetes"]["kubeconfig"],
            "/etc/cni/net.d/calico-kubeconfig"
        );
    }

    #[test]
    fn who_takes_from_pools_is_told() {
        assert!(takes_from_pools(
            DEFAULT_TEMPLATE.replace("__CNI_MTU__", "0").as_str()
        ));
        for (expected, text) in [
            (true, r#"{"name": "n", "type": "calico"}"#),
            (
                true,
                r#"{"name": "n", "plugins": [{"type": "tuning"}, {"type": "bridge", "ipam": {"type": "manx-ipam"}}]}"#,
            ),
            (
                false,
                r#"{"name": "n", "plugins": [{"type": "manx", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}"#,
            ),
            (
                false,
                r#"{"name": "n", "plugins": [{"type": "bridge", "ipam": {"type": "dhcp"}}]}"#,
            ),
        ] {
            assert_eq!(takes_from_pools(text), expected, "{text}");
        }
    }

    #[test]
    fn who_takes_from_nodes_ranges_is_told() {
        for (expected, ipam) in [
            (true, r#"{"type": "host-local"}"#),
            (true, r#"{"type": "host-local", "subnet": "", "ranges": []}"#),
            (true, r#"{"type": "host-local", "subnet": "usePodCidr"}"#),
            (
                true,
                r#"{"type": "host-local", "ranges": [[{"subnet": "usePodCidrIPv6"}]]}"#,
            ),
            (false, r#"{"type": "host-local", "subnet": "10.1.0.0/24"}"#),
            (false, r#"{"type": "calico-ipam", "subnet": "usePodCidr"}"#),
        ] {
            let text = format!(r#"{{"name": "n", "plugins": [{{"type": "calico", "ipam": {ipam}}}]}}"#);
            assert_eq!(takes_from_node_ranges(&text), expected, "{text}");
        }
        assert!(!takes_from_node_ranges(
            DEFAULT_TEMPLATE.replace("__CNI_MTU__", "0").as_str()
        ));
    }

    #[test]
    fn what_no_runtime_could_read_is_refused() {
        for (template, reason) in [
            ("", "EOF"),
            ("{}", "no name"),
            (r#"{"name":"n"}"#, "neither a type"),
            (r#"{"name":"n","plugins":[]}"#, "neither a type"),
            (r#"{"name":"n","plugins":[{}]}"#, "neither a type"),
            (r#"{"name":"n","type":"t","mtu":__CNI_MTU_}"#, "expected value"),
        ] {
            let said = render(template, &values()).unwrap_err().to_string();
            assert!(said.contains(reason), "{template}: {said}");
        }
    }

    #[test]
    fn it_is_written_once_and_only_under_a_name_of_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("net.d");
        assert!(write(&folder, DEFAULT_NAME, "one").unwrap());
        assert!(!write(&folder, DEFAULT_NAME, "one").unwrap());
        assert!(write(&folder, DEFAULT_NAME, "two").unwrap());
        assert_eq!(std::fs::read(folder.join(DEFAULT_NAME)).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        for name in ["", "..", "a/b.conf", "10-calico", "10-calico.conflist.bak"] {
            assert!(
                matches!(write(&folder, name, "x"), Err(ConflistError::Name(_))),
                "{name}"
            );
        }
    }
}
