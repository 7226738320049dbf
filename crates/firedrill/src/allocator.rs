//! The allocator of all that the binary runs.
#![allow(unsafe_code, reason = "the allocator is a C library")]

use std::ffi::c_long;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3: milliseconds until a free page is given back.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// What it is by default.
const USUAL: c_long = 1000;

/// While a process starts, a page is given back as soon as it is free. Kept for later, it would be handed out again whole,
/// and count as resident where only its beginning is used: of a proxy with a thousand clusters this was a sixth.
pub fn starting() {
    purge_after(0);
}

/// From now on a free page is kept for a while: under load, giving it back and asking for it again costs a
/// tenth of an HTTP/2 request.
pub fn started() {
    purge_after(USUAL);
}

fn purge_after(millis: c_long) {
    // SAFETY: options may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, millis) }
}

/// Finds pages that are free by now though this thread has not noticed: their last piece was freed by another thread, or
/// they were kept for the next of their kind.
pub fn give_back() {
    // SAFETY: it has no precondition; any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// What the option is set to.
#[cfg(test)]
fn purge_delay() -> c_long {
    // SAFETY: options may be read at any time.
    unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // Options have numbers only; this one's default is its own.
        assert_eq!(purge_delay(), USUAL);
        starting();
        assert_eq!(purge_delay(), 0);
        started();
        assert_eq!(purge_delay(), USUAL);
    }
}
