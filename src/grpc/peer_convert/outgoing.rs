//! Our types to protobuf.

use super::Identity;
use crate::consensus::{
    Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, Place, PollAnswer, Refresh,
    SnapshotChunk, SnapshotHead,
};
use crate::proto::peer as proto;
use crate::proto::peer::envelope::Body as ProtoBody;
use crate::replica::PeerMessage;
use crate::types::entry::Entry;
use crate::types::{Members, ReplicaId, Stamp};
use bytes::Bytes;

/// The wire form of a message. `identity` is put on what does not carry it itself.
pub fn to_envelope(message: &PeerMessage, identity: &Identity) -> proto::Envelope {
    let body = match message {
        PeerMessage::Consensus(message) => return consensus(message),
        PeerMessage::Forward { nonce, command, .. } => ProtoBody::Forward(proto::Forward {
            nonce: *nonce,
            command: packed(command),
        }),
        PeerMessage::ForwardReply {
            run,
            nonce,
            outcome,
            ..
        } => ProtoBody::ForwardReply(proto::ForwardReply {
            nonce: *nonce,
            outcome: packed(outcome),
            origin_run: run.0,
        }),
        PeerMessage::ForwardRead { nonce, query, .. } => {
            ProtoBody::ForwardRead(proto::ForwardRead {
                nonce: *nonce,
                query: packed(query),
            })
        }
        PeerMessage::ForwardReadReply {
            run, nonce, answer, ..
        } => ProtoBody::ForwardReadReply(proto::ForwardReadReply {
            nonce: *nonce,
            answer: packed(answer),
            origin_run: run.0,
        }),
    };
    let run = match message {
        PeerMessage::Forward { run, .. } | PeerMessage::ForwardRead { run, .. } => *run,
        _ => identity.run,
    };
    proto::Envelope {
        from: message.from().0.into(),
        to: message.to().0.into(),
        cluster: optional(identity.cluster.map(|c| c.0)),
        from_incarnation: copy(&identity.from_incarnation.0),
        to_incarnation: optional(identity.to_incarnation.map(|i| i.0)),
        run: run.0,
        term: 0,
        body: Some(body),
    }
}

fn packed(value: &impl serde::Serialize) -> Bytes {
    rmp_serde::to_vec(value)
        .expect("numbers, strings and bytes always encode")
        .into()
}

fn consensus(message: &Message) -> proto::Envelope {
    proto::Envelope {
        from: message.from.0.into(),
        to: message.to.0.into(),
        cluster: optional(message.cluster.map(|c| c.0)),
        from_incarnation: copy(&message.from_incarnation.0),
        to_incarnation: optional(message.to_incarnation.map(|i| i.0)),
        run: message.run.0,
        term: message.term.0,
        body: Some(body(&message.body)),
    }
}

fn body(body: &Body) -> ProtoBody {
    match body {
        Body::Hello(hello) => ProtoBody::Hello(hello_out(hello)),
        Body::Refresh(refresh) => ProtoBody::Refresh(refresh_out(refresh)),
        Body::Ask { nonce, last } => ProtoBody::Ask(proto::Ask {
            nonce: *nonce,
            last: stamp(*last),
        }),
        Body::Agree { nonce } => ProtoBody::Agree(proto::Agree { nonce: *nonce }),
        Body::Ballot(ballot) => ProtoBody::Ballot(ballot_out(ballot)),
        Body::Abstain => ProtoBody::Abstain(proto::Abstain {}),
        Body::Grant { nonce, clock } => ProtoBody::Grant(proto::Grant {
            nonce: *nonce,
            clock_us: clock.0,
        }),
        Body::Append(append) => ProtoBody::Append(append_out(append)),
        Body::AppendReply(AppendReply::Match { index, counting }) => {
            ProtoBody::AppendMatch(proto::AppendMatch {
                index: index.0,
                counting: *counting,
            })
        }
        Body::AppendReply(AppendReply::Conflict { previous, hint }) => {
            ProtoBody::AppendConflict(proto::AppendConflict {
                previous: stamp(*previous),
                hint: hint.0,
            })
        }
        Body::StateWanted { at_least } => ProtoBody::StateWanted(proto::StateWanted {
            at_least: at_least.0,
        }),
        Body::StateDoubted { index } => {
            ProtoBody::StateDoubted(proto::StateDoubted { index: index.0 })
        }
        Body::Round { nonce } => ProtoBody::Round(proto::Round { nonce: *nonce }),
        Body::RoundReply { nonce } => ProtoBody::RoundReply(proto::RoundReply { nonce: *nonce }),
        Body::ReadIndex { nonce } => ProtoBody::ReadIndex(proto::ReadIndex { nonce: *nonce }),
        Body::ReadIndexReply { nonce, index } => ProtoBody::ReadIndexReply(proto::ReadIndexReply {
            nonce: *nonce,
            index: index.0,
        }),
        Body::CampaignNow => ProtoBody::CampaignNow(proto::CampaignNow {}),
        Body::CopyRequest {
            nonce,
            after,
            after_hash,
        } => ProtoBody::CopyRequest(proto::CopyRequest {
            nonce: *nonce,
            after: stamp(*after),
            after_hash: copy(&after_hash.0),
        }),
        Body::CopyPiece {
            nonce,
            entries,
            done,
        } => ProtoBody::CopyPiece(proto::CopyPiece {
            nonce: *nonce,
            entries: entries_out(entries),
            done: *done,
        }),
        Body::SnapshotOffer(head) => ProtoBody::SnapshotOffer(offer_out(head)),
        Body::SnapshotRequest { name, after } => {
            ProtoBody::SnapshotRequest(proto::SnapshotRequest {
                name: copy(&name.0),
                after: after.as_ref().map(place_out),
            })
        }
        Body::SnapshotChunk(chunk) => ProtoBody::SnapshotChunk(chunk_out(chunk)),
        Body::RepairTo { index } => ProtoBody::RepairTo(proto::RepairTo { index: index.0 }),
        Body::Poll { nonce, above } => ProtoBody::Poll(proto::Poll {
            nonce: *nonce,
            above: above.0,
        }),
        Body::PollReply { nonce, answer } => ProtoBody::PollReply(proto::PollReply {
            nonce: *nonce,
            answer: answer_out(*answer).into(),
        }),
    }
}

