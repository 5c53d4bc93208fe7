//! Commands as the payload of an entry.
//!
//! Byte strings are encoded as such: left to itself, serde writes a `Vec<u8>` number by number,
//! and a full-sized body of non-ASCII text would no longer fit into an entry. Decoding needs no
//! setting.

use crate::state_machine::Command;
use serde::Serialize;

/// The payload of the entry that carries this command; `None` if it is too long for one, which
/// the service's limits prevent.
pub(super) fn encode(command: &Command) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer =
        rmp_serde::Serializer::new(&mut bytes).with_bytes(rmp_serde::config::BytesMode::ForceAll);
    command
        .serialize(&mut serializer)
        .expect("a command holds nothing that MessagePack cannot express");
    (bytes.len() <= crate::limits::ENTRY_PAYLOAD_BYTES_MAX).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BODY_BYTES_MAX, ENTRY_PAYLOAD_BYTES_MAX};
    use crate::state_machine::{Auth, Operation};
    use crate::types::{ClientId, RequestId, TokenHash};

    fn send(body: Vec<u8>) -> Command {
        Command {
            auth: Some(Auth {
                token: TokenHash([0xff; 32]),
            }),
            request: Some(RequestId {
                client: ClientId([0xfe; 16]),
                sequence: u64::MAX,
            }),
            operation: Operation::SendMessage {
                recipient: "bob".into(),
                body,
                content_type: "text/plain".into(),
            },
            front: false,
        }
    }

    #[test]
    fn the_largest_body_of_high_bytes_fits_and_comes_back() {
        let command = send(vec![0xe4; BODY_BYTES_MAX]);
        let payload = encode(&command).unwrap();
        assert_eq!(rmp_serde::from_slice::<Command>(&payload).unwrap(), command);
        assert!(encode(&send(vec![0; ENTRY_PAYLOAD_BYTES_MAX])).is_none());
    }
}
