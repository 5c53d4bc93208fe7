//! One frame: head, fields, canary.

use super::error::{Broken, FrameError};

/// Between fields. No field contains it: `|` is escaped.
const DELIMITER: &str = "||";
/// What a person types for a canary.
const NO_CANARY: &str = "-";

/// The canary of everything that stands before it, the last delimiter included: the first four
/// bytes of its blake3 hash, as hex digits.
pub fn canary(before: &[u8]) -> [u8; 8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let hash = blake3::hash(before);
    let mut digits = [0; 8];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash.as_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    digits
}

/// A frame whose head and canary are good; its fields are still escaped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What is asked, or answered.
    pub opcode: u64,
    /// In which version.
    pub version: u64,
    pub(super) fields: Vec<&'a str>,
}

impl<'a> Frame<'a> {
    /// Reads a line without its line end.
    pub fn parse(line: &'a [u8]) -> Result<Self, Broken> {
        let (text, cut) = match std::str::from_utf8(line) {
            Ok(text) => (text, None),
            Err(error) => {
                let good = &line[..error.valid_up_to()];
                // Cannot fail: that is what `valid_up_to` means.
                (std::str::from_utf8(good).unwrap_or_default(), Some(error))
            }
        };
        let mut parts = text.split(DELIMITER);
        let head = parts
            .next()
            .and_then(number)
            .zip(parts.next().and_then(number));
        let broken = |error| Broken { head, error };
        if cut.is_some() {
            return Err(broken(FrameError::NotUtf8));
        }
        let (Some((opcode, version)), Some(at)) = (head, text.rfind(DELIMITER)) else {
            return Err(Broken {
                head: None,
                error: FrameError::FrameInvalid,
            });
        };
        let before = at + DELIMITER.len();
        let given = &text[before..];
        let mut fields: Vec<&str> = parts.collect();
        // `opcode||version` alone: the version cannot be the canary as well.
        if fields.pop() != Some(given) {
            return Err(broken(FrameError::FrameInvalid));
        }
        if given != NO_CANARY && given.as_bytes() != canary(&line[..before]) {
            return Err(broken(FrameError::CanaryWrong));
        }
        Ok(Self {
            opcode,
            version,
            fields,
        })
    }

    pub(super) fn broken(&self, error: FrameError) -> Broken {
        Broken {
            head: Some((self.opcode, self.version)),
            error,
        }
    }
}

/// A number in decimal digits, and nothing else.
pub(super) fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Writes one frame at the end of a buffer.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// Begins a frame; `-` stands for a head that could not be read.
    pub(super) fn begin(out: &'a mut Vec<u8>, head: Option<(u64, u64)>) -> Self {
        use std::io::Write as _;
        let start = out.len();
        // A vector never fails to take bytes.
        let _ = match head {
            Some((opcode, version)) => write!(out, "{opcode}{DELIMITER}{version}{DELIMITER}"),
            None => write!(out, "-{DELIMITER}-{DELIMITER}"),
        };
        Self { out, start }
    }

    /// A field of the letters that need no escape.
    pub(super) fn plain(&mut self, field: impl std::fmt::Display) {
        use std::io::Write as _;
        let _ = write!(self.out, "{field}{DELIMITER}"); // as above
    }

    /// A field of text.
    pub(super) fn text(&mut self, field: &str) {
        self.escaped(field);
        self.out.extend_from_slice(DELIMITER.as_bytes());
    }

    /// A field of bytes: text where they are text. Control characters are escaped as well: what
    /// somebody sent must not reach the terminal of a person with `nc` as a command.
    pub(super) fn bytes(&mut self, field: &[u8]) {
        for chunk in field.utf8_chunks() {
            for part in chunk.valid().split_inclusive(is_hidden) {
                let hidden = part.chars().next_back().filter(|last| is_hidden(*last));
                let shown = part.len() - hidden.map_or(0, char::len_utf8);
                self.escaped(&part[..shown]);
                self.hex(&part.as_bytes()[shown..]);
            }
            self.hex(chunk.invalid());
        }
        self.out.extend_from_slice(DELIMITER.as_bytes());
    }

    fn hex(&mut self, bytes: &[u8]) {
        use std::io::Write as _;
        for byte in bytes {
            let _ = write!(self.out, "\\x{byte:02x}"); // as above
        }
    }

    fn escaped(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| escape_of(*byte).is_some()) {
            self.out.extend_from_slice(&rest[..at]);
            self.out.extend(
                escape_of(rest[at])
                    .map(|letter| [b'\\', letter])
                    .into_iter()
                    .flatten(),
            );
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
    }

    /// Adds the canary and the line end.
    pub(super) fn end(self) {
        let canary = canary(&self.out[self.start..]);
        self.out.extend_from_slice(&canary);
        self.out.push(b'\n');
    }
}

/// Control characters (those of two bytes as well) but for those with an escape of their own.
fn is_hidden(letter: char) -> bool {
    letter.is_control() && !matches!(letter, '\r' | '\n')
}

fn escape_of(byte: u8) -> Option<u8> {
    match byte {
        b'|' => Some(b'p'),
        b'\\' => Some(b'\\'),
        b'\r' => Some(b'r'),
        b'\n' => Some(b'n'),
        _ => None,
    }
}

/// The text of a field.
pub(super) fn unescape(field: &str) -> Result<String, FrameError> {
    if !field.contains(['|', '\\']) {
        return Ok(field.to_owned());
    }
    let mut text = String::with_capacity(field.len());
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        text.push(match letter {
            '|' => return Err(FrameError::FieldInvalid),
            '\\' => match letters.next() {
                Some('p') => '|',
                Some('\\') => '\\',
                Some('r') => '\r',
                Some('n') => '\n',
                _ => return Err(FrameError::FieldInvalid),
            },
            other => other,
        });
    }
    Ok(text)
}

/// The bytes of a field, with `\xHH` for those that are not text.
pub(super) fn unescape_bytes(field: &str) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes().iter();
    let wrong = FrameError::FieldInvalid;
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'|' => return Err(wrong),
            b'\\' => match rest.next() {
                Some(b'p') => b'|',
                Some(b'\\') => b'\\',
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b'x') => {
                    let mut digit = || rest.next().and_then(|digit| hex_digit(*digit));
                    let (high, low) = (digit().ok_or(wrong)?, digit().ok_or(wrong)?);
                    high << 4 | low
                }
                _ => return Err(wrong),
            },
            other => *other,
        });
    }
    Ok(bytes)
}

pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
