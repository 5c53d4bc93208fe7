//! Real threads on real stores: the log is cut while the replicas go on, a replica that needs what
//! was cut is given the state, and a damaged one repairs itself. Links are channels in this process.

mod replica_links;

use chat::consensus::Role;
use chat::replica::runtime::{Runtime, spawn};
use chat::replica::{Config, Handle, Rewriting, Status};
use chat::storage::{OpenOptions, Opened, open_directory};
use chat::types::{Incarnation, Index, ReplicaId};
use replica_links::{Net, create, send, write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const REPLICAS: u16 = 3;

fn config(id: u16) -> Config {
    Config {
        scrub_interval_us: 0,
        rewriting: Rewriting {
            age_us: 0,
            bytes_min: 1,
            keep_entries: 20,
            ..Rewriting::default()
        },
        checkpoint_entries_max: 50,
        ..replica_links::config(id, REPLICAS)
    }
}

struct Member {
    handle: Handle,
    runtime: Runtime,
}

struct Replicas {
    directory: tempfile::TempDir,
    net: Net,
    lives: u8,
    running: Vec<Option<Member>>,
}

impl Replicas {
    fn new() -> Self {
        let mut replicas = Self {
            directory: tempfile::tempdir().unwrap(),
            net: Net::default(),
            lives: 0,
            running: (0..=REPLICAS).map(|_| None).collect(),
        };
        for id in 1..=REPLICAS {
            replicas.start(id);
        }
        replicas
    }

    fn path(&self, id: u16) -> PathBuf {
        self.directory.path().join(id.to_string())
    }

    fn start(&mut self, id: u16) {
        self.lives += 1;
        let options = OpenOptions {
            id: ReplicaId(id),
            ids: (1..=REPLICAS).map(ReplicaId).collect(),
            incarnation: Incarnation([self.lives; 16]),
            cache_bytes: 8 * 1024 * 1024,
            patience: OpenOptions::PATIENCE,
        };
        let opened = open_directory(&self.path(id), &options).unwrap();
        let Opened::Good { store, recovered } = opened else {
            panic!("replica {id} does not open: {:?}", opened.damage());
        };
        let net = self.net.clone();
        let (handle, runtime) = spawn(config(id), store, recovered, |inbox| {
            net.connect(ReplicaId(id), inbox);
            net.clone()
        })
        .unwrap();
        self.running[usize::from(id)] = Some(Member { handle, runtime });
    }

    fn handle(&self, id: u16) -> &Handle {
        &self.running[usize::from(id)].as_ref().unwrap().handle
    }

    /// Cut off first: what it did last is on its disk, and nobody hears that it goes.
    async fn stop(&mut self, id: u16) {
        let member = self.running[usize::from(id)].take().unwrap();
        self.net.cut(ReplicaId(id));
        drop(member.handle);
        member.runtime.shut_down().await.unwrap();
    }

    async fn status(&self, id: u16) -> Status {
        self.handle(id).status().await.unwrap()
    }

    async fn until(&self, what: &str, id: u16, good: impl Fn(&Status) -> bool) -> Status {
        let look = async {
            loop {
                let status = self.status(id).await;
                if good(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let Ok(status) = tokio::time::timeout(PATIENCE, look).await else {
            panic!("{what}: {:?}", self.status(id).await);
        };
        status
    }

    /// Its log begins right after its base. It may be cut once more between the two questions.
    async fn begins_after_its_base(&self, id: u16) {
        let agree = async {
            loop {
                let base = self.handle(id).base().await.unwrap().unwrap();
                assert!(base.stamp.index >= Index(30));
                let first = self.handle(id).entries(Index(1), 1).await.unwrap();
                if first.unwrap()[0].index() == base.stamp.index.next() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let agreed = tokio::time::timeout(PATIENCE, agree).await;
        agreed.expect("the log does not begin after its base");
    }

    /// It has applied what the others have, and its records are what their sum says.
    async fn is_whole(&self, id: u16, like: u16) {
        let index = self.status(like).await.applied;
        let status = self
            .until("it catches up", id, |s| {
                // Either: an election in which it took part may have chosen it.
                let takes_part = matches!(s.node.role, Role::Secondary | Role::Primary);
                s.applied >= index && takes_part
            })
            .await;
        assert_eq!(status.node.damage, None);
        let verified = self.handle(id).verify_state().await.unwrap().unwrap();
        assert!(verified.index >= index);
        assert_eq!(verified.scanned, verified.summed);
        let names = self.handle(like).names();
        assert_eq!(self.handle(id).names(), names);
        assert_eq!(names.len(), 2);
    }
}

/// Names in a data directory that begin with this.
fn entries(path: &Path, prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_log_is_made_up_for_by_the_state_and_a_damaged_replica_repairs_itself() {
    let mut replicas = Replicas::new();
    write(replicas.handle(1), &create("alice")).await;
    write(replicas.handle(2), &create("bob")).await;
    let mut sequence = 1;
    // Until every replica has cut its log.
    for id in 1..=REPLICAS {
        while replicas.status(id).await.node.base < Index(30) {
            sequence += 1;
            write(replicas.handle(id), &send("alice", sequence, "bob")).await;
        }
    }
    for id in 1..=REPLICAS {
        replicas.begins_after_its_base(id).await;
    }

    replicas.stop(3).await;
    std::fs::remove_dir_all(replicas.path(3)).unwrap();
    sequence += 1;
    write(replicas.handle(1), &send("alice", sequence, "bob")).await;
    replicas.start(3);
    replicas.is_whole(3, 1).await;
    assert!(replicas.status(3).await.node.base >= Index(30));

    replicas.stop(2).await;
    let store = entries(&replicas.path(2), "store-");
    assert_eq!(store.len(), 1, "{store:?}");
    let db = replicas.path(2).join(&store[0]).join("db");
    let file = std::fs::File::options().write(true).open(db).unwrap();
    file.set_len(4_096).unwrap();
    sequence += 1;
    write(replicas.handle(1), &send("alice", sequence, "bob")).await;
    replicas.start(2);
    assert_eq!(
        entries(&replicas.path(2), "damaged-"),
        [format!("damaged-{}", store[0])]
    );
    replicas.is_whole(2, 1).await;

    // What was repaired counts: the third one is not needed.
    replicas.stop(3).await;
    sequence += 1;
    write(replicas.handle(2), &send("alice", sequence, "bob")).await;
    replicas.stop(2).await;
    replicas.start(2);
    replicas.is_whole(2, 1).await;
}
