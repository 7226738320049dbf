//! Configuration as code, on a control plane without proxies: apply, history, diff, rollback, and a watched checkout.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    check::{MESH, SERVICE},
    run, transcript,
};

/// A control plane, killed when it is dropped.
pub struct Plane(Child);

impl Drop for Plane {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `firedrill control` with state folder `state`, ready.
pub fn control(folder: &Path, more: &[&str]) -> Plane {
    let free = ["control", "--api", "127.0.0.1:0", "--ads", "127.0.0.1:0", "--state", "state"];
    let log = fs::File::create(folder.join("control.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(free).args(more).current_dir(folder).stdin(Stdio::null()).stderr(log);
    let plane = Plane(command.spawn().unwrap());
    eventually(folder, &["history", "--state", "state"], |ran| ran.code == 0);
    plane
}

/// Asks again and again; each question is a process, so it does not spin.
fn eventually(folder: &Path, arguments: &[&str], done: impl Fn(&super::Ran) -> bool) -> super::Ran {
    let started = Instant::now();
    loop {
        let ran = run(folder, arguments);
        if done(&ran) {
            return ran;
        }
        let log = fs::read_to_string(folder.join("control.log")).unwrap_or_default();
        assert!(started.elapsed() < Duration::from_secs(30), "{ran:?}\n{log}");
    }
}

pub fn write(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder.join("mesh")).unwrap();
    for (name, text) in files {
        fs::write(folder.join("mesh").join(name), text).unwrap();
    }
}

/// Times are what differs from run to run.
fn timeless(text: &str) -> String {
    let year = |text: &str| text.find("20").filter(|at| text[*at..].len() >= 20 && &text[at + 4..at + 5] == "-");
    let mut out = String::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        if let Some(at) = year(&line)
            && let Some(end) = line[at..].find('Z')
        {
            line.replace_range(at..=at + end, "TIME");
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[test]
fn manifests_are_applied_compared_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &[("mesh.yaml", MESH), ("web.yaml", SERVICE)]);
    let nobody = run(folder, &["apply", "-f", "mesh", "--state", "state"]);
    assert_eq!(nobody.code, 2, "{nobody:?}");
    let _plane = control(folder, &[]);
    let mut said = String::new();
    let mut tell = |arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().copied().chain(["--state", "state"]).collect();
        said.push_str(&timeless(&transcript(folder, &all)));
        said.push('\n');
    };
    tell(&["apply", "-f", "mesh", "--author", "ann", "--dry-run"]);
    tell(&["apply", "-f", "mesh", "--author", "ann", "-m", "the shop"]);
    tell(&["apply", "-f", "mesh", "--author", "ann"]);
    let more = SERVICE.replace("8082", "8083");
    write(folder, &[("web.yaml", &more)]);
    tell(&["apply", "-f", "mesh", "--author", "bob", "-m", "west moved", "--expect-revision", "1"]);
    tell(&["apply", "-f", "mesh", "--author", "ann", "--expect-revision", "1"]);
    let other = SERVICE.replace("name: web", "name: api");
    write(folder, &[("mesh.yaml", &MESH.replace("service: web", "service: api")), ("web.yaml", &other)]);
    tell(&["apply", "-f", "mesh", "--author", "ann"]);
    tell(&["apply", "-f", "mesh", "--author", "ann", "--prune", "-m", "web is api"]);
    tell(&["diff", "1", "2"]);
    tell(&["diff", "3"]);
    tell(&["rollback", "2", "--author", "bob"]);
    tell(&["rollback", "9", "--author", "bob"]);
    tell(&["history"]);
    insta::assert_snapshot!("apply", said);

    let history: Value =
        serde_json::from_str(&run(folder, &["history", "--state", "state", "--format", "json"]).out).unwrap();
    assert_eq!(history["revisions"][0]["restores"], 2);
    let coloured = run(folder, &["--color", "always", "diff", "1", "2", "--state", "state"]).out;
    assert!(coloured.contains("\u{1b}[32m+"), "{coloured}");
    let ledger = run(folder, &["evidence", "verify", "state/ledger", "--key", "state/ledger/key.pub"]);
    assert_eq!(ledger.code, 0, "{ledger:?}");
    let entries =
        fs::read_dir(folder.join("state/ledger")).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_file());
    let text: String = entries.filter_map(|path| fs::read_to_string(path).ok()).collect();
    assert_eq!(text.matches("configurationApplied").count(), 4, "an entry for each revision");
}

fn git(folder: &Path, arguments: &[&str]) {
    let who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"];
    let out = Command::new("git").arg("-C").arg(folder).args(who).args(arguments).output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_watched_checkout_is_in_force_by_its_commits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &[("mesh.yaml", MESH), ("web.yaml", SERVICE)]);
    let mesh = folder.join("mesh");
    git(&mesh, &["init", "-q"]);
    git(&mesh, &["add", "."]);
    git(&mesh, &["commit", "-qm", "the shop"]);
    let _plane = control(folder, &["--gitops", "mesh"]);
    let history = ["history", "--state", "state", "--format", "json"];
    let see = |what: &str, wanted: &dyn Fn(&Value) -> bool| -> Value {
        let read = |ran: &super::Ran| serde_json::from_str::<Value>(&ran.out).unwrap_or_default();
        let ran = eventually(folder, &history, |ran| wanted(&read(ran)));
        assert_eq!(ran.code, 0, "{what}");
        read(&ran)
    };
    let first = see("the first commit", &|h| h["source"]["state"] == "inForce");
    assert_eq!(first["revisions"][0]["author"], "Ann");
    assert_eq!(first["revisions"][0]["message"], "the shop");
    assert_eq!(first["revisions"][0]["commit"], first["source"]["commit"]);

    // What is not committed does not count, and is told.
    write(folder, &[("web.yaml", &SERVICE.replace("8082", "8083"))]);
    let drift = see("a change", &|h| h["source"]["state"] == "drift");
    assert_eq!(drift["revisions"].as_array().unwrap().len(), 1);
    git(&mesh, &["commit", "-qam", "west moved"]);
    let second = see("the second commit", &|h| h["source"]["state"] == "inForce");
    assert_eq!(second["revisions"][0]["message"], "west moved");

    // A commit that is refused changes nothing.
    write(folder, &[("web.yaml", "kind: Nonsense\n")]);
    git(&mesh, &["commit", "-qam", "broken"]);
    let refused = see("a broken commit", &|h| h["source"]["state"] == "refused");
    assert_eq!(refused["revisions"].as_array().unwrap().len(), 2);
    git(&mesh, &["revert", "--no-edit", "HEAD"]);
    see("mended", &|h| h["source"]["state"] == "inForce");

    // Somebody applies by hand: told and left.
    assert_eq!(run(folder, &["rollback", "1", "--state", "state"]).code, 0);
    let drift = see("a rollback by hand", &|h| h["source"]["state"] == "drift");
    assert_eq!(drift["revisions"].as_array().unwrap().len(), 3);
    let shown = run(folder, &["history", "--state", "state"]).out;
    assert!(shown.contains("drift") && shown.contains("revision 3"), "{shown}");
}
