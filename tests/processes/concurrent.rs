//! Many at once.

use crate::cluster::{Load, PATIENCE, TestCluster, check_inbox, read_inbox, reason};
use chat::client::{Class, Client, Listen, Protocol};
use std::time::Duration;

async fn clients_send_and_listen_while_one_account_is_deleted(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let mut clients = Vec::new();
    for name in ["alice", "bob", "carol", "doomed"] {
        clients.push(cluster.account(name).await);
    }
    let doomed = clients.pop().unwrap();
    // A ring of three, and each of them also writes to the one that goes.
    let ring: Vec<Load> = (0..3)
        .map(|n| Load::start(&clients[n], clients[(n + 1) % 3].session().username()))
        .collect();
    let mut to_doomed = Vec::new();
    for name in ["alice", "bob", "carol"] {
        // A login of its own: its errors are expected.
        let handle = cluster.handle(PATIENCE);
        let client = Client::login(&handle, name, "a password", "second").await;
        to_doomed.push(Load::start(&client.unwrap(), "doomed"));
    }
    let mut inbox = doomed.listen(Listen::default());
    let listening = tokio::spawn(async move {
        let mut heard = 0;
        loop {
            match inbox.next_message().await {
                Some(Ok(_)) => heard += 1,
                Some(Err(error)) => return (heard, error),
                None => panic!("the stream ended without a word"),
            }
        }
    });
    for load in ring.iter().chain(&to_doomed) {
        load.more(50).await;
    }
    doomed.delete_account("a password").await.unwrap();

    let (heard, error) = tokio::time::timeout(PATIENCE, listening)
        .await
        .unwrap()
        .unwrap();
    assert!(heard > 0);
    assert_eq!(error.class(), Class::NotLoggedIn, "{error}");
    for load in to_doomed {
        // Each sender ends at its first refusal, and that must be the right one.
        let sent = load.stop().await;
        let refused = sent.iter().filter_map(|sent| sent.outcome.as_ref().err());
        for error in refused {
            assert_eq!(error.reason, "RECIPIENT_UNKNOWN");
        }
    }
    let late = clients[0].send("doomed", "are you there?").await;
    assert_eq!(reason(late), "RECIPIENT_UNKNOWN");
    let handle = cluster.handle(PATIENCE);
    let login = Client::login(&handle, "doomed", "a password", "").await;
    assert_eq!(reason(login), "BAD_CREDENTIALS");
    let names = clients[0].list_accounts("", 0, "").await.unwrap().usernames;
    assert_eq!(names, ["alice", "bob", "carol"]);

    // The others did not notice.
    for (n, load) in ring.into_iter().enumerate() {
        load.more(50).await;
        let sent = load.stop().await;
        check_inbox(&read_inbox(&clients[(n + 1) % 3]).await, &sent);
    }
    // The name may be taken again; the new account has an inbox of its own.
    let reborn = cluster.account("doomed").await;
    assert_ne!(
        reborn.session().data().user_id,
        doomed.session().data().user_id
    );
    assert!(read_inbox(&reborn).await.is_empty());
    cluster.finish(&clients[0]).await;
}

async fn a_listener_survives_the_kill_of_the_replica_that_serves_it(protocol: Protocol) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let mut inbox = bob.listen(Listen {
        heartbeat: Duration::from_millis(200),
        ..Listen::default()
    });
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    cluster.kill(&[primary]);
    load.more(100).await;
    let sent = load.stop().await;
    let mut heard = Vec::new();
    while heard.len() < sent.len() {
        let next = tokio::time::timeout(PATIENCE, inbox.next_message()).await;
        heard.push(next.expect("a message in time").unwrap().unwrap());
    }
    // The listener itself would have reported a gap; this compares with what was promised.
    check_inbox(&heard, &sent);
    let last = heard.last().unwrap().inbox_seq;
    assert_eq!(bob.ack(last).await.unwrap(), last);
    cluster.spawn(primary);
    cluster.finish(&bob).await;
}

/// A listener hears only what happens while it listens.
async fn a_receipt_that_nobody_heard_can_be_asked_for(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let mut peers: Vec<String> = (0..600).map(|n| format!("nobody-{n}")).collect();
    peers.push("bob".into());
    assert_eq!(alice.list_delivered(&peers).await.unwrap(), []);
    let first = alice.send("bob", "one").await.unwrap();
    alice.send("bob", "two").await.unwrap();
    bob.ack(first.inbox_seq).await.unwrap();
    // Through any replica, and of what this account sent only.
    let mark = [("bob".to_owned(), first.message_id)];
    for id in 1..=3 {
        let reader = cluster.reader_on(id, &alice);
        assert_eq!(reader.list_delivered(&peers).await.unwrap(), mark);
    }
    let bobs = bob.list_delivered(&["bob".into(), "alice".into()]).await;
    assert_eq!(bobs.unwrap(), []);
    let malformed = alice.list_delivered(&["no name".into()]).await;
    assert_eq!(reason(malformed), "INVALID_NAME");
    cluster.finish(&alice).await;
}

crate::over_both! {
    a_receipt_that_nobody_heard_can_be_asked_for,
    clients_send_and_listen_while_one_account_is_deleted,
    a_listener_survives_the_kill_of_the_replica_that_serves_it,
}
