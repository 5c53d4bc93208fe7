//! Protobuf to our types, trusting nothing.

use super::{BadMessage, Expected};
use crate::consensus::{
    Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, Place, PollAnswer, Refresh,
    Row, SnapshotChunk, SnapshotHead,
};
use crate::limits;
use crate::proto::peer as proto;
use crate::proto::peer::envelope::Body as ProtoBody;
use crate::replica::PeerMessage;
use crate::state_machine::Command;
use crate::types::entry::{Entry, HEADER_BYTES};
use crate::types::{
    Base, ClusterId, Hash, Incarnation, Index, Level, Members, ReplicaId, RunNonce, Stamp, Term,
    WallTime,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A message, and the identity on its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The message.
    pub message: PeerMessage,
    /// The sender's cluster.
    pub cluster: Option<ClusterId>,
    /// The sender's incarnation.
    pub from_incarnation: Incarnation,
    /// The receiver's incarnation as the sender knows it.
    pub to_incarnation: Option<Incarnation>,
}

/// Parses one envelope that came over a connection between these two.
pub fn from_envelope(
    envelope: proto::Envelope,
    expected: Expected,
) -> Result<Received, BadMessage> {
    if envelope.from != u32::from(expected.from.0) || envelope.to != u32::from(expected.to.0) {
        return Err(BadMessage::Misdirected {
            from: envelope.from,
            to: envelope.to,
        });
    }
    let (from, to) = (expected.from, expected.to);
    let cluster = optional("cluster", &envelope.cluster, ClusterId::from_slice)?;
    let from_incarnation = fixed(
        "from_incarnation",
        &envelope.from_incarnation,
        Incarnation::from_slice,
    )?;
    let to_incarnation = optional(
        "to_incarnation",
        &envelope.to_incarnation,
        Incarnation::from_slice,
    )?;
    let run = RunNonce(envelope.run);
    let message = match envelope.body.ok_or(BadMessage::Missing("body"))? {
        ProtoBody::Forward(forward) => PeerMessage::Forward {
            from,
            to,
            run,
            nonce: forward.nonce,
            command: command_in(&forward.command)?,
        },
        ProtoBody::ForwardReply(reply) => PeerMessage::ForwardReply {
            from,
            to,
            run: RunNonce(reply.origin_run),
            nonce: reply.nonce,
            outcome: decode("outcome", &reply.outcome)?,
        },
        ProtoBody::ForwardRead(read) => PeerMessage::ForwardRead {
            from,
            to,
            run,
            nonce: read.nonce,
            query: decode("query", &read.query)?,
        },
        ProtoBody::ForwardReadReply(reply) => PeerMessage::ForwardReadReply {
            from,
            to,
            run: RunNonce(reply.origin_run),
            nonce: reply.nonce,
            answer: decode("answer", &reply.answer)?,
        },
        other => PeerMessage::Consensus(Message {
            from,
            to,
            cluster,
            from_incarnation,
            to_incarnation,
            run,
            term: Term(number("term", envelope.term)?),
            body: body(other)?,
        }),
    };
    Ok(Received {
        message,
        cluster,
        from_incarnation,
        to_incarnation,
    })
}

fn append_in(append: &proto::Append) -> Result<Append, BadMessage> {
    Ok(Append {
        previous: stamp("previous", append.previous)?,
        previous_hash: hash("previous_hash", &append.previous_hash)?,
        entries: entries(&append.entries)?,
        commit: index("commit", append.commit)?,
        notice: append.notice,
    })
}

