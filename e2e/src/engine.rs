//! The brain and the hands of one node on a thread of their own, told what to do step by step.
//!
//! Time is a number that the test gives, so that what waits for its removal can be removed at once.

use crate::wire::PATIENCE;
use dataplane::{ApplyError, BackendError, Dataplane, DataplaneSettings, IptablesError, PassReport};
use dataplane_iptables::driver;
use dataplane_netlink::NetworkNamespace;
use dataplane_nftables::DriverError;
use felix_calc::{CalcConfig, CalcGraph};
use policy_model::{Key, Resource};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The node whose engine it is where nothing else is said.
pub const NODE: &str = "n1";
/// Longer than anything in the tables waits for its removal, in milliseconds.
const LONG: u64 = 10_000;

/// What lives on the thread.
pub struct Core {
    calc: CalcGraph,
    started: Instant,
    /// The hands.
    pub dataplane: Dataplane,
    /// The time, in milliseconds.
    pub now: u64,
}

impl Core {
    /// Opens the dataplane of the calling thread's namespace, for the node [`NODE`].
    pub fn open(settings: DataplaneSettings) -> Self {
        Core::open_as(CalcConfig::for_node(NODE), settings)
    }

    /// Opens the dataplane of the calling thread's namespace, for any node.
    pub fn open_as(config: CalcConfig, settings: DataplaneSettings) -> Self {
        let dataplane = Dataplane::open(settings).expect("open the dataplane");
        Core {
            calc: CalcGraph::new(config),
            started: Instant::now(),
            dataplane,
            now: 1,
        }
    }

    /// Tells the brain of objects. Faults are no matter here: the oracle has the same.
    pub fn upsert(&mut self, resources: &[Resource]) {
        for resource in resources {
            let _fault = self.calc.on_upsert(resource.clone());
        }
    }

    /// Tells the brain of objects that are gone.
    pub fn delete(&mut self, keys: &[Key]) {
        keys.iter().for_each(|key| self.calc.on_delete(key));
    }

    /// Brings what the brain knows into the kernel, as the agent does: it looks at the kernel's events first, so that it
    /// knows of interfaces that came. All of it has to succeed.
    pub fn apply(&mut self) -> PassReport {
        let report = self.pass();
        assert_eq!(
            report.faults,
            Vec::<String>::new(),
            "single interfaces or routes could not be programmed"
        );
        report
    }

    /// [`Core::apply`] where single interfaces or routes may fail: the report says which.
    pub fn pass(&mut self) -> PassReport {
        self.dataplane
            .take_events()
            .unwrap_or_else(|e| panic!("events: {}", Dataplane::describe(&e)));
        self.calc.on_in_sync();
        let mut updates = Vec::new();
        self.calc.flush(&mut updates);
        self.dataplane.take(&updates);
        self.now += 1;
        self.apply_when_free()
    }

    /// One pass, tried again where others were at work, as the agent does.
    fn apply_when_free(&mut self) -> PassReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.dataplane.apply(self.now) {
                Ok(report) => return report,
                Err(error) if is_contested(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("apply: {}", Dataplane::describe(&error)),
            }
        }
    }

    /// Does what the agent's loop does between two waits, on the real clock: applies, and removes what is due.
    pub fn turn(&mut self) {
        self.look_at_the_clock();
        self.apply();
        self.retire_what_is_due();
    }

    /// [`Core::turn`] of a node to which something happens: a pass only where events or a failure ask for one, and
    /// single interfaces and routes may fail; says which did in this pass.
    pub fn tend(&mut self) -> Vec<String> {
        self.look_at_the_clock();
        self.dataplane
            .take_events()
            .unwrap_or_else(|e| panic!("events: {}", Dataplane::describe(&e)));
        self.dataplane.retry_faults();
        let faults = if self.dataplane.is_dirty() {
            self.pass().faults
        } else {
            Vec::new()
        };
        self.retire_what_is_due();
        faults
    }

    fn look_at_the_clock(&mut self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).expect("a short test");
        self.now = self.now.max(elapsed);
    }

    fn retire_what_is_due(&mut self) {
        if self
            .dataplane
            .next_retirement()
            .is_some_and(|due| due <= self.now)
        {
            self.dataplane
                .retire(self.now)
                .unwrap_or_else(|e| panic!("retire: {}", Dataplane::describe(&e)));
        }
    }

    /// Lets so much time pass that everything unused goes.
    pub fn settle(&mut self) {
        self.now += LONG;
        self.dataplane
            .retire(self.now)
            .unwrap_or_else(|e| panic!("retire: {}", Dataplane::describe(&e)));
    }

    /// Reads the kernel's events and mends what they tell of; says how many objects were mended.
    pub fn mend(&mut self) -> usize {
        self.dataplane
            .take_events()
            .unwrap_or_else(|e| panic!("events: {}", Dataplane::describe(&e)));
        if self.dataplane.is_dirty() {
            self.apply().mended
        } else {
            0
        }
    }

    /// Compares everything with the kernel and says how much differed.
    pub fn differences(&mut self) -> usize {
        self.dataplane
            .resync()
            .unwrap_or_else(|e| panic!("resync: {}", Dataplane::describe(&e)))
            .mended
    }
}

