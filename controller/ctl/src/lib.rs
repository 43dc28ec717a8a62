//! The rooms of `manx`, the operator's command.

pub mod check;
pub mod cluster;
pub mod ipam;
pub mod lab;
pub mod policy;
pub mod source;
pub mod status;
