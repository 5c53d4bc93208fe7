//! Which crashes to try: every point of a trace, with every subset of what is not durable there, or
//! samples where these are too many, and writes that were torn.

use super::platter::{Fate, Platter, Tear, mix};
use super::trace::{Operation, Trace};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;

/// So many subsets are all tried.
const EXHAUSTIVE_MAX: usize = 1 << 8;
/// Beyond, so many samples.
const SAMPLES: usize = 24;
/// So many ways to tear each write that is not durable, with all others kept.
const TEARS: usize = 3;

/// How far the process had said it was: the last step begun, and the last one done.
pub type Progress = (Option<usize>, Option<usize>);

/// A crash. Equal sets of kept operations leave equal disks, so one stands for all of these.
pub struct Case {
    /// After so many operations.
    pub point: usize,
    /// What became of what was not durable.
    pub fate: Fate,
    /// What the process had said at each of the points at which this disk may be left.
    pub progress: Vec<Progress>,
}

/// All cases of a trace, and how they were found.
#[derive(Default)]
pub struct Cases {
    /// By point.
    pub all: Vec<Case>,
    /// Points at which all subsets were tried.
    pub exhaustive: usize,
    /// Points at which samples were.
    pub sampled: usize,
    /// The most operations that were not durable at one point.
    pub unsynced_max: usize,
    by_key: BTreeMap<u64, usize>,
}

impl Cases {
    /// The cases of a trace.
    pub fn of(trace: &Trace, seed: u64) -> Self {
        let mut cases = Self::default();
        let mut platter = Platter::new(trace);
        let mut random = StdRng::seed_from_u64(seed);
        let mut progress = (None, None);
        // Stands for the set of all operations so far.
        let mut all = 0;
        for point in 0..=trace.operations.len() {
            platter.play_to(point);
            if let Some(last) = point.checked_sub(1) {
                match trace.operations[last] {
                    Operation::Begun(step) => progress.0 = Some(step),
                    Operation::Done(step) => progress.1 = Some(step),
                    Operation::SyncFile(_) | Operation::SyncDirectory(_) => {}
                    _ => all ^= mix(last as u64),
                }
            }
            if point >= trace.given {
                for fate in cases.fates(trace, &platter, &mut random) {
                    cases.add(all, point, fate, progress);
                }
            }
        }
        cases
    }

    fn add(&mut self, all: u64, point: usize, fate: Fate, progress: Progress) {
        let lost = fate
            .lost
            .iter()
            .fold(0, |key, number| key ^ mix(*number as u64));
        let torn = fate.torn.iter().fold(0, |key, (number, tear)| {
            key ^ mix(mix(*number as u64) ^ tear.seed ^ u64::from(tear.grown))
        });
        let at = *self.by_key.entry(all ^ lost ^ torn).or_insert_with(|| {
            self.all.push(Case {
                point,
                fate,
                progress: Vec::new(),
            });
            self.all.len() - 1
        });
        let known = &mut self.all[at].progress;
        if !known.contains(&progress) {
            known.push(progress);
        }
    }

    fn fates(&mut self, trace: &Trace, platter: &Platter<'_>, random: &mut StdRng) -> Vec<Fate> {
        let (names, contents) = platter.unsynced();
        let count = contents.len() + names.iter().map(|names| names.len()).sum::<usize>();
        self.unsynced_max = self.unsynced_max.max(count);
        let mut fates = if number_of_subsets(&names, &contents) <= EXHAUSTIVE_MAX {
            self.exhaustive += 1;
            subsets(&names, &contents)
        } else {
            self.sampled += 1;
            samples(&names, &contents, random)
        };
        for number in contents {
            if !matches!(trace.operations[number], Operation::Write(..)) {
                continue;
            }
            for way in 0..TEARS {
                let seed = mix((number * TEARS + way) as u64);
                let tear = Tear {
                    seed,
                    grown: seed & 4 == 0,
                };
                let mut fate = Fate::default();
                fate.torn.insert(number, tear);
                fates.push(fate);
            }
        }
        fates
    }
}

fn number_of_subsets(names: &[&[usize]], contents: &[usize]) -> usize {
    let names = names.iter().map(|numbers| numbers.len() + 1);
    let ways = names.chain(contents.iter().map(|_| 2));
    ways.fold(1, usize::saturating_mul)
}

/// Of the operations on one directory's names a first part is durable, of those on files any.
fn subsets(names: &[&[usize]], contents: &[usize]) -> Vec<Fate> {
    let mut fates = vec![Fate::default()];
    for numbers in names {
        fates = with_each(fates, (0..=numbers.len()).map(|kept| &numbers[kept..]));
    }
    for number in contents {
        let number = std::slice::from_ref(number);
        fates = with_each(fates, [&number[..0], number].into_iter());
    }
    fates
}

/// Each fate with each of these sets of operations lost, too.
fn with_each<'a>(fates: Vec<Fate>, lost: impl Iterator<Item = &'a [usize]> + Clone) -> Vec<Fate> {
    let mut more = Vec::new();
    for fate in fates {
        for lost in lost.clone() {
            let mut fate = fate.clone();
            fate.lost.extend(lost);
            more.push(fate);
        }
    }
    more
}

fn samples(names: &[&[usize]], contents: &[usize], random: &mut StdRng) -> Vec<Fate> {
    let mut fates = vec![Fate::default(), Fate::default()];
    fates[1]
        .lost
        .extend(names.iter().copied().flatten().chain(contents));
    for _ in 0..SAMPLES {
        let mut fate = Fate::default();
        let loses = [0.1, 0.5, 0.9][random.random_range(0..3)];
        for numbers in names {
            let kept = random.random_range(0..=numbers.len());
            fate.lost.extend(&numbers[kept..]);
        }
        fate.lost
            .extend(contents.iter().filter(|_| random.random_bool(loses)));
        fates.push(fate);
    }
    fates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lost_from_an_end_and_writes_in_any_way() {
        let fates = subsets(&[&[1, 4]], &[2, 3]);
        assert_eq!(fates.len(), 3 * 4);
        assert!(
            fates
                .iter()
                .all(|fate| !fate.lost.contains(&1) || fate.lost.contains(&4))
        );
    }
}
