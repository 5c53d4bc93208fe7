//! The two children: one writes and reports, the other checks.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use chat::limits;
use chat::storage::{
    Change, CommitRecord, OpenOptions, Opened, Recovered, SledStore, Slice, StateReader as _,
    Store as _, Tree, Write, open_directory, verify_log,
};
use chat::types::entry::{Entry, Kind};
use chat::types::{Hash, Incarnation, Index, Members, ReplicaId, Stamp, Term, WallTime};
use std::io::Write as _;
use std::path::Path;

/// The inbox that every slice writes to.
const HOT: &[u8] = b"hot recipient";
/// Bytes of the hot record, which the store keeps apart from the trees.
const HOT_BYTES: usize = 15 * 1024;
/// Other recipients that every slice writes to.
const BUSY: usize = 60;
/// Other recipients of a slice: as many records as a checkpoint may have.
const OTHERS: usize = limits::SLICE_RECORDS_MAX - 1;
/// All of them. Few, so that old records die soon and sled uses their segments again.
const RECIPIENTS: usize = 5_000;
/// Slices after a batch: the trees are rewritten far more often than the log grows.
const SLICES_A_BATCH: usize = 3;
/// Payloads, so that both few large and many small entries make a batch.
const PAYLOAD_BYTES: [usize; 4] = [100, 1_000, 8_000, limits::ENTRY_PAYLOAD_BYTES_MAX];

/// Before the store's size in what the check prints last.
pub const SIZE_IS: &str = "bytes ";

fn open(directory: &Path) -> anyhow::Result<(SledStore, Recovered)> {
    let options = OpenOptions {
        id: ReplicaId(1),
        ids: vec![ReplicaId(1)],
        incarnation: Incarnation([1; 16]),
        cache_bytes: OpenOptions::CACHE_BYTES,
        patience: OpenOptions::PATIENCE,
    };
    match open_directory(directory, &options)? {
        Opened::Good { store, recovered } => {
            if let Some((_, sentence)) = recovered.damage.first() {
                bail!("damaged: {sentence}");
            }
            Ok((store, recovered))
        }
        Opened::Damaged { sentence, .. } => bail!("damaged: {sentence}"),
    }
}

/// Writes until it is killed; each line names an index that is durable and its entry's hash.
///
/// Without `sync` the batches are small and come without slices: what was reported last is then
/// still in sled's buffer at nearly any moment, and a cut that loses nothing would be a wonder.
pub fn write(directory: &Path, sync: bool) -> anyhow::Result<()> {
    let (mut store, recovered) = open(directory)?;
    let mut state = recovered
        .hard_state
        .context("the hard state is created at open")?;
    let mut last = recovered.tail.last().cloned();
    let mut out = std::io::stdout();
    for round in 0usize.. {
        let bytes = if sync {
            limits::APPEND_BYTES_MAX
        } else {
            1_000
        };
        let payload = PAYLOAD_BYTES[if sync { round % PAYLOAD_BYTES.len() } else { 0 }];
        let batch = batch(last.as_ref(), payload, bytes);
        let before = last.replace(batch[batch.len() - 1].clone());
        let last = batch[batch.len() - 1].clone();
        store.write(Write {
            append: batch,
            commit: before.as_ref().map(commit_record),
            ..Write::default()
        })?;
        if sync {
            store.sync()?;
        }
        state.mark = last.stamp();
        store.write_hard_state(&state, sync)?;
        writeln!(out, "{} {}", last.index(), last.hash())?;
        out.flush()?;
        let applied = before.as_ref().filter(|_| sync);
        for (part, applied) in applied.into_iter().cycle().take(SLICES_A_BATCH).enumerate() {
            store.write(Write {
                slice: Some(slice(applied, round * SLICES_A_BATCH + part)),
                ..Write::default()
            })?;
        }
    }
    Ok(())
}

/// The next entries, about this many bytes of them.
fn batch(last: Option<&Entry>, payload: usize, bytes: usize) -> Vec<Entry> {
    let (mut stamp, mut hash) = last
        .map_or((Stamp::new(Term(1), Index(0)), Hash::default()), |e| {
            (e.stamp(), e.hash())
        });
    let count = (bytes / payload).min(limits::BATCH_ENTRIES_MAX);
    (0..count)
        .map(|_| {
            stamp = Stamp::new(stamp.term, stamp.index.next());
            let payload = vec![stamp.index.0 as u8; payload];
            let entry = Entry::seal(stamp, WallTime(0), hash, Kind::Command, &payload);
            hash = entry.hash();
            entry
        })
        .collect()
}

fn commit_record(entry: &Entry) -> CommitRecord {
    CommitRecord {
        stamp: entry.stamp(),
        hash: entry.hash(),
        digest: Hash::default(),
        time: entry.time(),
    }
}

/// Of long inboxes of 50 blocks each.
fn block_key(number: usize) -> Bytes {
    let (user, block) = (number / 50 + 1, number % 50);
    [user, block]
        .map(|part| (part as u64).to_be_bytes())
        .concat()
        .into()
}

/// The hot record, which begins with the applied index, and a few others.
fn slice(applied: &Entry, round: usize) -> Slice {
    let value = |bytes: usize| {
        let mut value = applied.index().0.to_be_bytes().to_vec();
        value.resize(bytes, round as u8);
        Some(Bytes::from(value))
    };
    let mut changes = vec![Change {
        tree: Tree::Inboxes,
        key: Bytes::from_static(HOT),
        value: value(HOT_BYTES),
    }];
    changes.extend((0..OTHERS).map(|n| Change {
        tree: Tree::Inboxes,
        key: block_key(if n < BUSY {
            RECIPIENTS + n
        } else {
            (round * 37 + n * 101) % RECIPIENTS
        }),
        value: value(1_000),
    }));
    Slice {
        applied: applied.index(),
        hash: applied.hash(),
        digest: Hash::default(),
        members: Members::new(),
        machine: Bytes::new(),
        changes,
    }
}

/// Every entry up to the reported one is there, all of them chain, and the newest slice is whole.
pub fn check(directory: &Path, index: u64, hash: &str) -> anyhow::Result<()> {
    let (store, recovered) = open(directory)?;
    let last = recovered.last.index.0;
    ensure!(
        last >= index,
        "entry {index} was reported, and the log ends at {last}"
    );
    if index > 0 {
        let found = store.entries(Index(index), 1)?;
        let found = found.first().context("the reported entry cannot be read")?;
        ensure!(
            found.hash().to_hex() == hash,
            "entry {index} is another one"
        );
    }
    let verified = verify_log(
        &recovered.base,
        |from| store.entries(from, limits::APPEND_BYTES_MAX),
        |from, to| store.commit_records(from, to),
    );
    if let Some(finding) = verified.findings().first() {
        bail!("{finding}");
    }
    let (compared, _) = verified.compared();
    ensure!(
        compared == last,
        "{compared} of {last} entries could be read"
    );
    let hot = store.reader().get(Tree::Inboxes, HOT)?;
    let hot = hot.and_then(|v| v.first_chunk::<8>().map(|b| u64::from_be_bytes(*b)));
    let applied = recovered.applied.map(|slice| slice.applied.0);
    ensure!(
        hot == applied,
        "the trees stand at {applied:?} and the hot record at {hot:?}"
    );
    println!(
        "found {last}, applied {}, {SIZE_IS}{}",
        applied.unwrap_or(0),
        store.size_bytes()
    );
    Ok(())
}
