//! The rooms of `manx`, the operator's command.

pub mod lab;
pub mod policy;
