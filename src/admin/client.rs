//! The admin socket's client: for `chat-admin`, the demo and the tests.

use super::cluster::replica_id;
use super::socket;
use super::verify::{Finding, Report};
use crate::limits;
use crate::proto::admin as proto;
use crate::proto::admin::admin_service_client::AdminServiceClient;
use crate::storage::CommitRecord;
use crate::types::entry::{Entry, EntryError};
use crate::types::{Hash, Index, Stamp, Term, WallTime};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Millions of accounts take minutes.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Why an admin request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket cannot be used.
    #[error("cannot connect to {path}")]
    Socket {
        /// The data directory.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("cannot speak to the replica")]
    Transport(#[from] tonic::transport::Error),
    /// The replica said no.
    #[error("the replica refused: {}", .0.message())]
    Refused(#[from] Status),
    /// An entry that was sent does not parse.
    #[error("the replica sent an entry that does not parse")]
    Entry(#[from] EntryError),
    /// The replica's answer makes no sense.
    #[error("the replica's answer is malformed: {0}")]
    Malformed(&'static str),
    /// A stopped replica's store cannot be read.
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
}

/// Speaks to one running replica.
#[derive(Clone)]
pub struct AdminClient {
    inner: AdminServiceClient<Channel>,
}

impl AdminClient {
    /// Connects to the replica that runs on this data directory; `None` if none does.
    pub async fn connect(data_dir: &Path) -> Result<Option<Self>, AdminError> {
        let stream = socket::connect(data_dir)
            .await
            .map_err(|source| AdminError::Socket {
                path: data_dir.display().to_string(),
                source,
            })?;
        let Some(stream) = stream else {
            return Ok(None);
        };
        let mut stream = Some(TokioIo::new(stream));
        let channel = Endpoint::from_static("http://replica")
            .timeout(Duration::from_secs(limits::RELAY_VERIFY_SECONDS))
            .connect_with_connector(tower::service_fn(move |_| {
                let stream = stream
                    .take()
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
                std::future::ready(stream)
            }))
            .await?;
        let inner = AdminServiceClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        Ok(Some(Self { inner }))
    }

    /// This replica and, unless `local_only`, the others.
    pub async fn status(&mut self, local_only: bool) -> Result<proto::StatusResponse, AdminError> {
        let request = proto::StatusRequest { local_only };
        Ok(self.inner.status(request).await?.into_inner())
    }

    /// This replica.
    pub async fn local_status(&mut self) -> Result<proto::ReplicaStatus, AdminError> {
        let mut replicas = self.status(true).await?.replicas;
        replicas.pop().ok_or(AdminError::Malformed("no status"))
    }

    /// Checks a replica (0: the one connected to) up to `at` (0: to its commit index).
    pub async fn verify_replica(&mut self, replica: u32, at: u64) -> Result<Report, AdminError> {
        let request = proto::VerifyReplicaRequest { replica, at };
        let response = self.inner.verify_replica(request).await?.into_inner();
        report_in(response)
    }

    /// Entries `from..=to` in pages; 0 is the log's own beginning and end.
    pub async fn entries(&mut self, from: Index, to: Index) -> Result<EntryPages, AdminError> {
        let request = proto::ListEntriesRequest {
            from: from.0,
            to: to.0,
        };
        let stream = self.inner.list_entries(request).await?.into_inner();
        Ok(EntryPages { stream })
    }

    /// Fills a test cluster with accounts; `told` hears how many there are so far.
    pub async fn prepare_accounts(
        &mut self,
        request: proto::PrepareAccountsRequest,
        mut told: impl FnMut(u64),
    ) -> Result<(), AdminError> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(PREPARE_TIMEOUT);
        let mut stream = self.inner.prepare_accounts(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            told(response.done);
        }
        Ok(())
    }

    /// Commit records `from..=to`; 0 is the first and the last.
    pub async fn commit_records(
        &mut self,
        from: Index,
        to: Index,
    ) -> Result<Vec<CommitRecord>, AdminError> {
        let request = proto::ListCommitRecordsRequest {
            from: from.0,
            to: to.0,
        };
        let mut stream = self.inner.list_commit_records(request).await?.into_inner();
        let mut records = Vec::new();
        while let Some(page) = stream.message().await? {
            records.extend(records_in(&page)?);
        }
        Ok(records)
    }
}

/// Pages of entries.
pub struct EntryPages {
    stream: Streaming<proto::ListEntriesResponse>,
}

impl EntryPages {
    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, AdminError> {
        let Some(page) = self.stream.message().await? else {
            return Ok(None);
        };
        entries_in(&page).map(Some)
    }
}

/// The entries of a page.
pub(crate) fn entries_in(page: &proto::ListEntriesResponse) -> Result<Vec<Entry>, AdminError> {
    let entries = page.entries.iter();
    entries.map(|bytes| Ok(Entry::parse(bytes)?.0)).collect()
}

/// The commit records of a page.
pub(crate) fn records_in(
    page: &proto::ListCommitRecordsResponse,
) -> Result<Vec<CommitRecord>, AdminError> {
    let records = page.records.iter().map(|record| {
        Ok(CommitRecord {
            stamp: Stamp::new(Term(record.term), Index(record.index)),
            hash: hash_in(&record.hash)?,
            digest: hash_in(&record.digest)?,
            time: WallTime(record.time_us),
        })
    });
    records.collect()
}

pub(crate) fn report_in(response: proto::VerifyReplicaResponse) -> Result<Report, AdminError> {
    let findings = response.findings.into_iter().map(|finding| Finding {
        tree: finding.tree,
        index: Index(finding.index),
        sentence: finding.sentence,
    });
    Ok(Report {
        id: replica_id(response.id),
        index: Index(response.index),
        hash: hash_in(&response.hash)?,
        digest: hash_in(&response.digest)?,
        entries: response.entries,
        commit_records: response.commit_records,
        digests: response.digests,
        state_index: Index(response.state_index),
        no_trees: response.no_trees,
        notes: response.notes,
        findings: findings.collect(),
    })
}

fn hash_in(bytes: &[u8]) -> Result<Hash, AdminError> {
    Hash::from_slice(bytes).ok_or(AdminError::Malformed("a hash of the wrong length"))
}
