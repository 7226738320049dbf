//! What is counted of each HTTP request. The labels of a request are words; writing them, or only comparing them, for
//! each request would cost more than all else that is known of it. A worker therefore remembers which numbers go with
//! which pointers and codes, and a request that is like an earlier one is a few additions.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use xds::snapshot;

use crate::metrics::{
    histogram::{Histogram, Scale},
    peers,
    series::Series,
    text::{Kind, Labels, Text},
};

/// In nanoseconds, printed as milliseconds.
static DURATIONS: Scale = Scale {
    bounds: &[
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        30_000_000_000,
        60_000_000_000,
    ],
    unit: 1e6,
};

/// In bytes.
static SIZES: Scale = Scale {
    bounds: &[100, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000],
    unit: 1.0,
};

/// All that a request's labels are made of, cheap to copy and to compare.
#[derive(Clone, Debug, Default)]
pub struct Key {
    /// The cluster it went to. The same one is meant when it is the same allocation.
    pub cluster: Option<Arc<snapshot::Cluster>>,
    /// Unique to the endpoint that answered; 0 for none.
    pub endpoint: u64,
    /// The caller's SPIFFE id.
    pub caller: Option<Arc<str>>,
    /// Which way its listener looks, and whether that has TLS.
    pub listener: Option<(snapshot::Direction, bool)>,
    /// HTTP status; 0 if the caller went away.
    pub code: u16,
    /// Response flags.
    pub flags: u32,
    /// Whether it was gRPC.
    pub grpc: bool,
    /// gRPC's status, if there was one.
    pub grpc_status: Option<u16>,
}

impl Key {
    fn address(&self) -> usize {
        self.cluster.as_ref().map_or(0, |cluster| Arc::as_ptr(cluster).addr())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
            && self.endpoint == other.endpoint
            && self.caller == other.caller
            && self.listener == other.listener
            && (self.code, self.flags) == (other.code, other.flags)
            && (self.grpc, self.grpc_status) == (other.grpc, other.grpc_status)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What differs between requests that are alike otherwise; the rest is compared.
        let word = (self.address() as u64).rotate_left(32) ^ self.endpoint;
        state.write_u64(word ^ (u64::from(self.flags) << 40) ^ (u64::from(self.code) << 20));
        self.caller.hash(state);
    }
}

/// What is counted of a request.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// From its arrival to the end of its response.
    pub took: Duration,
    /// Bytes of its body that were read.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
}

#[derive(Debug)]
struct Numbers {
    durations: Histogram,
    received: Histogram,
    sent: Histogram,
}

impl Default for Numbers {
    fn default() -> Self {
        let sizes = || Histogram::new(&SIZES);
        Self { durations: Histogram::new(&DURATIONS), received: sizes(), sent: sizes() }
    }
}

impl Numbers {
    fn observe(&self, sizes: Sizes) {
        self.durations.observe(u64::try_from(sizes.took.as_nanos()).unwrap_or(u64::MAX));
        self.received.observe(sizes.received);
        self.sent.observe(sizes.sent);
    }
}

/// Keys that a thread remembers. Beyond it, all are forgotten: what is in use is soon known again.
const REMEMBERED: usize = 4096;

/// What a thread remembers of one [`Requests`].
#[derive(Default)]
struct Memory {
    of: u64,
    known: HashMap<Key, Arc<Numbers>>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The requests of a proxy.
#[derive(Debug)]
pub struct Requests {
    id: u64,
    series: Series<Numbers>,
}

impl Default for Requests {
    fn default() -> Self {
        let surplus = || {
            let of = Key::default();
            complete(peers::surplus(), &of, "other")
        };
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), series: Series::new(surplus) }
    }
}

/// The labels of a request beside those of its peers.
fn complete(peers: Labels, key: &Key, flags: &str) -> Labels {
    let status = key.grpc_status.map(|status| status.to_string()).unwrap_or_default();
    peers
        .and("request_protocol", if key.grpc { "grpc" } else { "http" })
        .and("response_code", key.code)
        .and("grpc_response_status", status)
        .and("response_flags", flags)
}

