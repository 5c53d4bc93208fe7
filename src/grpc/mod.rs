//! gRPC: conversion and nothing else. What a request means is `service`'s business, and the
//! replica's.

pub mod chat;
mod chat_convert;
#[cfg(test)]
mod chat_tests;
mod errors;
