//! Objects to records: what resources say, told to the rooms behind.
//!
//! Each room here is a part of the graph's own methods; what they have in common are the graph's buffers of labels.

mod locals;
mod placement;
mod policies;
mod things;
