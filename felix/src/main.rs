//! The agent's program: reads what was asked of it, makes the parts, and runs until it is told to stop.

use anyhow::Context;
use clap::Parser;
use felix::agent;
use felix::logging::{self, LoggingOptions};
use felix::metrics::{Metrics, MetricsOptions};
use felix::settings::{DEFAULT_CONFIG_FILE, Layers, Resolution, Settings, resource};
use policy_model::{Kind, Resource};
use policy_model_datastore::{Datastore, Selection};
use policy_model_datastore_file::{FileStore, Settings as StoreSettings};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The policy agent of one node. Settings: FELIX_* variables and the configuration file, by Calico's names.
#[derive(Debug, Parser)]
#[command(name = "felix", version, about)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = DEFAULT_CONFIG_FILE)]
    config_file: PathBuf,
    /// Prints every setting with its value and source, and ends.
    #[arg(long)]
    show_settings: bool,
    /// Removes everything of ours from this machine's kernel and nothing else, and ends. Workload traffic is then no
    /// longer policed.
    #[arg(long)]
    cleanup: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line that a person can act on, whatever the log goes to.
            eprintln!("felix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.cleanup {
        return cleanup();
    }
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|n| n.trim().to_string());
    let layers = Layers::at_start(&arguments.config_file, std::env::vars_os(), host_name)?;
    let resolution = layers.resolve()?;
    if arguments.show_settings {
        show(&resolution);
        return Ok(());
    }
    let settings = resolution.settings.clone();
    let metrics = Metrics::new(&MetricsOptions {
        host: settings.felix_hostname.clone(),
        process: settings.prometheus_process_metrics_enabled,
    })?;
    let logging = logging::set_up(&LoggingOptions::from(&settings), metrics.log_errors())?;
    if let Some(trouble) = logging.file_trouble() {
        tracing::warn!(error = %trouble, "there is no log file");
    }
    for notice in &resolution.notices {
        tracing::warn!("{notice}");
    }
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "felix changes the node's network and must run as root (capabilities NET_ADMIN and NET_RAW)"
    );
    tracing::info!(
        node = settings.felix_hostname,
        version = env!("CARGO_PKG_VERSION"),
        "felix starts"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = open_store(&settings.datastore_path).await?;
        let settings = with_cluster_settings(layers, &resolution, store.as_ref(), &logging).await?;
        agent::run(&settings, store, metrics).await?;
        anyhow::Ok(())
    })?;
    tracing::info!("felix stops; what is in force stays in force");
    Ok(())
}

/// Adds what FelixConfiguration resources say, for all nodes and for this one. A change of these takes effect when felix
/// is started again; what is in force stays meanwhile.
async fn with_cluster_settings(
    mut layers: Layers,
    local: &Resolution,
    store: &dyn Datastore,
    logging: &logging::Logging,
) -> anyhow::Result<Settings> {
    let listing = store.list(Selection::kinds([Kind::FelixConfiguration])).await?;
    for object in listing.items {
        if let Resource::FelixConfiguration(found) = object.resource.as_ref()
            && let Some(layer) =
                resource::layer(&found.metadata.name, &local.settings.felix_hostname, &found.spec)
        {
            layers.put(layer);
        }
    }
    let resolution = layers.resolve()?;
    for change in resolution.changes_since(local) {
        tracing::info!(
            setting = change.name,
            value = change.after,
            "set by FelixConfiguration"
        );
    }
    for notice in resolution.notices.iter().filter(|n| !local.notices.contains(n)) {
        tracing::warn!("{notice}");
    }
    logging.set_levels(&LoggingOptions::from(&resolution.settings))?;
    Ok(resolution.settings)
}

async fn open_store(path: &Path) -> anyhow::Result<Arc<dyn Datastore>> {
    let root = path.to_path_buf();
    // Opening reads every document, which blocks.
    let opened = tokio::task::spawn_blocking(move || FileStore::open(root, StoreSettings::default())).await?;
    let store = opened.with_context(|| format!("opening the datastore folder {}", path.display()))?;
    Ok(Arc::new(store))
}

fn show(resolution: &Resolution) {
    for setting in &resolution.effective {
        println!("{} = {:?}  # {}", setting.name, setting.value, setting.place);
    }
    for notice in &resolution.notices {
        println!("# {notice}");
    }
}

fn cleanup() -> anyhow::Result<()> {
    for line in felix::cleanup::everything()? {
        println!("{line}");
    }
    Ok(())
}
