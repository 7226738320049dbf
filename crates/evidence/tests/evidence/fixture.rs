//! Synthetic attempts with outages at known times.

use std::collections::BTreeMap;

use evidence::record::*;
use serde_json::json;

pub const MS: Nanos = 1_000_000;
pub const S: Nanos = 1_000_000_000;

/// Wall clock of the anchor: beyond 2^53.
pub const WALL: i64 = 1_795_196_677_120_000_001;

pub fn objectives() -> Objectives {
    Objectives {
        recovery_time: Some(5 * S),
        data_loss: Some(S),
        success_rate: 99.9,
        latency_p99: Some(250 * MS),
        sustain: 5 * S,
        ..Objectives::default()
    }
}

pub fn registration(drill: &str) -> Registration {
    Registration {
        drill: drill.to_owned(),
        plan: "bank-west".to_owned(),
        registered: json!({"plan": {"successRate": 99.9, "big": 1_795_196_677_120_000_001_i64}, "drill": drill}),
        about: json!({"purpose": "East is lost as a whole while customers pay."}),
        lost_region: Some("east".to_owned()),
        recovery_regions: vec!["west".to_owned()],
        anchor: Anchor { wall: WALL, error: MS },
        objectives: objectives(),
        tested: Tested::default(),
        normal: Vec::new(),
    }
}

pub fn point(point: Point, time: Nanos) -> TimelinePoint {
    TimelinePoint { point, time, error: MS, observer: "engine".to_owned(), note: String::new() }
}

/// A probe with samples every `interval` from `phase` on, whose outcome is what `fate` says of its due time.
pub fn probe(
    name: &str,
    phase: Nanos,
    interval: Nanos,
    to: Nanos,
    mut fate: impl FnMut(Nanos) -> (Outcome, Nanos),
) -> ProbeRecord {
    let count = (to - phase) / interval;
    let samples = (0..count)
        .map(|n| {
            let due = phase + n * interval;
            let (outcome, latency) = fate(due);
            Sample { due, latency, outcome, region: (outcome == Outcome::Ok).then_some(0), tries: 1 }
        })
        .collect();
    let regions = vec!["east".to_owned(), "west".to_owned()];
    ProbeRecord { name: name.to_owned(), interval, timeout: S, regions, samples, ..ProbeRecord::default() }
}

pub fn healthy(_: Nanos) -> (Outcome, Nanos) {
    (Outcome::Ok, 2 * MS)
}

/// Baseline 0–10 s, fault from 10 s to `end`, failback and verify after it.
pub fn attempt(probes: Vec<ProbeRecord>, end: Nanos) -> Attempt {
    let phase = |name: &str, from, to| Phase { name: name.to_owned(), from, to: Some(to) };
    let digests: BTreeMap<_, _> =
        [("edge".to_owned(), "sha256:aa".to_owned()), ("a-1".to_owned(), "sha256:bb".to_owned())].into();
    let mut attempt = registration("lose-east").attempt(1, Ending::Completed).unwrap();
    attempt.phases =
        vec![phase("baseline", 0, 10 * S), phase("fault", 10 * S, end), phase("failback", end, end + 5 * S)];
    attempt.timeline = vec![
        point(Point::T0c, 10 * S),
        point(Point::T0e, 10 * S),
        point(Point::T4, 10 * S + 500 * MS),
        point(Point::T8, end),
        point(Point::T9, end + 5 * S),
        point(Point::T10, end + 6 * S),
    ];
    attempt.probes = probes;
    attempt.residue = Residue { before: digests.clone(), after: digests };
    attempt.journal = vec![JournalEntry {
        time: 9 * S,
        kind: "intent".to_owned(),
        text: "lose east".to_owned(),
        detail: json!({"undo": ["release", "lease-1"], "at": 1_795_196_677_120_000_001_i64}),
    }];
    attempt.events = vec![EventRecord {
        time: 11 * S,
        source: "proxy edge".to_owned(),
        event: json!({"kind": "ejected", "share": 0.1 + 0.2}),
    }];
    attempt.requests = Some(RequestLog {
        most: 1,
        beyond: 2,
        entries: vec![RequestEntry {
            gateway: "edge".to_owned(),
            request: json!({"path": "/accounts/42", "response_code": 503, "duration": 0.1 + 0.2}),
        }],
        ..RequestLog::default()
    });
    attempt.programs = [("firedrill".to_owned(), "0.1.0".to_owned())].into();
    attempt
}

/// A `writes` probe at 50/s; sequences in `lost` are acknowledged and never found.
pub fn writes_probe(to: Nanos, lost: std::ops::Range<u64>) -> ProbeRecord {
    let mut probe = probe("payments", 3 * MS, 20 * MS, to, healthy);
    let writes: Vec<_> = probe
        .samples
        .iter()
        .zip(0..)
        .map(|(sample, sequence)| Write {
            sequence,
            sent: Some(sample.due),
            acknowledged: Some(sample.due + sample.latency),
            region: Some(u16::from(sample.due > 10 * S)),
            epoch: Some(1 + u64::from(sample.due > 10 * S)),
        })
        .collect();
    let judged = writes.len() as u64;
    let found = (0..judged).filter(|sequence| !lost.contains(sequence)).collect();
    let readback = Readback { phase: "recovered".to_owned(), time: to, judged, found };
    probe.writes = Some(WritesRecord { writes, readbacks: vec![readback] });
    probe
}

