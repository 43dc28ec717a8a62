//! Kernel settings below `/proc/sys`.
//!
//! The files under `net` show the network namespace of the thread that opens them, so settings of a pod's
//! interface are written from a thread inside the pod (see [`crate::namespace`]).

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::names::InterfaceName;

/// The folder that the settings are in, `/proc/sys` unless a container has it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctls {
    root: PathBuf,
}

/// The name of one setting, relative to the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysctlKey(PathBuf);

/// A setting that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlSpec {
    /// The setting.
    pub key: SysctlKey,
    /// Its value.
    pub value: String,
    /// What it means if the kernel has no such setting.
    pub need: Need,
}

/// What it means if the kernel has no such setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it: an error.
    Required,
    /// Its absence is as good as the wanted value (IPv6 cannot be disabled where there is no IPv6).
    IfPresent,
}

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// The file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The setting's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("write {value} to {}", path.display())]
    Write {
        /// The setting's file.
        path: PathBuf,
        /// The value.
        value: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SysctlError {
    /// Whether the kernel has no such setting, or the interface that it belongs to has gone.
    pub fn is_absent(&self) -> bool {
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self;
        source.kind() == io::ErrorKind::NotFound
    }
}

/// The two protocols that have settings per interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Internet protocol version 4.
    Ipv4,
    /// Internet protocol version 6.
    Ipv6,
}

impl Protocol {
    fn folder(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl SysctlKey {
    /// Names `net.PROTOCOL.conf.INTERFACE.setting`.
    pub fn interface(protocol: Protocol, interface: &InterfaceName, setting: &'static str) -> Self {
        Self(
            ["net", protocol.folder(), "conf", interface.as_str(), setting]
                .iter()
                .collect(),
        )
    }

    /// Names `net.PROTOCOL.neigh.INTERFACE.setting`.
    pub fn neighbour(protocol: Protocol, interface: &InterfaceName, setting: &'static str) -> Self {
        Self(
            ["net", protocol.folder(), "neigh", interface.as_str(), setting]
                .iter()
                .collect(),
        )
    }

    /// Names a setting by its parts, such as `["net", "ipv4", "ip_forward"]`.
    ///
    /// The parts are separate because an interface's name may contain dots.
    pub fn parts(parts: &[&'static str]) -> Self {
        Self(parts.iter().collect())
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
    }
}

impl fmt::Display for SysctlSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "set {} = {}", self.key, self.value)
    }
}

impl SysctlSpec {
    /// Wants a value without which nothing works.
    pub fn required(key: SysctlKey, value: impl fmt::Display) -> Self {
        Self {
            key,
            value: value.to_string(),
            need: Need::Required,
        }
    }

    /// Wants a value if the kernel has the setting.
    pub fn if_present(key: SysctlKey, value: impl fmt::Display) -> Self {
        Self {
            key,
            value: value.to_string(),
            need: Need::IfPresent,
        }
    }
}

/// Returns the settings without which a node forwards nothing to its pods.
pub fn forwarding() -> Vec<SysctlSpec> {
    vec![
        SysctlSpec::required(SysctlKey::parts(&["net", "ipv4", "ip_forward"]), 1),
        SysctlSpec::if_present(SysctlKey::parts(&["net", "ipv6", "conf", "all", "forwarding"]), 1),
    ]
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::new("/proc/sys")
    }
}

impl Sysctls {
    /// Uses the settings in a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads a setting, without the white space around it.
    ///
    /// # Errors
    /// The file's name and what the system said.
    pub fn read(&self, key: &SysctlKey) -> Result<String, SysctlError> {
        let path = self.root.join(&key.0);
        match std::fs::read_to_string(&path) {
            Ok(value) => Ok(value.trim().to_owned()),
            Err(source) => Err(SysctlError::Read { path, source }),
        }
    }

    /// Writes a setting.
    ///
    /// # Errors
    /// The file's name, the value and what the system said.
    pub fn write(&self, key: &SysctlKey, value: &str) -> Result<(), SysctlError> {
        let path = self.root.join(&key.0);
        // Never creates: a missing setting must be an error also where the folder is an ordinary one.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|source| SysctlError::Write {
                path,
                value: value.to_owned(),
                source,
            })
    }

    /// Returns those of the wanted settings that have another value now.
    ///
    /// # Errors
    /// A setting that is required and absent, or one that cannot be read.
    pub fn plan(&self, desired: &[SysctlSpec]) -> Result<Vec<SysctlSpec>, SysctlError> {
        let mut steps = Vec::new();
        for spec in desired {
            match self.read(&spec.key) {
                Ok(value) if value == spec.value => {}
                Ok(_) => steps.push(spec.clone()),
                Err(error) if error.is_absent() && spec.need == Need::IfPresent => {}
                Err(error) => return Err(error),
            }
        }
        Ok(steps)
    }

    /// Writes settings, in order; the first failure ends them.
    ///
    /// # Errors
    /// A setting that is required and absent, or one that cannot be written.
    pub fn execute(&self, steps: &[SysctlSpec]) -> Result<(), SysctlError> {
        for spec in steps {
            match self.write(&spec.key, &spec.value) {
                Err(error) if !(error.is_absent() && spec.need == Need::IfPresent) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes those of the wanted settings that have another value now.
    ///
    /// # Errors
    /// As [`Self::plan`] and [`Self::execute`].
    pub fn apply(&self, desired: &[SysctlSpec]) -> Result<(), SysctlError> {
        self.execute(&self.plan(desired)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Sysctls, SysctlKey) {
        let folder = tempfile::tempdir().unwrap();
        let interface = InterfaceName::new("eth0.100").unwrap();
        let key = SysctlKey::interface(Protocol::Ipv4, &interface, "proxy_arp");
        let path = folder.path().join("net/ipv4/conf/eth0.100");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("proxy_arp"), "0\n").unwrap();
        let sysctls = Sysctls::new(folder.path());
        (folder, sysctls, key)
    }

    #[test]
    fn applying_twice_changes_nothing() {
        let (_folder, sysctls, key) = folder();
        let desired = [SysctlSpec::required(key.clone(), 1)];
        assert_eq!(sysctls.plan(&desired).unwrap(), desired);
        sysctls.apply(&desired).unwrap();
        assert_eq!(sysctls.read(&key).unwrap(), "1");
        assert_eq!(sysctls.plan(&desired).unwrap(), []);
    }

    #[test]
    fn an_absent_setting_is_an_error_that_names_the_file_unless_it_may_be_absent() {
        let (_folder, sysctls, _) = folder();
        let key = SysctlKey::parts(&["net", "ipv6", "conf", "all", "forwarding"]);
        let error = sysctls.write(&key, "1").unwrap_err();
        assert!(error.is_absent());
        let path = sysctls.root().join("net/ipv6/conf/all/forwarding");
        assert_eq!(error.to_string(), format!("write 1 to {}", path.display()));
        assert!(sysctls.apply(&[SysctlSpec::required(key.clone(), 1)]).is_err());
        sysctls.apply(&[SysctlSpec::if_present(key, 1)]).unwrap();
        assert!(!path.exists(), "a setting is never made");
    }
}
