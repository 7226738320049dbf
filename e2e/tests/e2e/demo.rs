//! The demo as a new user runs it.

use std::time::Duration;

use e2e::process::{gone, run};
use serde_json::Value;

#[tokio::test]
async fn the_demo_passes_and_leaves_evidence_that_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let demo = run(&["demo", "--out", out.to_str().unwrap()], Duration::from_secs(120)).await;
    println!("{}\n{}", demo.out, demo.err);
    println!("demo took {:?}", demo.took);
    assert_eq!(demo.code, Some(0));
    for expected in [
        "mTLS on",
        "attempt 1",
        "preflight",
        "baseline",
        "east is lost",
        "recovered",
        "loss",
        "failback",
        "no residue",
        "PASSED",
        "accounts in west calls fx in east",
    ] {
        assert!(demo.out.contains(expected), "`{expected}` is missing");
    }

    let bundle = out.join("lose-east-1.drill");
    // The command as it was printed.
    let printed = demo.out.lines().find_map(|line| line.trim().strip_prefix("verify    firedrill ")).expect("printed");
    let verified = run(&printed.split(' ').collect::<Vec<_>>(), Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);

    assert!(verified.out.contains("VERIFIED   lose-east, attempt 1, verdict passed"), "{}", verified.out);
    // Without the key nobody says who sealed it.
    let unknown = ["evidence", "verify", bundle.to_str().unwrap()];
    let verified = run(&unknown, Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(6), "{}{}", verified.out, verified.err);
    assert!(verified.out.contains("VERIFIED, SIGNER UNKNOWN   lose-east, attempt 1"), "{}", verified.out);
    let allowed = run(&[unknown.as_slice(), &["--allow-unknown-key"]].concat(), Duration::from_secs(30)).await;
    assert_eq!(allowed.code, Some(0), "{}{}", allowed.out, allowed.err);

    let shown = run(&["evidence", "show", bundle.to_str().unwrap(), "--format", "json"], Duration::from_secs(30)).await;
    let results: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(results["verdict"], "passed");
    let measured = &results["measured"];
    assert!(measured["loss"]["acknowledged"].as_u64().unwrap() > 100, "{measured}");
    assert_eq!(measured["loss"]["splitBrain"], false);
    assert_eq!(measured["recovery"]["censored"], false);
    assert_eq!(results["residue"]["proxies"], results["residue"]["unchanged"]);
    let objectives = results["objectives"].as_array().unwrap();
    assert!(!objectives.is_empty() && objectives.iter().all(|o| o["met"] == true), "{objectives:?}");

    let html = std::fs::read_to_string(out.join("lose-east-1.html")).unwrap();
    for picture in
        ["Phases of the recovery", "Latency over time", "Traffic share by region", "Requests answered and failed"]
    {
        assert!(html.contains(picture), "{picture}");
    }
    for outside in ["http://www", "https://", "<script", "<link", "<img"] {
        assert!(!html.contains(outside), "the report loads or runs something: {outside}");
    }
    gone(folder.path(), Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_flipped_byte_in_the_bundle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("x.drill");
    std::fs::write(&bundle, b"not a bundle").unwrap();
    let verified = run(&["evidence", "verify", bundle.to_str().unwrap()], Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(1), "{}{}", verified.out, verified.err);
    assert!(!verified.err.contains("panicked"));
}
