//! The admin API: what a running replica tells operators, and passes on to the others.
//!
//! Served on the 0600 socket in the data directory only. [`Admin`] also answers what another
//! replica relays.

use crate::admin::running::RunningLog;
use crate::admin::verify::{LogSource as _, Report, Scan, Scope, verify};
use crate::consensus::{Event, Role};
use crate::limits;
use crate::net::Links;
use crate::proto::admin as proto;
use crate::proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use crate::proto::peer::{relay_request, relay_response};
use crate::replica::Handle;
use crate::service::Service;
use crate::storage::{CommitRecord, StorageError};
use crate::types::entry::Entry;
use crate::types::refusals::{RefusalKey, Refusals};
use crate::types::{Hash, Index, ReplicaId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

/// A state digest that is known, and where from.
type Known = (Index, Hash, &'static str);

/// What the admin API needs of a running replica.
pub struct Admin {
    handle: Handle,
    links: Links,
    peer_addr: String,
    version: String,
    /// One verification at a time: each replays the whole log.
    verifying: Mutex<()>,
}

impl Admin {
    /// `peer_addr` is this replica's internal address, empty in a cluster of one.
    pub fn new(handle: Handle, links: Links, peer_addr: String) -> Self {
        Self {
            handle,
            links,
            peer_addr,
            version: crate::config::version(),
            verifying: Mutex::new(()),
        }
    }

    /// This replica's status. Never fails: a replica that does not answer says so.
    pub async fn local_status(&self) -> proto::ReplicaStatus {
        let wait = Duration::from_millis(limits::RELAY_STATUS_MS);
        let Ok(Some(status)) = tokio::time::timeout(wait, self.handle.status()).await else {
            return unreachable(self.links.me(), "the replica's thread does not answer");
        };
        let node = &status.node;
        let numbers = |ids: &[ReplicaId]| ids.iter().map(|id| id.0.into()).collect();
        proto::ReplicaStatus {
            id: node.id.0.into(),
            unreachable: String::new(),
            role: role_name(node.role).to_owned(),
            term: node.term.0,
            primary: node.primary.map_or(0, |id| id.0.into()),
            serving: node.serving,
            base_index: node.base.0,
            last_term: node.last.term.0,
            last_index: node.last.index.0,
            durable_index: node.durable.index.0,
            commit_index: node.commit.0,
            applied_index: status.applied.0,
            checkpoint_index: status.checkpoint.0,
            digest: copy(status.digest),
            head_hash: copy(node.head_hash),
            store_bytes: self.handle.store_size().await.unwrap_or(0),
            version: self.version.clone(),
            cluster: node
                .cluster
                .map_or_else(Bytes::new, |cluster| Bytes::copy_from_slice(&cluster.0)),
            incarnation: Bytes::copy_from_slice(&node.incarnation.0),
            connected: numbers(&node.connected),
            client_addr: self.links.client_addr(node.id).unwrap_or_default(),
            peer_addr: self.peer_addr.clone(),
            errors: self.errors(&status),
            ids: numbers(&self.links.ids()),
            matches: node
                .matches
                .iter()
                .map(|(id, index)| proto::PeerMatch {
                    id: id.0.into(),
                    index: index.0,
                })
                .collect(),
            syncs: crate::storage::fdatasync_calls(),
            refusals: refusals_out(&self.links.refusals(), &status.refusals),
            level: node.level.0,
            adopted: node.adopted.map(|(from, last)| proto::Adoption {
                from: from.0.into(),
                last_term: last.term.0,
                last_index: last.index.0,
            }),
        }
    }

    /// Sentences; empty when all is well.
    fn errors(&self, status: &crate::replica::Status) -> Vec<String> {
        let node = &status.node;
        let mut errors = self.links.complaints();
        if let Some((index, what)) = &node.damage {
            errors.insert(0, format!("damaged at index {index}: {what}"));
        }
        if let Some(halt) = &node.halt {
            errors.insert(0, crate::replica::sentence(halt));
        } else if node.role == Role::Repairing {
            let what = "its store was damaged: it is filled from the primary, and takes no part \
                        until that is done";
            errors.insert(0, what.to_owned());
        }
        errors.extend(doubts(node));
        errors.extend(want_of_room(status));
        errors.extend(what_is_missing(node));
        for (peer, reason) in &node.refused {
            errors.push(format!("it refuses to speak with replica {peer}: {reason}"));
        }
        if let Some(ahead_us) = node.clock_ahead_us {
            errors.push(format!(
                "its clock is {}",
                crate::replica::clock_ahead(ahead_us)
            ));
        }
        errors
    }

    /// Checks this replica; hash and digest are reported at `at`, or at the commit index if 0.
    pub async fn local_verify(&self, at: u64) -> Result<proto::VerifyReplicaResponse, Status> {
        let Ok(_one) = self.verifying.try_lock() else {
            return Err(Status::resource_exhausted(
                "another verification is running on this replica",
            ));
        };
        let (status, scan, beside) = self.scan().await?;
        // A primary may commit and apply what its own disk has not written yet.
        let readable = status.node.durable.index;
        let commit = status.node.commit.min(status.applied).min(readable);
        if at > commit.0 {
            return Err(Status::failed_precondition(format!(
                "only applied up to index {commit} so far"
            )));
        }
        let mut digests = vec![(status.applied, status.digest, "of the running state")];
        let kept = status.digests.iter();
        digests.extend(kept.map(|(index, digest)| (*index, *digest, "that was kept")));
        digests.extend(beside);
        let scope = Scope {
            id: status.node.id,
            at: if at == 0 { commit } else { Index(at) },
            commit,
            end: commit,
            digests,
            scan,
        };
        let log = RunningLog::new(self.handle.clone());
        let report = tokio::task::spawn_blocking(move || verify(&log, scope)).await;
        report
            .map(report_out)
            .map_err(|_| Status::internal("the check was interrupted"))
    }

    /// The replica's status at a moment at which its state trees stood still, and their scan.
    async fn scan(&self) -> Result<(crate::replica::Status, Scan, Option<Known>), Status> {
        let stopped = || Status::unavailable("the replica has stopped");
        match self.handle.verify_state().await {
            Some(Ok(verified)) if verified.index == Index(0) => {
                Ok((verified.status, Scan::Empty, None))
            }
            Some(Ok(verified)) => {
                let scan = Scan::Done(verified.index, verified.scanned);
                let beside = (verified.index, verified.summed, "beside the state trees");
                Ok((verified.status, scan, Some(beside)))
            }
            Some(Err(error)) => {
                let status = self.handle.status().await.ok_or_else(stopped)?;
                let scan = Scan::Failed(status.checkpoint, error.to_string());
                Ok((status, scan, None))
            }
            None => {
                let status = self.handle.status().await.ok_or_else(stopped)?;
                let why = "the state trees were not compared: they could not be brought up to date";
                Ok((status, Scan::Skipped(why), None))
            }
        }
    }

    async fn status_of(self: Arc<Self>, id: ReplicaId) -> proto::ReplicaStatus {
        if id == self.links.me() {
            return self.local_status().await;
        }
        let wait = Duration::from_millis(limits::RELAY_STATUS_MS);
        let request = relay_request::Request::Status(proto::ReplicaStatusRequest {});
        match self.links.relay(id, request, wait).await {
            Ok(relay_response::Response::Status(status)) => status,
            Ok(relay_response::Response::Verify(_)) => unreachable(id, "a wrong answer"),
            Err(why) => unreachable(id, &why),
        }
    }
}

/// Serves the admin socket, bound by [`crate::admin::socket::bind`], until `stop` is ready and open calls
/// are answered. On a replica that was started for tests `test_accounts` creates accounts.
pub async fn serve(
    listener: UnixListener,
    admin: Arc<Admin>,
    test_accounts: Option<Service<Handle>>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let api = AdminApi {
        admin,
        test_accounts,
    };
    let service =
        AdminServiceServer::new(api).max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
}

struct AdminApi {
    admin: Arc<Admin>,
    test_accounts: Option<Service<Handle>>,
}

type Pages<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AdminService for AdminApi {
    type ListEntriesStream = Pages<proto::ListEntriesResponse>;
    type ListCommitRecordsStream = Pages<proto::ListCommitRecordsResponse>;
    type PrepareAccountsStream = Pages<proto::PrepareAccountsResponse>;

    async fn prepare_accounts(
        &self,
        request: Request<proto::PrepareAccountsRequest>,
    ) -> Result<Response<Self::PrepareAccountsStream>, Status> {
        let Some(accounts) = self.test_accounts.clone() else {
            return Err(Status::failed_precondition(
                "this is no test cluster: its replicas run without --test-cluster",
            ));
        };
        let (told, stream) = mpsc::channel(2);
        tokio::spawn(super::admin_prepare::accounts(
            accounts,
            request.into_inner(),
            told,
        ));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        if request.into_inner().local_only {
            let replicas = vec![self.admin.local_status().await];
            return Ok(Response::new(proto::StatusResponse { replicas }));
        }
        let ids = self.admin.links.ids();
        let asked: Vec<_> = ids
            .into_iter()
            .map(|id| tokio::spawn(Arc::clone(&self.admin).status_of(id)))
            .collect();
        let mut replicas = Vec::with_capacity(asked.len());
        for answer in asked {
            let status = answer.await;
            replicas.push(status.map_err(|_| Status::internal("a question was interrupted"))?);
        }
        leave_out_strangers(&mut replicas, self.admin.links.me());
        Ok(Response::new(proto::StatusResponse { replicas }))
    }

    async fn verify_replica(
        &self,
        request: Request<proto::VerifyReplicaRequest>,
    ) -> Result<Response<proto::VerifyReplicaResponse>, Status> {
        let request = request.into_inner();
        let me = u32::from(self.admin.links.me().0);
        if request.replica == 0 || request.replica == me {
            return self.admin.local_verify(request.at).await.map(Response::new);
        }
        let to = u16::try_from(request.replica)
            .map_err(|_| Status::invalid_argument("replica is out of range"))?;
        let wait = Duration::from_secs(limits::RELAY_VERIFY_SECONDS);
        let relayed = relay_request::Request::Verify(request);
        match self.admin.links.relay(ReplicaId(to), relayed, wait).await {
            Ok(relay_response::Response::Verify(report)) => Ok(Response::new(report)),
            Ok(relay_response::Response::Status(_)) => Err(Status::internal("a wrong answer")),
            Err(why) => Err(Status::unavailable(why)),
        }
    }

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Result<Response<Self::ListEntriesStream>, Status> {
        let request = request.into_inner();
        let log = RunningLog::new(self.admin.handle.clone());
        let (pages, stream) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let mut from = Index(request.from.max(1));
            let to = if request.to == 0 {
                u64::MAX
            } else {
                request.to
            };
            loop {
                let page = log.entries(from, limits::ADMIN_PAGE_BYTES);
                let page = page.map(|mut page| {
                    page.retain(|entry| entry.index().0 <= to);
                    page
                });
                let next = match &page {
                    Ok(page) => page.last().map(Entry::index),
                    Err(_) => None,
                };
                if matches!(&page, Ok(page) if page.is_empty()) {
                    return;
                }
                let page = page
                    .map(entries_out)
                    .map_err(|error| storage_status(&error));
                // The client has gone away, or that was the last page.
                let (Ok(()), Some(last)) = (pages.blocking_send(page), next) else {
                    return;
                };
                from = last.next();
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_commit_records(
        &self,
        request: Request<proto::ListCommitRecordsRequest>,
    ) -> Result<Response<Self::ListCommitRecordsStream>, Status> {
        let request = request.into_inner();
        let status = self.admin.handle.status().await;
        let status = status.ok_or_else(|| Status::unavailable("the replica has stopped"))?;
        let log = RunningLog::new(self.admin.handle.clone());
        let commit = status.node.commit.0;
        let last = if request.to == 0 {
            commit
        } else {
            request.to.min(commit)
        };
        let (pages, stream) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let mut from = request.from.max(1);
            while from <= last {
                let to = last.min(from.saturating_add(limits::ADMIN_PAGE_RECORDS - 1));
                let page = log.commit_records(Index(from), Index(to));
                let failed = page.is_err();
                let page = page
                    .map(records_out)
                    .map_err(|error| storage_status(&error));
                if pages.blocking_send(page).is_err() || failed {
                    return;
                }
                from = to + 1;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn entries_out(entries: Vec<Entry>) -> proto::ListEntriesResponse {
    proto::ListEntriesResponse {
        entries: entries.iter().map(|entry| entry.bytes().clone()).collect(),
    }
}

fn records_out(records: Vec<CommitRecord>) -> proto::ListCommitRecordsResponse {
    let records = records.into_iter().map(|record| proto::CommitRecord {
        term: record.stamp.term.0,
        index: record.stamp.index.0,
        hash: copy(record.hash),
        digest: copy(record.digest),
        time_us: record.time.0,
    });
    proto::ListCommitRecordsResponse {
        records: records.collect(),
    }
}

fn report_out(report: Report) -> proto::VerifyReplicaResponse {
    let findings = report.findings.into_iter().map(|finding| proto::Finding {
        tree: finding.tree,
        index: finding.index.0,
        sentence: finding.sentence,
    });
    proto::VerifyReplicaResponse {
        id: report.id.0.into(),
        index: report.index.0,
        hash: copy(report.hash),
        digest: copy(report.digest),
        entries: report.entries,
        commit_records: report.commit_records,
        digests: report.digests,
        state_index: report.state_index.0,
        no_trees: report.no_trees,
        notes: report.notes,
        findings: findings.collect(),
    }
}

fn unreachable(id: ReplicaId, why: &str) -> proto::ReplicaStatus {
    proto::ReplicaStatus {
        id: id.0.into(),
        unreachable: why.to_owned(),
        ..proto::ReplicaStatus::default()
    }
}

/// What was refused at the door and behind it, by sender and kind.
fn refusals_out(door: &Refusals, behind: &Refusals) -> Vec<proto::Refusal> {
    let mut all: BTreeMap<RefusalKey, (u64, &str)> = BTreeMap::new();
    for (key, row) in door.rows().iter().chain(behind.rows()) {
        let (count, reason) = all.entry(*key).or_default();
        *count += row.count;
        *reason = &row.reason;
    }
    all.into_iter()
        .map(|((peer, kind), (count, reason))| proto::Refusal {
            peer: peer.0.into(),
            kind: kind.word().to_owned(),
            count,
            reason: reason.to_owned(),
        })
        .collect()
}

/// What is to be said about its disk.
fn want_of_room(status: &crate::replica::Status) -> impl Iterator<Item = String> {
    let low = status.low.map(|space| {
        let (free, needed) = (space.free >> 20, space.needed >> 20);
        format!("its disk is nearly full: {free} MiB are free, {needed} MiB must be left")
    });
    let refuses = "it refuses writes (DISK_FULL): too many replicas are low on disk space";
    let refuses = status.refuses_writes.then(|| refuses.to_owned());
    low.into_iter().chain(refuses)
}

/// What is to be said about its state.
fn doubts(node: &crate::consensus::Status) -> impl Iterator<Item = String> {
    let quarantine = node.quarantine.as_ref().map(|(index, why)| {
        format!(
            "quarantined: its state is wrong at index {index} ({why}), its log is good. It serves \
             nothing until the state is rebuilt"
        )
    });
    let tie = node.digest_tie.as_ref().map(|(index, others)| {
        let others = others.clone();
        crate::replica::sentence(&Event::DigestTie {
            index: *index,
            others,
        })
    });
    quarantine.into_iter().chain(tie)
}

/// Why a replica that is not damaged does not serve, as a sentence.
fn what_is_missing(node: &crate::consensus::Status) -> Option<String> {
    let formed = node.cluster.is_some();
    match node.role {
        Role::Damaged => None,
        Role::NotAdmitted => Some(
            "it is new here or lost its promises: a primary with a majority must readmit it".into(),
        ),
        _ if node.primary.is_none() && formed => {
            Some("no primary: a majority must be running, connected and admitted".into())
        }
        _ if !formed => Some("not formed: it waits for every configured replica".into()),
        _ => None,
    }
}

/// What answers at a configured address may be a replica of another cluster: its figures say
/// nothing about this one, and it is not compared.
fn leave_out_strangers(replicas: &mut [proto::ReplicaStatus], me: ReplicaId) {
    let ours = replicas.iter().find(|status| status.id == u32::from(me.0));
    let Some(ours) = ours.map(|status| status.cluster.clone()) else {
        return;
    };
    for status in replicas {
        if !ours.is_empty() && !status.cluster.is_empty() && status.cluster != ours {
            let id = ReplicaId(status.id as u16);
            *status = unreachable(
                id,
                "it belongs to another cluster: check its data directory",
            );
        }
    }
}

/// The role as operators read it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Booting => "booting",
        Role::Secondary => "secondary",
        Role::Candidate => "candidate",
        Role::Primary => "primary",
        Role::Retiring => "retiring",
        Role::NotAdmitted => "not admitted",
        Role::Quarantined => "quarantined",
        Role::Damaged => "damaged",
        Role::Repairing => "repairing",
    }
}

fn storage_status(error: &StorageError) -> Status {
    Status::data_loss(error.to_string())
}

fn copy(hash: Hash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}
