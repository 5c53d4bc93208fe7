//! A real replica, alone in its cluster, under load by real clients, again and again on one disk.
//!
//! In each round the replica is started, everything with a receipt is looked for, clients send as
//! fast as they can, and the power goes. One recipient is hot: every fourth message is for it, and
//! its inbox is kept for as long as the disk. The others are for an account that is deleted in the
//! next round, so that most of what is written dies: on every other disk, with `--rewrite-mib 1 --rewrite-age 200ms`, the
//! store is rewritten under the cuts, and on the others sled uses its segments again and again.

mod judge;
mod load;
mod process;

use crate::disk::Disk;
use crate::{Arguments, Outcome};
use anyhow::Context as _;
use judge::{Expected, Verdict};
use process::{Programs, Replica};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Cuts of one file system.
const CUTS_A_DISK: u32 = 10;
/// After the first receipt the power stays for so long, in milliseconds.
const RUN_MS: std::ops::Range<u64> = 20..1_500;
/// Of four cuts one waits for the moment when a rewritten store is about to take the old one's place,
/// if it comes within this time.
const REWRITING_WAIT: Duration = Duration::from_secs(3);

/// What came of the cuts.
#[derive(Default)]
struct Tally {
    receipts: u64,
    there: u32,
    damaged: u32,
    lost: u32,
    /// Cuts while a next store was there.
    rewriting: u32,
    /// Rounds in which the live store was exchanged.
    swaps: u32,
}

/// Bytes that one disk's replica wrote, and the names of its live stores.
#[derive(Default)]
struct Wear {
    written: u64,
    stores: BTreeSet<String>,
}

pub fn cut_repeatedly(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let server = Programs::find(arguments.server.as_deref(), arguments.without_sync)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let began = Instant::now();
    let mut tally = Tally::default();
    let mut cut = 0;
    while cut < arguments.cuts {
        let cuts = CUTS_A_DISK.min(arguments.cuts - cut);
        runtime.block_on(one_disk(&server, cut, cuts, &mut tally))?;
        cut += cuts;
    }
    println!(
        "{} cuts, {} messages with a receipt: after {} all were there, after {} the replica knew that \
         it was damaged, after {} something was LOST; {} cuts hit a rewriting, the live store was \
         exchanged {} times; {:.1} s",
        tally.there + tally.damaged + tally.lost,
        tally.receipts,
        tally.there,
        tally.damaged,
        tally.lost,
        tally.rewriting,
        tally.swaps,
        began.elapsed().as_secs_f64()
    );
    let good = tally.lost + tally.damaged == 0;
    Ok(if good { Outcome::Good } else { Outcome::Bad })
}

/// Some cuts of one file system; fewer if something is found.
async fn one_disk(
    server: &Programs,
    first: u32,
    cuts: u32,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut disk = Disk::new()?;
    let rewrite_mib = if (first / CUTS_A_DISK).is_multiple_of(2) {
        1
    } else {
        64
    };
    let mut expected = Expected::default();
    let mut wear = Wear::default();
    let mut replica = server.start(&disk, rewrite_mib).await?;
    for cut in first + 1..=first + cuts {
        let (sent, hit) =
            cut_under_load(cut, &disk, &mut replica, &mut wear, &mut expected).await?;
        tally.receipts += sent;
        tally.rewriting += u32::from(hit);
        drop(replica);
        disk.remount()?;
        let (verdict, next) = look(server, &disk, rewrite_mib, &mut expected).await?;
        println!(
            "cut {cut}: {sent} receipts{}; {verdict}",
            if hit { ", rewriting" } else { "" }
        );
        match verdict {
            Verdict::AllThere { .. } => tally.there += 1,
            Verdict::Damaged(_) => tally.damaged += 1,
            Verdict::Lost(_) => tally.lost += 1,
        }
        let Some(next) = next else {
            break;
        };
        replica = next;
    }
    tally.swaps += wear.stores.len().saturating_sub(1) as u32;
    println!(
        "this disk, --rewrite-mib {rewrite_mib}: {}",
        worn(&wear, &disk)
    );
    Ok(())
}

/// Lets clients send until the power goes. Returns how many got a receipt in this round, and whether
/// a next store was there at that moment.
async fn cut_under_load(
    cut: u32,
    disk: &Disk,
    replica: &mut Replica,
    wear: &mut Wear,
    expected: &mut Expected,
) -> anyhow::Result<(u64, bool)> {
    let switch = disk.switch()?;
    let load = load::Load::start(replica, cut, expected).await?;
    load.first_receipt().await?;
    let after = Duration::from_millis(rand::random_range(RUN_MS));
    tokio::time::sleep(after).await;
    let data = disk.mount_point().join("data");
    if cut.is_multiple_of(4) {
        let until = Instant::now() + REWRITING_WAIT;
        while Instant::now() < until && stores(&data).len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let more = Duration::from_millis(rand::random_range(0..300));
        tokio::time::sleep(more).await;
    }
    let hit = stores(&data).len() > 1;
    wear.written += replica.bytes_written();
    wear.stores.extend(live_store(&data));
    switch.cut()?;
    // What is answered from now on was durable before, or is a lie.
    replica.kill();
    Ok((load.end(expected).await?, hit))
}

/// After the power is back. Without a replica the disk's story is at its end.
async fn look(
    server: &Programs,
    disk: &Disk,
    rewrite_mib: u64,
    expected: &mut Expected,
) -> anyhow::Result<(Verdict, Option<Replica>)> {
    let replica = match server.try_start(disk, rewrite_mib).await? {
        Ok(replica) => replica,
        Err(said) if said.contains("damaged") => return Ok((Verdict::Damaged(said), None)),
        Err(said) => return Ok((Verdict::Lost(format!("it does not start: {said}")), None)),
    };
    let mut verdict = judge::look(&replica, expected).await?;
    if matches!(verdict, Verdict::AllThere { .. })
        && let Err(findings) = server.verify(disk)?
    {
        verdict = Verdict::Lost(findings);
    }
    let good = matches!(verdict, Verdict::AllThere { .. });
    Ok((verdict, good.then_some(replica)))
}

/// The directories of stores.
fn stores(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("store-")).collect()
}

fn live_store(data: &Path) -> Option<String> {
    let name = std::fs::read_to_string(data.join("CURRENT")).ok()?;
    Some(name.trim().to_owned())
}

fn worn(wear: &Wear, disk: &Disk) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let data = disk.mount_point().join("data");
    let size = live_store(&data)
        .and_then(|store| std::fs::metadata(data.join(store).join("db")).ok())
        .map_or(0, |file| file.blocks() * 512);
    format!(
        "{} MiB written, {} stores one after the other, the last of {} MiB: {:.1} times over",
        wear.written >> 20,
        wear.stores.len(),
        size >> 20,
        wear.written as f64 / size.max(1) as f64
    )
}
