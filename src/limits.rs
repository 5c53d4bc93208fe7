//! Every maximum, and why. Relations between them are checked when the crate is compiled.

/// Largest payload of one entry, in bytes. A message body (16 KiB) with names and ids fits; four
/// such entries stay within a block.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 24 * 1024;

/// Largest block, the value of one record in the `log` tree, in bytes. sled rewrites a leaf of up
/// to 32 records as one, and a leaf over a quarter of a segment becomes a file that is never
/// fsynced: see `docs/storage.md`.
pub const BLOCK_BYTES_MAX: usize = 32 * 1024;

/// sled's segment size in bytes. Fixed when a store is created, and compared at each open.
pub const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

const _: () = assert!(
    BLOCK_BYTES_MAX * 32 < SEGMENT_BYTES / 4,
    "a leaf of full blocks must stay below sled's blob threshold"
);
const _: () = assert!(ENTRY_PAYLOAD_BYTES_MAX + 1024 < BLOCK_BYTES_MAX);

/// Most entries proposed, appended or acknowledged as one batch.
pub const BATCH_ENTRIES_MAX: usize = 1024;
/// Most bytes of entries in one append message. gRPC's default message limit is 4 MiB.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Append messages on the way to one secondary before its answer is awaited.
pub const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of committed entries kept in memory for secondaries that are a little behind.
pub const LOG_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of uncommitted entries on a primary before it refuses proposals.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes adopted at boot in one installation; what is left comes by replication.
pub const ADOPTION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most reads that wait for one read-index round.
pub const READS_WAITING_MAX: usize = 65_536;
/// Replicas in a cluster.
pub const REPLICAS_MAX: usize = 7;

