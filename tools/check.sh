#!/usr/bin/env bash
# The one gate: everything that CI runs, in the order in which it fails soonest.
# `tools/check.sh --quick` leaves out what takes minutes (simulation, mutation gate, demo).
# CHECK_LONG=1 adds what is left out of CI for its time: the simulator's own tests with the wrong
# variants in it.
#
# A test that lacks something of this machine fails, instead of being skipped as by a plain
# `cargo test`, unless CHECK_MAY_SKIP names it, separated by commas, or says all: power-cuts (root and
# loop mounts), tmux, script, compiler (cc). Without that variable what is not there is found out
# here, and said.
set -euo pipefail
cd "$(dirname "$0")/.."
export CHECK_STRICT=1

# Can a file be mounted?
loop_mounts() {
    local place rc=0
    place=$(mktemp -d)
    truncate -s 16M "$place/image" && mkdir "$place/mounted" &&
        mkfs.ext4 -q "$place/image" && mount -o loop "$place/image" "$place/mounted" &&
        umount "$place/mounted" || rc=1
    rm -rf "$place"
    return "$rc"
}

if [ -z "${CHECK_MAY_SKIP:-}" ]; then
    missing=()
    loop_mounts >/dev/null 2>&1 || missing+=(power-cuts)
    command -v tmux >/dev/null || missing+=(tmux)
    command -v script >/dev/null || missing+=(script)
    command -v cc >/dev/null || missing+=(compiler)
    if [ "${#missing[@]}" -gt 0 ]; then
        CHECK_MAY_SKIP=$(IFS=,; printf %s "${missing[*]}")
        printf 'NOT TESTED, for want of it on this machine: %s\n' "$CHECK_MAY_SKIP"
        export CHECK_MAY_SKIP
    fi
fi

step() {
    printf '\n== %s (%s s since the start)\n' "$*" "$SECONDS"
    "$@"
}

step cargo fmt --check
step cargo clippy --release --workspace --all-targets -- -D warnings
# The README's test command. In release, so that the demo and the simulation use the same build.
step cargo test --release
RUSTDOCFLAGS='-D warnings' step cargo doc --release --no-deps

if [ "${1:-}" = --quick ]; then
    exit 0
fi

for replicas in 1 3 5; do
    step cargo run --release --bin simulate -- --seeds "${CHECK_SEEDS:-3000}" --replicas "$replicas"
done
# Without a terminal on standard input it ends by itself.
step cargo run --release -- demo </dev/null
step cargo run --release -- demo --replicas 5 </dev/null
# Real processes under faults, twice under a minute: a few of all kinds, then each kind that touches a
# disk. As root on a machine of its own: network namespaces and small file systems. Elsewhere: proxied
# links and plain directories, where clients' links are never cut and disks are never full; it says so.
step cargo run --release --bin nemesis -- --minutes 0.4 --seed "${CHECK_SEED:-1}" --report target/nemesis
step cargo run --release --bin nemesis -- --minutes 0.5 --faults disk-full,damage,wipe,partition \
    --seed "${CHECK_SEED:-1}" --report target/nemesis-disks
# Every decoder, with valid inputs that were changed at random.
step cargo run --release --example fuzz -- --minutes 0.2
# Last: what it builds must not be taken for a shipped binary.
step cargo build --release --features model,mutants --bin simulate --bin model
step target/release/simulate --mutants
# Every state within small bounds (docs/model.md has the longer searches).
step target/release/model --entries 1
step target/release/model --mutants
if [ -n "${CHECK_LONG:-}" ]; then
    step cargo test --release --features model,mutants --bin simulate
fi

printf '\nall checks passed in %s s\n' "$SECONDS"
