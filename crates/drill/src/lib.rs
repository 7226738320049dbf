//! The drill engine: an attempt's life, faults, probes, guards, timeline.
//!
//! It sees the mesh only through [`target::Target`].

pub mod target;
