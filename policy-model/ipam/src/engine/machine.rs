//! The machine: asks, takes answers, plans anew, and gives back what it took when a request fails.

use super::request::{Outcome, Request};
use super::view::{Stored, View};
use super::{assign, record, release, repair, specific};
use crate::IpamError;
use ipnet::IpNet;
use policy_model::{Key, Kind, Resource};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Most conflicting writes of one request.
const MAX_CONFLICTS: u32 = 100;
/// Most steps of a request, beside what its size and that of the datastore allow.
const BASE_STEPS: usize = 2000;

/// A write with compare-and-swap.
#[derive(Clone, Debug)]
pub enum Write<V> {
    /// Creates an object; conflicts if there is one under its key.
    Create {
        /// The object.
        resource: Arc<Resource>,
    },
    /// Replaces an object; conflicts unless it has this version.
    Update {
        /// The object.
        resource: Arc<Resource>,
        /// The version that it must have.
        version: V,
    },
    /// Deletes an object; conflicts unless it has this version.
    Delete {
        /// The object's key.
        key: Key,
        /// The version that it must have.
        version: V,
    },
}

impl<V> Write<V> {
    /// The key of the object that is written.
    pub fn key(&self) -> Key {
        match self {
            Write::Create { resource } | Write::Update { resource, .. } => resource.key(),
            Write::Delete { key, .. } => key.clone(),
        }
    }
}

/// What the caller shall do next.
#[derive(Clone, Debug)]
pub enum Step<V> {
    /// Read one object from the datastore itself, not from a cache, and answer [`Answer::Object`].
    Get(Key),
    /// List all objects of a kind and answer [`Answer::Objects`]. A cache may answer, if it shows what this caller
    /// wrote before: what is out of date in it costs a conflict, and never an address given twice. Of blocks in which the
    /// request has nothing it may show [outlines](Stored::outline).
    List(Kind),
    /// Write, and answer [`Answer::Written`], [`Answer::Deleted`] or [`Answer::Conflict`].
    Write(Write<V>),
    /// The request succeeded.
    Done(Outcome),
    /// The request failed; what it took is given back.
    Failed(IpamError),
}

/// What came of the last step.
#[derive(Clone, Debug)]
pub enum Answer<V> {
    /// There was none: the first call.
    Start,
    /// The object that was read, or that there is none.
    Object(Option<Stored<V>>),
    /// All objects of a kind.
    Objects(Vec<Stored<V>>),
    /// The object was created or replaced and has this version.
    Written(V),
    /// The object was deleted.
    Deleted,
    /// The object was not as the write demands. Also the answer where the outcome of a write is not known (a broken
    /// connection): the machine reads the object again and sees.
    Conflict,
}

/// Where a plan stops.
pub(super) enum Halt<V> {
    Get(Key),
    List(Kind),
    Write(Box<(Write<V>, Effect)>),
    Fail(Box<IpamError>),
}

impl<V> Halt<V> {
    pub(super) fn write(write: Write<V>, effect: Effect) -> Self {
        Halt::Write(Box::new((write, effect)))
    }

    pub(super) fn fail(error: IpamError) -> Self {
        Halt::Fail(Box::new(error))
    }
}

/// What a write does, to be remembered once it is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Effect {
    /// Addresses that the request takes.
    pub(super) taken: Vec<IpAddr>,
    /// Addresses that it freed.
    pub(super) freed: Vec<IpAddr>,
    /// Addresses that it adds to a node's reserve, where they stay whatever becomes of the request.
    pub(super) reserved: Vec<IpAddr>,
    /// A block that it gave back.
    pub(super) given_back: Option<IpNet>,
}

/// What the writes of a request did so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) taken: BTreeSet<IpAddr>,
    pub(super) freed: BTreeSet<IpAddr>,
    pub(super) reserved: BTreeSet<IpAddr>,
    pub(super) given_back: BTreeSet<IpNet>,
    pub(super) writes: usize,
}

/// What a plan is made from, beside the request.
pub(super) struct Scene<'a, V> {
    pub(super) view: &'a View<V>,
    pub(super) log: &'a Log,
    /// Microseconds since the Unix epoch.
    pub(super) now: u64,
}

/// The work of one request.
pub struct Machine<V> {
    request: Request,
    now: u64,
    view: View<V>,
    log: Log,
    asked: Option<Asked<V>>,
    /// Set once the request failed and what it took is being given back.
    failure: Option<IpamError>,
    conflicts: u32,
    steps: usize,
}

enum Asked<V> {
    Get(Key),
    List(Kind),
    Write(Write<V>, Effect),
}

impl<V: Clone> Machine<V> {
    /// A machine for a request.
    ///
    /// `now` is the time in microseconds since the Unix epoch: the first sequence number of blocks that are made, and
    /// what the age of others' empty blocks is measured by.
    pub fn new(request: Request, now: u64) -> Self {
        let view = View::new(request.handle().map(str::to_owned));
        Machine {
            request,
            now,
            view,
            log: Log::default(),
            asked: None,
            failure: None,
            conflicts: 0,
            steps: 0,
        }
    }

    /// Tells the machine which blocks alone can hold addresses of its handle; by default it looks into all.
    ///
    /// With many thousand addresses that look is most of the work, and a caller that watches the blocks can keep an
    /// index. It must show at least what this caller wrote before, or the handle may be given a second address.
    #[must_use]
    pub fn looking_only_into(mut self, blocks: BTreeSet<Key>) -> Self {
        self.view.look_only_into(blocks);
        self
    }

