//! What is done for each command.

use crate::call::{self, Pod, Target, Variables, Verb};
use crate::configuration::{self, Configuration, VERSIONS};
use crate::failure::Failure;
use crate::result::{self, Address, Attached, Interface, Route};
use crate::sandbox::{self, Sandbox};
use felix_cni_protocol::words::{NAMESPACE, NETLINK};
use felix_cni_protocol::{
    AttachmentKey, CallError, Command, PortMapping, Request, Success, call as ask, call_with, code, spool,
};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// The version in which is answered where none was asked for.
const NEWEST: &str = "1.1.0";
/// How long felix may take to say how it stands: a runtime asks often.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// What is printed, and whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: Option<String>,
    pub(crate) is_success: bool,
}

impl Answer {
    /// A failure before anything is known of the runtime.
    pub(crate) fn failed(failure: Failure) -> Self {
        Self::from_failure(&failure, NEWEST)
    }

    fn from_failure(failure: &Failure, version: &str) -> Self {
        Answer {
            text: Some(failure.document(version).to_string()),
            is_success: false,
        }
    }
}

/// As what the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Makes the pod's interface.
    Network,
    /// Gives addresses to another network's plugin.
    Addresses,
    Loopback,
}

/// Answers a call under some name, with some input and environment.
pub(crate) fn answer(name: &str, input: &[u8], variables: Variables<'_>) -> Answer {
    let verb = match call::verb(variables) {
        Ok(verb) => verb,
        Err(failure) => return Answer::failed(failure),
    };
    if verb == Verb::Version {
        return versions(input);
    }
    let document = match configuration::document(input) {
        Ok(document) => document,
        Err(failure) => return Answer::failed(failure),
    };
    let version = match configuration::version(&document) {
        Ok(version) => version,
        Err(failure) => return Answer::failed(failure),
    };
    match carry_out(name, verb, &document, variables) {
        Ok(text) => Answer {
            text: text.map(|t| t.to_string()),
            is_success: true,
        },
        Err(failure) => {
            log(&document, variables, &failure);
            Answer::from_failure(&failure, version)
        }
    }
}

/// Says which versions are understood. A runtime asks that before it knows anything.
fn versions(input: &[u8]) -> Answer {
    let asked = configuration::document(input).ok();
    let asked = asked
        .as_ref()
        .and_then(|d| d.get("cniVersion"))
        .and_then(Value::as_str);
    let version = asked.filter(|v| !v.is_empty()).unwrap_or(NEWEST);
    let text = json!({"cniVersion": version, "supportedVersions": VERSIONS});
    Answer {
        text: Some(text.to_string()),
        is_success: true,
    }
}

fn role(name: &str, document: &Map<String, Value>) -> Role {
    let ours = |kind: &str| matches!(kind, "manx" | "calico" | "manx-cni");
    let (kind, ipam) = configuration::types(document);
    match name {
        "manx-ipam" | "calico-ipam" => Role::Addresses,
        "loopback" => Role::Loopback,
        name if ours(name) && name != "manx-cni" => Role::Network,
        _ if kind == "loopback" => Role::Loopback,
        _ if !ours(kind) && matches!(ipam, "manx-ipam" | "calico-ipam") => Role::Addresses,
        _ => Role::Network,
    }
}

fn carry_out(
    name: &str,
    verb: Verb,
    document: &Map<String, Value>,
    variables: Variables<'_>,
) -> Result<Option<Value>, Failure> {
    let version = configuration::version(document)?;
    require_version(verb, version)?;
    let role = role(name, document);
    if role == Role::Loopback {
        return loopback(verb, version, document, variables);
    }
    let configuration = Configuration::read(document)?;
    let node = Node {
        configuration: &configuration,
    };
    match verb {
        Verb::Add => {
            let target = call::target(variables, verb)?;
            match role {
                Role::Addresses => node.assign(&target, &call::pod(variables)?),
                _ => {
                    let pod = call::known_pod(variables)?;
                    let host_ports = configuration::host_ports(document)?;
                    node.add(&target, &pod, host_ports, may_be_own(variables))
                }
            }
            .map(Some)
        }
        Verb::Del => node.del(&call::target(variables, verb)?).map(|()| None),
        Verb::Check => {
            let target = call::target(variables, verb)?;
            let sandbox = match role {
                Role::Addresses => None,
                _ => Some(Sandbox::enter(&target.namespace, may_be_own(variables))?),
            };
            node.check(&target, sandbox.as_ref()).map(|()| None)
        }
        Verb::Gc => node.collect(document).map(|()| None),
        Verb::Status => node.status().map(|()| None),
        Verb::Version => Ok(None),
    }
}

fn may_be_own(variables: Variables<'_>) -> bool {
    variables("CNI_NETNS_OVERRIDE").is_some_and(|v| ["1", "true", "TRUE", "True"].iter().any(|yes| v == *yes))
}

