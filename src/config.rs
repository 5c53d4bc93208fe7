//! Where a replica's settings come from: flags > environment (`CHAT_…`) > TOML file > defaults,
//! into one checked [`Config`].
//!
//! Nothing is checked later: what this module hands out is consistent. Every error names the
//! setting and says what is expected.

mod parse;
#[cfg(test)]
mod tests;

pub use parse::Address;

use crate::limits;
use crate::types::ReplicaId;
use figment::{Figment, Provider};
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Entries between checkpoints, at most.
const CHECKPOINT_ENTRIES_MAX: u64 = 16_384;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, the environment or the flags cannot be read as settings.
    #[error("cannot read the settings: {0}")]
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
    /// What is logged: a level, or `module=level,…` [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Memory for the store's cache in MiB; the process takes about four times as much
    /// [default: 64]
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_mib: Option<u64>,
}

/// The settings as text: what flags, environment and file have in common.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    id: Option<u16>,
    data_dir: Option<PathBuf>,
    peers: Option<String>,
    client_addr: String,
    advertise_addr: Option<String>,
    refresh_interval: String,
    election_iters: u32,
    initialize_wait: String,
    election_check_interval: String,
    write_timeout: String,
    token_idle: String,
    log: String,
    cache_mib: u64,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            id: None,
            data_dir: None,
            peers: None,
            client_addr: "127.0.0.1:7400".into(),
            advertise_addr: None,
            refresh_interval: "100ms".into(),
            election_iters: 5,
            initialize_wait: "2s".into(),
            election_check_interval: "10ms".into(),
            write_timeout: "5s".into(),
            token_idle: format!("{}s", limits::TOKEN_IDLE_SECONDS),
            log: "info".into(),
            cache_mib: 64,
        }
    }
}

/// Names of the settings, as in the file; in the environment in capitals after `CHAT_`.
const NAMES: [&str; 13] = [
    "id",
    "data_dir",
    "peers",
    "client_addr",
    "advertise_addr",
    "refresh_interval",
    "election_iters",
    "initialize_wait",
    "election_check_interval",
    "write_timeout",
    "token_idle",
    "log",
    "cache_mib",
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
    /// Filter of the log.
    pub log: String,
    /// Memory for the store's cache in bytes.
    pub cache_bytes: u64,
    /// What is allowed but unwise, as sentences.
    pub warnings: Vec<String>,
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
        Self::check(raw)
    }

    fn check(raw: Raw) -> Result<Self, ConfigError> {
        let setting = |setting, problem| ConfigError::Setting { setting, problem };
        let address = |name, text: &str| Address::parse(text).map_err(|e| setting(name, e));
        let time = |name, text: &str| parse::duration(text).map_err(|e| setting(name, e));
        let data_dir = raw.data_dir.ok_or_else(|| {
            let problem = "is needed: the directory in which the replica keeps everything";
            setting("--data-dir", problem.into())
        })?;
        let peers = match raw.peers.as_deref().map(str::trim) {
            None | Some("") => BTreeMap::new(),
            Some(text) => parse::peers(text).map_err(|e| setting("--peers", e))?,
        };
        let id = ReplicaId(match (raw.id, peers.is_empty()) {
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
        if raw.election_iters == 0 {
            return Err(setting("--election-iters", "must be at least 1".into()));
        }
        let mut warnings = Vec::new();
        if !peers.is_empty() && peers.len().is_multiple_of(2) {
            warnings.push(format!(
                "{} replicas survive no more faults than {}: use an odd number",
                peers.len(),
                peers.len() - 1
            ));
        }
        let advertise = raw.advertise_addr.as_deref();
        Ok(Self {
            id,
            data_dir,
            peers,
            client_addr: address("--client-addr", &raw.client_addr)?,
            advertise_addr: advertise
                .map(|text| address("--advertise-addr", text))
                .transpose()?,
            refresh_interval: time("--refresh-interval", &raw.refresh_interval)?,
            election_iters: raw.election_iters,
            initialize_wait: time("--initialize-wait", &raw.initialize_wait)?,
            election_check_interval: time(
                "--election-check-interval",
                &raw.election_check_interval,
            )?,
            write_timeout: time("--write-timeout", &raw.write_timeout)?,
            token_idle: time("--token-idle", &raw.token_idle)?,
            log: raw.log,
            cache_bytes: raw.cache_mib.clamp(8, 1024 * 1024) * 1024 * 1024,
            warnings,
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
                build: version(),
            },
            write_timeout_us: us(self.write_timeout),
            read_timeout_us: us(self.write_timeout),
            token_idle_us: us(self.token_idle),
            checkpoint_entries_max: CHECKPOINT_ENTRIES_MAX,
        }
    }
}

/// Version of this build, for people.
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
