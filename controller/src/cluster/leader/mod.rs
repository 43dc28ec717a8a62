//! One leader among the replicas, by a Lease: who leads works, who does not waits, and nobody does both.
//!
//! The work runs as a task of its own that is ended the moment the lease is not surely ours; what it holds to write
//! with ([`fence::Fenced`], [`tenure::Tenure`]) ends with the same moment, so that even work that was stopped in the
//! middle of a step and resumed an hour later writes nothing.

pub(super) mod fence;
mod keeper;
pub(super) mod lease;
pub(super) mod tenure;

use super::figures::Figures;
use super::reach::{is_conflict, refusal_code};
use super::vitals::Pulse;
use crate::chain;
use keeper::LeaseKeeper;
use kube::Client;
use lease::{Candidate, Record, Step, Timings};
use policy_model_datastore::DatastoreError;
use std::time::{Duration, Instant};
use tenure::Tenure;
use tokio::task::JoinHandle;

/// How long the work may take to end when it is told to; it holds nothing that anybody waits for.
const FAREWELL: Duration = Duration::from_secs(2);

/// What an election is about.
#[derive(Clone, Debug)]
pub(super) struct Election {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) identity: String,
    pub(super) timings: Timings,
}

/// Why a tenure ended.
enum Ended {
    /// The process is to end.
    Stop,
    /// The lease could not be renewed, or is another's.
    Lost(String),
    /// The work ended by itself, which it never should.
    ByItself,
}

/// A candidate for the lease, and its holder when it is one.
pub(super) struct Elector {
    keeper: LeaseKeeper,
    candidate: Candidate,
    election: Election,
    pulse: Pulse,
    figures: Figures,
    /// What was last said of a lease that cannot be had, to say it once.
    said: Option<String>,
}

impl Elector {
    pub(super) fn new(client: Client, election: Election, pulse: Pulse, figures: Figures) -> Self {
        Elector {
            keeper: LeaseKeeper::new(
                client,
                &election.namespace,
                &election.name,
                &election.identity,
                election.timings,
            ),
            candidate: Candidate::new(&election.identity, election.timings),
            election,
            pulse,
            figures,
            said: None,
        }
    }

    /// Works as the leader whenever it is one, until `stop`; then hands the lease back.
    pub(super) async fn run<W>(mut self, stop: impl Future<Output = ()>, work: impl Fn(Tenure) -> W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut stop = std::pin::pin!(stop);
        loop {
            let (tenure, held) = tokio::select! {
                biased;
                () = &mut stop => return,
                won = self.win() => won,
            };
            // Announced before anybody can see that this replica leads: see `Work::run`.
            let job = work(tenure.clone());
            self.figures.set_leading(true);
            self.pulse.set_role("leads");
            tracing::info!(
                "{} holds the lease {}/{} and leads",
                self.election.identity,
                self.election.namespace,
                self.election.name
            );
            let mut task = Task(tokio::spawn(job));
            let mut held = held;
            let ended = tokio::select! {
                biased;
                () = &mut stop => Ended::Stop,
                why = self.renew(&tenure, &mut held) => Ended::Lost(why),
                _ = &mut task.0 => Ended::ByItself,
            };
            let was_ours = tenure.until(Instant::now()).is_ok();
            tenure.end();
            task.end().await;
            self.figures.set_leading(false);
            match ended {
                Ended::Lost(why) => tracing::warn!("this controller leads no more: {why}"),
                Ended::Stop | Ended::ByItself => {
                    if was_ours {
                        self.release(&held).await;
                    }
                    if matches!(ended, Ended::Stop) {
                        return;
                    }
                    tracing::error!("the work ended by itself; the lease is given back and sought anew");
                    tokio::time::sleep(self.election.timings.retry).await;
                }
            }
        }
    }

    /// Waits for the lease; returns the right that it gives, and the lease as it was written.
    async fn win(&mut self) -> (Tenure, Record) {
        loop {
            self.pulse.moves("look at the lease");
            let pause = match self.attempt().await {
                Ok(Some(won)) => {
                    self.said = None;
                    self.pulse.set_problem(None);
                    return won;
                }
                Ok(None) => {
                    self.pulse.set_problem(None);
                    self.election.timings.retry
                }
                Err(error) => {
                    self.complain(&error);
                    self.pulse.set_problem(Some(chain(&error)));
                    self.election.timings.retry
                }
            };
            // Apart by chance, so that two candidates do not meet at each look.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..=1.2))).await;
        }
    }