/// Some commands came with later versions of the specification.
fn require_version(verb: Verb, version: &str) -> Result<(), Failure> {
    let (name, since) = match verb {
        Verb::Check => ("CHECK", "0.4.0"),
        Verb::Gc => ("GC", "1.1.0"),
        Verb::Status => ("STATUS", "1.1.0"),
        Verb::Add | Verb::Del | Verb::Version => return Ok(()),
    };
    let place = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
    if place(version) >= place(since) {
        return Ok(());
    }
    Err(Failure::version(format!(
        "field cniVersion: {version} has no command {name}; it came with {since}"
    )))
}

/// The node's felix, as the configuration says to speak with it.
struct Node<'a> {
    configuration: &'a Configuration,
}

impl Node<'_> {
    fn key(&self, target: &Target) -> AttachmentKey {
        AttachmentKey {
            network: self.configuration.network.clone(),
            container_id: target.container.clone(),
            interface: target.interface.clone(),
        }
    }

    fn request(&self, command: Command) -> Request {
        Request {
            addresses: self.configuration.addresses.clone(),
            ..Request::new(command)
        }
    }

    fn ask(&self, request: Request, sandbox: Option<&Sandbox>) -> Result<Success, CallError> {
        let Configuration { socket, patience, .. } = self.configuration;
        match sandbox {
            None => ask(socket, &request, *patience),
            Some(sandbox) => {
                let request = Request {
                    descriptors: vec![NAMESPACE.to_owned(), NETLINK.to_owned()],
                    ..request
                };
                let descriptors = [sandbox.namespace.as_fd(), sandbox.netlink.as_fd()];
                call_with(socket, &request, &descriptors, *patience)
            }
        }
    }

    fn add(
        &self,
        target: &Target,
        pod: &Pod,
        host_ports: Vec<PortMapping>,
        may_be_own: bool,
    ) -> Result<Value, Failure> {
        let sandbox = Sandbox::enter(&target.namespace, may_be_own)?;
        if let Some(is_allowed) = self.configuration.forwarding {
            sandbox::set_forwarding(is_allowed)?;
        }
        let key = self.key(target);
        self.forget_removal(&key)?;
        let request = self.request(Command::Add {
            key,
            netns: target.namespace.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            mtu: self.configuration.mtu,
        });
        let request = Request {
            host_ports: host_ports.clone(),
            ..request
        };
        let success = self.ask(request, Some(&sandbox))?;
        if let Some(mapping) = host_ports.iter().find(|m| !success.host_ports.contains(m)) {
            // The runtime takes back what it is told has failed, and tries again.
            return Err(Failure::again(format!(
                "the agent of this node is of a version that maps no host ports, and {mapping} is asked for"
            )));
        }
        Ok(self.told(&attached(target, &success)))
    }

    fn assign(&self, target: &Target, pod: &Pod) -> Result<Value, Failure> {
        let key = self.key(target);
        self.forget_removal(&key)?;
        let request = self.request(Command::Assign {
            key,
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        });
        let success = self.ask(request, None)?;
        let attached = Attached {
            addresses: success.addresses.iter().map(|a| single(*a, None, None)).collect(),
            ..Attached::default()
        };
        // An address plugin tells its own part alone.
        Ok(attached.document(self.configuration.version, None, None))
    }

    fn told(&self, attached: &Attached) -> Value {
        let Configuration {
            version,
            previous,
            dns,
            ..
        } = self.configuration;
        attached.document(version, previous.as_ref(), dns.as_ref())
    }

    /// A removal of the same that was noted down must not meet the new attachment.
    fn forget_removal(&self, key: &AttachmentKey) -> Result<(), Failure> {
        let folder = spool::folder(&self.configuration.socket);
        spool::withdraw(&folder, key).map_err(|e| {
            Failure::io(
                format!("taking back the note of a removal in {}", folder.display()),
                e,
            )
        })
    }

    /// Removes an attachment, or notes down that it is to be removed.
    fn del(&self, target: &Target) -> Result<(), Failure> {
        let key = self.key(target);
        let away = match self.ask(self.request(Command::Del { key: key.clone() }), None) {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == code::TRY_AGAIN => error,
            Err(error) => return Err(error.into()),
        };
        let folder = spool::folder(&self.configuration.socket);
        spool::leave(&folder, &key).map_err(|error| {
            Failure::io(format!("noting the removal down in {}", folder.display()), error).with_details(away)
        })
    }

    fn check(&self, target: &Target, sandbox: Option<&Sandbox>) -> Result<(), Failure> {
        let request = self.request(Command::Check {
            key: self.key(target),
            netns: target.namespace.clone(),
        });
        let success = self.ask(request, sandbox)?;
        let Some(previous) = &self.configuration.previous else {
            return Err(Failure::configuration(
                "prevResult",
                "it lacks; CHECK needs the result of ADD",
            ));
        };
        let told = result::addresses(previous);
        match success.addresses.iter().find(|address| !told.contains(address)) {
            None => Ok(()),
            Some(address) => Err(Failure::kernel(format!(
                "the pod has address {address}, which the result of ADD (prevResult) does not have"
            ))),
        }
    }

    /// Nothing is noted down here: attachments that come later would not be in the list.
    fn collect(&self, document: &Map<String, Value>) -> Result<(), Failure> {
        let Some(valid) = configuration::valid_attachments(document)? else {
            return Ok(());
        };
        let request = self.request(Command::Gc {
            network: self.configuration.network.clone(),
            valid,
        });
        self.ask(request, None)?;
        Ok(())
    }

    fn status(&self) -> Result<(), Failure> {
        let Configuration { socket, patience, .. } = self.configuration;
        match ask(
            socket,
            &Request::new(Command::Status),
            STATUS_PATIENCE.min(*patience),
        ) {
            Ok(_) => Ok(()),
            Err(CallError::Refused(refused))
                if [code::NOT_AVAILABLE, code::LIMITED].contains(&refused.code) =>
            {
                Err(CallError::Refused(refused).into())
            }
            Err(error) => {
                let failure = Failure::from(error);
                Err(Failure::not_available(failure.message).with_details(failure.details))
            }
        }
    }
}

