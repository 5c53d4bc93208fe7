//! Benchmarks of the pure parts of the server: `cargo bench -p chat-benches`.
