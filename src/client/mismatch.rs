//! A server that speaks something else: the right host and the wrong port, most often.
//!
//! Without this it would look like a server that breaks every connection, and be tried again until
//! the deadline.

use super::cluster::{Cluster, Protocol};
use super::error::{DOMAIN, explained};
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The reason word.
pub(super) const WRONG_PROTOCOL: &str = "WRONG_PROTOCOL";
/// What every server of the wire protocol answers with its own versions...
const QUESTION: &[u8] = b"9||2||-\n";
/// ... and how that begins, or what it says when it is full.
const ANSWERS: [&[u8; 6]; 2] = [b"9||2||", b"-||-||"];

/// The server at this address does not speak our protocol, but the other one.
pub(super) fn wrong_protocol(address: &str, ours: Protocol) -> Status {
    let (spoken, wanted) = match ours {
        Protocol::Grpc => ("the wire protocol", "gRPC"),
        Protocol::Wire => ("gRPC", "the wire protocol"),
    };
    let details = ErrorDetails::with_error_info(WRONG_PROTOCOL, DOMAIN, HashMap::new());
    let message = format!("{address} speaks {spoken}, and this client {wanted}");
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// A server that speaks gRPC and has never heard of our service: a replica's internal address, most
/// often. It says no word of its own.
fn no_client_address(address: &str) -> Status {
    let details = ErrorDetails::with_error_info(WRONG_PROTOCOL, DOMAIN, HashMap::new());
    let message = format!(
        "{address} is no client address of a replica: what listens there does not serve chat.v1, or an \
         older version of it (the replicas' internal addresses, those of --peers, are not for clients)"
    );
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// A broken connection may have been one to a server of the wire protocol, and one that knows no such
/// call a server of something else. Asked only of a server that has never answered: one that dies is
/// nobody to wait for.
pub(super) async fn explain(cluster: &Cluster, number: usize, status: Status) -> Status {
    let options = cluster.options();
    let ours = options.protocol == Protocol::Wire || explained(&status);
    if ours || cluster.has_answered(number) {
        return status;
    }
    let address = cluster.address(number);
    match status.code() {
        Code::Unimplemented => no_client_address(&address),
        Code::Internal | Code::Unknown if speaks_wire(&address, options.connect_timeout).await => {
            wrong_protocol(&address, Protocol::Grpc)
        }
        _ => status,
    }
}

async fn speaks_wire(address: &str, patience: Duration) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(QUESTION).await?;
        let mut answer = [0; 6];
        socket.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(ANSWERS.contains(&&answer))
    };
    matches!(tokio::time::timeout(patience, ask).await, Ok(Ok(true)))
}
