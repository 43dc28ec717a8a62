//! The agent is told to go: it takes everything off its node, says so, and comes back for nobody but a new
//! installation.
//!
//! Against a real API server, which runs in the node's own network namespace.

use crate::bed::{Felix, Node, PATIENCE, wait_for};
use dataplane_netlink::NetworkNamespace;
use felix_cni::{Command as CniCommand, Request, code};
use policy_model::{UNINSTALL_ORDER, UNINSTALL_REPORT, UninstallOrder, UninstallReport, UninstallState};
use policy_model_datastore_kube::schema::{self, CUSTOM_KINDS};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const HEALTH: u16 = 9099;
const SYSTEM: &str = "manx-system";

fn kube_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../e2e/kube")
        .join(name)
}

/// A node with an API server beside it. The server ends with this value.
struct Cluster {
    server: Child,
    kubectl: PathBuf,
    node: Node,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The script ends everything when its input does.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

impl Cluster {
    fn new() -> Self {
        let node = Node::new();
        let folder = node.path("server");
        let start = || {
            let mut server = Command::new(kube_script("apiserver.sh"));
            server.arg("run").arg(&folder);
            server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        };
        let mut server = node.namespace.run(start).unwrap().expect("start an API server");
        let mut line = String::new();
        let mut output = BufReader::new(server.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the API server did not start: see above");
        let programs = Command::new(kube_script("build.sh"))
            .arg("--where")
            .output()
            .unwrap();
        let programs = String::from_utf8(programs.stdout).unwrap();
        let cluster = Cluster {
            server,
            kubectl: Path::new(programs.trim()).join("kubectl"),
            node,
        };
        for kind in CUSTOM_KINDS {
            cluster.apply(&schema::definition(kind));
        }
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
        for name in [SYSTEM, "shop"] {
            cluster.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
        }
        for command in [
            "link add eth0 type veth peer name eth1",
            "addr add 10.99.0.1/24 dev eth0",
            "link set eth0 up",
            "link set eth1 up",
            // As an agent of an earlier version left it.
            "link add vxlan.calico address 66:00:00:00:00:01 type vxlan id 4096 dstport 4789 local 10.99.0.1 nolearning",
        ] {
            assert!(cluster.in_node("ip", command).0, "{command}");
        }
        cluster.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" } }));
        cluster.ours("ClusterInformation", &json!({ "clusterGUID": "a" }));
        cluster.pool("Always");
        cluster
    }

    fn ours(&self, kind: &str, spec: &Value) {
        self.apply(&json!({ "apiVersion": "projectcalico.org/v3", "kind": kind,
            "metadata": { "name": "default" }, "spec": spec }));
    }

    /// The one pool, whose traffic VXLAN wraps or not.
    fn pool(&self, vxlan_mode: &str) {
        self.ours(
            "IPPool",
            &json!({ "cidr": "10.65.0.0/24", "vxlanMode": vxlan_mode }),
        );
    }

    /// Waits until the node says an address of its tunnel, or none.
    fn wait_for_tunnel(&self, is_there: bool) {
        wait_for(&format!("a tunnel's address to be there: {is_there}"), || {
            let said = self.annotations();
            let found = said.get("projectcalico.org/IPv4VXLANTunnelAddr");
            assert!(
                found.is_none_or(|address| address.starts_with("10.65.0.")),
                "{said:?}"
            );
            (found.is_some() == is_there).then_some(())
        });
    }

    fn try_kubectl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let run = || {
            let mut child = Command::new(&self.kubectl)
                .arg("--kubeconfig")
                .arg(self.node.path("server/kubeconfig"))
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start kubectl");
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let output = self.node.namespace.run(run).unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let (is_success, said) = self.try_kubectl(arguments, "");
        assert!(is_success, "{arguments:?}: {said}");
        said
    }

    fn apply(&self, object: &Value) {
        let (is_success, said) =
            self.try_kubectl(&["apply", "--server-side", "-f", "-"], &object.to_string());
        assert!(is_success, "{object}: {said}");
    }

    fn get(&self, what: &[&str]) -> Value {
        let said = self.kubectl(&[&["get", "-o", "json"], what].concat());
        serde_json::from_str(&said).unwrap()
    }

    /// Makes the agents' service account anew, as another installation does, with a way to the API server; returns its
    /// UID.
    fn install(&self) -> String {
        self.kubectl(&[
            "-n",
            SYSTEM,
            "delete",
            "serviceaccount",
            "manx-node",
            "--ignore-not-found",
        ]);
        self.kubectl(&["-n", SYSTEM, "create", "serviceaccount", "manx-node"]);
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "manx-node" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": "manx-node", "namespace": SYSTEM }],
        }));
        let token = self.kubectl(&["-n", SYSTEM, "create", "token", "manx-node"]);
        let admin = std::fs::read_to_string(self.node.path("server/kubeconfig")).unwrap();
        let users = admin.lines().find(|line| line.starts_with("users:")).unwrap();
        let agents = format!("users: [{{name: admin, user: {{token: \"{}\"}}}}]", token.trim());
        std::fs::write(self.node.path("kubeconfig"), admin.replace(users, &agents)).unwrap();
        let account = self.get(&["-n", SYSTEM, "serviceaccount", "manx-node"]);
        account["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn start(&self, log: &str) -> Felix<'_> {
        self.node.start_as(log, |command| {
            command
                .env("DATASTORE_TYPE", "kubernetes")
                .env("FELIX_DATASTORETYPE", "kubernetes")
                .env("KUBECONFIG", self.node.path("kubeconfig"))
                .env("FELIX_CNISOCKETPATH", self.socket())
                .env("CNI_CONF_DIR", self.node.path("net.d"))
                .env("IP", "autodetect")
                .env("IP_AUTODETECTION_METHOD", "cidr=10.99.0.0/24");
        })
    }

