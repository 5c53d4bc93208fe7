//! Passwords and message bodies, from a terminal or from standard input.

use crate::Failure;
use std::io::{BufRead, IsTerminal, Read};
use tokio::sync::mpsc;

/// A message has at most 16 KiB. Reading a little more is enough for the server to refuse it.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// A password: asked for on a terminal, else the next line of standard input.
pub fn password(prompt: &str) -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password(format!("{prompt}: "))
            .map_err(Failure::io("cannot read the password"));
    }
    let mut line = String::new();
    let bytes = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(Failure::io("cannot read the password"))?;
    if bytes == 0 {
        return Err(Failure::Usage(format!(
            "standard input ended where a line was expected: {prompt}"
        )));
    }
    Ok(without_line_end(line))
}

/// A password that is being chosen: a person must type it twice.
pub fn new_password(prompt: &str) -> Result<String, Failure> {
    let first = password(prompt)?;
    if std::io::stdin().is_terminal() && password(&format!("{prompt}, again"))? != first {
        return Err(Failure::Usage("the two are not the same".into()));
    }
    Ok(first)
}

/// All of standard input, without one line end at its end.
pub fn body() -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    std::io::stdin()
        .lock()
        .take(BODY_BYTES_MAX)
        .read_to_end(&mut body)
        .map_err(Failure::io("cannot read standard input"))?;
    if body.ends_with(b"\n") {
        body.pop();
        if body.ends_with(b"\r") {
            body.pop();
        }
    }
    Ok(body)
}

/// The lines of standard input, read by a thread of its own: the connection needs this one.
pub fn lines() -> mpsc::Receiver<Result<String, Failure>> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line
                .map(without_line_end)
                .map_err(Failure::io("cannot read standard input"));
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    receiver
}

fn without_line_end(mut line: String) -> String {
    if line.ends_with('\n') {
        line.pop();
    }
    if line.ends_with('\r') {
        line.pop();
    }
    line
}