fn body(body: ProtoBody) -> Result<Body, BadMessage> {
    Ok(match body {
        ProtoBody::Hello(hello) => Body::Hello(hello_in(hello)?),
        ProtoBody::Refresh(refresh) => Body::Refresh(refresh_in(&refresh)?),
        ProtoBody::Ask(ask) => Body::Ask {
            nonce: ask.nonce,
            last: stamp("last", ask.last)?,
        },
        ProtoBody::Agree(agree) => Body::Agree { nonce: agree.nonce },
        ProtoBody::Ballot(ballot) => Body::Ballot(ballot_in(&ballot)?),
        ProtoBody::Abstain(proto::Abstain {}) => Body::Abstain,
        ProtoBody::Grant(grant) => Body::Grant {
            nonce: grant.nonce,
            clock: WallTime(grant.clock_us),
        },
        ProtoBody::Append(append) => Body::Append(append_in(&append)?),
        ProtoBody::AppendMatch(reply) => Body::AppendReply(AppendReply::Match {
            index: index("index", reply.index)?,
            counting: reply.counting,
        }),
        ProtoBody::AppendConflict(reply) => Body::AppendReply(AppendReply::Conflict {
            previous: stamp("previous", reply.previous)?,
            hint: index("hint", reply.hint)?,
        }),
        ProtoBody::Round(round) => Body::Round { nonce: round.nonce },
        ProtoBody::RoundReply(reply) => Body::RoundReply { nonce: reply.nonce },
        ProtoBody::ReadIndex(read) => Body::ReadIndex { nonce: read.nonce },
        ProtoBody::ReadIndexReply(reply) => Body::ReadIndexReply {
            nonce: reply.nonce,
            index: index("index", reply.index)?,
        },
        ProtoBody::StateWanted(wanted) => Body::StateWanted {
            at_least: index("at_least", wanted.at_least)?,
        },
        ProtoBody::StateDoubted(doubted) => Body::StateDoubted {
            index: index("index", doubted.index)?,
        },
        ProtoBody::CampaignNow(proto::CampaignNow {}) => Body::CampaignNow,
        ProtoBody::CopyRequest(request) => Body::CopyRequest {
            nonce: request.nonce,
            after: stamp("after", request.after)?,
            after_hash: hash("after_hash", &request.after_hash)?,
        },
        ProtoBody::CopyPiece(piece) => Body::CopyPiece {
            nonce: piece.nonce,
            entries: entries(&piece.entries)?,
            done: piece.done,
        },
        ProtoBody::SnapshotOffer(offer) => Body::SnapshotOffer(Box::new(offer_in(offer)?)),
        ProtoBody::SnapshotRequest(request) => Body::SnapshotRequest {
            name: hash("name", &request.name)?,
            after: request.after.map(place_in).transpose()?,
        },
        ProtoBody::SnapshotChunk(chunk) => Body::SnapshotChunk(Box::new(chunk_in(chunk)?)),
        ProtoBody::Poll(poll) => poll_in(&poll)?,
        ProtoBody::PollReply(reply) => poll_reply_in(&reply)?,
        ProtoBody::RepairTo(to) => repair_to_in(&to)?,
        ProtoBody::Forward(_)
        | ProtoBody::ForwardReply(_)
        | ProtoBody::ForwardRead(_)
        | ProtoBody::ForwardReadReply(_) => {
            return Err(BadMessage::Range("body"));
        }
    })
}

fn ballot_in(ballot: &proto::Ballot) -> Result<Ballot, BadMessage> {
    Ok(Ballot {
        nonce: ballot.nonce,
        last: stamp("last", ballot.last)?,
        head_hash: hash("head_hash", &ballot.head_hash)?,
        random: ballot.random,
        timestamp: WallTime(ballot.timestamp_us),
    })
}

fn command_in(bytes: &Bytes) -> Result<Command, BadMessage> {
    let command: Command = decode("command", bytes)?;
    if !command.is_sound() {
        return Err(BadMessage::Range("command"));
    }
    Ok(command)
}

fn repair_to_in(to: &proto::RepairTo) -> Result<Body, BadMessage> {
    Ok(Body::RepairTo {
        index: index("index", to.index)?,
    })
}

fn poll_in(poll: &proto::Poll) -> Result<Body, BadMessage> {
    Ok(Body::Poll {
        nonce: poll.nonce,
        above: index("above", poll.above)?,
    })
}

fn poll_reply_in(reply: &proto::PollReply) -> Result<Body, BadMessage> {
    let answer = match reply.answer() {
        proto::PollAnswer::Never => PollAnswer::Never,
        proto::PollAnswer::Held => PollAnswer::Held,
        proto::PollAnswer::Unknown => PollAnswer::Unknown,
        proto::PollAnswer::Unspecified => return Err(BadMessage::Range("answer")),
    };
    let nonce = reply.nonce;
    Ok(Body::PollReply { nonce, answer })
}

fn offer_in(offer: proto::SnapshotOffer) -> Result<SnapshotHead, BadMessage> {
    if offer.machine.len() > limits::SNAPSHOT_MACHINE_BYTES_MAX {
        return Err(BadMessage::Range("machine"));
    }
    Ok(SnapshotHead {
        base: Base {
            stamp: stamp("stamp", offer.stamp)?,
            hash: hash("hash", &offer.hash)?,
            time: WallTime(offer.time_us),
            founders: members(&offer.founders)?,
        },
        digest: hash("digest", &offer.digest)?,
        members: members(&offer.members)?,
        machine: offer.machine,
    })
}

