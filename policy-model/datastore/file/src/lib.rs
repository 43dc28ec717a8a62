//! The embedded datastore: a folder of YAML documents, safe for several processes and for crashes.
