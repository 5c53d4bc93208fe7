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
/// While batches follow each other closely, a commit index waits for so many microseconds for entries
/// that carry it.
pub const NOTICE_WAIT_US: u64 = 500;
/// Append messages on the way to one secondary before its answer is awaited.
pub const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of committed entries kept in memory for secondaries that are a little behind.
pub const LOG_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// sled's cache, unless an operator says otherwise; its memory exceeds this by a few times.
pub const STORE_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of uncommitted entries on a primary before it refuses proposals.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of entries that a primary's own disk has not written before it refuses proposals. Others may
/// commit them, and then their effect waits in its memory as well: the trees follow the log on the disk.
pub const UNDURABLE_BYTES_MAX: usize = 8 * 1024 * 1024;
const _: () = assert!(UNDURABLE_BYTES_MAX >= 4 * APPEND_BYTES_MAX);
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
/// Milliseconds between attempts to reach a peer: at first, doubled each time, and at most (plus
/// up to half of it, at random, so that replicas do not knock in step).
pub const PEER_BACKOFF_MS: (u64, u64) = (1, 500);
/// Milliseconds between HTTP/2 pings, and for the answer: finds a peer whose host went silent.
pub const PEER_KEEPALIVE_MS: (u64, u64) = (2_000, 3_000);
/// Connections to one replica's internal listener at once; one more is closed. Each of the others
/// keeps one, and while it starts and dies over and over a few more until they are noticed as closed;
/// `chat-admin` comes over those same connections.
pub const PEER_CONNECTIONS_MAX: usize = 128;
const _: () = assert!(REPLICAS_MAX * 16 <= PEER_CONNECTIONS_MAX);
/// HTTP/2 streams of one such connection: the exchange, and what operators relay.
pub const PEER_STREAMS_MAX: u32 = 64;
/// Bytes of a replica's headers: ids and two addresses.
pub const PEER_HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Seconds for which `status` shows that a message of a peer was refused: long enough to be seen
/// by whoever looks because something is wrong, short enough that a restart is forgotten.
pub const COMPLAINT_SHOWN_SECONDS: u64 = 30;
/// Seconds until a refusal of the same kind is logged again for the same peer: who sends nonsense a
/// thousand times a second must not fill the disk with it.
pub const REFUSAL_TOLD_SECONDS: u64 = 3_600;
/// Largest term or index: so far below the largest number that counting on never overflows, and
/// out of reach all the same (146,000 years of a million entries a second).
pub const NUMBER_MAX: u64 = 1 << 62;
/// A term so far above one's own is refused. Terms rise by one an election, which takes
/// milliseconds: a replica would have to be away for ten years of nothing but elections.
pub const TERM_JUMP_MAX: u64 = 1 << 32;
/// State digests are kept and compared at multiples of this index: the same on every replica.
pub const DIGEST_EVERY: u64 = 1_024;
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
/// Milliseconds after a signal in which the next one is the same wish told twice: a supervisor that
/// signals a process and its group, a terminal that closes.
pub const SIGNAL_REPEAT_MS: u64 = 1_000;

/// Scrapes of the metrics at once.
pub const METRICS_CONNECTIONS_MAX: usize = 8;
/// Bytes of a scrape's request.
pub const METRICS_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Milliseconds for a whole scrape, and in it for the replica's status, and for the size of its store:
/// a replica that hangs is shown as such.
pub const METRICS_WAIT_MS: u64 = 5_000;
/// See [`METRICS_WAIT_MS`].
pub const METRICS_STATUS_MS: u64 = 1_000;
const _: () = assert!(METRICS_STATUS_MS * 2 < METRICS_WAIT_MS);
/// Milliseconds between two attempts to accept a scrape while the process has no file left.
pub const METRICS_PAUSE_MS: u64 = 100;