    /// Looks at the lease once, and takes it if it can be taken.
    async fn attempt(&mut self) -> Result<Option<(Tenure, Record)>, DatastoreError> {
        let read = self.keeper.read().await?;
        let step = self.candidate.next(read.as_ref(), Instant::now());
        let sent = Instant::now();
        let written = match step {
            Step::Wait(_) => {
                let holder = self.candidate.holder().unwrap_or_default().to_owned();
                self.pulse.set_role(&format!("stands by for {holder}"));
                return Ok(None);
            }
            Step::Create => self.keeper.create().await,
            Step::Take { version, transitions } => self.keeper.take(&version, transitions, true).await,
        };
        match written {
            Ok(record) => {
                let timings = self.election.timings;
                let tenure = Tenure::new(
                    sent + timings.renew_deadline,
                    timings.duration - timings.renew_deadline,
                );
                Ok(Some((tenure, record)))
            }
            // Another candidate was faster.
            Err(error) if is_conflict(&error) && !is_absent_namespace(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews the lease for as long as that succeeds in time; returns why it ended.
    async fn renew(&mut self, tenure: &Tenure, held: &mut Record) -> String {
        let timings = self.election.timings;
        let mut pause = timings.retry;
        let mut trouble = String::from("this process was stopped for longer than the lease may go unrenewed");
        loop {
            let Ok(until) = tenure.until(Instant::now()) else {
                return trouble;
            };
            let next = tokio::time::Instant::now() + pause;
            tokio::time::sleep_until(next.min(tokio::time::Instant::from_std(until))).await;
            pause = timings.retry;
            self.pulse.moves("renew the lease");
            // Asked again after the pause: only so is a process found out that was stopped meanwhile.
            let Ok(until) = tenure.until(Instant::now()) else {
                return trouble;
            };
            let sent = Instant::now();
            let request = self.keeper.take(&held.version, held.transitions, false);
            match tokio::time::timeout_at(tokio::time::Instant::from_std(until), request).await {
                Ok(Ok(record)) => {
                    *held = record;
                    tenure.extend(sent + timings.renew_deadline);
                    self.pulse.set_problem(None);
                    self.said = None;
                }
                Ok(Err(error)) if is_conflict(&error) => match self.look(held).await {
                    // A renewal whose answer was lost was still made; or somebody touched the object.
                    Ok(Look::StillOurs) => pause = Duration::ZERO,
                    Ok(Look::Gone) => return "the lease was deleted".to_owned(),
                    Ok(Look::Anothers(holder)) => return format!("the lease is {holder}'s"),
                    Err(error) => {
                        trouble = format!("the lease could not be renewed in time: {}", chain(&error));
                        self.complain(&error);
                    }
                },
                Ok(Err(error)) => {
                    trouble = format!("the lease could not be renewed in time: {}", chain(&error));
                    self.pulse.set_problem(Some(chain(&error)));
                    self.complain(&error);
                }
                Err(_) => return "the lease could not be renewed in time: no answer".to_owned(),
            }
        }
    }

    /// Whose the lease is; its newest version where it is ours.
    async fn look(&self, held: &mut Record) -> Result<Look, DatastoreError> {
        Ok(match self.keeper.read().await? {
            None => Look::Gone,
            Some(read) if read.holder == self.election.identity => {
                *held = read;
                Look::StillOurs
            }
            Some(read) if read.holder.is_empty() => Look::Anothers("nobody".to_owned()),
            Some(read) => Look::Anothers(read.holder),
        })
    }

    async fn release(&mut self, held: &Record) {
        match tokio::time::timeout(FAREWELL, self.keeper.release(held)).await {
            Ok(Ok(())) => tracing::info!("the lease is given back"),
            Ok(Err(error)) => tracing::warn!("{}; it ends by itself", chain(&error)),
            Err(_) => tracing::warn!("the lease could not be given back in time; it ends by itself"),
        }
    }

    /// Says once why the lease cannot be had.
    fn complain(&mut self, error: &DatastoreError) {
        let text = chain(error);
        if self.said.as_ref() != Some(&text) {
            tracing::warn!("{text}; it is tried again");
            self.said = Some(text);
        }
        self.figures.failed("leader");
    }
}

/// Whose a lease is.
enum Look {
    StillOurs,
    Anothers(String),
    Gone,
}

/// Whether a lease cannot be made because its namespace is absent: nobody was faster, and nobody will be.
fn is_absent_namespace(error: &DatastoreError) -> bool {
    refusal_code(error) == Some(404)
}

/// Work that ends with this value.
struct Task(JoinHandle<()>);

impl Task {
    /// Ends it and waits until it has ended, so that a lease is not given back over work that still runs.
    async fn end(mut self) {
        self.0.abort();
        // What was waited for to its end must not be waited for again.
        if !self.0.is_finished() {
            let _ = tokio::time::timeout(FAREWELL, &mut self.0).await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
