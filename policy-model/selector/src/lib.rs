//! The selector language: parser, canonical form, evaluation, and the index that finds whose match changed.
//!
//! A [`Selector`] says which labelled things a policy, a rule or a profile means. The language is Calico's, so
//! that manifests carry over:
//!
//! ```text
//! expression := and ('||' and)*
//! and        := unary ('&&' unary)*
//! unary      := '!' unary | '(' expression ')' | term
//! term       := key '==' 'value' | key '!=' 'value'
//!             | key 'in' '{' values '}' | key 'not in' '{' values '}'
//!             | key 'contains' 'value' | key 'starts with' 'value' | key 'ends with' 'value'
//!             | 'has(' key ')' | 'all()' | 'global()'
//! ```
//!
//! Keys are 1 to 512 characters of `[A-Za-z0-9_./-]`; values stand in single or double quotes and know no
//! escapes; blank text selects everything. A missing label makes `!=` and `not in` true and every other
//! comparison false.
//!
//! The crate is pure: no clock, socket, file or thread.

mod canonical;
mod error;
mod expr;
pub mod index;
mod labels;
mod lexer;
mod memo;
mod parser;
mod selector;

pub use error::ParseError;
pub use expr::{Expr, NAMESPACE_KEY};
pub use labels::{LabelFn, Labels, Layered};
pub use parser::{MAX_DEPTH, MAX_KEY_LENGTH};
pub use selector::Selector;
