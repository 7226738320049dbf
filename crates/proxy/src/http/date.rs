//! The date in answers that have none (RFC 9110, 6.6.1).

use std::{
    cell::RefCell,
    time::{Duration, UNIX_EPOCH},
};

use xds::clock::Clock;

/// Gives the present date, which is written anew once a second.
pub fn with<R>(clock: &Clock, use_it: impl FnOnce(&[u8]) -> R) -> R {
    thread_local! {
        static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let seconds = u64::try_from(clock.now().0 / 1_000_000_000).unwrap_or(0);
    WRITTEN.with_borrow_mut(|(at, text)| {
        if *at != seconds {
            (*at, *text) = (seconds, httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)));
        }
        use_it(text.as_bytes())
    })
}
