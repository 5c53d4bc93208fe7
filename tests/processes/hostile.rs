//! Hostile messages to the internal listener of a real replica: each is refused with a counter and
//! one line in the log, and nothing else happens.

use crate::cluster::{TestCluster, eventually};
use crate::hostile_bodies::{Plausible, absurd_bodies, plausible};
use bytes::{Buf as _, BufMut as _, Bytes};
use chat::proto::peer as proto;
use chat::proto::peer::envelope::Body;
use chat::proto::peer::peer_service_client::PeerServiceClient;
use chat::types::entry::{Entry, Kind};
use chat::types::{Hash, Index, Stamp, Term, WallTime};
use serde_json::Value;
use std::collections::BTreeMap;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How often each message is sent: all are counted, one is logged.
const TIMES: u64 = 3;
/// The process run that the impostor claims.
const RUN: u64 = 77;

/// Speaks to one replica in the name of another, which is dead.
struct Impostor {
    channel: Channel,
    from: u32,
    to: u32,
    cluster: Bytes,
    incarnation: Bytes,
    to_incarnation: Bytes,
    term: u64,
}

impl Impostor {
    /// As the replica itself would say it.
    fn envelope(&self, body: Body) -> proto::Envelope {
        proto::Envelope {
            from: self.from,
            to: self.to,
            cluster: self.cluster.clone(),
            from_incarnation: self.incarnation.clone(),
            to_incarnation: self.to_incarnation.clone(),
            run: RUN,
            term: self.term,
            body: Some(body),
        }
    }

    /// All over one stream; returns when the replica has taken them, or refused one.
    async fn say(&self, envelopes: Vec<proto::Envelope>) {
        let requests = [proto::ExchangeRequest { envelopes }];
        // That it is refused is seen in the status.
        let _ = self
            .stream(requests, &self.from.to_string(), &self.to.to_string())
            .await;
    }

    async fn stream<const N: usize>(
        &self,
        requests: [proto::ExchangeRequest; N],
        from: &str,
        to: &str,
    ) -> Result<(), Status> {
        let mut request = Request::new(tokio_stream::iter(requests));
        let metadata = request.metadata_mut();
        metadata.insert("chat-from", from.parse().unwrap());
        metadata.insert("chat-to", to.parse().unwrap());
        let mut client = PeerServiceClient::new(self.channel.clone());
        let mut ended = client.exchange(request).await?.into_inner();
        while ended.message().await?.is_some() {}
        Ok(())
    }

    /// Bytes that are no message at all.
    async fn say_bytes(&self, bytes: Vec<u8>) {
        let mut request = Request::new(tokio_stream::iter([Bytes::from(bytes)]));
        let metadata = request.metadata_mut();
        metadata.insert("chat-from", u64::from(self.from).into());
        metadata.insert("chat-to", u64::from(self.to).into());
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let path = "/peer.v1.PeerService/Exchange".parse().unwrap();
        if let Ok(response) = client.streaming(request, path, Raw).await {
            let mut ended = response.into_inner();
            while let Ok(Some(_)) = ended.message().await {}
        }
    }
}

fn hello() -> proto::Hello {
    proto::Hello {
        ids: vec![1, 2, 3],
        formation: Some(proto::hello::Formation::Unformed(proto::Unformed {})),
        last: Some(proto::Stamp::default()),
        head_hash: vec![0; 32].into(),
        protocol_min: 1,
        protocol_max: 1,
        level: 1,
        admitted: true,
        ..proto::Hello::default()
    }
}

/// Sends bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn status(cluster: &TestCluster, id: u16) -> Vec<Value> {
    asked(cluster, id).unwrap()
}

/// Fails while the replica is starting.
fn asked(cluster: &TestCluster, id: u16) -> Result<Vec<Value>, String> {
    let directory = cluster.data_dir(id).display().to_string();
    let status = TestCluster::admin(&["status", "--data-dir", &directory, "--output", "json"]);
    let replicas = serde_json::from_slice(&status.stdout);
    replicas.map_err(|_| String::from_utf8_lossy(&status.stderr).into_owned())
}

