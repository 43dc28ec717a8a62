//! A step machine that a caller with a compare-and-swap datastore drives without knowing the algorithm.
//!
//! Each plan is a straight line through what is known: at the first thing that is not known it stops and
//! asks, at the first thing that is not as it should be it stops and writes, and after each answer it starts anew.
//! So it holds no position that a crash could lose: a machine that is dropped at any step and one that goes on see the
//! same world and do the same next. A repeated request under the same handle finds what the first one was given.
//!
//! ```text
//! let mut step = machine.next(Answer::Start);
//! loop {
//!     let answer = match step {
//!         Step::Get(key)     => Answer::Object(store.get(&key)),        // from the datastore itself
//!         Step::List(kind)   => Answer::Objects(store.list(kind)),      // a watch's cache is good enough
//!         Step::Write(write) => store.write(write),                     // Written, Deleted or Conflict
//!         Step::Done(outcome)  => return Ok(outcome),
//!         Step::Failed(error)  => return Err(error),
//!     };
//!     step = machine.next(answer);
//! }
//! ```

mod assign;
mod claim;
mod known;
mod machine;
mod record;
mod release;
mod repair;
mod request;
mod specific;
mod view;

pub use machine::{Answer, Machine, Step, Write};
pub use request::{
    AssignSpecific, Assignment, AutoAssign, Given, Outcome, Record, Refill, ReleaseAddresses, ReleaseBlocks,
    Released, Request, Shortfall, Target, Unreleased, Which,
};
pub use view::Stored;
