//! The controller's binary: options, wiring, and the end.
//!
//! Exit status: 0 after SIGTERM or SIGINT, 1 where it cannot start or go on, 2 for options that make no sense.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use controller::{
    Cluster, ConnectError, Controller, Folder, FolderError, FolderOptions, Health, Host, InvalidVariable,
    Metrics, Options, Pages, ServerError, Settings, Timings, UninstallError, UninstallOptions, Variables,
    WantedOptions, chain, check_status, parse_duration, serve, uninstall,
};
use policy_model_datastore::{Datastore, DatastoreError};
use policy_model_datastore_file::FileStore;
use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

/// How long the controller may take to end; a datastore that hangs must not hold it up.
const FAREWELL: Duration = Duration::from_secs(5);
/// The Lease that the replicas of a cluster's controller share.
const LEASE: &str = "manx-controller";

/// Keeps the datastore in step with a folder of Kubernetes manifests; or, where Kubernetes is the datastore, keeps the
/// cluster's own objects: defaults, addresses of vanished nodes and pods, pools.
#[derive(Debug, Parser)]
#[command(name = "manx-controller", version, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where objects are kept: a folder of the file datastore, or the Kubernetes API server.
    #[arg(
        long,
        value_name = "TYPE",
        env = "DATASTORE_TYPE",
        default_value = "file",
        ignore_case = true
    )]
    datastore_type: DatastoreType,
    #[command(flatten)]
    folders: FolderArguments,
    #[command(flatten)]
    lease: LeaseArguments,
    /// Address on which /metrics, /liveness and /readiness are served: 127.0.0.1, or with Kubernetes all (written `*`).
    #[arg(long, value_name = "ADDRESS", env = "METRICS_HOST", global = true)]
    metrics_host: Option<String>,
    /// Port for /metrics, /liveness and /readiness; 0 for none.
    #[arg(long, value_name = "PORT", default_value_t = 9094, global = true)]
    metrics_port: u16,
    /// Least level of what is logged: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

/// Where objects are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DatastoreType {
    File,
    Kubernetes,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Asks the controller that runs here how it stands; exit status 0 if well. For probes that run a program.
    CheckStatus {
        /// Whether its work is done.
        #[arg(short, long)]
        readiness: bool,
        /// Whether it moves.
        #[arg(
            short,
            long,
            conflicts_with = "readiness",
            required_unless_present = "readiness"
        )]
        liveness: bool,
    },
    /// Takes Manx off every node of a Kubernetes cluster and waits until all have said that they are done. The chart runs
    /// it before it removes anything.
    Uninstall(UninstallArguments),
}

/// How a cluster is left.
#[derive(Debug, Args)]
struct UninstallArguments {
    /// Cut off pods that are connected. Without it nothing is done while there are any.
    #[arg(long)]
    force: bool,
    /// How long everything may take.
    #[arg(long, value_name = "TIME", default_value = "4m", value_parser = parse_duration)]
    timeout: Duration,
    /// Another network connects the pods, so none of them is in the way.
    #[arg(long)]
    policy_only: bool,
    /// A step of its own on every node removes what the agents cannot reach.
    #[arg(long)]
    node_steps: bool,
    /// Namespace of the agents.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: Option<String>,
}

/// What the file datastore needs.
#[derive(Debug, Args)]
struct FolderArguments {
    /// Folder of manifests (*.yaml, *.yml, *.json), read with everything below it.
    #[arg(long, value_name = "DIR", env = "MANX_MANIFESTS")]
    manifests: Option<PathBuf>,
    /// Folder of the datastore; it is made where it is absent.
    #[arg(long, value_name = "DIR", env = "MANX_DATASTORE")]
    datastore: Option<PathBuf>,
    /// Give pods without spec.nodeName a node, and endpoints the addresses that their pods ask for.
    #[arg(long)]
    assign_nodes: bool,
    /// Set endpoints' addresses to those of the annotation cni.projectcalico.org/ipAddrs, even without --assign-nodes.
    #[arg(long)]
    requested_addresses: bool,
    /// File to which what is wrong is written as JSON.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Seconds after which everything is compared anew.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    resync_seconds: u64,
}

/// How replicas agree on a leader where Kubernetes is the datastore.
#[derive(Debug, Args)]
struct LeaseArguments {
    /// How long a lease that is not renewed is left alone, such as 15s.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    leader_elect_lease_duration: Duration,
    /// For how long a leader that cannot renew its lease goes on.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    leader_elect_renew_deadline: Duration,
    /// The pause between two tries to take or renew the lease.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    leader_elect_retry_period: Duration,
}

