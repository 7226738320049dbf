//! Bundles made to hurt the verifier, or to deceive it, each given to the real binary in a process of its own, with its
//! memory bounded: refused, named, within the declared CPU time and memory.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use evidence::{
    canonical, merkle,
    note::{Checkpoint, VerifierKey},
};
use serde_json::{Value, json};

/// Largest resident memory, in KiB.
const MEMORY: u64 = 256 << 10;
/// Most CPU time of an optimised build, in seconds; the verifier of a development build is about ten times as slow.
const CPU: f64 = if cfg!(debug_assertions) { 30.0 } else { 2.0 };
/// Address space, so that a regression fails and does not hurt the machine.
const ADDRESSES: u64 = 6 << 30;

/// Starts the verifier with bounds, and measures it.
const MEASURE: &str = r#"
import json, resource, subprocess, sys
limit = int(sys.argv[1])
def bound():
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
ran = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=bound)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": ran.returncode, "out": ran.stdout.decode(), "err": ran.stderr.decode(),
                  "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss}))
"#;

type Parts = Vec<(String, Vec<u8>)>;

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../evidence/tests/golden-v1").join(name)).unwrap()
}

fn unpack(bytes: &[u8]) -> Parts {
    let (mut parts, mut at) = (Vec::new(), 0);
    while bytes[at] != 0 {
        let text = |range: std::ops::Range<usize>| {
            let field = &bytes[at + range.start..at + range.end];
            String::from_utf8(field.iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
        };
        let (name, size) = (text(0..100), usize::from_str_radix(text(124..136).trim(), 8).unwrap());
        parts.push((name, bytes[at + 512..at + 512 + size].to_vec()));
        at += 512 + size.next_multiple_of(512);
    }
    parts
}

fn header(name: &str, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    header
}

fn pack(parts: &Parts) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in parts {
        bytes.extend_from_slice(&header(name, content.len()));
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn part<'a>(parts: &'a mut Parts, name: &str) -> &'a mut Vec<u8> {
    &mut parts.iter_mut().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no part {name}")).1
}

fn edit(parts: &mut Parts, name: &str, change: impl FnOnce(&mut Value)) {
    let content = part(parts, name);
    let mut value: Value = serde_json::from_slice(content).unwrap();
    change(&mut value);
    *content = canonical::to_vec(&value).unwrap();
}

/// Makes right what needs no key: names, sizes and digests in the manifest.
fn redigest(parts: &mut Parts) {
    let named: Vec<Value> = parts
        .iter()
        .filter(|(name, _)| !["manifest.json", "proofs.json", "checkpoint", "key.pub"].contains(&name.as_str()))
        .filter(|(name, _)| !name.ends_with(".dsse.json"))
        .map(|(name, content)| {
            json!({"name": name, "size": content.len(), "sha256": canonical::hex(&canonical::sha256(content))})
        })
        .collect();
    edit(parts, "manifest.json", |manifest| manifest["parts"] = named.into());
}

/// Seals the parts again with a key of the attacker, in a ledger of two entries: in order, but for what is inside.
fn reseal(parts: &mut Parts) {
    redigest(parts);
    let signer = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let key = VerifierKey::of(&signer);
    let proofs: Vec<Value> = serde_json::from_slice(part(parts, "proofs.json")).unwrap();
    let manifest = canonical::digest(part(parts, "manifest.json"));
    let mut entries: Vec<Value> = proofs.iter().map(|proof| proof["entry"].clone()).collect();
    for (index, entry) in entries.iter_mut().enumerate() {
        entry["index"] = index.into();
        if entry["kind"] == "attemptSealed" {
            entry["body"]["manifest"] = manifest.clone().into();
        }
    }
    close(parts, &entries, &signer, &key);
}

fn close(parts: &mut Parts, entries: &[Value], signer: &ed25519_dalek::SigningKey, key: &VerifierKey) {
    let leaves: Vec<_> = entries.iter().map(|entry| merkle::leaf(&canonical::to_vec(entry).unwrap())).collect();
    let tree = merkle::Tree::new(&leaves);
    let base64 = |hash: &[u8; 32]| base64_of(hash);
    let proofs: Vec<Value> = entries
        .iter()
        .enumerate()
        .map(|(at, entry)| {
            let path: Vec<_> = tree.inclusion(at, leaves.len()).unwrap().iter().map(base64).collect();
            json!({"entry": entry, "path": path})
        })
        .collect();
    *part(parts, "proofs.json") = canonical::to_vec(&proofs).unwrap();
    let head =
        Checkpoint { origin: key.name().to_owned(), size: leaves.len() as u64, root: tree.root(leaves.len()).unwrap() };
    *part(parts, "checkpoint") = head.sign(signer).into_bytes();
    *part(parts, "key.pub") = format!("{key}\n").into_bytes();
}

fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip").args(["-9nc"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Samples of format 1 at these times, good or not.
fn samples(times: &[i64], is_good: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut out = b"FDS1".to_vec();
    put(&mut out, times.len() as u64);
    let (mut previous, mut step) = (0_i64, 0_i64);
    for time in times {
        let now = time - previous;
        let second = now - step;
        put(&mut out, (second << 1 ^ second >> 63) as u64);
        (previous, step) = (*time, now);
    }
    times.iter().for_each(|_| put(&mut out, 2_000));
    (0..times.len()).for_each(|at| put(&mut out, if is_good(at) { 0 } else { 508 }));
    out.resize(out.len() + times.len() * 2, 0);
    gzip(&out)
}

/// Writes with readbacks that each find nothing.
fn writes(writes: u64, readbacks: u64) -> Vec<u8> {
    let mut out = b"FDW1".to_vec();
    put(&mut out, writes);
    // Sequences 0, 1, 2, …
    (0..writes).for_each(|at| put(&mut out, if at == 1 { 2 } else { 0 }));
    for _ in 0..2 {
        out.resize(out.len() + writes as usize, 1);
        out.resize(out.len() + writes as usize, 0);
    }
    out.resize(out.len() + 2 * writes as usize, 0);
    put(&mut out, readbacks);
    for at in 0..readbacks {
        out.push(0);
        put(&mut out, at * 2);
        put(&mut out, writes);
        out.push(0);
    }
    gzip(&out)
}

/// What is done to a bundle, and a word that the refusal must hold.
type Attack = (&'static str, Box<dyn Fn() -> Vec<u8>>, &'static str);

/// Changes parts of a golden bundle; digests are made right.
fn changed(name: &'static str, change: impl Fn(&mut Parts) + 'static) -> Box<dyn Fn() -> Vec<u8>> {
    Box::new(move || {
        let mut parts = unpack(&golden(name));
        change(&mut parts);
        redigest(&mut parts);
        pack(&parts)
    })
}

/// The same, sealed again with a key of the attacker.
fn resealed(name: &'static str, change: impl Fn(&mut Parts) + 'static) -> Box<dyn Fn() -> Vec<u8>> {
    Box::new(move || {
        let mut parts = unpack(&golden(name));
        change(&mut parts);
        reseal(&mut parts);
        pack(&parts)
    })
}

