//! The socket that asks and writes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::connection::{Connection, Received};
use super::error::{DumpError, Failure, OpenError, TransactError};
use crate::wire::{
    Acknowledgement, Batch, Element, Family, Generation, Keys, Message, Messages, Notice, Object,
    ObservedChain, ObservedElement, ObservedRule, ObservedSet, ObservedTable, Request, join_intervals,
};

/// Room for the refusals of some ten thousand messages, or the handles of as many rules.
const RECEIVE_BUFFER: usize = 16 << 20;
/// How often a dump is tried while others change the ruleset.
const DUMP_ATTEMPTS: u32 = 16;

/// A socket to nf_tables. A table that it owns is owned as long as it is open.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    sequence: u32,
}

/// A batch that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many messages it had.
    pub messages: usize,
    /// How many bytes it had.
    pub bytes: usize,
    /// The handles of the new rules in the order of their messages, each with its message's label, if the batch asked for them.
    pub handles: Vec<(usize, u64)>,
}

/// What the kernel has said of a batch so far.
#[derive(Default)]
struct Verdicts {
    failures: Vec<Failure>,
    handles: Vec<(u32, u64)>,
    acknowledged: bool,
    /// No more will come: the last message has its answer, or the batch as a whole is refused.
    decided: bool,
    stale: bool,
    lost: Option<io::Error>,
}

impl Link {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no socket or refuses an option.
    pub fn open() -> Result<Self, OpenError> {
        Ok(Self {
            connection: Connection::open(RECEIVE_BUFFER)?,
            sequence: 0,
        })
    }

