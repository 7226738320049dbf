//! The parsers, each with inputs to begin from.

use std::path::Path;

use evidence::{
    bundle, canonical,
    ledger::{self, Ledger},
    merkle,
    record::{Anchor, Ending, Objectives, Outcome, ProbeRecord, Registration, Sample, Tested, Write, WritesRecord},
};
use model::Source;
use serde_json::json;
use xds::{
    codec::{decode_resource, encode_resource, resources},
    resource::ResourceKind,
    snapshot::Snapshot,
};

use crate::reference;

/// A parser under test.
pub struct Target {
    /// As given on the command line.
    pub name: &'static str,
    /// Inputs that it takes, or nearly.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that mean something to it.
    pub words: &'static [&'static str],
    /// Tells what it answered. Checks of its own panic.
    pub run: fn(&[u8]) -> String,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "manifests", seeds: manifest_seeds, words: MANIFEST_WORDS, run: manifests },
    Target {
        name: "xds",
        seeds: xds_seeds,
        words: &["firedrill", "type.googleapis.com/", "\x0a", "\x12", "\x1a"],
        run: xds,
    },
    Target {
        name: "bundle",
        seeds: bundle_seeds,
        words: &["manifest.json", "ustar", "\0", "{", "}", "\"size\":"],
        run: verify,
    },
    Target {
        name: "ledger",
        seeds: ledger_seeds,
        words: &["{\"", "\":", "},", "\n", "null", "1e999", "\\u0000"],
        run: entries,
    },
    Target { name: "http1", seeds: http1_seeds, words: HTTP_WORDS, run: http1 },
    Target { name: "desync", seeds: desync_seeds, words: HTTP_WORDS, run: desync },
];

const HTTP_WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "GET / HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0",
    "host: a\r\n",
    "content-length: ",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "expect: 100-continue\r\n",
    "0\r\n",
    "3\r\nabc\r\n",
    ";",
    ":",
    ",",
    " ",
    "\t",
    "\0",
];

const MANIFEST_WORDS: &[&str] = &[
    "---\n",
    "apiVersion: firedrill.dev/v1\n",
    "kind: Drill\n",
    "metadata: {name: x}\n",
    "spec:\n",
    "  - ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "|\n",
    ">\n",
    "\"",
    "'",
    "#",
    "99.9%",
    "200/s",
    "5s",
    "-1",
    "1e400",
    "0x7f",
    "~",
    "\u{feff}",
    "\t",
];

