//! Starts a mesh on this machine and keeps it running.

pub mod api;
