//! See `chat::wire::codec::fuzzing::damage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chat::wire::codec::fuzzing::damage(data));
