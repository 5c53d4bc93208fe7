//! Messages between replicas, there and back, and damaged on the way.

use super::*;
use crate::consensus::{
    Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, PollAnswer, Refresh,
};
use crate::limits;
use crate::proto::peer as proto;
use crate::replica::{PeerMessage, ReadError, WriteError, Written};
use crate::state_machine::{
    Answer, Auth, Command, Cursor, InboxMessage, Operation, Query, Refusal, Reply,
};
use crate::types::entry::{Entry, Kind};
use crate::types::{
    ClientId, Hash, InboxSeq, Index, Level, Members, RequestId, Stamp, Term, TokenHash, UserId,
    WallTime,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

const EXPECTED: Expected = Expected {
    from: ReplicaId(2),
    to: ReplicaId(1),
};

/// Terms and indexes.
fn numbers() -> std::ops::RangeInclusive<u64> {
    0..=limits::NUMBER_MAX
}
fn stamps() -> impl Strategy<Value = Stamp> {
    (numbers(), numbers()).prop_map(|(term, index)| Stamp::new(Term(term), Index(index)))
}
fn hashes() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}
fn primaries() -> impl Strategy<Value = Option<ReplicaId>> {
    prop::option::of((1..8u16).prop_map(ReplicaId))
}
fn members() -> impl Strategy<Value = Members> {
    prop::collection::btree_map(
        any::<u16>().prop_map(|id| ReplicaId(id.max(1))),
        any::<[u8; 16]>().prop_map(Incarnation),
        1..=5,
    )
}
fn chains() -> impl Strategy<Value = Vec<Entry>> {
    let payloads = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6);
    (1..1_000_000u64, hashes(), payloads).prop_map(|(first, mut previous, payloads)| {
        let mut entries = Vec::new();
        for (index, payload) in (first..).zip(&payloads) {
            let stamp = Stamp::new(Term(3), Index(index));
            let entry = Entry::seal(stamp, WallTime(index), previous, Kind::Command, payload);
            previous = entry.hash();
            entries.push(entry);
        }
        entries
    })
}

fn hellos() -> impl Strategy<Value = Hello> {
    let formation = prop_oneof![
        Just(FormationStatus::Unformed),
        any::<[u8; 32]>().prop_map(|id| FormationStatus::Prepared(ClusterId(id))),
        members().prop_map(FormationStatus::Formed),
    ];
    (
        prop::collection::btree_set(1..u16::MAX, 1..=7),
        formation,
        (stamps(), hashes(), numbers(), primaries()),
        (0..9u32, 9..20u32, any::<u32>(), "[ -~]{0,64}"),
        (any::<bool>(), any::<bool>(), any::<Option<u64>>()),
    )
        .prop_map(|(ids, formation, log, version, flags)| Hello {
            ids: ids.into_iter().map(ReplicaId).collect(),
            formation,
            last: log.0,
            head_hash: log.1,
            commit: Index(log.2),
            primary: log.3,
            protocol: (version.0, version.1),
            level: Level(version.2),
            build: version.3,
            damaged: flags.0,
            admitted: flags.1,
            repairing: flags.0 ^ flags.1,
            knows_run: flags.2.map(RunNonce),
            remembers: log.0,
        })
}

fn refreshes() -> impl Strategy<Value = Refresh> {
    (
        (any::<u64>(), any::<bool>(), primaries(), stamps()),
        (numbers(), numbers(), any::<u64>(), any::<bool>(), stamps()),
        prop::collection::vec((numbers().prop_map(Index), hashes()), 0..5),
        prop::collection::btree_map((1..8u16).prop_map(ReplicaId), stamps(), 0..5),
        any::<Option<u64>>(),
        prop_oneof![Just(Members::new()), members()],
    )
        .prop_map(
            |(a, b, digests, acknowledged, knows_run, members)| Refresh {
                progress: a.0,
                is_primary: a.1,
                primary: a.2,
                last: a.3,
                commit: Index(b.0),
                applied: Index(b.1),
                digests,
                acknowledged,
                members,
                members_at: Index(b.1),
                clock: WallTime(b.2),
                disk_low: b.3,
                knows_run: knows_run.map(RunNonce),
                settled: b.4,
                remembers: a.3,
                quarantined: a.1 ^ b.3,
            },
        )
}

