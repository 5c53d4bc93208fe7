#!/usr/bin/env bash
# Prints what three replicas of this build take on this machine, as a table: medians of REPS windows
# of SECS seconds each. Arguments go to `chat-admin bench` (for example --server-program FILE).
set -euo pipefail
cd "$(dirname "$0")/.."
reps=${REPS:-3}
secs=${SECS:-3}
cargo build --release --bin chat-server --bin chat-admin

median() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }

printf '%-12s %9s %12s %9s %9s %9s %12s %12s %7s\n' \
    protocol in-flight messages/s p50-ms p99-ms max-ms server-CPU/k msgs/fsync others
for protocol in grpc grpc-stream wire; do
    for in_flight in 1 64 256 1024; do
        runs=$(target/release/chat-admin bench --protocol "$protocol" --in-flight "$in_flight" \
            --seconds "$secs" --repeat "$reps" --output json "$@")
        row=("$protocol" "$in_flight")
        for name in messages_per_s p50_ms p99_ms p100_ms server_cpu_s_per_1000 \
            messages_per_fsync cores_used_by_others; do
            row+=("$(field "$name" <<<"$runs" | median)")
        done
        printf '%-12s %9s %12.0f %9.2f %9.2f %9.1f %12.4f %12.1f %7.2f\n' "${row[@]}"
    done
done
