//! The hands: the order of one apply pass, and the managers that turn intent into kernel terms.
