//! From a changed manifest to the first packet that is treated by it, with the real programs.

use crate::figure::Figure;

/// Measures.
///
/// # Errors
/// A program could not be started, or the kernel refused.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    Ok(Vec::new())
}
