//! Real threads on a disk in memory: what the simulator, which runs the replica without them,
//! does not see. Links are channels in this process.

mod replica_links;

use chat::consensus::Role;
use chat::replica::runtime::{Failure, Runtime, spawn};
use chat::replica::{Consistency, Handle, Wake, WriteError};
use chat::state_machine::{Answer, Command, Operation, Query, Refusal, Reply};
use chat::storage::{Effect, MemDisk, MemStore};
use chat::types::{InboxSeq, Index, Level, ReplicaId, UserId};
use replica_links::{Net, PATIENCE, config, create, send, token, write};
use std::collections::BTreeMap;

fn start(id: u16, replicas: u16, disk: &MemDisk, net: &Net) -> (Handle, Runtime) {
    let (store, recovered) = MemStore::open(disk).unwrap();
    let id = ReplicaId(id);
    spawn(config(id.0, replicas), store, recovered, |inbox| {
        net.connect(id, inbox);
        net.clone()
    })
    .unwrap()
}

async fn user(handle: &Handle, name: &str) -> UserId {
    match write(handle, &create(name)).await.reply {
        Reply::LoggedIn { account, .. } => account.user,
        other => panic!("{other:?}"),
    }
}

async fn inbox(handle: &Handle, name: &str) -> Vec<u64> {
    let query = Query::Inbox {
        token: token(name),
        after: None,
        limit: 10_000,
    };
    loop {
        match handle.read(query.clone(), Consistency::Linearizable).await {
            Ok(Answer::Inbox { messages, .. }) => {
                let number = |body: &[u8]| std::str::from_utf8(body).unwrap().parse().unwrap();
                return messages.iter().map(|m| number(&m.body)).collect();
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
}

async fn patient<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("hangs")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_serves_stops_cleanly_and_comes_back() {
    let (disk, net) = (MemDisk::new(), Net::default());
    let (handle, runtime) = start(1, 1, &disk, &net);
    let ann = user(&handle, "ann").await;
    user(&handle, "bob").await;
    assert_eq!(*handle.names(), ["ann", "bob"]);
    let mut watch = handle.watch(ann, token("ann"));
    for sequence in 2..=50 {
        write(&handle, &send("bob", sequence, "ann")).await;
    }
    assert!(matches!(patient(watch.next()).await, Wake::Inbox(seq) if seq <= InboxSeq(49)));
    assert_eq!(inbox(&handle, "ann").await, (2..=50).collect::<Vec<u64>>());

    let verified = patient(handle.verify_state()).await.unwrap().unwrap();
    assert!(verified.index >= Index(50));
    assert_eq!(verified.summed, verified.scanned);
    let entries = handle.entries(Index(1), usize::MAX).await.unwrap().unwrap();
    assert_eq!(entries[0].index(), Index(1));
    assert!(
        handle
            .commit_records(Index(1), verified.index)
            .await
            .unwrap()
            .unwrap()
            .len()
            > 1
    );
    assert!(handle.store_size().await.unwrap() > 0);

    patient(runtime.shut_down()).await.unwrap();
    while !matches!(patient(watch.next()).await, Wake::ShutDown) {}
    let refused = handle.write(send("bob", 51, "ann")).await;
    assert_eq!(refused, Err(WriteError::ShuttingDown));
    assert!(handle.status().await.is_none());

    let (_, recovered) = MemStore::open(&disk).unwrap();
    let applied = recovered.applied.map(|slice| slice.applied);
    assert_eq!(applied, Some(recovered.last.index), "nothing to replay");
    let (handle, runtime) = start(1, 1, &disk, &Net::default());
    assert_eq!(*handle.names(), ["ann", "bob"], "at once, from the trees");
    assert_eq!(inbox(&handle, "ann").await, (2..=50).collect::<Vec<u64>>());
    patient(runtime.shut_down()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_disk_stops_the_replica_and_says_so() {
    let disk = MemDisk::new();
    let (handle, runtime) = start(1, 1, &disk, &Net::default());
    user(&handle, "ann").await;
    disk.fail_after(1, Effect::None);
    let outcome = patient(async {
        let mut sequence = 2;
        loop {
            sequence += 1;
            if let Err(error) = handle.write(send("ann", sequence, "ann")).await {
                return error;
            }
        }
    });
    let (failure, outcome) = tokio::join!(patient(runtime.failed()), outcome);
    assert!(matches!(*failure, Failure::Storage(_)));
    assert_ne!(outcome, WriteError::NotApplied, "it was proposed");
    assert!(patient(runtime.shut_down()).await.is_err());
    assert!(handle.store_size().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_removes_what_a_deleted_account_has_left() {
    let (disk, net) = (MemDisk::new(), Net::default());
    let (handle, runtime) = start(1, 1, &disk, &net);
    user(&handle, "ann").await;
    // A row each, and more of them than the deletion itself removes.
    for sequence in 2..=60 {
        let mut command = send("ann", sequence, "ann");
        if let Operation::SendMessage { body, .. } = &mut command.operation {
            body.resize(chat::limits::INBOX_BLOCK_BYTES_MAX, b'.');
        }
        write(&handle, &command).await;
    }
    let delete = Command {
        operation: Operation::DeleteAccount,
        ..send("ann", 61, "ann")
    };
    let deleted = write(&handle, &delete).await;
    assert_eq!(deleted.reply, Reply::Done);
    patient(async { while handle.status().await.unwrap().cleanups > 0 {} }).await;
    // Entries that no client asked for did it.
    assert!(handle.status().await.unwrap().applied > deleted.index);
    patient(runtime.shut_down()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_does_not_know_the_level_in_force_stops_with_a_sentence() {
    let (disk, net) = (MemDisk::new(), Net::default());
    let knowing = |level: u32| {
        let (store, recovered) = MemStore::open(&disk).unwrap();
        let mut config = config(1, 1);
        config.node.level = Level(level);
        spawn(config, store, recovered, |_| net.clone())
    };
    let level = async |handle: &Handle| handle.status().await.unwrap().node.level;
    let (handle, runtime) = knowing(1).unwrap();
    user(&handle, "ann").await;
    assert_eq!(level(&handle).await, Level(1));
    patient(runtime.shut_down()).await.unwrap();

    let (handle, runtime) = knowing(2).unwrap();
    patient(async { while level(&handle).await != Level(2) {} }).await;
    user(&handle, "bob").await;
    patient(runtime.shut_down()).await.unwrap();

    let error = knowing(1).err().expect("it cannot read this state");
    let sentence = "the log is at level 2, this build knows levels up to 1: start a newer version";
    assert!(error.to_string().contains(sentence), "{error}");
    let (handle, runtime) = knowing(2).unwrap();
    assert_eq!(*handle.names(), ["ann", "bob"]);
    patient(runtime.shut_down()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_forward_fail_over_and_hand_over() {
    let net = Net::default();
    let disks: Vec<MemDisk> = (0..3).map(|_| MemDisk::new()).collect();
    let mut running: BTreeMap<ReplicaId, (Handle, Runtime)> = (1..=3)
        .map(|id| {
            (
                ReplicaId(id),
                start(id, 3, &disks[usize::from(id) - 1], &net),
            )
        })
        .collect();
    let any = running[&ReplicaId(1)].0.clone();
    user(&any, "ann").await;
    user(&any, "bob").await;
    let mut sequence = 2;
    // Through every replica: two of them forward, and each sees its own write when it returns.
    for (handle, _) in running.values() {
        let written = write(handle, &send("bob", sequence, "ann")).await;
        assert!(handle.status().await.unwrap().applied >= written.index);
        assert_eq!(inbox(handle, "ann").await.last(), Some(&sequence));
        sequence += 1;
    }

    // Cut off without a word, as by SIGKILL; its disk and threads are left to themselves.
    let primary = any.primary().unwrap();
    net.cut(primary);
    let (cut_off, old) = running.remove(&primary).unwrap();
    let other = running.values().next().unwrap().0.clone();
    let command = send("bob", sequence, "ann");
    let first = write(&other, &command).await;
    let again = write(&other, &command).await;
    assert_eq!(first.reply, again.reply, "one request, applied once");
    assert_ne!(other.primary(), Some(primary));
    assert_eq!(
        inbox(&other, "ann").await,
        (2..=sequence).collect::<Vec<u64>>()
    );
    let stale = cut_off.read(
        Query::Check {
            token: token("bob"),
        },
        Consistency::Stale,
    );
    assert!(matches!(stale.await, Ok(Answer::WhoAmI { .. })));
    patient(old.shut_down()).await.unwrap();

    let (back, runtime) = start(primary.0, 3, &disks[usize::from(primary.0) - 1], &net);
    patient(async { while inbox(&back, "ann").await.len() as u64 != sequence - 1 {} }).await;
    running.insert(primary, (back, runtime));

    // A clean stop of the primary: nothing fails meanwhile, somebody else is primary after it.
    let primary = other.primary().unwrap();
    let (_, stopping) = running.remove(&primary).unwrap();
    let other = running.values().next().unwrap().0.clone();
    let writer = {
        let other = other.clone();
        tokio::spawn(async move {
            for next in sequence + 1..sequence + 200 {
                write(&other, &send("bob", next, "ann")).await;
            }
        })
    };
    patient(stopping.shut_down()).await.unwrap();
    net.cut(primary);
    patient(writer).await.unwrap();
    assert_ne!(other.primary(), Some(primary));
    let expected: Vec<u64> = (2..sequence + 200).collect();
    assert_eq!(inbox(&other, "ann").await, expected);

    let mut digests = Vec::new();
    for (handle, _) in running.values() {
        inbox(handle, "ann").await;
        let status = handle.status().await.unwrap();
        assert!(matches!(status.node.role, Role::Primary | Role::Secondary));
        digests.push((status.applied, status.digest));
    }
    assert_eq!(digests[0], digests[1]);
    for (_, runtime) in running.into_values() {
        // The last one has nobody to hand over to, and stops all the same.
        patient(runtime.shut_down()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_by_every_replica_and_ends_its_streams() {
    let net = Net::default();
    let disks: Vec<MemDisk> = (0..3).map(|_| MemDisk::new()).collect();
    let running: Vec<(Handle, Runtime)> = (1..=3)
        .map(|id| start(id, 3, &disks[usize::from(id) - 1], &net))
        .collect();
    let ann = user(&running[0].0, "ann").await;
    let check = || Query::Check {
        token: token("ann"),
    };
    let mut watches = Vec::new();
    for (handle, _) in &running {
        watches.push(handle.watch(ann, token("ann")));
        let answer = handle.read(check(), Consistency::Linearizable).await;
        assert!(matches!(answer, Ok(Answer::WhoAmI { .. })));
    }
    let revoke = Command {
        operation: Operation::RevokeOwnToken,
        ..send("ann", 2, "ann")
    };
    assert_eq!(write(&running[1].0, &revoke).await.reply, Reply::Done);
    for (handle, _) in &running {
        let answer = handle.read(check(), Consistency::Linearizable).await;
        assert_eq!(answer, Ok(Answer::Refused(Refusal::TokenInvalid)));
    }
    for watch in &mut watches {
        assert_eq!(patient(watch.next()).await, Wake::Revoked);
    }
}
