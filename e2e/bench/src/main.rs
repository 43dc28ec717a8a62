//! Measures what is asked for, each group in a process of its own, and prints the table.

use anyhow::Context;
use e2e_bench::figure::{Figure, table};
use e2e_bench::{
    backends, bed, between, changes, connections, kubernetes, machine, nodes, packets, reaction, snapshot,
};
use std::process::{Command, ExitCode, Stdio};

/// That of the agent.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A group of figures.
struct Group {
    name: &'static str,
    about: &'static str,
    /// Whether it runs when nobody asks for it by its name.
    is_usual: bool,
    /// Whether it gets a network namespace of its own, or has to be where the machine's other programs are.
    is_apart: bool,
    run: fn() -> anyhow::Result<Vec<Figure>>,
}

const GROUPS: [Group; 11] = [
    Group {
        name: "connections",
        about: "new TCP connections a second, by number of policies",
        is_usual: true,
        is_apart: true,
        run: connections::run,
    },
    Group {
        name: "packets",
        about: "time of a packet that opens a flow",
        is_usual: true,
        is_apart: true,
        run: packets::run,
    },
    Group {
        name: "reaction",
        about: "from a changed manifest to the first packet",
        is_usual: true,
        is_apart: true,
        run: reaction::run,
    },
    Group {
        name: "snapshot",
        about: "a large cluster from nothing, its memory, its first load",
        is_usual: true,
        is_apart: true,
        run: snapshot::run,
    },
    Group {
        name: "single",
        about: "single changes in a large cluster",
        is_usual: true,
        is_apart: true,
        run: snapshot::single_changes,
    },
    Group {
        name: "changes",
        about: "single changes on a full node, into the kernel",
        is_usual: true,
        is_apart: true,
        run: changes::run,
    },
    Group {
        name: "nodes",
        about: "thousands of nodes with their blocks, and single changes among them",
        is_usual: true,
        is_apart: true,
        run: nodes::run,
    },
    Group {
        name: "between",
        about: "pods of two nodes, by plain routes and through tunnels",
        is_usual: true,
        is_apart: true,
        run: between::run,
    },
    Group {
        name: "backends",
        about: "nftables and both variants of iptables: policies, first load, sets",
        is_usual: true,
        is_apart: true,
        run: backends::run,
    },
    Group {
        name: "kubernetes",
        about: "a large cluster behind a real API server",
        is_usual: false,
        is_apart: true,
        run: kubernetes::run,
    },
    Group {
        name: "kubernetes-pods",
        about: "fifty pods of a real cluster, created to running",
        is_usual: false,
        is_apart: false,
        run: kubernetes::pods::run,
    },
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match names.as_slice() {
        [flag, name] if flag == "--alone" => alone(name),
        names => all(names),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manx-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one group here, and hands its figures to the caller.
fn alone(name: &str) -> anyhow::Result<()> {
    let group = GROUPS
        .iter()
        .find(|g| g.name == name)
        .with_context(|| format!("no group is called {name}"))?;
    if group.is_apart {
        bed::enter_new_namespace()?;
    }
    println!("{}", serde_json::to_string(&(group.run)()?)?);
    Ok(())
}

fn all(names: &[String]) -> anyhow::Result<()> {
    for name in names {
        if !GROUPS.iter().any(|g| g.name == name) {
            let known: Vec<String> = GROUPS
                .iter()
                .map(|g| format!("{} ({})", g.name, g.about))
                .collect();
            anyhow::bail!("there is no group '{name}'; there are: {}", known.join(", "));
        }
    }
    // Measured before anything here loads the machine.
    let machine = machine::describe();
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for group in GROUPS
        .iter()
        .filter(|g| (names.is_empty() && g.is_usual) || names.iter().any(|n| n == g.name))
    {
        eprintln!("manx-bench: {}: {}", group.name, group.about);
        match child(group.name) {
            Ok(more) => figures.extend(more),
            Err(error) => {
                eprintln!("manx-bench: {}: {error:#}", group.name);
                failed.push(group.name);
            }
        }
    }
    println!("{machine}\n");
    print!("{}", table(&figures));
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

fn child(name: &str) -> anyhow::Result<Vec<Figure>> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .args(["--alone", name])
        .stderr(Stdio::inherit())
        .output()
        .context("starting a process for the group")?;
    anyhow::ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("reading its figures")
}
