//! A number that only rises, and whoever waits for its rise.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A period that ends when the next one begins. A tenth of the size of a watch channel: each endpoint has one.
#[derive(Debug, Default)]
pub struct Epoch {
    number: AtomicU64,
    ended: Notify,
}

impl Epoch {
    /// The present one.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// Ends the present one.
    pub fn end(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        self.ended.notify_waiters();
    }

    /// Waits until an epoch is over.
    pub async fn over(&self, epoch: u64) {
        loop {
            // Before the look: one that is made earlier hears of every end from then on.
            let ended = self.ended.notified();
            if self.number() != epoch {
                return;
            }
            ended.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_hears_of_the_end_and_whoever_is_late_does_not_wait() {
        let epoch = Arc::new(Epoch::default());
        let seen = epoch.number();
        let waiting = tokio::spawn({
            let epoch = epoch.clone();
            async move { epoch.over(seen).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        epoch.end();
        waiting.await.unwrap();
        epoch.over(seen).await;
    }
}
