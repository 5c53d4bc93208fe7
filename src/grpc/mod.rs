//! The gRPC fronts: conversion between protobuf and our types, and nothing else.
//!
//! `peer` is spoken on the internal listener only, `admin` on the socket in the data directory
//! only. What comes in is parsed into types here; what is wrong with it becomes an error here.

pub mod admin;
pub mod peer;
pub mod peer_convert;
