//! Real processes, real sockets, real disks: what is promised to users.

#[path = "../cluster/mod.rs"]
mod cluster;

mod bad_input;
mod command_line;
mod concurrent;
mod faults;
mod identity;
mod replication;