/// Inputs that wait for the replica's thread before callers are held back.
pub const REPLICA_QUEUE_MAX: usize = 16_384;
/// Writes that wait for their outcome on one replica.
pub const PENDING_WRITES_MAX: usize = 65_536;
/// Messages that wait for one peer's connection before the oldest are dropped.
pub const PEER_QUEUE_MAX: usize = 4_096;
/// Largest inter-server message in bytes.
pub const PEER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
const _: () = assert!(APPEND_BYTES_MAX + BLOCK_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
/// Envelopes that travel in one inter-server message are gathered up to about this many bytes.
pub const PEER_BATCH_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(
    PEER_BATCH_BYTES_MAX + APPEND_BYTES_MAX + BLOCK_BYTES_MAX < PEER_MESSAGE_BYTES_MAX,
    "a batch that is nearly full may take one more append"
);
/// HTTP/2 window of an inter-server connection in bytes: a few appends on the way.
pub const PEER_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Milliseconds until a peer that does not answer a connection attempt is given up for now.
pub const PEER_CONNECT_MS: u64 = 1_000;
/// Milliseconds between attempts to reach a peer: at first, and at most (plus up to half of it,
/// at random, so that replicas do not knock in step).
pub const PEER_BACKOFF_MS: (u64, u64) = (50, 500);
/// Milliseconds between HTTP/2 pings, and for the answer: finds a peer whose host went silent.
pub const PEER_KEEPALIVE_MS: (u64, u64) = (2_000, 3_000);
/// State digests in one refresh.
pub const DIGESTS_MAX: usize = 64;
/// Version and build in a `Hello`, in bytes.
pub const BUILD_BYTES_MAX: usize = 256;

/// Milliseconds that an admin request waits for another replica's status.
pub const RELAY_STATUS_MS: u64 = 2_000;
/// Seconds that an admin request waits for another replica's verification.
pub const RELAY_VERIFY_SECONDS: u64 = 600;
/// Bytes of entries on one page of an admin listing.
pub const ADMIN_PAGE_BYTES: usize = 1024 * 1024;
/// Commit records on one page of an admin listing.
pub const ADMIN_PAGE_RECORDS: u64 = 4_096;
/// Findings that one verification lists; more only repeat what is known.
pub const FINDINGS_MAX: usize = 100;
/// Milliseconds that SIGTERM gives the replica to hand over and write everything, and then the
/// open client requests to end.
pub const SHUT_DOWN_MS: (u64, u64) = (10_000, 2_000);

/// Records in one checkpoint slice: the longest time that a batch waits behind it (about 20 µs a
/// record).
pub const SLICE_RECORDS_MAX: usize = 512;
/// Largest record of a state tree, in bytes. Bounded as blocks are.
pub const STATE_RECORD_BYTES_MAX: usize = BLOCK_BYTES_MAX;
/// Older inbox messages are packed in records of at most this many bytes.
pub const INBOX_BLOCK_BYTES_MAX: usize = 4 * 1024;

/// Message body in bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Content type in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// User name in characters (which are bytes: the alphabet is ASCII).
pub const USER_NAME_MAX: usize = 32;
/// Full name in bytes.
pub const FULL_NAME_BYTES_MAX: usize = 256;
/// Password in bytes: argon2 hashes any length, but a caller could make it hash megabytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Password in bytes, at least.
pub const PASSWORD_BYTES_MIN: usize = 1;
/// Device id in bytes.
pub const DEVICE_ID_BYTES_MAX: usize = 64;
/// Devices of an account.
pub const DEVICES_MAX: usize = 8;
/// Live tokens of an account; a login beyond drops the least recent.
pub const TOKENS_MAX: usize = 32;
/// Registered clients of an account, for idempotency; the least recent by log index is dropped.
pub const CLIENTS_MAX: usize = 16;
/// Replies kept for one client, for idempotency.
pub const REPLIES_MAX: u64 = 2_048;
/// Front doors (a replica's process run each) whose own request ids are remembered; the least
/// recent by log index is dropped.
pub const FRONTS_MAX: usize = 64;
/// Replies kept for one front door: it speaks for all clients that bring no ids.
pub const FRONT_REPLIES_MAX: u64 = 8_192;
/// Tokens in one `ExtendTokens`: each changes its own record and perhaps its account's head.
pub const EXTEND_TOKENS_MAX: usize = 512;
/// Tokens in one `ExpireTokens`: each changes three records.
pub const EXPIRE_TOKENS_MAX: usize = 256;
const _: () = assert!(EXTEND_TOKENS_MAX * 32 + 1024 < ENTRY_PAYLOAD_BYTES_MAX);
/// Messages kept in one inbox. Older ones go, sent or not.
pub const INBOX_MESSAGES_MAX: u64 = 1_000_000;
const _: () = assert!(BODY_BYTES_MAX + 4 * 1024 < ENTRY_PAYLOAD_BYTES_MAX);

/// Pattern of an account listing in bytes.
pub const PATTERN_BYTES_MAX: usize = 256;
/// Compiled size of that pattern in bytes.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 256 * 1024;
/// Accounts on a page when the client names no number.
pub const PAGE_DEFAULT: u32 = 25;
/// Accounts on a page at most.
pub const PAGE_MAX: u32 = 1_000;
/// Messages read for one stream at once.
pub const DELIVER_BATCH_MAX: usize = 256;
/// Open streams on one replica.
pub const STREAMS_MAX: usize = 20_000;
/// Password hashes computed at once: argon2id takes 19 MiB each.
pub const HASHES_AT_ONCE_MAX: usize = 2;
/// Password hashes that wait for a place.
pub const HASHES_WAITING_MAX: usize = 1_024;
/// Largest client request in bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A token without use expires after this many seconds.
pub const TOKEN_IDLE_SECONDS: u64 = 3_600;
/// A token's use is extended by an entry at most this often, in seconds.
pub const TOKEN_EXTEND_SECONDS: u64 = 300;
const _: () = assert!(BODY_BYTES_MAX + 4 * 1024 < CLIENT_MESSAGE_BYTES_MAX);
const _: () = assert!(PAGE_MAX as usize * (USER_NAME_MAX + 8) < CLIENT_MESSAGE_BYTES_MAX);

/// How long a call retries inside, in milliseconds, before the client hears of it. An election
/// takes well under a second; a client with other replicas to ask is better told than kept.
pub const CALL_RETRY_MS_MAX: u64 = 3_000;
/// First pause between two attempts of a call, in milliseconds; it doubles up to the next one.
pub const CALL_PAUSE_MS_MIN: u64 = 10;
/// Longest pause between two attempts of a call, in milliseconds.
pub const CALL_PAUSE_MS_MAX: u64 = 250;
/// How long a call waits for a place among the password hashes or listings, in milliseconds.
pub const POOL_WAIT_MS_MAX: u64 = 5_000;
/// Account listings scanned at once.
pub const LISTINGS_AT_ONCE_MAX: usize = 2;
/// Account listings that wait for a place.
pub const LISTINGS_WAITING_MAX: usize = 1_024;
/// Milliseconds that one page of a listing may scan before it is returned short, with a token
/// that goes on: a pattern that matches nothing must not hold a place.
pub const LISTING_SCAN_MS_MAX: u64 = 200;
/// Nesting of a pattern's groups and repeats.
pub const PATTERN_NESTING_MAX: u32 = 32;
/// Heartbeat of a stream when the client names none, in milliseconds.
pub const HEARTBEAT_MS_DEFAULT: u32 = 10_000;
/// Shortest heartbeat in milliseconds.
pub const HEARTBEAT_MS_MIN: u32 = 100;
/// Longest heartbeat in milliseconds: it is also what counts as use of the token.
pub const HEARTBEAT_MS_MAX: u32 = 60_000;
const _: () = assert!((HEARTBEAT_MS_MAX as u64) < TOKEN_EXTEND_SECONDS * 1000);
const _: () = assert!(TOKEN_EXTEND_SECONDS < TOKEN_IDLE_SECONDS);
/// Events of one stream that wait for a slow client: beyond, the stream stops reading.
pub const STREAM_QUEUE_MAX: usize = 64;
/// HTTP/2 streams of one client connection at once: calls and deliveries together.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Bytes of a client request's headers; a token is 67 of them.
pub const CLIENT_HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Seconds that open client calls may take to end when the server stops.
pub const STOP_GRACE_SECONDS: u64 = 5;
