//! Stores that are damaged while their replica is stopped, and while it runs: it repairs itself.

use crate::cluster::{Load, TestCluster, check_inbox, eventually, read_inbox};
use chat::client::Client;
use chat::storage::{RepairEnd, RepairNote};
use chat::types::{Index, WallTime};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// The file of a replica's live store.
fn db(cluster: &TestCluster, id: u16) -> PathBuf {
    let directory = cluster.data_dir(id);
    let current = std::fs::read_to_string(directory.join("CURRENT")).unwrap();
    directory.join(current.trim_end()).join("db")
}

/// One byte in each half KiB is another, from the first page on.
fn flip(file: &File) {
    let bytes = file.metadata().unwrap().len();
    for at in (0..bytes).step_by(512) {
        let mut byte = [0];
        if file.read_at(&mut byte, at).unwrap() == 1 && byte != [0] {
            file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        }
    }
}

fn writable(path: PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

async fn says(cluster: &TestCluster, id: u16, from: usize, what: &str) {
    eventually(what, || {
        let log = cluster.log_since(id, from);
        let said = log.contains(what);
        std::future::ready(if said { Ok(()) } else { Err(log) })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_store_was_damaged_while_it_was_dead_repairs_itself() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    type Harm = fn(&File);
    let harms: [Harm; 2] = [|file| file.set_len(4_096).unwrap(), flip];
    for harm in harms {
        load.more(50).await;
        let victim = cluster.primary(&bob).await;
        cluster.kill(&[victim]);
        harm(&writable(db(&cluster, victim)));
        load.more(20).await;
        let from = cluster.log_len(victim);
        cluster.spawn(victim);
        says(&cluster, victim, from, "is damaged (").await;
        says(&cluster, victim, from, "repaired: ").await;
        read_inbox(&cluster.reader_on(victim, &bob)).await;
    }
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

/// A replica with everything in its trees, and after a new start little of that in its memory, whose
/// file is another now. Then its inbox is read.
async fn comes_upon_damage(cluster: &mut TestCluster, victim: u16, bob: &Client) {
    assert!(cluster.terminate(victim).await.success());
    cluster.spawn(victim);
    cluster.reader_on(victim, bob).who_am_i().await.unwrap();
    flip(&writable(db(cluster, victim)));
    cluster.try_to_read_inbox(victim, bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_upon_damage_while_it_runs_repairs_itself() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(200).await;
    let sent = load.stop().await;
    let victim = cluster.primary(&bob).await % 3 + 1;
    let from = cluster.log_len(victim);
    comes_upon_damage(&mut cluster, victim, &bob).await;
    says(&cluster, victim, from, "begins again, to repair its store").await;
    says(&cluster, victim, from, "repaired: ").await;
    check_inbox(&read_inbox(&cluster.reader_on(victim, &bob)).await, &sent);
    alice.send("bob", "after the repair").await.unwrap();
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_damage_that_nobody_reads_and_none_where_there_is_none() {
    let mut cluster = TestCluster::start_with(3, &["--scrub-interval", "1s"]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(200).await;
    // Under load, on every replica, again and again.
    for id in 1..=3 {
        for _ in 0..2 {
            let from = cluster.log_len(id);
            says(&cluster, id, from, "scrubbed: ").await;
        }
    }
    load.more(1).await;
    let sent = load.stop().await;
    let victim = cluster.primary(&bob).await % 3 + 1;
    assert!(cluster.terminate(victim).await.success());
    let from = cluster.log_len(victim);
    cluster.spawn(victim);
    cluster.reader_on(victim, &bob).who_am_i().await.unwrap();
    flip(&writable(db(&cluster, victim)));
    says(&cluster, victim, from, "begins again, to repair its store").await;
    says(&cluster, victim, from, "repaired: ").await;
    check_inbox(&read_inbox(&cluster.reader_on(victim, &bob)).await, &sent);
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_comes_upon_damage_too_often_ends_and_is_repaired_by_its_next_start() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    // More than an open reads anyway.
    let load = Load::start(&alice, "bob");
    load.more(200).await;
    load.stop().await;
    let victim = cluster.primary(&bob).await % 3 + 1;
    read_inbox(&cluster.reader_on(victim, &bob)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let before = RepairNote {
        began: WallTime(now.unwrap().as_micros() as u64),
        why: "a page was lost".into(),
        while_running: true,
        kept_in: None,
        kept_up_to: None,
        again: false,
        ended: Some(RepairEnd {
            at: WallTime(0),
            reached: Index(1),
            from: None,
            state_after: None,
        }),
    };
    let notes = vec![before; chat::limits::REPAIRS_AN_HOUR];
    let file = cluster.data_dir(victim).join("repairs.json");
    std::fs::write(file, serde_json::to_string(&notes).unwrap()).unwrap();

    let from = cluster.log_len(victim);
    comes_upon_damage(&mut cluster, victim, &bob).await;
    let ended = cluster.end(victim).await;
    assert_eq!(ended.code(), Some(3), "{}", cluster.log_since(victim, from));
    says(&cluster, victim, from, "3 repairs in the last hour").await;
    cluster.spawn(victim);
    says(&cluster, victim, from, "repaired: ").await;
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_a_damaged_store_says_what_is_wrong_and_is_no_success() {
    let mut cluster = TestCluster::start(1).await;
    let alice = cluster.account("alice").await;
    for _ in 0..20 {
        alice.send("alice", "hello").await.unwrap();
    }
    let directory = cluster.data_dir(1).display().to_string();
    let dump = |more: &[&str]| {
        let output = TestCluster::admin(&[&["dump", "--data-dir", &directory], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let beyond = |(code, out, errors): (Option<i32>, String, String)| {
        assert_eq!((code, out.as_str()), (Some(0), ""), "{errors}");
        assert!(errors.contains("nothing is there from 9999 on"), "{errors}");
    };
    beyond(dump(&["--from", "9999"]));
    cluster.kill(&[1]);
    beyond(dump(&["--from", "9999"]));
    let (code, whole, errors) = dump(&[]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));

    // The log is readable to its end, and something else is wrong.
    std::fs::remove_file(cluster.data_dir(1).join("hard_state")).unwrap();
    let (code, readable, errors) = dump(&[]);
    assert_eq!((code, readable), (Some(1), whole), "{errors}");
    assert!(
        errors.contains("hard_state: the file is missing"),
        "{errors}"
    );
    // Nothing can be read.
    std::fs::remove_file(db(&cluster, 1)).unwrap();
    let (code, out, errors) = dump(&[]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("the store is damaged"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_comes_upon_damage_in_a_running_replica_says_so_and_the_replica_repairs_itself()
{
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    // More than a start reads.
    let body = "x".repeat(chat::limits::BODY_BYTES_MAX);
    for _ in 0..2 * chat::limits::LOG_CACHE_BYTES / body.len() {
        alice.send("bob", body.as_str()).await.unwrap();
    }
    let victim = cluster.primary(&bob).await % 3 + 1;
    assert!(cluster.terminate(victim).await.success());
    let from = cluster.log_len(victim);
    cluster.spawn(victim);
    cluster.reader_on(victim, &bob).who_am_i().await.unwrap();
    flip(&writable(db(&cluster, victim)));
    let directory = cluster.data_dir(victim).display().to_string();
    let dump = TestCluster::admin(&["dump", "--data-dir", &directory]);
    let errors = String::from_utf8_lossy(&dump.stderr);
    assert_eq!(dump.status.code(), Some(1), "{errors}");
    assert!(errors.contains("damaged"), "{errors}");
    says(&cluster, victim, from, "begins again, to repair its store").await;
    says(&cluster, victim, from, "repaired: ").await;
    cluster.finish(&bob).await;
}
