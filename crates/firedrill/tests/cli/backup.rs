//! Backup and restore of the control plane's store, as a user does them.

use std::fs;

use super::{
    apply::{control, write},
    check::{MESH, SERVICE},
    run,
};

#[test]
fn a_store_is_backed_up_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &[("mesh.yaml", MESH), ("web.yaml", SERVICE)]);
    let none = run(folder, &["backup", "one.backup", "--state", "state"]);
    assert_eq!((none.code, none.err.contains("there is no store")), (2, true), "{none:?}");
    let plane = control(folder, &[]);
    assert_eq!(run(folder, &["apply", "-f", "mesh", "--state", "state"]).code, 0);
    let one = run(folder, &["backup", "one.backup", "--state", "state"]);
    assert_eq!((one.code, one.out.contains("revision 1")), (0, true), "{one:?}");
    write(folder, &[("web.yaml", &SERVICE.replace("8082", "8083"))]);
    assert_eq!(run(folder, &["apply", "-f", "mesh", "--state", "state"]).code, 0);
    let busy = run(folder, &["restore", "one.backup", "--state", "state"]);
    assert_eq!((busy.code, busy.err.contains("a control plane runs")), (2, true), "{busy:?}");
    drop(plane);

    // A proxy of this machine starts from revision 2.
    fs::create_dir_all(folder.join("state/proxies/edge")).unwrap();
    fs::write(folder.join("state/proxies/edge/last-good.json"), r#"{"version":"r2+1","snapshot":{}}"#).unwrap();
    let newer = run(folder, &["restore", "one.backup", "--state", "state"]);
    assert_eq!(newer.code, 2, "{newer:?}");
    assert!(newer.err.contains("proxy edge holds revision 2") && newer.err.contains("--force"), "{newer:?}");
    let forced = run(folder, &["restore", "one.backup", "--state", "state", "--force"]);
    assert_eq!((forced.code, forced.out.contains("revision 1")), (0, true), "{forced:?}");
    fs::write(folder.join("bad.backup"), "{}").unwrap();
    let bad = run(folder, &["restore", "bad.backup", "--state", "state"]);
    assert_eq!((bad.code, bad.err.contains("it is not a backup")), (2, true), "{bad:?}");

    let _plane = control(folder, &[]);
    let history = run(folder, &["history", "--state", "state"]).out;
    assert_eq!(history.lines().count(), 2, "{history}");
}
