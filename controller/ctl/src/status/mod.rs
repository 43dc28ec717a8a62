//! `manx status`: whether everything is in force in a live cluster, and if not, what is not.
//!
//! | room | what it does |
//! |---|---|
//! | [`facts`] | what the API server and the agent of this container say |
//! | [`report`] | what of it is not as it should be (pure) |
//! | [`text`] | how a person reads it (pure) |

pub mod facts;
pub mod report;
pub mod text;

use crate::cluster::Cluster;
use crate::policy::print::{self, Output};
use crate::source::{self, ClusterArguments, Environment, Source};
use clap::Args;
use facts::{Asked, Facts};
use report::{Report, Standing};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The pause between two looks while it is waited.
const PAUSE: Duration = Duration::from_secs(2);

/// Says whether everything is in force in the live cluster, and what is not.
///
/// Asks the API server for its own state, the definitions, tiers, pools, nodes with their agents, the controller and its
/// lease, policies and invalid objects; within an agent's container also that agent. What this account may not read is
/// said, and the rest is shown. Changes nothing. Exit code: 0 everything is in force; 1 something is not, each thing on
/// a line of its own; 2 it cannot be told.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Waits until everything is in force, at most so many seconds (300 without a number).
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300", require_equals = true)]
    pub wait: Option<u64>,
    /// How the answer is written; as JSON it is one object.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Runs the command.
///
/// # Errors
/// Nothing leads to an API server, or the answer cannot be written.
pub fn run(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    let kubeconfig = match arguments.cluster.resolve(&Environment::of_process())? {
        Source::Kubernetes { kubeconfig } => kubeconfig,
        Source::Folder(folder) => anyhow::bail!(
            "{} is a folder, and manx status asks a Kubernetes cluster; of a lab, manx lab status tells how it stands",
            folder.display()
        ),
    };
    let report = source::block_on(async {
        let cluster = Cluster::connect(kubeconfig.as_deref()).await?;
        Ok(settled(&cluster, arguments.wait.map(Duration::from_secs)).await)
    })?;
    print::out(&match arguments.output {
        Output::Json => print::json_line(&report),
        Output::Table => text::table(&report),
    })?;
    Ok(ExitCode::from(match report.standing {
        Standing::InForce => 0,
        Standing::NotInForce => 1,
        Standing::Unknown => 2,
    }))
}

/// How the cluster stands, once all is in force or the patience is at its end.
async fn settled(cluster: &Cluster, patience: Option<Duration>) -> Report {
    let begin = Instant::now();
    let mut asked = Asked::default();
    let mut said = Vec::new();
    loop {
        let facts = Facts::gather(cluster, &mut asked).await;
        let report = Report::of(facts);
        let left = patience.map_or(Duration::ZERO, |patience| {
            patience.saturating_sub(begin.elapsed())
        });
        if report.standing == Standing::InForce || left.is_zero() {
            return report;
        }
        let lines: Vec<String> = report.lines().map(str::to_owned).collect();
        if lines != said {
            print::complain([format!("waiting ({} s so far) for:", begin.elapsed().as_secs())]);
            print::complain(lines.iter().map(|line| format!("  {line}")));
            said = lines;
        }
        tokio::time::sleep(PAUSE.min(left)).await;
    }
}
