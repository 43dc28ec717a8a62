//! Connecting a workload to its node: the node-local server, its protocol, and the client that calls it.
