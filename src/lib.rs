//! A replicated, durable chat server. (The map comes with the parts.)

pub mod client;
pub mod consensus;
pub mod grpc;
pub mod limits;
pub mod replica;
pub mod service;
pub mod state_machine;
pub mod storage;
pub mod types;

/// Generated from `proto/`.
#[allow(missing_docs, clippy::pedantic, clippy::all)]
pub mod proto {
    /// The client API.
    pub mod chat {
        tonic::include_proto!("chat.v1");
        /// For reflection.
        pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
    }
}
