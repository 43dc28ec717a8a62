//! The controller's binary: options, wiring, and the end.
//!
//! Exit status: 0 after SIGTERM or SIGINT, 1 where it cannot start or go on, 2 for options that make no sense.

use clap::Parser;
use controller::{
    Controller, Folder, FolderError, FolderOptions, Health, Metrics, Options, ServerError, WantedOptions,
    chain, serve,
};
use policy_model_datastore::{Datastore, DatastoreError};
use policy_model_datastore_file::{FileStore, Settings};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Read, Write};
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

/// Keeps the datastore in step with a folder of Kubernetes manifests.
#[derive(Debug, Parser)]
#[command(name = "manx-controller", version)]
struct Arguments {
    /// Folder of manifests (*.yaml, *.yml, *.json), read with everything below it.
    #[arg(long, value_name = "DIR", env = "MANX_MANIFESTS")]
    manifests: PathBuf,
    /// Folder of the datastore; it is made where it is absent.
    #[arg(long, value_name = "DIR", env = "MANX_DATASTORE")]
    datastore: PathBuf,
    /// Give pods without spec.nodeName a node, and endpoints the addresses that their pods ask for.
    #[arg(long)]
    assign_nodes: bool,
    /// Set endpoints' addresses to those of the annotation cni.projectcalico.org/ipAddrs, even without --assign-nodes.
    #[arg(long)]
    requested_addresses: bool,
    /// File to which what is wrong is written as JSON.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Port of 127.0.0.1 for /metrics, /liveness and /readiness; 0 for none.
    #[arg(long, value_name = "PORT", default_value_t = 9094)]
    metrics_port: u16,
    /// Seconds after which everything is compared anew.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    resync_seconds: u64,
    /// Least level of what is logged: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
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
    #[error("the metrics cannot be made")]
    Metrics(#[from] prometheus::Error),
    #[error("the runtime cannot be started")]
    Runtime(#[source] io::Error),
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
    // First, so that a signal during a long start ends it cleanly too.
    let mut term = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let options = Options {
        wanted: WantedOptions {
            assign_nodes: arguments.assign_nodes,
            requested_addresses: arguments.requested_addresses || arguments.assign_nodes,
        },
        resync: Duration::from_secs(arguments.resync_seconds),
        fault_file: arguments.faults.clone(),
        ..Options::new(&arguments.manifests)
    };
    let metrics = Metrics::new()?;
    let health = Health::new();
    if arguments.metrics_port != 0 {
        let address = serve(arguments.metrics_port, metrics.clone(), health.clone())?;
        tracing::info!("metrics and health on http://{address}");
    }
    keep_apart(&arguments)?;
    let store = open_datastore(&arguments.datastore)?;
    let _sole = Sole::claim(&arguments.datastore)?;
    let controller = Controller::new(options, store, metrics, health)?;
    tracing::info!("following {}", arguments.manifests.display());
    let stop = async {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: the controller ends; what is in force stays in force"),
            _ = interrupt.recv() => tracing::info!("SIGINT: the controller ends; what is in force stays in force"),
        }
    };
    controller.run(stop).await;
    Ok(())
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
    let store = FileStore::open(path, Settings::default()).map_err(|source| StartError::Datastore {
        path: path.to_owned(),
        source,
    })?;
    Ok(Arc::new(store))
}

/// Refuses folders of which one is in the other, before anything is made in them.
fn keep_apart(arguments: &Arguments) -> Result<(), StartError> {
    let (manifests, datastore) = (real(&arguments.manifests), real(&arguments.datastore));
    if manifests.starts_with(&datastore) || datastore.starts_with(&manifests) {
        return Err(StartError::Nested { manifests, datastore });
    }
    // The controller's own errors about the folder are the better ones, but must come before a datastore is made.
    Folder::open(&arguments.manifests, FolderOptions::default())?;
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