/// A registration with every field.
pub fn full_registration() -> Registration {
    Registration {
        tested: Tested {
            mesh: Some("mesh-7f3a".to_owned()),
            operator: Some("user alice".to_owned()),
            host: Some("drill-1".to_owned()),
            configuration: Some(Configuration { revision: 7, digest: "sha256:cc".to_owned() }),
            binary: Some(Binary { version: "0.2.0".to_owned(), digest: Some("sha256:dd".to_owned()) }),
            endpoints: vec![TestedEndpoint {
                service: "accounts".to_owned(),
                region: "east".to_owned(),
                address: "127.0.0.1:8080".to_owned(),
                host: Some("db.east".to_owned()),
            }],
        },
        normal: vec![NormalState { service: "accounts".to_owned(), shares: [("east".to_owned(), 100.0)].into() }],
        objectives: Objectives {
            lost_after_fault: 1,
            integrity: Integrity { duplicated: 1, reordered: 2, resurrected: 3 },
            settle: S,
            minimum_hits: Some(10),
            failback: Some(FailbackObjectives { recovery_time: Some(S), ..FailbackObjectives::default() }),
            ..objectives()
        },
        ..registration("lose-east")
    }
}

/// The attempt with every circumstance that can be recorded.
pub fn circumstances(mut attempt: Attempt) -> Attempt {
    attempt.timeline = vec![point(Point::T0c, 10 * S), point(Point::T8, 20 * S), point(Point::T9, 25 * S)];
    attempt.probes = vec![probe("balance", 0, 20 * MS, 25 * S, healthy)];
    attempt.probes[0].service = Some("accounts".to_owned());
    attempt.served = vec![Served { service: "accounts".to_owned(), region: "east".to_owned(), requests: 500 }];
    attempt.ramp = vec![RampStep {
        service: "accounts".to_owned(),
        region: "east".to_owned(),
        commanded: 50.0,
        time: 21 * S,
        observed: Some(22 * S),
        proxies: vec![ProxyShare { proxy: "edge".to_owned(), share: 49.5, time: 22 * S }],
    }];
    attempt.standing = Some(Standing {
        steps: vec!["promote".to_owned()],
        serving: Some("west".to_owned()),
        fenced: vec!["east".to_owned()],
        command: Some("firedrill plan failback bank-west".to_owned()),
    });
    attempt.undos = vec![OutstandingUndo {
        name: "fence".to_owned(),
        command: Some(vec!["true".to_owned()]),
        error: Some("exit status 1".to_owned()),
        since: WALL,
    }];
    attempt.changes = vec![ConfigurationChange {
        time: 12 * S,
        from: Configuration { revision: 7, digest: "sha256:cc".to_owned() },
        to: Configuration { revision: 8, digest: "sha256:ce".to_owned() },
        operator: None,
    }];
    attempt.engine = Some(EngineRecord {
        main_loop: Lateness { max: 2 * MS, p99: MS },
        sends: [("balance".to_owned(), Lateness { max: 3 * MS, p99: MS })].into(),
        unsent: BTreeMap::new(),
        descriptor_limit: None,
    });
    let reading = |time, offset| Some(ClockReading { time, offset, uncertainty: 3 * MS });
    attempt.clock = Some(ClockRecord {
        observers: vec![ObserverClock {
            observer: "proxy edge".to_owned(),
            start: reading(0, MS),
            end: reading(25 * S, 5 * MS),
        }],
        steps: vec![ClockStep { time: 11 * S, by: -2 * S }],
    });
    attempt.truncated = Some(24 * S);
    attempt.unproven = vec!["The role of the store was not seen.".to_owned()];
    attempt
}

/// Registers the next attempt, and seals it with the verdict that this ending has.
pub fn sealed(
    ledger: &mut evidence::ledger::Ledger,
    drill: &str,
    ending: Ending,
    out: &std::path::Path,
) -> std::path::PathBuf {
    let registration = registration(drill);
    let number = ledger.register_attempt(WALL, &registration).unwrap();
    let attempt = registration.attempt(number, ending).unwrap();
    evidence::bundle::seal(&attempt, ledger, WALL, out).unwrap().path
}

/// A ledger as programs of format 1 wrote it, with a fixed key.
pub fn ledger_of_format_1(
    folder: &std::path::Path,
    bodies: &[(String, serde_json::Value)],
) -> evidence::note::VerifierKey {
    use ed25519_dalek::pkcs8::{EncodePrivateKey, spki::der::pem::LineEnding};
    use evidence::{canonical, merkle, note};
    use std::{fs, os::unix::fs::PermissionsExt};
    let signer = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let key = note::VerifierKey::of(&signer);
    let (mut log, mut leaves) = (Vec::new(), Vec::new());
    for (index, (kind, body)) in bodies.iter().enumerate() {
        let entry = json!({"index": index, "kind": kind, "time": "2026-11-20T17:44:37Z", "body": body});
        let json = canonical::to_vec(&entry).unwrap();
        leaves.push(merkle::leaf(&json));
        log.extend_from_slice(canonical::hex(&merkle::leaf(&json)).as_bytes());
        log.extend_from_slice(&[b" ", json.as_slice(), b"\n"].concat());
    }
    let head =
        note::Checkpoint { origin: key.name().to_owned(), size: leaves.len() as u64, root: merkle::root(&leaves) };
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("entries.log"), log).unwrap();
    fs::write(folder.join("checkpoint"), head.sign(&signer)).unwrap();
    fs::write(folder.join("key.pub"), format!("{key}\n")).unwrap();
    fs::write(folder.join("key.pem"), signer.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    key
}
