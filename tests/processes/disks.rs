//! Disks that are nearly full, full, or fail, under load.

use crate::cluster::{Load, SHORT, TestCluster, check_inbox, eventually, read_inbox};
use chat::client::{Client, NewAccount};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ROOM: &str = "100000000000";
const HARDLY_ANY: &str = "1000000";

fn space_file(cluster: &TestCluster, id: u16) -> PathBuf {
    cluster.scratch().join(format!("space-{id}"))
}

/// As the file system would say from now on. Renamed into its place, so that nobody reads half.
fn set_space(cluster: &TestCluster, id: u16, bytes: &str) {
    let file = space_file(cluster, id);
    std::fs::write(file.with_extension("new"), bytes).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
}

async fn says(cluster: &TestCluster, id: u16, what: &str) {
    eventually(what, || {
        let said = cluster.log_since(id, 0).contains(what);
        std::future::ready(if said { Ok(()) } else { Err("not in its log") })
    })
    .await;
}

fn status(cluster: &TestCluster, id: u16) -> String {
    let directory = cluster.data_dir(id).display().to_string();
    let output = TestCluster::admin(&["status", "--data-dir", &directory]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_while_a_majority_is_low_on_space_and_nothing_else_is() {
    let mut cluster = TestCluster::prepare(3, &[]);
    for id in 1..=3 {
        set_space(&cluster, id, ROOM);
        let file = space_file(&cluster, id);
        cluster.spawn_as(id, |command| {
            command.arg("--free-space-file").arg(file);
        });
    }
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    alice.send("bob", "one").await.unwrap();
    let primary = cluster.primary(&bob).await;
    let (second, third) = (primary % 3 + 1, (primary + 1) % 3 + 1);

    set_space(&cluster, second, HARDLY_ANY);
    says(&cluster, second, "its disk is nearly full").await;
    alice
        .send("bob", "one of three is no majority")
        .await
        .unwrap();
    set_space(&cluster, third, HARDLY_ANY);
    says(&cluster, primary, "refuses writes").await;

    // Through each replica; a read and a look at the whole inbox go on.
    for id in 1..=3 {
        let here = Client::resume(&cluster.handle_on(id, SHORT), alice.session().data()).unwrap();
        let error = here.send("bob", "too much").await.unwrap_err();
        assert_eq!(error.reason, "DISK_FULL", "{error}\n{}", cluster.logs());
        assert_eq!(read_inbox(&cluster.reader_on(id, &bob)).await.len(), 2);
    }
    let shown = status(&cluster, primary);
    assert!(
        shown.contains("nearly full") && shown.contains("DISK_FULL"),
        "{shown}"
    );

    // An election is not refused for space: the next primary serves, and refuses too.
    cluster.kill(&[primary]);
    let at = cluster.log_len(second) + cluster.log_len(third);
    let reader = cluster.reader_on(second, &bob);
    assert_eq!(read_inbox(&reader).await.len(), 2);
    let handle = cluster.handle(SHORT);
    let here = Client::resume(&handle, alice.session().data()).unwrap();
    let error = here.send("bob", "too much").await.unwrap_err();
    assert_eq!(
        error.reason,
        "DISK_FULL",
        "{error} ({at})\n{}",
        cluster.logs()
    );

    set_space(&cluster, second, ROOM);
    set_space(&cluster, third, ROOM);
    says(&cluster, second, "has room again").await;
    says(&cluster, third, "has room again").await;
    alice.send("bob", "room").await.unwrap();
    cluster.spawn(primary);
    let inbox = read_inbox(&cluster.reader_on(primary, &bob)).await;
    let bodies: Vec<_> = inbox
        .iter()
        .map(|m| String::from_utf8_lossy(&m.body))
        .collect();
    assert_eq!(bodies, ["one", "one of three is no majority", "room"]);
    cluster.finish(&bob).await;
}

/// Compiles the library that makes a disk fail; `None`, loudly, where there is no compiler.
fn failing_disk(scratch: &Path) -> Option<PathBuf> {
    let library = scratch.join("failing_disk.so");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/processes/failing_disk.c"
    );
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .stdin(Stdio::null())
        .output();
    match compiled {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
            Some(library)
        }
        Err(error) => {
            crate::skips::skip("compiler", &format!("there is no C compiler ({error})"));
            None
        }
    }
}

