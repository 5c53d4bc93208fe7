//! Replicas that die or fall silent under load.

use crate::cluster::{
    Load, PATIENCE, SHORT, TestCluster, assert_unreachable, check_inbox, read_inbox,
};
use chat::client::{Class, Client, Event, Listen, Protocol};
use std::time::{Duration, Instant};

async fn the_primary_is_killed_under_load_again_and_again(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    for _ in 0..3 {
        load.more(100).await;
        let primary = cluster.primary(&bob).await;
        let killed = Instant::now();
        cluster.kill(&[primary]);
        // More than can have been acknowledged by replies that were on their way.
        load.more(20).await;
        let gap = killed.elapsed();
        assert!(gap < Duration::from_secs(5), "{gap:?} without a primary");
        cluster.spawn(primary);
        // It must be back before the next one goes: one of three may be away.
        read_inbox(&cluster.reader_on(primary, &bob)).await;
    }
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

async fn of_five_two_are_killed_at_once_and_writes_go_on(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 5, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    let other = primary % 5 + 1;
    cluster.kill(&[primary, other]);
    load.more(100).await;
    cluster.spawn(primary);
    cluster.spawn(other);
    load.more(50).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

async fn of_five_the_second_is_killed_in_the_middle_of_the_election(protocol: Protocol) {
    // Long refreshes and a long window: a replica that stands still is waited for, for seconds.
    let slow = [
        "--refresh-interval",
        "1s",
        "--election-check-interval",
        "500ms",
    ];
    let mut cluster = TestCluster::start_on(protocol, 5, &slow).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    let silent = primary % 5 + 1;
    let before: Vec<(u16, usize)> = (1..=5)
        .filter(|id| *id != primary && *id != silent)
        .map(|id| (id, cluster.log_len(id)))
        .collect();
    cluster.pause(silent);
    cluster.kill(&[primary]);
    // Nobody grants before the ballot of the one that stands still is in, or the window ends. The
    // first that starts an election is killed in that time.
    let said = |id: u16, from: usize, what: &str| cluster.log_since(id, from).contains(what);
    let (second, from) = crate::cluster::eventually("election", || {
        let started = before
            .iter()
            .find(|(id, from)| said(*id, *from, crate::cluster::says::ELECTION));
        std::future::ready(started.copied().ok_or("nobody starts one"))
    })
    .await;
    for (id, from) in &before {
        let elected = said(*id, *from, crate::cluster::says::ELECTED);
        assert!(!elected, "the election is over\n{}", cluster.logs());
    }
    cluster.kill(&[second]);
    let elected = cluster
        .log_since(second, from)
        .contains(crate::cluster::says::ELECTED);
    assert!(
        !elected,
        "it was over when it was killed\n{}",
        cluster.logs()
    );
    cluster.resume(silent);
    load.more(100).await;
    cluster.spawn(primary);
    cluster.spawn(second);
    load.more(50).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

async fn of_three_a_second_fault_stops_writes_with_a_clear_error_until_one_returns(
    protocol: Protocol,
) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    let other = primary % 3 + 1;
    let survivor = other % 3 + 1;
    let listener = Client::resume(&cluster.handle_on(survivor, SHORT), bob.session().data());
    let mut stream = listener.unwrap().listen(Listen::default());
    assert!(stream.next_message().await.unwrap().is_ok());
    cluster.kill(&[primary, other]);
    // What the survivor has is all that it will ever hear of: its streams end.
    let cut_off = async {
        loop {
            match stream.next().await {
                Some(Ok(Event::Reconnected)) | None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    assert_eq!(error.class(), Class::Unreachable, "{error}");
                    return;
                }
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, cut_off).await;
    assert!(ended.is_ok(), "the stream goes on\n{}", cluster.logs());

    let impatient = cluster.handle(SHORT);
    let refused = Client::login(&impatient, "alice", "a password", "").await;
    assert_unreachable(refused.err(), &cluster);
    let reader = Client::resume(&impatient, bob.session().data()).unwrap();
    assert_unreachable(reader.who_am_i().await.err(), &cluster);
    // It was not given to anybody, and the one that is there says so.
    let held = Client::resume(&cluster.handle_on(survivor, SHORT), bob.session().data());
    let error = held.unwrap().send("alice", "too early").await.unwrap_err();
    assert_eq!(error.reason, "NOT_APPLIED", "{error}");
    assert!(error.to_string().contains("no primary"), "{error}");

    cluster.spawn(other);
    load.more(100).await;
    cluster.spawn(primary);
    let sent = load.stop().await;
    check_inbox(&read_inbox(&bob).await, &sent);
    cluster.finish(&bob).await;
}

async fn a_primary_that_falls_silent_is_replaced_and_comes_back_as_a_secondary(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    cluster.pause(primary);
    load.more(100).await;
    cluster.resume(primary);
    load.more(50).await;
    let sent = load.stop().await;
    check_inbox(&read_inbox(&cluster.reader_on(primary, &bob)).await, &sent);
    cluster.finish(&bob).await;
}

crate::over_both! {
    the_primary_is_killed_under_load_again_and_again,
    of_five_two_are_killed_at_once_and_writes_go_on,
    of_five_the_second_is_killed_in_the_middle_of_the_election,
    of_three_a_second_fault_stops_writes_with_a_clear_error_until_one_returns,
    a_primary_that_falls_silent_is_replaced_and_comes_back_as_a_secondary,
}
