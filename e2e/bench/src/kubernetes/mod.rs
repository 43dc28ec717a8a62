//! Manx in a large Kubernetes cluster: a real API server and etcd, the real agent and plugin, and everything else that a
//! cluster holds as objects only.
//!
//! One node is measured: its felix runs as a process in a network namespace, with the rights and capabilities that the
//! chart gives it, and its pods are namespaces that the plugin connects. A second node's felix watches, for the time
//! until an address is known elsewhere. There is no kubelet; [`pods`] has one.

mod attaching;
mod changing;
mod listing;
mod node;
mod objects;
mod plugin;
pub mod pods;
mod process;
mod requests;
mod server;
mod starting;
mod tail;
mod watching;
mod world;

use crate::figure::Figure;
use objects::Size;
use std::path::PathBuf;
use world::World;

/// The cluster of the goals.
const LARGE: Size = Size {
    pods: 20_000,
    policies: 10_000,
    namespaces: 200,
};
/// The smaller one.
const SMALL: Size = Size {
    pods: 2_000,
    policies: 1_000,
    namespaces: 20,
};

/// Measures.
///
/// # Errors
/// A program is not there or does not work, or something did not happen in time.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    {
        let mut world = World::make(LARGE)?;
        let outcome = large(&mut world, &mut figures);
        if let Err(error) = outcome {
            world.show_logs();
            // What was measured before is not lost with it.
            eprint!("{}", crate::figure::table(&figures));
            return Err(error);
        }
    }
    let mut world = World::make(SMALL)?;
    world.measured.start()?;
    attaching::connect_all(&mut world)?;
    figures.extend(changing::measure(&mut world)?);
    figures.push(image()?);
    Ok(figures)
}

fn large(world: &mut World, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    figures.extend(listing::measure(world)?);
    figures.push(starting::first(world)?);
    figures.extend(attaching::measure(world)?);
    figures.extend(starting::measure(world)?);
    figures.extend(changing::measure(world)?);
    figures.extend(tail::measure(world)?);
    figures.extend(watching::measure(world)?);
    Ok(())
}

/// The folder of the programs as the image holds them.
fn programs() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("MANX_BENCH_PROGRAMS").map(PathBuf::from);
    folder.ok_or_else(|| anyhow::anyhow!("MANX_BENCH_PROGRAMS names no folder: run `./dev bench kubernetes`"))
}

fn image() -> anyhow::Result<Figure> {
    let tools = std::env::var_os("MANX_BENCH_IPTABLES").map(PathBuf::from);
    let tools = tools.ok_or_else(|| {
        anyhow::anyhow!("MANX_BENCH_IPTABLES names no folder: run `./dev bench kubernetes`")
    })?;
    let ours = programs()?;
    let mut sizes = Vec::new();
    for (folder, name) in [
        (&ours, "manx-all"),
        (&ours, "manx-cni"),
        (&tools, "xtables-legacy-multi"),
        (&tools, "xtables-nft-multi"),
    ] {
        let size = std::fs::metadata(folder.join(name))?.len();
        sizes.push((name, size as f64 / 1e6));
    }
    let how: Vec<String> = sizes
        .iter()
        .map(|(name, size)| format!("{name} {size:.1} MB"))
        .collect();
    Ok(Figure::at_most(
        "image, unpacked, all components",
        sizes.iter().map(|(_, size)| size).sum(),
        "MB",
        40.0,
        how.join(", "),
    ))
}
