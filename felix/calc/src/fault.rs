//! Objects that cannot be enforced as written, and what is in force instead.

use policy_model::{FieldError, Key};
use std::fmt;

/// What is in force in place of an object with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InForce {
    /// The last version without a fault.
    LastValid,
    /// The object, with the parts that have a fault closed: no Allow rule of them lets anything through.
    Closed,
    /// The object, without the parts of its rules that are valid but cannot be enforced here.
    Partly,
    /// Nothing: the object is as good as absent.
    Nothing,
}

/// An object with a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The object.
    pub key: Key,
    /// The faults, each with the path of its field. Never empty.
    pub faults: Vec<FieldError>,
    /// What is in force now.
    pub in_force: InForce,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        for (n, fault) in self.faults.iter().enumerate() {
            write!(f, "{} {fault}", if n == 0 { ':' } else { ';' })?;
        }
        f.write_str(match self.in_force {
            InForce::LastValid => "; the last valid version stays in force",
            InForce::Closed => "; its faulty rules let nothing through",
            InForce::Partly => "; the rest of it is in force",
            InForce::Nothing => "; it is not in force",
        })
    }
}
