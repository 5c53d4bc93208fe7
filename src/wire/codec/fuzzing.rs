//! What fuzzers call of this module; see `crate::fuzzing`. Each takes any bytes, and panics only on a
//! defect.

use super::{Cut, Lines, Reply, Request};

/// Whatever decodes as a request must encode to something that decodes to the same.
pub fn request(data: &[u8]) {
    let Ok(request) = Request::decode(data) else {
        return;
    };
    let mut frame = Vec::new();
    request.encode(&mut frame);
    assert_eq!(frame.pop(), Some(b'\n'));
    assert!(!frame.contains(&b'\n') && !frame.contains(&b'\r'));
    assert_eq!(Request::decode(&frame), Ok(request));
}

/// The same for replies.
pub fn reply(data: &[u8]) {
    let Ok(reply) = Reply::decode(data) else {
        return;
    };
    let mut frame = Vec::new();
    reply.encode(&mut frame);
    assert_eq!(frame.pop(), Some(b'\n'));
    assert!(!frame.contains(&b'\n') && !frame.contains(&b'\r'));
    assert_eq!(Reply::decode(&frame), Ok(reply));
}

/// However a stream is cut into reads, the same frames come out of it. The first byte says how
/// large the reads are.
pub fn lines(data: &[u8]) {
    const FRAME_BYTES_MAX: usize = 64;
    let Some((first, stream)) = data.split_first() else {
        return;
    };
    let cut = |read_bytes: usize| {
        let mut lines = Lines::new(FRAME_BYTES_MAX);
        let mut found = Vec::new();
        for read in stream.chunks(read_bytes) {
            lines.buffer().extend_from_slice(read);
            loop {
                match lines.next_frame() {
                    Cut::Incomplete => break,
                    other => found.push(other),
                }
            }
            assert!(lines.buffer().len() <= FRAME_BYTES_MAX + 1 + read_bytes);
        }
        found
    };
    let whole = cut(usize::from(*first) + 1);
    assert_eq!(whole, cut(1));
    for frame in &whole {
        if let Cut::Frame(frame) = frame {
            assert!(!frame.is_empty() && frame.len() <= FRAME_BYTES_MAX);
        }
    }
}

/// A frame that was changed anywhere before its canary is refused. The first two bytes say where
/// and how.
pub fn damage(data: &[u8]) {
    let [at, change, line @ ..] = data else {
        return;
    };
    let Ok(request) = Request::decode(line) else {
        return;
    };
    let mut frame = Vec::new();
    request.encode(&mut frame);
    frame.pop();
    let at = usize::from(*at) % frame.len();
    if *change == 0 || at + 8 > frame.len() {
        return;
    }
    frame[at] ^= change;
    // By chance one in 4,294,967,296 passes; no fuzzer has found that one by trying.
    assert!(Request::decode(&frame).is_err(), "damage was not noticed");
}

/// Frames of both versions, without their ends.
const FRAMES: [&str; 14] = [
    "0||1||alice||a password||Alice||-",
    "1||1||alice||a password||-",
    "2||1||ct_5a||alice||bob||hello\\pthere\\n||-",
    "3||1||ct_5a||alice||25||^al||-",
    "4||1||ct_5a||alice||-",
    "5||1||ct_5a||alice||-",
    "0||1||||ct_5a||Alice||-",
    "2||1||TOKEN_INVALID||-",
    "3||1||||alice,bob||-",
    "5||1||[bob]: hello\u{1e}[bob]: there||||-",
    "0||2||00000000000000000000000000000001||1||alice||a password||Alice||phone||-",
    "2||2||00000000000000000000000000000001||2||ct_5a||bob||text/plain||hello||-",
    "11||2||-",
    "8||2||-||-||-",
];

/// Valid inputs of [`request`], and nearly valid ones.
pub fn request_seeds() -> Vec<Vec<u8>> {
    FRAMES
        .iter()
        .map(|frame| frame.as_bytes().to_vec())
        .collect()
}

/// Of [`reply`].
pub fn reply_seeds() -> Vec<Vec<u8>> {
    request_seeds()
}

/// Of [`lines`].
pub fn line_seeds() -> Vec<Vec<u8>> {
    let stream = FRAMES.join("\n") + "\r\n\n";
    vec![[&[7][..], stream.as_bytes()].concat(), vec![1, b'\n', b'a']]
}

/// Of [`damage`].
pub fn damage_seeds() -> Vec<Vec<u8>> {
    let frames = FRAMES.iter().map(|frame| frame.as_bytes());
    frames.map(|frame| [&[3, 1][..], frame].concat()).collect()
}
