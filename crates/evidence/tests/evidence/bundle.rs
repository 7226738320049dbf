//! Bundles: round trip, and every mutation found and named.

use std::{fs, sync::OnceLock};

use evidence::{
    bundle::{self, CheckOutcome, Report, read, resume, seal, verify},
    ledger::Ledger,
    measure::measure,
    note::VerifierKey,
    record::*,
};
use proptest::prelude::*;
use serde_json::Value;
use tar::{Archive, Builder, Header};
use tempfile::TempDir;

use crate::fixture::*;

fn made(number: u64) -> Attempt {
    let fate = |due: Nanos| {
        if (10 * S..11 * S).contains(&due) {
            (Outcome::Status(503), 2 * MS + due % 977)
        } else {
            (Outcome::Ok, MS + due % 1013)
        }
    };
    let mut made = attempt(vec![probe("balance", 0, 20 * MS, 25 * S, fate), writes_probe(25 * S, 490..500)], 20 * S);
    made.number = number;
    made
}

struct Fixture {
    _folder: TempDir,
    bytes: Vec<u8>,
    key: VerifierKey,
}

/// The bundle of attempt 2, in a ledger with other entries.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let crashed = || Ending::Crashed { reason: "the engine was killed".to_owned() };
        for drill in ["lose-east", "lose-west"] {
            ledger.append("configurationApplied", WALL, Value::Null).unwrap();
            sealed(&mut ledger, drill, crashed(), &folder.path().join("earlier"));
        }
        ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
        ledger.register_attempt(WALL, &registration("lose-west")).unwrap();
        let sealed = seal(&made(2), &mut ledger, WALL, folder.path()).unwrap();
        assert_eq!(sealed.path, folder.path().join("lose-east-2.drill"));
        let (bytes, key) = (fs::read(&sealed.path).unwrap(), ledger.key().clone());
        Fixture { _folder: folder, bytes, key }
    })
}

pub fn parts(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = Archive::new(bytes);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (name, content)
    };
    archive.entries().unwrap().map(read).collect()
}

/// The file again, spelled as the crate spells it.
pub fn pack(parts: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in parts {
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn part<'a>(parts: &'a mut [(String, Vec<u8>)], name: &str) -> &'a mut Vec<u8> {
    &mut parts.iter_mut().find(|(found, _)| found == name).unwrap().1
}

