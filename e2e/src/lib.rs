//! The proofs: namespaces as nodes, a virtual machine, a real cluster.