fn place_in(place: proto::Place) -> Result<Place, BadMessage> {
    row_place(place.tree, place.key)
}

fn row_place(tree: u32, key: Bytes) -> Result<Place, BadMessage> {
    if key.len() > limits::STATE_RECORD_BYTES_MAX {
        return Err(BadMessage::Range("key"));
    }
    let tree = u8::try_from(tree).ok().filter(|tree| *tree < 4);
    let tree = tree.ok_or(BadMessage::Range("tree"))?;
    Ok(Place { tree, key })
}

/// The rows of a chunk, in order and with the sum that it names.
fn chunk_in(chunk: proto::SnapshotChunk) -> Result<SnapshotChunk, BadMessage> {
    let rows = chunk.rows.into_iter().map(|row| {
        if row.value.len() > limits::STATE_RECORD_BYTES_MAX {
            return Err(BadMessage::Range("value"));
        }
        Ok(Row {
            place: row_place(row.tree, row.key)?,
            value: row.value,
        })
    });
    let parsed = SnapshotChunk {
        name: hash("name", &chunk.name)?,
        after: chunk.after.map(place_in).transpose()?,
        rows: rows.collect::<Result<_, _>>()?,
        done: chunk.done,
    };
    if !parsed.is_ordered() {
        return Err(BadMessage::Range("rows"));
    }
    if parsed.sum() != hash("sum", &chunk.sum)? {
        return Err(BadMessage::Range("sum"));
    }
    Ok(parsed)
}

fn hello_in(hello: proto::Hello) -> Result<Hello, BadMessage> {
    use proto::hello::Formation;
    if hello.ids.is_empty() || hello.ids.len() > limits::REPLICAS_MAX {
        return Err(BadMessage::Range("ids"));
    }
    let ids = hello
        .ids
        .iter()
        .map(|id| replica("ids", *id))
        .collect::<Result<Vec<_>, _>>()?;
    if !ids.is_sorted_by(|a, b| a < b) {
        return Err(BadMessage::Range("ids"));
    }
    if hello.build.len() > limits::BUILD_BYTES_MAX {
        return Err(BadMessage::Range("build"));
    }
    if hello.protocol_min > hello.protocol_max {
        return Err(BadMessage::Range("protocol_min"));
    }
    let formation = match hello.formation.ok_or(BadMessage::Missing("formation"))? {
        Formation::Unformed(proto::Unformed {}) => FormationStatus::Unformed,
        Formation::Prepared(cluster) => {
            FormationStatus::Prepared(fixed("prepared", &cluster, ClusterId::from_slice)?)
        }
        Formation::Formed(formed) => FormationStatus::Formed(members(&formed.members)?),
    };
    Ok(Hello {
        ids,
        formation,
        last: stamp("last", hello.last)?,
        head_hash: hash("head_hash", &hello.head_hash)?,
        commit: index("commit", hello.commit)?,
        primary: optional_replica("primary", hello.primary)?,
        protocol: (hello.protocol_min, hello.protocol_max),
        level: Level(hello.level),
        build: hello.build,
        damaged: hello.damaged,
        admitted: hello.admitted,
        repairing: hello.repairing,
        knows_run: hello.knows_run.map(RunNonce),
        // Builds before this field remember nothing.
        remembers: hello
            .remembers
            .map_or(Ok(Stamp::ZERO), |known| stamp("remembers", Some(known)))?,
    })
}

fn members(list: &[proto::Member]) -> Result<Members, BadMessage> {
    if list.is_empty() || list.len() > limits::REPLICAS_MAX {
        return Err(BadMessage::Range("members"));
    }
    let mut members = Members::new();
    for member in list {
        let id = replica("members", member.id)?;
        let incarnation = fixed("incarnation", &member.incarnation, Incarnation::from_slice)?;
        // Ascending, so that there is one form only and no id twice.
        if members
            .last_key_value()
            .is_some_and(|(last, _)| *last >= id)
        {
            return Err(BadMessage::Range("members"));
        }
        members.insert(id, incarnation);
    }
    Ok(members)
}

