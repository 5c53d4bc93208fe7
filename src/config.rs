//! Where a replica's settings come from: flags > environment (`CHAT_…`) > TOML file > defaults,
//! into one checked [`Config`].
//!
//! Nothing is checked later: what this module hands out is consistent. Every error names the
//! setting and says what is expected.

pub mod fuzzing;
mod parse;
#[cfg(test)]
mod tests;

pub use parse::Address;

use crate::limits;
use crate::replica::Rewriting;
use crate::types::ReplicaId;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::{Figment, Provider};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Entries between checkpoints, at most.
const CHECKPOINT_ENTRIES_MAX: u64 = 16_384;
/// A connected replica that is behind by less follows by the log.
const KEEP_BEHIND_MIN: u64 = 1_000_000;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, the environment or the flags cannot be read as settings.
    #[error("cannot read the settings")]
    Read(#[from] Box<figment::Error>),
    /// A setting has a value that makes no sense.
    #[error("{setting}: {problem}")]
    Setting {
        /// The flag.
        setting: &'static str,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// The flags of `chat-server run`. What is not given comes from the environment, the file or the
/// defaults.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
pub struct Flags {
    /// TOML file with the same settings (as `refresh_interval = "100ms"`)
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// This replica's id, from 1 [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Where the replica keeps everything; one directory for each replica
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Internal addresses of all replicas, this one included: `1=HOST:PORT,2=HOST:PORT,…`.
    /// Without it: a cluster of one
    #[arg(long, value_name = "ID=HOST:PORT,…")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<String>,
    /// Where clients connect [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_addr: Option<String>,
    /// The client address that others are told, if it differs from --client-addr
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_addr: Option<String>,
    /// Where clients of the wire protocol connect. Without it: nowhere
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_addr: Option<String>,
    /// The wire address that others are told, if it differs from --wire-addr
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_advertise_addr: Option<String>,
    /// Where Prometheus reads the metrics (GET /metrics, plain HTTP). Without it: nowhere
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_addr: Option<String>,
    /// How often each replica sends its status to the others [default: 100ms]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_interval: Option<String>,
    /// A primary unseen for this many refreshes is missed [default: 5]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub election_iters: Option<u32>,
    /// How long a starting replica waits for the others [default: 2s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialize_wait: Option<String>,
    /// An eighth of the longest time in which ballots are collected [default: 10ms]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub election_check_interval: Option<String>,
    /// How long a write may wait for its outcome [default: 5s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_timeout: Option<String>,
    /// A token expires after so long without use [default: 1h]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_idle: Option<String>,
    /// Messages are deleted so long after they were sent, read or not [default: forever]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
    /// What is logged: a level, or `module=level,…` [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Memory for the store's cache in MiB; the process takes about four times as much
    /// [default: 32]
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_mib: Option<u64>,
    /// Keep the whole log, for audit. Without it old entries are cut, and the hash at the cut is kept
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_log: bool,
    /// So many of the newest entries are never cut, and ten times as many, at least a million, for a connected
    /// replica that lacks them [default: 1000000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_entries: Option<u64>,
    /// Entries that are younger are never cut [default: none]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_age: Option<String>,
    /// The store is rewritten, which gives dead space back, when it has three times this many MiB and is
    /// five times as large as what is live in it; earlier if nothing was written for a minute [default: 128]
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite_mib: Option<u64>,
    /// And when it was last rewritten so long ago, if a tenth of --keep-entries or more was
    /// cut since then or can be [default: never for its age]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite_age: Option<String>,
    /// Log and state are read again, in the background, so long after the last time, and a tenth to
    /// three tenths of it after the start; 0s: never [default: 6h]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_interval: Option<String>,
    /// Writes are refused while a majority of the replicas has less free space than its store takes,
    /// which is the room to rewrite it, and this many MiB [default: 256]
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free_mib: Option<u64>,
    /// For tests only: the number in this file is taken for the free space in bytes.
    #[arg(long, value_name = "PATH", hide = true)]
    #[serde(skip)]
    pub free_space_file: Option<PathBuf>,
    /// For tests only: `OFFSET_MS [frozen]` in this file is what is wrong with the wall clock.
    #[arg(long, value_name = "PATH", hide = true)]
    #[serde(skip)]
    pub clock_file: Option<PathBuf>,
    /// For tests only: `chat-admin bench prepare` may fill this cluster.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub test_cluster: bool,
}

/// The settings as text: what flags, environment and file have in common.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    id: Option<u16>,
    data_dir: Option<PathBuf>,
    #[serde(deserialize_with = "parse::optional_text")]
    peers: Option<String>,
    #[serde(deserialize_with = "parse::text")]
    client_addr: String,
    #[serde(deserialize_with = "parse::optional_text")]
    advertise_addr: Option<String>,
    #[serde(deserialize_with = "parse::optional_text")]
    wire_addr: Option<String>,
    #[serde(deserialize_with = "parse::optional_text")]
    wire_advertise_addr: Option<String>,
    #[serde(deserialize_with = "parse::optional_text")]
    metrics_addr: Option<String>,
    #[serde(deserialize_with = "parse::text")]
    refresh_interval: String,
    election_iters: u32,
    #[serde(deserialize_with = "parse::text")]
    initialize_wait: String,
    #[serde(deserialize_with = "parse::text")]
    election_check_interval: String,
    #[serde(deserialize_with = "parse::text")]
    write_timeout: String,
    #[serde(deserialize_with = "parse::text")]
    token_idle: String,
    #[serde(deserialize_with = "parse::optional_text")]
    retention: Option<String>,
    #[serde(deserialize_with = "parse::text")]
    log: String,
    cache_mib: u64,
    keep_log: bool,
    keep_entries: u64,
    #[serde(deserialize_with = "parse::optional_text")]
    keep_age: Option<String>,
    rewrite_mib: u64,
    #[serde(deserialize_with = "parse::optional_text")]
    rewrite_age: Option<String>,
    #[serde(deserialize_with = "parse::text")]
    scrub_interval: String,
    min_free_mib: u64,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            id: None,
            data_dir: None,
            peers: None,
            client_addr: "127.0.0.1:7400".into(),
            advertise_addr: None,
            wire_addr: None,
            wire_advertise_addr: None,
            metrics_addr: None,
            refresh_interval: "100ms".into(),
            election_iters: 5,
            initialize_wait: "2s".into(),
            election_check_interval: "10ms".into(),
            write_timeout: "5s".into(),
            token_idle: format!("{}s", limits::TOKEN_IDLE_SECONDS),
            retention: None,
            log: "info".into(),
            cache_mib: limits::STORE_CACHE_BYTES / (1024 * 1024),
            keep_log: false,
            keep_entries: Rewriting::default().keep_entries,
            keep_age: None,
            rewrite_mib: Rewriting::default().bytes_min / (1024 * 1024),
            rewrite_age: None,
            scrub_interval: "6h".into(),
            min_free_mib: 256,
        }
    }
}

