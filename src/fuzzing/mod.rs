//! What fuzzers call: every decoder of bytes that come from a disk, a peer, a client or a person.
//!
//! With cargo-fuzz (`tools/fuzz`), and with a driver of our own on a stable compiler
//! (`cargo run --release --example fuzz`), which changes valid inputs at random. Each target takes
//! any bytes and panics only on a defect: what parses must survive the way back, what does not must
//! be an error.

mod craft;
mod files;
mod node;
mod state;

use crate::config::fuzzing as people;
use crate::grpc::fuzzing as messages;
use crate::service::fuzzing as words;
use crate::storage::fuzzing as disk;
use crate::wire::codec::fuzzing as wire;

/// One decoder, or what is behind it.
pub struct Target {
    /// Of the target in `tools/fuzz`, too.
    pub name: &'static str,
    /// Takes any bytes; panics only on a defect.
    pub run: fn(&[u8]),
    /// Valid inputs, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    // From the disk.
    target("entry", disk::entry, disk::entry_seeds),
    target("block", disk::block, disk::block_seeds),
    target("records", disk::records, disk::record_seeds),
    target("hard_state", disk::hard_state, disk::hard_state_seeds),
    target("state", state::rows, state::row_seeds),
    target("command", state::command, state::command_seeds),
    // From other replicas and from operators.
    target("envelope", messages::envelope, messages::envelope_seeds),
    target("node", node::messages, node::message_seeds),
    target("core", node::crafted, node::crafted_seeds),
    target("admin", messages::admin, messages::admin_seeds),
    // From clients.
    target("request", wire::request, wire::request_seeds),
    target("reply", wire::reply, wire::reply_seeds),
    target("lines", wire::lines, wire::line_seeds),
    target("damage", wire::damage, wire::damage_seeds),
    target("names", words::names, words::name_seeds),
    target("pattern", words::pattern, words::pattern_seeds),
    // From people.
    target("settings", people::settings, people::setting_seeds),
    target("files", files::files, files::file_seeds),
];

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Runs the target of this name; for cargo-fuzz.
///
/// # Panics
///
/// On a defect, and if there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|target| target.name == name);
    (found.expect("a target of this name").run)(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_seeds_and_pieces_of_them() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            for seed in seeds {
                (target.run)(&seed);
                (target.run)(&seed[..seed.len() / 2]);
                (target.run)(&seed[seed.len() / 2..]);
            }
            (target.run)(&[]);
        }
    }
}