fn answer_out(answer: PollAnswer) -> proto::PollAnswer {
    match answer {
        PollAnswer::Never => proto::PollAnswer::Never,
        PollAnswer::Held => proto::PollAnswer::Held,
        PollAnswer::Unknown => proto::PollAnswer::Unknown,
    }
}

fn offer_out(head: &SnapshotHead) -> proto::SnapshotOffer {
    proto::SnapshotOffer {
        stamp: stamp(head.base.stamp),
        hash: copy(&head.base.hash.0),
        time_us: head.base.time.0,
        founders: members_out(&head.base.founders),
        digest: copy(&head.digest.0),
        members: members_out(&head.members),
        machine: head.machine.clone(),
    }
}

fn place_out(place: &Place) -> proto::Place {
    proto::Place {
        tree: place.tree.into(),
        key: place.key.clone(),
    }
}

fn chunk_out(chunk: &SnapshotChunk) -> proto::SnapshotChunk {
    let rows = chunk.rows.iter().map(|row| proto::SnapshotRow {
        tree: row.place.tree.into(),
        key: row.place.key.clone(),
        value: row.value.clone(),
    });
    proto::SnapshotChunk {
        name: copy(&chunk.name.0),
        after: chunk.after.as_ref().map(place_out),
        rows: rows.collect(),
        done: chunk.done,
        sum: copy(&chunk.sum().0),
    }
}

fn hello_out(hello: &Hello) -> proto::Hello {
    use proto::hello::Formation;
    proto::Hello {
        ids: hello.ids.iter().map(|id| id.0.into()).collect(),
        formation: Some(match &hello.formation {
            FormationStatus::Unformed => Formation::Unformed(proto::Unformed {}),
            FormationStatus::Prepared(cluster) => Formation::Prepared(copy(&cluster.0)),
            FormationStatus::Formed(members) => Formation::Formed(proto::Formed {
                members: members_out(members),
            }),
        }),
        last: stamp(hello.last),
        head_hash: copy(&hello.head_hash.0),
        commit: hello.commit.0,
        primary: replica(hello.primary),
        protocol_min: hello.protocol.0,
        protocol_max: hello.protocol.1,
        level: hello.level.0,
        build: hello.build.clone(),
        damaged: hello.damaged,
        admitted: hello.admitted,
        repairing: hello.repairing,
        knows_run: hello.knows_run.map(|run| run.0),
        remembers: stamp(hello.remembers),
    }
}

fn members_out(members: &Members) -> Vec<proto::Member> {
    members
        .iter()
        .map(|(id, incarnation)| proto::Member {
            id: id.0.into(),
            incarnation: copy(&incarnation.0),
        })
        .collect()
}

fn refresh_out(refresh: &Refresh) -> proto::Refresh {
    proto::Refresh {
        progress: refresh.progress,
        is_primary: refresh.is_primary,
        primary: replica(refresh.primary),
        last: stamp(refresh.last),
        settled: stamp(refresh.settled),
        commit: refresh.commit.0,
        applied: refresh.applied.0,
        digests: refresh
            .digests
            .iter()
            .map(|(index, digest)| proto::Digest {
                index: index.0,
                digest: copy(&digest.0),
            })
            .collect(),
        acknowledged: refresh
            .acknowledged
            .iter()
            .map(|(id, last)| proto::Acknowledged {
                id: id.0.into(),
                stamp: stamp(*last),
            })
            .collect(),
        members: members_out(&refresh.members),
        members_at: refresh.members_at.0,
        clock_us: refresh.clock.0,
        disk_low: refresh.disk_low,
        knows_run: refresh.knows_run.map(|run| run.0),
        remembers: stamp(refresh.remembers),
        quarantined: refresh.quarantined,
    }
}

fn ballot_out(ballot: &Ballot) -> proto::Ballot {
    proto::Ballot {
        nonce: ballot.nonce,
        last: stamp(ballot.last),
        head_hash: copy(&ballot.head_hash.0),
        random: ballot.random,
        timestamp_us: ballot.timestamp.0,
    }
}

fn append_out(append: &Append) -> proto::Append {
    proto::Append {
        previous: stamp(append.previous),
        previous_hash: copy(&append.previous_hash.0),
        entries: entries_out(&append.entries),
        commit: append.commit.0,
        notice: append.notice,
    }
}

/// Shares the entries' bytes.
fn entries_out(entries: &[Entry]) -> Vec<Bytes> {
    entries.iter().map(|entry| entry.bytes().clone()).collect()
}

#[allow(clippy::unnecessary_wraps)] // a message field is always optional in proto3
fn stamp(stamp: Stamp) -> Option<proto::Stamp> {
    Some(proto::Stamp {
        term: stamp.term.0,
        index: stamp.index.0,
    })
}

fn replica(id: Option<ReplicaId>) -> u32 {
    id.map_or(0, |id| id.0.into())
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn optional<const N: usize>(bytes: Option<[u8; N]>) -> Bytes {
    bytes.map_or_else(Bytes::new, |bytes| copy(&bytes))
}