/// A hundred years: longer is a misspelt unit.
const RETENTION_DAYS_MAX: u64 = 36_500;
/// Tokens and messages that go sooner are gone before anybody can use them.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// A cluster that misses its primary only after a day has misspelt a unit.
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// A TiB of memory or of growth is a number too many.
const MIB_MAX: u64 = 1024 * 1024;
/// sled's own threads need a few MiB of it.
const CACHE_MIB_MIN: u64 = 8;
/// A PiB that is to stay free is on no disk.
const MIN_FREE_MIB_MAX: u64 = 1024 * 1024 * 1024;
/// Names of the settings, as in the file; in the environment in capitals after `CHAT_`.
const NAMES: [&str; 24] = [
    "id",
    "data_dir",
    "peers",
    "client_addr",
    "advertise_addr",
    "wire_addr",
    "wire_advertise_addr",
    "metrics_addr",
    "refresh_interval",
    "election_iters",
    "initialize_wait",
    "election_check_interval",
    "write_timeout",
    "token_idle",
    "retention",
    "log",
    "cache_mib",
    "keep_log",
    "keep_entries",
    "keep_age",
    "rewrite_mib",
    "rewrite_age",
    "scrub_interval",
    "min_free_mib",
];

/// Checked settings of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Internal addresses of all replicas, this one included. Empty: a cluster of one, which
    /// needs none.
    pub peers: BTreeMap<ReplicaId, Address>,
    /// Where clients connect.
    pub client_addr: Address,
    /// What others are told of it, if it differs.
    pub advertise_addr: Option<Address>,
    /// Where clients of the wire protocol connect, if they may.
    pub wire_addr: Option<Address>,
    /// What others are told of it, if it differs.
    pub wire_advertise_addr: Option<Address>,
    /// Where the metrics are served, if they are.
    pub metrics_addr: Option<Address>,
    /// Between two refreshes.
    pub refresh_interval: Duration,
    /// Refreshes without a primary until it is missed.
    pub election_iters: u32,
    /// How long a starting replica waits for the others.
    pub initialize_wait: Duration,
    /// An eighth of the collection window.
    pub election_check_interval: Duration,
    /// How long a write may wait for its outcome.
    pub write_timeout: Duration,
    /// Life of an unused token.
    pub token_idle: Duration,
    /// Age at which messages go; `None`: never for their age.
    pub retention: Option<Duration>,
    /// Filter of the log.
    pub log: String,
    /// Memory for the store's cache in bytes.
    pub cache_bytes: u64,
    /// When the store is rewritten, and what of the log is kept then.
    pub rewriting: Rewriting,
    /// Between two scrubs; zero: none.
    pub scrub_interval: Duration,
    /// Bytes to leave free on the disk beside the room for a rewriting.
    pub free_bytes_min: u64,
    /// For tests only: where the free space is read instead.
    pub free_space_file: Option<PathBuf>,
    /// For tests only: says what is wrong with the wall clock, also while the replica runs. A flag
    /// and nothing else names it, so that no forgotten variable or setting turns a clock.
    pub clock_file: Option<PathBuf>,
    /// For tests only: many accounts may be created under one password hash.
    pub test_cluster: bool,
    /// What is allowed but unwise, as sentences.
    pub warnings: Vec<String>,
}

