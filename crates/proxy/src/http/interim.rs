//! Interim answers (1xx) on their way from an endpoint to the caller (RFC 9110, 15.2).

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, DATE},
};

use crate::http::message;

/// An endpoint that says more of them to one request never answers.
pub const MOST: u32 = 256;
/// Why it is given up then.
pub const TOO_MANY: &str = "too many interim responses";
/// Held for a caller that does not read them; more are left out.
const WAITING: usize = 16;

/// What waits for the caller of one request. Whoever polls the request's tries looks here afterwards.
#[derive(Debug, Default)]
pub struct Interim {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<(StatusCode, HeaderMap)>,
    /// The caller was told to send its body: once is enough, however many tries are made.
    continued: bool,
}

impl Interim {
    /// Another request begins.
    pub fn renew(&self) {
        *self.lock() = Inner::default();
    }

    /// An endpoint says this.
    pub fn put(&self, status: StatusCode, mut headers: HeaderMap) {
        let mut inner = self.lock();
        let again = status == StatusCode::CONTINUE && std::mem::replace(&mut inner.continued, true);
        if again || inner.waiting.len() >= WAITING {
            return;
        }
        message::strip_hop_by_hop(&mut headers);
        for name in [CONTENT_LENGTH, DATE, message::OVERLOADED, message::ANSWERED_BY] {
            headers.remove(name);
        }
        inner.waiting.push_back((status, headers));
    }

    /// Whether the caller was told to send its body.
    pub fn continued(&self) -> bool {
        self.lock().continued
    }

    /// What the caller is told next.
    pub fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        self.lock().waiting.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_to_go_on_once_and_no_queue_grows() {
        let interim = Interim::default();
        for _ in 0..2 {
            interim.put(StatusCode::CONTINUE, HeaderMap::new());
        }
        for _ in 0..100 {
            interim.put(StatusCode::PROCESSING, HeaderMap::new());
        }
        let told: Vec<u16> = std::iter::from_fn(|| interim.take()).map(|(status, _)| status.as_u16()).collect();
        assert_eq!((told.len(), told[0], told[1]), (WAITING, 100, 102));
        interim.put(StatusCode::CONTINUE, HeaderMap::new());
        assert_eq!(interim.take(), None);
        interim.renew();
        interim.put(StatusCode::CONTINUE, HeaderMap::new());
        assert!(interim.take().is_some());
    }
}
