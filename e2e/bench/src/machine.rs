//! Where figures were measured: they mean nothing without it.

use std::fs;
use std::process::Command;

/// One line that names processor, cores, memory, kernel, commit and load.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let of = |text: &str, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.split_once(':')
            .map(|(_, v)| v.trim().to_string())
            .unwrap_or_else(|| "unknown".to_string())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = of(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores ({}), {} GB memory, Linux {}, commit {}, load before {}",
        of(&read("/proc/cpuinfo"), "model name"),
        memory / 1_000_000,
        read("/proc/sys/kernel/osrelease").trim(),
        commit(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

/// The commit that was built, marked where the checkout has changes.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_string();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}
