//! Why a benchmark cannot go on.

use std::io;

/// For the person who ran it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The environment asks for what there is not.
    #[error("{0}")]
    Usage(String),
    /// A file, a socket or a process.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// A program does not do what it must.
    #[error("{0}")]
    Program(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// For `map_err`, with what failed.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io(what, error)
    }
}
