//! What the operator wrote: the network configuration, read field by field so that each fault is named.
//!
//! The fields are Calico's, so that existing configurations carry over; unknown ones are others'.

use crate::call::is_identifier;
use crate::failure::Failure;
use felix_cni_protocol::words::Valid;
use felix_cni_protocol::{AddressWishes, Family, PortMapping, Transport};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where felix listens.
const DEFAULT_SOCKET: &str = "/run/manx/cni.sock";
/// How long to wait for felix; a kubelet gives up after two minutes.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait that may be configured, in seconds.
const LONGEST_PATIENCE: f64 = 600.0;
/// The version of configurations that name none.
const FIRST_VERSION: &str = "0.1.0";
/// The versions of the specification.
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Addresses from ranges of the node, without pools.
const HOST_LOCAL: &str = "host-local";
/// Levels of the log.
const LOG_LEVELS: [&str; 9] = [
    "", "debug", "info", "warn", "warning", "error", "fatal", "panic", "none",
];

/// One network as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Configuration {
    /// One of [`VERSIONS`].
    pub(crate) version: &'static str,
    pub(crate) network: String,
    /// Largest packet in bytes; 0 leaves it to felix.
    pub(crate) mtu: u32,
    pub(crate) addresses: AddressWishes,
    pub(crate) socket: PathBuf,
    pub(crate) patience: Duration,
    /// Whether the pod may forward packets; the pod's own setting stays where nobody says.
    pub(crate) forwarding: Option<bool>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) dns: Option<Value>,
    pub(crate) previous: Option<Value>,
}

/// A JSON object with the path to it.
#[derive(Clone, Copy)]
struct Fields<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

/// Reads the text of a configuration.
pub(crate) fn document(input: &[u8]) -> Result<Map<String, Value>, Failure> {
    match serde_json::from_slice(input) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Failure::decode("the network configuration is no JSON object")),
        Err(error) => Err(Failure::decode(format!(
            "the network configuration on standard input is not valid JSON: {error}"
        ))),
    }
}

/// The version in which the runtime speaks and is to be answered.
pub(crate) fn version(document: &Map<String, Value>) -> Result<&'static str, Failure> {
    let stated = whole(document).text("cniVersion")?;
    let stated = if stated.is_empty() { FIRST_VERSION } else { stated };
    VERSIONS
        .iter()
        .find(|known| **known == stated)
        .copied()
        .ok_or_else(|| {
            Failure::version(format!("field cniVersion: {stated:?} is not supported"))
                .with_details(format!("supported: {}", VERSIONS.join(", ")))
        })
}

/// The plugin that the configuration names, and its address management.
pub(crate) fn types(document: &Map<String, Value>) -> (&str, &str) {
    let kind = document.get("type").and_then(Value::as_str).unwrap_or_default();
    let ipam = document.get("ipam").and_then(|ipam| ipam.get("type"));
    (kind, ipam.and_then(Value::as_str).unwrap_or_default())
}

fn whole(map: &Map<String, Value>) -> Fields<'_> {
    Fields { path: "", map }
}

impl Configuration {
    /// Reads a configuration.
    pub(crate) fn read(document: &Map<String, Value>) -> Result<Self, Failure> {
        let fields = whole(document);
        let version = version(document)?;
        let network = fields.text("name")?.to_owned();
        if !is_identifier(&network) {
            return Err(fields.fault(
                "name",
                format!("{network:?} does not begin with a letter or digit and go on with these, dots, hyphens and underscores"),
            ));
        }
        for accepted in ["datastore_type", "nodename", "type"] {
            fields.text(accepted)?;
        }
        let level = fields.text("log_level")?;
        if !LOG_LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(fields.fault(
                "log_level",
                format!("{level:?} is no level; one of debug, info, warning, error"),
            ));
        }
        if let Some(policy) = fields.object("policy")? {
            let kind = policy.text("type")?;
            if !["", "k8s"].contains(&kind) {
                return Err(Failure::unsupported(
                    "policy.type",
                    format!("{kind:?} is not known; use \"k8s\""),
                ));
            }
        }
        if let Some(kubernetes) = fields.object("kubernetes")? {
            kubernetes.text("kubeconfig")?;
        }
        let container_settings = fields.object("container_settings")?;
        let forwarding = match container_settings {
            Some(settings) => settings.switch("allow_ip_forwarding")?,
            None => None,
        };
        let log = fields.path("log_file_path")?;
        Ok(Configuration {
            version,
            network,
            mtu: fields.mtu()?,
            addresses: addresses(fields)?,
            socket: fields
                .path("manx_socket")?
                .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)),
            patience: fields.patience()?,
            forwarding,
            log,
            dns: fields
                .object("dns")?
                .filter(|d| !d.map.is_empty())
                .map(|d| Value::Object(d.map.clone())),
            previous: fields.object("prevResult")?.map(|p| Value::Object(p.map.clone())),
        })
    }
}