/// A store of fewer bytes than this and its live ones is not cleaned for the space alone.
pub const UNTIDY_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Milliseconds beside each slice in which pages are moved out of mostly dead segments, when the store has more than
/// [`UNTIDY_BYTES_MIN`] and 1.4 times its live bytes.
pub const TIDY_MS: u64 = 2;
/// So many times as long at most, when so many times as much is dead.
pub const TIDY_TIMES_MAX: u64 = 3;
/// Slices beside which that is done after the file has grown: while it does not, there are free segments.
pub const TIDY_SLICES: u64 = 16;
/// Blocks that leave the log in one job: what a batch waits behind.
pub const CUT_BLOCKS_MAX: usize = 32;
/// Entries that are cut where they are, at least: fewer wait for more.
pub const CUT_ENTRIES_MIN: u64 = 1_024;

/// Rows in one part of a snapshot or of a rewriting: what a batch waits behind, as behind a slice.
pub const SNAPSHOT_ROWS_MAX: usize = 256;
/// Bytes of rows or entries in one such part.
pub const SNAPSHOT_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(
    PEER_BATCH_BYTES_MAX + SNAPSHOT_BYTES_MAX + STATE_RECORD_BYTES_MAX < PEER_MESSAGE_BYTES_MAX
);
/// The state machine's own bytes in a snapshot: digest lanes and counters.
pub const SNAPSHOT_MACHINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of old records that are kept while a snapshot is read and the trees move on; beyond, that
/// snapshot is given up and a newer one offered. From a quarter of it on, what all readers have gone
/// by is let go.
pub const SNAPSHOT_PIN_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Of the log, read at once by a scrub, in bytes: a batch may wait behind it.
pub const SCRUB_PART_BYTES: usize = 128 * 1024;
/// A scrub of the state rests this many times as long as it has worked.
pub const SCRUB_REST_TIMES: u32 = 9;
/// A store that is built is synced each time so many bytes were written to it.
pub const BUILD_SYNC_BYTES: usize = 4 * 1024 * 1024;
/// sled's cache while a store is built, in bytes: it is written once and scanned once.
pub const BUILD_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Free space is looked at this often, in milliseconds: in this time a fast disk takes in less than
/// the default of `--min-free-mib`.
pub const DISK_LOOK_MS: u64 = 250;
/// A store is rewritten when it has so many times the least; or, where its live bytes are not known, what it was
/// after the last rewriting: by then most of it is dead. Half as many where space is short or nothing is written.
pub const REWRITE_GROWTH: u64 = 3;
/// And, where that is known, so many times its live bytes.
pub const REWRITE_LIVE_TIMES: u64 = 5;
/// Or half as many times more, or twice that, by the replica's id (and idle ones a minute later each): not
/// on all replicas at once.
pub const REWRITE_STAGGERED: u64 = 3;

/// Records in one checkpoint slice: the longest time that a batch waits behind it (about 10 µs a
/// record). Larger ones gather more: with 100 senders and 100 recipients at work the first 200 records are
/// theirs, and each further one stands for about ten messages.
pub const SLICE_RECORDS_MAX: usize = 512;
/// A slice ends, too, when the payloads of its entries have so many bytes.
pub const SLICE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How far the trees may be behind the log before slices go before what is proposed: in entries as
/// configured, or in so many records for each of these ...
pub const UNWRITTEN_RECORDS_PER_ENTRY: u64 = 4;
/// ... or in so many bytes of payloads for each.
pub const UNWRITTEN_BYTES_PER_ENTRY: u64 = 2 * 1024;
/// Then so many slices are written between two jobs of the core, ten times as many when the trees are
/// ten times as far behind ...
pub const SLICES_IN_TURN: u64 = 4;
/// ... but not more than this.
pub const SLICES_IN_TURN_MAX: u64 = 64;
/// Largest record of a state tree, in bytes. Bounded as blocks are.
pub const STATE_RECORD_BYTES_MAX: usize = BLOCK_BYTES_MAX;
/// Neighbouring small records share a row of the store's of at most so many bytes ...
pub const BUNDLE_BYTES_MAX: usize = 4_096;
/// ... and small is what takes at most so many.
pub const BUNDLED_RECORD_BYTES_MAX: usize = 1_024;
const _: () =
    assert!(BUNDLED_RECORD_BYTES_MAX < BUNDLE_BYTES_MAX && BUNDLE_BYTES_MAX < BLOCK_BYTES_MAX);
