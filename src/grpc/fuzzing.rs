//! What fuzzers call of this module; see [`crate::fuzzing`]. Each takes any bytes and panics only on
//! a defect.

use super::peer_convert::{Expected, Identity, from_envelope, to_envelope};
use crate::admin;
use crate::consensus::{
    Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, Place, PollAnswer, Refresh,
    Row, SnapshotChunk, SnapshotHead,
};
use crate::proto::admin as proto_admin;
use crate::proto::peer as proto;
use crate::replica::{PeerMessage, WriteError, Written};
use crate::state_machine::{Command, Operation, Reply};
use crate::types::entry::{Entry, Kind};
use crate::types::{
    Base, ClusterId, Hash, Incarnation, Index, Members, ReplicaId, RunNonce, Stamp, Term, WallTime,
};
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// The cluster that all samples are of.
pub(crate) const MEMBERS: [ReplicaId; 3] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];
/// The process run of all senders.
pub(crate) const RUN: RunNonce = RunNonce(9);
const EXPECTED: Expected = Expected {
    from: ReplicaId(2),
    to: ReplicaId(1),
};

/// Of each of them.
pub(crate) fn incarnation(id: ReplicaId) -> Incarnation {
    Incarnation([id.0 as u8; 16])
}

fn members() -> Members {
    MEMBERS.iter().map(|id| (*id, incarnation(*id))).collect()
}

/// What another replica sends: what is accepted survives the way back. A chunk's sum is made good,
/// too: nothing random has one.
pub fn envelope(data: &[u8]) {
    let Ok(mut envelope) = proto::Envelope::decode(data) else {
        return;
    };
    round_trip(envelope.clone());
    (envelope.from, envelope.to) = (2, 1);
    for incarnation in [&mut envelope.from_incarnation, &mut envelope.to_incarnation] {
        if !incarnation.is_empty() {
            *incarnation = Bytes::from_static(&[7; 16]);
        }
    }
    if let Some(proto::envelope::Body::SnapshotChunk(chunk)) = &mut envelope.body {
        chunk.sum = sum_of(chunk).0.to_vec().into();
    }
    round_trip(envelope);
}

fn round_trip(envelope: proto::Envelope) {
    let Ok(received) = from_envelope(envelope, EXPECTED) else {
        return;
    };
    let identity = Identity {
        cluster: received.cluster,
        from_incarnation: Incarnation([7; 16]),
        to_incarnation: received.to_incarnation,
        run: RUN,
    };
    let again = to_envelope(&received.message, &identity);
    let again =
        proto::Envelope::decode(&again.encode_to_vec()[..]).expect("what is encoded decodes");
    let again = from_envelope(again, EXPECTED).expect("what was accepted is accepted again");
    assert_eq!(again.message, received.message);
}

fn sum_of(chunk: &proto::SnapshotChunk) -> Hash {
    let place = |tree: u32, key: &Bytes| Place {
        tree: tree as u8,
        key: key.clone(),
    };
    let rows = chunk.rows.iter().map(|row| Row {
        place: place(row.tree, &row.key),
        value: row.value.clone(),
    });
    SnapshotChunk {
        name: Hash::from_slice(&chunk.name).unwrap_or_default(),
        after: chunk
            .after
            .as_ref()
            .map(|after| place(after.tree, &after.key)),
        rows: rows.collect(),
        done: chunk.done,
    }
    .sum()
}

/// As a replica of the samples' cluster sends it.
pub(crate) fn envelope_of(message: &PeerMessage) -> proto::Envelope {
    let identity = Identity {
        cluster: Some(ClusterId::of_members(&members())),
        from_incarnation: incarnation(ReplicaId(2)),
        to_incarnation: Some(incarnation(ReplicaId(1))),
        run: RUN,
    };
    to_envelope(message, &identity)
}

/// Valid inputs of [`envelope`]: a message of each sort.
pub fn envelope_seeds() -> Vec<Vec<u8>> {
    let (from, to) = (EXPECTED.from, EXPECTED.to);
    let consensus = messages().into_iter().map(|body| {
        PeerMessage::Consensus(Message {
            from,
            to,
            cluster: Some(ClusterId::of_members(&members())),
            from_incarnation: incarnation(from),
            to_incarnation: Some(incarnation(to)),
            run: RUN,
            term: Term(3),
            body,
        })
    });
    let command = Command {
        auth: None,
        request: None,
        operation: Operation::DeleteAccount,
        front: false,
    };
    let (run, nonce) = (RUN, 5);
    let forward = PeerMessage::Forward {
        from,
        to,
        run,
        nonce,
        command,
    };
    let outcomes = [
        Ok(Written {
            reply: Reply::Done,
            index: Index(9),
        }),
        Err(WriteError::NotApplied),
    ];
    let replies = outcomes.map(|outcome| PeerMessage::ForwardReply {
        from,
        to,
        run,
        nonce,
        outcome,
    });
    let all = consensus.chain([forward]).chain(replies);
    all.map(|message| envelope_of(&message).encode_to_vec())
        .collect()
}