fn ballots() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), stamps(), hashes(), any::<(u64, u64)>()).prop_map(
        |(nonce, last, head_hash, (random, time))| Ballot {
            nonce,
            last,
            head_hash,
            random,
            timestamp: WallTime(time),
        },
    )
}

fn bodies() -> impl Strategy<Value = Body> {
    let append = (stamps(), hashes(), chains(), numbers(), any::<bool>()).prop_map(
        |(previous, previous_hash, entries, commit, notice)| {
            Body::Append(Append {
                previous,
                previous_hash,
                entries,
                commit: Index(commit),
                notice,
            })
        },
    );
    prop_oneof![
        hellos().prop_map(Body::Hello),
        refreshes().prop_map(Body::Refresh),
        (any::<u64>(), stamps()).prop_map(|(nonce, last)| Body::Ask { nonce, last }),
        any::<u64>().prop_map(|nonce| Body::Agree { nonce }),
        ballots().prop_map(Body::Ballot),
        Just(Body::Abstain),
        any::<(u64, u64)>().prop_map(|(nonce, clock)| Body::Grant {
            nonce,
            clock: WallTime(clock),
        }),
        append,
        (numbers(), any::<bool>()).prop_map(|(index, counting)| {
            Body::AppendReply(AppendReply::Match {
                index: Index(index),
                counting,
            })
        }),
        (stamps(), numbers()).prop_map(|(previous, hint)| {
            Body::AppendReply(AppendReply::Conflict {
                previous,
                hint: Index(hint),
            })
        }),
        any::<u64>().prop_map(|nonce| Body::Round { nonce }),
        any::<u64>().prop_map(|nonce| Body::RoundReply { nonce }),
        any::<u64>().prop_map(|nonce| Body::ReadIndex { nonce }),
        (any::<u64>(), numbers()).prop_map(|(nonce, index)| Body::ReadIndexReply {
            nonce,
            index: Index(index),
        }),
        Just(Body::CampaignNow),
        numbers().prop_map(|index| Body::StateWanted {
            at_least: Index(index),
        }),
        numbers().prop_map(|index| Body::StateDoubted {
            index: Index(index),
        }),
        (any::<u64>(), numbers()).prop_map(|(nonce, above)| Body::Poll {
            nonce,
            above: Index(above),
        }),
        (any::<u64>(), 0..3usize).prop_map(|(nonce, answer)| Body::PollReply {
            nonce,
            answer: [PollAnswer::Never, PollAnswer::Held, PollAnswer::Unknown][answer],
        }),
        (any::<u64>(), stamps(), hashes()).prop_map(|(nonce, after, after_hash)| {
            Body::CopyRequest {
                nonce,
                after,
                after_hash,
            }
        }),
        (any::<u64>(), chains(), any::<bool>()).prop_map(|(nonce, entries, done)| {
            Body::CopyPiece {
                nonce,
                entries,
                done,
            }
        }),
    ]
}

/// As it stands in the log: fields that were added later take their defaults.
fn send(client: [u8; 16], sequence: u64, body: Vec<u8>) -> Command {
    let auth = Auth {
        token: TokenHash([3; 32]),
    };
    let request = RequestId {
        client: ClientId(client),
        sequence,
    };
    let operation = Operation::SendMessage {
        recipient: "bob".into(),
        body,
        content_type: "text/plain".into(),
    };
    let bytes = rmp_serde::to_vec(&(Some(auth), Some(request), operation)).unwrap();
    rmp_serde::from_slice(&bytes).unwrap()
}

