//! Where the facts come from that a command answers from: manifests, a live cluster, or the embedded datastore.
//!
//! The choice is pure: arguments and environment in, source or a sentence with the choices out. Whatever is chosen ends
//! as the same [`World`], so that the same flow gets the same answer from the manifests and from the cluster that they
//! were applied to.

use crate::cluster::Cluster;
use crate::cluster::objects;
use crate::policy::world::World;
use clap::{Args, ValueEnum};
use policy_model_datastore::{Datastore, Selection};
use policy_model_datastore_file::{FileStore, Settings as FileSettings};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The token of a pod's service account, where there is one.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Which kind of datastore holds the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatastoreType {
    /// An API server of Kubernetes.
    Kubernetes,
    /// A folder: the embedded datastore of plain hosts and of the lab.
    File,
}

/// How a running cluster is found.
#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArguments {
    /// Kind of the datastore; without it DATASTORE_TYPE, else what the other options and the environment lead to.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub datastore_type: Option<DatastoreType>,
    /// How to reach the API server; without it KUBECONFIG, ~/.kube/config, or the service account of this pod.
    #[arg(long, value_name = "FILE", conflicts_with = "datastore")]
    pub kubeconfig: Option<PathBuf>,
    /// Folder of the embedded datastore; without it FELIX_DATASTOREPATH.
    #[arg(long, value_name = "DIR")]
    pub datastore: Option<PathBuf>,
}

/// Where policies and pods are read.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArguments {
    /// Folder of Kubernetes manifests (or one file); without it the live cluster is asked.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["datastore_type", "kubeconfig", "datastore"])]
    pub manifests: Option<PathBuf>,
    /// The live cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// A running cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The API server that a file, or the environment, leads to.
    Kubernetes {
        /// The file.
        kubeconfig: Option<PathBuf>,
    },
    /// The embedded datastore in a folder.
    Folder(PathBuf),
}

/// What the environment says about a running cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `DATASTORE_TYPE`.
    pub datastore_type: Option<String>,
    /// `FELIX_DATASTOREPATH`.
    pub datastore_path: Option<PathBuf>,
    /// Whether `KUBECONFIG`, a file in the home folder or a service account leads to an API server.
    pub has_api_server: bool,
}

/// Why it cannot be told where the facts are.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoSource {
    /// Nothing says where.
    #[error(
        "nothing says where the policies are: give --manifests DIR, or a live cluster by --kubeconfig FILE, KUBECONFIG \
         or a pod's service account, or the folder of an embedded datastore by --datastore DIR"
    )]
    Nothing,
    /// A folder was asked for, but not which.
    #[error(
        "the datastore type is file, but no folder is named: give --datastore DIR or set FELIX_DATASTOREPATH"
    )]
    NoFolder,
    /// An option that contradicts the type.
    #[error("{option} belongs to another type of datastore than {wanted}; leave one of the two out")]
    Contradiction {
        /// The option.
        option: &'static str,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// A type that nobody knows.
    #[error("DATASTORE_TYPE is '{0}'; manx reads kubernetes and file")]
    UnknownType(String),
    /// The folder is not there.
    #[error("there is no datastore in {}: the folder does not exist", .0.display())]
    AbsentFolder(PathBuf),
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let at_home = || set("HOME").is_some_and(|home| Path::new(&home).join(".kube/config").exists());
        let in_cluster = || set("KUBERNETES_SERVICE_HOST").is_some() && Path::new(ACCOUNT_TOKEN).exists();
        Environment {
            datastore_type: set("DATASTORE_TYPE").map(|text| text.to_string_lossy().into_owned()),
            datastore_path: set("FELIX_DATASTOREPATH").map(PathBuf::from),
            has_api_server: set("KUBECONFIG").is_some() || at_home() || in_cluster(),
        }
    }

    fn datastore_type(&self) -> Result<Option<DatastoreType>, NoSource> {
        let Some(text) = &self.datastore_type else {
            return Ok(None);
        };
        let known = DatastoreType::from_str(text.trim(), true);
        known.map(Some).map_err(|_| NoSource::UnknownType(text.clone()))
    }
}

impl ClusterArguments {
    /// The running cluster that arguments and environment lead to.
    ///
    /// # Errors
    /// They lead to none, or to two.
    pub fn resolve(&self, environment: &Environment) -> Result<Source, NoSource> {
        let contradiction = |option, wanted| Err(NoSource::Contradiction { option, wanted });
        let kubernetes = || Source::Kubernetes {
            kubeconfig: self.kubeconfig.clone(),
        };
        let folder = || {
            let named = self
                .datastore
                .clone()
                .or_else(|| environment.datastore_path.clone());
            named.map(Source::Folder).ok_or(NoSource::NoFolder)
        };
        // What was typed comes before what is only in the environment.
        match (self.datastore_type, &self.kubeconfig, &self.datastore) {
            (Some(DatastoreType::Kubernetes), _, Some(_)) => contradiction("--datastore", "kubernetes"),
            (Some(DatastoreType::File), Some(_), _) => contradiction("--kubeconfig", "file"),
            (Some(DatastoreType::Kubernetes), ..) | (None, Some(_), _) => Ok(kubernetes()),
            (Some(DatastoreType::File), ..) | (None, None, Some(_)) => folder(),
            (None, None, None) => match environment.datastore_type()? {
                Some(DatastoreType::Kubernetes) => Ok(kubernetes()),
                Some(DatastoreType::File) => folder(),
                None if environment.has_api_server => Ok(kubernetes()),
                None => Err(NoSource::Nothing),
            },
        }
    }
}

