//! Something that seldom happens, waited for beside what happens all the time.

use std::{
    fmt,
    task::{Context, Poll, ready},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

/// A future that is polled when it was woken itself, and not each time that its neighbour makes progress: whoever waits on
/// channels pays their locks at each poll.
pub struct Seldom {
    // A set of one: it has a waker of its own for each member.
    waiting: FuturesUnordered<futures_util::future::BoxFuture<'static, ()>>,
    over: bool,
}

impl fmt::Debug for Seldom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seldom").field("over", &self.over).finish_non_exhaustive()
    }
}

impl Seldom {
    /// Ready when the future is.
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        let waiting = FuturesUnordered::new();
        waiting.push(Box::pin(future) as _);
        Self { waiting, over: false }
    }

    /// Ready when it has happened, and ever after.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.over {
            ready!(self.waiting.poll_next_unpin(cx));
            self.over = true;
        }
        Poll::Ready(())
    }
}
