//! How a commit index comes to secondaries.

use super::*;

/// A settled cluster whose primary holds notices back for so long, and its primary.
fn cluster(notice_wait_us: u64) -> (Cluster, ReplicaId) {
    let mut cluster = Cluster::new(3);
    for node in cluster.nodes.values_mut() {
        node.config.notice_wait_us = notice_wait_us;
    }
    cluster.run(500_000);
    let primary = cluster.primary().unwrap();
    (cluster, primary)
}

/// What the primary sends to the first of the others.
fn sends(cluster: &mut Cluster, primary: ReplicaId) -> Vec<Message> {
    let now = cluster.now();
    let sent = cluster.write_all(now, primary);
    let to = *cluster.nodes.keys().find(|id| **id != primary).unwrap();
    sent.into_iter().filter(|m| m.to == to).collect()
}

fn append(message: &Message) -> &Append {
    match &message.body {
        Body::Append(append) => append,
        body => panic!("no append: {body:?}"),
    }
}

/// Proposes a batch and has it acknowledged by the first secondary; what that one is sent then.
fn commit(cluster: &mut Cluster, primary: ReplicaId, entries: usize) -> Vec<Message> {
    let now = cluster.now();
    let batch = vec![command("a"); entries];
    let node = cluster.nodes.get_mut(&primary).unwrap();
    node.propose(now, &batch).unwrap();
    acknowledge(cluster, primary)
}

/// What was proposed is acknowledged by the first secondary; what that one is sent then.
fn acknowledge(cluster: &mut Cluster, primary: ReplicaId) -> Vec<Message> {
    let now = cluster.now();
    for message in sends(cluster, primary) {
        let to = message.to;
        cluster.step(message);
        for reply in cluster.write_all(now, to) {
            cluster.step(reply);
        }
    }
    sends(cluster, primary)
}

#[test]
fn a_commit_is_told_at_once_and_wants_no_answer_but_a_heartbeat_wants_one() {
    let (mut cluster, primary) = cluster(500);
    let told = commit(&mut cluster, primary, 1);
    let [notice] = &told[..] else {
        panic!("one notice: {told:?}");
    };
    let status = cluster.nodes[&primary].status();
    assert_eq!(append(notice).commit, status.commit);
    assert!(append(notice).notice && append(notice).entries.is_empty());
    assert_eq!(status.commit, status.last.index);
    let (to, now) = (notice.to, cluster.now());
    cluster.step(notice.clone());
    assert_eq!(cluster.nodes[&to].status().commit, status.commit);
    assert_eq!(cluster.write_all(now, to), [], "no answer");

    let heartbeat = Append {
        notice: false,
        ..append(notice).clone()
    };
    cluster.step(Message {
        body: Body::Append(heartbeat),
        ..notice.clone()
    });
    let answers = cluster.write_all(now, to);
    let acknowledges = |m: &Message| matches!(m.body, Body::AppendReply(AppendReply::Match { .. }));
    assert!(answers.iter().any(acknowledges), "{answers:?}");
}

#[test]
fn a_lost_acknowledgement_is_made_good_by_the_next_heartbeat() {
    let (mut cluster, primary) = cluster(0);
    let now = cluster.now();
    let node = cluster.nodes.get_mut(&primary).unwrap();
    let index = node.propose(now, &[command("a")]).unwrap();
    for message in node.take_ready().messages {
        let to = message.to;
        cluster.step(message);
        drop(cluster.write_all(now, to)); // lost
    }
    // Its own disk is slow, so that it needs one of them.
    let node = &cluster.nodes[&primary];
    assert_eq!(node.status().commit, index.previous());
    cluster.run(110_000);
    assert_eq!(cluster.nodes[&primary].status().commit, index);
}

#[test]
fn between_small_batches_close_to_each_other_a_commit_goes_with_the_next_one() {
    let (mut cluster, primary) = cluster(500);
    commit(&mut cluster, primary, 1);
    cluster.now += 1_000;
    assert_eq!(commit(&mut cluster, primary, 1), [], "it waits");
    let before = cluster.nodes[&primary].status().commit;
    let wake_at = cluster.nodes[&primary].wake_at();
    assert_eq!(wake_at, Some(cluster.now().mono.plus(500)));

    let now = cluster.now();
    let node = cluster.nodes.get_mut(&primary).unwrap();
    node.propose(now, &[command("b")]).unwrap();
    let sent = sends(&mut cluster, primary);
    assert_eq!(append(&sent[0]).commit, before);
    assert!(!append(&sent[0]).notice && append(&sent[0]).entries.len() == 1);
    assert_eq!(cluster.nodes[&primary].wake_at(), None);
}

#[test]
fn a_commit_that_nothing_carries_is_told_when_it_has_waited_or_somebody_waits_for_it() {
    for read in [false, true] {
        let (mut cluster, primary) = cluster(500);
        commit(&mut cluster, primary, 1);
        cluster.now += 1_000;
        assert_eq!(commit(&mut cluster, primary, 1), [], "it waits");
        if read {
            let now = cluster.now();
            let node = cluster.nodes.get_mut(&primary).unwrap();
            let peer = *node.peers.keys().next().unwrap();
            node.start_read(reads::Reader::Remote { peer, nonce: 7 });
            for message in cluster.write_all(now, primary) {
                let to = message.to;
                cluster.step(message);
                for reply in cluster.write_all(now, to) {
                    cluster.step(reply);
                }
            }
        } else {
            cluster.now += 500;
            let now = cluster.now();
            cluster.nodes.get_mut(&primary).unwrap().tick(now);
        }
        let sent = sends(&mut cluster, primary);
        let notice = |m: &&Message| matches!(&m.body, Body::Append(append) if append.notice);
        assert_eq!(sent.iter().filter(notice).count(), 1, "{read}: {sent:?}");
    }
}

#[test]
fn after_a_large_batch_a_commit_is_told_at_once() {
    let (mut cluster, primary) = cluster(500);
    commit(&mut cluster, primary, 1);
    cluster.now += 1_000;
    assert_eq!(commit(&mut cluster, primary, 5).len(), 1);
}

/// A client that writes through a secondary sends nothing before that has applied what it wrote.
#[test]
fn a_commit_of_what_came_through_a_secondary_does_not_wait() {
    let (mut cluster, primary) = cluster(500);
    commit(&mut cluster, primary, 1);
    cluster.now += 1_000;
    let now = cluster.now();
    let node = cluster.nodes.get_mut(&primary).unwrap();
    node.propose(now, &[command("a")]).unwrap();
    node.note_awaited_elsewhere();
    let told = acknowledge(&mut cluster, primary);
    assert!(append(&told[0]).notice, "{told:?}");
}

#[test]
fn a_commit_that_waits_is_not_put_off_by_the_next_one() {
    let (mut cluster, primary) = cluster(500);
    commit(&mut cluster, primary, 1);
    cluster.now += 1_000;
    let now = cluster.now();
    let node = cluster.nodes.get_mut(&primary).unwrap();
    for text in ["a", "b"] {
        node.propose(now, &[command(text)]).unwrap();
    }
    // Two batches on their way at once: neither carries the other's commit.
    let sent = sends(&mut cluster, primary);
    let due = now.mono.plus(500);
    for message in sent {
        let (to, now) = (message.to, cluster.now());
        cluster.step(message);
        for reply in cluster.write_all(now, to) {
            cluster.step(reply);
        }
        assert_eq!(sends(&mut cluster, primary), [], "it waits");
        assert_eq!(cluster.nodes[&primary].wake_at(), Some(due));
        cluster.now += 100;
    }
}
