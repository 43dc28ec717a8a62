//! The port: what every datastore can do, and the values that pass through it.
//!
//! The trait is dyn-compatible (boxed futures), because only binaries know which adapter stands behind it.

use crate::{DatastoreError, Parts, Version, Watch};
use policy_model::{InvalidResource, Key, Kind, Resource};
use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// A boxed future of the port.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store of named objects that can be changed by compare-and-swap and watched.
///
/// Reads see every write that returned before they began, through whichever handle it was made. A write whose future
/// is dropped may or may not have happened; so may one that returned [`DatastoreError::Unavailable`].
pub trait Datastore: Send + Sync {
    /// Reads one object; `None` where there is none.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>>;

    /// Reads all objects of the selection, in the order of their keys, with the revision to watch from.
    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>>;

    /// Reads all objects of the selection as [`Datastore::list`] does, but tells them in parts and in no order, where
    /// the store can begin before it has read them all.
    fn list_in_parts(&self, selection: Selection) -> BoxFuture<'_, Result<Parts, DatastoreError>> {
        Box::pin(async move { Ok(Parts::whole(self.list(selection).await?)) })
    }

    /// Follows the changes of the selection that came after `from`, the revision of a listing or of a watch event.
    ///
    /// # Errors
    /// [`DatastoreError::Expired`] where the store no longer knows all that changed since: list anew.
    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>>;

    /// Writes an object that does not exist yet.
    ///
    /// # Errors
    /// [`DatastoreError::AlreadyExists`], or [`DatastoreError::Invalid`] before anything is written.
    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>>;

    /// Replaces an object if it still has the expected version. Replacing it by its equal changes nothing: the
    /// version stays and no watcher hears of it.
    ///
    /// # Errors
    /// [`DatastoreError::Conflict`] with the object as it is now, [`DatastoreError::NotFound`], or
    /// [`DatastoreError::Invalid`] before anything is written.
    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>>;

    /// Removes an object, if it still has the expected version where one is given.
    ///
    /// # Errors
    /// [`DatastoreError::Conflict`] with the object as it is now, or [`DatastoreError::NotFound`].
    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>>;

    /// What the store holds but cannot take as an object, at this moment. Empty where the store itself refuses such
    /// objects.
    fn faults(&self) -> Vec<Fault> {
        Vec::new()
    }
}

/// Something in the store that is not a valid object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands: a file's path, or whatever the store calls its place.
    pub place: String,
    /// The object that it would be, where that can be told.
    pub key: Option<Key>,
    /// The fields and reasons.
    pub error: InvalidResource,
    /// Whether an earlier, valid version of the object is still in force. If not, the object is absent.
    pub in_force: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meanwhile = if self.in_force {
            "the last valid version stays in force"
        } else {
            "nothing is in force"
        };
        write!(f, "{}: {} ({meanwhile})", self.place, self.error)
    }
}

/// An object as a store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    /// The object; shared, because listings, watches and caches all hold it.
    pub resource: Arc<Resource>,
    /// What compare-and-swap compares.
    pub version: Version,
    /// The revision at which the object became what it is.
    pub revision: Revision,
}

impl Versioned {
    /// The key of the object.
    pub fn key(&self) -> Key {
        self.resource.key()
    }
}

/// A moment in the life of a whole store. Later moments are greater; distances mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(u64);

impl Revision {
    /// Makes a revision from an adapter's own number.
    pub fn new(number: u64) -> Self {
        Revision(number)
    }

    /// The adapter's own number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The moment after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Revision(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which objects a listing or a watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    kinds: Option<BTreeSet<Kind>>,
    namespace: Option<String>,
}

impl Selection {
    /// Every object.
    pub fn all() -> Self {
        Selection::default()
    }

    /// The objects of some kinds. No kinds select nothing.
    pub fn kinds(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Selection {
            kinds: Some(kinds.into_iter().collect()),
            namespace: None,
        }
    }

    /// Of these, only the objects in one namespace; objects of cluster-scoped kinds are in none.
    #[must_use]
    pub fn in_namespace(self, namespace: impl Into<String>) -> Self {
        Selection {
            namespace: Some(namespace.into()),
            ..self
        }
    }

    /// Whether an object is selected.
    pub fn matches(&self, key: &Key) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&key.kind))
            && self
                .namespace
                .as_ref()
                .is_none_or(|ns| key.kind.is_namespaced() && *ns == key.namespace)
    }

    /// Which kinds can match, in their order; an adapter that keeps kinds apart asks for these only.
    pub fn selected_kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.into_iter().filter(|kind| {
            self.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind))
                && (self.namespace.is_none() || kind.is_namespaced())
        })
    }

    /// The one namespace, where the selection names it.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

/// All selected objects at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The objects, in the order of their keys.
    pub items: Vec<Versioned>,
    /// The moment: a watch from here continues without a gap.
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_combines_kinds_and_namespace() {
        let tier = Key::global(Kind::Tier, "t");
        let policy = Key::namespaced(Kind::NetworkPolicy, "a", "p");
        assert!(Selection::all().matches(&tier) && Selection::all().matches(&policy));
        let kinds = Selection::kinds([Kind::Tier]);
        assert!(kinds.matches(&tier) && !kinds.matches(&policy));
        let a = Selection::all().in_namespace("a");
        assert!(!a.matches(&tier) && a.matches(&policy));
        assert!(!Selection::all().in_namespace("b").matches(&policy));
        assert!(!Selection::kinds([]).matches(&tier));
        assert!(a.selected_kinds().all(Kind::is_namespaced));
        assert_eq!(kinds.selected_kinds().collect::<Vec<_>>(), [Kind::Tier]);
    }
}