fn rewriting(raw: &Raw) -> Result<Rewriting, ConfigError> {
    let age = |setting, age: Option<&str>| {
        let age = age.map(parse::duration).transpose();
        let age = age.map_err(|problem| ConfigError::Setting { setting, problem })?;
        Ok::<u64, ConfigError>(age.map_or(0, |age| age.as_micros() as u64))
    };
    let bytes_min = parse::mib(raw.rewrite_mib, 1, MIB_MAX);
    Ok(Rewriting {
        bytes_min: bytes_min.map_err(|problem| ConfigError::Setting {
            setting: "--rewrite-mib",
            problem,
        })?,
        age_us: age("--rewrite-age", raw.rewrite_age.as_deref())?,
        keep_entries: raw.keep_entries,
        keep_behind: raw.keep_entries.saturating_mul(10).max(KEEP_BEHIND_MIN),
        keep_age_us: age("--keep-age", raw.keep_age.as_deref())?,
        keep_log: raw.keep_log,
    })
}

/// A warning, if so many replicas are one too many.
fn even_number(replicas: usize) -> Option<String> {
    let even = replicas > 0 && replicas.is_multiple_of(2);
    even.then(|| {
        let fewer = replicas - 1;
        format!("{replicas} replicas survive no more faults than {fewer}: use an odd number")
    })
}

/// This replica, and where all of them are.
fn members(
    id: Option<u16>,
    peers: Option<&str>,
) -> Result<(ReplicaId, BTreeMap<ReplicaId, Address>), ConfigError> {
    let setting = |setting, problem| ConfigError::Setting { setting, problem };
    let peers = match peers {
        None => BTreeMap::new(),
        Some(text) => parse::peers(text).map_err(|e| setting("--peers", e))?,
    };
    let id = ReplicaId(match (id, peers.is_empty()) {
        (Some(0), _) => return Err(setting("--id", "ids begin at 1".into())),
        (Some(id), _) => id,
        (None, true) => 1,
        (None, false) => {
            let problem = "is needed with --peers: which of them this replica is";
            return Err(setting("--id", problem.into()));
        }
    });
    if !peers.is_empty() && !peers.contains_key(&id) {
        let problem = format!("must name all replicas, and this one ({id}) is missing");
        return Err(setting("--peers", problem));
    }
    Ok((id, peers))
}

/// How long a primary may be unseen is the product of two settings.
fn check_election_timeout(refresh_interval: Duration, iters: u32) -> Result<(), ConfigError> {
    let problem = match refresh_interval.checked_mul(iters) {
        _ if iters == 0 => "must be at least 1".to_owned(),
        Some(timeout) if timeout <= ELECTION_TIMEOUT_MAX => return Ok(()),
        _ => format!(
            "a primary would be missed only after {iters} times the --refresh-interval: that may \
             be a day at most"
        ),
    };
    Err(ConfigError::Setting {
        setting: "--election-iters",
        problem,
    })
}