fn entries(first: u64, count: u64) -> Vec<Entry> {
    let mut previous = Hash([4; 32]);
    (first..first + count)
        .map(|index| {
            let stamp = Stamp::new(Term(1), Index(index));
            let entry = Entry::seal(stamp, WallTime(index), previous, Kind::Command, b"payload");
            previous = entry.hash();
            entry
        })
        .collect()
}

/// A body of each sort.
pub(crate) fn messages() -> Vec<Body> {
    let last = Stamp::new(Term(1), Index(6));
    let (nonce, index) = (5, Index(6));
    let place = Place {
        tree: 1,
        key: Bytes::from_static(b"key"),
    };
    let mut all = vec![
        Body::Hello(hello(last)),
        Body::Refresh(refresh(last)),
        Body::Ask { nonce, last },
        Body::Agree { nonce },
        Body::Ballot(Ballot {
            nonce,
            last,
            head_hash: Hash([4; 32]),
            random: 1,
            timestamp: WallTime(1),
        }),
        Body::Abstain,
        Body::Grant {
            nonce,
            clock: WallTime(1),
        },
        Body::AppendReply(AppendReply::Match {
            index,
            counting: true,
        }),
        Body::AppendReply(AppendReply::Conflict {
            previous: last,
            hint: Index(3),
        }),
        Body::Round { nonce },
        Body::RoundReply { nonce },
        Body::ReadIndex { nonce },
        Body::ReadIndexReply { nonce, index },
        Body::CampaignNow,
        Body::CopyRequest {
            nonce,
            after: last,
            after_hash: Hash([4; 32]),
        },
        Body::CopyPiece {
            nonce,
            entries: entries(7, 3),
            done: true,
        },
        Body::SnapshotRequest {
            name: Hash([5; 32]),
            after: Some(place.clone()),
        },
        Body::RepairTo { index },
        Body::Poll {
            nonce,
            above: Index(3),
        },
    ];
    let answers = [PollAnswer::Never, PollAnswer::Held, PollAnswer::Unknown];
    all.extend(answers.map(|answer| Body::PollReply { nonce, answer }));
    all.extend([entries(7, 3), Vec::new()].map(|entries| append(last, entries)));
    all.extend(snapshot(place));
    all
}

fn append(previous: Stamp, entries: Vec<Entry>) -> Body {
    Body::Append(Append {
        previous,
        previous_hash: Hash([4; 32]),
        commit: previous.index,
        notice: entries.is_empty(),
        entries,
    })
}

fn snapshot(place: Place) -> [Body; 2] {
    let head = SnapshotHead {
        base: Base {
            stamp: Stamp::new(Term(1), Index(40)),
            hash: Hash([4; 32]),
            time: WallTime(1),
            founders: members(),
        },
        digest: Hash([6; 32]),
        members: members(),
        machine: Bytes::from_static(b"totals"),
    };
    let row = |tree| Row {
        place: Place {
            tree,
            key: Bytes::from_static(b"key"),
        },
        value: Bytes::from_static(b"value"),
    };
    let chunk = SnapshotChunk {
        name: head.name(),
        after: Some(place),
        rows: vec![row(2), row(3)],
        done: false,
    };
    [
        Body::SnapshotOffer(Box::new(head)),
        Body::SnapshotChunk(Box::new(chunk)),
    ]
}

fn hello(last: Stamp) -> Hello {
    Hello {
        ids: MEMBERS.to_vec(),
        formation: FormationStatus::Formed(members()),
        last,
        head_hash: Hash([4; 32]),
        commit: last.index,
        primary: Some(ReplicaId(2)),
        protocol: (1, 1),
        level: crate::types::LEVEL,
        build: "0.1.0".into(),
        damaged: false,
        admitted: true,
        repairing: false,
        knows_run: Some(RunNonce(4)),
        remembers: last,
    }
}

