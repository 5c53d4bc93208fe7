//! Requests and replies of whatever version.

use super::error::{Broken, FrameError};
use super::field::Reader;
use super::frame::{Frame, Writer, unescape};
use super::{VERSIONS, v1, v2};

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Of version 1.
    V1(v1::Request),
    /// Of version 2.
    V2(v2::Request),
}

impl Request {
    /// Reads a line without its line end.
    pub fn decode(line: &[u8]) -> Result<Self, Broken> {
        let frame = Frame::parse(line)?;
        let mut reader = Reader::new(&frame.fields);
        let broken = |error| frame.broken(error);
        match frame.version {
            1 => {
                let (request, known) =
                    v1::Request::take(frame.opcode, &mut reader).map_err(broken)?;
                if frame.fields.len() != known {
                    return Err(broken(FrameError::FieldCount));
                }
                Ok(Self::V1(request))
            }
            2 => {
                let (request, _) = v2::Request::take(frame.opcode, &mut reader).map_err(broken)?;
                // What a newer client says there cannot be honoured, so it must not be accepted.
                if !reader.is_empty() {
                    return Err(broken(FrameError::FieldCount));
                }
                Ok(Self::V2(request))
            }
            _ => Err(broken(FrameError::VersionUnsupported)),
        }
    }

    /// Writes the frame, line end included, at the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (opcode, version) = self.head();
        let mut writer = Writer::begin(out, Some((opcode, version)));
        match self {
            Self::V1(request) => request.put(&mut writer),
            Self::V2(request) => request.put(&mut writer),
        }
        writer.end();
    }

    /// Opcode and version.
    pub fn head(&self) -> (u64, u64) {
        match self {
            Self::V1(request) => (request.opcode(), 1),
            Self::V2(request) => (request.opcode(), 2),
        }
    }
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Of version 1.
    V1(v1::Reply),
    /// Of version 2; the opcode of a failure may be one that the version has not.
    V2(u64, v2::Answer),
    /// To an opcode that version 1 has not.
    OpcodeUnknown(u64),
    /// To a version that is not spoken (opcode and version): names those that are.
    VersionUnsupported(u64, u64),
    /// To something whose head could not be read.
    Unread(FrameError),
}

impl Reply {
    /// The reply to a frame that was not understood. `replica` and `primary` are who answers, and
    /// where the primary is.
    pub fn to_broken(broken: Broken, replica: u16, primary: &str) -> Self {
        let word = broken.error.word();
        match broken.head {
            Some((opcode, 1)) => {
                v1::Reply::refused(opcode, word).map_or(Self::OpcodeUnknown(opcode), Self::V1)
            }
            Some((opcode, 2)) => {
                let failure = v2::Failure {
                    reason: word.to_owned(),
                    explanation: v2::Explanation {
                        message: broken.error.sentence().to_owned(),
                        code: Some(broken.error.code()),
                        ..v2::Explanation::default()
                    },
                };
                let answer = v2::Answer {
                    replica,
                    primary: primary.to_owned(),
                    outcome: Err(failure),
                };
                Self::V2(opcode, answer)
            }
            Some((opcode, version)) => Self::VersionUnsupported(opcode, version),
            None => Self::Unread(broken.error),
        }
    }

    /// Writes the frame, line end included, at the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let head = match self {
            Self::V1(reply) => Some((reply.opcode(), 1)),
            Self::V2(opcode, _) => Some((*opcode, 2)),
            Self::OpcodeUnknown(opcode) => Some((*opcode, 1)),
            Self::VersionUnsupported(opcode, version) => Some((*opcode, *version)),
            Self::Unread(_) => None,
        };
        let mut writer = Writer::begin(out, head);
        match self {
            Self::V1(reply) => reply.put(&mut writer),
            Self::V2(_, answer) => answer.put(&mut writer),
            Self::OpcodeUnknown(_) => writer.plain(FrameError::OpcodeUnknown.word()),
            Self::VersionUnsupported(..) => {
                writer.plain(FrameError::VersionUnsupported.word());
                writer.plain(spoken());
            }
            Self::Unread(error) => {
                writer.plain(error.word());
                writer.text(error.sentence());
            }
        }
        writer.end();
    }

    /// Reads a line without its line end.
    pub fn decode(line: &[u8]) -> Result<Self, Broken> {
        if let Some(error) = unread(line) {
            return Ok(Self::Unread(error));
        }
        let frame = Frame::parse(line)?;
        let mut reader = Reader::new(&frame.fields);
        let broken = |error| frame.broken(error);
        match frame.version {
            1 => match v1::Reply::take(frame.opcode, &mut reader) {
                Ok(reply) => Ok(Self::V1(reply)),
                Err(FrameError::OpcodeUnknown) => Ok(Self::OpcodeUnknown(frame.opcode)),
                Err(error) => Err(broken(error)),
            },
            2 => v2::Answer::take(frame.opcode, &mut reader)
                .map(|answer| Self::V2(frame.opcode, answer))
                .map_err(broken),
            version => Ok(Self::VersionUnsupported(frame.opcode, version)),
        }
    }
}

/// `1,2`.
pub(crate) fn spoken() -> String {
    VERSIONS.map(|version| version.to_string()).join(",")
}

/// The word of a reply without a head.
fn unread(line: &[u8]) -> Option<FrameError> {
    let text = std::str::from_utf8(line).ok()?;
    let word = text.strip_prefix("-||-||")?.split("||").next()?;
    let word = unescape(word).ok()?;
    FrameError::ALL
        .iter()
        .copied()
        .find(|error| error.word() == word)
}
