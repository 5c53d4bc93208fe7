//! A disk that lied, on what the whole script left, everything synced: one fault at a time.

use super::child::{Found, Verdict};
use super::judge::Expected;
use super::platter::{Platter, SECTOR_BYTES, mix, write_out};
use super::script::judge_options;
use super::trace::{Operation, Trace};
use rand::Rng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// What a file system reads and writes at once.
const BLOCK_BYTES: usize = 4096;

/// What the disk did.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Flip,
    ZeroSector,
    ZeroBlock,
    StaleBlock,
    Cut,
    LostWrite,
}

/// One fault at one place.
pub struct Lie {
    fault: Fault,
    path: String,
    at: usize,
    content: Vec<u8>,
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {} at {}", self.fault, self.path, self.at)
    }
}

/// What came of a lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Answer {
    /// Everything is there.
    Unharmed,
    /// It is recognised, at the open or when everything is read.
    Recognised,
    /// The directory is refused, and nothing in it is changed: a number in a small file says now that
    /// a newer version wrote it.
    Refused,
    /// What is there was all there is once: nothing in it is wrong, and only others know more.
    Older,
}

/// Draws faults on the final state of a trace.
pub struct Liar<'a> {
    trace: &'a Trace,
    platter: Platter<'a>,
    /// By file: what was written to it, in order.
    writes: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Liar<'a> {
    /// Of this trace.
    pub fn new(trace: &'a Trace) -> Self {
        let mut platter = Platter::new(trace);
        platter.play_to(trace.operations.len());
        platter.settle();
        let mut writes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, operation) in trace.operations.iter().enumerate() {
            if let Operation::Write(file, ..) = operation {
                writes.entry(*file).or_default().push(number);
            }
        }
        Self {
            trace,
            platter,
            writes,
        }
    }

    /// One fault in a file that is not empty. Half of them hit where something was written.
    pub fn draw(&self, random: &mut StdRng) -> Option<Lie> {
        let files = self.platter.durable_files();
        let files: Vec<_> = files
            .into_iter()
            .filter(|(.., content)| !content.is_empty())
            .collect();
        let (path, file, before) = files.get(random.random_range(0..files.len().max(1)))?;
        let mut content = before.to_vec();
        let writes = self.writes.get(file).map_or(&[][..], |writes| writes);
        let write = writes.get(random.random_range(0..writes.len().max(1)));
        let write = write.and_then(|number| match &self.trace.operations[*number] {
            Operation::Write(_, at, bytes) if !bytes.is_empty() => {
                Some((*number, *at, bytes.len()))
            }
            _ => None,
        });
        let mut at = random.random_range(0..content.len());
        if let Some((_, start, length)) = write
            && random.random_bool(0.5)
        {
            let place = start as usize + random.random_range(0..length.min(20_000));
            at = place.min(content.len() - 1);
        }
        let fault = [
            Fault::Flip,
            Fault::ZeroSector,
            Fault::ZeroBlock,
            Fault::StaleBlock,
            Fault::Cut,
            Fault::LostWrite,
        ][random.random_range(0..6)];
        let aligned = |unit: usize| at / unit * unit..(at / unit * unit + unit).min(before.len());
        match fault {
            Fault::Flip => content[at] ^= 1 << random.random_range(0..8),
            Fault::ZeroSector => content[aligned(SECTOR_BYTES)].fill(0),
            Fault::ZeroBlock => content[aligned(BLOCK_BYTES)].fill(0),
            Fault::StaleBlock => {
                let range = aligned(BLOCK_BYTES);
                let until = random.random_range(0..writes.len().max(1));
                let old = self.replayed(&writes[..until], |_| true);
                let mut block = vec![0; range.len()];
                let there = old.get(range.start..).unwrap_or_default();
                let length = there.len().min(block.len());
                block[..length].copy_from_slice(&there[..length]);
                content[range].copy_from_slice(&block);
            }
            Fault::Cut => {
                let sectors = 1 + mix(at as u64) as usize % 64;
                content.truncate(content.len().saturating_sub(sectors * SECTOR_BYTES));
            }
            Fault::LostWrite => {
                let (lost, ..) = write?;
                let mut without = self.replayed(writes, |number| number != lost);
                without.resize(content.len().max(without.len()), 0);
                without.truncate(content.len());
                content = without;
            }
        }
        Some(Lie {
            fault,
            path: path.clone(),
            at,
            content,
        })
    }

    /// A file after some of its writes.
    fn replayed(&self, writes: &[usize], kept: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut content = Vec::new();
        for number in writes.iter().filter(|number| kept(**number)) {
            if let Operation::Write(_, at, bytes) = &self.trace.operations[*number] {
                let (from, to) = (*at as usize, *at as usize + bytes.len());
                if content.len() < to {
                    content.resize(to, 0);
                }
                content[from..to].copy_from_slice(bytes);
            }
        }
        content
    }

    /// Builds the disk with this fault.
    pub fn build(&self, lie: &Lie, root: &Path) -> anyhow::Result<()> {
        self.platter.build(&Default::default(), root)?;
        write_out(&lie.content, &root.join(lie.path.trim_start_matches('/')))?;
        Ok(())
    }
}

/// What a store answers to a lie; `Err` says what is wrong with that answer.
pub fn answer(verdict: &Verdict, at_the_end: &Expected, ever: &Expected) -> Result<Answer, String> {
    if at_the_end.contradicted_by(verdict).is_none() {
        return Ok(Answer::Unharmed);
    }
    let recognised = |found: &Found| match found {
        Found::Damaged(_) | Found::Failed(_) => true,
        // Lost promises are a new life, which does not count before the others have readmitted it.
        Found::Store {
            findings,
            repaired,
            promises,
            ..
        } => {
            let new_life = promises.incarnation == judge_options().incarnation;
            new_life || !findings.is_empty() || repaired.is_some()
        }
    };
    if matches!(verdict.first, Found::Failed(_)) {
        return Ok(Answer::Refused);
    }
    if recognised(&verdict.first) || verdict.second.as_ref().is_some_and(recognised) {
        return Ok(Answer::Recognised);
    }
    match ever.contradicted_by(verdict) {
        None => Ok(Answer::Older),
        Some(wrong) => Err(format!("nothing was recognised: {wrong}")),
    }
}
