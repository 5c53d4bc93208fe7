//! What operators see: status, dump and verify, of running and of stopped replicas.
//!
//! | file | what |
//! |---|---|
//! | `verify` | one replica's log, commit records and state, checked by replay |
//! | `cluster` | the reports of several replicas, compared at one index |
//! | `client` | the admin socket of a running replica |
//! | `running` | the log of the replica that runs in this process |
//! | `stopped` | the store of a stopped one, on a private copy |
//! | `recover` | what is left of a cluster that cannot repair itself, and going on with it |
//! | `socket` | where the socket is |
//! | `format` | text and JSON, shared by `chat-admin`, the demo and the tests |
//!
//! Nothing here changes, repairs or migrates anything, but for `recover` when it is told to. A check says how much it compared, because
//! one that compared nothing also finds nothing.

pub mod client;
pub mod cluster;
pub mod description;
pub mod format;
pub mod recover;
pub mod running;
pub mod socket;
pub mod stopped;
pub mod verify;
