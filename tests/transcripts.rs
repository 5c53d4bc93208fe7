//! Scripted transcripts of the consensus core: plain text in, transcript out.
//!
//! Each file under `tests/transcripts/` is a script and what came of it. Lines that begin with `#`
//! say what the script guards against, lines that begin with `> ` are commands; everything else is
//! what the core did, and must come out the same. `UPDATE=1 cargo test --test transcripts` rewrites
//! the files; a person reads the difference.
//!
//! ```text
//! elect N                 N new replicas and a first primary: P, and the others A, B, C, D
//! start N                 N new replicas, every connection open
//! run MS                  time passes; messages arrive and disks work unless told otherwise
//! propose ID TEXT         a command for the primary
//! read ID                 a linearizable read
//! kill ID | restart ID    a process, with its disk kept
//! knows ID LEVEL          what its build knows, from its next start on (before `start` too)
//! wipe ID                 a process, with its disk replaced by an empty one
//! damage ID               a process, with its store put aside for an empty one
//! cut A B | join A B      both directions; messages are lost silently
//! cut A > B               one direction
//! disk ID holds | works   jobs wait; jobs are done
//! hold KIND | release     messages of this kind are kept back; they arrive now
//! hand-over ID            as SIGTERM does
//! digest ID INDEX X       its state after this index has a digest that this letter stands for
//! doubt ID | rebuilt ID   its state is found wrong; is right again
//! status                  what each replica shows
//! ```

mod transcript_cluster;

use std::fs;
use std::path::{Path, PathBuf};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    found.sort();
    found
}

fn play(text: &str) -> String {
    let mut cluster = transcript_cluster::Cluster::default();
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with('#') {
            let gap = if out.is_empty() { "" } else { "\n" };
            out.extend([gap, line, "\n"]);
        } else if let Some(command) = line.strip_prefix("> ") {
            out.extend(["\n> ", command, "\n"]);
            for line in cluster.command(command) {
                out.extend(["  ", &line, "\n"]);
            }
        }
    }
    out
}

#[test]
fn every_transcript_comes_out_as_it_is_written() {
    let update = std::env::var("UPDATE").is_ok_and(|v| v == "1");
    let mut wrong = Vec::new();
    let scripts = scripts();
    assert!(scripts.len() >= 10, "the scripts are there");
    for path in scripts {
        let text = fs::read_to_string(&path).expect("a readable script");
        assert!(
            text.starts_with("# "),
            "{}: the top line says what it guards against",
            path.display()
        );
        let played = play(&text);
        if update {
            fs::write(&path, &played).expect("a writable script");
        } else if played != text {
            let at = played.lines().zip(text.lines()).position(|(a, b)| a != b);
            let at = at.unwrap_or(played.lines().count().min(text.lines().count()));
            wrong.push(format!(
                "{} from line {}:\n  written: {}\n  played:  {}",
                path.display(),
                at + 1,
                text.lines().nth(at).unwrap_or("(end)"),
                played.lines().nth(at).unwrap_or("(end)")
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "UPDATE=1 rewrites them, if the new ones are right\n{}",
        wrong.join("\n")
    );
}
