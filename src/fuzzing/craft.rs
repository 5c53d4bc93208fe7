//! Messages made of a few bytes: any sort, with numbers at which something may go wrong, and now and
//! then the very answer that the replica waits for.

use super::node::{ME, World, from, log, members};
use crate::consensus::{
    Append, AppendReply, Ballot, Body, Message, Place, PollAnswer, ReadId, Row, SnapshotChunk,
    SnapshotHead,
};
use crate::grpc::fuzzing::{MEMBERS, messages};
use crate::limits::NUMBER_MAX;
use crate::types::entry::{Entry, Kind};
use crate::types::{Base, Hash, Index, Members, Stamp, Term, WallTime};
use bytes::Bytes;

/// Bytes of one message, or of something else that happens.
pub(super) const OP_BYTES: usize = 6;

/// The nonces under which the replica asked last, by sort of question.
#[derive(Default)]
pub(super) struct Asked {
    ask: u64,
    ballot: u64,
    round: u64,
    read: u64,
    copy: u64,
    poll: u64,
}

impl Asked {
    /// Notes what the replica sends.
    pub(super) fn note(&mut self, message: &Message) {
        match &message.body {
            Body::Ask { nonce, .. } => self.ask = *nonce,
            Body::Ballot(ballot) => self.ballot = ballot.nonce,
            Body::Round { nonce } => self.round = *nonce,
            Body::ReadIndex { nonce } => self.read = *nonce,
            Body::CopyRequest { nonce, .. } => self.copy = *nonce,
            Body::Poll { nonce, .. } => self.poll = *nonce,
            _ => {}
        }
    }
}

/// What these bytes say happens.
pub(super) fn happen(world: &mut World, op: [u8; OP_BYTES]) {
    let [what, who, a, b, c, d] = op;
    let peer = MEMBERS[1 + usize::from(who & 1)];
    let now = world.now();
    match what % 32 {
        0 => world.pass(u64::from(a) * 10_000),
        1 => world.node.on_link_down(now, peer, a & 1 == 1),
        2 => world.node.on_link_up(now, peer),
        3 => world.node.read_index(now, ReadId(u64::from(a))),
        4 => {
            let commands = vec![(Kind::Command, vec![a; usize::from(b)])];
            // Refused by anyone but a primary.
            let _ = world.node.propose(now, &commands);
        }
        5 => world.node.hand_over(now),
        6 => world.node.on_fetched(now, peer, log()),
        sort => {
            let body = body(world, sort, [a, b, c, d]);
            let term = match who >> 1 & 7 {
                0..=3 => world.node.status().term,
                4 => Term(world.node.status().term.0 + 1),
                5 => Term(world.node.status().term.0.saturating_sub(1)),
                _ => Term(number(who >> 4)),
            };
            world.step(from(peer, term, body));
        }
    }
}

fn number(byte: u8) -> u64 {
    match byte % 16 {
        small @ 0..=9 => small.into(),
        10 => 40,
        11 => 1 << 20,
        12 => NUMBER_MAX - 1,
        13 => NUMBER_MAX,
        14 => 6,
        _ => 7,
    }
}

fn stamp(term: u8, index: u8) -> Stamp {
    Stamp::new(Term(number(term) % 4), Index(number(index)))
}

/// The right one, or another.
fn nonce(right: u64, byte: u8) -> u64 {
    if byte.is_multiple_of(4) {
        byte.into()
    } else {
        right
    }
}

fn body(world: &World, sort: u8, [a, b, c, d]: [u8; 4]) -> Body {
    let asked = &world.asked;
    let last = stamp(a, b);
    match sort {
        7 => Body::Ask {
            nonce: c.into(),
            last,
        },
        8 => Body::Agree {
            nonce: nonce(asked.ask, a),
        },
        9 => Body::Ballot(Ballot {
            nonce: c.into(),
            last,
            head_hash: Hash([d; 32]),
            random: d.into(),
            timestamp: WallTime(number(c)),
        }),
        10 => Body::Grant {
            nonce: nonce(asked.ballot, a),
            clock: WallTime(u64::MAX / 256 * u64::from(b)),
        },
        11..=14 => append(world, [a, b, c, d]),
        15 => Body::AppendReply(AppendReply::Match {
            index: Index(number(a)),
            counting: b & 1 == 1,
        }),
        16 => Body::AppendReply(AppendReply::Conflict {
            previous: last,
            hint: Index(number(c)),
        }),
        17 => Body::RoundReply {
            nonce: nonce(asked.round, a),
        },
        18 => Body::ReadIndexReply {
            nonce: nonce(asked.read, a),
            index: Index(number(b)),
        },
        _ => rarer_body(world, sort, [a, b, c, d]),
    }
}

