//! A replicated, durable chat server. This page is the map.
//!
//! # The layers
//!
//! ```text
//!  chat-server (run, demo)      chat            chat-admin   simulate   powercut   nemesis   model
//!         │                      │                  │
//!       config                 client             admin               (binaries import everything)
//!         │
//!   grpc::{chat, peer, admin}    net          wire (text)             fronts: conversion only
//!         │                      │
//!      service                   │                                    what both fronts call
//!         │                      │
//!      replica::Handle ──────────┘
//!         │
//!      replica  =  consensus  +  state_machine  +  storage::Store     one thread, no tokio inside
//!                    (pure)          (pure)        (sled | memory)
//!         │
//!       types, limits
//! ```
//!
//! # Who may import whom
//!
//! - [`consensus`] imports [`types`] and [`limits`] only. [`state_machine`] also the records and
//!   the reading trait of [`storage`]. Neither knows tokio, sled, tonic, a clock or a random
//!   number that was not passed in.
//! - [`storage`] imports the two for what it stores; only `storage/sled_store` and
//!   `migrations/` name sled.
//! - [`replica`] puts the three together. [`service`] speaks to `replica::Handle`, the fronts in
//!   [`grpc`] to [`service`] (`peer` and `admin` to the replica), [`net`] carries messages between
//!   replicas.
//! - [`metrics`] counts and knows nobody; [`exporter`] shows what was counted, and what the replica
//!   and its links know of themselves.
//! - [`wire`] is the other front on [`service`]. Its codec is pure and stands alone.
//! - [`client`] never imports the server: it knows the generated protobuf types and the codec of
//!   [`wire`], and nothing else.
//! - [`fuzzing`], and the files of that name, are what fuzzers call; nothing else does.
//!
//! `tests/tidy.rs` checks this.
//!
//! # Three journeys
//!
//! **A message is sent.** `grpc::front` or `wire::session` parses it; `service::messages` checks token form, names,
//! limits and request id; `replica::handle` queues it; `replica::turns` says which thread takes the turn;
//! `replica::writes` holds it until that turn ends, forwards it if this is a secondary, or proposes it with all
//! that arrived in the same turn. The reply leaves when the entry is applied. A stream of sends (`grpc::chat_send`) goes the
//! same way through `service::pipeline`, with one queue entry and one wake-up for what came together.
//!
//! **A batch is replicated.** `consensus::primary` seals the entries, hands them to the storage
//! thread and to the secondaries at once; `replica::execute` writes one block and fsyncs;
//! `consensus::replication` on a secondary accepts, fsyncs, acknowledges; `maybe_commit` counts;
//! `replica::engine` applies through `state_machine::machine` and wakes watchers through
//! `replica::shared`. Later `state_machine::overlay` hands out a checkpoint slice for the trees, when `replica::pace` lets it.
//!
//! **A replica boots.** `storage::directory` locks and opens the directory, `storage::recovery`
//! says what is there and what is damaged; `consensus::formation` says hello and founds the
//! cluster, the first time; `consensus::adoption` waits for the others and adopts the newest copy;
//! `consensus::election` asks, ballots and grants; the state machine replays what lies above its
//! trees. A store that is damaged, as the open finds or a run before has found, is put aside by
//! `storage::repair`, and `consensus::repair` says when the replica counts again.
//!
//! **Nothing happens for hours.** `replica::upkeep` decides when the log is cut, when the store is rewritten and when all of
//! it is read again; `replica::workshop` does it, part by part, beside the log.
//!
//! # Absent on purpose
//!
//! No leases by clock (reads ask a majority). No transport security between replicas yet. A
//! majority that is damaged beyond proof waits for its operator (`chat-admin recover`). No configuration change but readmission.

pub mod admin;
pub mod client;
pub mod config;
pub mod consensus;
pub mod exporter;
pub mod fuzzing;
pub mod grpc;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod replica;
pub mod service;
pub mod state_machine;
pub mod storage;
pub mod types;
pub mod wire;

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
