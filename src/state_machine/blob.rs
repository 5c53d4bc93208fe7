//! Serde helpers that keep byte strings as byte strings.
//!
//! Without them MessagePack writes a `Vec<u8>` as an array of numbers, two bytes for each that is
//! over 127: a message body of the largest size would not fit into an entry.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};
use std::fmt;

pub(super) fn serialize<S: Serializer>(
    bytes: &(impl AsRef<[u8]> + ?Sized),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes.as_ref())
}

pub(super) fn deserialize<'de, D, B>(deserializer: D) -> Result<B, D::Error>
where
    D: Deserializer<'de>,
    B: From<Vec<u8>>,
{
    struct Blob;
    impl<'de> Visitor<'de> for Blob {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a byte string")
        }
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = seq.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
    deserializer.deserialize_byte_buf(Blob).map(B::from)
}

/// A list of token hashes as one byte string of 32 bytes each.
pub(super) mod token_hashes {
    use crate::types::TokenHash;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(
        tokens: &[TokenHash],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(tokens.len() * 32);
        for token in tokens {
            bytes.extend_from_slice(&token.0);
        }
        serializer.serialize_bytes(&bytes)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<TokenHash>, D::Error> {
        let bytes: Vec<u8> = super::deserialize(deserializer)?;
        if !bytes.len().is_multiple_of(32) {
            return Err(D::Error::custom("token hashes are 32 bytes each"));
        }
        Ok(bytes
            .chunks_exact(32)
            .filter_map(TokenHash::from_slice)
            .collect())
    }
}