/// A block of the log of at least so many bytes goes to a leaf that was made ahead: what smaller ones cost twice is
/// little.
pub const BLOCK_AHEAD_BYTES_MIN: usize = 16 * 1024;
/// What changes with one slice after the other is written together, if it takes at most so many bytes.
pub const HOT_RECORD_BYTES_MAX: usize = 16_000;
/// An inbox, or a client's replies, in so many rows is long: it has sentinels behind them ...
pub const LONG_STRETCH_ROWS: usize = 16;
/// ... until fewer than so many are left.
pub const SHORT_STRETCH_ROWS: usize = 4;
const _: () = assert!(SHORT_STRETCH_ROWS < LONG_STRETCH_ROWS);
/// A slice looks at so many inboxes, and clients, whether they have become long.
pub const STRETCHES_A_SLICE: usize = 16;
/// Inboxes and clients of which the store remembers that they have sentinels.
pub const STRETCHES_KNOWN_MAX: usize = 16_384;
/// Largest last number in the key of a row behind which sentinels may stand: an index, an inbox's sequence, a
/// group of a client's replies.
pub const ROW_NUMBER_MAX: u64 = (0xfe << 56) - 1;
const _: () = assert!(NUMBER_MAX <= ROW_NUMBER_MAX);
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
/// Password hash in bytes: an argon2id string takes about 100, with other parameters a few more.
pub const PASSWORD_HASH_BYTES_MAX: usize = 512;
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
/// Inboxes in one `ExpireMessages`: each changes its head, ...
pub const EXPIRE_INBOXES_MAX: usize = 64;
/// ... and all together so many blocks of messages.
pub const EXPIRE_BLOCKS_MAX: usize = 512;
const _: () = assert!(BODY_BYTES_MAX + 4 * 1024 < ENTRY_PAYLOAD_BYTES_MAX);

/// Peers in one question for how far they have received what an account sent them: one read of a
/// small record each, on the replica's thread.
pub const DELIVERED_PEERS_MAX: usize = 256;

/// Pattern of an account listing in bytes.
pub const PATTERN_BYTES_MAX: usize = 256;
/// Compiled size of that pattern in bytes.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 256 * 1024;
/// Accounts on a page when the client names no number.
pub const PAGE_DEFAULT: u32 = 25;
/// Accounts on a page at most.
pub const PAGE_MAX: u32 = 1_000;
/// Sends of one `SendMessages` stream without an outcome before the server stops reading it: what
/// the idempotency window of one client allows (a request that was begun is taken whole).
pub const PIPELINE_MAX: usize = 2_048;
const _: () = assert!(PIPELINE_MAX as u64 <= REPLIES_MAX);
/// Replies of one `SendMessages` stream that wait for a slow client; each holds many outcomes.
pub const PIPELINE_REPLIES_MAX: usize = 4;
/// Accounts of one `SendMessages` stream whose token hashes are kept at hand.
pub const PIPELINE_TOKENS_MAX: usize = 1_024;
/// HTTP/2 window of a client connection in bytes: a pipelining client keeps many sends on the way,
/// and with the protocol's default of 64 KiB it would wait for window updates instead.
pub const CLIENT_WINDOW_BYTES: u32 = 1024 * 1024;
/// Messages read for one stream at once.
pub const DELIVER_BATCH_MAX: usize = 256;
/// Open streams on one replica.
pub const STREAMS_MAX: usize = 20_000;
/// Password hashes computed at once: argon2id takes 19 MiB each.
pub const HASHES_AT_ONCE_MAX: usize = 2;
/// Password hashes that wait for a place.
pub const HASHES_WAITING_MAX: usize = 1_024;
/// Largest client request in bytes.
pub const CLIENT_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// A token without use expires after this many seconds.
pub const TOKEN_IDLE_SECONDS: u64 = 3_600;
/// A token's use is extended by an entry at most this often, in seconds.
pub const TOKEN_EXTEND_SECONDS: u64 = 300;
const _: () = assert!(BODY_BYTES_MAX + 4 * 1024 < CLIENT_MESSAGE_BYTES_MAX);
const _: () = assert!(PAGE_MAX as usize * (USER_NAME_MAX + 8) < CLIENT_MESSAGE_BYTES_MAX);

