//! Space on real disks: file systems of a majority that are filled while clients write, and space
//! that comes back when a store is rewritten.

use crate::cluster::{Load, SHORT, TestCluster, check_inbox, eventually, read_inbox, reason};
use chat::client::Client;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of each of the small disks: a store, which begins with 8 MiB, has room for a few more.
const DISK_BYTES: u64 = 64 * 1024 * 1024;
/// Left free on a disk that is nearly full: less than `--min-free-mib`, and more than is written
/// between two looks at the free space.
const LEFT_BYTES: u64 = 4 * 1024 * 1024;

/// Runs a tool of the system.
fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(tool).args(arguments).output();
    let output = output.map_err(|error| format!("{tool}: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let good = output.status.success().then_some(());
    good.ok_or_else(|| format!("{tool} {}: {errors}", arguments.join(" ")))
}

/// A small ext4 file system in a file. Unmounted when dropped, by a panic, too: what uses it must
/// have been created after it.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Result<Self, String> {
        let disk = Self(tempfile::tempdir().unwrap());
        let image = disk.0.path().join("image");
        std::fs::create_dir(disk.root()).unwrap();
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        let (image, root) = (
            image.display().to_string(),
            disk.root().display().to_string(),
        );
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0", &image])?;
        run("mount", &["-o", "loop", &image, &root])?;
        std::fs::create_dir(disk.data()).unwrap();
        Ok(disk)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.root().join("filler")
    }

    fn free(&self) -> u64 {
        fs2::available_space(self.root()).unwrap()
    }

    /// So much is free from now on, and never more on the way to that.
    fn leave(&self, left: u64) {
        let options = File::options()
            .create(true)
            .append(true)
            .open(self.filler());
        let mut filler = options.unwrap();
        let give_back = left.saturating_sub(self.free());
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.saturating_sub(give_back)).unwrap();
        while self.free() > left {
            match filler.write_all(&[0xa5; 4_096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
        filler.sync_all().unwrap();
    }

    fn clear(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let root = self.root().display().to_string();
        // Lazily, if something still looks into it; it was not mounted if that does not go either.
        let _ = run("umount", &[&root]).or_else(|_| run("umount", &["-l", &root]));
    }
}

/// Two small disks; `None`, loudly, where nothing can be mounted.
fn two_disks() -> Option<[Disk; 2]> {
    let root = Command::new("id").arg("-u").output();
    if root.is_ok_and(|output| output.stdout != b"0\n") {
        crate::skips::skip("power-cuts", "loop mounts need root");
        return None;
    }
    let disks = Disk::mount().and_then(|first| Ok([first, Disk::mount()?]));
    if let Err(error) = &disks {
        crate::skips::skip("power-cuts", &format!("nothing can be mounted ({error})"));
    }
    disks.ok()
}

/// Every replica that runs refuses a send, and lets everything be read that was acknowledged; one of
/// them serves as primary.
async fn only_writes_are_refused(
    cluster: &TestCluster,
    ids: &[u16],
    by: &Client,
    of: &Client,
    least: usize,
) {
    for id in ids {
        let here = Client::resume(&cluster.handle_on(*id, SHORT), by.session().data()).unwrap();
        let refused = reason(here.send("bob", "too much").await);
        assert_eq!(refused, "DISK_FULL", "{}", cluster.logs());
        let inbox = read_inbox(&cluster.reader_on(*id, of)).await;
        assert!(inbox.len() >= least, "{} of {least}", inbox.len());
        let reader = cluster.reader_on(*id, of);
        assert_eq!(reader.who_am_i().await.unwrap().0.username, "bob");
    }
    assert!(ids.contains(&cluster.primary(of).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn real_disks_of_a_majority_are_full_and_only_writes_are_refused_until_there_is_room() {
    let Some(disks) = two_disks() else {
        return;
    };
    // No election for a slow machine's sake: one that has no byte left for its vote would stop.
    let flags = ["--min-free-mib", "8", "--election-iters", "100"];
    let mut cluster = TestCluster::prepare(3, &flags);
    for (id, disk) in (1..).zip(&disks) {
        symlink(disk.data(), cluster.data_dir(id)).unwrap();
    }
    let all = [1, 2, 3];
    for id in all {
        cluster.spawn(id);
    }
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let primary = cluster.primary(&bob).await;

    // Nearly full, under load: each send is acknowledged, or refused for this reason and no other.
    let load = Load::start(&on_short_patience(&cluster, &alice), "bob");
    load.more(100).await;
    each_leaves(&disks, LEFT_BYTES);
    one_says(&cluster, &[(primary, 0)], "refuses writes").await;
    let mut sent = load.stop().await;
    for refused in sent.iter().filter_map(|sent| sent.outcome.as_ref().err()) {
        assert_eq!(refused.reason, "DISK_FULL", "{refused}");
    }
    only_writes_are_refused(&cluster, &all, &alice, &bob, 100).await;

    // Nothing is left at all.
    each_leaves(&disks, 0);
    assert_eq!(disks.each_ref().map(Disk::free), [0, 0]);
    only_writes_are_refused(&cluster, &all, &alice, &bob, 100).await;

    // A little is left again: another primary can be elected, and refuses too.
    each_leaves(&disks, LEFT_BYTES);
    let others = [primary % 3 + 1, (primary + 1) % 3 + 1];
    let from = others.map(|id| (id, cluster.log_len(id)));
    cluster.kill(&[primary]);
    one_says(&cluster, &from, "refuses writes").await;
    only_writes_are_refused(&cluster, &others, &alice, &bob, 100).await;

    disks.iter().for_each(Disk::clear);
    let load = Load::start(&cluster.account("carol").await, "bob");
    load.more(100).await;
    cluster.spawn(primary);
    sent.extend(load.stop().await);
    check_inbox(&read_inbox(&cluster.reader_on(primary, &bob)).await, &sent);
    cluster.finish(&bob).await;

    drop(cluster);
    let roots = disks.each_ref().map(Disk::root);
    drop(disks);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    for root in roots {
        assert!(!mounts.contains(&root.display().to_string()), "{mounts}");
    }
}

fn each_leaves(disks: &[Disk], bytes: u64) {
    for disk in disks {
        disk.leave(bytes);
    }
}

/// The same login for writes: the one that it is taken from must not write.
fn on_short_patience(cluster: &TestCluster, client: &Client) -> Client {
    Client::resume(&cluster.handle(SHORT), client.session().data()).unwrap()
}

/// Waits until the log of one of these has this in it, after so many bytes.
async fn one_says(cluster: &TestCluster, of: &[(u16, usize)], what: &str) {
    eventually(what, || {
        let mut logs = of.iter().map(|(id, from)| cluster.log_since(*id, *from));
        let said = logs.any(|log| log.contains(what));
        std::future::ready(if said { Ok(()) } else { Err("not in its log") })
    })
    .await;
}

/// Bytes that the file system has allocated for what is below this directory.
fn allocated(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let data = entry.metadata().unwrap();
        bytes += data.blocks() * 512;
        if data.is_dir() {
            bytes += allocated(&entry.path());
        }
    }
    bytes
}

/// Of the bodies that are sent and then deleted: each is written to the log and to a tree.
const DEAD_BYTES: u64 = 32 * 1024 * 1024;

/// Where the log of the only replica begins.
fn base(cluster: &TestCluster) -> Result<u64, String> {
    let directory = cluster.data_dir(1).display().to_string();
    let status = TestCluster::admin(&["status", "--data-dir", &directory, "--output", "json"]);
    let seen: Result<serde_json::Value, _> = serde_json::from_slice(&status.stdout);
    let seen = seen.map_err(|_| String::from_utf8_lossy(&status.stderr).into_owned())?;
    seen[0]["base_index"].as_u64().ok_or(seen.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_the_disk_are_given_back_when_the_store_is_rewritten() {
    let mut cluster = TestCluster::start_with(1, &["--keep-entries", "10"]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let bodies = DEAD_BYTES / chat::limits::BODY_BYTES_MAX as u64;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let alice = alice.clone();
        senders.spawn(async move {
            for _ in 0..bodies / 8 {
                let body = "x".repeat(chat::limits::BODY_BYTES_MAX);
                alice.send("bob", body).await.unwrap();
            }
        });
    }
    senders.join_all().await;
    bob.delete_account("a password").await.unwrap();
    assert!(cluster.terminate(1).await.success());
    let before = allocated(&cluster.data_dir(1));
    assert!(before > DEAD_BYTES, "{before}");

    // The log is cut where it is, and the store is far from where it is rewritten. (sled gives some of the file's end
    // back, or none.) Each command deletes a few rows of an inbox that is gone; afterwards none is left.
    cluster.spawn(1);
    for _ in 0..bodies / 4 {
        alice.send("alice", "still here").await.unwrap();
    }
    eventually("log that is cut", async || {
        let base = base(&cluster)?;
        let is_cut = (base > bodies).then_some(());
        is_cut.ok_or(format!("it begins after {base}"))
    })
    .await;
    assert!(cluster.terminate(1).await.success());

    let current = cluster.data_dir(1).join("CURRENT");
    let live_store = || std::fs::read_to_string(&current).unwrap();
    let rewritten = live_store();
    cluster.spawn_as(1, |command| {
        // At once, before anything is applied in this run.
        command.args(["--rewrite-mib", "1"]);
    });
    eventually("store that is rewritten", async || {
        let store = live_store();
        (store != rewritten).then_some(()).ok_or(store)
    })
    .await;
    assert!(cluster.terminate(1).await.success());
    let after = allocated(&cluster.data_dir(1));
    assert!(
        after + DEAD_BYTES < before,
        "{before} bytes, and {after} after the rewriting"
    );
    cluster.spawn(1);
    let inbox = read_inbox(&alice).await;
    assert_eq!(inbox.len() as u64, bodies / 4, "what lives is there");
    cluster.finish(&alice).await;
}
