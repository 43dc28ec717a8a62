//! Says how the controller stands: log, metrics, health, and the file of faults.

use super::Controller;
use crate::faults::{self, Fault, Standing};
use crate::wanted::source_of;
use std::time::{SystemTime, UNIX_EPOCH};

const STAYS: &str = "what was in force stays in force";

impl Controller {
    pub(super) fn tell(&mut self) {
        let mut is_changed = false;
        self.are_faults_due |= self.observed.take_claims_news();
        if self.are_faults_due {
            self.are_faults_due = false;
            let faults = self.faults();
            let homeless = self.wanted.homeless_pods().count();
            self.metrics
                .homeless_pods
                .set(i64::try_from(homeless).unwrap_or(i64::MAX));
            let found = self.fault_log.update(faults);
            is_changed = found.is_changed;
            self.metrics.new_faults.inc_by(found.new);
            self.metrics
                .faults
                .set(i64::try_from(self.fault_log.len()).unwrap_or(i64::MAX));
        }
        let problem = self.problem();
        self.health.set_problem(problem.clone());
        let standing = Standing {
            in_sync: problem.is_none(),
            problem,
            files: self.folder.len(),
            objects: self.wanted.len(),
            kept: self.kept.len(),
            ..self.standing.clone()
        };
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.in_sync.set(i64::from(standing.in_sync));
        self.metrics.files.set(gauge(standing.files));
        self.metrics.objects.set(gauge(standing.objects));
        self.metrics.kept.set(gauge(standing.kept));
        if standing.in_sync && standing.passes != self.told.borrow().passes {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs());
            self.metrics.last_sync.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
        is_changed |= standing != *self.told.borrow();
        self.standing = standing;
        if is_changed {
            self.write_faults();
            // Nobody listens where nobody asked for it.
            self.told.send_replace(self.standing.clone());
        }
    }

    /// Why the datastore is not in step with the manifests; none if it is.
    fn problem(&self) -> Option<String> {
        if let Some(reason) = self.folder.lost() {
            return Some(format!("{reason}; {STAYS}"));
        }
        if let Some(reason) = &self.away {
            return Some(reason.clone());
        }
        if let Some(reason) = &self.trouble {
            return Some(reason.clone());
        }
        if !self.is_listed {
            return Some("the datastore has not been read yet".to_owned());
        }
        (!self.dirty.is_empty()).then(|| format!("{} objects are still to be written", self.dirty.len()))
    }

    /// Everything that is wrong now.
    fn faults(&self) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.wanted.faults().into_iter().map(Fault::of_document).collect();
        for (path, reason) in self.wanted.unreadable() {
            faults.push(Fault::of_file(path, "", reason, STAYS));
        }
        for key in &self.foreign {
            let file = self.wanted.source(key).unwrap_or_default();
            let reason = "an object of this name exists that somebody else made; delete it, or the manifest";
            faults.push(Fault::of_file(
                &file,
                &key.to_string(),
                reason,
                "that object stays as it is",
            ));
        }
        for (key, reason) in &self.rejected {
            let file = self.wanted.source(key).unwrap_or_default();
            let reason = format!("the datastore refused it: {reason}");
            faults.push(Fault::of_file(&file, &key.to_string(), &reason, STAYS));
        }
        if self.options.wanted.assign_nodes && self.is_listed {
            for (namespace, pod) in self.wanted.homeless_pods() {
                let subject = format!("Pod {namespace}/{pod}");
                let reason = "it names no node, and there is no Node to give it one";
                faults.push(Fault::of_file(
                    "",
                    &subject,
                    reason,
                    "it is no endpoint until there is one",
                ));
            }
        }
        if self.is_listed {
            let claims = self.observed.claims();
            for (pool, range) in self.observed.pools() {
                let name = &pool.metadata().name;
                let file = source_of(pool).unwrap_or_default();
                let found = claims.on(name, &range);
                faults.extend(found.map(|overlap| Fault::of_overlap(file, name, &overlap)));
            }
        }
        faults.extend(self.store.faults().iter().map(Fault::of_datastore));
        faults
    }

    fn write_faults(&mut self) {
        let Some(path) = &self.options.fault_file else {
            return;
        };
        match faults::write(path, &self.standing, &self.fault_log.faults()) {
            Ok(()) => self.is_fault_file_wrong = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_fault_file_wrong, true) {
                    tracing::error!("{}", crate::chain(&error));
                }
            }
        }
    }
}
