//! A mesh that runs, looked at and ended from another terminal.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Stdio},
};

use super::{command, run};

/// A mesh of one gateway, ended with the test.
struct Mesh(Child);

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn up(folder: &Path) -> Mesh {
    let [.., high, low] = std::process::id().to_be_bytes();
    let free = TcpListener::bind((Ipv4Addr::new(127, 40 + high % 20, low, 1), 0)).unwrap().local_addr().unwrap();
    let mesh = super::check::MESH.replace("127.0.0.1:8080", &free.to_string());
    fs::write(folder.join("mesh.yaml"), mesh).unwrap();
    fs::write(folder.join("web.yaml"), super::check::SERVICE).unwrap();
    let mut up = command(folder, &["up", "--format", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(up.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"edge\""), "{line}");
    Mesh(up)
}

#[test]
fn logs_are_listed_and_printed_and_down_ends_the_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = up(folder.path());

    let listed = run(folder.path(), &["logs"]);
    assert_eq!(listed.out.lines().collect::<Vec<_>>(), ["control", "edge.proxy"], "{}", listed.err);
    let log = run(folder.path(), &["logs", "control"]);
    let whole = fs::read_to_string(folder.path().join(".firedrill/logs/control.log")).unwrap();
    assert!(!log.out.is_empty() && whole.starts_with(log.out.lines().next().unwrap()), "{}", log.out);
    let tail = run(folder.path(), &["logs", "control", "--tail", "1"]);
    assert_eq!(tail.out.lines().count(), 1, "{}", tail.out);
    let unknown = run(folder.path(), &["logs", "edge"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("firedrill logs edge.proxy"), "{}", unknown.err);

    let down = run(folder.path(), &["down"]);
    assert_eq!(down.code, 0, "{}{}", down.out, down.err);
    assert!(mesh.0.wait().unwrap().success());
    let again = run(folder.path(), &["down"]);
    assert_eq!(again.code, 2);
    assert!(again.err.contains("no mesh runs"), "{}", again.err);
}

#[test]
fn a_log_is_followed_as_it_grows_and_when_it_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join(".firedrill/logs");
    fs::create_dir_all(&logs).unwrap();
    let path = logs.join("web.log");
    fs::write(&path, "one\ntwo\nthr").unwrap();
    let mut follow =
        command(folder.path(), &["logs", "-f", "--tail", "1", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "two");
    fs::write(&path, "one\ntwo\nthree\n").unwrap();
    assert_eq!(lines.next().unwrap(), "three");
    fs::rename(&path, logs.join("web.log.1")).unwrap();
    fs::write(&path, "four\n").unwrap();
    assert_eq!(lines.next().unwrap(), "four");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn get_lists_again_while_it_watches() {
    let folder = tempfile::tempdir().unwrap();
    let _mesh = up(folder.path());
    let mut watch = command(folder.path(), &["get", "proxies", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let titles = lines.filter(|line| line.starts_with("PROXY")).take(2).count();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(titles, 2);
}
