//! Streams on a model of a replica.

use super::tests::{create, message, reason, service};
use super::*;
use crate::replica::Wake;
use crate::types::{InboxSeq, Index};

#[tokio::test]
async fn a_stream_brings_the_backlog_its_end_and_then_what_comes() {
    let (service, fake) = service();
    let token = create(&service, "alice").await;
    let count = limits::DELIVER_BATCH_MAX as u64 + 3;
    for n in 1..=count {
        let text = n.to_string();
        service
            .send_message(&token, message("alice", &text))
            .await
            .unwrap();
    }
    service
        .ack_messages(&token, InboxSeq(2), None)
        .await
        .unwrap();
    let request = DeliverMessages {
        heartbeat_ms: 1,
        ..DeliverMessages::default()
    };
    let mut stream = service.deliver_messages(&token, request).await.unwrap();
    for n in 3..=count {
        let Deliver::Message(message) = stream.next().await.unwrap() else {
            panic!("a message was to come")
        };
        assert_eq!(message.seq, InboxSeq(n));
        assert_eq!(message.body, n.to_string().as_bytes());
    }
    assert_eq!(stream.next().await.unwrap(), Deliver::EndOfBacklog);
    let next = service
        .send_message(&token, message("alice", "new"))
        .await
        .unwrap();
    let Deliver::Message(message) = stream.next().await.unwrap() else {
        panic!("the new message was to come")
    };
    assert_eq!(message.id, next.message_id);
    service
        .ack_messages(&token, InboxSeq(5), None)
        .await
        .unwrap();
    let heartbeat = Deliver::Heartbeat {
        cursor: InboxSeq(5),
    };
    assert_eq!(stream.next().await.unwrap(), heartbeat);
    let delivered = Wake::Delivered {
        peer: "bob".to_owned(),
        up_to: Index(9),
    };
    fake.wake(&delivered);
    let up_to = Index(9);
    let peer = "bob".to_owned();
    assert_eq!(
        stream.next().await.unwrap(),
        Deliver::Delivered { peer, up_to }
    );
}

#[tokio::test]
async fn a_full_inbox_and_acknowledging_peers_take_turns() {
    let (service, fake) = service();
    let token = create(&service, "alice").await;
    let batches = 3 * limits::DELIVER_BATCH_MAX;
    for _ in 0..batches {
        service
            .send_message(&token, message("alice", "x"))
            .await
            .unwrap();
    }
    let mut stream = service
        .deliver_messages(&token, DeliverMessages::default())
        .await
        .unwrap();
    for n in 0..9 {
        fake.wake(&Wake::Delivered {
            peer: format!("peer{n}"),
            up_to: Index(1),
        });
    }
    let mut events = Vec::new();
    while events.last() != Some(&Deliver::EndOfBacklog) {
        events.push(stream.next().await.unwrap());
    }
    let delivered = |event: &&Deliver| matches!(event, Deliver::Delivered { .. });
    assert_eq!(events.iter().filter(delivered).count(), 2, "one a batch");
}

#[tokio::test]
async fn a_stream_ends_with_the_reason() {
    let (service, fake) = service();
    let token = create(&service, "alice").await;
    for (wake, expected) in [
        (Wake::Lost, Reason::Unavailable),
        (Wake::ShutDown, Reason::Unavailable),
        (Wake::Revoked, Reason::TokenInvalid),
    ] {
        let request = DeliverMessages::default();
        let mut stream = service.deliver_messages(&token, request).await.unwrap();
        assert_eq!(stream.next().await.unwrap(), Deliver::EndOfBacklog);
        fake.wake(&wake);
        assert_eq!(reason(stream.next().await), expected);
    }
    let beyond = DeliverMessages {
        after: Some(InboxSeq(1)),
        ..DeliverMessages::default()
    };
    let refused = service.deliver_messages(&token, beyond).await.map(drop);
    assert_eq!(reason(refused), Reason::CursorBeyondEnd);
    let request = DeliverMessages::default();
    let stranger = service.deliver_messages(&Token::generate(), request).await;
    assert_eq!(reason(stranger.map(drop)), Reason::TokenInvalid);
    let mut stream = service.deliver_messages(&token, request).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Deliver::EndOfBacklog);
    service.close_streams();
    assert_eq!(reason(stream.next().await), Reason::Unavailable);
    let late = service.deliver_messages(&token, request).await.map(drop);
    assert_eq!(reason(late), Reason::Unavailable);
}

#[tokio::test]
async fn a_logout_elsewhere_ends_the_tokens_stream() {
    let (service, _) = service();
    let token = create(&service, "alice").await;
    let mut stream = service
        .deliver_messages(&token, DeliverMessages::default())
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap(), Deliver::EndOfBacklog);
    service.logout(&token, None).await.unwrap();
    assert_eq!(reason(stream.next().await), Reason::TokenInvalid);
}