fn bytes_of(hex: &Value) -> Bytes {
    let hex = hex.as_str().unwrap();
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Two replicas of three, in processes that never heard of the third; a secondary to speak to, and
/// its status.
async fn two_of_three() -> (TestCluster, Impostor, Value) {
    let mut cluster = TestCluster::start(3).await;
    let incarnation = bytes_of(&status(&cluster, 3)[2]["incarnation"]);
    cluster.kill(&[1, 2, 3]);
    cluster.spawn(1);
    cluster.spawn(2);
    let seen = eventually("a primary and a secondary", || {
        let seen = match asked(&cluster, 1) {
            Ok(seen) => seen,
            Err(why) => return std::future::ready(Err(why)),
        };
        let (serves, follows) = (&seen[0]["serving"], &seen[1]["serving"]);
        let settled = serves != follows && seen[0]["term"] == seen[1]["term"];
        let both = seen[0]["primary"].is_u64() && seen[1]["primary"].is_u64();
        let seen = (settled && both).then_some(seen);
        std::future::ready(seen.ok_or("not yet".to_owned()))
    })
    .await;
    let target = usize::from(seen[0]["serving"] == true);
    let target = seen[target].clone();
    let address = format!("http://{}", target["peer_addr"].as_str().unwrap());
    let endpoint = Endpoint::from_shared(address).unwrap();
    let impostor = Impostor {
        channel: endpoint.connect().await.unwrap(),
        from: 3,
        to: target["id"].as_u64().unwrap() as u32,
        cluster: bytes_of(&target["cluster"]),
        incarnation,
        to_incarnation: bytes_of(&target["incarnation"]),
        term: target["term"].as_u64().unwrap(),
    };
    (cluster, impostor, target)
}

/// Waits until the table of the replica has these rows, and checks that the log has one line for each.
async fn expect(cluster: &TestCluster, id: u16, wanted: &BTreeMap<(Option<u64>, &str), u64>) {
    let wanted: BTreeMap<(Option<u64>, String), u64> = wanted
        .iter()
        .map(|((peer, kind), count)| ((*peer, (*kind).to_owned()), *count))
        .collect();
    eventually("refusals of each kind", || {
        let seen = &status(cluster, id)[usize::from(id) - 1]["refusals"];
        let rows: BTreeMap<_, _> = seen
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["peer"].is_null() || row["peer"] == 3)
            .map(|row| {
                let kind = row["kind"].as_str().unwrap().to_owned();
                let key = (row["peer"].as_u64(), kind);
                (key, row["count"].as_u64().unwrap())
            })
            .collect();
        let same = rows == wanted;
        std::future::ready(
            same.then_some(())
                .ok_or(format!("{rows:?}, not {wanted:?}")),
        )
    })
    .await;
    let log = cluster.log_since(id, 0);
    for (peer, kind) in wanted.keys() {
        let who = peer.map_or("a stranger".to_owned(), |peer| format!("replica {peer}"));
        let line = format!("refused a message of {who} ({kind}): ");
        let lines = log.matches(&line).count();
        assert_eq!(lines, 1, "lines with {line:?}\n{log}");
    }
}

fn append(previous: u64, previous_hash: u8, entries: Vec<Bytes>) -> Body {
    Body::Append(proto::Append {
        previous: Some(proto::Stamp {
            term: 0,
            index: previous,
        }),
        previous_hash: vec![previous_hash; 32].into(),
        entries,
        commit: 0,
        notice: false,
    })
}

fn entry(index: u64) -> Bytes {
    let stamp = Stamp::new(Term(1), Index(index));
    let entry = Entry::seal(stamp, WallTime(0), Hash([9; 32]), Kind::TermStart, b"");
    entry.bytes().clone()
}

