//! A listing that is told in parts, while the rest of it is still on its way.
//!
//! Whoever starts with tens of thousands of objects can take in the first of them while the last are being read, and
//! nobody has to hold them all at once.

use crate::{BoxFuture, DatastoreError, Listing, Revision, WatchEvent};

/// A part of a listing.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Objects, in no order of their keys. What changes while the listing is told may be told with it: an object may
    /// come again, newer, and one that was told may be deleted.
    Objects(Vec<WatchEvent>),
    /// Everything was told. A watch from this revision continues without a gap.
    End(Revision),
}

/// Where an adapter's listing takes its parts from.
pub trait PartSource: Send {
    /// Waits for the next part. Dropping the future loses nothing. After the end or an error nothing more is asked.
    fn next(&mut self) -> BoxFuture<'_, Result<Part, DatastoreError>>;
}

/// A listing that is being told.
///
/// Nothing may be concluded from an absence before its end.
pub struct Parts {
    source: Box<dyn PartSource>,
}

impl Parts {
    /// Wraps an adapter's source.
    pub fn new(source: impl PartSource + 'static) -> Self {
        Parts {
            source: Box::new(source),
        }
    }

    /// A listing that is there as a whole, in the order that it has.
    pub fn whole(listing: Listing) -> Self {
        Parts::new(Whole {
            revision: listing.revision,
            listing: Some(listing),
        })
    }

    /// Waits for the next part. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Whatever broke the listing: begin anew.
    pub async fn next(&mut self) -> Result<Part, DatastoreError> {
        self.source.next().await
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

struct Whole {
    revision: Revision,
    listing: Option<Listing>,
}

impl PartSource for Whole {
    fn next(&mut self) -> BoxFuture<'_, Result<Part, DatastoreError>> {
        let part = match self.listing.take() {
            Some(listing) => Part::Objects(listing.items.into_iter().map(WatchEvent::Upsert).collect()),
            None => Part::End(self.revision),
        };
        Box::pin(std::future::ready(Ok(part)))
    }
}
