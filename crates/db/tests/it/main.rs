//! The storage suite: what every crate above relies on, on both engines.

use samtal_db::{
    Batch, Change, Db, DbError, Migration, Schema, Sql, params, sql,
    testing::{Directory, each_engine, open, sqlite},
};

const SCHEMA: Schema = Schema::new(
    "it",
    &[Migration::Both("CREATE TABLE note (id BIGINT PRIMARY KEY, text TEXT NOT NULL, bytes BLOB, position BIGINT);")],
);
const INSERT: Sql = sql!("INSERT INTO note (id, text, bytes, position) VALUES ($1, $2, $3, $4)");
const SELECT: Sql = sql!("SELECT id, text, bytes, position FROM note WHERE id = $1");
const SELECT_MANY: Sql = sql!("SELECT id FROM note WHERE id IN list($1) ORDER BY id");
const SELECT_TEXTS: Sql = sql!("SELECT id FROM note WHERE text IN list($1) AND id NOT IN list($2) ORDER BY id");
const SELECT_BYTES: Sql = sql!("SELECT id FROM note WHERE bytes IN list($1) ORDER BY id");
const COUNT: Sql = sql!("SELECT COUNT(*) FROM note");
const RENAME: Sql = sql!("UPDATE note SET text = $1 WHERE id = $2 AND text = $3");
const DELETE: Sql = sql!("DELETE FROM note WHERE id = $1 RETURNING text");

fn note(id: i64, text: &str) -> Batch {
    let mut batch = Batch::new();
    let position = batch.log(Change::new(1).reference(text));
    batch.expect(&INSERT, params![id, text, vec![7_u8, 8], position], 1);
    batch
}

async fn count(db: &Db) -> i64 {
    db.query_opt(&COUNT, vec![]).await.unwrap().unwrap().int(0).unwrap()
}

#[tokio::test]
async fn what_is_committed_is_read_back_with_its_position() {
    each_engine(&[SCHEMA], |db| async move {
        let done = db.commit(note(1, "one")).await.unwrap();
        let row = db.query_opt(&SELECT, params![1]).await.unwrap().unwrap();
        assert_eq!((row.int(0).unwrap(), row.text(1).unwrap()), (1, "one"));
        assert_eq!(row.blob(2).unwrap(), [7, 8]);
        assert_eq!(row.int(3).unwrap(), done.last_position);
        assert_eq!(db.position(), done.last_position);
    })
    .await;
}

#[tokio::test]
async fn a_failed_expectation_refuses_the_whole_batch_and_gives_its_positions_back() {
    each_engine(&[SCHEMA], |db| async move {
        let before = db.commit(note(1, "one")).await.unwrap().last_position;
        let mut batch = note(2, "two");
        batch.expect(&RENAME, params!["x", 1, "not this"], 1);
        assert!(matches!(db.commit(batch).await, Err(DbError::Conflict(_))));
        assert!(db.commit(note(1, "again")).await.unwrap_err().is_conflict());
        let mut batch = note(3, "three");
        batch.require(&SELECT, params![99]);
        assert!(db.commit(batch).await.unwrap_err().is_conflict());
        let mut batch = note(3, "three");
        batch.forbid(&SELECT, params![1]);
        assert!(db.commit(batch).await.unwrap_err().is_conflict());
        assert_eq!(count(&db).await, 1);
        assert_eq!(db.commit(note(2, "two")).await.unwrap().first_position, before + 1);
    })
    .await;
}

#[tokio::test]
async fn one_refused_batch_does_not_harm_those_committed_with_it() {
    each_engine(&[SCHEMA], |db| async move {
        let commits = (0..200).map(|n| {
            let db = db.clone();
            // Every third id is taken already.
            async move { db.commit(note(if n % 3 == 0 { 0 } else { n }, "x")).await.is_ok() }
        });
        let kept = futures_util::future::join_all(commits).await.into_iter().filter(|kept| *kept).count();
        assert_eq!(i64::try_from(kept).unwrap(), count(&db).await);
        assert_eq!(kept, 134);
        let changes = db.changes_after(0, 1_000).await.unwrap();
        let positions: Vec<i64> = changes.iter().map(|change| change.position).collect();
        assert_eq!(positions, (1..=134).collect::<Vec<i64>>());
    })
    .await;
}