fn messages() -> impl Strategy<Value = PeerMessage> {
    let consensus = (
        any::<Option<[u8; 32]>>(),
        any::<[u8; 16]>(),
        any::<Option<[u8; 16]>>(),
        (any::<u64>(), numbers()),
        bodies(),
    )
        .prop_map(|(cluster, from, to, (run, term), body)| {
            PeerMessage::Consensus(Message {
                from: EXPECTED.from,
                to: EXPECTED.to,
                cluster: cluster.map(ClusterId),
                from_incarnation: Incarnation(from),
                to_incarnation: to.map(Incarnation),
                run: RunNonce(run),
                term: Term(term),
                body,
            })
        });
    let forward = (
        any::<(u64, u64)>(),
        any::<([u8; 16], u64)>(),
        any::<Vec<u8>>(),
    )
        .prop_map(
            |((run, nonce), (client, sequence), body)| PeerMessage::Forward {
                from: EXPECTED.from,
                to: EXPECTED.to,
                run: RunNonce(run),
                nonce,
                command: send(client, sequence, body),
            },
        );
    let outcome = prop_oneof![
        any::<(u64, u64)>().prop_map(|(index, seq)| Ok(Written {
            reply: Reply::Sent {
                id: Index(index),
                inbox_seq: InboxSeq(seq),
                time: WallTime(seq),
            },
            index: Index(index),
        })),
        Just(Err(WriteError::NotApplied)),
        Just(Err(WriteError::OutcomeUnknown)),
    ];
    let reply = (any::<(u64, u64)>(), outcome).prop_map(|((run, nonce), outcome)| {
        PeerMessage::ForwardReply {
            from: EXPECTED.from,
            to: EXPECTED.to,
            run: RunNonce(run),
            nonce,
            outcome,
        }
    });
    prop_oneof![6 => consensus, 1 => forward, 1 => reply, 1 => reads(), 1 => answers()]
}

fn reads() -> impl Strategy<Value = PeerMessage> {
    let query = prop_oneof![
        "[a-z]{1,8}".prop_map(|name| Query::Credentials { name }),
        (any::<[u8; 32]>(), any::<Option<u64>>(), 0..300usize).prop_map(|(token, after, limit)| {
            Query::Inbox {
                token: TokenHash(token),
                after: after.map(InboxSeq),
                limit,
            }
        }),
    ];
    (any::<(u64, u64)>(), query).prop_map(|((run, nonce), query)| PeerMessage::ForwardRead {
        from: EXPECTED.from,
        to: EXPECTED.to,
        run: RunNonce(run),
        nonce,
        query,
    })
}

fn answers() -> impl Strategy<Value = PeerMessage> {
    let message = (any::<[u64; 4]>(), any::<Vec<u8>>()).prop_map(|(n, body)| InboxMessage {
        id: Index(n[0]),
        seq: InboxSeq(n[1]),
        sender: UserId(n[2]),
        sender_name: "ann".into(),
        time: WallTime(n[3]),
        body,
        content_type: "text/plain".into(),
    });
    let inbox = (any::<u64>(), prop::collection::vec(message, 0..4)).prop_map(|(n, messages)| {
        Ok(Answer::Inbox {
            user: UserId(n),
            messages,
            cursor: Cursor {
                first: InboxSeq(1),
                acknowledged: InboxSeq(n),
                last: InboxSeq(n),
            },
        })
    });
    let answer = prop_oneof![
        inbox,
        Just(Ok(Answer::Refused(Refusal::TokenInvalid))),
        Just(Err(ReadError::Unavailable)),
    ];
    (any::<(u64, u64)>(), answer).prop_map(|((run, nonce), answer)| PeerMessage::ForwardReadReply {
        from: EXPECTED.from,
        to: EXPECTED.to,
        run: RunNonce(run),
        nonce,
        answer,
    })
}

fn through_bytes(envelope: &proto::Envelope) -> proto::Envelope {
    proto::Envelope::decode(Bytes::from(envelope.encode_to_vec())).unwrap()
}

