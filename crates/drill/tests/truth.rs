//! Measured against the truth: outages of known length, and losses of known size.
//!
//! An origin of the test's own switches itself off and on, and notes its own clock at both moments. The real prober asks
//! it, the real measurement judges.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use drill::{
    clock::{AttemptClock, nanos},
    probe::{ProbeSpec, Prober, WritesSpec, readback::read_back},
};
use evidence::{
    measure::measure,
    record::{
        Anchor, Attempt, Ending, Nanos, Objectives, Outcome, Phase, Point, ProbeRecord, Registration, Tested,
        TimelinePoint,
    },
};
use model::config::{Expect, HttpRequest, ProbeHost};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep_until},
};

const UP: u8 = 0;
const STATUS: u8 = 1;
const SORRY: u8 = 4;
const BLACKHOLE: u8 = 2;
const REFUSED: u8 = 3;

const SUSTAIN: Duration = Duration::from_secs(2);

/// A server that can be out.
struct Origin {
    address: SocketAddr,
    mode: AtomicU8,
    changed: watch::Sender<u8>,
}

impl Origin {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
        self.changed.send_replace(mode);
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

/// Accepts while up; refuses by having no listener and no connection.
async fn origin(origin: Arc<Origin>, mut listener: Option<TcpListener>) {
    let mut changed = origin.changed.subscribe();
    loop {
        if *changed.borrow_and_update() == REFUSED {
            listener = None;
            changed.changed().await.unwrap();
            continue;
        }
        let open = listener.get_or_insert_with(|| listen(origin.address));
        tokio::select! {
            accepted = open.accept() => {
                let (stream, _) = accepted.unwrap();
                tokio::spawn(talk(stream, origin.clone()));
            }
            _ = changed.changed() => {}
        }
    }
}

/// Answers requests without bodies. A request taken in a blackhole is never answered, and its connection is lost.
async fn talk(mut stream: TcpStream, origin: Arc<Origin>) {
    let mut changed = origin.changed.subscribe();
    let mut buffer = vec![0; 4096];
    let mut held = 0;
    loop {
        tokio::select! {
            biased;
            _ = changed.changed() => {
                if *changed.borrow_and_update() == REFUSED {
                    return;
                }
            }
            read = stream.read(&mut buffer[held..]) => match read {
                Ok(count @ 1..) => held += count,
                _ => return,
            },
        }
        if !buffer[..held].ends_with(b"\r\n\r\n") {
            continue;
        }
        held = 0;
        let answer: &[u8] = match origin.mode.load(Ordering::SeqCst) {
            UP => b"HTTP/1.1 200 OK\r\nx-firedrill-answered-by: east;o;v1;tries=1\r\ncontent-length: 2\r\n\r\nok",
            SORRY => b"HTTP/1.1 302 Found\r\nlocation: /sorry\r\ncontent-length: 0\r\n\r\n",
            STATUS => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            _ => {
                // The socket stays open, and nothing ever comes.
                std::future::pending::<()>().await;
                return;
            }
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

fn request(method: &str, address: SocketAddr, path: &str) -> HttpRequest {
    HttpRequest { method: method.into(), host: ProbeHost::Address(address), path: path.into() }
}

fn spec(address: SocketAddr, interval: Duration, timeout: Duration) -> ProbeSpec {
    ProbeSpec {
        name: "p".into(),
        address,
        host: address.to_string(),
        request: request("GET", address, "/"),
        writes: None,
        interval,
        timeout,
        expect: Expect::default(),
        service: None,
    }
}

fn attempt(probes: Vec<ProbeRecord>, fault: Nanos, end: Nanos) -> Attempt {
    let point = |point, time| TimelinePoint { point, time, error: 0, observer: "origin".into(), note: String::new() };
    let registration = Registration {
        drill: "truth".into(),
        plan: "plan".into(),
        registered: Value::Null,
        about: Value::Null,
        lost_region: None,
        recovery_regions: vec![],
        anchor: Anchor { wall: 0, error: 0 },
        objectives: Objectives { success_rate: 99.0, sustain: nanos(SUSTAIN), ..Objectives::default() },
        tested: Tested::default(),
        normal: vec![],
    };
    Attempt {
        phases: vec![
            Phase { name: "baseline".into(), from: 0, to: Some(fault) },
            Phase { name: "fault".into(), from: fault, to: Some(end) },
        ],
        timeline: vec![point(Point::T0c, fault), point(Point::T0e, fault)],
        probes,
        ..registration.outline(1, Ending::Completed)
    }
}

#[derive(Debug)]
struct Case {
    number: u8,
    mode: u8,
    before: Duration,
    length: Duration,
    interval: Duration,
}

struct Seen {
    case: Case,
    truth: f64,
    measured: f64,
    error: f64,
    not_sent: usize,
}

async fn outage(case: Case) -> Seen {
    let address = SocketAddr::from(([127, 77, 1, case.number], 0));
    let listener = listen(address);
    let address = listener.local_addr().unwrap();
    let server = Arc::new(Origin { address, mode: AtomicU8::new(UP), changed: watch::channel(UP).0 });
    let serving = tokio::spawn(origin(server.clone(), Some(listener)));

    let clock = AttemptClock::showing(0);
    let begin = Instant::now();
    let timeout = Duration::from_millis(500);
    let prober = Prober::start(clock, clock.now(), vec![spec(address, case.interval, timeout)]).unwrap();
    sleep_until(begin + case.before).await;
    let off = clock.now();
    server.set(case.mode);
    sleep_until(begin + case.before + case.length).await;
    let on = clock.now();
    server.set(UP);
    sleep_until(Instant::now() + SUSTAIN + Duration::from_millis(300)).await;
    let end = clock.now();
    let records = prober.stop().await;
    serving.abort();

    let not_sent = records[0].samples.iter().filter(|s| s.outcome == evidence::record::Outcome::NotSent).count();
    let results = measure(&attempt(records, off, end));
    let recovery = results.measured.recovery.unwrap_or_else(|| panic!("nothing measured: {case:?}"));
    assert!(recovery.client_visible && !recovery.censored, "{recovery:?} {case:?}");
    let truth = (on - off) as f64 / 1e9;
    Seen { case, truth, measured: recovery.seconds, error: recovery.error, not_sent }
}

fn cases() -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(0x0f1_4ed);
    let ms = |random: &mut fastrand::Rng, from: u64, to: u64| Duration::from_micros(random.u64(from * 1000..to * 1000));
    (1..=24u8)
        .map(|number| Case {
            number,
            mode: [STATUS, BLACKHOLE, REFUSED][usize::from(number % 3)],
            before: ms(&mut random, 500, 1_500),
            length: ms(&mut random, 200, 8_000),
            interval: Duration::from_millis([5, 10, 20][random.usize(..3)]),
        })
        .collect()
}

/// How much later than asked a task of this test ran at worst: what the machine, and not the measurement, was late by.
fn lateness() -> watch::Receiver<Duration> {
    let (told, seen) = watch::channel(Duration::ZERO);
    tokio::spawn(async move {
        while told.receiver_count() > 0 {
            let due = Instant::now() + Duration::from_millis(1);
            sleep_until(due).await;
            let late = due.elapsed();
            told.send_if_modified(|worst| late > std::mem::replace(worst, late.max(*worst)));
        }
    });
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_known_length() {
    let lateness = lateness();
    let running: Vec<_> = cases().into_iter().map(|case| tokio::spawn(outage(case))).collect();
    let (mut worst, mut wrong) = (0.0f64, Vec::new());
    for case in running {
        let seen = case.await.unwrap();
        let off = (seen.measured - seen.truth).abs();
        worst = worst.max(off);
        let line = format!(
            "{:?}: truth {:.4} s, measured {:.4} s, off by {:.1} ms, bound {:.1} ms, not sent {}",
            seen.case,
            seen.truth,
            seen.measured,
            off * 1e3,
            seen.error * 1e3,
            seen.not_sent
        );
        println!("{line}");
        let late = lateness.borrow().as_secs_f64();
        if off > seen.case.interval.as_secs_f64() + 0.010 + late || off > seen.error {
            wrong.push(line);
        }
    }
    println!("worst: {:.1} ms; tasks were late by {:?} at most", worst * 1e3, *lateness.borrow());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A store that forgets its last writes when told.
#[derive(Default)]
struct Book {
    stored: Vec<(String, u64)>,
}

async fn store(listener: TcpListener, book: Arc<Mutex<Book>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let book = book.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let book = book.clone();
                async move {
                    use http_body_util::BodyExt;
                    let is_write = request.method() == hyper::Method::POST;
                    let body = request.into_body().collect().await?.to_bytes();
                    let mut book = book.lock().unwrap();
                    let answer = if is_write {
                        let write: Value = serde_json::from_slice(&body).unwrap();
                        book.stored.push((write["id"].as_str().unwrap().into(), write["sequence"].as_u64().unwrap()));
                        "{\"epoch\": 1}".to_owned()
                    } else {
                        let list: Vec<Value> =
                            book.stored.iter().map(|(id, n)| serde_json::json!({"id": id, "sequence": n})).collect();
                        serde_json::to_string(&list).unwrap()
                    };
                    Ok::<_, hyper::Error>(hyper::Response::new(http_body_util::Full::new(bytes::Bytes::from(answer))))
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

async fn lose_last(k: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let book = Arc::new(Mutex::new(Book::default()));
    let serving = tokio::spawn(store(listener, book.clone()));
    let clock = AttemptClock::showing(0);
    let writes = WritesSpec { get: request("GET", address, "/"), run: format!("r{k}") };
    let mut spec = spec(address, Duration::from_millis(5), Duration::from_secs(1));
    spec.request = request("POST", address, "/");
    spec.writes = Some(writes);
    let prober = Prober::start(clock, clock.now(), vec![spec.clone()]).unwrap();
    let log = prober.logs()[0].clone();
    sleep_until(Instant::now() + Duration::from_millis(1_000)).await;
    let fault = clock.now();
    {
        let mut book = book.lock().unwrap();
        let kept = book.stored.len() - k;
        book.stored.truncate(kept);
    }
    sleep_until(Instant::now() + Duration::from_millis(1_000)).await;
    let end = clock.now();
    let readback = read_back(&spec, &log, clock, "recovered", Duration::ZERO, Duration::from_secs(5)).await.unwrap();
    let records = prober.stop().await;
    serving.abort();
    let loss = measure(&attempt(records, fault, end)).measured.loss.unwrap();
    assert_eq!(loss.lost, k as u64, "{loss:?}");
    assert_eq!((loss.duplicated, loss.resurrected, loss.split_brain), (0, 0, false));
    assert!(loss.acknowledged > 200 && loss.acknowledged <= readback.judged, "{loss:?}");
    println!("dropped {k}: lost {} of {}, {:.3} s", loss.lost, loss.acknowledged, loss.seconds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_of_known_size() {
    let running: Vec<_> = [0, 1, 2, 3, 7, 17, 60, 150].into_iter().map(|k| tokio::spawn(lose_last(k))).collect();
    for case in running {
        case.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_expected_answer_is_a_success() {
    let expect = |status: &[(u16, u16)], body: Option<&str>, header: Option<(&str, &str)>| Expect {
        status: status.to_vec(),
        body: body.map(str::to_owned),
        header: header.map(|(name, value)| (name.to_owned(), value.to_owned())),
    };
    let any = [(200, 299)];
    let by = "x-firedrill-answered-by";
    let cases = [
        (UP, Expect::default(), Outcome::Ok),
        (SORRY, Expect::default(), Outcome::Status(302)),
        (SORRY, expect(&[(200, 299), (302, 302)], None, None), Outcome::Ok),
        (STATUS, Expect::default(), Outcome::Status(503)),
        (UP, expect(&[(204, 204)], None, None), Outcome::Status(200)),
        (UP, expect(&any, Some("ok"), None), Outcome::Ok),
        (UP, expect(&any, Some("sorry"), None), Outcome::WrongBody),
        (UP, expect(&any, None, Some((by, "east;o;v1;tries=1"))), Outcome::Ok),
        (UP, expect(&any, None, Some((by, "east"))), Outcome::WrongHeader),
        (UP, expect(&any, None, Some(("x-role", "primary"))), Outcome::WrongHeader),
    ];
    for (number, (mode, expect, expected)) in (1u8..).zip(cases) {
        let listener = listen(SocketAddr::from(([127, 77, 2, number], 0)));
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Origin { address, mode: AtomicU8::new(mode), changed: watch::channel(mode).0 });
        let serving = tokio::spawn(origin(server, Some(listener)));
        let clock = AttemptClock::showing(0);
        let said = format!("{mode} {expect:?}");
        let spec = ProbeSpec { expect, ..spec(address, Duration::from_millis(20), Duration::from_secs(5)) };
        let prober = Prober::start(clock, clock.now(), vec![spec]).unwrap();
        sleep_until(Instant::now() + Duration::from_millis(100)).await;
        let samples = prober.stop().await.remove(0).samples;
        assert!(!samples.is_empty() && samples.iter().all(|sample| sample.outcome == expected), "{said}: {samples:?}");
        serving.abort();
    }
}
