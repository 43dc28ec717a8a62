//! The kernel's IP sets, by their own netlink protocol (`NFNL_SUBSYS_IPSET`); no program is started.
//!
//! Written by hand from the kernel's description (`linux/netfilter/ipset/ip_set.h`) on the netlink conversation of
//! `dataplane-netlink`. Measured against `ipset restore` (`./dev bench backends`): twice as fast for many small changes, fifteen times
//! for a large set, and it says which member was refused.
//!
//! A change of a set is in force for the next packet, but not together with another: rules that need two sets to change at
//! one moment need a set of a new name. The kernel tells nobody of changes to sets (the subsystem has no multicast group), so
//! what others do is found only by looking: [`Ipsets::headers`] is cheap and shows most of it.

mod error;
mod forms;
mod numbers;
mod read;
mod wire;

use dataplane_netlink::socket::{Connection, Patience, Protocol};

pub use error::{IpsetError, SetProblem};
pub use forms::kernel_forms;
pub use read::{ObservedSet, SetHeader};
pub use wire::TypeSupport;

use crate::ops::{Family, Member, SetKind, SetOp};

/// A socket to the IP sets of the namespace in which it was opened.
#[derive(Debug)]
pub struct Ipsets {
    connection: Connection,
    /// The revisions to make sets of, once they were asked for.
    revisions: Vec<(SetKind, Family, u8)>,
}

impl Ipsets {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or the kernel lacks nfnetlink.
    pub fn open() -> Result<Self, IpsetError> {
        Self::open_with(Patience::default())
    }

    /// Opens a socket on which the kernel may take so long to answer.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or the kernel lacks nfnetlink.
    pub fn open_with(patience: Patience) -> Result<Self, IpsetError> {
        Ok(Self {
            connection: Connection::open(Protocol::Netfilter, patience)?,
            revisions: Vec::new(),
        })
    }

    /// Asks which revisions of a type the kernel has, loading its module where it is not loaded; none if it lacks the type.
    ///
    /// # Errors
    /// The kernel does not answer, or lacks IP sets altogether.
    pub fn support(&mut self, kind: SetKind, family: Family) -> Result<Option<TypeSupport>, IpsetError> {
        let operation = format!("ask for set type {} of {family}", kind.name());
        // Only the kernel's own numbers for "no such type" say that it lacks; they come as an acknowledgement.
        let mut answer = None;
        let asked = self
            .connection
            .fetch(&wire::type_request(kind, family), &operation, |message| {
                answer = answer.or_else(|| read::read_type(message));
            });
        match (asked, answer) {
            (_, Some(support)) => Ok(Some(support)),
            (Ok(()), None) => Ok(None),
            (Err(error), None) if read::is_private(&error) => Ok(None),
            (Err(error), None) => Err(error.into()),
        }
    }

    /// Carries operations out in their order. Those that are refused do not keep the later ones from being tried.
    ///
    /// # Errors
    /// The first that was refused, if any, with how many were; or the kernel did not answer, and what is in force is not known.
    pub fn apply(&mut self, operations: &[SetOp]) -> Result<(), IpsetError> {
        let mut problems = self.try_each(operations)?.into_iter();
        match problems.next() {
            None => Ok(()),
            Some(first) => Err(IpsetError::Refused {
                first: Box::new(first),
                more: problems.count(),
            }),
        }
    }

    /// Carries operations out in their order and returns what was refused, which does not keep the later ones from being
    /// tried.
    ///
    /// # Errors
    /// The kernel lacks a type, or did not answer, and what is in force is not known.
    pub fn try_each(&mut self, operations: &[SetOp]) -> Result<Vec<SetProblem>, IpsetError> {
        let mut requests = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            let mut birth = wire::Birth::default();
            if let SetOp::Create(spec) = operation {
                birth.revision = self.revision(spec.kind, spec.family)?;
                if let Some(SetOp::Add(name, members)) = operations.get(index + 1)
                    && *name == spec.name
                {
                    birth.members = members.len();
                }
            }
            wire::requests(&mut requests, index, operation, birth)?;
        }
        let (origins, requests): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .map(|wire::Sent { origin, request }| (origin, request))
            .unzip();
        let answers = self
            .connection
            .exchange(&requests, &"change IP sets", read::answer)?;
        let refused = origins.iter().zip(answers).filter_map(|(origin, answer)| {
            let refusal = answer.err()?;
            Some(read::problem(operations, *origin, refusal))
        });
        Ok(refused.collect())
    }

    /// Lists all sets without their members.
    ///
    /// # Errors
    /// The kernel refuses or does not answer.
    pub fn headers(&mut self) -> Result<Vec<SetHeader>, IpsetError> {
        let sets = self.list(&wire::list_request(None, wire::Detail::Header), "list IP sets")?;
        Ok(sets.into_iter().map(|set| set.header).collect())
    }

    /// Lists all sets whose names `wanted` accepts, with their members.
    ///
    /// # Errors
    /// The kernel refuses or does not answer.
    pub fn list_all(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Vec<ObservedSet>, IpsetError> {
        let request = wire::list_request(None, wire::Detail::Members);
        let parts = self
            .connection
            .dump(&request, &"list IP sets with members", |message| {
                read::read_set(message, &wanted)
            })?;
        Ok(read::join(parts))
    }

    /// Lists one set with its members; none if it is not there.
    ///
    /// # Errors
    /// The kernel refuses or does not answer.
    pub fn members(&mut self, name: &str) -> Result<Option<ObservedSet>, IpsetError> {
        let request = wire::list_request(Some(name), wire::Detail::Members);
        match self.list(&request, &format!("list IP set {name}")) {
            Ok(sets) => Ok(sets.into_iter().next()),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a set has a member.
    ///
    /// # Errors
    /// The set is not there, or the member is not of its kind.
    pub fn has(&mut self, name: &str, member: &Member) -> Result<bool, IpsetError> {
        let operation = format!("look for {member} in IP set {name}");
        let request = wire::test_request(name, member);
        let answers = self.connection.exchange(&[request], &operation, read::answer)?;
        match answers.into_iter().next() {
            None | Some(Ok(())) => Ok(true),
            Some(Err(refusal)) if refusal.number == numbers::ERR_EXIST => Ok(false),
            Some(Err(refusal)) => Err(IpsetError::Refused {
                first: Box::new(SetProblem {
                    operation,
                    set: name.to_owned(),
                    member: Some(member.clone()),
                    reason: refusal.reason(),
                    number: refusal.number,
                }),
                more: 0,
            }),
        }
    }

    fn list(
        &mut self,
        request: &dataplane_netlink::socket::Request,
        operation: &str,
    ) -> Result<Vec<ObservedSet>, IpsetError> {
        let parts = self
            .connection
            .dump(request, &operation, |message| read::read_set(message, &|_| true))?;
        Ok(read::join(parts))
    }

    fn revision(&mut self, kind: SetKind, family: Family) -> Result<u8, IpsetError> {
        let known = |&&(of, in_family, _): &&(SetKind, Family, u8)| (of, in_family) == (kind, family);
        if let Some(&(_, _, revision)) = self.revisions.iter().find(known) {
            return Ok(revision);
        }
        let support = self
            .support(kind, family)?
            .ok_or(IpsetError::NoType { kind, family })?;
        let revision = support.revision_for(kind);
        self.revisions.push((kind, family, revision));
        Ok(revision)
    }
}
