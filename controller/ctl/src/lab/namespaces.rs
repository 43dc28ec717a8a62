//! Network namespaces with names, and work done inside them.

use super::names;
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::process::Command;

/// Makes a named network namespace, with its loopback up. One that is there already is an error.
pub fn create(name: &str) -> anyhow::Result<()> {
    fs::create_dir_all(names::NETNS_FOLDER)?;
    let path = names::namespace_path(name);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("making the network namespace {name}"))?;
    let target = path.clone();
    // A thread gets a new namespace, and the mount keeps it when the thread ends.
    let made = std::thread::spawn(move || -> anyhow::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        let own = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        mount(Some(own.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .context("naming a network namespace")
    })
    .join();
    match made {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Err(_) => anyhow::bail!("the thread that made the network namespace {name} ended in a panic"),
    }
    ip(Some(name), &["link", "set", "lo", "up"])
}

/// Removes a named network namespace; one that is not there is fine.
pub fn remove(name: &str) -> anyhow::Result<()> {
    let path = names::namespace_path(name);
    if !path.exists() {
        return Ok(());
    }
    // A name whose mount is gone already is an ordinary file.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    fs::remove_file(&path).with_context(|| format!("removing the network namespace {name}"))
}

/// The names of all network namespaces of the lab.
pub fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(names::NETNS_FOLDER) else { return Vec::new() };
    let all = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut ours: Vec<String> = all.filter(|n| n.starts_with(names::NAMESPACE_PREFIX)).collect();
    ours.sort();
    ours
}

/// Opens a named network namespace.
pub fn open(name: &str) -> anyhow::Result<NetworkNamespace> {
    NetworkNamespace::open(names::namespace_path(name)).with_context(|| format!("opening the network namespace {name}"))
}

/// Runs something on a thread inside a namespace.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    open(name)?.run(work).with_context(|| format!("entering the network namespace {name}"))
}

/// Runs the ip program, in a namespace where one is named.
pub fn ip(namespace: Option<&str>, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let output = command.args(arguments).output().context("running the program 'ip' (package iproute2)")?;
    anyhow::ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
