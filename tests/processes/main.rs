//! Real processes, real sockets, real disks: what is promised to users.

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../skips/mod.rs"]
mod skips;

/// Runs each of these tests over gRPC and over the wire protocol.
macro_rules! over_both {
    ($($name:ident,)*) => {
        mod over_grpc {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(chat::client::Protocol::Grpc).await;
            })*
        }
        mod over_wire {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(chat::client::Protocol::Wire).await;
            })*
        }
    };
}
use over_both;

mod bad_input;
mod bench;
mod command_line;
mod concurrent;
mod damage;
mod disks;
mod faults;
mod hostile;
mod hostile_bodies;
mod identity;
mod metrics;
mod recovery;
mod replication;
mod snapshots;
mod space;
mod terminal;
mod wire;
mod wire_document;
