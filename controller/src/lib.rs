//! The cluster controller: manifests in, datastore model out.