/// The disk of one replica fails so under load: it ends with a sentence that contains this, the
/// other two go on, and when its disk is good again it comes back.
async fn a_disk_fails(order: &str, sentence: &str, takes_the_log_too: bool) {
    let mut cluster = TestCluster::prepare(3, &[]);
    let Some(library) = failing_disk(cluster.scratch()) else {
        return;
    };
    let order_file = |cluster: &TestCluster, id| cluster.scratch().join(format!("order-{id}"));
    for id in 1..=3 {
        let order = order_file(&cluster, id);
        let mut under = cluster.data_dir(id).display().to_string();
        // The log lies beside the data directory, and its name begins with that one's.
        if !takes_the_log_too {
            under.push('/');
        }
        cluster.spawn_as(id, |command| {
            command.env("LD_PRELOAD", &library);
            command.env("FAIL_ORDER", order).env("FAIL_UNDER", under);
        });
    }
    let bob = NewAccount::named("bob", "a password");
    let bob = Client::create_account(&cluster.handle(crate::cluster::PATIENCE), bob)
        .await
        .unwrap();
    let alice = cluster.account("alice").await;
    let load = Load::start(&alice, "bob");
    load.more(50).await;
    let primary = cluster.primary(&bob).await;
    let secondary = primary % 3 + 1;
    for id in [secondary, primary] {
        let from = cluster.log_len(id);
        std::fs::write(order_file(&cluster, id), order).unwrap();
        let ended = cluster.end(id).await;
        let log = cluster.log_since(id, from);
        assert!(ended.code().is_some_and(|code| code != 0), "{ended}: {log}");
        if !takes_the_log_too {
            assert!(log.contains("the replica stops"), "{log}");
            assert!(log.contains(sentence), "{log}");
            assert!(log.contains(&format!("replica-{id}/")), "which file? {log}");
        }
        load.more(50).await;
        std::fs::remove_file(order_file(&cluster, id)).unwrap();
        cluster.spawn(id);
        read_inbox(&cluster.reader_on(id, &bob)).await;
    }
    load.more(20).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_fsync_fails_stops_and_the_others_go_on() {
    a_disk_fails("fsync", "Input/output error", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_writes_fail_stops_and_the_others_go_on() {
    a_disk_fails("write", "Input/output error", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_disk_is_full_stops_and_comes_back_when_there_is_room() {
    a_disk_fails("full", "No space left on device", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_log_is_on_the_same_full_disk_stops_all_the_same() {
    a_disk_fails("full", "", true).await;
}

/// Pages that are not in memory cannot be read: that is no damage, nothing is put aside for it, and
/// the replica ends, now and at each start, until its disk is good again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_reads_fail_stops_and_puts_nothing_aside() {
    let mut cluster = TestCluster::start(3).await;
    let Some(library) = failing_disk(cluster.scratch()) else {
        return;
    };
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let sent = load.stop().await;
    let victim = cluster.primary(&bob).await % 3 + 1;
    // Everything is in its trees, and after the new start little of that in its memory.
    assert!(cluster.terminate(victim).await.success());
    let order = cluster.scratch().join("order");
    let under = format!("{}/", cluster.data_dir(victim).display());
    let failing = |command: &mut Command| {
        command.env("LD_PRELOAD", &library);
        command.env("FAIL_ORDER", &order).env("FAIL_UNDER", &under);
    };
    cluster.spawn_as(victim, failing);
    cluster.reader_on(victim, &bob).who_am_i().await.unwrap();
    std::fs::write(&order, "read").unwrap();
    let from = cluster.log_len(victim);
    cluster.try_to_read_inbox(victim, &bob).await;
    for start_again in [true, false] {
        let ended = cluster.end(victim).await;
        let log = cluster.log_since(victim, from);
        assert_eq!(ended.code(), Some(1), "{log}");
        assert!(log.contains("Input/output error"), "{log}");
        assert!(log.contains(&under), "which file? {log}");
        if start_again {
            cluster.spawn_as(victim, failing);
        }
    }
    let names = std::fs::read_dir(cluster.data_dir(victim)).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        let name = name.to_string_lossy().into_owned();
        assert!(
            !name.starts_with("damage") && name != "repairs.json",
            "{name}"
        );
    }
    std::fs::remove_file(&order).unwrap();
    cluster.spawn(victim);
    check_inbox(&read_inbox(&cluster.reader_on(victim, &bob)).await, &sent);
    cluster.finish(&bob).await;
}
