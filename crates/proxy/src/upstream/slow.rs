//! Requests of a cluster that wait for their callers: where its limit is reached, the one that has waited longest gives up
//! its place, so that slow callers cannot keep all others out.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use xds::snapshot::RoutingPriority;

/// A caller that is waited for longer than this is slow.
pub const SLOW: Duration = Duration::from_millis(250);

/// Requests that wait for slow callers.
#[derive(Debug, Default)]
pub struct SlowCallers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// By the time since when they wait.
    requests: BTreeMap<Key, Request>,
    by_client: HashMap<IpAddr, usize>,
    next: u64,
}

type Key = (Instant, u64);

#[derive(Debug)]
struct Request {
    client: IpAddr,
    priority: RoutingPriority,
    cut: Arc<Cut>,
}

/// Tells a request to give up its place.
#[derive(Debug, Default)]
struct Cut {
    now: AtomicBool,
    waker: AtomicWaker,
}

impl Cut {
    fn cut(&self) {
        self.now.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// A request's place among those that wait. Dropped when its caller goes on.
#[derive(Debug)]
pub struct Place {
    callers: Arc<SlowCallers>,
    key: Key,
    cut: Arc<Cut>,
}

impl SlowCallers {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request waits for its caller. Of as many as `share` of one client, the one that has waited longest gives way.
    pub fn enter(
        self: &Arc<Self>,
        since: Instant,
        (client, share): (IpAddr, usize),
        priority: RoutingPriority,
    ) -> Place {
        let cut = Arc::<Cut>::default();
        let mut waiting = self.waiting();
        if waiting.by_client.get(&client).is_some_and(|count| *count >= share) {
            waiting.give_way(|request| request.client == client && request.priority == priority);
        }
        let key = (since, waiting.next);
        waiting.next += 1;
        waiting.requests.insert(key, Request { client, priority, cut: cut.clone() });
        *waiting.by_client.entry(client).or_default() += 1;
        Place { callers: self.clone(), key, cut }
    }

    /// The request that has waited longest gives up its place for another one; false when none waits.
    pub fn give_way(&self, priority: RoutingPriority) -> bool {
        self.waiting().give_way(|request| request.priority == priority)
    }
}

impl Waiting {
    fn give_way(&mut self, may: impl Fn(&Request) -> bool) -> bool {
        let longest = self.requests.iter().find(|(_, request)| may(request)).map(|(key, _)| *key);
        let Some(cut) = longest.and_then(|key| self.leave(key)) else { return false };
        cut.cut();
        true
    }

    fn leave(&mut self, key: Key) -> Option<Arc<Cut>> {
        let Request { client, cut, .. } = self.requests.remove(&key)?;
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
        Some(cut)
    }
}

impl Place {
    /// Ready when the request has to give up its place.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        self.cut.waker.register(cx.waker());
        if self.cut.now.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.callers.waiting().leave(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn is_cut(place: &Place) -> bool {
        place.poll_cut(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_has_waited_longest_gives_way_and_nobody_who_went_on() {
        let callers = Arc::<SlowCallers>::default();
        let t0 = Instant::now();
        let at = |millis| t0 + Duration::from_millis(millis);
        let (default, high) = (RoutingPriority::Default, RoutingPriority::High);
        let enter = |since, last, priority| callers.enter(since, (client(last), 10), priority);
        assert!(!callers.give_way(default));
        let (second, first) = (enter(at(2), 1, default), enter(at(1), 2, default));
        let (gone, important) = (enter(at(0), 3, default), enter(at(0), 4, high));
        drop(gone);
        assert!(callers.give_way(default));
        assert_eq!([&first, &second, &important].map(is_cut), [true, false, false]);
        assert!(callers.give_way(default) && !callers.give_way(default), "each place is given up once");
        assert!(is_cut(&second) && !is_cut(&important));
        drop((first, second, important));
        assert!(callers.waiting().requests.is_empty() && callers.waiting().by_client.is_empty());
    }

    #[test]
    fn one_client_has_no_more_than_its_share() {
        let callers = Arc::<SlowCallers>::default();
        let t0 = Instant::now();
        let enter = |millis, last| {
            callers.enter(t0 + Duration::from_millis(millis), (client(last), 2), RoutingPriority::Default)
        };
        let other = enter(0, 9);
        let places = [1, 2, 3, 4].map(|millis| enter(millis, 1));
        assert_eq!(places.each_ref().map(is_cut), [true, true, false, false]);
        assert!(!is_cut(&other));
    }
}