/// The attachments that are still valid; nothing where the runtime does not say. An absent list is not an empty one: it
/// must not empty the node.
pub(crate) fn valid_attachments(document: &Map<String, Value>) -> Result<Option<Vec<Valid>>, Failure> {
    const FIELD: &str = "cni.dev/valid-attachments";
    // The second name is that of early texts of the specification.
    let found = document
        .get(FIELD)
        .or_else(|| document.get("cni.dev/attachments"));
    let list = match found {
        Some(Value::Array(list)) => list,
        None => return Ok(None),
        Some(_) => return Err(Failure::configuration(FIELD, "it is no list")),
    };
    list.iter()
        .map(|item| {
            let text = |name| {
                item.get(name)
                    .and_then(Value::as_str)
                    .filter(|t: &&str| !t.is_empty())
            };
            match (text("containerID"), text("ifname")) {
                (Some(container), Some(interface)) => Ok(Valid {
                    container_id: container.to_owned(),
                    interface: interface.to_owned(),
                }),
                _ => Err(Failure::configuration(
                    FIELD,
                    format!("{item} has no containerID or no ifname"),
                )),
            }
        })
        .collect::<Result<Vec<Valid>, Failure>>()
        .map(Some)
}

fn addresses(fields: Fields<'_>) -> Result<AddressWishes, Failure> {
    let Some(ipam) = fields.object("ipam")? else {
        return Ok(AddressWishes::default());
    };
    let source = ipam.text("type")?;
    if !["", "calico-ipam", "manx-ipam", HOST_LOCAL].contains(&source) {
        return Err(Failure::unsupported(
            "ipam.type",
            format!("{source:?} is not known; use \"calico-ipam\" or \"host-local\""),
        ));
    }
    let family = |assign, pools| -> Result<Family, Failure> {
        Ok(Family {
            assign: ipam.switch(assign)?,
            pools: ipam.texts(pools)?,
        })
    };
    let mut wishes = AddressWishes {
        source: String::new(),
        v4: family("assign_ipv4", "ipv4_pools")?,
        v6: family("assign_ipv6", "ipv6_pools")?,
    };
    if source == HOST_LOCAL {
        wishes.source = source.to_owned();
        (wishes.v4.pools, wishes.v6.pools) = ranges(ipam)?;
    }
    Ok(wishes)
}

/// The ranges that `host-local` is given: the node's own, or some that are named. Each family has its list.
fn ranges(ipam: Fields<'_>) -> Result<(Vec<String>, Vec<String>), Failure> {
    let mut subnets = Vec::new();
    subnets.extend(Some(ipam.text("subnet")?).filter(|text| !text.is_empty()));
    let lists = match ipam.value("ranges") {
        None => &[],
        Some(Value::Array(lists)) => lists.as_slice(),
        Some(_) => return Err(ipam.fault("ranges", "it is no list of lists".to_owned())),
    };
    for list in lists {
        let list = list
            .as_array()
            .ok_or_else(|| ipam.fault("ranges", "it is no list of lists".to_owned()))?;
        for range in list {
            let Value::Object(map) = range else {
                return Err(ipam.fault("ranges", format!("{} is no object", short(range))));
            };
            let range = Fields {
                path: "ipam.ranges",
                map,
            };
            for unsupported in ["rangeStart", "rangeEnd"] {
                if range.value(unsupported).is_some() {
                    return Err(Failure::unsupported(
                        &range.full(unsupported),
                        "felix gives the addresses of whole ranges; name a smaller subnet".to_owned(),
                    ));
                }
            }
            subnets.push(range.text("subnet")?);
        }
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for subnet in subnets {
        let net = subnet.split_once('/').and_then(|(address, length)| {
            let address = address.parse::<std::net::IpAddr>().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (length.parse::<u8>().ok()? <= most).then_some(address)
        });
        match (subnet, net) {
            ("usePodCidr", _) => v4.push("usePodCidr".to_owned()),
            ("usePodCidrIPv6", _) => v6.push("usePodCidr".to_owned()),
            (_, Some(address)) if address.is_ipv4() => v4.push(subnet.to_owned()),
            (_, Some(_)) => v6.push(subnet.to_owned()),
            (_, None) => {
                let why = format!("{subnet:?} is neither a range nor \"usePodCidr\" or \"usePodCidrIPv6\"");
                return Err(ipam.fault("subnet", why));
            }
        }
    }
    Ok((v4, v6))
}

/// The ports of the node that the runtime asks for. Entries without one are ports of the pod alone.
///
/// Read for an attachment only: what is wrong with them must not stand in the way of a removal.
pub(crate) fn host_ports(document: &Map<String, Value>) -> Result<Vec<PortMapping>, Failure> {
    const FIELD: &str = "portMappings";
    let Some(runtime) = whole(document).object("runtimeConfig")? else {
        return Ok(Vec::new());
    };
    let list = match runtime.value(FIELD) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(runtime.fault(FIELD, "it is no list".to_owned())),
    };
    let mut mappings: Vec<PortMapping> = Vec::new();
    for item in list {
        let Value::Object(map) = item else {
            return Err(runtime.fault(FIELD, format!("{} is no object", short(item))));
        };
        let path = "runtimeConfig.portMappings";
        let map = &usual_names(map);
        let Some(mapping) = host_port(Fields { path, map })? else {
            continue;
        };
        let is_same_place = |other: &&PortMapping| {
            (other.protocol, other.host_ip, other.host_port)
                == (mapping.protocol, mapping.host_ip, mapping.host_port)
        };
        match mappings.iter().find(is_same_place) {
            None => mappings.push(mapping),
            Some(other) if *other == mapping => {}
            Some(other) => {
                let (one, two) = (other.container_port, mapping.container_port);
                return Err(runtime.fault(
                    FIELD,
                    format!("host port {mapping} cannot lead to both ports {one} and {two} of the pod"),
                ));
            }
        }
    }
    Ok(mappings)
}

