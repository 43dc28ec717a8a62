//! The agent's program: reads what was asked of it, makes the parts, and runs until it is told to stop.

use anyhow::Context;
use clap::Parser;
use felix::agent::Ended;
use felix::datastore::{self, Opened};
use felix::logging::{self, LoggingOptions};
use felix::metrics::{Metrics, MetricsOptions};
use felix::settings::{DEFAULT_CONFIG_FILE, Layers, Resolution, SettingsError};
use felix::uninstall;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

/// A snapshot is millions of small objects that come and go in batches. Beside the system's allocator this one takes
/// half the time for them, in as much memory (BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

pub(crate) fn main() -> ExitCode {
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
    // After a start anew the kernel would show it by the name of the link that was executed.
    let _ = nix::sys::prctl::set_name(c"felix");
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|n| n.trim().to_string());
    let layers = Layers::at_start(&arguments.config_file, std::env::vars_os(), host_name);
    if arguments.cleanup {
        return cleanup(layers.and_then(|layers| layers.resolve()));
    }
    let layers = layers?;
    let resolution = layers.resolve()?;
    if arguments.show_settings {
        show(&resolution);
        return Ok(());
    }
    let settings = resolution.settings.clone();
    // Figures of the process follow when the cluster's settings are known.
    let metrics = Metrics::new(&MetricsOptions {
        host: settings.felix_hostname.clone(),
        process: false,
    })?;
    let logging = logging::set_up(&LoggingOptions::from(&settings), metrics.log_errors())?;
    if let Some(trouble) = logging.file_trouble() {
        tracing::warn!(error = %trouble, "there is no log file");
    }
    for notice in &resolution.notices {
        tracing::warn!("{notice}");
    }
    if let Some(lack) = felix::privileges::missing() {
        anyhow::bail!(lack);
    }
    tracing::info!(
        node = settings.felix_hostname,
        version = env!("CARGO_PKG_VERSION"),
        "felix starts"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let Opened {
            store,
            kubernetes,
            cluster,
            changes,
            warnings,
        } = datastore::open(layers, resolution).await?;
        for (setting, value) in changes {
            tracing::info!(setting, value, "set by FelixConfiguration");
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        logging.set_levels(&LoggingOptions::from(cluster.settings()))?;
        if cluster.settings().prometheus_process_metrics_enabled {
            metrics.show_process()?;
        }
        anyhow::Ok(uninstall::run(cluster, store, kubernetes, metrics).await?)
    })?;
    // Its threads must not go on beside the new life.
    drop(runtime);
    match ended {
        Ended::Stopped => {
            tracing::info!("felix stops; what is in force stays in force");
            Ok(())
        }
        Ended::SettingsChanged => {
            tracing::info!("felix starts anew with other settings; what is in force stays in force");
            start_anew()
        }
        Ended::Ordered(_) => {
            tracing::info!("felix stops; it was taken off this node");
            Ok(())
        }
    }
}

/// Takes the place of this process with a new life of the same program, which has the same number, so that nobody who
/// watches it sees it end.
fn start_anew() -> anyhow::Result<()> {
    let arguments: Vec<CString> = std::env::args_os()
        .map(|argument| CString::new(argument.into_vec()))
        .collect::<Result<_, _>>()?;
    // Also where the file was replaced by a newer one: that one is started when somebody decides so.
    let Err(error) = nix::unistd::execv(c"/proc/self/exe", &arguments);
    Err(error).context("starting felix anew with other settings")
}

fn show(resolution: &Resolution) {
    for setting in &resolution.effective {
        println!("{} = {:?}  # {}", setting.name, setting.value, setting.place);
    }
    for notice in &resolution.notices {
        println!("# {notice}");
    }
}

fn cleanup(resolution: Result<Resolution, SettingsError>) -> anyhow::Result<()> {
    let done = match resolution {
        Ok(resolution) => felix::cleanup::by(&resolution.settings)?,
        Err(error) => {
            eprintln!("felix: what is ours is looked for as without settings: {error}");
            felix::cleanup::everything()?
        }
    };
    for line in done {
        println!("{line}");
    }
    Ok(())
}
