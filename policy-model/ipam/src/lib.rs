//! IP address management as pure transitions on blocks, affinities and handles.
//!
//! Nothing here reads a clock, a socket or a random number: time, seeds and what the datastore holds are parameters.
//! The rooms, in reading order:
//!
//! - [`block`]: a small range of a pool; gives addresses first in, first out, and takes them back.
//! - [`affinity`]: a node's claim on a block: pending, confirmed, pending deletion.
//! - [`handle`]: the names under which addresses are held and released.
//! - [`pool`]: which pools may serve a request; [`reservation`]: which of their addresses are never given by themselves.
//! - [`config`]: the settings in force; [`annotation`]: what a pod may ask for by annotation.
//! - [`engine`]: a step machine that a caller with a compare-and-swap datastore drives without knowing the algorithm.
//! - [`reserved`]: what a node took ahead of need and gives to pods without asking anybody.
//! - [`assigned`](mod@assigned): which pod has which address, for everybody who reads blocks.
//! - [`collect`]: finds addresses that nobody holds any more.
//! - [`memory`]: drives the engine over a map in memory, for simulation and tests.
//!
//! # Who decides
//! A block is the arbiter of everything: an address belongs to whom the block says, and a block belongs to the node
//! that its own `affinity` names. Affinity objects follow the block. So each guarantee rests on compare-and-swap of
//! one object, and a crash between two writes leaves nothing that a later run, of anybody, cannot finish.
//!
//! # What is deliberately absent
//! There is no handle object for each pod: it would be a second write that can disagree with the first. The blocks
//! that hold a handle's addresses are found by their attributes ([`handle::derive`]).

pub mod address;
pub mod assigned;
pub mod block;

pub mod affinity;
pub mod handle;
pub mod name;

pub mod annotation;
pub mod config;
pub mod pool;
pub mod reservation;

pub mod collect;
pub mod engine;
mod error;
pub mod memory;
pub mod reserved;
mod spread;

pub use address::Family;
pub use assigned::{Assigned, assigned};
pub use error::{IpamError, PoolShortage};
pub use reserved::{NodeReserve, Orphan, Rebuilt};
