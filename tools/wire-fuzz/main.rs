//! The fuzz targets of the wire codec on a stable compiler: proptest makes the bytes.
//!
//! `cargo run --release --example wire-fuzz -- --minutes 10`. With a nightly compiler and cargo-fuzz
//! the same entry points are in `tools/fuzz`. An example and no binary: proptest is a dependency of
//! tests.

use chat::wire::codec::fuzzing;
use clap::Parser;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Feeds the decoders of the wire protocol.
#[derive(Parser)]
struct Args {
    /// How long.
    #[arg(long, default_value = "1")]
    minutes: f64,
}

/// Inputs between two looks at the clock.
const ROUND: u32 = 20_000;

/// Bytes without form, and text that is nearly a frame.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "||",
        "|",
        "\\",
        "\\p",
        "\\x",
        "\\x0",
        "\\xff",
        "-",
        "\n",
        "\r",
        "0",
        "1",
        "2",
        "8",
        "11",
        "18446744073709551615",
        "",
        "ct_",
        "\u{1e}",
        "ä",
        "m",
        "-||-||",
        "FRAME_INVALID",
    ]);
    let pieces = vec(pieces, 0..60).prop_map(|pieces| pieces.concat().into_bytes());
    let head = (0..20u16, 1..4u16).prop_map(|(opcode, version)| format!("{opcode}||{version}||"));
    let field = prop_oneof![
        "[0-9]{0,20}",
        "[a-f0-9]{32}",
        "\\PC{0,20}",
        "(\\\\[prnx\\\\]|[a-f0-9]){0,12}",
    ];
    let frame = (head, vec(field, 0..24))
        .prop_map(|(head, fields)| format!("{head}{}||-", fields.join("||")).into_bytes());
    let damaged = (frame.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut frame, at, byte)| {
            let at = at.index(frame.len());
            frame[at] = byte;
            frame
        },
    );
    prop_oneof![vec(any::<u8>(), 0..400), pieces, frame, damaged]
}

fn main() -> ExitCode {
    let args = Args::parse();
    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let config = Config {
        cases: ROUND,
        failure_persistence: None,
        ..Config::default()
    };
    let mut inputs: u64 = 0;
    while Instant::now() < until {
        // A runner counts its cases for ever: a new one each round, with chance of its own.
        let mut runner = TestRunner::new(config.clone());
        let outcome = runner.run(&(bytes(), any::<[u8; 2]>()), |(bytes, prefix)| {
            fuzzing::request(&bytes);
            fuzzing::reply(&bytes);
            fuzzing::lines(&[&prefix[..1], &bytes[..]].concat());
            fuzzing::damage(&[&prefix[..], &bytes[..]].concat());
            Ok(())
        });
        if let Err(error) = outcome {
            eprintln!("after {inputs} inputs: {error}");
            return ExitCode::FAILURE;
        }
        inputs += u64::from(ROUND);
    }
    println!("{inputs} inputs, each to 4 targets: no defect");
    ExitCode::SUCCESS
}
