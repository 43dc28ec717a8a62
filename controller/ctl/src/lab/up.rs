//! Starts and removes the lab.

use super::cluster;
use super::commands::{all_ready, measure};
use super::flows::picture;
use super::matrix;
use super::names::{self, DEFAULT_POOLS};
use super::processes::Process;
use super::state::{AgentState, LabState};
use super::UpArguments;
use anyhow::Context;
use policy_model::{IpPoolSpec, Kind, NodeAddress, NodeSpec, Object, Resource};
use policy_model_datastore::{Datastore, upsert_with_retry};
use policy_model_datastore_file::{FileStore, Settings};
use policy_model_kubernetes::ManifestSet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How long the whole lab may take to stand.
const PATIENCE: Duration = Duration::from_secs(120);
/// The example manifests, which also stand in the repository.
const SHOP: &str = include_str!("../../examples/shop.yaml");

fn step(text: &str) {
    eprintln!("manx lab: {text}");
}

/// Starts the lab and measures.
pub fn run(arguments: &UpArguments) -> anyhow::Result<ExitCode> {
    if LabState::load().is_ok_and(|lab| lab.processes.iter().any(Process::is_alive)) {
        anyhow::bail!("the lab is running already; 'manx lab down' removes it");
    }
    // What a crash left behind.
    remove()?;
    let started = start(arguments);
    if let Err(error) = started {
        step("something failed; removing what was made (the logs are shown first)");
        show_logs();
        remove()?;
        return Err(error);
    }
    if arguments.no_probe {
        return Ok(ExitCode::SUCCESS);
    }
    step("measuring who reaches whom with real packets");
    let measured = measure(picture()?.matrix()?);
    let differences = matrix::print(&measured);
    println!("\nnext: 'manx lab status', 'manx lab watch', 'manx lab exec shop/web -- ping -c1 ...', 'manx lab down'");
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn start(arguments: &UpArguments) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(names::FOLDER).context("making the lab's folder")?;
    let manifests = match &arguments.manifests {
        Some(folder) => folder.canonicalize().with_context(|| format!("--manifests {}", folder.display()))?,
        None => {
            let folder = names::path("manifests");
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("shop.yaml"), SHOP)?;
            folder
        }
    };
    let set = read_manifests(&manifests)?;
    let nodes = choose_nodes(&set, arguments.nodes)?;
    step(&format!("{} nodes, {} pods", nodes.len(), set.pods().filter(|p| p.is_endpoint()).count()));
    cluster::make_fabric()?;
    cluster::make_nodes(&nodes)?;
    write_datastore(&set, &nodes)?;
    let mut lab = LabState { manifests: manifests.clone(), nodes, processes: Vec::new() };
    lab.save()?;
    step("starting the controller and a felix for each node");
    lab.processes.push(start_controller(&manifests)?);
    for node in lab.nodes.keys().cloned().collect::<Vec<_>>() {
        lab.processes.push(start_felix(&node)?);
        lab.save()?;
    }
    lab.processes.push(start_agent()?);
    lab.save()?;
    wait(&lab, &set)
}

fn read_manifests(folder: &Path) -> anyhow::Result<ManifestSet> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    let mut set = ManifestSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        set.set_file(&file.strip_prefix(folder).unwrap_or(&file).display().to_string(), &text);
    }
    for fault in set.faults() {
        eprintln!("{fault}");
    }
    Ok(set)
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    out.sort();
    Ok(())
}

/// The nodes that the manifests name, filled up with `node1`, `node2`, ... to the number asked for.
fn choose_nodes(set: &ManifestSet, number: usize) -> anyhow::Result<BTreeMap<String, Vec<IpAddr>>> {
    anyhow::ensure!((1..=250).contains(&number), "--nodes {number}: must be 1 to 250");
    let mut nodes: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for name in set.node_names() {
        nodes.insert(name.to_string(), Vec::new());
    }
    for resource in set.resources() {
        if let Resource::Node(node) = resource {
            nodes.insert(node.metadata.name.clone(), node.spec.all_addresses());
        }
    }
    let mut next = 1;
    while nodes.len() < number {
        nodes.entry(format!("node{next}")).or_default();
        next += 1;
    }
    let taken: Vec<IpAddr> = nodes.values().flatten().copied().collect();
    let mut free = (1..).map(names::node_addresses).filter(|a| !a.iter().any(|x| taken.contains(x)));
    for addresses in nodes.values_mut().filter(|a| a.is_empty()) {
        addresses.extend(free.next().into_iter().flatten());
    }
    Ok(nodes)
}

