//! Addresses that are named: by who asks for a pod, or by what the node picked from its own reserve.

use super::{Allocator, Holder, Promise, assigned, locked};
use crate::ipam::RequestError;
use crate::protocol::Failure;
use policy_model_ipam::engine::{AssignSpecific, Outcome, Request};
use std::net::IpAddr;

impl Allocator {
    /// Addresses that are named: all of them or none.
    pub(crate) async fn named(&self, holder: &Holder, addresses: &[IpAddr]) -> Result<Promise, Failure> {
        self.wait_begun().await?;
        let _turn = self.turn.lock().await;
        // What the sandbox before this one gave back must be free in its block.
        self.write_behind().await?;
        let taken: Vec<IpAddr> = addresses
            .iter()
            .filter_map(|wanted| locked(&self.reserve).take(|address| address == *wanted))
            .collect();
        let outcome = self.assign_named(holder, addresses, taken).await?;
        Ok(Promise {
            written: assigned(outcome)?,
            ..Promise::default()
        })
    }

    /// Has the datastore give named addresses at once; those that were taken from the reserve for it are its no more. The
    /// caller has the turn, and nothing is left to be recorded.
    pub(super) async fn assign_named(
        &self,
        holder: &Holder,
        addresses: &[IpAddr],
        of_reserve: Vec<IpAddr>,
    ) -> Result<Outcome, RequestError> {
        let request = AssignSpecific {
            addresses: addresses.to_vec(),
            handle: holder.handle.clone(),
            attributes: holder.attribute.secondary.clone(),
            node: self.parts.node.clone(),
            strict_affinity: Some(false),
        };
        let outcome = self.request(Request::AssignSpecific(request)).await;
        // Whatever came of it is written: what the block still says is reserved is found at the next filling.
        let mut reserve = locked(&self.reserve);
        of_reserve.into_iter().for_each(|address| reserve.lose(address));
        drop(reserve);
        outcome
    }

    /// Addresses of the reserve by name, where it has all of them.
    pub(crate) fn named_from_reserve(&self, addresses: &[IpAddr]) -> Option<Promise> {
        let mut reserve = locked(&self.reserve);
        let taken: Vec<IpAddr> = addresses
            .iter()
            .filter_map(|wanted| reserve.take(|address| address == *wanted))
            .collect();
        if taken.len() == addresses.len() {
            return Some(Promise {
                reserved: taken,
                ..Promise::default()
            });
        }
        taken.into_iter().for_each(|address| reserve.put_back(address));
        None
    }
}
