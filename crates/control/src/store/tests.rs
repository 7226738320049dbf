//! The store as it survives, in SQLite; `tests/store` has what both databases do.

use super::*;
use crate::api::{ManifestFile, Stamp};

async fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(&StoreAddress::File(path.to_owned())).await
}

/// Applies whatever it is.
async fn apply(store: &Store, files: &[ManifestFile], time: i64) -> revision::Stored {
    let new = NewRevision { files, author: "a", message: "m", commit: None, restores: None, time: Stamp(time) };
    store.apply(new, true, |_| Ok::<_, StoreError>(())).await.unwrap()
}

fn files(text: &str) -> Vec<ManifestFile> {
    let file = |n: u32| ManifestFile { path: format!("{n}.yaml"), text: text.repeat(200) };
    (0..3).map(file).collect()
}

/// A process that is killed, or a machine that loses power, leaves some prefix of the write-ahead log behind. From
/// every prefix the store opens with whole revisions, without gaps, and none of them changed.
#[tokio::test]
async fn a_torn_log_never_tears_a_revision() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.db");
    let store = open(&path).await.unwrap();
    for n in 0..8 {
        let stored = apply(&store, &files(&format!("text {n}")), n).await;
        assert!(stored.changed);
        store.set_recovery("p", Some(&vec![stored.revision.number; 100]), 0).await.unwrap();
    }
    let (db, wal) = (std::fs::read(&path).unwrap(), std::fs::read(folder.path().join("control.db-wal")).unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let mut seen = std::collections::BTreeSet::new();
    for case in 0..60 {
        let torn = folder.path().join(format!("torn-{case}"));
        std::fs::create_dir(&torn).unwrap();
        let path = torn.join("control.db");
        std::fs::write(&path, &db).unwrap();
        let length = if case == 0 { wal.len() } else { random.usize(0..wal.len()) };
        std::fs::write(torn.join("control.db-wal"), &wal[..length]).unwrap();
        let store = open(&path).await.unwrap();
        let revisions = store.revisions().await.unwrap();
        let last = revisions.len() as u64;
        for number in 1..=last {
            // Reading checks the digest over all files.
            assert_eq!(store.revision(number).await.unwrap().unwrap().number, number);
        }
        let recovery = store.recovery::<Vec<u64>>().await.unwrap();
        let stored = recovery.first().map_or(0, |(_, numbers)| numbers[0]);
        assert!(stored == last || stored + 1 == last, "{stored} {last}");
        seen.insert(last);
        store.close().await;
    }
    assert!(seen.len() > 3, "{seen:?}");
    assert!(seen.contains(&8), "what was answered is there: {seen:?}");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.db");
    let store = open(&path).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&store.pool).await.unwrap();
    store.close().await;
    assert!(matches!(open(&path).await, Err(StoreError::TooNew { found: 99, known: 4 })));
}
