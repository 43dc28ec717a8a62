//! Rules, facts and a flow to a verdict with its trace: the judge that is slow and obviously right.
//!
//! The agents answer the same question from indexes, sets and kernel tables; this module answers it by looking at
//! everything. It shares no index with them, because it is what they are checked against. Operators ask it too:
//! its [`Trace`] says of every rule which clause matched or failed.
//!
//! What is judged is a new flow: replies belong to the flow that they answer. Policies of host endpoints are not
//! judged: nodes and addresses outside are peers here, never subjects.

mod ask;
mod clause;
mod facts;
mod flow;
mod gather;
mod judge;
mod packet;
mod trace;
mod tunnels;
mod verdict;

pub use facts::{EndpointToHostAction, FactFault, Facts, NodeSettings, Settings};
pub use flow::{Flow, InvalidPeer, Peer, UnjudgeableFlow};
pub use trace::{ClauseTrace, DirectionTrace, PolicyTrace, RuleTrace, TierTrace, Trace};
pub use tunnels::RefusedTunnels;
pub use verdict::{Direction, Judgement, PolicyRef, Verdict};
