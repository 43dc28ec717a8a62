//! Network namespaces: a handle on one, and work done inside it by a thread of its own.
//!
//! A thread that has moved into a pod's namespace never comes back to other work: it ends there. Were a
//! thread moved and moved back, one failure on the way back would leave the agent writing the node's routes
//! into a pod.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};

/// An open handle on a network namespace; while it is open the namespace lives.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    /// A netlink socket that was opened inside.
    netlink: Option<OwnedFd>,
}

/// A network namespace could not be opened, entered or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The file is not there (the sandbox has gone) or may not be opened.
    #[error("open network namespace {}", path.display())]
    Open {
        /// The namespace's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The handle is not a network namespace, or the process may not enter it.
    #[error("enter network namespace")]
    Enter(#[source] io::Error),
    /// No thread could be started for the work inside.
    #[error("start a thread for network namespace")]
    Thread(#[source] io::Error),
    /// The kernel made no new namespace.
    #[error("make a network namespace")]
    Make(#[source] io::Error),
    /// The work inside panicked: a defect of this program.
    #[error("the work inside the network namespace panicked")]
    Panicked,
}

impl NamespaceError {
    /// Whether the namespace does not exist (any more), so that there is nothing left in it to undo.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl NetworkNamespace {
    /// Opens a namespace by its file, such as `/proc/PID/ns/net` or `/run/netns/NAME`.
    ///
    /// # Errors
    /// The file is not there or may not be opened. A file that is no namespace is noticed when it is entered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NamespaceError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| NamespaceError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { file, netlink: None })
    }

    /// Opens the calling thread's own namespace.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes a new namespace that has no name and vanishes with its last handle.
    ///
    /// # Errors
    /// The process lacks `CAP_SYS_ADMIN`, or the kernel's limit of namespaces is reached.
    pub fn anonymous() -> Result<Self, NamespaceError> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Make(errno.into()))?;
            Self::current()
        })?
    }

    /// Runs `work` in a thread of its own inside the namespace and returns what it returns.
    ///
    /// Sockets that `work` opens stay in the namespace and may be returned and used outside.
    ///
    /// # Errors
    /// The namespace cannot be entered, no thread can be started, or `work` panics.
    pub fn run<Outcome: Send>(
        &self,
        work: impl FnOnce() -> Outcome + Send,
    ) -> Result<Outcome, NamespaceError> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NamespaceError::Enter(errno.into()))?;
            Ok(work())
        })?
    }

    /// Adds a netlink socket (`NETLINK_ROUTE`) that somebody opened inside.
    ///
    /// Entering a namespace takes `CAP_SYS_ADMIN`; such a socket does all that is needed for interfaces, addresses and
    /// routes with `CAP_NET_ADMIN` alone.
    #[must_use]
    pub fn with_netlink(mut self, socket: OwnedFd) -> Self {
        self.netlink = Some(socket);
        self
    }

    /// The netlink socket inside, where there is one.
    pub fn netlink(&self) -> Option<BorrowedFd<'_>> {
        self.netlink.as_ref().map(AsFd::as_fd)
    }

    /// Whether two handles are of one namespace.
    ///
    /// # Errors
    /// What the system said when asked about the handles.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, other.file.metadata()?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// Returns a second handle on the same namespace.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            netlink: self.netlink.as_ref().map(OwnedFd::try_clone).transpose()?,
        })
    }
}

/// Runs `work` in a thread of its own and waits for it.
fn in_thread<Outcome: Send>(work: impl FnOnce() -> Outcome + Send) -> Result<Outcome, NamespaceError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(NamespaceError::Thread)?
            .join()
            .map_err(|_| NamespaceError::Panicked)
    })
}

impl From<OwnedFd> for NetworkNamespace {
    fn from(descriptor: OwnedFd) -> Self {
        Self {
            file: File::from(descriptor),
            netlink: None,
        }
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for NetworkNamespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
