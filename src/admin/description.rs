//! `cluster.json`: what `chat-server demo` says of the cluster that it runs, for `chat-admin bench`.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Why a file is not a cluster's description.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It is no JSON, or a field is missing or of another type.
    #[error("it does not parse")]
    Json(#[from] serde_json::Error),
    /// Nobody is named, or too many are.
    #[error("it names {0} replicas")]
    Count(usize),
    /// Ids begin at 1, and each is one replica's.
    #[error("it names replica {0} twice, or there is no such id")]
    Id(u16),
}

/// The file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Every replica.
    pub replicas: Vec<Described>,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Described {
    /// Its id.
    pub id: u16,
    /// While it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// HOST:PORT.
    pub client_addr: String,
    /// HOST:PORT.
    #[serde(default)]
    pub peer_addr: Option<String>,
    /// HOST:PORT, if it speaks the wire protocol.
    #[serde(default)]
    pub wire_addr: Option<String>,
    /// On this machine.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
}

impl Description {
    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Self, DescriptionError> {
        let parsed: Self = serde_json::from_str(text)?;
        let count = parsed.replicas.len();
        if count == 0 || count > limits::REPLICAS_MAX {
            return Err(DescriptionError::Count(count));
        }
        for (at, replica) in parsed.replicas.iter().enumerate() {
            let before = &parsed.replicas[..at];
            if replica.id == 0 || before.iter().any(|other| other.id == replica.id) {
                return Err(DescriptionError::Id(replica.id));
            }
        }
        Ok(parsed)
    }

    /// The text of the file.
    pub fn to_text(&self) -> Result<String, DescriptionError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_odd_ids_are_refused() {
        let replica = |id| Described {
            id,
            pid: Some(7),
            client_addr: "127.0.0.1:7400".into(),
            peer_addr: None,
            wire_addr: None,
            data_dir: Some("/srv/chat".into()),
        };
        let text = |ids: &[u16]| {
            let replicas = ids.iter().copied().map(replica).collect();
            Description { replicas }.to_text().unwrap()
        };
        assert_eq!(
            Description::parse(&text(&[1, 2])).unwrap().replicas.len(),
            2
        );
        for wrong in [&[][..], &[0], &[1, 1], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            assert!(Description::parse(&text(wrong)).is_err(), "{wrong:?}");
        }
        let too_large = text(&[1]).replace("\"id\": 1", "\"id\": 65537");
        assert!(Description::parse(&too_large).is_err());
    }
}