fn refresh(last: Stamp) -> Refresh {
    Refresh {
        progress: 3,
        is_primary: true,
        primary: Some(ReplicaId(2)),
        last,
        settled: last,
        commit: last.index,
        applied: last.index,
        digests: vec![(Index(1_024), Hash([6; 32]))],
        acknowledged: BTreeMap::from([(ReplicaId(1), last), (ReplicaId(3), last)]),
        members: BTreeMap::from([(ReplicaId(1), Incarnation([1; 16]))]),
        members_at: last.index,
        clock: WallTime(1_767_225_600_000_000),
        disk_low: true,
        quarantined: false,
        knows_run: Some(RunNonce(4)),
        remembers: last,
    }
}

/// What a replica tells operators, as `chat-admin` reads and prints it, and what is relayed: one byte
/// says which.
pub fn admin(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else {
        return;
    };
    match which % 6 {
        0 => {
            if let Ok(response) = proto_admin::StatusResponse::decode(bytes) {
                let _ = admin::format::status_table(&response.replicas);
                let _ = admin::format::status_json(&response.replicas);
            }
        }
        1 => {
            if let Ok(response) = proto_admin::VerifyReplicaResponse::decode(bytes) {
                let _ = admin::client::report_in(response);
            }
        }
        2 => {
            if let Ok(page) = proto_admin::ListEntriesResponse::decode(bytes)
                && let Ok(entries) = admin::client::entries_in(&page)
            {
                for entry in &entries {
                    let _ = admin::format::entry_text(entry, true);
                    let _ = admin::format::entry_json(entry, true);
                }
            }
        }
        3 => {
            if let Ok(page) = proto_admin::ListCommitRecordsResponse::decode(bytes)
                && let Ok(records) = admin::client::records_in(&page)
            {
                for record in &records {
                    let _ = admin::format::commit_record_text(record);
                    let _ = admin::format::commit_record_json(record);
                }
            }
        }
        4 => drop(proto::RelayRequest::decode(bytes)),
        _ => drop(proto::RelayResponse::decode(bytes)),
    }
}

/// Valid inputs of [`admin()`].
pub fn admin_seeds() -> Vec<Vec<u8>> {
    let status = proto_admin::ReplicaStatus {
        id: 1,
        role: "primary".into(),
        digest: vec![1; 32].into(),
        head_hash: vec![2; 32].into(),
        errors: vec!["its disk is nearly full".into()],
        connected: vec![2, 3],
        refusals: vec![proto_admin::Refusal::default()],
        ..proto_admin::ReplicaStatus::default()
    };
    let verified = proto_admin::VerifyReplicaResponse {
        hash: vec![1; 32].into(),
        digest: vec![2; 32].into(),
        findings: vec![proto_admin::Finding::default()],
        ..proto_admin::VerifyReplicaResponse::default()
    };
    let command = Command {
        auth: None,
        request: None,
        operation: Operation::UpdateProfile {
            full_name: "Alice".into(),
        },
        front: false,
    };
    let stamp = Stamp::new(Term(1), Index(7));
    let payload = command.encode();
    let entry = Entry::seal(stamp, WallTime(1), Hash([1; 32]), Kind::Command, &payload);
    let formation = Entry::formation(&members());
    let entries = proto_admin::ListEntriesResponse {
        entries: vec![formation.bytes().clone(), entry.bytes().clone()],
    };
    let records = proto_admin::ListCommitRecordsResponse {
        records: vec![proto_admin::CommitRecord {
            hash: vec![1; 32].into(),
            digest: vec![2; 32].into(),
            time_us: u64::MAX,
            ..proto_admin::CommitRecord::default()
        }],
    };
    let request = proto::RelayRequest {
        to: 2,
        request: Some(proto::relay_request::Request::Verify(
            proto_admin::VerifyReplicaRequest { replica: 2, at: 9 },
        )),
    };
    let response = proto::RelayResponse {
        response: Some(proto::relay_response::Response::Status(status.clone())),
    };
    let statuses = proto_admin::StatusResponse {
        replicas: vec![status],
    };
    let framed = |which: u8, bytes: Vec<u8>| [&[which][..], &bytes].concat();
    vec![
        framed(0, statuses.encode_to_vec()),
        framed(1, verified.encode_to_vec()),
        framed(2, entries.encode_to_vec()),
        framed(3, records.encode_to_vec()),
        framed(4, request.encode_to_vec()),
        framed(5, response.encode_to_vec()),
    ]
}
