//! The rooms of `manx`, the operator's command.

pub mod check;
pub mod lab;
pub mod policy;