/// What no manifest says and the cluster needs: nodes' addresses and a pool.
fn write_datastore(set: &ManifestSet, nodes: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<()> {
    let store = FileStore::open(names::datastore(), Settings::default()).context("opening the lab's datastore")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut wanted: Vec<Resource> = Vec::new();
    let defined = |kind: Kind, name: &str| set.resources().any(|r| r.kind() == kind && r.metadata().name == name);
    for (name, addresses) in nodes {
        if defined(Kind::Node, name) {
            continue;
        }
        let address = |a: &IpAddr| NodeAddress { address: *a, address_type: "InternalIP".into() };
        let spec = NodeSpec { addresses: addresses.iter().map(address).collect(), ..NodeSpec::default() };
        wanted.push(Object::named(name.clone(), spec).into());
    }
    if !set.resources().any(|r| r.kind() == Kind::IPPool) {
        for (name, range) in DEFAULT_POOLS {
            wanted.push(Object::named(name, IpPoolSpec::of(range.parse().context("a pool's range")?)).into());
        }
    }
    runtime.block_on(async {
        for resource in wanted {
            let key = resource.key();
            upsert_with_retry(&store as &dyn Datastore, &key, |_| Some(resource.clone())).await?;
        }
        anyhow::Ok(())
    })
}

/// A program of ours, beside this one.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let path = here.with_file_name(name);
    anyhow::ensure!(path.exists(), "the program {} is not beside {}", name, here.display());
    Ok(path)
}

fn start_controller(manifests: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(program("manx-controller")?);
    command.arg("--manifests").arg(manifests).arg("--datastore").arg(names::datastore());
    command.arg("--assign-nodes").arg("--faults").arg(names::path("faults.json"));
    // Port 0 is no port: the machine's own ports are none of the lab's business.
    command.args(["--metrics-port", "0"]);
    Process::start("controller", &mut command, &names::path("controller.log"), None)
}

fn start_felix(node: &str) -> anyhow::Result<Process> {
    let folder = names::node_folder(node);
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(program("felix")?);
    command
        .arg("--config-file")
        .arg(folder.join("felix.cfg"))
        .env("FELIX_FELIXHOSTNAME", node)
        .env("FELIX_DATASTOREPATH", names::datastore())
        .env("FELIX_STATEDIR", &folder)
        .env("FELIX_CNISOCKETPATH", names::cni_socket(node))
        .env("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT")
        .env("FELIX_LOGFILEPATH", "none");
    let log = folder.join("felix.log");
    Process::start(&format!("felix {node}"), &mut command, &log, Some(&names::node_namespace(node)))
}

fn start_agent() -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "agent"]);
    Process::start("agent", &mut command, &names::path("agent.log"), None)
}

/// Waits until every pod of the manifests is connected.
fn wait(lab: &LabState, set: &ManifestSet) -> anyhow::Result<()> {
    let wanted = set.pods().filter(|p| p.is_endpoint()).count();
    let deadline = Instant::now() + PATIENCE;
    let mut shown = usize::MAX;
    loop {
        for process in &lab.processes {
            anyhow::ensure!(process.is_alive(), "{} ended; see its log", process.role);
        }
        let agent = AgentState::load();
        let connected = agent.pods.values().filter(|p| !p.addresses.is_empty()).count();
        if connected != shown {
            step(&format!("{connected} of {wanted} pods connected"));
            shown = connected;
        }
        if agent.settled && connected >= wanted && all_ready(lab) {
            return Ok(());
        }
        if Instant::now() > deadline {
            for (name, pod) in agent.pods.iter().filter(|(_, p)| p.trouble.is_some()) {
                step(&format!("{name}: {}", pod.trouble.clone().unwrap_or_default()));
            }
            anyhow::bail!("the lab did not stand within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn show_logs() {
    let Ok(lab) = LabState::load() else { return };
    let mut files = vec![names::path("controller.log"), names::path("agent.log")];
    files.extend(lab.nodes.keys().map(|n| names::node_folder(n).join("felix.log")));
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(8).collect();
        if !last.is_empty() {
            eprintln!("--- {}", file.display());
            last.iter().rev().for_each(|l| eprintln!("{l}"));
        }
    }
}

/// Removes the lab, also what is left of one that crashed.
pub fn down() -> anyhow::Result<ExitCode> {
    let removed = remove()?;
    println!("{}", if removed { "the lab is removed" } else { "there was no lab" });
    Ok(ExitCode::SUCCESS)
}

fn remove() -> anyhow::Result<bool> {
    let mut found = false;
    if let Ok(lab) = LabState::load() {
        found = true;
        // The agent first, so that it does not ask nodes that are gone.
        for process in lab.processes.iter().rev() {
            process.end();
        }
    }
    found |= cluster::remove_all()? > 0;
    if Path::new(names::FOLDER).exists() {
        std::fs::remove_dir_all(names::FOLDER).context("removing the lab's folder")?;
        found = true;
    }
    Ok(found)
}