    fn socket(&self) -> PathBuf {
        self.node.path("run/cni.sock")
    }

    fn order(&self, order: &UninstallOrder) {
        let annotation = format!("{UNINSTALL_ORDER}={}", order.text());
        let object = "clusterinformations.projectcalico.org";
        self.kubectl(&["annotate", "--overwrite", object, "default", &annotation]);
    }

    fn annotations(&self) -> std::collections::BTreeMap<String, String> {
        let node = self.get(&["node", "node-1"]);
        serde_json::from_value(node["metadata"]["annotations"].clone()).unwrap_or_default()
    }

    fn wait_for_report(&self, state: UninstallState, token: &str) -> UninstallReport {
        wait_for(&format!("the report {state:?} of {token}"), || {
            let report = UninstallReport::read(&self.annotations()).unwrap();
            report.filter(|report| report.state == state && report.token == token)
        })
    }

    fn network_condition(&self) -> Option<Value> {
        let node = self.get(&["node", "node-1"]);
        let conditions = node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "NetworkUnavailable")
    }

    /// What a program prints on the node, and whether it succeeds.
    fn in_node(&self, program: &str, arguments: &str) -> (bool, String) {
        let run = || Command::new(program).args(arguments.split_whitespace()).output();
        let output = self.node.namespace.run(run).unwrap().expect("start a program");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    fn has_table(&self) -> bool {
        self.in_node("nft", "list table inet manx").0
    }

    fn pod(&self, name: &str) {
        self.apply(
            &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "nodeName": "node-1", "containers": [{ "name": "c", "image": "x" }] } }),
        );
    }

    fn attach(&self, pod: &str, sandbox: &NetworkNamespace, patience: Duration) -> Result<(), u32> {
        let netns = format!("/proc/{}/fd/{}", std::process::id(), sandbox.as_raw_fd());
        self.ask(
            "add",
            json!({ "netns": netns, "namespace": "shop", "pod": pod }),
            pod,
            patience,
        )
    }

    fn detach(&self, pod: &str) {
        self.ask("del", json!({}), pod, PATIENCE).unwrap();
    }

    fn ask(&self, command: &str, mut words: Value, pod: &str, patience: Duration) -> Result<(), u32> {
        words["command"] = command.into();
        words["key"] = json!({ "network": "n", "container_id": pod, "interface": "eth0" });
        let command: CniCommand = serde_json::from_value(words).unwrap();
        let asked = felix_cni::call(&self.socket(), &Request::new(command), patience);
        asked.map(drop).map_err(|error| error.code())
    }

    /// Whether nothing of ours is left.
    fn assert_is_clean(&self) {
        assert!(!self.has_table());
        let links = self.in_node("ip", "-o link").1;
        assert!(!links.contains(": cali") && !links.contains("vxlan"), "{links}");
        for command in ["route show proto 80", "-6 route show proto 80"] {
            assert_eq!(self.in_node("ip", command).1, "", "{command}");
        }
        for name in ["net.d/10-calico.conflist", "state", "run"] {
            assert!(!self.node.path(name).exists(), "{name}");
        }
    }
}

