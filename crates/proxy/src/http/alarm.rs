//! One timer for deadlines that move: it is left running when the deadline moves later, and set anew only when it is due
//! or the deadline moves earlier. A request that ends in time costs no change of the timer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

/// The timer.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when the deadline is over.
    pub fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline || Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_move_both_ways() {
        let (mut alarm, began) = (Alarm::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        poll_fn(|cx| Poll::Ready(alarm.poll(at(2), cx).is_pending())).await;
        for deadline in [60, 3600, 3601] {
            poll_fn(|cx| alarm.poll(at(deadline), cx)).await;
            assert_eq!(began.elapsed(), Duration::from_secs(deadline));
        }
        poll_fn(|cx| Poll::Ready(alarm.poll(at(9000), cx).is_pending())).await;
        poll_fn(|cx| alarm.poll(at(4000), cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(4000));
        poll_fn(|cx| alarm.poll(at(10), cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(4000), "over already");
    }
}
