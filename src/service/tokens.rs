//! Tokens: 256 random bits that prove a login.
//!
//! The replica that issues a token gives its text to the client and its hash to the cluster; the
//! text is never stored, logged or forwarded, and no trace or panic shows it.

use super::errors::{Reason, ServiceError};
use crate::types::TokenHash;
use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};
use rand::RngCore;
use std::fmt;
use std::sync::LazyLock;

/// Every token begins so: secret scanners and people recognise a leaked one.
const PREFIX: &str = "ct_";
const SECRET_BYTES: usize = 32;
const HASH_CONTEXT: &str = "chat-server 2026 token hash v1";

/// A token's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; SECRET_BYTES]);

impl Token {
    /// A new one, from the process's cryptographic generator.
    pub fn generate() -> Self {
        let mut secret = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        Self(secret)
    }

    /// Reads the text form; anything but exactly that is `TOKEN_INVALID`, as an unknown token is.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        text.strip_prefix(PREFIX)
            .and_then(parse_hex)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| Reason::TokenInvalid.into())
    }

    /// The text form, for the client alone.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", hex(&self.0))
    }

    /// What the cluster knows it by.
    pub fn hash(&self) -> TokenHash {
        // As `blake3::derive_key`, with the context hashed once: every call has a token.
        static CONTEXT: LazyLock<ContextKey> =
            LazyLock::new(|| hash_derive_key_context(HASH_CONTEXT));
        let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
        hasher.update(&self.0);
        TokenHash(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<token>")
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // a String never fails to take text
    }
    text
}

/// The inverse of [`hex`], and nothing else: upper case, an odd length or a stray byte is `None`.
pub(super) fn parse_hex(text: &str) -> Option<Vec<u8>> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn tokens_are_long_distinct_and_survive_their_text_form() {
        let mut seen = BTreeSet::new();
        for _ in 0..1_000 {
            let token = Token::generate();
            let text = token.reveal();
            assert_eq!(text.len(), 3 + 64);
            assert_eq!(Token::parse(&text).unwrap(), token);
            assert_eq!(
                token.hash().0,
                blake3::derive_key(HASH_CONTEXT, &token.0),
                "what stores have"
            );
            assert!(seen.insert(token.hash()));
        }
        // 256,000 random bits: far from half of them set would mean a broken generator.
        let ones: u32 = seen.iter().flat_map(|h| h.0).map(u8::count_ones).sum();
        assert!((120_000..136_000).contains(&ones), "{ones}");
    }

    #[test]
    fn only_the_exact_text_form_is_a_token() {
        let text = Token::generate().reveal();
        let wrong = [
            String::new(),
            "ct_".to_owned(),
            text[3..].to_owned(),
            text.to_uppercase(),
            format!("{text} "),
            format!(" {text}"),
            format!("{text}00"),
            text[..66].to_owned(),
            format!("{}g", &text[..66]),
            format!("{}é", &text[..65]),
            format!("ct_{}", "é".repeat(32)),
        ];
        for text in wrong {
            let error = Token::parse(&text).unwrap_err();
            assert_eq!(error.reason, Reason::TokenInvalid, "{text:?}");
        }
    }

    #[test]
    fn neither_the_secret_nor_its_hash_shows_in_a_trace() {
        let token = Token::generate();
        let trace = format!("{token:?} {token:#?}");
        assert!(!trace.contains(&token.reveal()[3..11]), "{trace}");
        assert!(!trace.contains(&token.hash().short()), "{trace}");
    }
}
