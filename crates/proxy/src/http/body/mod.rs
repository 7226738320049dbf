//! Bodies: where they come from; the request's, which may be sent again while it is small; and the response's, streamed
//! with its guards.

mod answer;
mod incoming;
mod replay;

pub use answer::{Answer, Ends, Switched, Wait, Watch};
pub use incoming::Incoming;
pub use replay::{Progress, Replay, TryBody};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The caller's side broke.
    #[error("the caller's body ended early: {0}")]
    Caller(String),
    /// The endpoint's side broke.
    #[error("the endpoint's body ended early: {0}")]
    Upstream(String),
    /// The caller's own deadline.
    #[error("the request's time is over")]
    Timeout,
    /// Nothing passed in either direction for too long.
    #[error("nothing passed for too long")]
    Idle,
    /// The caller took too little of the response.
    #[error("the caller took too little of the response")]
    Slow,
    /// A later try reads the body now.
    #[error("a later try took over the body")]
    Superseded,
}

fn lock<T: ?Sized>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
