//! Messages of snapshots, polls, repairs and elections that `hostile` sends, in good form and not.

use bytes::Bytes;
use chat::consensus::{Place, Row, SnapshotChunk};
use chat::limits::{SNAPSHOT_MACHINE_BYTES_MAX, STATE_RECORD_BYTES_MAX};
use chat::proto::peer as proto;
use chat::proto::peer::envelope::Body;
use chat::types::Hash;

/// A state that another cluster could offer.
fn offer() -> proto::SnapshotOffer {
    let stamp = proto::Stamp {
        term: 1,
        index: 1 << 40,
    };
    let member = |id| proto::Member {
        id,
        incarnation: vec![5; 16].into(),
    };
    proto::SnapshotOffer {
        stamp: Some(stamp),
        hash: vec![5; 32].into(),
        time_us: 5,
        founders: (1..=3).map(member).collect(),
        digest: vec![5; 32].into(),
        members: (1..=3).map(member).collect(),
        machine: Bytes::new(),
    }
}

/// Rows of trees, with the sum that they must have.
fn chunk(rows: &[(u32, &'static [u8])]) -> proto::SnapshotChunk {
    let as_sent = |(tree, key): &(u32, &'static [u8])| proto::SnapshotRow {
        tree: *tree,
        key: Bytes::from_static(key),
        value: Bytes::from_static(b"value"),
    };
    let as_read = |(tree, key): &(u32, &'static [u8])| Row {
        place: Place {
            tree: *tree as u8,
            key: Bytes::from_static(key),
        },
        value: Bytes::from_static(b"value"),
    };
    let read = SnapshotChunk {
        name: Hash([5; 32]),
        after: None,
        rows: rows.iter().map(as_read).collect(),
        done: true,
    };
    proto::SnapshotChunk {
        name: vec![5; 32].into(),
        after: None,
        rows: rows.iter().map(as_sent).collect(),
        done: true,
        sum: read.sum().0.to_vec().into(),
    }
}

fn ballot() -> proto::Ballot {
    proto::Ballot {
        nonce: 3,
        last: Some(proto::Stamp {
            term: 1,
            index: 1 << 40,
        }),
        head_hash: vec![5; 32].into(),
        random: u64::MAX,
        timestamp_us: 0,
    }
}

/// Of snapshots, polls, repairs and elections: what no replica would say, for it is cut, too long, too
/// many, out of range or out of order.
pub fn absurd_bodies() -> Vec<Body> {
    let offered = |change: fn(&mut proto::SnapshotOffer)| {
        let mut offer = offer();
        change(&mut offer);
        Body::SnapshotOffer(offer)
    };
    let long = |bytes| Bytes::from(vec![5; bytes]);
    let mut sum = chunk(&[(0, b"a")]);
    sum.sum = long(32);
    let mut name = chunk(&[]);
    name.name = long(31);
    let mut key = chunk(&[(0, b"a")]);
    key.rows[0].key = long(STATE_RECORD_BYTES_MAX + 1);
    let mut value = chunk(&[(0, b"a")]);
    value.rows[0].value = long(STATE_RECORD_BYTES_MAX + 1);
    let chunks = [
        sum,
        name,
        key,
        value,
        chunk(&[(0, b"b"), (0, b"a")]),
        chunk(&[(1, b"a"), (0, b"b")]),
        chunk(&[(0, b"a"), (0, b"a")]),
        chunk(&[(4, b"a")]),
    ];
    let mut no_last = ballot();
    no_last.last = None;
    let mut cut = ballot();
    cut.head_hash = long(31);
    let mut far = ballot();
    far.last = Some(proto::Stamp {
        term: u64::MAX,
        index: 1,
    });
    let poll_reply = |answer| Body::PollReply(proto::PollReply { nonce: 3, answer });
    let mut all = vec![
        offered(|offer| offer.machine = vec![5; SNAPSHOT_MACHINE_BYTES_MAX + 1].into()),
        offered(|offer| offer.stamp = None),
        offered(|offer| offer.stamp.as_mut().unwrap().index = u64::MAX),
        offered(|offer| offer.digest = Bytes::new()),
        offered(|offer| offer.founders.clear()),
        offered(|offer| offer.members.reverse()),
        offered(|offer| offer.members = vec![offer.members[0].clone(); 1_000]),
        offered(|offer| offer.members[2].incarnation = vec![5; 17].into()),
        Body::Poll(proto::Poll {
            nonce: 3,
            above: u64::MAX,
        }),
        poll_reply(0),
        poll_reply(99),
        Body::RepairTo(proto::RepairTo { index: u64::MAX }),
    ];
    all.extend(chunks.map(Body::SnapshotChunk));
    all.extend([no_last, cut, far].map(Body::Ballot));
    all
}

/// A message in good form that no replica has reason to send now.
pub struct Plausible {
    pub body: Body,
    /// What it is refused as if it is of a term that has ended, ...
    pub ended: Option<&'static str>,
    /// ... of the present one, ...
    pub present: Option<&'static str>,
    /// ... or of a later one, from a life that the cluster does not know. Of each: `None` if it has
    /// no effect and is not counted.
    pub later: Option<&'static str>,
}

/// Each of the messages that are seldom seen.
pub fn plausible() -> Vec<Plausible> {
    let nonce = 3;
    let row = |body, ended, present, later| Plausible {
        body,
        ended,
        present,
        later,
    };
    let (earlier, later, replay) = (Some("earlier_term"), Some("later_term"), Some("replay"));
    let of_rows = Body::SnapshotChunk(chunk(&[(0, b"a")]));
    let grant = Body::Grant(proto::Grant { nonce, clock_us: 5 });
    let never = Body::PollReply(proto::PollReply {
        nonce,
        answer: proto::PollAnswer::Never.into(),
    });
    let offer = Body::SnapshotOffer(offer());
    vec![
        row(offer, earlier, Some("other_cluster"), later),
        row(of_rows, earlier, replay, later),
        row(grant, earlier, replay, later),
        row(never, replay, replay, replay),
        // There is a primary.
        row(Body::Ballot(ballot()), earlier, None, later),
        // There is nothing to repair.
        row(
            Body::RepairTo(proto::RepairTo { index: 1 }),
            earlier,
            None,
            later,
        ),
        // A question, answered in the present term.
        row(
            Body::Poll(proto::Poll { nonce, above: 1 }),
            None,
            None,
            None,
        ),
    ]
}