/// The fields of a mapping by the convention's names. containerd 1.6 writes `HostPort`, and the plugins of the CNI project
/// take that, because their language's reader of JSON makes no difference.
fn usual_names(map: &Map<String, Value>) -> Map<String, Value> {
    const NAMES: [&str; 4] = ["hostPort", "containerPort", "protocol", "hostIP"];
    let usual = |name: &String| {
        let found = NAMES.into_iter().find(|usual| usual.eq_ignore_ascii_case(name));
        found.map_or_else(|| name.clone(), str::to_owned)
    };
    map.iter()
        .map(|(name, value)| (usual(name), value.clone()))
        .collect()
}

fn host_port(fields: Fields<'_>) -> Result<Option<PortMapping>, Failure> {
    let host_port = fields.port("hostPort")?;
    if host_port == 0 {
        return Ok(None);
    }
    let protocol = match fields.text("protocol")?.to_ascii_lowercase().as_str() {
        "" | "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        other => {
            return Err(Failure::unsupported(
                &fields.full("protocol"),
                format!("{other:?} is not known; use \"tcp\", \"udp\" or \"sctp\""),
            ));
        }
    };
    let host_ip = match fields.text("hostIP")? {
        "" => None,
        text => {
            let address: IpAddr = text
                .parse()
                .map_err(|_| fields.fault("hostIP", format!("{text:?} is no address")))?;
            // An IPv4 address in the clothes of an IPv6 one is met as what it is.
            Some(address.to_canonical())
        }
    };
    let container_port = match fields.port("containerPort")? {
        0 => return Err(fields.fault("containerPort", "it is 0 or lacks".to_owned())),
        port => port,
    };
    Ok(Some(PortMapping {
        protocol,
        host_ip,
        host_port,
        container_port,
    }))
}

impl<'a> Fields<'a> {
    fn fault(&self, name: &str, reason: String) -> Failure {
        Failure::configuration(&self.full(name), reason)
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<&'a str, Failure> {
        match self.value(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.fault(name, format!("{} is no text", short(other)))),
        }
    }

    fn object(&self, name: &'a str) -> Result<Option<Fields<'a>>, Failure> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path: name, map })),
            Some(other) => Err(self.fault(name, format!("{} is no object", short(other)))),
        }
    }

    /// Reads true or false, also written as a text, as existing configurations do.
    fn switch(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(other) => Err(self.fault(name, format!("{} is neither true nor false", short(other)))),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, Failure> {
        let list = match self.value(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(self.fault(name, format!("{} is no list", short(other)))),
        };
        list.iter()
            .map(|item| match item {
                Value::String(text) if !text.is_empty() => Ok(text.clone()),
                other => Err(self.fault(name, format!("{} in the list is no text", short(other)))),
            })
            .collect()
    }

    fn path(&self, name: &str) -> Result<Option<PathBuf>, Failure> {
        match self.text(name)? {
            "" => Ok(None),
            text if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
            text => Err(self.fault(name, format!("{text:?} is no absolute path"))),
        }
    }

    /// A port; 0 where it lacks.
    fn port(&self, name: &str) -> Result<u16, Failure> {
        let Some(value) = self.value(name) else {
            return Ok(0);
        };
        let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
        number.ok_or_else(|| {
            self.fault(
                name,
                format!("{} is no number of a port, from 0 to 65535", short(value)),
            )
        })
    }

    fn mtu(&self) -> Result<u32, Failure> {
        let Some(value) = self.value("mtu") else {
            return Ok(0);
        };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number
            .filter(|n| *n == 0 || (68..=65535).contains(n))
            .ok_or_else(|| {
                self.fault(
                    "mtu",
                    format!(
                        "{} is no number from 68 to 65535, nor 0 for the agent's choice",
                        short(value)
                    ),
                )
            })
    }

    fn patience(&self) -> Result<Duration, Failure> {
        const FIELD: &str = "manx_patience_seconds";
        let Some(value) = self.value(FIELD) else {
            return Ok(DEFAULT_PATIENCE);
        };
        let seconds = value.as_f64().filter(|s| (0.0..=LONGEST_PATIENCE).contains(s));
        seconds.map(Duration::from_secs_f64).ok_or_else(|| {
            self.fault(
                FIELD,
                format!("{} is no number of seconds from 0 to 600", short(value)),
            )
        })
    }
}

/// A value as it stands, cut where it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        text
    } else {
        text.chars().take(40).chain(['…']).collect()
    }
}
