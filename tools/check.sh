#!/usr/bin/env bash
# The one gate: everything that CI runs, in the order in which it fails soonest.
# `tools/check.sh --quick` leaves out what takes minutes (simulation, mutation gate, demo).
#
# A test that lacks something of this machine fails here, instead of being skipped as by a plain
# `cargo test`. CHECK_MAY_SKIP allows it by name, separated by commas, or all: power-cuts (root and
# loop mounts), tmux, script, compiler (cc).
set -euo pipefail
cd "$(dirname "$0")/.."
export CHECK_STRICT=1

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step cargo fmt --check
step cargo clippy --release --all-targets -- -D warnings
# The README's test command. In release, so that the demo and the simulation use the same build.
step cargo test --release
RUSTDOCFLAGS='-D warnings' step cargo doc --release --no-deps

if [ "${1:-}" = --quick ]; then
    exit 0
fi

for replicas in 1 3 5; do
    step cargo run --release --bin simulate -- --seeds "${CHECK_SEEDS:-10000}" --replicas "$replicas"
done
# Without a terminal on standard input it ends by itself.
step cargo run --release -- demo </dev/null
step cargo run --release -- demo --replicas 5 </dev/null
# Real processes under every kind of fault, under a minute. As root on a machine of its own:
# network namespaces and small file systems. Elsewhere: proxied links and plain directories, where
# clients' links are never cut and disks are never full; it says so.
step cargo run --release --bin nemesis -- --minutes 0.4 --seed "${CHECK_SEED:-1}" --report target/nemesis
# Last: what it builds must not be taken for a shipped binary.
step cargo test --release --features model,mutants --bin simulate
step cargo build --release --features model,mutants --bin simulate --bin model
step target/release/simulate --mutants
# Every state within small bounds, in seconds: docs/model.md has the longer searches.
step target/release/model --entries 1
step target/release/model --mutants

printf '\nall checks passed\n'
