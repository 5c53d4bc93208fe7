//! Addresses, lists of peers and times from text.

use crate::limits;
use crate::types::ReplicaId;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// `HOST:PORT`; the host is a name or an IP address (IPv6 in brackets). Resolved when it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(String);

impl Address {
    /// Checks the form only.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let expected = || format!("`{text}` is no address: expected HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) {
            return Err(expected());
        }
        if host.chars().any(|c| c.is_whitespace() || c == '/') {
            return Err(expected());
        }
        port.parse::<u16>().map_err(|_| expected())?;
        Ok(Self(text.to_owned()))
    }

    /// As tokio takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `1=HOST:PORT,2=HOST:PORT`.
pub(super) fn peers(text: &str) -> Result<BTreeMap<ReplicaId, Address>, String> {
    let mut peers = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (id, address) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` has no id: expected ID=HOST:PORT"))?;
        let id: u16 = match id.trim().parse() {
            Ok(id) if id > 0 => id,
            _ => return Err(format!("`{id}` is no replica id: ids are numbers from 1")),
        };
        let address = Address::parse(address)?;
        if let Some((other, _)) = peers.iter().find(|(_, known)| **known == address) {
            return Err(format!("replicas {other} and {id} have the same address"));
        }
        if peers.insert(ReplicaId(id), address).is_some() {
            return Err(format!("names replica {id} twice"));
        }
    }
    if peers.is_empty() {
        return Err(
            "names nobody: expected ID=HOST:PORT,…, or leave it out for a cluster of one".into(),
        );
    }
    if peers.len() > limits::REPLICAS_MAX {
        return Err(format!(
            "names {} replicas: at most {} are supported",
            peers.len(),
            limits::REPLICAS_MAX
        ));
    }
    Ok(peers)
}

/// `250us`, `100ms`, `2s`, `5m`, `1h`, `7d`. More than 0, at most 30 days.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    duration_up_to(text, 30)
}

/// The same, at most so many days.
pub(super) fn duration_up_to(text: &str, days_max: u64) -> Result<Duration, String> {
    let most = Duration::from_secs(days_max * 24 * 3600);
    let text = text.trim();
    let expected = || format!("`{text}` is no time: expected a number and us, ms, s, m, h or d");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let us_each: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let time = Duration::from_micros(number.saturating_mul(us_each));
    if time.is_zero() || time > most {
        return Err(format!(
            "`{text}` must be more than 0 and at most {days_max} days"
        ));
    }
    Ok(time)
}

pub(super) fn at_least(time: Duration, least: Duration) -> Result<Duration, String> {
    if time < least {
        return Err(format!("must be at least {least:?}"));
    }
    Ok(time)
}

/// So many MiB in bytes.
pub(super) fn mib(value: u64, least: u64, most: u64) -> Result<u64, String> {
    if !(least..=most).contains(&value) {
        return Err(format!("{value} must be a number from {least} to {most}"));
    }
    Ok(value * 1024 * 1024)
}

/// A setting that is a text. The environment and the file have numbers and truths too, which are
/// texts here, so that `90` is called no time rather than no string.
pub(super) fn text<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    Scalar::deserialize(source).map(Scalar::text)
}

/// The same for a setting that may be missing.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<Option<String>, D::Error> {
    let scalar = Option::<Scalar>::deserialize(source)?;
    Ok(scalar.map(Scalar::text))
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text")]
enum Scalar {
    Text(String),
    Whole(i64),
    Broken(f64),
    Truth(bool),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Whole(number) => number.to_string(),
            Self::Broken(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
        }
    }
}