pub fn edit(content: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(content.clone()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    *content = text.replacen(from, to, 1).into_bytes();
}

/// Recomputes what needs no key: size and digest of every part.
pub fn redigest(parts: &mut [(String, Vec<u8>)]) {
    let mut manifest: Value = serde_json::from_slice(part(parts, "manifest.json")).unwrap();
    for named in manifest["parts"].as_array_mut().unwrap() {
        let content = part(parts, named["name"].as_str().unwrap());
        named["size"] = content.len().into();
        named["sha256"] = evidence::canonical::hex(&evidence::canonical::sha256(content)).into();
    }
    *part(parts, "manifest.json") = evidence::canonical::to_vec(&manifest).unwrap();
}

fn failures(report: &Report) -> Vec<String> {
    report.failed().map(|check| format!("{}: {}", check.name, check.detail)).collect()
}

/// It must fail, and one of the failures must say `words`.
fn finds(what: &str, bytes: &[u8], words: &str) {
    for key in [None, Some(&fixture().key)] {
        let failures = failures(&verify(bytes, key));
        assert!(failures.iter().any(|failure| failure.contains(words)), "{what}: {failures:?} do not say {words:?}");
    }
}

#[test]
fn a_sealed_attempt_verifies_and_reads_back() {
    let fixture = fixture();
    let report = verify(&fixture.bytes, Some(&fixture.key));
    assert!(report.ok(), "{:#?}", report.checks);
    assert_eq!(
        (report.drill.as_deref(), report.attempt, report.verdict),
        (Some("lose-east"), Some(2), Some(Verdict::Passed))
    );
    let unproved: Vec<_> = report.checks.iter().filter(|check| check.outcome == CheckOutcome::NotChecked).collect();
    assert_eq!(
        unproved.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(),
        ["approvals", "time", "witnesses"]
    );
    let untrusted = verify(&fixture.bytes, None);
    let key = untrusted.checks.iter().find(|check| check.name == "key").unwrap();
    assert!(
        untrusted.ok() && key.outcome == CheckOutcome::NotChecked && key.detail.contains(&fixture.key.fingerprint())
    );
    let (attempt, results) = read(&fixture.bytes).unwrap();
    assert_eq!(attempt.probes, made(2).probes);
    assert_eq!(attempt.events, made(2).events);
    assert_eq!(results, measure(&attempt));
    assert_eq!(pack(&parts(&fixture.bytes)), fixture.bytes, "an ordinary tar gives the same bytes");
}

#[test]
fn the_parts_are_small() {
    let samples = parts(&fixture().bytes).into_iter().find(|(name, _)| name == "samples/0000.bin.gz").unwrap().1;
    assert!(samples.len() < 1250 * 4, "{} bytes for 1250 samples", samples.len());
}

#[test]
fn every_flipped_bit_is_found_and_named() {
    let fixture = fixture();
    let names: Vec<_> = parts(&fixture.bytes).into_iter().map(|(name, content)| (name, content.len())).collect();
    for seed in 0..250 {
        let mut random = fastrand::Rng::with_seed(seed);
        let at = random.usize(..fixture.bytes.len());
        let mut changed = fixture.bytes.clone();
        changed[at] ^= 1 << random.u8(..8);
        let failures = failures(&verify(&changed, Some(&fixture.key)));
        assert!(!failures.is_empty(), "byte {at}");
        // Inside the content of a part, the part is named.
        let mut start = 0;
        for (name, length) in &names {
            let content = start + 512..start + 512 + length;
            if content.contains(&at) {
                let said = failures.join("; ");
                let alias = name.split('.').next().unwrap();
                let alias = if name == "proofs.json" { "entry" } else { alias };
                assert!(said.contains(alias) || said.contains(name.as_str()), "byte {at} of {name}: {said}");
            }
            start += 512 + length.next_multiple_of(512);
        }
    }
}

#[test]
fn every_bit_outside_the_parts_is_found_with_its_place() {
    let fixture = fixture();
    let mut start = 0;
    let mut outside = Vec::new();
    for (_, content) in parts(&fixture.bytes) {
        let end = start + 512 + content.len();
        outside.extend((start..start + 512).step_by(97));
        outside.extend((end..end.next_multiple_of(512)).step_by(113));
        start = end.next_multiple_of(512);
    }
    outside.extend((start..fixture.bytes.len()).step_by(307));
    for at in outside {
        let mut changed = fixture.bytes.clone();
        changed[at] ^= 4;
        let failures = failures(&verify(&changed, None));
        assert!(failures.iter().any(|why| why.contains("byte")), "byte {at}: {failures:?}");
    }
}

#[test]
fn a_cut_or_longer_file_is_found() {
    let bytes = &fixture().bytes;
    for seed in 0..100 {
        let cut = fastrand::Rng::with_seed(seed).usize(..bytes.len());
        assert!(!verify(&bytes[..cut], None).ok(), "cut at {cut}");
    }
    for more in [1, 511, 512, 1024] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + more, 0);
        finds("appended", &longer, "behind the last part");
    }
    assert!(!verify(&[], None).ok());
}

#[test]
fn swapped_removed_and_added_parts_are_found() {
    let whole = parts(&fixture().bytes);
    for at in 0..whole.len() - 1 {
        let mut swapped = whole.clone();
        swapped.swap(at, at + 1);
        assert!(!verify(&pack(&swapped), None).ok(), "{at}");
        let mut contents = whole.clone();
        let (left, right) = contents.split_at_mut(at + 1);
        std::mem::swap(&mut left[at].1, &mut right[0].1);
        // Two empty lists are the same bytes.
        assert!(contents == whole || !verify(&pack(&contents), None).ok(), "{at}");
    }
    for at in 0..whole.len() {
        let mut fewer = whole.clone();
        let (name, _) = fewer.remove(at);
        finds(&format!("without {name}"), &pack(&fewer), &name);
        let mut more = whole.clone();
        more.insert(at, whole[at].clone());
        assert!(!verify(&pack(&more), None).ok(), "{name} twice");
    }
    let mut more = whole.clone();
    more.push(("extra".to_owned(), Vec::new()));
    finds("an extra part", &pack(&more), "extra does not belong");
}

/// An attacker without the key, who recomputes every digest that needs none.
#[test]
fn forgeries_are_found_and_named() {
    type Forgery = fn(&mut [(String, Vec<u8>)]);
    let forgeries: [(&str, Forgery, &str); 9] = [
        (
            "an edited objective",
            |parts| edit(part(parts, "attempt.json"), "5000000000", "9000000000"),
            "objectives of the record are not those",
        ),
        ("an edited plan", |parts| edit(part(parts, "registered.json"), "99.9", "90"), "the plan has digest"),
        (
            "an edited verdict",
            |parts| edit(part(parts, "results.json"), "\"verdict\":\"passed\"", "\"verdict\":\"failed\""),
            "/verdict is stated as \"failed\", and computed as \"passed\"",
        ),
        (
            "an edited number",
            |parts| edit(part(parts, "results.json"), "\"lost\":10", "\"lost\":0"),
            "is stated as 0, and computed as 10",
        ),
        (
            "another attempt",
            |parts| {
                edit(part(parts, "attempt.json"), "\"number\":2", "\"number\":1");
                edit(part(parts, "results.json"), "\"attempt\":2", "\"attempt\":1");
                edit(part(parts, "manifest.json"), "\"attempt\":2", "\"attempt\":1");
            },
            "manifest.json has digest",
        ),
        (
            "a moved point",
            |parts| edit(part(parts, "timeline.json"), "10500000000", "20500000000"),
            "manifest.json has digest",
        ),
        (
            "an edited journal",
            |parts| edit(part(parts, "journal.json"), "lose east", "lose west"),
            "manifest.json has digest",
        ),
        (
            "a removed entry",
            |parts| {
                let mut proofs: Vec<Value> = serde_json::from_slice(part(parts, "proofs.json")).unwrap();
                proofs.remove(0);
                *part(parts, "proofs.json") = evidence::canonical::to_vec(&proofs).unwrap();
            },
            "seals attempt 1 of lose-east, which was never registered",
        ),
        (
            "a re-numbered entry",
            |parts| edit(part(parts, "proofs.json"), "\"number\":1", "\"number\":4"),
            "its path does not lead to the signed root",
        ),
    ];
    for (what, forge, words) in forgeries {
        let mut forged = parts(&fixture().bytes);
        forge(&mut forged);
        redigest(&mut forged);
        finds(what, &pack(&forged), words);
    }
}

