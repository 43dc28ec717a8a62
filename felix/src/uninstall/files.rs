//! What of ours lies in folders of the node, and how it goes. What somebody else put there stays.
//!
//! Folders that are mounted into the agent's container cannot be removed from inside; they are left empty, and the step
//! beside the agent removes them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What an agent keeps in its state folder, by name.
const STATE: [&str; 3] = ["attachments", "felix.trial", "felix.pid"];

/// Removes a network configuration, unless somebody put another in its place since it was written; says whether one was
/// there that is not ours.
///
/// # Errors
/// What could not be read or removed.
pub(super) fn network_config(path: &Path, written: &str) -> io::Result<bool> {
    let found = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    if found != written.as_bytes() && !names_our_plugin(&found) {
        return Ok(true);
    }
    remove(path)?;
    Ok(false)
}

/// Whether a configuration calls the plugin by its own name, which nobody else's does. `calico` alone may be Calico's.
fn names_our_plugin(text: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<serde_json::Value>(text) else {
        return false;
    };
    let plugins = read["plugins"].as_array().map_or(&[][..], Vec::as_slice);
    plugins
        .iter()
        .chain([&read])
        .any(|plugin| plugin["type"] == "manx")
}

/// Removes what an agent keeps in its state folder, and the folder where nothing else is in it.
///
/// # Errors
/// What could not be removed.
pub(super) fn state(folder: &Path) -> io::Result<()> {
    for name in STATE {
        remove(&folder.join(name))?;
    }
    remove_empty(folder)
}

/// Removes a socket and what lies beside it under its name: sockets that never got their name, removals that were noted
/// down.
///
/// # Errors
/// What could not be removed.
pub(super) fn socket(path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let name = name.to_string_lossy();
    for entry in entries {
        let entry = entry?;
        let found = entry.file_name();
        let found = found.to_string_lossy();
        let is_ours = found.strip_prefix(&*name);
        if is_ours.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a folder where nothing is in it, and where it can be: a mount in the agent's container cannot, whose own file
/// system nobody may write to.
///
/// # Errors
/// What else was in the way.
pub(super) fn remove_empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound
                    | ErrorKind::DirectoryNotEmpty
                    | ErrorKind::ResourceBusy
                    | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Removes a file, or a folder with all that is in it; one that is absent is none.
fn remove(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let removed = if found.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_configuration_goes_where_it_is_ours() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("10-calico.conflist");
        let written = r#"{"name":"n","plugins":[{"type":"calico"}]}"#;
        let edited = r#"{"name":"n","plugins":[{"type":"manx","mtu":1400},{"type":"portmap"}]}"#;
        for ours in [written, edited, r#"{"name":"n","type":"manx"}"#] {
            fs::write(&path, ours).unwrap();
            assert!(!network_config(&path, written).unwrap());
            assert!(!path.exists(), "{ours}");
        }
        assert!(!network_config(&path, written).unwrap(), "nothing is nothing");
        for theirs in [r#"{"name":"n","plugins":[{"type":"calico","ipam":{}}]}"#, "{", ""] {
            fs::write(&path, theirs).unwrap();
            assert!(network_config(&path, written).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
        }
    }

    #[test]
    fn folders_lose_what_is_ours_and_keep_the_rest() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("state");
        fs::create_dir_all(folder.join("attachments/x")).unwrap();
        fs::write(folder.join("felix.pid"), "1").unwrap();
        fs::write(folder.join("theirs"), "").unwrap();
        state(&folder).unwrap();
        assert_eq!(names(&folder), ["theirs"]);
        fs::remove_file(folder.join("theirs")).unwrap();
        state(&folder).unwrap();
        state(&folder).unwrap();
        assert!(!folder.exists());
        let run = place.path().join("run");
        fs::create_dir_all(run.join("cni.sock.deletions")).unwrap();
        let _listening = UnixListener::bind(run.join("cni.sock")).unwrap();
        fs::write(run.join("cni.sock.17"), "").unwrap();
        fs::write(run.join("cni.socket"), "theirs").unwrap();
        socket(&run.join("cni.sock")).unwrap();
        assert_eq!(names(&run), ["cni.socket"]);
        socket(&place.path().join("nowhere/cni.sock")).unwrap();
    }
}