impl Config {
    /// Reads all sources and checks the result.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_with(flags, Env::prefixed("CHAT_").only(&NAMES))
    }

    fn load_with(flags: &Flags, environment: impl Provider) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Raw::default()));
        if let Some(file) = &flags.config {
            let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Setting {
                setting: "--config",
                problem: format!("cannot read {}: {error}", file.display()),
            })?;
            figment = figment.merge(Toml::string(&text));
        }
        let raw: Raw = figment
            .merge(environment)
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(Box::new)?;
        let mut config = Self::check(raw)?;
        config.free_space_file.clone_from(&flags.free_space_file);
        config.clock_file.clone_from(&flags.clock_file);
        config.test_cluster = flags.test_cluster;
        if let Some(file) = &config.clock_file {
            let file = file.display();
            let warning = format!("the wall clock is as wrong as {file} says, for a test");
            config.warnings.push(warning);
        }
        Ok(config)
    }

    fn check(raw: Raw) -> Result<Self, ConfigError> {
        let setting = |setting, problem| ConfigError::Setting { setting, problem };
        let address = |name, text: &str| Address::parse(text).map_err(|e| setting(name, e));
        let time = |name, text: &str| parse::duration(text).map_err(|e| setting(name, e));
        let rewriting = rewriting(&raw)?;
        let data_dir = raw.data_dir.ok_or_else(|| {
            let problem = "is needed: the directory in which the replica keeps everything";
            setting("--data-dir", problem.into())
        })?;
        let (id, peers) = members(raw.id, raw.peers.as_deref())?;
        let life = |name, time| parse::at_least(time, LIFE_MIN).map_err(|e| setting(name, e));
        let mib = |name, value, least, most| {
            parse::mib(value, least, most).map_err(|problem| setting(name, problem))
        };
        let refresh_interval = time("--refresh-interval", &raw.refresh_interval)?;
        check_election_timeout(refresh_interval, raw.election_iters)?;
        let optional = |name, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| address(name, text)).transpose()
        };
        Ok(Self {
            id,
            warnings: even_number(peers.len()).into_iter().collect(),
            data_dir,
            peers,
            client_addr: address("--client-addr", &raw.client_addr)?,
            advertise_addr: optional("--advertise-addr", &raw.advertise_addr)?,
            wire_addr: optional("--wire-addr", &raw.wire_addr)?,
            wire_advertise_addr: optional("--wire-advertise-addr", &raw.wire_advertise_addr)?,
            metrics_addr: optional("--metrics-addr", &raw.metrics_addr)?,
            refresh_interval,
            election_iters: raw.election_iters,
            initialize_wait: time("--initialize-wait", &raw.initialize_wait)?,
            election_check_interval: time(
                "--election-check-interval",
                &raw.election_check_interval,
            )?,
            write_timeout: time("--write-timeout", &raw.write_timeout)?,
            token_idle: life("--token-idle", time("--token-idle", &raw.token_idle)?)?,
            retention: raw
                .retention
                .map(|text| parse::duration_up_to(&text, RETENTION_DAYS_MAX))
                .transpose()
                .map_err(|problem| setting("--retention", problem))?
                .map(|time| life("--retention", time))
                .transpose()?,
            log: raw.log,
            cache_bytes: mib("--cache-mib", raw.cache_mib, CACHE_MIB_MIN, MIB_MAX)?,
            rewriting,
            scrub_interval: match raw.scrub_interval.trim() {
                "0" | "0s" => Duration::ZERO,
                text => time("--scrub-interval", text)?,
            },
            free_bytes_min: mib("--min-free-mib", raw.min_free_mib, 0, MIN_FREE_MIB_MAX)?,
            free_space_file: None,
            clock_file: None,
            test_cluster: false,
        })
    }

    /// Every replica's id, ascending, this one's included.
    pub fn ids(&self) -> Vec<ReplicaId> {
        if self.peers.is_empty() {
            vec![self.id]
        } else {
            self.peers.keys().copied().collect()
        }
    }

    /// Where this replica listens for the others; `None` in a cluster of one.
    pub fn peer_addr(&self) -> Option<&Address> {
        self.peers.get(&self.id)
    }

    /// What the replica is started with.
    pub fn replica(&self) -> crate::replica::Config {
        let us = |time: Duration| time.as_micros() as u64;
        crate::replica::Config {
            node: crate::consensus::Config {
                id: self.id,
                ids: self.ids(),
                refresh_interval_us: us(self.refresh_interval),
                election_iters: self.election_iters,
                election_check_interval_us: us(self.election_check_interval),
                initialize_wait_us: us(self.initialize_wait),
                notice_wait_us: crate::limits::NOTICE_WAIT_US,
                build: version(),
                level: crate::types::LEVEL,
            },
            write_timeout_us: us(self.write_timeout),
            read_timeout_us: us(self.write_timeout),
            token_idle_us: us(self.token_idle),
            retention_us: self.retention.map_or(0, us),
            checkpoint_entries_max: CHECKPOINT_ENTRIES_MAX,
            rewriting: self.rewriting,
            scrub_interval_us: us(self.scrub_interval),
            free_bytes_min: self.free_bytes_min,
            digest_every: crate::limits::DIGEST_EVERY,
        }
    }
}

/// Version of this build, for people.
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