/// Whether others were at work at that moment, so that the next try may succeed.
fn is_contested(error: &ApplyError) -> bool {
    match error {
        // An earlier life's sockets may still be open: in a process that another test has just forked and that has not yet
        // become the program that it is to be.
        ApplyError::Policy(BackendError::Nftables(DriverError::OwnedByAnother { .. })) => true,
        // Somebody wrote to the table between each writing and the reading after it.
        ApplyError::Policy(BackendError::Iptables(IptablesError::Write(failures))) => failures
            .failures
            .iter()
            .all(|failure| matches!(failure, driver::DriverError::Unsettled { .. })),
        _ => false,
    }
}

type Work = Box<dyn FnOnce(&mut Option<Core>) + Send>;

/// The thread, in its node's namespace.
#[derive(Debug)]
pub struct Engine {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    config: CalcConfig,
    settings: DataplaneSettings,
}

impl Engine {
    /// Starts a thread in a node's namespace and opens the dataplane there. Nothing is written yet. The node is [`NODE`].
    pub fn start(node: &NetworkNamespace, settings: DataplaneSettings) -> Self {
        Engine::start_as(CalcConfig::for_node(NODE), node, settings)
    }

    /// The same for any node.
    pub fn start_as(config: CalcConfig, node: &NetworkNamespace, settings: DataplaneSettings) -> Self {
        let (work, works) = channel::<Work>();
        let (own, first) = (config.clone(), settings.clone());
        // A thread begins in the namespace of the one that starts it.
        let start = move || {
            let body = move || {
                let mut core = Some(Core::open_as(own, first));
                works.into_iter().for_each(|work| work(&mut core));
            };
            std::thread::Builder::new()
                .name("engine".to_string())
                .spawn(body)
                .expect("start a thread")
        };
        let thread = node.run(start).expect("enter the node's namespace");
        Engine {
            work: Some(work),
            thread: Some(thread),
            config,
            settings,
        }
    }

    /// Does something on the thread.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Core) -> T + Send + 'static) -> T {
        self.run_slot(move |core| work(core.as_mut().expect("a core")))
    }

    fn run_slot<T: Send + 'static>(&self, work: impl FnOnce(&mut Option<Core>) -> T + Send + 'static) -> T {
        let (answer, answers) = channel();
        let work: Work = Box::new(move |core| {
            let _ = answer.send(work(core));
        });
        let sent = self.work.as_ref().expect("the engine runs").send(work);
        sent.ok()
            .and_then(|()| answers.recv().ok())
            .expect("the engine's thread panicked; see above")
    }

    /// Ends this life; nothing is cleaned up. Only [`Engine::restart`] begins another.
    pub fn close(&self) {
        self.run_slot(|slot| drop(slot.take()));
    }

    /// Ends this life (nothing is cleaned up) and begins another with the same settings, told all resources.
    pub fn restart(&self, resources: Vec<Resource>) -> PassReport {
        let (config, settings) = (self.config.clone(), self.settings.clone());
        self.run_slot(move |slot| {
            // The old one goes first: with it goes its ownership of the table.
            let now = slot.take().map_or(1, |core| core.now);
            let mut core = Core::open_as(config, settings);
            core.now = now;
            core.upsert(&resources);
            let report = core.apply();
            *slot = Some(core);
            report
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
