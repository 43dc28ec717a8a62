//! A node with the real felix, sandboxes, and a runtime that starts the plugin.

use dataplane_netlink::conntrack::{Conntrack, FlowFilter};
use dataplane_netlink::{InterfacePrefixes, NetworkNamespace, host_interface_name};
use policy_model::{Key, Kind, Object, Resource};
use policy_model_datastore::{Datastore, Selection};
use policy_model_datastore_file::{FileStore, Settings};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long something that has to happen is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(180);

/// The agent's program, built as this test was.
fn felix_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let plugin = PathBuf::from(env!("CARGO_BIN_EXE_manx-cni"));
        let folder = plugin.parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "felix", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../Cargo.toml"));
        build.arg("--target-dir").arg(folder.parent().unwrap());
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "felix cannot be built");
        folder.join("felix")
    });
    built.clone()
}

/// A node: a network namespace and folders.
pub(crate) struct Node {
    namespace: NetworkNamespace,
    folder: tempfile::TempDir,
}

/// A pod's sandbox.
pub(crate) struct Sandbox {
    pub(crate) container: String,
    namespace: NetworkNamespace,
}

impl Sandbox {
    pub(crate) fn new(container: &str) -> Self {
        Sandbox {
            container: container.to_owned(),
            namespace: NetworkNamespace::anonymous().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// What `ip` prints inside, and whether it succeeds.
    pub(crate) fn ip(&self, arguments: &str) -> (bool, String) {
        ip(&self.namespace, arguments)
    }

    /// Answers on a port of every address with the name of the container, from now on.
    pub(crate) fn serve(&self, port: u16) {
        let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = self.namespace.run(|| TcpListener::bind(everywhere).unwrap());
        let (listener, name) = (listener.unwrap(), self.container.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Who went away has no need of an answer.
                let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
            }
        });
    }

    pub(crate) fn has_address(&self, address: &str) -> bool {
        self.ip("-o addr show dev eth0")
            .1
            .contains(&format!(" {address}/"))
    }
}

