//! What a field can be, and records of fields.

use super::error::FrameError;
use super::frame::{Writer, hex_digit, number, unescape, unescape_bytes};
use std::fmt;

/// Text that no log shows: a password, a token, a message.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Private(pub String);

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<private>")
    }
}

impl From<&str> for Private {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A message's body: any bytes; what is not UTF-8 travels as `\xHH`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Body(pub Vec<u8>);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Names a write for ever: see `docs/client_api.md`. Two fields: 32 hex digits, and a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestId {
    /// Drawn by the client.
    pub client_id: [u8; 16],
    /// Rises by one with each write.
    pub sequence: u64,
}

/// The fields of a frame that were not read yet.
pub(super) struct Reader<'a> {
    fields: &'a [&'a str],
}

impl<'a> Reader<'a> {
    pub(super) fn new(fields: &'a [&'a str]) -> Self {
        Self { fields }
    }

    /// The next field, or none if the frame has no more: it comes from an older side.
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.fields.split_first()?;
        self.fields = rest;
        Some(first)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Part of a record.
pub(super) trait Field: Sized {
    /// Fields of the frame that it takes; for lists: at least.
    const WIDTH: usize = 1;
    fn put(&self, out: &mut Writer<'_>);
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError>;
    /// As the reference's tables have it.
    #[cfg(test)]
    fn described(name: &str) -> String {
        name.to_owned()
    }
}

impl Field for String {
    fn put(&self, out: &mut Writer<'_>) {
        out.text(self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        unescape(from.next().unwrap_or_default())
    }
}

impl Field for Private {
    fn put(&self, out: &mut Writer<'_>) {
        out.text(&self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        String::take(from).map(Self)
    }
}

impl Field for Body {
    fn put(&self, out: &mut Writer<'_>) {
        out.bytes(&self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        unescape_bytes(from.next().unwrap_or_default()).map(Self)
    }
}

/// A number that must be there, and one that may be empty.
macro_rules! number_fields {
    ($($number:ty)*) => {$(
        impl Field for $number {
            fn put(&self, out: &mut Writer<'_>) {
                out.plain(self);
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
                let field = from.next().ok_or(FrameError::FieldCount)?;
                number(field).ok_or(FrameError::FieldInvalid)
            }
        }
        impl Field for Option<$number> {
            fn put(&self, out: &mut Writer<'_>) {
                match self {
                    Some(number) => out.plain(number),
                    None => out.plain(""),
                }
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
                match from.next() {
                    None | Some("") => Ok(None),
                    Some(field) => number(field).map(Some).ok_or(FrameError::FieldInvalid),
                }
            }
        }
    )*};
}
number_fields! { u16 u32 u64 }

impl Field for bool {
    fn put(&self, out: &mut Writer<'_>) {
        out.plain(u8::from(*self));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match from.next() {
            None | Some("" | "0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(FrameError::FieldInvalid),
        }
    }
}

impl Field for Option<RequestId> {
    const WIDTH: usize = 2;
    fn put(&self, out: &mut Writer<'_>) {
        let Some(id) = self else {
            out.plain("");
            return out.plain("");
        };
        out.plain(format_args!("{:032x}", u128::from_be_bytes(id.client_id)));
        out.plain(id.sequence);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let client = from.next().unwrap_or_default();
        let sequence: Option<u64> = Field::take(from)?;
        let (client, sequence) = match (client, sequence) {
            ("", None) => return Ok(None),
            (client, Some(sequence)) => (client, sequence),
            (_, None) => return Err(FrameError::FieldInvalid),
        };
        let mut client_id = [0; 16];
        let (pairs, rest) = client.as_bytes().as_chunks::<2>();
        if pairs.len() != client_id.len() || !rest.is_empty() {
            return Err(FrameError::FieldInvalid);
        }
        for (byte, [high, low]) in client_id.iter_mut().zip(pairs) {
            let digits = hex_digit(*high).zip(hex_digit(*low));
            let (high, low) = digits.ok_or(FrameError::FieldInvalid)?;
            *byte = high << 4 | low;
        }
        Ok(Some(RequestId {
            client_id,
            sequence,
        }))
    }
}

/// A fixed sequence of fields.
pub(super) trait Record: Sized {
    /// Fields that it takes; with a list at its end: at least.
    const WIDTH: usize;
    fn put(&self, out: &mut Writer<'_>);
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError>;
    #[cfg(test)]
    fn described() -> Vec<String>;
}

/// A list is its length, the number of fields of an item, and the items. A reader that knows
/// fewer fields of an item skips the rest; one that knows more reads them as empty.
impl<R: Record> Field for Vec<R> {
    const WIDTH: usize = 2;
    fn put(&self, out: &mut Writer<'_>) {
        out.plain(self.len());
        out.plain(R::WIDTH);
        for item in self {
            item.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        // From an older side.
        let Some(count) = from.next() else {
            return Ok(Self::new());
        };
        let width = from.next().ok_or(FrameError::FieldCount)?;
        let (Some(count), Some(width)) = (number::<usize>(count), number::<usize>(width)) else {
            return Err(FrameError::FieldInvalid);
        };
        if count == 0 {
            return Ok(Self::new());
        }
        // Items of no fields would cost memory that nobody sent.
        let total = count.checked_mul(width).filter(|total| *total > 0);
        let items = total.ok_or(FrameError::FieldInvalid)?;
        if items > from.fields.len() {
            return Err(FrameError::FieldCount);
        }
        let (items, rest) = from.fields.split_at(items);
        from.fields = rest;
        let items = items.chunks_exact(width);
        items.map(|item| R::take(&mut Reader::new(item))).collect()
    }
    #[cfg(test)]
    fn described(_: &str) -> String {
        format!("list of: {}", R::described().join(", "))
    }
}

/// Writes structs whose fields are the frame's, in this order.
macro_rules! records {
    ($(
        $(#[$doc:meta])* $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::wire::codec::field::Record for $name {
            const WIDTH: usize =
                0 $(+ <$type as $crate::wire::codec::field::Field>::WIDTH)*;
            #[allow(unused_variables)] // a record may be empty
            fn put(&self, out: &mut $crate::wire::codec::frame::Writer<'_>) {
                $($crate::wire::codec::field::Field::put(&self.$field, out);)*
            }
            #[allow(unused_variables)]
            fn take(
                from: &mut $crate::wire::codec::field::Reader<'_>,
            ) -> Result<Self, $crate::wire::codec::FrameError> {
                Ok(Self {
                    $($field: $crate::wire::codec::field::Field::take(from)?,)*
                })
            }
            #[cfg(test)]
            fn described() -> Vec<String> {
                vec![$(<$type as $crate::wire::codec::field::Field>::described(
                    stringify!($field),
                ),)*]
            }
        }

        #[cfg(test)]
        impl $crate::wire::codec::tests::Sample for $name {
            fn sample() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy as _;
                let nothing = proptest::strategy::Just(Self::default()).boxed();
                $(
                    let nothing = (nothing, <$type as $crate::wire::codec::tests::Sample>::sample())
                        .prop_map(|(mut record, field)| {
                            record.$field = field;
                            record
                        })
                        .boxed();
                )*
                nothing
            }
        }
    )*};
}
pub(super) use records;

/// Writes the requests and replies of one version, each with its opcode.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $opcode:literal -> $reply:ident,)*) => {
        /// What a client asks.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Request {
            $($(#[$doc])* $name($name),)*
        }

        /// What it is answered.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Reply {
            $($(#[$doc])* $name($reply),)*
        }

        impl Request {
            /// Its number in the frame.
            pub fn opcode(&self) -> u64 {
                match self { $(Self::$name(_) => $opcode,)* }
            }

            pub(super) fn put(&self, out: &mut Writer<'_>) {
                match self { $(Self::$name(record) => record.put(out),)* }
            }

            /// Reads the fields; also says how many of them are known.
            pub(super) fn take(
                opcode: u64,
                from: &mut Reader<'_>,
            ) -> Result<(Self, usize), FrameError> {
                match opcode {
                    $($opcode => Ok((Self::$name($name::take(from)?), <$name as Record>::WIDTH)),)*
                    _ => Err(FrameError::OpcodeUnknown),
                }
            }
        }

        impl Reply {
            /// The number of the operation that it answers.
            pub fn opcode(&self) -> u64 {
                match self { $(Self::$name(_) => $opcode,)* }
            }

            pub(super) fn put(&self, out: &mut Writer<'_>) {
                match self { $(Self::$name(record) => record.put(out),)* }
            }

            pub(super) fn take(
                opcode: u64,
                from: &mut Reader<'_>,
            ) -> Result<Self, FrameError> {
                match opcode {
                    $($opcode => Ok(Self::$name($reply::take(from)?)),)*
                    _ => Err(FrameError::OpcodeUnknown),
                }
            }
        }

        /// Opcode, fields of the request, fields of the reply.
        #[cfg(test)]
        pub(crate) fn described() -> Vec<(u64, Vec<String>, Vec<String>)> {
            vec![$(($opcode, <$name as Record>::described(), <$reply as Record>::described()),)*]
        }

        #[cfg(test)]
        impl crate::wire::codec::tests::Sample for Request {
            fn sample() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy as _;
                proptest::strategy::Union::new([
                    $(<$name as crate::wire::codec::tests::Sample>::sample()
                        .prop_map(Self::$name).boxed(),)*
                ]).boxed()
            }
        }

        #[cfg(test)]
        impl crate::wire::codec::tests::Sample for Reply {
            fn sample() -> proptest::strategy::BoxedStrategy<Self> {
                use proptest::strategy::Strategy as _;
                proptest::strategy::Union::new([
                    $(<$reply as crate::wire::codec::tests::Sample>::sample()
                        .prop_map(Self::$name).boxed(),)*
                ]).boxed()
            }
        }
    };
}
pub(super) use operations;
