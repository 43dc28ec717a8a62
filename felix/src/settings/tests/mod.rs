//! What the settings promise: each type, each source, and what a bad value does.

mod parsers;
mod precedence;
mod sources;
mod table;
