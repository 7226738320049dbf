//! A second verifier, written in Python from docs/bundle-format.md: it shares no code with this crate, and agrees with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use evidence::{bundle::read, ledger::Ledger, record::*};
use serde_json::Value;

use crate::{
    bundle::{pack, part, parts},
    fixture::*,
};

fn second(bundle: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second/verify.py");
    Command::new("python3").arg(script).arg(bundle).output().unwrap()
}

fn agrees(bundle: &Path) -> Value {
    let output = second(bundle);
    assert!(output.status.success(), "{}: {}", bundle.display(), String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (_, results) = read(&fs::read(bundle).unwrap()).unwrap();
    let results = serde_json::to_value(results).unwrap();
    assert_eq!((&found["drill"], &found["verdict"]), (&results["drill"], &results["verdict"]));
    let of_probes = |field: &str| results["probes"].as_array().unwrap().iter().map(|p| p[field].clone()).collect();
    assert_eq!(found["offered"], Value::Array(of_probes("offered")));
    assert_eq!(found["failed"], Value::Array(of_probes("failed")));
    if found["version"] == 1 {
        let measured = &results["measured"];
        let lost = measured["loss"]["lost"].as_u64().unwrap_or(0);
        assert_eq!(found["lost"].as_u64(), Some(lost), "{}", bundle.display());
        if measured["recovery"]["clientVisible"] == true {
            assert_eq!(found["recovery"], measured["recovery"]["seconds"], "{}", bundle.display());
        }
    }
    found
}

#[test]
fn it_agrees_on_the_bundles_of_format_1() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-v1");
    let bundles: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    let bundles: Vec<_> = bundles.into_iter().filter(|path| path.extension().is_some_and(|e| e == "drill")).collect();
    assert_eq!(bundles.len(), 8);
    let recovered = bundles.iter().filter(|path| agrees(path)["recovery"].is_number()).count();
    assert_eq!(recovered, 5, "bundles with an outage");
}

#[test]
fn it_agrees_on_new_bundles_and_refuses_changed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
    let refused = || Ending::Refused { reasons: vec!["not ready".to_owned()] };
    sealed(&mut ledger, "lose-east", refused(), folder.path());
    ledger.append("leaseTaken", WALL, Value::Null).unwrap();
    let number = ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
    let fate = |due: Nanos| match (10 * S..11 * S).contains(&due) {
        true => (Outcome::Status(503), 2 * MS),
        false => (Outcome::Ok, MS + due % 1013),
    };
    let mut made = attempt(vec![probe("balance", 0, 20 * MS, 25 * S, fate), writes_probe(25 * S, 490..500)], 20 * S);
    made.number = number;
    let path = evidence::bundle::seal(&made, &mut ledger, WALL, folder.path()).unwrap().path;
    let found = agrees(&path);
    assert_eq!((&found["version"], &found["attempt"], &found["lost"]), (&2.into(), &2.into(), &10.into()));

    let whole = parts(&fs::read(&path).unwrap());
    let changed = folder.path().join("changed.drill");
    for name in ["results.json", "proofs.json", "checkpoint", "samples/0000.bin.gz", "key.pub", "measurement.dsse.json"]
    {
        let mut broken = whole.clone();
        let content = part(&mut broken, name);
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&changed, pack(&broken)).unwrap();
        assert!(!second(&changed).status.success(), "{name}");
    }
    let mut cut = whole.clone();
    let mut proofs: Vec<Value> = serde_json::from_slice(part(&mut cut, "proofs.json")).unwrap();
    proofs.remove(1);
    *part(&mut cut, "proofs.json") = evidence::canonical::to_vec(&proofs).unwrap();
    fs::write(&changed, pack(&cut)).unwrap();
    assert!(!second(&changed).status.success(), "a dropped seal");
}