fn manifest_seeds() -> Vec<Vec<u8>> {
    [
        include_str!("../../examples/bank/mesh.yaml"),
        include_str!("../../examples/bank/drills.yaml"),
        include_str!("../../examples/nginx/mesh.yaml"),
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn manifests(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "not UTF-8".to_owned() };
    let sources = [Source { path: "fuzz.yaml".into(), text: text.to_owned() }];
    match model::parse(&sources) {
        Ok(parsed) => format!("{} services", parsed.config.services.len()),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems.iter().map(|p| p.render(&sources)).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Every resource of a sidecar's snapshot.
fn xds_seeds() -> Vec<Vec<u8>> {
    let snapshot: Snapshot = match serde_json::from_str(include_str!("../seeds/snapshot.json")) {
        Ok(snapshot) => snapshot,
        Err(error) => unreachable!("seeds/snapshot.json: {error}"),
    };
    let seed = |resource| {
        let message = encode_resource(&resource).ok()?;
        let kind = ResourceKind::ALL.iter().position(|k| *k == resource.kind())?;
        Some(std::iter::once(u8::try_from(kind).ok()?).chain(message).collect())
    };
    resources(&snapshot).filter_map(seed).collect()
}

/// The first byte chooses the resource's type, the rest is the protobuf message.
fn xds(input: &[u8]) -> String {
    let Some((first, message)) = input.split_first() else { return String::new() };
    let types = ResourceKind::ALL;
    let kind = types[usize::from(*first) % types.len()];
    match decode_resource(kind.type_url(), message) {
        Ok(resource) => {
            // What was understood can be said again, and means the same.
            let again = encode_resource(&resource).map(|bytes| decode_resource(kind.type_url(), &bytes));
            match again {
                Ok(Ok(same)) => assert!(same == resource, "{resource:?}\n{same:?}"),
                other => assert!(other.is_err(), "encoded, and not decoded: {other:?}"),
            }
            format!("{kind:?} {}", resource.name().len())
        }
        Err(error) => error.to_string(),
    }
}

/// A small sealed attempt in a ledger of its own: the bundle, and the ledger's entries.
fn sealed(folder: &Path) -> Result<[Vec<u8>; 2], Box<dyn std::error::Error>> {
    let registration = Registration {
        drill: "lose-east".into(),
        plan: "bank".into(),
        registered: json!({"drill": {"name": "lose-east"}, "plan": {"name": "bank"}}),
        about: json!({"purpose": "fuzzing"}),
        lost_region: Some("east".into()),
        recovery_regions: vec!["west".into()],
        anchor: Anchor { wall: 1_795_000_000_000_000_000, error: 1_000 },
        objectives: Objectives {
            recovery_time: Some(5_000_000_000),
            data_loss: Some(1_000_000_000),
            success_rate: 99.0,
            latency_p99: None,
            sustain: 1_000_000_000,
            ..Objectives::default()
        },
        tested: Tested::default(),
        normal: vec![],
    };
    let mut ledger = Ledger::open(&folder.join("ledger"))?;
    let number = ledger.register_attempt(1_795_000_000_000_000_000, &registration)?;
    let mut attempt = registration.attempt(number, Ending::Completed)?;
    attempt.probes.push(ProbeRecord {
        name: "payments".into(),
        service: None,
        interval: 100_000_000,
        timeout: 1_000_000_000,
        regions: vec!["east".into(), "west".into()],
        samples: (0..20)
            .map(|n| Sample {
                due: n * 100_000_000,
                latency: 2_000_000,
                outcome: Outcome::Ok,
                region: Some(0),
                tries: 1,
            })
            .collect(),
        writes: Some(WritesRecord {
            writes: (0..20_u64)
                .map(|n| Write {
                    sequence: n,
                    acknowledged: Some(3_000_000),
                    sent: Some(1_000_000),
                    region: Some(0),
                    epoch: Some(1),
                })
                .collect(),
            readbacks: vec![],
        }),
    });
    let sealed = bundle::seal(&attempt, &mut ledger, 1_795_000_010_000_000_000, folder)?;
    Ok([std::fs::read(sealed.path)?, std::fs::read(folder.join("ledger/entries.log"))?])
}

fn evidence_seeds() -> [Vec<u8>; 2] {
    let made = tempfile::tempdir().map_err(Into::into).and_then(|folder| sealed(folder.path()));
    match made {
        Ok(seeds) => seeds,
        Err(error) => unreachable!("a small attempt can be sealed: {error}"),
    }
}

fn bundle_seeds() -> Vec<Vec<u8>> {
    let [bundle, _] = evidence_seeds();
    vec![bundle]
}

fn ledger_seeds() -> Vec<Vec<u8>> {
    let [_, entries] = evidence_seeds();
    vec![entries]
}

fn verify(input: &[u8]) -> String {
    let report = bundle::verify(input, None);
    let read = bundle::read(input).map(|(attempt, _)| attempt.number).map_err(|e| e.to_string());
    format!("{} {read:?} {:?}", report.ok(), report.checks)
}

/// As it is, and with the hash in front of each line made right, so that what is behind the hashes is reached too.
fn entries(input: &[u8]) -> String {
    let hashed = input.split(|b| *b == b'\n').filter(|line| !line.is_empty()).fold(Vec::new(), |mut log, line| {
        let json = line.splitn(2, |b| *b == b' ').last().unwrap_or_default();
        log.extend_from_slice(canonical::hex(&merkle::leaf(json)).as_bytes());
        log.push(b' ');
        log.extend_from_slice(json);
        log.push(b'\n');
        log
    });
    let said = |bytes: &[u8]| match ledger::parse(bytes) {
        Ok(entries) => format!("{} entries", entries.len()),
        Err(error) => error.to_string(),
    };
    format!("{} / {}", said(input), said(&hashed))
}

fn http1_seeds() -> Vec<Vec<u8>> {
    let messages: [&[u8]; 4] = [
        b"GET /a?b HTTP/1.1\r\nhost: a\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: u\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest",
    ];
    messages.map(<[u8]>::to_vec).into()
}

/// A caller's bytes and an endpoint's. Cut in any way, they mean the same.
fn http1(input: &[u8]) -> String {
    let read = |endpoint, cut| proxy::fuzz::http1(input, endpoint, cut);
    let whole = [read(false, input.len()), read(true, input.len())];
    for cut in [1, 7] {
        assert_eq!([read(false, cut), read(true, cut)], whole, "cut every {cut} bytes");
    }
    whole.join(" / ")
}

fn desync_seeds() -> Vec<Vec<u8>> {
    let requests: [&[u8]; 4] = [
        b"GET /a?b HTTP/1.1\r\nhost: a\r\n\r\nPOST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: u\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\nDELETE http://a/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close, content-length\r\ncontent-length: 3\r\n\r\nabc",
    ];
    requests.map(<[u8]>::to_vec).into()
}

/// A caller's bytes: what an endpoint is sent for them means to a strict reader what we understood, and what it makes of the
/// caller's bytes itself, as far as it takes them.
fn desync(input: &[u8]) -> String {
    let (understood, sent) = proxy::fuzz::forwarded(input);
    let (arrived, rest) = reference::requests(&sent);
    assert!(rest.is_empty(), "the endpoint could not read {:?}", String::from_utf8_lossy(rest));
    let pairs = |requests: &[reference::Request]| -> Vec<_> {
        requests.iter().map(|request| (request.method.clone(), request.body.clone())).collect()
    };
    let ours: Vec<_> = understood.into_iter().map(|request| (request.method, request.body)).collect();
    assert!(pairs(&arrived) == ours, "understood {ours:?}, sent {:?}", String::from_utf8_lossy(&sent));
    let (strict, _) = reference::requests(input);
    let both = strict.len().min(ours.len());
    assert!(pairs(&strict[..both]) == ours[..both], "understood {ours:?}, and a strict reader {strict:?}");
    format!("{} of {} {:?}", ours.len(), strict.len(), ours.iter().map(|(method, _)| method).collect::<Vec<_>>())
}
