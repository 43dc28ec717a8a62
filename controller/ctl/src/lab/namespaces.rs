//! Network namespaces with names, and work done inside them.

use super::names;
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes a named network namespace, with its loopback up. One that is there already is an error.
pub(super) fn create(name: &str) -> anyhow::Result<()> {
    let path = names::namespace_path(name);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("making the network namespace {name}"))?;
    let bound = NetworkNamespace::anonymous()
        .context("making a network namespace")
        .and_then(|made| bind(&made, &path).with_context(|| format!("naming the network namespace {name}")));
    if let Err(error) = bound {
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    ip_batch(name, &["link set lo up".to_string()])
}

/// Gives a namespace a name: the mount keeps it when nobody else does.
fn bind(namespace: &NetworkNamespace, path: &Path) -> anyhow::Result<()> {
    use std::os::fd::AsRawFd;
    let handle = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount(
        Some(handle.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Makes the folder of named namespaces a mount point of its own, as `ip netns` does; says whether it was none.
///
/// Else the first `ip netns add` of anybody does it later, over the names that are there already: those are then covered
/// by copies, and nobody can remove them.
pub(super) fn share_folder() -> anyhow::Result<bool> {
    let folder = names::NETNS_FOLDER;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, folder, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Ok(()) => Ok(false),
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(folder), folder, None::<&str>, flags, None::<&str>)
                .and_then(|()| share())
                .with_context(|| format!("making {folder} a mount point"))?;
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| format!("sharing the mounts below {folder}")),
    }
}

/// Takes back [`share_folder`], unless somebody's namespaces are there.
pub(super) fn unshare_folder() {
    let is_empty = fs::read_dir(names::NETNS_FOLDER).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        let _ = umount2(names::NETNS_FOLDER, MntFlags::MNT_DETACH);
    }
}

/// Makes sure that a named network namespace is there and usable; what a crash left half made is made anew.
pub(super) fn ensure(name: &str) -> anyhow::Result<()> {
    if names::namespace_path(name).exists() {
        if is_whole(name) {
            return Ok(());
        }
        remove(name)?;
    }
    create(name)
}

/// Whether a name stands for a namespace, not for the empty file that comes before its mount.
pub(super) fn is_whole(name: &str) -> bool {
    statfs(&names::namespace_path(name)).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Removes a named network namespace; one that is not there is fine.
///
/// What the kernel says decides, not what was seen before: a name can be covered more than once, and somebody who is
/// about to cover it is seen by neither look.
pub(super) fn remove(name: &str) -> anyhow::Result<()> {
    const TRIES: u32 = 100;
    let path = names::namespace_path(name);
    for attempt in 1..=TRIES {
        loop {
            match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                // Nothing is mounted there any more, or nothing is there.
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(error) => {
                    return Err(error).with_context(|| format!("unmounting the network namespace {name}"));
                }
            }
        }
        match fs::remove_file(&path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // Covered again in between.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && attempt < TRIES => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("removing the network namespace {name}"));
            }
        }
    }
    Ok(())
}

/// The names of all network namespaces of the lab, half made ones too.
pub(super) fn list() -> Vec<String> {
    let Ok(entries) = fs::read_dir(names::NETNS_FOLDER) else {
        return Vec::new();
    };
    let all = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut ours: Vec<String> = all.filter(|n| n.starts_with(names::NAMESPACE_PREFIX)).collect();
    ours.sort();
    ours
}

/// Opens a named network namespace.
pub(super) fn open(name: &str) -> anyhow::Result<NetworkNamespace> {
    NetworkNamespace::open(names::namespace_path(name))
        .with_context(|| format!("opening the network namespace {name}"))
}

/// Runs something on a thread inside a namespace.
pub(super) fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    open(name)?
        .run(work)
        .with_context(|| format!("entering the network namespace {name}"))
}

/// Carries out lines of the program `ip` in a namespace, all by one process: starting one for each would be most of
/// the time that the lab takes to stand. Ends at the first line that fails.
pub(super) fn ip_batch(namespace: &str, lines: &[String]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running the program 'ip' (package iproute2)")?;
    let mut text = lines.join("\n");
    text.push('\n');
    if let Some(mut input) = child.stdin.take() {
        // A program that ended early says why itself.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().context("waiting for the program 'ip'")?;
    anyhow::ensure!(
        output.status.success(),
        "ip in {namespace}: {}",
        String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
    );
    Ok(())
}