/// A message that is seldom seen, of other clusters, lives, runs and terms, and as if it were true.
fn twists(impostor: &Impostor, row: Plausible) -> Vec<(Option<&'static str>, proto::Envelope)> {
    type Twist = fn(&mut proto::Envelope);
    let twists: [(Option<&'static str>, Twist); 7] = [
        (Some("other_cluster"), |it| it.cluster = vec![1; 32].into()),
        (Some("other_incarnation"), |it| {
            it.from_incarnation = vec![1; 16].into();
        }),
        (Some("other_incarnation"), |it| {
            it.to_incarnation = vec![1; 16].into();
        }),
        (Some("other_run"), |it| it.run = RUN + 1),
        (Some("absurd_term"), |it| it.term = 1 << 60),
        (row.ended, |it| it.term = 0),
        (row.present, |_| {}),
    ];
    let twisted = twists.map(|(kind, twist)| {
        let mut envelope = impostor.envelope(row.body.clone());
        twist(&mut envelope);
        (kind, envelope)
    });
    twisted.into()
}

/// Bytes, lengths and counts that are out of bounds, and connections of strangers. Returns how many
/// there are of each sort.
async fn knock(impostor: &Impostor) -> BTreeMap<(Option<u64>, &'static str), u64> {
    let mut cut = impostor.envelope(Body::Abstain(proto::Abstain {}));
    cut.from_incarnation = vec![7; 15].into();
    let mut ids = hello();
    ids.ids = (1..=1_000).collect();
    let mut digests = proto::Refresh {
        last: Some(proto::Stamp::default()),
        settled: Some(proto::Stamp::default()),
        ..proto::Refresh::default()
    };
    digests.digests = vec![proto::Digest::default(); 10_000];
    let mut malformed = vec![
        cut,
        impostor.envelope(Body::Hello(ids)),
        impostor.envelope(Body::Refresh(digests)),
        impostor.envelope(append(u64::MAX, 9, vec![entry(u64::MAX)])),
        impostor.envelope(append(1, 9, vec![Bytes::from_static(b"no entry")])),
    ];
    let absurd = absurd_bodies().into_iter();
    malformed.extend(absurd.map(|body| impostor.envelope(body)));
    let count = malformed.len() as u64;
    let mut misdirected = impostor.envelope(Body::CampaignNow(proto::CampaignNow {}));
    misdirected.from = 1;
    // Of the connection itself, the sender is not known for sure.
    let meant = (3 - impostor.to).to_string();
    for _ in 0..TIMES {
        for envelope in malformed.clone() {
            impostor.say(vec![envelope]).await;
        }
        impostor.say(vec![misdirected.clone()]).await;
        impostor.say_bytes(vec![0xff; 100]).await;
        impostor.say_bytes(vec![0; 5 * 1024 * 1024]).await;
        for (from, to) in [("9", impostor.to.to_string()), ("3", meant.clone())] {
            let refused = impostor.stream([], from, &to).await;
            assert_eq!(refused.unwrap_err().code(), tonic::Code::FailedPrecondition);
        }
        let relay = proto::RelayRequest {
            to: 3,
            request: None,
        };
        let mut client = PeerServiceClient::new(impostor.channel.clone());
        client.relay(relay).await.unwrap_err();
    }
    BTreeMap::from([
        ((Some(3), "malformed"), (count + 2) * TIMES),
        ((Some(3), "misdirected"), 2 * TIMES),
        ((None, "misdirected"), TIMES),
        ((None, "stranger"), TIMES),
    ])
}

/// Messages in good form that must not be believed, each with its kind.
fn lies(impostor: &Impostor) -> Vec<(&'static str, proto::Envelope)> {
    let say = |body| impostor.envelope(body);
    let round = || say(Body::Round(proto::Round { nonce: 5 }));
    let mut all = Vec::new();
    let mut cluster = round();
    cluster.cluster = vec![1; 32].into();
    all.push(("other_cluster", cluster));
    let forward = say(Body::Forward(proto::Forward {
        nonce: 1,
        // A command in MessagePack: (no login, no request id, an operation).
        command: rmp_serde::to_vec(&(None::<()>, None::<()>, "DeleteAccount"))
            .unwrap()
            .into(),
    }));
    // Its sender is dead, so that this replica has never spoken to it.
    all.push(("foreign_write", forward));
    let mut two = hello();
    two.ids = vec![1, 2];
    all.push(("other_replicas", say(Body::Hello(two))));
    let mut later = hello();
    (later.protocol_min, later.protocol_max) = (7, 9);
    all.push(("other_protocol", say(Body::Hello(later))));
    let mut life = round();
    life.from_incarnation = vec![1; 16].into();
    all.push(("other_incarnation", life));
    let mut life = round();
    life.to_incarnation = vec![1; 16].into();
    all.push(("other_incarnation", life));
    let mut run = round();
    run.run = RUN + 1;
    all.push(("other_run", run));
    let mut old = say(append(0, 0, vec![]));
    old.term = 0;
    all.push(("earlier_term", old));
    let mut absurd = round();
    absurd.term = 1 << 60;
    all.push(("absurd_term", absurd));
    all.push(("broken_chain", say(append(1, 7, vec![entry(2)]))));
    all.push(("broken_chain", say(append(1, 9, vec![entry(3)]))));
    let two = vec![entry(2), entry(2)];
    all.push(("malformed", say(append(1, 9, two))));
    all.push(("replay", say(Body::Agree(proto::Agree { nonce: 3 }))));
    let answer = proto::RoundReply { nonce: 3 };
    all.push(("replay", say(Body::RoundReply(answer))));
    let answer = proto::ReadIndexReply { nonce: 3, index: 9 };
    all.push(("replay", say(Body::ReadIndexReply(answer))));
    let piece = proto::CopyPiece::default();
    all.push(("replay", say(Body::CopyPiece(piece))));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_believed_is_counted_told_once_and_has_no_effect() {
    let (mut cluster, mut impostor, before) = two_of_three().await;
    let id = impostor.to as u16;
    let mut wanted = knock(&impostor).await;
    expect(&cluster, id, &wanted).await;

    // Before a hello nothing is believed either.
    let early = impostor.envelope(Body::Round(proto::Round { nonce: 1 }));
    let greeting = impostor.envelope(Body::Hello(hello()));
    impostor.say(vec![early, greeting]).await;
    *wanted.entry((Some(3), "other_run")).or_default() += 1;
    for _ in 0..TIMES {
        for (kind, envelope) in lies(&impostor) {
            impostor.say(vec![envelope]).await;
            *wanted.entry((Some(3), kind)).or_default() += 1;
        }
        for (kind, envelope) in plausible()
            .into_iter()
            .flat_map(|row| twists(&impostor, row))
        {
            impostor.say(vec![envelope]).await;
            if let Some(kind) = kind {
                *wanted.entry((Some(3), kind)).or_default() += 1;
            }
        }
    }
    let refresh = |progress| {
        impostor.envelope(Body::Refresh(proto::Refresh {
            progress,
            last: Some(proto::Stamp::default()),
            settled: Some(proto::Stamp::default()),
            ..proto::Refresh::default()
        }))
    };
    impostor
        .say(vec![refresh(10), refresh(9), refresh(10)])
        .await;
    *wanted.entry((Some(3), "replay")).or_default() += 1;
    expect(&cluster, id, &wanted).await;

    // A life that the cluster does not know cannot raise the term.
    impostor.incarnation = vec![2; 16].into();
    let greeting = impostor.envelope(Body::Hello(hello()));
    impostor.term += 1;
    let round = impostor.envelope(Body::Round(proto::Round { nonce: 1 }));
    impostor.say(vec![greeting, round.clone(), round]).await;
    wanted.insert((Some(3), "later_term"), 2);
    for row in plausible() {
        impostor.say(vec![impostor.envelope(row.body)]).await;
        if let Some(kind) = row.later {
            *wanted.entry((Some(3), kind)).or_default() += 1;
        }
    }
    expect(&cluster, id, &wanted).await;

    // Nothing else: the same primary in the same term, and all is well with the third.
    let after = &status(&cluster, id)[usize::from(id) - 1];
    for field in ["role", "term", "primary", "last_index", "incarnation"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    cluster.spawn(3);
    let alice = cluster.account("alice").await;
    alice.send("alice", "still here").await.unwrap();
    cluster.finish(&alice).await;
}
