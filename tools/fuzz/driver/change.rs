//! Random changes of valid inputs: what a disk, a network or an enemy might do to them.

use crate::forms;
use rand::Rng;
use rand::rngs::SmallRng;

/// Largest input in bytes.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Changes of one input, at most.
const CHANGES_MAX: usize = 8;
/// Longest piece that is moved, repeated or removed at once.
const PIECE_MAX: usize = 256;

/// A valid input with some changes; now and then without any, or of nothing but chance.
pub fn changed(seeds: &[Vec<u8>], rng: &mut SmallRng) -> Vec<u8> {
    if rng.random_ratio(1, 50) {
        let mut bytes = vec![0; rng.random_range(0..400)];
        rng.fill(&mut bytes[..]);
        return bytes;
    }
    let mut input = pick(seeds, rng).to_vec();
    // Mostly few: the more, the less is left of what made it valid.
    let many = rng.random_range(1..=CHANGES_MAX);
    for _ in 0..rng.random_range(0..=many) {
        let prefix = rng.random_range(0..2);
        let formed = match rng.random_range(0..3) {
            0 => forms::change_message(&mut input, prefix, rng),
            1 => forms::change_one_of_many(&mut input, prefix, rng),
            _ => false,
        };
        if !formed {
            change(&mut input, seeds, rng);
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn pick<'a>(seeds: &'a [Vec<u8>], rng: &mut SmallRng) -> &'a [u8] {
    &seeds[rng.random_range(0..seeds.len())]
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut SmallRng) {
    if input.is_empty() {
        input.push(rng.random());
        return;
    }
    let at = rng.random_range(0..input.len());
    match rng.random_range(0..12) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = rng.random(),
        2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
        3 => number(input, at, rng),
        4 => input.truncate(at),
        5 => drop(input.drain(at..end(input, at, rng))),
        6 => {
            let piece = input[at..end(input, at, rng)].to_vec();
            let to = rng.random_range(0..=input.len());
            input.splice(to..to, piece);
        }
        7 => {
            let mut piece = vec![0; rng.random_range(1..16)];
            rng.fill(&mut piece[..]);
            input.splice(at..at, piece);
        }
        8 => {
            let to = end(input, at, rng);
            input[at..to].fill(0);
        }
        9 => forms::put_number(input, at, rng),
        // The beginning of one and the end of another.
        10 => {
            let other = pick(seeds, rng);
            input.truncate(at);
            input.extend(&other[at.min(other.len())..]);
        }
        _ => {
            let other = pick(seeds, rng);
            let from = rng.random_range(0..=other.len());
            let to = other.len().min(from + rng.random_range(0..PIECE_MAX));
            input.splice(at..at, other[from..to].iter().copied());
        }
    }
}

fn end(input: &[u8], at: usize, rng: &mut SmallRng) -> usize {
    input.len().min(at + rng.random_range(1..PIECE_MAX))
}

/// Changes without a look at the form.
pub fn changed_bytes(bytes: &mut Vec<u8>, rng: &mut SmallRng) {
    let own = [bytes.clone()];
    change(bytes, &own, rng);
}

/// A number at which something may go wrong.
pub fn interesting(length: usize, rng: &mut SmallRng) -> u64 {
    let near = rng.random_range(0..3u64);
    match rng.random_range(0..6) {
        0 => near,
        1 => u64::MAX - near / 2,
        2 => (1u64 << rng.random_range(0..64)).wrapping_add(near),
        3 => (1u64 << rng.random_range(1..64)).wrapping_sub(1 + near),
        4 => length as u64 + near,
        _ => rng.random(),
    }
}

/// Writes an interesting number of 2, 4 or 8 bytes, in either order, or as a varint.
fn number(input: &mut [u8], at: usize, rng: &mut SmallRng) {
    let value = interesting(input.len(), rng);
    let bytes = match rng.random_range(0..7) {
        0 => (value as u16).to_be_bytes().to_vec(),
        1 => (value as u16).to_le_bytes().to_vec(),
        2 => (value as u32).to_be_bytes().to_vec(),
        3 => (value as u32).to_le_bytes().to_vec(),
        4 => value.to_be_bytes().to_vec(),
        5 => value.to_le_bytes().to_vec(),
        _ => varint(value),
    };
    for (place, byte) in input[at..].iter_mut().zip(bytes) {
        *place = byte;
    }
}

/// As in protobuf.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