impl SourceArguments {
    /// Reads the world that the arguments lead to.
    ///
    /// # Errors
    /// They lead nowhere, or what they lead to cannot be read at all. What is wrong in part is in [`World::faults`].
    pub fn world(&self) -> anyhow::Result<World> {
        match &self.manifests {
            Some(folder) => Ok(World::load(folder)?),
            None => self.cluster.world(),
        }
    }
}

impl ClusterArguments {
    /// Reads the running cluster as a world.
    ///
    /// # Errors
    /// As [`SourceArguments::world`].
    pub fn world(&self) -> anyhow::Result<World> {
        match self.resolve(&Environment::of_process())? {
            Source::Kubernetes { kubeconfig } => block_on(async {
                let cluster = Cluster::connect(kubeconfig.as_deref()).await?;
                Ok(objects::read(&cluster).await?.into_world())
            }),
            Source::Folder(folder) => {
                let (resources, faults) = block_on(read_folder(&folder))?;
                Ok(World::of_resources(resources, faults))
            }
        }
    }
}

/// Everything in an embedded datastore, and what cannot be taken as it is.
///
/// # Errors
/// The folder cannot be read.
pub async fn read_folder(folder: &Path) -> anyhow::Result<(Vec<policy_model::Resource>, Vec<String>)> {
    // Opening would make it: whoever only asks must leave nothing behind.
    if !folder.is_dir() {
        return Err(NoSource::AbsentFolder(folder.to_path_buf()).into());
    }
    let store = FileStore::open(folder, FileSettings::default())?;
    let listing = store.list(Selection::all()).await?;
    let resources = listing.items.iter().map(|item| item.resource.as_ref().clone());
    let faults = store.faults().iter().map(ToString::to_string).collect();
    Ok((resources.collect(), faults))
}

/// Runs what waits for an API server or a disk, on this thread. What talks to one server belongs into one call: the
/// connections end with it.
///
/// # Errors
/// What the work says, or that there are no means to wait.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(
        kind: Option<DatastoreType>,
        kubeconfig: Option<&str>,
        datastore: Option<&str>,
    ) -> ClusterArguments {
        ClusterArguments {
            datastore_type: kind,
            kubeconfig: kubeconfig.map(PathBuf::from),
            datastore: datastore.map(PathBuf::from),
        }
    }

    fn environment(kind: Option<&str>, path: Option<&str>, has_api_server: bool) -> Environment {
        Environment {
            datastore_type: kind.map(str::to_owned),
            datastore_path: path.map(PathBuf::from),
            has_api_server,
        }
    }

    #[test]
    fn arguments_come_before_the_environment() {
        let kube = |file: Option<&str>| {
            Ok(Source::Kubernetes {
                kubeconfig: file.map(PathBuf::from),
            })
        };
        let folder = |path: &str| Ok(Source::Folder(PathBuf::from(path)));
        let (kubernetes, file) = (Some(DatastoreType::Kubernetes), Some(DatastoreType::File));
        let none = arguments(None, None, None);
        let cases = [
            (none.clone(), environment(None, None, true), kube(None)),
            (
                none.clone(),
                environment(None, None, false),
                Err(NoSource::Nothing),
            ),
            // A path alone is felix's setting on every node; it does not say that the folder is the datastore.
            (
                none.clone(),
                environment(None, Some("/d"), false),
                Err(NoSource::Nothing),
            ),
            (
                none.clone(),
                environment(Some("kubernetes"), None, false),
                kube(None),
            ),
            (
                none.clone(),
                environment(Some("Kubernetes"), None, false),
                kube(None),
            ),
            (
                none.clone(),
                environment(Some("file"), Some("/d"), true),
                folder("/d"),
            ),
            (
                none.clone(),
                environment(Some("file"), None, true),
                Err(NoSource::NoFolder),
            ),
            (
                none,
                environment(Some("etcdv3"), None, true),
                Err(NoSource::UnknownType("etcdv3".into())),
            ),
            (
                arguments(None, Some("k"), None),
                environment(Some("file"), Some("/d"), false),
                kube(Some("k")),
            ),
            (
                arguments(None, None, Some("/e")),
                environment(Some("kubernetes"), None, true),
                folder("/e"),
            ),
            (
                arguments(file, None, None),
                environment(Some("kubernetes"), Some("/d"), true),
                folder("/d"),
            ),
            (
                arguments(kubernetes, None, None),
                environment(Some("file"), Some("/d"), false),
                kube(None),
            ),
        ];
        for (n, (arguments, environment, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(arguments.resolve(&environment), wanted, "case {n}");
        }
        let contradiction = arguments(kubernetes, None, Some("/d")).resolve(&Environment::default());
        assert!(matches!(
            contradiction,
            Err(NoSource::Contradiction {
                option: "--datastore",
                ..
            })
        ));
    }
}