/// Of copies, snapshots and repairs; and the samples.
fn rarer_body(world: &World, sort: u8, [a, b, c, d]: [u8; 4]) -> Body {
    let asked = &world.asked;
    match sort {
        19 => Body::CopyRequest {
            nonce: a.into(),
            after: stamp(b, c),
            after_hash: hash(world, stamp(b, c).index, d),
        },
        20 => Body::CopyPiece {
            nonce: nonce(asked.copy, a),
            entries: entries(world, [b, c, d, a]),
            done: a & 4 == 0,
        },
        21 | 22 => Body::SnapshotOffer(Box::new(head([a, b, c, d]))),
        23 => Body::SnapshotRequest {
            name: head([a, b, c, d]).name(),
            after: (a & 1 == 1).then(|| place(b)),
        },
        24 | 25 => Body::SnapshotChunk(Box::new(SnapshotChunk {
            name: head([a, b, c, d & 3]).name(),
            after: (d & 4 == 4).then(|| place(d >> 3 & 1)),
            rows: vec![Row {
                place: place(2 + (d >> 4)),
                value: Bytes::from_static(b"value"),
            }],
            done: d & 128 == 128,
        })),
        26 => Body::RepairTo {
            index: Index(number(a)),
        },
        27 => Body::Poll {
            nonce: a.into(),
            above: Index(number(b)),
        },
        28 => Body::PollReply {
            nonce: nonce(asked.poll, a),
            answer: [PollAnswer::Never, PollAnswer::Held, PollAnswer::Unknown][usize::from(b) % 3],
        },
        // One of the samples as it is: hellos, refreshes, and the rest.
        _ => {
            let all = messages();
            all[usize::from(a) % all.len()].clone()
        }
    }
}

fn append(world: &World, [a, b, c, d]: [u8; 4]) -> Body {
    let entries = entries(world, [a, b, c, d]);
    let previous = entries.first().map(|first| {
        let index = first.index().previous();
        let term = if d & 8 == 8 { Term(0) } else { Term(1) };
        (Stamp::new(term, index), first.previous_hash())
    });
    let at = stamp(a, b);
    let (previous, previous_hash) = previous.unwrap_or_else(|| (at, hash(world, at.index, c)));
    Body::Append(Append {
        previous,
        previous_hash,
        entries,
        commit: Index(number(d)),
        notice: c & 1 == 1,
    })
}

/// Consecutive entries, mostly such that follow an entry of the log.
fn entries(world: &World, [first, term, count, odd]: [u8; 4]) -> Vec<Entry> {
    let mut index = Index(number(first)).next();
    let mut previous = hash(world, index.previous(), odd);
    (0..count % 4)
        .map(|_| {
            let stamp = Stamp::new(Term(u64::from(term) % 4), index);
            let entry = Entry::seal(stamp, WallTime(index.0), previous, Kind::Command, &[odd]);
            previous = entry.hash();
            index = index.next();
            entry
        })
        .collect()
}

/// Of the entry at this index of the log that all began with, or of the replica's last one.
fn hash(world: &World, index: Index, odd: u8) -> Hash {
    let status = world.node.status();
    let log = log();
    let own = log.iter().find(|entry| entry.index() == index);
    match own {
        _ if odd % 8 == 7 => Hash([odd; 32]),
        _ if status.last.index == index => status.head_hash,
        Some(entry) => entry.hash(),
        None => Hash([4; 32]),
    }
}

fn head([a, b, c, d]: [u8; 4]) -> SnapshotHead {
    let mut founders = members();
    if d % 8 == 7 {
        founders.remove(&ME);
    }
    SnapshotHead {
        base: Base {
            stamp: stamp(a, b),
            hash: Hash([c; 32]),
            time: WallTime(number(c)),
            founders,
        },
        digest: Hash([c; 32]),
        members: if d % 4 == 3 {
            Members::new()
        } else {
            members()
        },
        machine: Bytes::new(),
    }
}

fn place(tree: u8) -> Place {
    Place {
        tree: tree & 3,
        key: Bytes::from_static(b"key"),
    }
}
