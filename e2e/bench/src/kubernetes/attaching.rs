//! Pods come and go: the plugin's own process from start to end.

use super::objects;
use super::plugin::{Call, Deed};
use super::world::World;
use crate::figure::{Figure, duration};
use crate::timing::{Samples, from_environment};
use http::Method;
use std::time::Duration;

/// So many plugins are started at once.
const AT_ONCE: usize = 20;

/// Measures, and leaves all pods of the node connected and running.
pub(super) fn measure(world: &mut World) -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_KUBERNETES_PLUGIN_ROUNDS", 3);
    let [mut alone, mut together, mut behind, mut gone, mut gone_together] = [const { Vec::new() }; 5];
    for round in 0..rounds {
        eprintln!("  pods come and go: round {} of {rounds}", round + 1);
        let (node, plugin, sandboxes) = (&world.measured, &world.plugin, &world.sandboxes);
        alone.extend(plugin.one_by_one(Deed::Add, sandboxes)?);
        gone.extend(plugin.one_by_one(Deed::Delete, sandboxes)?);
        // The kernel is not done with those that went, and a pod that comes now waits for its turn.
        behind.extend(plugin.one_by_one(Deed::Add, sandboxes)?);
        plugin.one_by_one(Deed::Delete, sandboxes)?;
        node.rest()?;
        together.extend(plugin.at_once(Deed::Add, sandboxes, AT_ONCE)?);
        gone_together.extend(plugin.at_once(Deed::Delete, sandboxes, AT_ONCE)?);
        node.rest()?;
    }
    connect_all(world)?;
    let samples = |calls: &[Call]| calls.iter().map(|call| call.took).collect::<Samples>();
    let (alone, together, behind) = (samples(&alone), samples(&together), samples(&behind));
    let (gone, gone_together) = (samples(&gone), samples(&gone_together));
    let how = |samples: &Samples| {
        format!(
            "{} processes; least {}, 99th percentile {}, largest {}",
            samples.len(),
            duration(samples.least()),
            duration(samples.quantile(0.99)),
            duration(samples.largest())
        )
    };
    let milliseconds = Duration::from_millis;
    let mut figures = vec![
        Figure::time(
            "CNI ADD, the plugin's process from start to end, one by one, median",
            alone.median(),
            milliseconds(3),
            format!("{}; {}; the reference plugin 132 ms", world.size, how(&alone)),
        ),
        Figure::time(
            format!("CNI ADD with {AT_ONCE} at once, median"),
            together.median(),
            milliseconds(8),
            format!("{}; the reference plugin 1,550 ms", how(&together)),
        ),
        Figure::time(
            format!("CNI ADD with {AT_ONCE} at once, 99th percentile"),
            together.quantile(0.99),
            milliseconds(30),
            "",
        ),
        Figure::time(
            "CNI DEL, one by one, median",
            gone.median(),
            milliseconds(3),
            format!("{}; the reference plugin as long as ADD", how(&gone)),
        ),
    ];
    figures.push(Figure::beside(
        "CNI ADD, one by one, right behind the DEL of as many, median",
        duration(behind.median()),
        how(&behind),
    ));
    figures.push(Figure::beside(
        format!("CNI DEL with {AT_ONCE} at once, median"),
        duration(gone_together.median()),
        how(&gone_together),
    ));
    figures.push(bare(world)?);
    figures.push(bare_at_once(world)?);
    Ok(figures)
}

/// What so many processes at once cost here of which each answers at once: the least that anything else could take.
fn bare_at_once(world: &World) -> anyhow::Result<Figure> {
    let mut samples = Samples::default();
    for _ in 0..20 {
        world
            .plugin
            .versions_at_once(AT_ONCE)?
            .into_iter()
            .for_each(|took| samples.add(took));
    }
    Ok(Figure::beside(
        format!("CNI VERSION with {AT_ONCE} at once"),
        duration(samples.median()),
        format!(
            "median of {}, 99th percentile {}",
            20 * AT_ONCE,
            duration(samples.quantile(0.99))
        ),
    ))
}

/// Connects all pods of the node, and says of each what its kubelet would.
pub(super) fn connect_all(world: &mut World) -> anyhow::Result<()> {
    let calls = world.plugin.at_once(Deed::Add, &world.sandboxes, AT_ONCE)?;
    world.addresses = calls.iter().map(Call::address).collect::<Result<_, _>>()?;
    for (sandbox, address) in world.sandboxes.iter().zip(&world.addresses) {
        let (namespace, pod) = &sandbox.pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/status");
        world
            .server
            .administrator
            .change(&path, &objects::running(0, *address))?;
    }
    let path = "/api/v1/pods?fieldSelector=spec.nodeName=measured&limit=1";
    let answer = world.server.administrator.ask(Method::GET, path, None)?;
    answer.success(path).map(drop)
}

/// What any process costs here that answers at once.
fn bare(world: &World) -> anyhow::Result<Figure> {
    let mut samples = Samples::default();
    for _ in 0..100 {
        samples.add(world.plugin.version()?);
    }
    Ok(Figure::beside(
        "CNI VERSION, which asks nobody: what starting and ending the plugin's process costs here",
        duration(samples.median()),
        format!("median of 100, least {}", duration(samples.least())),
    ))
}
