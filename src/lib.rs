//! A replicated, durable chat server. (The map comes with the parts.)

pub mod admin;
pub mod client;
pub mod config;
pub mod consensus;
pub mod grpc;
pub mod limits;
pub mod net;
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
    /// The inter-server API.
    pub mod peer {
        tonic::include_proto!("peer.v1");
    }
    /// The operators' API.
    pub mod admin {
        tonic::include_proto!("admin.v1");
    }
}
