//! The conditions in a pool's status: what was said, and what is to be said. Pure.

use crate::overlap::{DANGER, Overlap, REMEDY};
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// The condition that says whether addresses may be taken from the pool.
pub(crate) const ALLOCATABLE: &str = "Allocatable";
/// The condition that says that others have addresses of the pool; it is there as long as they have.
pub(crate) const OVERLAP: &str = "CIDROverlap";
/// The conditions that we write, in their order.
const OURS: [&str; 2] = [ALLOCATABLE, OVERLAP];

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Which condition.
    pub(crate) kind: &'static str,
    pub(crate) is_true: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl From<Overlap> for Told {
    fn from(Overlap { reason, finding }: Overlap) -> Told {
        Told {
            kind: OVERLAP,
            is_true: true,
            reason: reason.to_owned(),
            message: format!("{finding}. {DANGER}; nothing was changed for that. {REMEDY}"),
        }
    }
}

/// The conditions that a pool has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// Ours, each with the time since when it has its status.
    ours: Vec<(Told, String)>,
    /// What others said of the pool.
    others: Vec<Value>,
}

impl Conditions {
    pub(crate) fn read(object: &DynamicObject) -> Conditions {
        let found = object
            .data
            .pointer("/status/conditions")
            .and_then(Value::as_array);
        let kind = |condition: &Value| condition.get("type").and_then(Value::as_str).map(str::to_owned);
        let all = found.into_iter().flatten();
        let is_ours = |condition: &&Value| kind(condition).is_some_and(|kind| OURS.contains(&kind.as_str()));
        let (ours, others): (Vec<&Value>, Vec<&Value>) = all.partition(is_ours);
        let read = |name: &'static str| {
            let condition = ours
                .iter()
                .find(|condition| kind(condition).as_deref() == Some(name))?;
            let said = |field: &str| {
                let text = condition.get(field).and_then(Value::as_str);
                text.unwrap_or_default().to_owned()
            };
            let told = Told {
                kind: name,
                is_true: said("status") == "True",
                reason: said("reason"),
                message: said("message"),
            };
            Some((told, said("lastTransitionTime")))
        };
        Conditions {
            ours: OURS.into_iter().filter_map(read).collect(),
            others: others.into_iter().cloned().collect(),
        }
    }

    /// Whether a condition of ours is there and says this.
    pub(crate) fn says(&self, told: &Told) -> bool {
        self.ours.iter().any(|(known, _)| known == told)
    }

    /// Whether our conditions are these and no other.
    pub(crate) fn are(&self, wanted: &[Told]) -> bool {
        self.ours.len() == wanted.len() && wanted.iter().all(|told| self.says(told))
    }

    /// All conditions, ours being these: a status that stays keeps its time, another begins `now`.
    pub(crate) fn with(&self, wanted: &[Told], now: &str) -> Vec<Value> {
        let ours = wanted.iter().map(|told| {
            json!({
                "type": told.kind,
                "status": if told.is_true { "True" } else { "False" },
                "reason": told.reason,
                "message": told.message,
                "lastTransitionTime": self.since(told).unwrap_or(now),
            })
        });
        self.others.iter().cloned().chain(ours).collect()
    }

    fn since(&self, told: &Told) -> Option<&str> {
        let alike = |known: &Told| known.kind == told.kind && known.is_true == told.is_true;
        let found = self.ours.iter().find(|(known, _)| alike(known));
        found.map(|(_, since)| since.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &'static str, is_true: bool) -> Told {
        Told {
            kind,
            is_true,
            reason: "Because".to_owned(),
            message: "it is so".to_owned(),
        }
    }

    fn read(conditions: &[Value]) -> Conditions {
        let object = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "p" },
            "status": { "conditions": conditions },
        });
        Conditions::read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_is_written_is_read_again_and_what_others_say_stays() {
        let before = read(&[json!({ "type": "Other", "status": "Unknown" })]);
        assert!(before.are(&[]));
        let both = [told(ALLOCATABLE, true), told(OVERLAP, true)];
        let written = before.with(&both, "2026-01-01T00:00:00Z");
        assert_eq!(written.len(), 3);
        let after = read(&written);
        assert!(after.are(&both) && after.says(&both[1]) && !after.are(&both[..1]));
        // The one goes, the other keeps its time; another status has a time of its own.
        let later = after.with(&both[..1], "2026-01-02T00:00:00Z");
        assert_eq!(later.len(), 2);
        assert_eq!(later[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        let changed = after.with(&[told(ALLOCATABLE, false)], "2026-01-02T00:00:00Z");
        assert_eq!(changed[1]["lastTransitionTime"], "2026-01-02T00:00:00Z");
    }
}