fn ip(namespace: &NetworkNamespace, arguments: &str) -> (bool, String) {
    let output = namespace.run(|| Command::new("ip").args(arguments.split_whitespace()).output());
    let output = output.unwrap().expect("the tests need ip (iproute2)");
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

impl Node {
    /// A node whose cluster has a pool of each family.
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and has to run as root"
        );
        let namespace = NetworkNamespace::anonymous().unwrap();
        assert!(ip(&namespace, "link set lo up").0);
        let node = Node {
            namespace,
            folder: tempfile::tempdir().unwrap(),
        };
        for (name, cidr) in [("v4", "10.77.0.0/24"), ("v6", "fd00:77::/112")] {
            let spec = serde_json::from_value(json!({"cidr": cidr})).unwrap();
            node.put(Resource::IPPool(Object::named(name, spec)));
        }
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `ip` prints on the node.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&self.namespace, arguments).1
    }

    /// The name of the container that answers at an address of the node, called from the node; nothing where nobody
    /// listens.
    pub(crate) fn answer_at(&self, address: &str, port: u16) -> Option<String> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let stream = self.namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        let mut stream = match stream.unwrap() {
            Ok(stream) => stream,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
                return None;
            }
        };
        let mut name = String::new();
        stream.read_to_string(&mut name).unwrap();
        Some(name)
    }

    /// How many flows connection tracking knows that have an address.
    pub(crate) fn flows_of(&self, address: IpAddr) -> usize {
        let list = || Conntrack::open()?.list(&FlowFilter::address(address));
        self.namespace.run(list).unwrap().unwrap().len()
    }

    /// What `nft` prints of one of our maps.
    pub(crate) fn map(&self, name: &str) -> String {
        self.nft_list("map", name)
    }

    /// What `nft` prints of one of our sets.
    pub(crate) fn set(&self, name: &str) -> String {
        self.nft_list("set", name)
    }

    /// How many addresses of a family are guarded because nobody has them.
    pub(crate) fn guarded(&self, family: &str) -> usize {
        let set = self.set(&format!("vacant{family}"));
        let elements = set
            .split_once("elements = {")
            .map_or("", |(_, elements)| elements);
        elements
            .split(',')
            .filter(|element| !element.trim().is_empty())
            .count()
    }

    fn nft_list(&self, kind: &str, name: &str) -> String {
        let list = || {
            Command::new("nft")
                .args(["list", kind, "inet", "manx", name])
                .output()
        };
        let output = self.namespace.run(list).unwrap().expect("the tests need nft");
        String::from_utf8(output.stdout).unwrap()
    }

    fn store(&self) -> FileStore {
        FileStore::open(self.path("datastore"), Settings::default()).unwrap()
    }

    fn put(&self, resource: Resource) {
        block_on(self.store().create(resource)).unwrap();
    }

    /// Makes a pod known.
    pub(crate) fn announce(&self, pod: &str) {
        let prefixes = InterfacePrefixes::default();
        let interface = host_interface_name(&prefixes, "shop", pod).unwrap().to_string();
        let spec = json!({"interfaceName": interface, "orchestrator": "k8s", "node": "node-1", "pod": pod, "endpoint": "eth0"});
        let mut object = Object::named(
            format!("node--1-k8s-{pod}-eth0"),
            serde_json::from_value(spec).unwrap(),
        );
        object.metadata.namespace = "shop".to_owned();
        self.put(Resource::WorkloadEndpoint(object));
    }

    /// Gives the node ranges of its own, as a controller manager does.
    pub(crate) fn give_ranges(&self, ranges: &[&str]) {
        let spec = serde_json::from_value(json!({"podCIDRs": ranges})).unwrap();
        self.put(Resource::Node(Object::named("node-1", spec)));
    }

    /// A further pool, and a namespace whose pods shall have their IPv4 addresses from it.
    pub(crate) fn give_pool_to_namespace(&self, pool: &str, cidr: &str) {
        let spec = serde_json::from_value(json!({"cidr": cidr})).unwrap();
        self.put(Resource::IPPool(Object::named(pool, spec)));
        let mut profile = Object::named("kns.shop", policy_model::ProfileSpec::default());
        let wish = (
            "cni.projectcalico.org/ipv4pools".to_owned(),
            json!([pool]).to_string(),
        );
        profile.metadata.annotations.extend([wish]);
        self.put(Resource::Profile(profile));
    }

    /// Makes a pod unknown.
    pub(crate) fn withdraw(&self, pod: &str) {
        let key = Key::namespaced(Kind::WorkloadEndpoint, "shop", format!("node--1-k8s-{pod}-eth0"));
        block_on(self.store().delete(&key, None)).unwrap();
    }

    /// Waits until a container holds so many addresses: what felix gives and takes back is written a little later.
    pub(crate) fn until_held(&self, container: &str, count: usize) {
        wait_for("the blocks to say it", || {
            (self.held_by(container) == count).then_some(())
        });
    }

    /// The handles under which addresses are held, one for each address. The node's reserve is left out.
    pub(crate) fn handles(&self) -> Vec<String> {
        let listing = block_on(self.store().list(Selection::kinds([Kind::IPAMBlock]))).unwrap();
        let mut handles = Vec::new();
        for item in listing.items {
            let Resource::IPAMBlock(block) = item.resource.as_ref() else {
                panic!("{:?}", item.resource)
            };
            for place in block.spec.allocations.iter().flatten() {
                let holder = &block.spec.attributes[*place as usize];
                let handle = holder.handle_id.as_deref().unwrap_or_default();
                if handle.starts_with("manx-reserve-") {
                    continue;
                }
                handles.push(serde_json::to_value(holder).unwrap().to_string());
            }
        }
        handles
    }

    /// How many addresses a container holds.
    pub(crate) fn held_by(&self, container: &str) -> usize {
        self.handles().iter().filter(|h| h.contains(container)).count()
    }

    pub(crate) fn start(&self, log: &str) -> Felix {
        let log = self.path(log);
        let mut command = Command::new(felix_program());
        command
            .env_clear()
            .env("FELIX_FELIXHOSTNAME", "node-1")
            .env("FELIX_DATASTOREPATH", self.path("datastore"))
            .env("FELIX_STATEDIR", self.path("state"))
            .env("FELIX_CNISOCKETPATH", self.path("run/cni.sock"))
            .env("FELIX_LOGFILEPATH", "none")
            .env("CNI_CONF_DIR", self.path("net.d"))
            .arg("--config-file")
            .arg(self.path("felix.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let child = self
            .namespace
            .run(|| command.spawn())
            .unwrap()
            .expect("start felix");
        Felix { child, log }
    }

    /// Starts felix and waits until it says that it can connect pods.
    pub(crate) fn start_ready(&self, log: &str) -> Felix {
        let felix = self.start(log);
        wait_for("felix to be ready", || {
            let said = self.call("STATUS", &Sandbox::new("x"), "", json!({"cniVersion": "1.1.0"}));
            said.is_success.then_some(())
        });
        felix
    }

    /// A configuration of this node's network, with changes.
    pub(crate) fn configuration(&self, changes: Value) -> Value {
        let mut all = json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "manx", "log_level": "info",
            "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
            "manx_socket": self.path("run/cni.sock"), "manx_patience_seconds": 45,
        });
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    }

    /// Starts the plugin as a runtime does.
    pub(crate) fn begin(&self, command: &str, sandbox: &Sandbox, pod: &str, changes: Value) -> Child {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_manx-cni"));
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={}",
            sandbox.container
        );
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &sandbox.container)
            .env("CNI_NETNS", sandbox.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.namespace.run(|| plugin.spawn()).unwrap().unwrap();
        let text = self.configuration(changes).to_string();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child
    }

    /// Starts the plugin as a runtime does, and waits for its answer.
    pub(crate) fn call(&self, command: &str, sandbox: &Sandbox, pod: &str, changes: Value) -> Said {
        end(self.begin(command, sandbox, pod, changes))
    }

    /// Connects a pod.
    pub(crate) fn add(&self, sandbox: &Sandbox, pod: &str) -> Value {
        self.call("ADD", sandbox, pod, json!({})).success()
    }
}