/// Exactly these bytes, with nothing made right.
fn raw(change: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> Box<dyn Fn() -> Vec<u8>> {
    Box::new(move || change(golden("passed.drill")))
}

fn replaced(name: &'static str, content: impl Fn() -> Vec<u8> + 'static) -> Box<dyn Fn() -> Vec<u8>> {
    changed("passed.drill", move |parts| *part(parts, name) = content())
}

const SAMPLES: &str = "samples/0000.bin.gz";
const WRITES: &str = "writes/0001.bin.gz";
const MS: i64 = 1_000_000;

fn bombs() -> Vec<Attack> {
    let list = |item: &'static str, count: usize| {
        move || format!("[{}{item}]", format!("{item},").repeat(count - 1)).into_bytes()
    };
    let mut attacks: Vec<Attack> = vec![
        (
            "columns of a gigabyte of zeros",
            replaced(SAMPLES, || gzip(&[b"FDS1".as_slice(), &vec![0; 1 << 28]].concat())),
            SAMPLES,
        ),
        (
            "a count that is never there",
            replaced(SAMPLES, || gzip(b"FDS1\xff\xff\xff\xff\xff\xff\xff\xff\x7f")),
            "items",
        ),
        ("a count of 2^64 - 1", replaced(SAMPLES, || gzip(b"FDS1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")), "items"),
        ("a number of 70 bits", replaced(SAMPLES, || gzip(b"FDS1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")), "64 bits"),
        ("two million samples", replaced(SAMPLES, || samples(&(0..2_000_000).collect::<Vec<_>>(), |_| true)), "items"),
        ("samples of format 2 in format 1", replaced(SAMPLES, || gzip(b"FDS2\0")), "its format"),
        ("columns that end too early", replaced(SAMPLES, || gzip(b"FDS1\x05\0\0")), "too early"),
        ("bytes behind the columns", replaced(SAMPLES, || gzip(b"FDS1\0\0\0\0")), "too many"),
        ("two gzip streams", replaced(SAMPLES, || [gzip(b"FDS1\0"), gzip(b"more")].concat()), "behind its gzip"),
        ("no gzip at all", replaced(SAMPLES, || vec![0; 4096]), "not gzip"),
        ("times beyond any clock", replaced(SAMPLES, || samples(&[i64::MAX / 4], |_| true)), "impossible time"),
        ("writes that are never there", replaced(WRITES, || gzip(b"FDW1\xff\xff\xff\xff\x7f")), "items"),
        ("a million readbacks", replaced(WRITES, || writes(10, 1_000_000)), "items"),
        ("deep arrays", replaced("events.json", || "[".repeat(30_000_000).into_bytes()), "deeply"),
        ("deep objects", replaced("journal.json", || "{\"a\":".repeat(5_000_000).into_bytes()), "deeply"),
        (
            "deep plan",
            replaced("registered.json", || [vec![b'['; 60_000_000], vec![b']'; 1_000_000]].concat()),
            "deeply",
        ),
        ("a flood of numbers", replaced("events.json", list("0", 25_000_000)), "more values"),
        ("a flood of empty objects", replaced("events.json", list("{}", 18_000_000)), "more values"),
        ("a flood of small objects", replaced("journal.json", list("{\"\":0}", 8_000_000)), "more values"),
        ("a flood of empty lists", replaced("guards.json", list("[]", 18_000_000)), "more values"),
        ("a flood of empty texts", replaced("findings.json", list("\"\"", 18_000_000)), "more values"),
        (
            "one text of fifty megabytes",
            replaced("residue.json", || format!("\"{}\"", "a".repeat(50 << 20)).into_bytes()),
            "residue.json",
        ),
        ("a number of ten megabytes", replaced("timeline.json", || vec![b'1'; 10 << 20]), "canonical form"),
        (
            "a manifest of sixty megabytes",
            changed("passed.drill", |parts| *part(parts, "manifest.json") = b"{}".to_vec()),
            "manifest",
        ),
        ("results of a flood", replaced("results.json", list("{\"\":0}", 8_000_000)), "results.json"),
        ("probes of a flood", replaced("probes.json", list("{\"\":0}", 5_000_000)), "probes.json"),
    ];
    // Re-signed, so that everything up to the measuring is in order.
    let outage = |is_good: fn(usize) -> bool, count: i64, step: i64| {
        move |parts: &mut Parts| {
            let times: Vec<i64> = (0..count).map(|at| at * step).collect();
            *part(parts, SAMPLES) = samples(&times, is_good);
            edit(parts, "probes.json", |probes| {
                probes[0]["interval"] = step.into();
                probes[0]["timeout"] = 1_000_000_000.into();
            });
        }
    };
    let long = |parts: &mut Parts, sustain: i64| {
        edit(parts, "attempt.json", |attempt| {
            attempt["objectives"]["sustain"] = sustain.into();
            attempt["objectives"]["successRate"] = 50.into();
            for phase in attempt["phases"].as_array_mut().unwrap() {
                (phase["from"], phase["to"]) = (0.into(), Value::Null);
            }
        });
        edit(parts, "timeline.json", |timeline| {
            timeline.as_array_mut().unwrap().retain(|point| point["point"] == "t0c");
            timeline[0]["time"] = 0.into();
        });
    };
    /// Name, which samples are good, how many, time between two, and the length of a window.
    type Windows = (&'static str, fn(usize) -> bool, i64, i64, i64);
    let windows: [Windows; 5] = [
        ("windows of years", |at| at != 0, 1_000_000, MS, 1 << 52),
        ("windows that fail at their end", |at| at != 0 && at < 999_000, 1_000_000, MS, 900_000 * MS),
        ("a slice of all samples", |at| at % 2 == 1, 1_000_000, 1, 400_000),
        ("one sample in each slice", |at| at != 0 && at % 50_000 != 7, 900_000, 1000 * MS, 100_000_000 * MS),
        ("every second sample fails", |at| at % 3 != 0, 1_000_000, 333 * MS, 90_000_000 * MS),
    ];
    for (what, is_good, count, step, sustain) in windows {
        let outage = outage(is_good, count, step);
        let make = move |parts: &mut Parts| {
            outage(parts);
            long(parts, sustain);
        };
        attacks.push((what, resealed("passed.drill", make), "recomputation"));
    }
    attacks.push((
        "writes times readbacks",
        resealed("passed.drill", |parts| *part(parts, WRITES) = writes(200_000, 200_000)),
        "recomputation",
    ));
    attacks.push((
        "a region name of ten megabytes at each sample",
        resealed("passed.drill", |parts| {
            edit(parts, "probes.json", |probes| probes[0]["regions"][0] = "r".repeat(10 << 20).into());
        }),
        "recomputation",
    ));
    attacks.push((
        "recovery regions by the thousand",
        resealed("passed.drill", |parts| {
            let regions: Vec<_> = (0..50_000).map(|at| format!("r{at}")).collect();
            edit(parts, "attempt.json", |attempt| attempt["recoveryRegions"] = json!(regions));
        }),
        "recovery regions",
    ));
    attacks
}

/// Proofs of `count` attempts, signed by the attacker.
fn proofs(count: u64) -> Box<dyn Fn() -> Vec<u8>> {
    Box::new(move || {
        let mut parts = unpack(&golden("passed.drill"));
        let original: Vec<Value> = serde_json::from_slice(part(&mut parts, "proofs.json")).unwrap();
        let (registered, sealed) = (&original[0]["entry"], &original[1]["entry"]);
        let mut entries = Vec::new();
        for number in 1..=count {
            for entry in [registered, sealed] {
                let mut entry = entry.clone();
                entry["index"] = (entries.len() as u64).into();
                entry["body"]["number"] = number.into();
                if number > 1 && entry["kind"] == "attemptRegistered" {
                    entry["body"]["registration"]["registered"] = json!({});
                    entry["body"]["registration"]["about"] = json!({});
                    entry["body"]["digest"] = canonical::digest(b"{}").into();
                }
                entries.push(entry);
            }
        }
        entries[3]["body"]["number"] = 7.into();
        let signer = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
        close(&mut parts, &entries, &signer, &VerifierKey::of(&signer));
        pack(&parts)
    })
}

fn forgeries() -> Vec<Attack> {
    let of = |part: &'static str, change: fn(&mut Value)| {
        changed("passed-second-attempt.drill", move |parts| edit(parts, part, change))
    };
    let second = |change: fn(&mut Parts)| changed("passed-second-attempt.drill", change);
    vec![
        ("twenty thousand proofs", proofs(10_000), "attempts"),
        ("fifty thousand proofs", proofs(25_000), "more than the 40000"),
        (
            "proofs of nothing",
            changed("passed.drill", |parts| {
                *part(parts, "proofs.json") = format!("[{}0]", "0,".repeat(1_000_000)).into_bytes()
            }),
            "proofs.json",
        ),
        (
            "a path of a million hashes",
            changed("passed.drill", |parts| {
                edit(parts, "proofs.json", |proofs| {
                    proofs[0]["path"] = vec![json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="); 100_000].into();
                })
            }),
            "proofs.json",
        ),
        (
            "a checkpoint of many signatures",
            changed("passed.drill", |parts| {
                let checkpoint = part(parts, "checkpoint");
                let line = String::from_utf8(checkpoint.clone()).unwrap().lines().last().unwrap().to_owned() + "\n";
                checkpoint.extend_from_slice(line.repeat(200_000).as_bytes());
            }),
            "checkpoint",
        ),
        (
            "a key of ten megabytes",
            changed("passed.drill", |parts| *part(parts, "key.pub") = vec![b'a'; 10 << 20]),
            "key",
        ),
        (
            "an envelope of forty megabytes",
            changed("passed.drill", |parts| {
                *part(parts, "measurement.dsse.json") =
                    format!("{{\"payload\":\"{}\"}}", "A".repeat(40 << 20)).into_bytes();
            }),
            "measurement.dsse.json",
        ),
        (
            "a thousand signatures in an envelope",
            of("test-result.dsse.json", |envelope| {
                let one = envelope["signatures"][0].clone();
                envelope["signatures"] = vec![one; 1000].into();
            }),
            "test-result",
        ),
        (
            "a dropped seal",
            of("proofs.json", |proofs| drop(proofs.as_array_mut().unwrap().remove(1))),
            "no seal of attempt 1",
        ),
        (
            "a dropped registration",
            of("proofs.json", |proofs| drop(proofs.as_array_mut().unwrap().remove(0))),
            "never registered",
        ),
        ("a dropped attempt", of("proofs.json", |proofs| drop(proofs.as_array_mut().unwrap().drain(..2))), "attempt"),
        ("swapped proofs", of("proofs.json", |proofs| proofs.as_array_mut().unwrap().swap(0, 2)), "attempt"),
        (
            "one proof twice",
            of("proofs.json", |proofs| {
                let one = proofs[1].clone();
                proofs.as_array_mut().unwrap().insert(1, one);
            }),
            "attempt",
        ),
        (
            "a re-numbered seal",
            of("proofs.json", |proofs| proofs[1]["entry"]["body"]["number"] = 2.into()),
            "signed root",
        ),
        (
            "a nicer seal",
            of("proofs.json", |proofs| proofs[1]["entry"]["body"]["verdict"] = "passed".into()),
            "signed root",
        ),
        (
            "another time of the seal",
            of("proofs.json", |proofs| proofs[3]["entry"]["time"] = "2020-01-01T00:00:00Z".into()),
            "signed root",
        ),
        (
            "an entry of a later format",
            of("proofs.json", |proofs| proofs[1]["entry"]["version"] = 3.into()),
            "signed root",
        ),
        ("another verdict", of("results.json", |results| results["verdict"] = "failed".into()), "computed as"),
        (
            "a shorter recovery",
            of("results.json", |results| results["measured"]["recovery"]["seconds"] = 0.001.into()),
            "computed as",
        ),
        (
            "fewer lost writes",
            of("results.json", |results| results["measured"]["loss"]["acknowledged"] = 1.into()),
            "computed as",
        ),
        (
            "softer objectives",
            of("attempt.json", |attempt| attempt["objectives"]["successRate"] = 1.into()),
            "objectives of the record",
        ),
        ("another plan", of("registered.json", |plan| plan["drill"] = json!({})), "the plan has digest"),
        ("a moved point", of("timeline.json", |timeline| timeline[0]["time"] = 0.into()), "digest"),
        (
            "a removed event",
            of("events.json", |events| drop(events.as_array_mut().unwrap().pop())),
            "manifest.json has digest",
        ),
        (
            "a changed journal",
            of("journal.json", |journal| journal[0]["text"] = "nothing".into()),
            "manifest.json has digest",
        ),
        ("a removed residue", of("residue.json", |residue| residue["before"] = json!({})), "manifest.json has digest"),
        ("another attempt number", of("manifest.json", |manifest| manifest["attempt"] = 1.into()), "attempt"),
        ("another drill", of("manifest.json", |manifest| manifest["drill"] = "lose-west".into()), "lose-west"),
        ("an unknown format", of("manifest.json", |manifest| manifest["version"] = 9.into()), "format 9"),
        (
            "a record of format 2 by its number alone",
            of("manifest.json", |manifest| manifest["version"] = 2.into()),
            "record",
        ),
        (
            "samples of another bundle",
            second(|parts| {
                *part(parts, SAMPLES) = part(&mut unpack(&golden("failed.drill")), SAMPLES).clone();
            }),
            "recomputation",
        ),
        (
            "statements of another bundle",
            second(|parts| {
                *part(parts, "test-result.dsse.json") =
                    part(&mut unpack(&golden("passed.drill")), "test-result.dsse.json").clone();
            }),
            "statements",
        ),
        (
            "the checkpoint of another bundle",
            second(|parts| {
                *part(parts, "checkpoint") = part(&mut unpack(&golden("passed.drill")), "checkpoint").clone();
            }),
            "checkpoint",
        ),
        ("re-signed with another key", resealed("passed-second-attempt.drill", |_| ()), "statements"),
        (
            "a swapped pair of parts",
            raw(|bytes| {
                let mut parts = unpack(&bytes);
                parts.swap(3, 4);
                pack(&parts)
            }),
            "stands where",
        ),
        (
            "a part twice",
            raw(|bytes| {
                let mut parts = unpack(&bytes);
                let one = parts[3].clone();
                parts.insert(3, one);
                pack(&parts)
            }),
            "stands where",
        ),
        (
            "a missing part",
            raw(|bytes| {
                let mut parts = unpack(&bytes);
                parts.remove(4);
                pack(&parts)
            }),
            "stands where",
        ),
        (
            "a further part",
            raw(|bytes| {
                let mut parts = unpack(&bytes);
                parts.push(("extra".to_owned(), vec![]));
                pack(&parts)
            }),
            "extra does not belong",
        ),
        (
            "fifty thousand parts",
            raw(|_| pack(&(0..50_000).map(|at| (format!("p{at}"), vec![])).collect())),
            "more than 1024 parts",
        ),
        (
            "a part larger than the file",
            raw(|mut bytes| {
                bytes[124..136].copy_from_slice(b"77777777777\0");
                bytes
            }),
            "more than the file",
        ),
        (
            "a part of binary size",
            raw(|mut bytes| {
                bytes[124..136].copy_from_slice(&[0xff; 12]);
                bytes
            }),
            "file",
        ),
        (
            "a name that is not text",
            raw(|mut bytes| {
                bytes[0] = 0xff;
                bytes
            }),
            "not text",
        ),
        ("cut in the middle", raw(|bytes| bytes[..bytes.len() / 2].to_vec()), "file"),
        ("cut before its end", raw(|bytes| bytes[..bytes.len() - 1024].to_vec()), "it was cut"),
        (
            "a flipped bit in the padding",
            raw(|mut bytes| {
                let size = unpack(&bytes)[0].1.len();
                bytes[512 + size] ^= 1;
                bytes
            }),
            "padding",
        ),
        (
            "sixty megabytes behind the end",
            raw(|mut bytes| {
                bytes.resize(60 << 20, 0);
                bytes
            }),
            "behind the last part",
        ),
        (
            "seventy megabytes",
            raw(|mut bytes| {
                bytes.resize(70 << 20, 0);
                bytes
            }),
            "more than 67108864 bytes",
        ),
        (
            "sixty megabytes of noise",
            raw(|_| {
                let mut random = fastrand::Rng::with_seed(1);
                (0..60 << 17).flat_map(|_| random.u64(..).to_le_bytes()).collect()
            }),
            "file",
        ),
        ("sixty megabytes of zeros", raw(|_| vec![0; 60 << 20]), "manifest"),
        ("nothing", raw(|_| vec![]), "file"),
    ]
}

#[test]
fn bombs_and_forgeries_are_refused_and_named_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hostile.drill");
    let attacks: Vec<Attack> = bombs().into_iter().chain(forgeries()).collect();
    assert!(attacks.len() >= 60, "{}", attacks.len());
    let mut wrong = Vec::new();
    let (mut slowest, mut largest) = (0.0_f64, 0);
    for (what, make, words) in &attacks {
        let bytes = make();
        fs::write(&file, &bytes).unwrap();
        let ran = measured(&file);
        let (cpu, rss) = (ran["cpu"].as_f64().unwrap(), ran["rss"].as_u64().unwrap());
        (slowest, largest) = (slowest.max(cpu), largest.max(rss));
        println!("{what}: {} KiB, {cpu:.2} s, {} MiB", bytes.len() >> 10, rss >> 10);
        let said = format!("{}{}", ran["out"].as_str().unwrap(), ran["err"].as_str().unwrap());
        let refusals: String =
            said.lines().filter(|line| line.contains('✗') || line.starts_with("error")).collect::<Vec<_>>().join("\n");
        let is_refused = ran["code"] == 1 || (ran["code"] == 2 && said.contains("cannot read"));
        if !is_refused || !refusals.contains(words) || refusals.is_empty() || cpu > CPU || rss > MEMORY {
            let said: String = said.chars().take(3000).collect();
            wrong.push(format!("{what}: exit {}, {cpu:.2} s, {rss} KiB, expected {words:?}:\n{said}", ran["code"]));
        }
    }
    println!("{} attacks; at most {slowest:.2} s and {} MiB", attacks.len(), largest >> 10);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attacks.len(), wrong.join("\n\n"));
}

fn measured(file: &PathBuf) -> Value {
    let binary = env!("CARGO_BIN_EXE_firedrill");
    let output = Command::new("python3")
        .args(["-c", MEASURE, &ADDRESSES.to_string(), binary, "evidence", "verify", "--allow-unknown-key"])
        .arg(file)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}
