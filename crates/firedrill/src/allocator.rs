//! The allocator of all that the binary runs.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives memory that the allocator keeps for later back to the system.
#[allow(unsafe_code, reason = "the allocator is a C library")]
pub fn give_back() {
    // SAFETY: it has no precondition; any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