#[test]
fn an_edited_sample_is_found_even_with_new_digests() {
    // The attacker seals a kinder record in an own ledger, and transplants samples and results.
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
    sealed(&mut ledger, "lose-east", Ending::Aborted { reason: "by hand".to_owned() }, folder.path());
    ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
    let mut kinder = made(2);
    kinder.probes[0].samples.iter_mut().for_each(|sample| sample.outcome = Outcome::Ok);
    let sealed = seal(&kinder, &mut ledger, WALL, folder.path()).unwrap();
    let kinder = fs::read(&sealed.path).unwrap();
    let mut theirs = parts(&kinder);
    let mut forged = parts(&fixture().bytes);
    *part(&mut forged, "samples/0000.bin.gz") = part(&mut theirs, "samples/0000.bin.gz").clone();
    finds("samples only", &pack(&forged), "samples/0000.bin.gz");
    redigest(&mut forged);
    finds("samples with digests", &pack(&forged), "is not what follows from the samples");
    *part(&mut forged, "results.json") = part(&mut theirs, "results.json").clone();
    redigest(&mut forged);
    finds("samples and results", &pack(&forged), "manifest.json has digest");
    // All of it, with the attacker's own key: in order by itself, and refused by whoever has the right key.
    assert!(verify(&kinder, None).ok());
    let failures = failures(&verify(&kinder, Some(&fixture().key)));
    assert!(failures[0].contains("sealed with another key"), "{failures:?}");
}

#[test]
fn an_interrupted_seal_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path).unwrap();
    sealed(&mut ledger, "lose-east", Ending::Aborted { reason: "by hand".to_owned() }, folder.path());
    ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
    // The file cannot be written: the parts are kept, the attempt is sealed in the ledger.
    let blocked = folder.path().join("blocked");
    fs::write(&blocked, b"a file where a folder belongs").unwrap();
    seal(&made(2), &mut ledger, WALL, &blocked).unwrap_err();
    drop(ledger);
    let mut ledger = Ledger::open(&path).unwrap();
    let out = folder.path().join("out");
    let sealed = resume(&mut ledger, WALL, &out).unwrap();
    assert_eq!(sealed.len(), 1);
    assert!(verify(&fs::read(&sealed[0].path).unwrap(), Some(ledger.key())).ok());
    assert!(resume(&mut ledger, WALL, &out).unwrap().is_empty());
    assert!(seal(&made(2), &mut ledger, WALL, &out).unwrap_err().to_string().contains("sealed it already"));
    let number = ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
    let mut other = made(number);
    other.objectives.recovery_time = Some(60 * S);
    assert!(seal(&other, &mut ledger, WALL, &out).unwrap_err().to_string().contains("not what entry 4 registered"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// No bytes make it panic, also not those that look like a bundle.
    #[test]
    fn total(
        noise in proptest::collection::vec(any::<u8>(), 0..2000),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        columns in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = verify(&noise, None);
        let _ = read(&noise);
        let mut mangled = fixture().bytes.clone();
        for (place, byte) in &places {
            let at = place.index(mangled.len());
            mangled[at] = *byte;
        }
        let _ = verify(&mangled, None);
        // Behind gzip and the digests: columns that are anything.
        let mut forged = parts(&fixture().bytes);
        for (name, magic) in [("samples/0000.bin.gz", b"FDS1"), ("writes/0001.bin.gz", b"FDW1")] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, magic).unwrap();
            std::io::Write::write_all(&mut encoder, &columns).unwrap();
            *part(&mut forged, name) = encoder.finish().unwrap();
        }
        redigest(&mut forged);
        prop_assert!(!verify(&pack(&forged), None).ok());
        let _ = bundle::read(&pack(&forged));
    }
}