    /// Says how long the kernel may take for an answer, ten seconds if nobody says; zero waits without end.
    ///
    /// # Errors
    /// The kernel refuses the option; the time that held goes on holding.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), OpenError> {
        let option = "the receive timeout";
        self.connection
            .set_patience(patience)
            .map_err(|source| OpenError::Option { option, source })
    }

    /// The port that tells this socket from all others; the events of its changes carry it.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.connection.port()
    }

    /// Carries a batch out. An empty batch is not sent. A batch can be tried again after an error.
    ///
    /// # Errors
    /// See [`TransactError`]: after all but [`TransactError::Lost`] and [`TransactError::NoAnswer`] nothing of the batch is in force.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<Committed, TransactError> {
        if batch.is_empty() {
            return Ok(Committed::default());
        }
        if let Some(label) = batch.too_long() {
            return Err(TransactError::TooLong { label });
        }
        // A late answer to something older must not be taken for one to this batch, whose numbers start anew.
        self.connection.drain();
        batch.seal();
        let bytes = batch.size();
        self.connection
            .reserve_send(bytes)
            .map_err(|source| TransactError::Send { bytes, source })?;
        self.connection
            .send(batch.seal())
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EMSGSIZE) => TransactError::TooLarge { bytes },
                _ => TransactError::Send { bytes, source },
            })?;
        let verdicts = self.await_verdicts(batch);
        verdicts.conclude(batch)
    }

    fn await_verdicts(&mut self, batch: &Batch) -> Verdicts {
        let mut verdicts = Verdicts::default();
        loop {
            // Once it is decided, only what is there already can belong to it.
            match self
                .connection
                .receive(!verdicts.decided && verdicts.lost.is_none())
            {
                Ok(Received::Nothing) => return verdicts,
                Ok(Received::Overrun(error)) => verdicts.lost = Some(error),
                Err(error) => {
                    verdicts.lost = Some(error);
                    return verdicts;
                }
                Ok(Received::Datagram(length)) => {
                    for message in Messages::new(self.connection.datagram(length)) {
                        verdicts.note(batch, &message);
                    }
                }
            }
        }
    }

    /// The generation of the ruleset; every commit of anybody makes another.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn generation(&mut self) -> Result<Generation, DumpError> {
        let found = self.ask(&Request::Generation, |object, found: &mut Vec<Generation>| {
            if let Object::Generation(generation) = object {
                found.push(generation);
            }
        })?;
        found.into_iter().next().ok_or(DumpError::NoAnswer)
    }

    /// All tables of a family.
    ///
    /// # Errors
    /// The kernel does not answer, or not with one consistent state.
    pub fn tables(&mut self, family: Family) -> Result<Vec<ObservedTable>, DumpError> {
        self.ask(&Request::Tables(family), |object, found| {
            if let Object::Table(table) = object {
                found.push(table);
            }
        })
    }

    /// All chains of a table; none if the table is not there.
    ///
    /// # Errors
    /// The kernel does not answer, or not with one consistent state.
    pub fn chains(&mut self, family: Family, table: &str) -> Result<Vec<ObservedChain>, DumpError> {
        // The kernel does not choose by table here.
        self.ask(&Request::Chains(family), |object, found| match object {
            Object::Chain(chain) if chain.table == table => found.push(chain),
            _ => {}
        })
    }

    /// All rules of a table, chain by chain, in their order; none if the table is not there.
    ///
    /// # Errors
    /// The kernel does not answer, or not with one consistent state.
    pub fn rules(&mut self, family: Family, table: &str) -> Result<Vec<ObservedRule>, DumpError> {
        self.ask(&Request::Rules(family, table), take_rule)
    }

    /// All rules of a chain in their order; none if the chain is not there.
    ///
    /// # Errors
    /// The kernel does not answer, or not with one consistent state.
    pub fn rules_of(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
    ) -> Result<Vec<ObservedRule>, DumpError> {
        self.ask(&Request::RulesOf(family, table, chain), take_rule)
    }

    /// All sets of a table, anonymous ones too.
    ///
    /// # Errors
    /// The table is not there ([`DumpError::is_absent`]), or the kernel does not answer with one consistent state.
    pub fn sets(&mut self, family: Family, table: &str) -> Result<Vec<ObservedSet>, DumpError> {
        self.ask(&Request::Sets(family, table), |object, found| {
            if let Object::Set(set) = object {
                found.push(set);
            }
        })
    }

    /// All elements of a set, as one would write them; in no order, but intervals in the order of their keys.
    ///
    /// # Errors
    /// The set is not there ([`DumpError::is_absent`]), or the kernel does not answer with one consistent state.
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        keys: Keys,
    ) -> Result<Vec<Element>, DumpError> {
        let observed = self.ask(&Request::Elements(family, table, set), |object, found| {
            if let Object::Elements(mut elements) = object {
                found.append(&mut elements.elements);
            }
        })?;
        Ok(match keys {
            Keys::Interval => join_intervals(observed),
            Keys::Exact | Keys::ConcatenatedInterval => {
                observed.into_iter().map(ObservedElement::into_element).collect()
            }
        })
    }

    /// Asks, and gathers what `take` makes of the answers; asks again if somebody changed the ruleset meanwhile.
    fn ask<T>(
        &mut self,
        request: &Request<'_>,
        take: impl Fn(Object, &mut Vec<T>),
    ) -> Result<Vec<T>, DumpError> {
        if !request.is_dump() {
            return self.ask_once(request, &take)?.ok_or(DumpError::NoAnswer);
        }
        // The kernel marks a disturbed dump of elements only in its messages' generation, and not if the last message is the
        // disturbed one; so the generation is compared around the whole.
        let mut before = self.calm_generation()?;
        for _ in 0..DUMP_ATTEMPTS {
            let found = self.ask_once(request, &take)?;
            let after = self.calm_generation()?;
            match found {
                Some(found) if before == after => return Ok(found),
                _ => before = after,
            }
        }
        Err(DumpError::Interrupted { times: DUMP_ATTEMPTS })
    }

    /// The generation of a moment at which nobody is in the middle of a commit.
    ///
    /// A commit first makes the number larger and then takes out what it removes, element by element. A dump that began
    /// between the two would lack others, which moved up into places that it had passed, under one number all the time.
    /// A batch of nothing changes nothing and makes no generation, but has to wait for its turn, which is what is wanted
    /// of it; it is over when it is sent.
    fn calm_generation(&mut self) -> Result<u32, DumpError> {
        let mut nothing = Batch::new(Family::Inet);
        self.connection.send(nothing.seal()).map_err(DumpError::Send)?;
        Ok(self.generation()?.id)
    }

    /// `None` if the answer does not show one state.
    fn ask_once<T>(
        &mut self,
        request: &Request<'_>,
        take: &impl Fn(Object, &mut Vec<T>),
    ) -> Result<Option<Vec<T>>, DumpError> {
        self.connection.drain();
        self.sequence = self.sequence.wrapping_add(1);
        let mut question = Vec::with_capacity(64);
        request.encode(&mut question, self.sequence);
        self.connection
            .reserve_send(question.len())
            .map_err(DumpError::Send)?;
        self.connection.send(&question).map_err(DumpError::Send)?;
        let (mut found, mut consistent) = (Vec::new(), true);
        loop {
            let length = match self.connection.receive(true).map_err(DumpError::Receive)? {
                Received::Nothing => return Err(DumpError::NoAnswer),
                Received::Overrun(error) => return Err(DumpError::Receive(error)),
                Received::Datagram(length) => length,
            };
            for message in Messages::new(self.connection.datagram(length)) {
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= !message.interrupted();
                if let Some(answer) = message.acknowledgement() {
                    match answer.errno {
                        0 if message.ends_dump() => return Ok(consistent.then_some(found)),
                        0 => {}
                        libc::EINTR | libc::EAGAIN => return Ok(None),
                        _ => return Err(DumpError::refused(answer)),
                    }
                } else if let Some(notice) = Notice::decode(&message)? {
                    take(notice.into_object(), &mut found);
                    if !request.is_dump() {
                        return Ok(Some(found));
                    }
                }
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn take_rule(object: Object, found: &mut Vec<ObservedRule>) {
    if let Object::Rule(rule) = object {
        found.push(rule);
    }
}

impl Verdicts {
    fn note(&mut self, batch: &Batch, message: &Message<'_>) {
        if let Some(answer) = message.acknowledgement() {
            let last = message.sequence == batch.last_sequence();
            // Zero is the begin message: what is said of it is said of the whole, and mostly ends the answer.
            self.decided |= last || message.sequence == 0;
            match answer.errno {
                0 => self.acknowledged |= last,
                libc::ERESTART if message.sequence == 0 => self.stale = true,
                _ => self.failures.push(failure(batch, message.sequence, answer)),
            }
        } else if let Ok(Some(Notice::New(Object::Rule(rule)))) = Notice::decode(message) {
            self.handles.push((message.sequence, rule.handle));
        }
    }

    fn conclude(mut self, batch: &Batch) -> Result<Committed, TransactError> {
        if self.stale {
            return Err(TransactError::Stale);
        }
        if !self.failures.is_empty() {
            return Err(TransactError::Refused {
                failures: self.failures,
            });
        }
        if !self.acknowledged {
            return Err(self.lost.map_or(TransactError::NoAnswer, TransactError::Lost));
        }
        self.handles.sort_unstable_by_key(|&(sequence, _)| sequence);
        let label = |(sequence, handle)| batch.label_of(sequence).map(|label| (label, handle));
        Ok(Committed {
            messages: batch.len(),
            bytes: batch.size(),
            handles: self.handles.into_iter().filter_map(label).collect(),
        })
    }
}

fn failure(batch: &Batch, sequence: u32, answer: Acknowledgement) -> Failure {
    Failure {
        label: batch.label_of(sequence),
        operation: batch.operation_of(sequence),
        errno: Errno::from_raw(answer.errno),
        text: answer.text,
        element: answer
            .offset
            .and_then(|offset| batch.element_of(sequence, offset)),
    }
}
