//! How large the packets of pods may be: what the node finds out, what a network configuration says, and that a pod keeps
//! what it has.
//!
//! In a network namespace, with real interfaces. Whoever puts pods into force is played by a task that believes the journal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

use dataplane_netlink::NetworkNamespace;
use dataplane_netlink::workload::WorkloadSettings;
use felix_cni::{
    Answer, AttachSettings, Attacher, AttachmentKey, Caller, Command, EndpointView, Failure, Handler,
    InForce, ProgrammedEndpoint, Request, Success,
};
use policy_model::{IpPoolSpec, Object, WorkloadEndpointSpec};
use policy_model_datastore::{Datastore, MemoryStore};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long something that has to happen is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Pod {
    name: String,
    sandbox: NetworkNamespace,
}

impl Pod {
    async fn new(store: &MemoryStore, name: &str) -> Pod {
        let spec = WorkloadEndpointSpec {
            node: "n0".into(),
            pod: name.into(),
            ..WorkloadEndpointSpec::default()
        };
        let endpoint = Object::namespaced("shop", format!("n0-k8s-{name}-eth0"), spec);
        store.create(endpoint.into()).await.unwrap();
        Pod {
            name: name.to_owned(),
            sandbox: NetworkNamespace::anonymous().unwrap(),
        }
    }

    fn key(&self) -> AttachmentKey {
        AttachmentKey {
            network: "net".into(),
            container_id: self.name.clone(),
            interface: "eth0".into(),
        }
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.sandbox.as_raw_fd())
    }

    async fn add(&self, attacher: &Attacher, mtu: u32) -> u32 {
        let add = Command::Add {
            key: self.key(),
            netns: self.path(),
            namespace: "shop".into(),
            pod: self.name.clone(),
            uid: String::new(),
            mtu,
        };
        let told = ask(attacher, add).await.unwrap().mtu;
        assert_eq!(self.mtu(), told, "what is told is so");
        told
    }

    async fn check(&self, attacher: &Attacher) -> Result<Success, Failure> {
        let (key, netns) = (self.key(), self.path());
        ask(attacher, Command::Check { key, netns }).await
    }

    /// The largest packet of its interface, as the kernel has it.
    fn mtu(&self) -> u32 {
        let read = || {
            let output = std::process::Command::new("ip")
                .args(["-o", "link", "show", "eth0"])
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let said = self.sandbox.run(read).unwrap();
        let mut words = said.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).unwrap().parse().unwrap()
    }
}

async fn ask(attacher: &Attacher, command: Command) -> Result<Success, Failure> {
    match attacher.handle(Request::new(command), Caller::default()).await {
        Answer::Ok(success) => Ok(success),
        Answer::Error(failure) => Err(failure),
    }
}

async fn pods_have_what_fits() {
    let store = MemoryStore::new();
    let pool = IpPoolSpec::of("10.0.0.0/24".parse().unwrap());
    store.create(Object::named("p", pool).into()).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let (in_force, programmed) = watch::channel(EndpointView::default());
    let (found, mtu) = watch::channel(None);
    let settings = AttachSettings {
        node: "n0".into(),
        journal: place.path().to_path_buf(),
        mtu,
        workloads: WorkloadSettings::default(),
        patience: PATIENCE,
    };
    let attacher = Attacher::open(settings, Arc::new(store.clone()), programmed).unwrap();
    let attacher = Arc::new(attacher);
    let working = tokio::spawn({
        let attacher = attacher.clone();
        async move { attacher.run().await }
    });
    let believing = tokio::spawn({
        let mut attachments = attacher.attachments();
        async move {
            while attachments.changed().await.is_ok() {
                let known = attachments.borrow_and_update().clone();
                let endpoints = known.iter().map(|attachment| {
                    let programmed = ProgrammedEndpoint {
                        addresses: attachment.addresses.clone(),
                        interface_up: true,
                    };
                    (attachment.host_interface.clone(), programmed)
                });
                let endpoints = endpoints.collect();
                in_force.send_replace(Arc::new(InForce {
                    endpoints,
                    ..InForce::default()
                }));
            }
        }
    });

    // Nothing is made before it is known what fits.
    let early = Pod::new(&store, "early").await;
    let adding = early.add(&attacher, 0);
    tokio::pin!(adding);
    let mut attachments = attacher.attachments();
    tokio::select! {
        _ = &mut adding => panic!("it did not wait"),
        () = tokio::task::yield_now() => {}
    }
    assert!(attachments.borrow_and_update().is_empty());
    found.send_replace(Some(1450));
    assert_eq!(adding.await, 1450);

    // A tunnel more, and less fits: new pods have that, and those that are there keep theirs.
    found.send_replace(Some(1400));
    let late = Pod::new(&store, "late").await;
    assert_eq!(late.add(&attacher, 0).await, 1400);
    assert_eq!(early.add(&attacher, 0).await, 1450, "asked again");
    assert_eq!(early.check(&attacher).await.unwrap().mtu, 1450);
    assert_eq!(late.check(&attacher).await.unwrap().mtu, 1400);

    // What a network configuration says goes before both.
    let stated = Pod::new(&store, "stated").await;
    assert_eq!(stated.add(&attacher, 1300).await, 1300);
    found.send_replace(Some(1500));
    assert_eq!(stated.check(&attacher).await.unwrap().mtu, 1300);
    working.abort();
    believing.abort();
}

#[test]
fn new_pods_have_what_fits_and_others_keep_what_they_have() {
    let node = NetworkNamespace::anonymous().unwrap();
    let work = || {
        // Its threads are of the namespace in which they are made.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(pods_have_what_fits());
    };
    node.run(work).unwrap();
}