#[tokio::test]
async fn lists_are_parameters() {
    each_engine(&[SCHEMA], |db| async move {
        for (id, text) in [(1, "a"), (2, "b"), (3, "c")] {
            db.commit(note(id, text)).await.unwrap();
        }
        let ids = |rows: Vec<samtal_db::Row>| rows.iter().map(|row| row.int(0).unwrap()).collect::<Vec<_>>();
        assert_eq!(ids(db.query(&SELECT_MANY, params![vec![1_i64, 3, 9]]).await.unwrap()), [1, 3]);
        let texts = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(ids(db.query(&SELECT_TEXTS, params![texts, vec![1_i64]]).await.unwrap()), [2]);
        assert_eq!(ids(db.query(&SELECT_BYTES, params![vec![vec![7_u8, 8]]]).await.unwrap()), [1, 2, 3]);
        assert_eq!(ids(db.query(&SELECT_MANY, params![Vec::<i64>::new()]).await.unwrap()), [0_i64; 0]);
    })
    .await;
}

#[tokio::test]
async fn returned_rows_come_to_the_committer() {
    each_engine(&[SCHEMA], |db| async move {
        db.commit(note(1, "one")).await.unwrap();
        let mut batch = Batch::new();
        let first = batch.returning(&DELETE, params![1]);
        let second = batch.returning(&DELETE, params![1]);
        let done = db.commit(batch).await.unwrap();
        assert_eq!(done.rows[first][0].text(0).unwrap(), "one");
        assert!(done.rows[second].is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_reader_of_changes_gets_each_once_and_in_order_even_when_it_falls_behind() {
    each_engine(&[SCHEMA], |db| async move {
        db.commit(note(0, "before")).await.unwrap();
        let mut changes = db.changes(0);
        let writer = async {
            for id in 1..1_500 {
                db.commit(note(id, "x")).await.unwrap();
            }
        };
        let reader = async {
            let mut seen = Vec::new();
            while seen.len() < 1_500 {
                seen.extend(changes.next().await.unwrap().iter().map(|change| change.position));
            }
            seen
        };
        let (_, seen) = tokio::join!(writer, reader);
        assert_eq!(seen, (1..=1_500).collect::<Vec<i64>>());
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_does_not_see_what_comes_after_it() {
    each_engine(&[SCHEMA], |db| async move {
        db.commit(note(1, "one")).await.unwrap();
        let snapshot = db.snapshot().await.unwrap();
        assert_eq!(snapshot.query(&COUNT, vec![]).await.unwrap()[0].int(0).unwrap(), 1);
        db.commit(note(2, "two")).await.unwrap();
        assert_eq!(snapshot.query(&COUNT, vec![]).await.unwrap()[0].int(0).unwrap(), 1);
        drop(snapshot);
        assert_eq!(count(&db).await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_that_nobody_waits_for_any_more_makes_no_later_read_old() {
    each_engine(&[SCHEMA], |db| async move {
        // As many as there are connections, so that each of them is tried.
        let all = futures_util::future::join_all((0..6).map(|_| db.snapshot())).await;
        assert!(all.iter().all(Result::is_ok));
        drop(all);
        for id in 1..=6 {
            let mut began = Box::pin(db.snapshot());
            let _ = futures_util::poll!(began.as_mut());
            drop(began);
            count(&db).await;
            db.commit(note(id, "later")).await.unwrap();
            for _ in 0..6 {
                assert_eq!(count(&db).await, id);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_lease_has_one_holder() {
    each_engine(&[SCHEMA], |db| async move {
        let lease = db.lease("sender").await.unwrap();
        assert!(lease.is_some());
        assert!(db.lease("sender").await.unwrap().is_none());
        assert!(db.lease("other").await.unwrap().is_some());
        drop(lease);
    })
    .await;
}

#[tokio::test]
async fn the_log_is_pruned_only_behind_every_cursor() {
    each_engine(&[SCHEMA], |db| async move {
        for id in 0..10 {
            db.commit(note(id, "x")).await.unwrap();
        }
        for (name, position) in [("push", 8), ("sender", 4)] {
            let mut batch = Batch::new();
            batch.cursor(name, position);
            batch.cursor(name, position - 2);
            db.commit(batch).await.unwrap();
            assert_eq!(db.cursor(name).await.unwrap(), position);
        }
        let first = async || db.changes_after(0, 100).await.unwrap()[0].position;
        db.prune_log(0, 2).await.unwrap();
        assert_eq!(first().await, 3);
        let mut reader = db.changes(3);
        assert!(!db.prune_log(0, i64::MAX).await.unwrap());
        assert_eq!(first().await, 4);
        assert_eq!(reader.next().await.unwrap()[0].position, 4);
        db.prune_log(7, i64::MAX).await.unwrap();
        assert_eq!(first().await, 4);
        db.prune_log(0, i64::MAX).await.unwrap();
        assert_eq!(first().await, 5);
        assert_eq!(db.commit(note(10, "x")).await.unwrap().first_position, 11);
    })
    .await;
}

#[tokio::test]
async fn a_reopened_database_goes_on_where_it_was() {
    let directory = Directory::new();
    let options = sqlite(&directory);
    let db = open(&options, &[SCHEMA]).await;
    let last = db.commit(note(1, "one")).await.unwrap().last_position;
    db.close().await;
    assert!(matches!(db.commit(note(2, "two")).await, Err(DbError::Closed)));
    let db = open(&options, &[SCHEMA]).await;
    assert_eq!(db.position(), last);
    assert_eq!(db.commit(note(2, "two")).await.unwrap().first_position, last + 1);
    let copy = directory.path("copy.db");
    db.backup(copy.clone()).await.unwrap();
    let copied = open(&samtal_db::Options::Sqlite { path: copy }, &[SCHEMA]).await;
    assert_eq!(count(&copied).await, 2);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = Directory::new();
    let options = sqlite(&directory);
    open(&options, &[SCHEMA]).await.close().await;
    let older = Schema::new("it", &[]);
    assert!(matches!(Db::open(&options, &[older]).await, Err(DbError::Migration(_))));
}

#[tokio::test]
async fn two_nodes_of_one_tenant_read_one_log_without_gaps() {
    let Some(options) = samtal_db::testing::postgres() else { return };
    let one = open(&options, &[SCHEMA]).await;
    let two = open(&options, &[SCHEMA]).await;
    let mut changes = two.changes(0);
    let write = |db: Db, offset: i64| async move {
        for id in 0..200 {
            db.commit(note(offset + id, "x")).await.unwrap();
        }
    };
    let reader = async {
        let mut seen = Vec::new();
        while seen.len() < 400 {
            seen.extend(changes.next().await.unwrap().iter().map(|change| change.position));
        }
        seen
    };
    let (_, _, seen) = tokio::join!(write(one.clone(), 0), write(two.clone(), 1_000), reader);
    assert_eq!(seen, (1..=400).collect::<Vec<i64>>());
    assert!(one.lease("work").await.unwrap().is_some_and(|_lease| true));
    let held = one.lease("work").await.unwrap();
    assert!(held.is_some() && two.lease("work").await.unwrap().is_none());
    samtal_db::testing::drop_schema(&options).await;
}

const TERMINATE: Sql = sql!(
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'
     AND ((classid::bigint << 32) | objid::bigint) = hashtextextended(current_schema() || 'work', 0)"
);

#[tokio::test]
async fn who_loses_the_connection_that_holds_a_lease_learns_of_it() {
    let Some(options) = samtal_db::testing::postgres() else { return };
    let one = open(&options, &[SCHEMA]).await;
    let two = open(&options, &[SCHEMA]).await;
    let held = one.lease("work").await.unwrap().unwrap();
    assert!(tokio::time::timeout(std::time::Duration::from_millis(10), held.lost()).await.is_err());
    two.query(&TERMINATE, vec![]).await.unwrap();
    held.lost().await;
    assert!(two.lease("work").await.unwrap().is_some());
    samtal_db::testing::drop_schema(&options).await;
}

const HOLDERS: Sql = sql!(
    "SELECT COUNT(DISTINCT pid), COUNT(*) FROM pg_locks WHERE locktype = 'advisory'
     AND ((classid::bigint << 32) | objid::bigint)
         IN (SELECT hashtextextended(current_schema() || 'work' || n, 0) FROM generate_series(0, 199) AS n)"
);

#[tokio::test]
async fn many_leases_take_one_connection() {
    let Some(options) = samtal_db::testing::postgres() else { return };
    let one = open(&options, &[SCHEMA]).await;
    let two = open(&options, &[SCHEMA]).await;
    let mut held = Vec::new();
    for n in 0..200 {
        held.push(one.lease(&format!("work{n}")).await.unwrap().expect("nobody has it"));
    }
    let holders = async || {
        let row = two.query_opt(&HOLDERS, vec![]).await.unwrap().unwrap();
        (row.get::<u64>(0).unwrap(), row.get::<u64>(1).unwrap())
    };
    assert_eq!(holders().await, (1, 200));
    assert!(two.lease("work7").await.unwrap().is_none());
    // Each is let go by itself, also one that was asked for and not waited for.
    let waited = futures_util::FutureExt::now_or_never(two.lease("work8"));
    assert!(waited.is_none(), "the answer takes a moment");
    drop(held.split_off(100));
    let mut freed = None;
    while freed.is_none() {
        freed = two.lease("work100").await.unwrap();
    }
    while holders().await != (2, 101) {}
    drop((held, freed));
    while holders().await != (0, 0) {}
    samtal_db::testing::drop_schema(&options).await;
}

#[tokio::test]
async fn what_a_node_tells_the_others_hear_and_it_does_not() {
    let Some(options) = samtal_db::testing::postgres() else { return };
    let one = open(&options, &[SCHEMA]).await;
    let two = open(&options, &[SCHEMA]).await;
    let (mut here, mut there) = (one.heard(), two.heard());
    // Until the other node listens, nobody hears it.
    let heard = loop {
        one.tell("it's me").await.unwrap();
        if let Ok(heard) = tokio::time::timeout(std::time::Duration::from_millis(20), there.recv()).await {
            break heard.unwrap();
        }
    };
    assert_eq!(&*heard, "it's me");
    two.tell("and me").await.unwrap();
    let answered = tokio::time::timeout(std::time::Duration::from_secs(20), here.recv()).await.unwrap().unwrap();
    assert_eq!(&*answered, "and me");
    assert!(one.tell(&"x".repeat(samtal_db::TOLD_BYTES_MAX + 1)).await.is_err());
    samtal_db::testing::drop_schema(&options).await;
}

#[tokio::test]
async fn a_database_in_memory_runs_on_the_calling_thread() {
    let db = open(&samtal_db::Options::Memory, &[SCHEMA]).await;
    let mut changes = db.changes(0);
    let done = db.commit(note(1, "one")).await.unwrap();
    assert!(db.commit(note(1, "one")).await.unwrap_err().is_conflict());
    assert_eq!(changes.next().await.unwrap().last().unwrap().position, done.last_position);
    assert_eq!(db.scan(&COUNT, vec![]).await.unwrap()[0].int(0).unwrap(), 1);
    assert_eq!(db.snapshot().await.unwrap().query(&COUNT, vec![]).await.unwrap()[0].int(0).unwrap(), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_database_that_nobody_uses_is_closed_and_opened_again_when_it_is_used() {
    let directory = Directory::new();
    let path = directory.path("samtal.db");
    let memory = samtal_kit::Memory::default();
    let db = Db::open_within(&sqlite(&directory), &[SCHEMA], &memory).await.unwrap();
    let mut changes = db.changes(0);
    db.commit(note(1, "one")).await.unwrap();
    assert_eq!(count(&db).await, 1);
    let open_files = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|file| file.starts_with(&path))).count()
    };
    assert!(open_files() > 0);
    for _ in 0..3 {
        memory.sweep();
    }
    while open_files() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(count(&db).await, 1);
    let again = db.commit(note(2, "two")).await.unwrap();
    assert_eq!(again.first_position, 2, "positions go on where they were");
    assert_eq!(changes.next().await.unwrap().len(), 2, "who reads changes hears of both");
    for _ in 0..3 {
        memory.sweep();
    }
    db.commit(note(3, "three")).await.unwrap();
    assert_eq!(count(&db).await, 3);
    db.close().await;
    assert!(matches!(db.commit(note(4, "four")).await, Err(DbError::Closed)));
}
