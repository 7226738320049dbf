//! Sample workloads.