    /// Takes the answer to the last step and says the next.
    ///
    /// An answer that does not belong to the step is ignored, and the step said again.
    pub fn next(&mut self, answer: Answer<V>) -> Step<V> {
        self.steps += 1;
        if let Some(over) = self.absorb(answer) {
            return self.fail(over);
        }
        if self.steps > self.most_steps() {
            let steps = self.steps;
            return self.fail(IpamError::TooManySteps { steps });
        }
        match self.plan() {
            Ok(outcome) => Step::Done(outcome),
            Err(Halt::Fail(error)) => self.fail(*error),
            Err(halt) => self.ask(halt),
        }
    }

    fn plan(&self) -> Result<Outcome, Halt<V>> {
        let scene = Scene {
            view: &self.view,
            log: &self.log,
            now: self.now,
        };
        if let Some(error) = &self.failure {
            return release::undo(&scene, self.request.handle().unwrap_or_default(), error);
        }
        match &self.request {
            Request::AutoAssign(request) => assign::plan(&scene, request),
            Request::AssignSpecific(request) => specific::plan(&scene, request),
            Request::Record(request) => record::plan(&scene, request),
            Request::ReleaseByHandle(handle) => release::by_handle(&scene, handle),
            Request::ReleaseAddresses(request) => release::addresses(&scene, &request.targets),
            Request::ReleaseBlocks(request) => release::blocks(&scene, request),
            Request::ReleaseNode(node) => release::node(&scene, node),
            Request::Repair => repair::plan(&scene),
        }
    }

    fn ask(&mut self, halt: Halt<V>) -> Step<V> {
        match halt {
            Halt::Get(key) => {
                self.asked = Some(Asked::Get(key.clone()));
                Step::Get(key)
            }
            Halt::List(kind) => {
                self.asked = Some(Asked::List(kind));
                Step::List(kind)
            }
            // Who holds what of it would be lost; what is planned once it is read is another write, or the same.
            Halt::Write(planned) if self.view.is_outline(&planned.0.key()) => {
                self.ask(Halt::Get(planned.0.key()))
            }
            Halt::Write(planned) => {
                let (write, effect) = *planned;
                self.asked = Some(Asked::Write(write.clone(), effect));
                Step::Write(write)
            }
            Halt::Fail(error) => Step::Failed(*error),
        }
    }

    /// Ends with an error, after giving back what was taken. An error while giving back ends at once: the first one is
    /// what the caller must hear, and releasing by the handle or a collection finds the rest.
    fn fail(&mut self, error: IpamError) -> Step<V> {
        if let Some(first) = &self.failure {
            return Step::Failed(first.clone());
        }
        if self.log.taken.is_empty() {
            return Step::Failed(error);
        }
        self.failure = Some(error);
        self.conflicts = 0;
        self.steps = 0;
        match self.plan() {
            Ok(_) => Step::Failed(self.failure.clone().unwrap_or(IpamError::NoHandle)),
            Err(halt) => self.ask(halt),
        }
    }

    /// Learns from an answer; says with what error to give up, if it is time to.
    fn absorb(&mut self, answer: Answer<V>) -> Option<IpamError> {
        match (self.asked.take(), answer) {
            (Some(Asked::Get(key)), Answer::Object(stored)) => self.view.set(key, stored),
            (Some(Asked::List(kind)), Answer::Objects(all)) => self.view.set_list(kind, all),
            (
                Some(Asked::Write(Write::Create { resource } | Write::Update { resource, .. }, effect)),
                Answer::Written(version),
            ) => {
                self.view
                    .set(resource.key(), Some(Stored::whole(resource, version)));
                self.remember(effect);
            }
            (Some(Asked::Write(Write::Delete { key, .. }, effect)), Answer::Deleted) => {
                self.view.set(key, None);
                self.remember(effect);
            }
            (Some(Asked::Write(write, effect)), Answer::Conflict) => {
                let key = write.key();
                // The write may have been made all the same (a broken connection): if the request fails, these must
                // be looked at. Nothing is freed that another handle holds.
                self.log.taken.extend(effect.taken);
                self.view.set_stale(key.clone());
                self.conflicts += 1;
                if self.conflicts >= MAX_CONFLICTS {
                    return Some(IpamError::TooManyConflicts {
                        key,
                        tries: self.conflicts,
                    });
                }
            }
            _ => {}
        }
        None
    }

    fn remember(&mut self, effect: Effect) {
        self.log.writes += 1;
        self.log.taken.extend(effect.taken);
        self.log.freed.extend(effect.freed);
        self.log.reserved.extend(effect.reserved);
        self.log.given_back.extend(effect.given_back);
    }

    fn most_steps(&self) -> usize {
        let wanted = match &self.request {
            Request::AutoAssign(r) => r.ipv4.saturating_add(r.ipv6),
            Request::AssignSpecific(r) => r.addresses.len(),
            Request::Record(r) => r.given.len() + r.freed.len(),
            Request::ReleaseAddresses(r) => r.targets.len(),
            Request::ReleaseByHandle(_)
            | Request::ReleaseBlocks(_)
            | Request::ReleaseNode(_)
            | Request::Repair => 0,
        };
        wanted
            .saturating_add(self.view.len())
            .saturating_mul(8)
            .saturating_add(BASE_STEPS)
    }
}
