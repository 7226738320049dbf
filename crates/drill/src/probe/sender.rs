//! Sending what is due, and noting how it ended.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use evidence::record::{Nanos, Outcome};
use http_body_util::Full;
use hyper::{Request, header};
use model::config::Expect;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, sync::mpsc, task::LocalSet, time::Instant};

use super::{
    ProbeSpec, SharedLog,
    client::{Answer, Client},
    lock,
    log::{AnsweredBy, Ended},
    pace::Due,
};
use crate::clock::{AttemptClock, nanos};

/// Answers to probes are read up to here; a longer one still counts by its status.
const BODY_BOUND: usize = 1 << 20;

/// Body of a write.
#[derive(Serialize)]
struct WriteBody<'a> {
    id: &'a str,
    sequence: u64,
    probe: &'a str,
}

/// What an acknowledgement may say of who wrote: a store may take a write in another region than the one that answered.
#[derive(Default, Deserialize)]
struct Acknowledgement {
    epoch: Option<u64>,
    region: Option<String>,
}

/// The id of a write.
pub fn write_id(run: &str, sequence: u64) -> String {
    format!("{run}-{sequence}")
}

/// What an answer counts as.
fn outcome(expect: &Expect, answer: &Answer) -> Outcome {
    let status = answer.head.status().as_u16();
    let carries = |(name, value): &(String, String)| answer.head.headers().get_all(name).iter().any(|v| v == value);
    let contains = |text: &String| answer.body.windows(text.len().max(1)).any(|part| part == text.as_bytes());
    if !expect.status.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
        Outcome::Status(status)
    } else if !expect.header.as_ref().is_none_or(carries) {
        Outcome::WrongHeader
    } else if !expect.body.as_ref().is_none_or(contains) {
        Outcome::WrongBody
    } else {
        Outcome::Ok
    }
}

/// One probe at work.
struct Line {
    spec: ProbeSpec,
    client: Client,
    log: SharedLog,
    in_flight: Cell<usize>,
    bound: usize,
    clock: AttemptClock,
}

/// Sends until the pacer ends, then until everything in flight has ended. Blocks the thread.
pub fn send_all(
    runtime: &Runtime,
    clock: AttemptClock,
    specs: Vec<ProbeSpec>,
    logs: Vec<SharedLog>,
    mut due: mpsc::Receiver<Due>,
) {
    let line = |(spec, log): (ProbeSpec, SharedLog)| {
        let bound = spec.in_flight_bound();
        let client = Client::new(spec.address, bound);
        Rc::new(Line { client, log, in_flight: Cell::new(0), bound, clock, spec })
    };
    let lines: Vec<Rc<Line>> = specs.into_iter().zip(logs).map(line).collect();
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let mut tasks = tokio::task::JoinSet::new();
        while let Some(due) = due.recv().await {
            let Some(line) = lines.get(due.probe) else { continue };
            lock(&line.log).late(line.clock.now().saturating_sub(due.time));
            if let Some(refused) = line.refuse(due) {
                lock(&line.log).end(due.sequence, &refused);
                continue;
            }
            lock(&line.log).begin(due.sequence);
            line.in_flight.set(line.in_flight.get() + 1);
            let line = line.clone();
            tasks.spawn_local(async move {
                let ended = line.ask(due).await;
                line.in_flight.set(line.in_flight.get() - 1);
                let mut log = lock(&line.log);
                if line.client.is_out_of_descriptors() {
                    log.limited(ended.time);
                }
                log.end(due.sequence, &ended);
            });
            // Reaps what has ended, so that the set stays as small as what is in flight.
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    });
}

impl Line {
    /// Whether a due request is not to be sent: too late, or too many in flight.
    fn refuse(&self, due: Due) -> Option<Ended> {
        let now = self.clock.now();
        let late = now - due.time >= nanos(self.spec.timeout);
        let full = self.in_flight.get() >= self.bound;
        (late || full).then_some(Ended {
            time: now,
            outcome: Outcome::NotSent,
            answered: None,
            sent: None,
            epoch: None,
            store: None,
        })
    }

    async fn ask(&self, due: Due) -> Ended {
        let sent = Cell::new(None);
        let deadline = Instant::from_std(self.clock.instant(due.time) + self.spec.timeout);
        let result = match self.request(due.sequence) {
            Ok(request) => {
                let send = self.client.send(request, BODY_BOUND, || sent.set(Some(self.clock.now())));
                tokio::time::timeout_at(deadline, send).await.unwrap_or(Err(Outcome::Timeout))
            }
            // A host or path that is no header or target cannot be sent at all.
            Err(_) => Err(Outcome::NotSent),
        };
        self.ended(self.clock.now(), sent.get(), result)
    }

    fn ended(&self, time: Nanos, sent: Option<Nanos>, result: Result<Answer, Outcome>) -> Ended {
        match result {
            Err(outcome) => {
                // Without a connection nothing was written.
                let sent = sent.filter(|_| !matches!(outcome, Outcome::Connect | Outcome::NotSent));
                Ended { time, outcome, answered: None, sent, epoch: None, store: None }
            }
            Ok(answer) => {
                let outcome = outcome(&self.spec.expect, &answer);
                let header = answer.head.headers().get("x-firedrill-answered-by");
                let answered = header.and_then(|value| value.to_str().ok()).map(AnsweredBy::parse);
                let writes = self.spec.writes.is_some();
                let said = writes.then(|| serde_json::from_slice::<Acknowledgement>(&answer.body));
                let said = said.and_then(Result::ok).unwrap_or_default();
                // What a body says is as long as it likes; a region's name is not.
                let store = said.region.filter(|region| (1..=63).contains(&region.len()));
                // An epoch is judged by the region that holds it; who merely answered may have forwarded the write.
                let epoch = said.epoch.filter(|_| store.is_some());
                Ended { time, outcome, answered, sent, epoch, store }
            }
        }
    }

    fn request(&self, sequence: u64) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let spec = &self.spec;
        let builder = Request::builder()
            .method(spec.request.method.as_str())
            .uri(spec.request.path.as_str())
            .header(header::HOST, &spec.host)
            .header("x-firedrill-probe", &spec.name);
        match &spec.writes {
            None => builder.body(Full::new(Bytes::new())),
            Some(writes) => {
                let id = write_id(&writes.run, sequence);
                // Strings and a number: this cannot fail to serialise.
                let body = serde_json::to_vec(&WriteBody { id: &id, sequence, probe: &writes.run }).unwrap_or_default();
                builder.header(header::CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)))
            }
        }
    }
}
