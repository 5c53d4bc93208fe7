//! What one replica acknowledges, all have; and they keep it.

use crate::cluster::{Load, TestCluster, check_inbox, eventually, read_inbox};
use chat::client::Protocol;

async fn what_any_replica_acknowledges_every_replica_delivers(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    for number in 0..30 {
        let on = cluster.handle_on(number % 3 + 1, crate::cluster::PATIENCE);
        // A login of its own on each replica, so that no two share sequences.
        let sender = chat::client::Client::login(&on, "alice", "a password", "")
            .await
            .unwrap();
        let receipt = sender.send("bob", format!("message {number}")).await;
        let receipt = receipt.unwrap();
        assert_eq!(receipt.inbox_seq, u64::from(number) + 1);
        for id in 1..=3 {
            let inbox = read_inbox(&cluster.reader_on(id, &bob)).await;
            let last = inbox.last().unwrap();
            assert_eq!(last.message_id, receipt.message_id, "at replica {id}");
            assert_eq!(last.sender, "alice");
        }
    }
    drop(alice);
    cluster.finish(&bob).await;
}

async fn a_replica_that_was_away_catches_up(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let primary = cluster.primary(&alice).await;
    let away = primary % 3 + 1;
    cluster.kill(&[away]);
    let load = Load::start(&alice, "bob");
    load.more(500).await;
    cluster.spawn(away);
    load.more(100).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&cluster.reader_on(away, &bob)).await, &sent);
    cluster.finish(&bob).await;
}

async fn all_replicas_killed_at_once_come_back_with_everything(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(200).await;
    cluster.kill(&[1, 2, 3]);
    for id in 1..=3 {
        cluster.spawn(id);
    }
    // The sends that were under way find the new cluster by themselves.
    load.more(100).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    assert_eq!(alice.who_am_i().await.unwrap().0.username, "alice");
    cluster.finish(&bob).await;
}

async fn a_primary_that_is_terminated_hands_over_and_exits_well(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let primary = cluster.primary(&alice).await;
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let status = cluster.terminate(primary).await;
    assert_eq!(status.code(), Some(0), "{}", cluster.logs());
    load.more(100).await;
    assert_ne!(cluster.primary(&alice).await, primary);
    cluster.spawn(primary);
    load.more(50).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

async fn a_cluster_of_one_keeps_what_it_acknowledged(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 1, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    cluster.kill(&[1]);
    cluster.spawn(1);
    load.more(50).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

async fn messages_older_than_the_retention_go_on_every_replica(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 3, &["--retention", "1s"]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let old = alice.send("bob", "old").await.unwrap().message_id;
    for id in 1..=3 {
        let reader = cluster.reader_on(id, &bob);
        eventually("old message going", || async {
            let there = read_inbox(&reader)
                .await
                .iter()
                .any(|m| m.message_id == old);
            if there {
                Err("it is still there")
            } else {
                Ok(())
            }
        })
        .await;
    }
    // The inbox counts on where it was.
    let next = alice.send("bob", "new").await.unwrap();
    assert_eq!(next.inbox_seq, 2);
    cluster.finish(&bob).await;
}

crate::over_both! {
    what_any_replica_acknowledges_every_replica_delivers,
    a_replica_that_was_away_catches_up,
    all_replicas_killed_at_once_come_back_with_everything,
    a_primary_that_is_terminated_hands_over_and_exits_well,
    a_cluster_of_one_keeps_what_it_acknowledged,
    messages_older_than_the_retention_go_on_every_replica,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_stop_that_is_told_twice_is_no_order_to_abort() {
    use rustix::process::{Pid, Signal, kill_process};

    let mut cluster = TestCluster::start(1).await;
    cluster.account("alice").await;
    let pid = Pid::from_raw(cluster.pid(1).try_into().unwrap()).unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        kill_process(pid, signal).unwrap();
    }
    let ended = cluster.end(1).await;
    assert!(ended.success(), "{ended}: {}", cluster.log_since(1, 0));
}
