//! What can be wrong with a frame: stable words, as those of the service.

use std::fmt;

/// Writes the enum, the list and the tables from one list.
macro_rules! frame_errors {
    ($($variant:ident $word:literal $code:literal $sentence:literal;)*) => {
        /// Why a frame was not understood. Its word stands where a failed operation's reason word
        /// stands.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum FrameError {
            $(#[doc = $sentence] $variant,)*
        }

        impl FrameError {
            /// All, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable word.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
            /// As gRPC numbers its status codes.
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* }
            }
            /// For people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

frame_errors! {
    FrameInvalid "FRAME_INVALID" 3
        "a frame is opcode, version, fields and canary, with two bars between them; opcode and version are numbers";
    NotUtf8 "NOT_UTF8" 3
        "a frame is UTF-8 text";
    CanaryWrong "CANARY_WRONG" 3
        "the frame does not match its canary: it was cut or damaged (by hand, type - as the canary)";
    FrameTooLong "FRAME_TOO_LONG" 3
        "the frame is longer than this server accepts";
    FrameTimeout "FRAME_TIMEOUT" 4
        "the rest of the frame did not come in time";
    FrameCut "FRAME_CUT" 3
        "the connection ended in the middle of a frame";
    VersionUnsupported "VERSION_UNSUPPORTED" 12
        "this server does not speak this version";
    OpcodeUnknown "OPCODE_UNKNOWN" 12
        "this version has no such opcode";
    FieldCount "FIELD_COUNT" 3
        "the frame has the wrong number of fields";
    FieldInvalid "FIELD_INVALID" 3
        "a field is not of its form: a number, or text with bars, backslashes and line ends escaped";
    TooManyConnections "TOO_MANY_CONNECTIONS" 8
        "this replica has as many connections as it takes: try another one, or later";
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for FrameError {}

/// A frame that was not understood, and what could be read of its head, so that the reply can
/// repeat it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Broken {
    /// Opcode and version, if both could be read.
    pub head: Option<(u64, u64)>,
    /// Why.
    #[source]
    pub error: FrameError,
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self { head: None, error }
    }
}
