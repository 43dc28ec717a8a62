//! Histories of a folder.
