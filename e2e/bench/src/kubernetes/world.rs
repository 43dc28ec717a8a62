//! The cluster that is measured: API server, objects, and the node with its sandboxes.

use super::node::{self, Node};
use super::objects::{self, MEASURED, Making, PER_NODE, Size, WATCHING};
use super::plugin::{Plugin, Sandbox};
use super::server::Server;
use anyhow::Context;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything. What is declared first ends first.
pub(super) struct World {
    /// The measured node.
    pub(super) measured: Node,
    /// The sandboxes of its pods, the server's first and the client's second.
    pub(super) sandboxes: Vec<Sandbox>,
    /// The addresses of its pods, once they are connected.
    pub(super) addresses: Vec<Ipv4Addr>,
    /// The plugin on it.
    pub(super) plugin: Plugin,
    /// The API server.
    pub(super) server: Server,
    /// How large the cluster is.
    pub(super) size: Size,
    programs: PathBuf,
    folder: tempfile::TempDir,
    _segment: Segment,
}

/// The segment goes last.
struct Segment;

impl Drop for Segment {
    fn drop(&mut self) {
        node::remove_segment();
    }
}

impl World {
    /// Starts an API server, makes a cluster's objects, and a node without felix or connected pods.
    pub(super) fn make(size: Size) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        node::make_segment()?;
        let segment = Segment;
        let programs = stage(folder.path())?;
        eprintln!("  {size}: starting an API server");
        let server = Server::start(folder.path())?;
        let begun = Instant::now();
        let makings = (0..PER_NODE).map(|i| size.pod(i)).collect::<Vec<Making>>();
        let uids = fill(&server, size)?;
        eprintln!("  objects made in {:.0} s", begun.elapsed().as_secs_f64());
        let agent = server.agent_of(MEASURED)?;
        let measured = Node::make(
            MEASURED,
            objects::node_address(0),
            folder.path(),
            &programs,
            agent,
        )?;
        let sandboxes = makings.iter().zip(&uids).enumerate();
        let sandboxes = sandboxes
            .map(|(n, (making, uid))| Sandbox::make(name_of(&making.object)?, uid, n))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(World {
            plugin: Plugin::of(&measured, &programs),
            measured,
            sandboxes,
            addresses: Vec::new(),
            server,
            size,
            programs,
            folder,
            _segment: segment,
        })
    }

    /// A second node, whose felix does not run yet.
    pub(super) fn watching_node(&self) -> anyhow::Result<(Node, Plugin)> {
        let agent = self.server.agent_of(WATCHING)?;
        let address = objects::node_address(objects::watching_number(self.size));
        let node = Node::make(WATCHING, address, self.folder.path(), &self.programs, agent)?;
        let plugin = Plugin::of(&node, &self.programs);
        Ok((node, plugin))
    }

    /// Shows what felix said last.
    pub(super) fn show_logs(&self) {
        self.measured.show_log();
    }
}

/// The namespace and the name of an object.
pub(super) fn name_of(object: &Value) -> anyhow::Result<(String, String)> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let both = (text("/metadata/namespace"), text("/metadata/name"));
    match both {
        (Some(namespace), Some(name)) => Ok((namespace, name)),
        _ => anyhow::bail!("an object without a name: {object}"),
    }
}

/// Makes all objects and returns the identities of the pods.
fn fill(server: &Server, size: Size) -> anyhow::Result<Vec<String>> {
    let administrator = &server.administrator;
    administrator.make_all(size.ground().into_iter())?;
    administrator.make_all(size.accounts().into_iter())?;
    administrator.make(&objects::pool())?;
    let uids = administrator.make_all((0..size.pods).map(|i| size.pod(i)))?;
    administrator.make_all((0..size.policies).map(|i| size.policy(i)))?;
    administrator.make_all(size.blocks(&uids).into_iter())?;
    Ok(uids)
}

/// Puts the programs under the names by which they are called into a folder.
fn stage(below: &Path) -> anyhow::Result<PathBuf> {
    let (from, to) = (super::programs()?, below.join("programs"));
    std::fs::create_dir_all(to.join("manx-plugin"))?;
    for (program, name) in [("manx-all", "felix"), ("manx-cni", "manx-plugin/manx")] {
        let program = from.join(program);
        anyhow::ensure!(program.exists(), "there is no {}", program.display());
        let program = std::path::absolute(program)?;
        std::os::unix::fs::symlink(&program, to.join(name))
            .with_context(|| format!("giving {} the name {name}", program.display()))?;
    }
    Ok(to)
}