/// How long a call retries inside, in milliseconds, before the client hears of it. An election
/// takes well under a second; a client with other replicas to ask is better told than kept.
pub const CALL_RETRY_MS_MAX: u64 = 1_000;
/// How long a replica keeps a write that it can neither propose nor give to a primary, in
/// milliseconds; then it is certainly not applied.
pub const HELD_WRITE_MS_MAX: u64 = 800;
const _: () = assert!(
    CALL_RETRY_MS_MAX + HELD_WRITE_MS_MAX < 2_000,
    "without a primary, our own client hears so before it takes the replica for silent"
);
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
/// Open connections of clients to one replica's gRPC listener; one more is closed at once. A
/// connection that does nothing costs some tens of KiB and a file descriptor.
pub const CLIENT_CONNECTIONS_MAX: usize = 10_000;
/// HTTP/2 streams of one client connection at once: calls and deliveries together.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Bytes of a client request's headers; a token is 67 of them.
pub const CLIENT_HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Seconds that open client calls may take to end when the server stops.
pub const STOP_GRACE_SECONDS: u64 = 5;

/// Connections of the wire protocol on one replica. Each takes a file descriptor and a few
/// kilobytes while it is idle.
pub const WIRE_CONNECTIONS_MAX: usize = 20_000;
/// Longest frame that a client may send, in bytes: a body of 16 KiB of which each byte has to be
/// written as `\xHH`, and what stands around it.
pub const WIRE_FRAME_BYTES_MAX: usize = 80 * 1024;
const _: () = assert!(BODY_BYTES_MAX * 4 + 8 * 1024 < WIRE_FRAME_BYTES_MAX);
/// A batch of messages ends when its frame has about this many bytes; one more message fits.
pub const WIRE_BATCH_BYTES_MAX: usize = 64 * 1024;
/// Requests of one wire connection that are worked on at once; the next ones wait in its socket.
/// Enough for a load generator on one connection, and few enough that one connection cannot fill
/// the replica's queue.
pub const WIRE_IN_FLIGHT_MAX: usize = 512;
const _: () = assert!(WIRE_IN_FLIGHT_MAX * 16 < REPLICA_QUEUE_MAX);
/// Bytes of frames of one wire connection that are worked on at once.
pub const WIRE_IN_FLIGHT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of replies that wait for a client to read them; beyond, its requests wait as well.
pub const WIRE_REPLIES_BYTES_MAX: usize = 256 * 1024;
/// Bytes taken from a wire connection's socket at once.
pub const WIRE_READ_BYTES: usize = 16 * 1024;
/// Seconds from the first byte of a frame to its last, and for a client to take its replies.
pub const WIRE_FRAME_SECONDS: u64 = 30;
/// Connections beyond the maximum that are told so at once; the rest is closed without a word.
pub const WIRE_REFUSALS_MAX: usize = 64;
/// Longest wait in a refresh, in milliseconds: an open refresh counts as use of its token.
pub const WIRE_WAIT_MS_MAX: u32 = HEARTBEAT_MS_MAX;
/// Tokens whose account, and whose last batch, one wire connection of version 1 remembers.
pub const WIRE_TOKENS_MAX: usize = 16;

/// Lost entries that `chat-admin recover` names one by one: what a person can read; their number is
/// always told.
pub const RECOVER_LINES_MAX: usize = 1_000;

/// So often in an hour a replica that comes upon damage while it runs begins again by itself. A repair
/// fetches the whole state; a disk that needs more of them is broken, and a defect of ours that looks
/// like damage ends here.
pub const REPAIRS_AN_HOUR: usize = 3;