proptest! {
    #[test]
    fn what_is_sent_is_what_arrives(message in messages(), cluster: Option<[u8; 32]>) {
        let identity = Identity {
            cluster: cluster.map(ClusterId),
            ..Identity::default()
        };
        let envelope = to_envelope(&message, &identity);
        let received = from_envelope(through_bytes(&envelope), EXPECTED).unwrap();
        if !matches!(message, PeerMessage::Consensus(_)) {
            prop_assert_eq!(received.cluster, identity.cluster);
        }
        prop_assert_eq!(received.message, message);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_message_but_never_a_panic(
        message in messages(),
        at: prop::sample::Index,
        with: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = to_envelope(&message, &Identity::default()).encode_to_vec();
        let position = at.index(bytes.len());
        bytes[position] ^= with;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(envelope) = proto::Envelope::decode(Bytes::from(bytes)) {
            let _ = from_envelope(envelope, EXPECTED);
        }
    }
}

fn envelope(body: proto::envelope::Body) -> proto::Envelope {
    proto::Envelope {
        from: 2,
        to: 1,
        from_incarnation: Bytes::from_static(&[7; 16]),
        body: Some(body),
        ..proto::Envelope::default()
    }
}

fn refusal(envelope: proto::Envelope) -> String {
    from_envelope(envelope, EXPECTED).unwrap_err().to_string()
}

fn two_entries() -> Vec<Bytes> {
    let first = Entry::formation(&Members::new());
    let stamp = Stamp::new(Term(1), Index(2));
    let second = Entry::seal(stamp, WallTime(1), first.hash(), Kind::TermStart, b"");
    vec![first.bytes().clone(), second.bytes().clone()]
}

fn append(entries: Vec<Bytes>) -> proto::Envelope {
    envelope(proto::envelope::Body::Append(proto::Append {
        previous: Some(proto::Stamp::default()),
        previous_hash: Bytes::from_static(&[0; 32]),
        entries,
        commit: 0,
        notice: false,
    }))
}

#[test]
fn the_ends_of_the_connection_must_match() {
    let mut misdirected = append(Vec::new());
    misdirected.to = 3;
    assert_eq!(
        refusal(misdirected),
        "it is from replica 2 to replica 3: check --peers of both"
    );
}

#[test]
fn hashes_of_the_wrong_length_and_missing_parts_are_refused() {
    let mut short = append(Vec::new());
    short.from_incarnation = Bytes::from_static(&[7; 15]);
    assert_eq!(refusal(short), "from_incarnation has 15 bytes");
    let mut empty = append(Vec::new());
    empty.body = None;
    assert_eq!(refusal(empty), "body is missing");
    let ask = proto::Ask {
        nonce: 1,
        last: None,
    };
    assert_eq!(
        refusal(envelope(proto::envelope::Body::Ask(ask))),
        "last is missing"
    );
}

#[test]
fn entries_must_be_whole_alone_and_chained() {
    assert!(from_envelope(append(two_entries()), EXPECTED).is_ok());

    let mut trailing = two_entries();
    trailing[1] = [&trailing[1][..], &[0]].concat().into();
    assert_eq!(refusal(append(trailing)), "entry has 69 bytes");

    let mut cut = two_entries();
    cut[1] = cut[1].slice(..60);
    assert_eq!(refusal(append(cut)), "an entry does not parse");

    let mut reversed = two_entries();
    reversed.reverse();
    assert_eq!(
        refusal(append(reversed)),
        "entry 1 does not follow the one before it"
    );

    let mut unchained = two_entries();
    let mut bytes = unchained[1].to_vec();
    bytes[40] ^= 1;
    unchained[1] = bytes.into();
    assert_eq!(
        refusal(append(unchained)),
        "entry 2 does not follow the one before it"
    );
}

#[test]
fn a_hello_with_too_many_or_disordered_ids_is_refused() {
    let hello = |ids: Vec<u32>| {
        envelope(proto::envelope::Body::Hello(proto::Hello {
            ids,
            formation: Some(proto::hello::Formation::Unformed(proto::Unformed {})),
            last: Some(proto::Stamp::default()),
            head_hash: Bytes::from_static(&[0; 32]),
            ..proto::Hello::default()
        }))
    };
    assert!(from_envelope(hello(vec![1, 2, 3]), EXPECTED).is_ok());
    for ids in [
        vec![],
        vec![2, 1],
        vec![1, 1],
        vec![0, 1],
        vec![1, 70_000],
        (1..=8).collect(),
    ] {
        assert_eq!(refusal(hello(ids)), "ids is out of range");
    }
}

#[test]
fn terms_and_indexes_that_no_log_reaches_are_refused() {
    let mut late = append(Vec::new());
    late.term = limits::NUMBER_MAX;
    assert!(from_envelope(late.clone(), EXPECTED).is_ok());
    late.term += 1;
    assert_eq!(refusal(late), "term is out of range");

    let poll = |above| envelope(proto::envelope::Body::Poll(proto::Poll { nonce: 1, above }));
    assert_eq!(refusal(poll(u64::MAX)), "above is out of range");

    // An entry with the last index there is would have no next one.
    let last = Stamp::new(Term(1), Index(u64::MAX));
    let entry = Entry::seal(last, WallTime(1), Hash::default(), Kind::TermStart, b"");
    let twice = vec![entry.bytes().clone(), entry.bytes().clone()];
    assert_eq!(refusal(append(twice)), "an entry does not parse");
}