impl Requests {
    /// A request is over. `words` gives the labels of its peers and its flags in letters; it is asked only for a key
    /// that this thread does not remember.
    pub fn over(&self, key: Key, sizes: Sizes, words: impl Fn(&Key) -> (Labels, String)) {
        let find = |key: &Key| {
            let (peers, flags) = words(key);
            self.series.find(complete(peers, key, &flags))
        };
        let remembered = MEMORY.try_with(|memory| {
            let mut memory = memory.borrow_mut();
            if memory.of != self.id || memory.known.len() >= REMEMBERED {
                *memory = Memory { of: self.id, known: HashMap::new() };
            }
            match memory.known.get(&key) {
                Some(numbers) => numbers.observe(sizes),
                None => {
                    let numbers = find(&key);
                    numbers.observe(sizes);
                    memory.known.insert(key.clone(), numbers);
                }
            }
        });
        if remembered.is_err() {
            // The thread is about to end.
            find(&key).observe(sizes);
        }
    }

    /// Their families.
    pub fn render(&self, text: &mut Text) {
        let all = self.series.all();
        text.family("istio_requests_total", Kind::Counter, "Requests that are over.");
        for (labels, numbers) in &all {
            text.sample("istio_requests_total", labels, numbers.durations.count());
        }
        let mut family = |name, help, of: fn(&Numbers) -> &Histogram| {
            text.family(name, Kind::Histogram, help);
            all.iter().for_each(|(labels, numbers)| of(numbers).render(text, name, labels));
        };
        let help = "From a request's arrival to the end of its response.";
        family("istio_request_duration_milliseconds", help, |numbers| &numbers.durations);
        family("istio_request_bytes", "Bodies of requests.", |numbers| &numbers.received);
        family("istio_response_bytes", "Bodies of responses.", |numbers| &numbers.sent);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::metrics::peers::Peers;

    fn sizes(millis: u64) -> Sizes {
        Sizes { took: Duration::from_millis(millis), received: 10, sent: 2_000 }
    }

    fn page(requests: &Requests) -> String {
        let mut text = Text::default();
        requests.render(&mut text);
        text.finish()
    }

    #[test]
    fn words_are_asked_for_once_and_numbers_are_those_of_the_labels() {
        let requests = Requests::default();
        let asked = Cell::new(0);
        let words = |key: &Key| {
            asked.set(asked.get() + 1);
            let source = key.caller.as_deref().unwrap_or("shop");
            (Peers { source, destination: "fx", ..Peers::default() }.labels(), "-".to_owned())
        };
        // Two endpoints of the same labels, one caller's id in two allocations.
        let keys = [
            Key { endpoint: 1, code: 200, ..Key::default() },
            Key { endpoint: 2, code: 200, ..Key::default() },
            Key { endpoint: 1, code: 503, ..Key::default() },
            Key { endpoint: 1, code: 200, caller: Some("spiffe://b/service/a".into()), ..Key::default() },
            Key { endpoint: 1, code: 200, caller: Some("spiffe://b/service/a".into()), ..Key::default() },
        ];
        for _ in 0..10 {
            keys.iter().for_each(|key| requests.over(key.clone(), sizes(3), words));
        }
        assert_eq!(asked.get(), 4);
        let page = page(&requests);
        let total = |labels: &[&str]| {
            let fits =
                |line: &&str| line.starts_with("istio_requests_total") && labels.iter().all(|l| line.contains(l));
            let found: Vec<_> = page.lines().filter(fits).collect();
            assert_eq!(found.len(), 1, "{labels:?} {page}");
            found[0].rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(total(&["source_workload=\"shop\"", "response_code=\"200\""]), 20);
        assert_eq!(total(&["response_code=\"503\""]), 10);
        assert_eq!(total(&["source_workload=\"spiffe://b/service/a\""]), 20);
        let line = page.lines().find(|line| line.starts_with("istio_request_duration_milliseconds_bucket")).unwrap();
        assert!(line.ends_with("le=\"0.5\"} 0"), "{line}");
        assert!(page.contains("# TYPE istio_response_bytes histogram\n"));
    }

    #[test]
    fn a_thread_keeps_two_proxies_apart() {
        let (one, other) = (Requests::default(), Requests::default());
        let words = |_: &Key| (Peers::default().labels(), "-".to_owned());
        for requests in [&one, &other, &one] {
            requests.over(Key::default(), sizes(1), words);
        }
        let count = |requests: &Requests| requests.series.all().iter().map(|(_, n)| n.durations.count()).sum::<u64>();
        assert_eq!((count(&one), count(&other)), (2, 1));
    }
}
