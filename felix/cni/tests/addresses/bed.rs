//! Nodes that give addresses, and what the datastore says of them.

use felix_cni::{
    Answer, AttachSettings, Attacher, AttachmentKey, Caller, Command, EndpointView, Failure, Handler, Request,
};
use policy_model::{IpPoolSpec, IpamConfigSpec, Kind, Object, Resource};
use policy_model_datastore::{Datastore, Selection};
use policy_model_ipam::{block, name};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long something that has to happen is waited for; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A node's felix, as far as it gives addresses.
pub(crate) struct Node {
    pub(crate) attacher: Arc<Attacher>,
    work: JoinHandle<()>,
    // Their ends would say that felix stops.
    _view: watch::Sender<EndpointView>,
    _mtu: watch::Sender<Option<u32>>,
}

impl Node {
    pub(crate) fn start(name: &str, journal: &Path, store: &Arc<dyn Datastore>) -> Node {
        Node::start_as(name, journal, store, |attacher| attacher)
    }

    /// The same, where more is asked of the attacher.
    pub(crate) fn start_as(
        name: &str,
        journal: &Path,
        store: &Arc<dyn Datastore>,
        change: impl FnOnce(Attacher) -> Attacher,
    ) -> Node {
        let (view, programmed) = watch::channel(EndpointView::default());
        let (mtu, of_pods) = watch::channel(Some(1500));
        let settings = AttachSettings {
            node: name.to_owned(),
            journal: journal.to_path_buf(),
            mtu: of_pods,
            workloads: dataplane_netlink::workload::WorkloadSettings::default(),
            patience: PATIENCE,
        };
        let attacher = Attacher::open(settings, store.clone(), programmed).unwrap();
        let attacher = Arc::new(change(attacher));
        let work = tokio::spawn({
            let attacher = attacher.clone();
            async move { attacher.run().await }
        });
        Node {
            attacher,
            work,
            _view: view,
            _mtu: mtu,
        }
    }

    /// Dies between two instructions: nothing more is written.
    pub(crate) async fn kill(self) {
        self.work.abort();
        let _ = self.work.await;
    }

    async fn ask(&self, command: Command) -> Result<Vec<IpAddr>, Failure> {
        match self
            .attacher
            .handle(Request::new(command), Caller::default())
            .await
        {
            Answer::Ok(success) => Ok(success.addresses),
            Answer::Error(failure) => Err(failure),
        }
    }

    pub(crate) async fn assign(&self, id: &str) -> Result<Vec<IpAddr>, Failure> {
        let command = Command::Assign {
            key: key(id),
            namespace: "shop".into(),
            pod: format!("pod-{id}"),
            uid: format!("uid-{id}"),
        };
        self.ask(command).await
    }

    pub(crate) async fn delete(&self, id: &str) {
        assert_eq!(self.ask(Command::Del { key: key(id) }).await, Ok(Vec::new()));
    }

    pub(crate) async fn status(&self) -> Result<Vec<IpAddr>, Failure> {
        self.ask(Command::Status).await
    }
}

fn key(id: &str) -> AttachmentKey {
    AttachmentKey {
        network: "net".into(),
        container_id: id.to_owned(),
        interface: "eth0".into(),
    }
}

pub(crate) async fn pool(store: &dyn Datastore, name: &str, cidr: &str, block: u8) {
    let mut spec = IpPoolSpec::of(cidr.parse().unwrap());
    spec.block_size = Some(block);
    store.create(Object::named(name, spec).into()).await.unwrap();
}

pub(crate) async fn settings(store: &dyn Datastore, strict: bool, most: u32) {
    let spec = IpamConfigSpec {
        strict_affinity: strict,
        max_blocks_per_host: most,
        ..IpamConfigSpec::default()
    };
    store
        .create(Object::named(name::CONFIG_NAME, spec).into())
        .await
        .unwrap();
}

/// Every address that the blocks say is held, with its handle.
pub(crate) async fn held(store: &dyn Datastore) -> BTreeMap<IpAddr, String> {
    let mut all = BTreeMap::new();
    for item in store
        .list(Selection::kinds([Kind::IPAMBlock]))
        .await
        .unwrap()
        .items
    {
        let Resource::IPAMBlock(block) = item.resource.as_ref() else {
            panic!()
        };
        for held in block::holders(&block.spec) {
            let handle = held.attribute.handle_id.clone().unwrap();
            if !handle.starts_with("manx-reserve-") {
                assert_eq!(all.insert(held.address, handle), None);
            }
        }
    }
    all
}

pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

pub(crate) fn handle_of(id: &str) -> String {
    key(id).handle()
}
