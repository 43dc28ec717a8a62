//! What the program says when it cannot start: what is wrong, and what to do.

use crate::bed::{Node, wait_for};
use std::process::Command;

/// Starts it so that it ends with an error, and returns the last line that it says.
fn refusal(node: &Node, change: impl FnOnce(&mut Command)) -> String {
    let mut felix = node.start_as("refusal", change);
    let status = felix.ends();
    assert_eq!(status.code(), Some(1), "{}", felix.said());
    let said = felix.said();
    let last = said.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("felix: "), "{said}");
    last
}

fn assert_says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    let system = "(os error ";
    assert!(
        line.matches(system).count() <= 1,
        "the system's words are said twice: {line}"
    );
}

/// A file system of 64 KiB without any room left, which goes with the test.
struct FullDisk<'node>(&'node Node);

impl<'node> FullDisk<'node> {
    fn new(node: &'node Node) -> Self {
        let path = node.path("full");
        std::fs::create_dir(&path).unwrap();
        nix::mount::mount(
            Some("none"),
            &path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=64k"),
        )
        .expect("mount a small file system");
        let full = FullDisk(node);
        let _ = std::fs::write(path.join("ballast"), [0; 128 * 1024]);
        full
    }
}

impl Drop for FullDisk<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.path("full"), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_named() {
    let node = Node::new();
    let full = FullDisk::new(&node);
    let line = refusal(&node, |command| {
        command.env("FELIX_STATEDIR", node.path("full/state"));
    });
    assert_says(
        &line,
        &[
            "full/state",
            "is full",
            "free space",
            "FELIX_STATEDIR",
            "No space left",
        ],
    );
    let line = refusal(&node, |command| {
        command.env("FELIX_DATASTOREPATH", node.path("full/datastore"));
    });
    assert_says(
        &line,
        &[
            "full/datastore",
            "has room",
            "FELIX_DATASTOREPATH",
            "No space left",
        ],
    );
    drop(full);
}

#[test]
fn a_folder_that_is_none_is_named() {
    let node = Node::new();
    std::fs::write(node.path("file"), "somebody's").unwrap();
    let line = refusal(&node, |command| {
        command.env("FELIX_STATEDIR", node.path("file"));
    });
    assert_says(&line, &["no folder", "FELIX_STATEDIR"]);
    let line = refusal(&node, |command| {
        command.env("FELIX_DATASTOREPATH", node.path("file"));
    });
    assert_says(&line, &["file", "FELIX_DATASTOREPATH"]);
    for socket in ["file", "file/cni.sock"] {
        let line = refusal(&node, |command| {
            command.env("FELIX_CNISOCKETPATH", node.path(socket));
        });
        assert_says(&line, &[socket, "FELIX_CNISOCKETPATH"]);
    }
    assert_eq!(std::fs::read(node.path("file")).unwrap(), b"somebody's");
}

#[test]
fn missing_privileges_are_named() {
    let node = Node::new();
    // Another user must reach the program and its folders.
    let open = |path: &std::path::Path| {
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, all).unwrap();
    };
    open(node.folder.path());
    let program = node.path("felix");
    std::fs::copy(env!("CARGO_BIN_EXE_felix"), &program).unwrap();
    let restricted = |options: &'static [&'static str]| {
        let program = &program;
        let node = &node;
        move |command: &mut Command| {
            let mut other = Command::new("setpriv");
            other
                .args(options)
                .arg(program)
                .args(command.get_args())
                .env_clear();
            other.env("PATH", std::env::var_os("PATH").unwrap_or_default());
            for (name, value) in command.get_envs() {
                other.env(name, value.unwrap_or_default());
            }
            other.stderr(std::fs::File::create(node.path("refusal")).unwrap());
            *command = other;
        }
    };
    let line = refusal(&node, restricted(&["--reuid", "65534", "--clear-groups"]));
    assert_says(&line, &["must run as root", "sudo"]);
    let line = refusal(&node, restricted(&["--bounding-set=-net_admin"]));
    assert_says(&line, &["CAP_NET_ADMIN", "securityContext"]);
}

#[test]
fn a_second_agent_is_told_of_the_first() {
    let node = Node::new();
    let first = node.start();
    first.wait_until_ready(9099);
    // With the folder of the first.
    let line = refusal(&node, |command| {
        command
            .env("FELIX_HEALTHPORT", "9299")
            .env("FELIX_PROMETHEUSMETRICSPORT", "9291");
    });
    assert_says(
        &line,
        &[
            &format!("another felix (process {})", first.id()),
            "FELIX_STATEDIR",
        ],
    );
    // With folders of its own, on the first's ports.
    let own = |command: &mut Command| {
        command
            .env("FELIX_STATEDIR", node.path("own"))
            .env("FELIX_CNISOCKETPATH", node.path("own.sock"));
    };
    let line = refusal(&node, own);
    assert_says(
        &line,
        &["127.0.0.1:9099", "health", "another agent", "FELIX_HEALTHPORT"],
    );
    let line = refusal(&node, |command| {
        own(command);
        command.env("FELIX_HEALTHPORT", "9299");
    });
    assert_says(
        &line,
        &["9091", "metrics", "another agent", "FELIX_PROMETHEUSMETRICSPORT"],
    );
    // With everything of its own but the node: it waits for the first to end, is not ready, and says why.
    let second = node.start_as("second", |command| {
        own(command);
        command
            .env("FELIX_HEALTHPORT", "9299")
            .env("FELIX_PROMETHEUSMETRICSPORT", "9291");
    });
    let owned = first.said().contains("owned=true");
    if owned {
        let unready = || {
            let (status, page) = node.get(9299, "/readiness")?;
            (status == 503 && page.contains("another felix")).then_some(())
        };
        wait_for("a second agent that is not ready", unready);
        second.wait_until_it_says("is another felix running on this node?");
        assert_eq!(first.stop().code(), Some(0));
        second.wait_until_ready(9299);
    }
    assert_eq!(second.stop().code(), Some(0));
}
