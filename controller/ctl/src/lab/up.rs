//! Starts the lab.

use super::UpArguments;
use super::cluster;
use super::down;
use super::lock::{self, Interrupt};
use super::matrix;
use super::measure::measure;
use super::names::{self, DEFAULT_POOLS};
use super::picture::Picture;
use super::processes::Process;
use super::start::{start_agent, start_controller, start_felix};
use super::state::{AgentState, LabState, PodKind};
use super::status::unready;
use crate::policy::world::{World, node_addresses};
use anyhow::Context;
use policy_model::{IpPoolSpec, Kind, NodeAddress, NodeSpec, Object, Resource};
use policy_model_datastore::{Datastore, upsert_with_retry};
use policy_model_datastore_file::{FileStore, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the whole lab may take to stand.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long pods that cannot be connected are waited for when all others are there.
const TROUBLE: Duration = Duration::from_secs(5);
/// Pause between two looks at what is still missing.
const LOOK: Duration = Duration::from_millis(20);
/// How often a wait says what it waits for.
const TELL: Duration = Duration::from_secs(5);
/// How often the number of connected pods is told.
const COUNT: Duration = Duration::from_millis(500);
/// Most nodes: all share one wire.
const MOST_NODES: usize = 250;
/// The example manifests, which also stand in the repository.
const SHOP: &str = include_str!("../../examples/shop.yaml");

/// Says what happens, for a person who waits.
pub(super) fn step(text: &str) {
    eprintln!("manx lab: {text}");
}

/// Starts the lab and measures.
pub(super) fn run(arguments: &UpArguments) -> anyhow::Result<ExitCode> {
    let _lock = lock::take()?;
    if let Ok(lab) = LabState::load()
        && lab.is_whole
        && lab.processes.iter().all(Process::is_alive)
    {
        anyhow::bail!("the lab is running already; 'manx lab down' removes it");
    }
    let interrupt = Interrupt::watch()?;
    if down::remove()? {
        step("removed what was left of an earlier lab");
    }
    let connected = match start(arguments, &interrupt) {
        Ok(connected) => connected,
        Err(error) => {
            if !interrupt.is_there() {
                show_logs();
            }
            step("removing what was made");
            down::remove()?;
            return Err(error);
        }
    };
    if arguments.no_probe {
        return Ok(ExitCode::from(u8::from(!connected)));
    }
    step("measuring who reaches whom with real packets");
    let measured = measure(Picture::settled()?.matrix()?)?;
    let differences = matrix::print(&measured)?;
    println!(
        "\nnext: 'manx lab status', 'manx lab watch', 'manx lab exec NS/POD -- COMMAND', 'manx lab probe --flows FILE', \
         'manx lab down'"
    );
    Ok(ExitCode::from(u8::from(differences > 0 || !connected)))
}

/// Makes everything. Whether all pods could be connected.
fn start(arguments: &UpArguments, interrupt: &Interrupt) -> anyhow::Result<bool> {
    use std::os::unix::fs::DirBuilderExt;
    let manifests = match &arguments.manifests {
        Some(folder) => {
            let found = folder
                .canonicalize()
                .with_context(|| format!("--manifests {}", folder.display()))?;
            anyhow::ensure!(found.is_dir(), "--manifests {}: is no folder", folder.display());
            Some(found)
        }
        None => None,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(names::FOLDER)
        .context("making the lab's folder")?;
    down::make_netns_folder()?;
    let manifests = match manifests {
        Some(folder) => folder,
        None => {
            let folder = names::path("manifests");
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("shop.yaml"), SHOP)?;
            folder
        }
    };
    let world = World::load(&manifests)?;
    for fault in &world.faults {
        eprintln!("{fault}");
    }
    let nodes = choose_nodes(&world, arguments.nodes)?;
    let pods = world.pods.values().filter(|p| p.facts.is_endpoint()).count();
    step(&format!(
        "{} nodes, {pods} pods, manifests in {}",
        nodes.len(),
        manifests.display()
    ));
    let addressed = write_datastore(&world, &nodes)?;
    let mut lab = LabState {
        manifests: manifests.clone(),
        nodes,
        addressed,
        ..LabState::default()
    };
    lab.save()?;
    cluster::make(&lab.nodes)?;
    interrupt.check()?;
    step("starting the controller and a felix for each node");
    lab.set_process(start_controller(&manifests)?);
    for node in lab.nodes.keys().cloned().collect::<Vec<_>>() {
        lab.set_process(start_felix(&node)?);
    }
    lab.set_process(start_agent()?);
    lab.save()?;
    let connected = wait(&lab, pods, interrupt)?;
    lab.is_whole = true;
    lab.save()?;
    Ok(connected)
}

/// The nodes of the manifests; where a number is asked for, filled up to it with `node1`, `node2`, ...
fn choose_nodes(world: &World, number: Option<usize>) -> anyhow::Result<BTreeMap<String, Vec<IpAddr>>> {
    let Some(number) = number else {
        anyhow::ensure!(
            world.nodes.len() <= MOST_NODES,
            "the manifests have more than {MOST_NODES} nodes"
        );
        return Ok(world.nodes.clone());
    };
    anyhow::ensure!(
        (1..=MOST_NODES).contains(&number),
        "--nodes {number}: must be 1 to {MOST_NODES}"
    );
    let mut names: BTreeSet<String> = world.set.node_names().into_iter().map(str::to_string).collect();
    let mut next = 1;
    while names.len() < number {
        names.insert(format!("node{next}"));
        next += 1;
    }
    let mut taken: BTreeSet<IpAddr> = world.nodes.values().flatten().copied().collect();
    let mut free = (1..).map(node_addresses);
    let mut nodes = BTreeMap::new();
    for name in names {
        let addresses = match world.nodes.get(&name) {
            Some(addresses) => addresses.clone(),
            None => {
                let found = free
                    .find(|a| !a.iter().any(|x| taken.contains(x)))
                    .unwrap_or_else(|| node_addresses(1));
                taken.extend(found);
                found.to_vec()
            }
        };
        nodes.insert(name, addresses);
    }
    Ok(nodes)
}

/// What no manifest says and the cluster needs: nodes' addresses, which a node's own agent would say, and pools of the
/// families that all nodes have. Returns the nodes of manifests that had no address.
fn write_datastore(world: &World, nodes: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<BTreeSet<String>> {
    let store =
        FileStore::open(names::datastore(), Settings::default()).context("opening the lab's datastore")?;
    let mut wanted: Vec<Resource> = Vec::new();
    let mut addressed = BTreeSet::new();
    for (name, addresses) in nodes {
        let address = |a: &IpAddr| NodeAddress {
            address: *a,
            address_type: "InternalIP".into(),
        };
        let mut node = Object::named(name.clone(), NodeSpec::default());
        let written = world.set.resources().find_map(|r| match r {
            Resource::Node(node) if node.metadata.name == *name => Some(node),
            _ => None,
        });
        if let Some(written) = written {
            if !written.spec.all_addresses().is_empty() {
                continue;
            }
            addressed.insert(name.clone());
            node = written.clone();
        }
        node.spec.addresses = addresses.iter().map(address).collect();
        wanted.push(node.into());
    }
    if !world.set.resources().any(|r| r.kind() == Kind::IPPool) {
        for (name, range) in DEFAULT_POOLS {
            let spec = IpPoolSpec::of(range.parse().context("a pool's range")?);
            let is_v4 = spec.cidr.addr().is_ipv4();
            if nodes
                .values()
                .all(|addresses| addresses.iter().any(|a| a.is_ipv4() == is_v4))
            {
                wanted.push(Object::named(name, spec).into());
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for resource in wanted {
            let key = resource.key();
            upsert_with_retry(&store as &dyn Datastore, &key, |_| Some(resource.clone())).await?;
        }
        anyhow::Ok(addressed)
    })
}

/// Waits until every pod of the manifests is connected. Whether all could be.
fn wait(lab: &LabState, wanted: usize, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut progress = Instant::now();
    let mut told = Instant::now();
    let mut counted: Option<Instant> = None;
    let mut shown = usize::MAX;
    loop {
        interrupt.check()?;
        if let Some(process) = lab.processes.iter().find(|p| !p.is_alive()) {
            anyhow::bail!("{} ended; its log says why", process.role);
        }
        let agent = AgentState::load();
        let pods = || agent.pods.values().filter(|p| p.kind == PodKind::Endpoint);
        let connected = pods().filter(|p| p.is_there()).count();
        if connected != shown {
            progress = Instant::now();
        }
        if connected != shown
            && (counted.is_none_or(|moment| moment.elapsed() > COUNT) || connected >= wanted)
        {
            step(&format!("{connected} of {wanted} pods connected"));
            shown = connected;
            counted = Some(Instant::now());
        }
        let unready = unready(lab);
        if lab.has_word(&agent) && connected >= wanted && unready.is_empty() {
            return Ok(true);
        }
        let troubled: Vec<_> = pods()
            .filter_map(|p| Some((p.name(), p.why_not()?.to_string())))
            .collect();
        if progress.elapsed() > TROUBLE && unready.is_empty() && connected + troubled.len() >= wanted {
            for (name, trouble) in troubled {
                step(&format!("pod {name} is not connected: {trouble}"));
            }
            return Ok(false);
        }
        if told.elapsed() > TELL {
            told = Instant::now();
            for (name, why) in unready {
                step(&format!("waiting for {name}: {why}"));
            }
            for (name, trouble) in troubled {
                step(&format!("waiting for pod {name}: {trouble}"));
            }
        }
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "the lab did not stand within {} s",
            PATIENCE.as_secs()
        );
        std::thread::sleep(LOOK);
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