/// What the file datastore works with.
struct Folders {
    manifests: PathBuf,
    datastore: PathBuf,
}

/// Why the controller cannot work.
#[derive(Debug, Error)]
enum StartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the datastore in {} cannot be opened", path.display())]
    Datastore { path: PathBuf, source: DatastoreError },
    #[error("the manifest folder {} and the datastore {} are one in the other; the controller would read what it writes: keep them apart", manifests.display(), datastore.display())]
    Nested { manifests: PathBuf, datastore: PathBuf },
    #[error("another controller{} works on the datastore in {}; end it first: two that follow different manifests would undo each other's work", by(*process), path.display())]
    NotSole { path: PathBuf, process: Option<u32> },
    #[error("the lock {} cannot be made", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Variable(#[from] InvalidVariable),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the metrics cannot be made")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Uninstall(#[from] UninstallError),
    #[error("the runtime cannot be started")]
    Runtime(#[source] io::Error),
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
}

pub(crate) fn main() -> ExitCode {
    let arguments = read_arguments();
    if let Some(Command::CheckStatus { readiness, .. }) = arguments.command {
        return check(&arguments, readiness);
    }
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(arguments.log_level)
        .with_target(false)
        .init();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whatever the log's level is, the reason must be seen.
            eprintln!("manx-controller: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// What this process was asked.
fn read_arguments() -> Arguments {
    let matches = Arguments::command().get_matches();
    let mut arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    // The variable is Calico's, so it may stand in a shell for another program's sake; who names folders means folders.
    let is_said = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
    if !is_said("datastore_type") && is_said("manifests") && is_said("datastore") {
        arguments.datastore_type = DatastoreType::File;
    }
    arguments
}

/// Ends with the words and the status of a usage that makes no sense.
fn misused(kind: ErrorKind, reason: impl Display) -> ! {
    Arguments::command().error(kind, reason).exit()
}

/// Asks the controller that runs here.
fn check(arguments: &Arguments, readiness: bool) -> ExitCode {
    let host = match host(arguments) {
        Host::One(address) if !address.is_unspecified() => address,
        Host::One(_) | Host::All => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let page = if readiness { "/readiness" } else { "/liveness" };
    match check_status(host, arguments.metrics_port, page) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("manx-controller: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where the pages are served. Whoever watches a cluster is elsewhere; whoever works on one machine is on it.
fn host(arguments: &Arguments) -> Host {
    match arguments.metrics_host.as_deref().map(str::trim) {
        None | Some("") => match arguments.datastore_type {
            DatastoreType::File => Host::One(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            DatastoreType::Kubernetes => Host::All,
        },
        Some("*") => Host::All,
        Some(text) => match text.parse() {
            Ok(address) => Host::One(address),
            Err(_) => misused(
                ErrorKind::InvalidValue,
                format!("--metrics-host (METRICS_HOST): '{text}' is no address; write one, or * for all"),
            ),
        },
    }
}

fn start(arguments: Arguments) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let outcome = runtime.block_on(run(arguments));
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

async fn run(arguments: Arguments) -> Result<(), StartError> {
    if let Some(Command::Uninstall(asked)) = arguments.command {
        let options = UninstallOptions {
            force: asked.force,
            timeout: asked.timeout,
            policy_only: asked.policy_only,
            has_steps: asked.node_steps,
            namespace: asked.namespace.filter(|name| !name.is_empty()),
        };
        // A signal ends it at once: the order stands or does not, and nothing is half done here.
        return Ok(uninstall(options).await?);
    }
    // First, so that a signal during a long start ends it cleanly too.
    let mut term = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let stop = async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: the controller ends; what is in force stays in force"),
            _ = interrupt.recv() => tracing::info!("SIGINT: the controller ends; what is in force stays in force"),
        }
    };
    let given = (&arguments.folders.manifests, &arguments.folders.datastore);
    match (arguments.datastore_type, given) {
        (DatastoreType::File, (Some(manifests), Some(datastore))) => {
            let folders = Folders {
                manifests: manifests.clone(),
                datastore: datastore.clone(),
            };
            follow_folder(&arguments, folders, stop).await
        }
        (DatastoreType::File, _) => misused(
            ErrorKind::MissingRequiredArgument,
            "the file datastore needs --manifests <DIR> and --datastore <DIR>; for Kubernetes write --datastore-type \
             kubernetes",
        ),
        (DatastoreType::Kubernetes, (None, None)) => keep_cluster(&arguments, stop).await,
        (DatastoreType::Kubernetes, _) => misused(
            ErrorKind::ArgumentConflict,
            "--manifests and --datastore are for --datastore-type file; Kubernetes' own objects are its datastore",
        ),
    }
}

/// Serves the pages where that is wanted.
fn show(arguments: &Arguments, pages: Arc<dyn Pages>) -> Result<(), StartError> {
    if arguments.metrics_port != 0 {
        let address = serve(host(arguments), arguments.metrics_port, pages)?;
        tracing::info!("metrics and health on http://{address}");
    }
    Ok(())
}

/// The controller of the file datastore.
async fn follow_folder(
    arguments: &Arguments,
    folders: Folders,
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let of_folder = &arguments.folders;
    let options = Options {
        wanted: WantedOptions {
            assign_nodes: of_folder.assign_nodes,
            requested_addresses: of_folder.requested_addresses || of_folder.assign_nodes,
        },
        resync: Duration::from_secs(of_folder.resync_seconds),
        fault_file: of_folder.faults.clone(),
        ..Options::new(&folders.manifests)
    };
    let metrics = Metrics::new()?;
    let health = Health::new();
    show(arguments, Arc::new((metrics.clone(), health.clone())))?;
    keep_apart(&folders)?;
    let store = open_datastore(&folders.datastore)?;
    let _sole = Sole::claim(&folders.datastore)?;
    let controller = Controller::new(options, store, metrics, health)?;
    tracing::info!("following {}", folders.manifests.display());
    controller.run(stop).await;
    Ok(())
}

/// The controller of a cluster.
async fn keep_cluster(arguments: &Arguments, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let timings = Timings {
        duration: arguments.lease.leader_elect_lease_duration,
        renew_deadline: arguments.lease.leader_elect_renew_deadline,
        retry: arguments.lease.leader_elect_retry_period,
    };
    if let Some(fault) = timings.fault() {
        misused(ErrorKind::ValueValidation, format!("--leader-elect-…: {fault}"));
    }
    let variables = Variables::of_process();
    let settings = Settings::read(&variables)?;
    let cluster = Cluster::new(settings, timings, LEASE, &variables)?;
    show(arguments, cluster.pages())?;
    Ok(cluster.run(stop).await?)
}

/// The claim to be a datastore's only controller. The kernel takes it back when the process ends, however it ends.
struct Sole {
    _file: File,
}

impl Sole {
    fn claim(datastore: &Path) -> Result<Self, StartError> {
        let path = datastore.join(".controller.lock");
        let failed = |source| StartError::Lock {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let process = file.read_to_string(&mut holder).ok();
                return Err(StartError::NotSole {
                    path: datastore.to_owned(),
                    process: process.and_then(|_| holder.trim().parse().ok()),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Who it is, for whoever comes second; the lock holds without.
        let _ = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Sole { _file: file })
    }
}

/// The process that holds a lock, as far as it is known.
fn by(process: Option<u32>) -> String {
    process.map_or_else(String::new, |id| format!(" (process {id})"))
}

/// Opens the datastore. The only place that knows which kind it is.
fn open_datastore(path: &Path) -> Result<Arc<dyn Datastore>, StartError> {
    let store =
        FileStore::open(path, policy_model_datastore_file::Settings::default()).map_err(|source| {
            StartError::Datastore {
                path: path.to_owned(),
                source,
            }
        })?;
    Ok(Arc::new(store))
}

/// Refuses folders of which one is in the other, before anything is made in them.
fn keep_apart(folders: &Folders) -> Result<(), StartError> {
    let (manifests, datastore) = (real(&folders.manifests), real(&folders.datastore));
    if manifests.starts_with(&datastore) || datastore.starts_with(&manifests) {
        return Err(StartError::Nested { manifests, datastore });
    }
    // The controller's own errors about the folder are the better ones, but must come before a datastore is made.
    Folder::open(&folders.manifests, FolderOptions::default())?;
    Ok(())
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        if let Ok(found) = above.canonicalize() {
            let below = path.strip_prefix(above).unwrap_or(Path::new(""));
            return found.join(below);
        }
    }
    path
}
