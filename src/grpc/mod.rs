//! The gRPC fronts: conversion between protobuf and our types, and nothing else. What a request
//! means is `service`'s business, and the replica's.
//!
//! `chat` is on the client listener, `peer` on the internal one only, `admin` on the socket in the
//! data directory only. What comes in is parsed into types here; what is wrong with it becomes an
//! error here.

pub mod admin;
mod admin_prepare;
pub mod chat;
mod chat_convert;
mod chat_send;
#[cfg(test)]
mod chat_tests;
mod connections;
mod errors;
mod front;
#[cfg(test)]
mod front_tests;
pub mod fuzzing;
pub mod peer;
pub mod peer_convert;
mod unary;