/// What the plugin said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) is_success: bool,
    pub(crate) document: Value,
}

impl Said {
    pub(crate) fn success(self) -> Value {
        assert!(self.is_success, "{}", self.document);
        self.document
    }

    /// The code of a refusal.
    pub(crate) fn code(&self) -> u64 {
        assert!(!self.is_success, "{}", self.document);
        self.document["code"].as_u64().unwrap()
    }
}

/// Waits for the plugin's answer: one document or nothing, and nothing beside it.
pub(crate) fn end(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let is_success = output.status.success();
    assert!(
        is_success || output.status.code() == Some(1),
        "{:?}",
        output.status
    );
    let document = if output.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    Said { is_success, document }
}

/// The addresses in a result.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = result["ips"].as_array().unwrap();
    let texts = list.iter().map(|ip| ip["address"].as_str().unwrap());
    texts
        .map(|text| text.split('/').next().unwrap().parse().unwrap())
        .collect()
}

/// Waits for something to be there.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running felix; ended with the value.
pub(crate) struct Felix {
    child: Child,
    log: PathBuf,
}

impl Felix {
    pub(crate) fn wait_until_it_says(&self, words: &str) {
        wait_for(words, || {
            let said = std::fs::read_to_string(&self.log).unwrap();
            said.contains(words).then_some(())
        });
    }

    /// Kills it without a word.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Felix {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "felix said:\n{}",
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(work)
}
