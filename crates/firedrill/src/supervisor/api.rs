//! The supervisor API.