/// What the runtime is to hear of what felix has made.
fn attached(target: &Target, success: &Success) -> Attached {
    let interface = |name: &str, mac: &str, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: mac.to_owned(),
        mtu: success.mtu,
        sandbox: sandbox.to_owned(),
    };
    let gateway = |address: &IpAddr| {
        let mut gateways = success.gateways.iter();
        gateways.find(|g| g.is_ipv4() == address.is_ipv4()).copied()
    };
    Attached {
        interfaces: vec![
            interface(&success.host_interface, &success.host_mac, ""),
            interface(&target.interface, &success.mac, &target.namespace),
        ],
        addresses: success
            .addresses
            .iter()
            .map(|a| single(*a, gateway(a), Some(1)))
            .collect(),
        routes: success
            .gateways
            .iter()
            .map(|gateway| Route { gateway: *gateway })
            .collect(),
    }
}

/// An address with the prefix of a single one.
fn single(address: IpAddr, gateway: Option<IpAddr>, interface: Option<usize>) -> Address {
    Address {
        address,
        prefix: if address.is_ipv4() { 32 } else { 128 },
        gateway,
        interface,
    }
}

/// The loopback interface of a sandbox: there anyway, and brought up.
fn loopback(
    verb: Verb,
    version: &str,
    document: &Map<String, Value>,
    variables: Variables<'_>,
) -> Result<Option<Value>, Failure> {
    if !matches!(verb, Verb::Add | Verb::Check) {
        // A sandbox takes its loopback with it, and there is nothing to be ready or to be collected.
        return Ok(None);
    }
    let target = call::target(variables, verb)?;
    let sandbox = Sandbox::enter(&target.namespace, may_be_own(variables))?;
    if verb == Verb::Check {
        return if sandbox.is_loopback_up()? {
            Ok(None)
        } else {
            Err(Failure::kernel("the sandbox's loopback interface is down"))
        };
    }
    sandbox.raise_loopback()?;
    if let Some(previous) = document.get("prevResult").filter(|p| p.is_object()) {
        return Ok(Some(previous.clone()));
    }
    let has_v6 = std::path::Path::new("/proc/self/net/if_inet6").exists();
    let address = |address: IpAddr, prefix| Address {
        address,
        prefix,
        gateway: None,
        interface: Some(0),
    };
    let mut addresses = vec![address(IpAddr::from([127, 0, 0, 1]), 8)];
    addresses.extend(has_v6.then(|| address(std::net::Ipv6Addr::LOCALHOST.into(), 128)));
    let attached = Attached {
        interfaces: vec![Interface {
            name: "lo".to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            mtu: 0,
            sandbox: target.namespace,
        }],
        addresses,
        routes: Vec::new(),
    };
    Ok(Some(attached.document(version, None, None)))
}

/// Writes a failure into the log that the configuration names. The runtime hears of it in any case, so what cannot be
/// written is left.
fn log(document: &Map<String, Value>, variables: Variables<'_>, failure: &Failure) {
    let path = document
        .get("log_file_path")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let level = document
        .get("log_level")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !path.starts_with('/') || matches!(level, "none" | "fatal" | "panic") {
        return;
    }
    let mut line = String::new();
    let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
    let said = |name| variables(name).unwrap_or_default();
    let _ = writeln!(
        line,
        "{seconds} error {:?} container {:?}: {} (code {}) {}",
        said("CNI_COMMAND"),
        said("CNI_CONTAINERID"),
        failure.message,
        failure.code,
        failure.details
    );
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