fn order(installation: &str, token: &str) -> UninstallOrder {
    UninstallOrder {
        installation: installation.to_owned(),
        token: token.to_owned(),
        ..UninstallOrder::default()
    }
}

#[test]
fn an_agent_that_is_told_to_go_leaves_nothing_and_stays_away() {
    let cluster = Cluster::new();
    let installation = cluster.install();
    let felix = cluster.start("first");
    let config = cluster.node.path("net.d/10-calico.conflist");
    let is_there = |path: &Path| path.exists().then_some(());
    wait_for("the network configuration", || is_there(&config));
    wait_for("the node's condition", || cluster.network_condition());
    let has_address = || {
        cluster
            .annotations()
            .contains_key("projectcalico.org/IPv4Address")
    };
    wait_for("the node's address", || has_address().then_some(()));
    for (mode, is_there) in [("Always", true), ("Never", false), ("CrossSubnet", true)] {
        cluster.pool(mode);
        cluster.wait_for_tunnel(is_there);
    }
    cluster.pod("web");
    cluster.pod("late");
    let sandbox = NetworkNamespace::anonymous().unwrap();
    cluster.attach("web", &sandbox, PATIENCE).unwrap();
    assert!(cluster.has_table());

    // Another installation's order is none of this one's business: the next one is heard after it, and nothing went.
    cluster.order(&order("another", "0"));
    cluster.order(&order(&installation, "1"));
    let waiting = cluster.wait_for_report(UninstallState::Waiting, "1");
    assert!(waiting.text.contains("shop/web"), "{}", waiting.text);
    assert!(cluster.has_table() && config.exists(), "a pod is connected");
    let other = NetworkNamespace::anonymous().unwrap();
    assert_eq!(
        cluster.attach("late", &other, Duration::ZERO),
        Err(code::TRY_AGAIN)
    );
    let is_unready = |why: &str| {
        let page = cluster.node.get(HEALTH, "/readiness");
        page.filter(|(status, page)| *status == 503 && page.contains(why))
    };
    wait_for("a page that names the pod", || is_unready("shop/web"));

    cluster.detach("web");
    cluster.wait_for_report(UninstallState::Done, "1");
    cluster.assert_is_clean();
    wait_for("a node that says nothing of it", || {
        (cluster.network_condition().is_none() && !has_address()).then_some(())
    });
    cluster.wait_for_tunnel(false);
    assert_eq!(cluster.node.get(HEALTH, "/liveness").unwrap().0, 200);
    wait_for("a page that says so", || is_unready("is uninstalled"));

    // Another run asks the same of a node that is clean, and the report goes when nobody waits for it.
    cluster.order(&order(&installation, "2"));
    cluster.wait_for_report(UninstallState::Done, "2");
    let closing = UninstallOrder {
        closing: true,
        ..order(&installation, "2")
    };
    cluster.order(&closing);
    wait_for("the report's end", || {
        (!cluster.annotations().contains_key(UNINSTALL_REPORT)).then_some(())
    });
    assert!(felix.stop().success());

    // One of the same installation that is started now installs nothing.
    let felix = cluster.start("second");
    wait_for("its readiness", || is_unready("is uninstalled"));
    cluster.assert_is_clean();
    assert!(
        !felix.said().contains("in sync and programmed"),
        "{}",
        felix.said()
    );
    assert!(felix.stop().success());

    // A new installation finds the old order and does not mind.
    let installation = cluster.install();
    let felix = cluster.start("third");
    wait_for("the network configuration", || is_there(&config));
    cluster.attach("late", &other, PATIENCE).unwrap();

    // Pods are cut, and the agent waits for the step beside it.
    let cut = UninstallOrder {
        force: true,
        has_steps: true,
        ..order(&installation, "3")
    };
    cluster.order(&cut);
    let waiting = cluster.wait_for_report(UninstallState::Waiting, "3");
    assert!(waiting.text.contains("manx-uninstall"), "{}", waiting.text);
    let marker = cluster.node.path("run/uninstall");
    assert!(marker.exists());
    let inside = other
        .run(|| Command::new("ip").args(["-o", "link"]).output())
        .unwrap()
        .unwrap();
    assert!(
        !String::from_utf8_lossy(&inside.stdout).contains("eth0"),
        "the pod has no interface any more"
    );
    std::fs::remove_dir_all(cluster.node.path("run")).unwrap();
    cluster.wait_for_report(UninstallState::Done, "3");
    cluster.assert_is_clean();
    assert!(felix.stop().success());
}
