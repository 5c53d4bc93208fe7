#!/usr/bin/env bash
# Compares two builds of the server pair by pair, so that a regression is seen on a noisy machine:
#   tools/bench-compare.sh OLD NEW [arguments of `chat-admin bench`]
# OLD and NEW are `chat-server` executables. PAIRS windows each (default 5) of SECS seconds, in
# alternation. A ratio above 1 means more messages, or more CPU, with NEW.
set -euo pipefail
old=${1:?usage: tools/bench-compare.sh OLD NEW [arguments]}
new=${2:?usage: tools/bench-compare.sh OLD NEW [arguments]}
shift 2
cd "$(dirname "$0")/.."
pairs=${PAIRS:-5}
secs=${SECS:-3}
[ -x target/release/chat-admin ] || cargo build --release --bin chat-admin

run() {
    target/release/chat-admin bench --server-program "$1" --seconds "$secs" --output json "${@:2}"
}
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }

rates=$(mktemp)
trap 'rm -f "$rates"' EXIT
printf '%-6s %12s %12s %8s %12s %12s %8s\n' pair old-msgs/s new-msgs/s ratio old-CPU/k new-CPU/k ratio
for pair in $(seq "$pairs"); do
    # Every other pair the other way round: whoever goes first finds another machine.
    if ((pair % 2)); then
        first=$(run "$old" "$@") second=$(run "$new" "$@")
    else
        second=$(run "$new" "$@") first=$(run "$old" "$@")
    fi
    for name in messages_per_s server_cpu_s_per_1000; do
        field "$name" <<<"$first"
        field "$name" <<<"$second"
    done | paste -sd' ' | tee -a "$rates" | awk -v pair="$pair" \
        '{printf "%-6s %12.0f %12.0f %8.3f %12.4f %12.4f %8.3f\n", pair, $1, $2, $2 / $1, $3, $4, $4 / $3}'
done
median() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
printf 'median ratio: messages/s %.3f, server CPU %.3f\n' \
    "$(awk '{print $2 / $1}' "$rates" | median)" "$(awk '{print $4 / $3}' "$rates" | median)"
