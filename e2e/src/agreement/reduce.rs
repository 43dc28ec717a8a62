//! Makes a failing case smaller: fewer steps, fewer objects, fewer fields.
//!
//! It works on the case as a tree of values and knows nothing of policy: whatever part can be taken away, with the
//! rest still valid and still failing, is taken away.

use super::case::{Case, Step};
use crate::random::Change;
use serde_json::Value;
use std::collections::BTreeMap;

/// Makes a case that fails smaller, trying at most `tries` times.
pub fn reduce(case: Case, tries: usize, fails: impl FnMut(&Case) -> bool) -> Case {
    let mut reducer = Reducer {
        best: case,
        left: tries,
        fails,
    };
    reducer.one_step();
    reducer.one_flow();
    reducer.fewer_steps();
    while reducer.left > 0 && reducer.cut() {}
    reducer.best
}

struct Reducer<F> {
    best: Case,
    left: usize,
    fails: F,
}

impl<F: FnMut(&Case) -> bool> Reducer<F> {
    fn try_this(&mut self, case: Case) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let fails = (self.fails)(&case);
        if fails {
            self.best = case;
        }
        fails
    }

    /// Whether history matters at all.
    fn one_step(&mut self) {
        let mut all = BTreeMap::new();
        for step in &self.best.steps {
            step.change
                .upsert
                .iter()
                .for_each(|r| drop(all.insert(r.key(), r.clone())));
            step.change.delete.iter().for_each(|k| drop(all.remove(k)));
        }
        let change = Change {
            upsert: all.into_values().collect(),
            delete: Vec::new(),
        };
        let steps = vec![Step {
            change,
            restart: false,
        }];
        let flows = self.best.flows.clone();
        self.try_this(Case { steps, flows });
    }

    fn one_flow(&mut self) {
        for flow in self.best.flows.clone() {
            let steps = self.best.steps.clone();
            if self.try_this(Case {
                steps,
                flows: vec![flow],
            }) {
                return;
            }
        }
    }

    fn fewer_steps(&mut self) {
        let mut n = self.best.steps.len();
        while n > 1 {
            n -= 1;
            let mut case = self.best.clone();
            let gone = case.steps.remove(n);
            if self.try_this(case) {
                continue;
            }
            // Together with the one before it.
            let mut case = self.best.clone();
            let gone = Change { ..gone.change };
            case.steps.remove(n);
            let before = &mut case.steps[n - 1].change;
            let keys: Vec<_> = gone
                .upsert
                .iter()
                .map(policy_model::Resource::key)
                .chain(gone.delete.clone())
                .collect();
            before.upsert.retain(|r| !keys.contains(&r.key()));
            before.delete.retain(|k| !keys.contains(k));
            before.upsert.extend(gone.upsert);
            before.delete.extend(gone.delete);
            self.try_this(case);
        }
    }

    /// Takes every part away that can be; whether any could.
    fn cut(&mut self) -> bool {
        let mut any = false;
        let mut paths = Vec::new();
        collect(&self.best.to_value(), &mut Vec::new(), &mut paths);
        // Large parts first; and later ones of a list first, so that the places of others stay what they are.
        paths.sort_by_key(|p| (p.len(), std::cmp::Reverse(p.clone())));
        for path in paths {
            let mut value = self.best.to_value();
            if self.left == 0 || !remove(&mut value, &path) {
                continue;
            }
            if let Some(case) = Case::from_value(&value)
                && case != self.best
            {
                any |= self.try_this(case);
            }
        }
        any
    }
}

/// A step into a value: a field or a place in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    At(usize),
    Field(String),
}

/// All parts of objects that could be taken away.
fn collect(value: &Value, here: &mut Vec<Part>, out: &mut Vec<Vec<Part>>) {
    let children: Vec<(Part, &Value)> = match value {
        Value::Array(list) => list.iter().enumerate().map(|(n, v)| (Part::At(n), v)).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (Part::Field(k.clone()), v)).collect(),
        _ => return,
    };
    for (part, child) in children {
        let keep = [
            "flows",
            "kind",
            "apiVersion",
            "name",
            "namespace",
            "action",
            "restart",
        ];
        if matches!(&part, Part::Field(name) if keep.contains(&name.as_str())) {
            continue;
        }
        here.push(part);
        // The steps themselves are another room's work.
        if here.len() > 3 {
            out.push(here.clone());
        }
        collect(child, here, out);
        here.pop();
    }
}

fn remove(value: &mut Value, path: &[Part]) -> bool {
    let Some((last, way)) = path.split_last() else {
        return false;
    };
    let mut at = value;
    for part in way {
        let next = match part {
            Part::At(n) => at.get_mut(*n),
            Part::Field(name) => at.get_mut(name),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match (at, last) {
        (Value::Array(list), Part::At(n)) if *n < list.len() => {
            list.remove(*n);
            true
        }
        (Value::Object(map), Part::Field(name)) => map.remove(name).is_some(),
        _ => false,
    }
}
