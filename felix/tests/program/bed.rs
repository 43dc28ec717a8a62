//! One agent: its network namespace, its folders, and what it says.

use dataplane_netlink::links::{self, LinkSpec};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink};
use policy_model_datastore::Datastore;
use policy_model_datastore_file::{FileStore, Settings as StoreSettings};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long something that has to happen is waited for; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A node: a network namespace and folders.
pub(crate) struct Node {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) folder: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and has to run as root"
        );
        let namespace = NetworkNamespace::anonymous().expect("make the node's namespace");
        namespace
            .run(|| {
                let mut netlink = Rtnetlink::open().unwrap();
                let name = InterfaceName::new("lo").unwrap();
                let loopback = links::find(&mut netlink, &name).unwrap().unwrap();
                links::execute(&mut netlink, &loopback, &links::plan(&LinkSpec::UP, &loopback)).unwrap();
            })
            .unwrap();
        Node {
            namespace,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that starts the program with all its folders here, and with its output in a file.
    pub(crate) fn command(&self, log: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_felix"));
        command
            .env_clear()
            .env("FELIX_FELIXHOSTNAME", "node-1")
            .env("FELIX_DATASTOREPATH", self.path("datastore"))
            .env("FELIX_STATEDIR", self.path("state"))
            .env("FELIX_CNISOCKETPATH", self.path("cni.sock"))
            .env("FELIX_LOGFILEPATH", "none")
            // The machine's own is none of a test's.
            .env("FELIX_IPTABLESLOCKFILEPATH", self.path("xtables.lock"))
            .arg("--config-file")
            .arg(self.path("felix.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.path(log)).unwrap());
        command
    }

    pub(crate) fn start(&self) -> Felix<'_> {
        self.start_as("log", |_| {})
    }

    pub(crate) fn start_as(&self, log: &str, change: impl FnOnce(&mut Command)) -> Felix<'_> {
        let mut command = self.command(log);
        change(&mut command);
        let child = self
            .namespace
            .run(|| command.spawn())
            .unwrap()
            .expect("start felix");
        Felix {
            node: self,
            child,
            log: self.path(log),
        }
    }

    /// The node's datastore, as another process has it.
    pub(crate) fn store(&self) -> FileStore {
        FileStore::open(self.path("datastore"), StoreSettings::default()).unwrap()
    }

    /// Asks a page of the agent's; none while nobody answers.
    pub(crate) fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        self.namespace.run(|| get(port, path)).unwrap()
    }

    /// Runs a command in the node's namespace and returns what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("XTABLES_LOCKFILE", self.path("xtables.lock"));
        let output = self.namespace.run(|| command.output()).unwrap();
        let output = output.unwrap_or_else(|error| panic!("the tests need {program}: {error}"));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits for the answer 200 and returns the page.
    pub(crate) fn wait_for_page(&self, port: u16, path: &str) -> String {
        wait_for(&format!("{path} on {port}"), || {
            self.get(port, path)
                .and_then(|(status, body)| (status == 200).then_some(body))
        })
    }
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Waits for something to be there.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running program; ended with the value.
pub(crate) struct Felix<'node> {
    node: &'node Node,
    child: Child,
    log: PathBuf,
}

impl Felix<'_> {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has said.
    pub(crate) fn said(&self) -> String {
        read(&self.log)
    }

    pub(crate) fn wait_until_it_says(&self, words: &str) {
        let heard = || self.said().contains(words).then_some(());
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(words, heard))).is_err() {
            panic!("it never said {words:?}; it said:\n{}", self.said());
        }
    }

    /// Waits until it is ready, by the port of its health.
    pub(crate) fn wait_until_ready(&self, port: u16) {
        self.node.wait_for_page(port, "/readiness");
    }

    /// Waits for its end.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        wait_for("the end of felix", || self.child.try_wait().unwrap())
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.ends()
    }
}

impl Drop for Felix<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("felix said:\n{}", self.said());
        }
    }
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Waits for an answer of the datastore.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Makes an object or puts it in place of what there is.
pub(crate) fn put(store: &FileStore, resource: policy_model::Resource) {
    block_on(async {
        let key = resource.key();
        match store.get(&key).await? {
            Some(found) => store.update(resource, &found.version).await,
            None => store.create(resource).await,
        }
    })
    .unwrap();
}