fn refresh_in(refresh: &proto::Refresh) -> Result<Refresh, BadMessage> {
    if refresh.digests.len() > limits::DIGESTS_MAX {
        return Err(BadMessage::Range("digests"));
    }
    if refresh.acknowledged.len() > limits::REPLICAS_MAX {
        return Err(BadMessage::Range("acknowledged"));
    }
    let mut acknowledged = BTreeMap::new();
    for item in &refresh.acknowledged {
        let id = replica("acknowledged", item.id)?;
        if acknowledged
            .insert(id, stamp("acknowledged", item.stamp)?)
            .is_some()
        {
            return Err(BadMessage::Range("acknowledged"));
        }
    }
    Ok(Refresh {
        progress: refresh.progress,
        is_primary: refresh.is_primary,
        primary: optional_replica("primary", refresh.primary)?,
        last: stamp("last", refresh.last)?,
        settled: stamp("settled", refresh.settled)?,
        commit: index("commit", refresh.commit)?,
        applied: index("applied", refresh.applied)?,
        digests: refresh
            .digests
            .iter()
            .map(|d| Ok((index("digests", d.index)?, hash("digest", &d.digest)?)))
            .collect::<Result<_, BadMessage>>()?,
        acknowledged,
        // Builds before this field name none.
        members: if refresh.members.is_empty() {
            Members::new()
        } else {
            members(&refresh.members)?
        },
        members_at: index("members_at", refresh.members_at)?,
        clock: WallTime(refresh.clock_us),
        disk_low: refresh.disk_low,
        knows_run: refresh.knows_run.map(RunNonce),
        // Builds before this field remember nothing.
        remembers: refresh
            .remembers
            .map_or(Ok(Stamp::ZERO), |known| stamp("remembers", Some(known)))?,
        quarantined: refresh.quarantined,
    })
}

/// Consecutive, chained entries; each from bytes that hold exactly one.
fn entries(list: &[Bytes]) -> Result<Vec<Entry>, BadMessage> {
    // The size of the whole message is bounded before it is decoded; this bounds the allocation.
    if list.len() > limits::PEER_MESSAGE_BYTES_MAX / HEADER_BYTES {
        return Err(BadMessage::Range("entries"));
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for bytes in list {
        let (entry, taken) = Entry::parse(bytes)?;
        if taken != bytes.len() {
            return Err(BadMessage::Length {
                what: "entry",
                bytes: bytes.len(),
            });
        }
        if let Some(before) = entries.last()
            && (entry.index() != before.index().next()
                || entry.previous_hash() != before.hash()
                || entry.stamp().term < before.stamp().term)
        {
            return Err(BadMessage::Chain(entry.index()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// A term or an index; one that is out of any log's reach is refused here, so that nothing further
/// in can overflow by counting on.
fn number(what: &'static str, number: u64) -> Result<u64, BadMessage> {
    if number > limits::NUMBER_MAX {
        return Err(BadMessage::Range(what));
    }
    Ok(number)
}

fn index(what: &'static str, index: u64) -> Result<Index, BadMessage> {
    number(what, index).map(Index)
}

fn stamp(what: &'static str, stamp: Option<proto::Stamp>) -> Result<Stamp, BadMessage> {
    let stamp = stamp.ok_or(BadMessage::Missing(what))?;
    Ok(Stamp::new(
        Term(number(what, stamp.term)?),
        index(what, stamp.index)?,
    ))
}

fn replica(what: &'static str, id: u32) -> Result<ReplicaId, BadMessage> {
    match u16::try_from(id) {
        Ok(id) if id > 0 => Ok(ReplicaId(id)),
        _ => Err(BadMessage::Range(what)),
    }
}

fn optional_replica(what: &'static str, id: u32) -> Result<Option<ReplicaId>, BadMessage> {
    if id == 0 {
        Ok(None)
    } else {
        replica(what, id).map(Some)
    }
}

fn hash(what: &'static str, bytes: &Bytes) -> Result<Hash, BadMessage> {
    fixed(what, bytes, Hash::from_slice)
}

fn fixed<T>(
    what: &'static str,
    bytes: &Bytes,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, BadMessage> {
    parse(bytes).ok_or(BadMessage::Length {
        what,
        bytes: bytes.len(),
    })
}

fn optional<T>(
    what: &'static str,
    bytes: &Bytes,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, BadMessage> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        fixed(what, bytes, parse).map(Some)
    }
}

fn decode<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &Bytes,
) -> Result<T, BadMessage> {
    let mut rest: &[u8] = bytes;
    let value =
        rmp_serde::from_read(&mut rest).map_err(|source| BadMessage::Decode { what, source })?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(BadMessage::Length {
            what,
            bytes: bytes.len(),
        })
    }
}
