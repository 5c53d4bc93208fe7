//! Several replicas compared: same index, same hash, same state.
//!
//! Commit records stand at other indexes on each replica, so the comparison is of the log's hash
//! and of the replayed state's digest at the lowest commit index of all.

use super::client::{AdminClient, AdminError};
use super::stopped::Stopped;
use super::verify::{Finding, Report, Scope, verify};
use crate::proto::admin as proto;
use crate::types::{Hash, Index, ReplicaId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What comparing replicas came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many replicas there are.
    pub replicas: usize,
    /// Where they were compared.
    pub index: Index,
    /// Those that were, ascending by id.
    pub reports: Vec<Report>,
    /// Those that were not, and why.
    pub skipped: Vec<(ReplicaId, String)>,
    /// How the replicas differ; what each of them has wrong by itself is in its report.
    pub differences: Vec<Finding>,
}

impl Verdict {
    /// Compares the reports.
    pub fn of(
        replicas: usize,
        mut reports: Vec<Report>,
        skipped: Vec<(ReplicaId, String)>,
    ) -> Self {
        reports.sort_by_key(|report| report.id);
        let index = reports.first().map_or(Index(0), |report| report.index);
        let mut differences = Vec::new();
        let mut differ = |what: &str, value: &dyn Fn(&Report) -> Hash| {
            let mut groups: BTreeMap<Hash, Vec<ReplicaId>> = BTreeMap::new();
            // What was cut from a log, or only a replay of it would tell, is not known there.
            let known = |report: &&Report| value(report) != Hash::default();
            for report in reports.iter().filter(known) {
                groups.entry(value(report)).or_default().push(report.id);
            }
            if groups.len() > 1 {
                let groups: Vec<_> = groups
                    .iter()
                    .map(|(hash, ids)| format!("{} on replica {}", hash.short(), list(ids)))
                    .collect();
                differences.push(Finding {
                    tree: "log".to_owned(),
                    index,
                    sentence: format!("log at index {index}: {what} is {}", groups.join(", ")),
                });
            }
        };
        // A replica that was taken at another index has a finding of its own that says why.
        if reports.iter().all(|report| report.index == index) {
            differ("the hash", &|report| report.hash);
            differ("the state digest", &|report| report.digest);
        }
        Self {
            replicas,
            index,
            reports,
            skipped,
            differences,
        }
    }

    /// Everything that is wrong, with the replica if it is one's own fault.
    pub fn findings(&self) -> Vec<(Option<ReplicaId>, &Finding)> {
        let own = self.reports.iter().flat_map(|report| {
            let id = report.id;
            report
                .findings
                .iter()
                .map(move |finding| (Some(id), finding))
        });
        let between = self.differences.iter().map(|finding| (None, finding));
        own.chain(between).collect()
    }

    /// What was checked of less than it should be, and found good as far as that goes: a check that
    /// compared nothing has not passed.
    pub fn uncompared(&self) -> Vec<(ReplicaId, String)> {
        let mut found = Vec::new();
        let whole = self.reports.iter().filter(|r| r.findings.is_empty());
        for report in whole {
            // Before the first checkpoint the replay is compared with the commit records, and that
            // is all there is.
            let nothing_more = report.no_trees && report.digests > 0;
            if report.state_index == Index(0) && !nothing_more {
                let what = "its state trees were not compared with its log".to_owned();
                found.push((report.id, what));
            }
            let unknown = report.hash == Hash::default() && report.digest == Hash::default();
            if unknown && self.reports.len() > 1 {
                let what = format!(
                    "its log was cut above index {}, and it was compared with no other replica",
                    self.index
                );
                found.push((report.id, what));
            }
        }
        found
    }

    /// Every replica was compared, wholly, and nothing is wrong.
    pub fn all_identical(&self) -> bool {
        self.reports.len() == self.replicas
            && self.findings().is_empty()
            && self.uncompared().is_empty()
    }
}

fn list(ids: &[ReplicaId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.join(" and ")
}

/// One of the replicas to compare.
pub enum Member {
    /// Through its socket.
    Running(AdminClient),
    /// On a private copy.
    Stopped(Arc<Stopped>),
}

/// Compares all replicas of a running cluster, through one of them.
pub async fn verify_running(client: &mut AdminClient) -> Result<Verdict, AdminError> {
    let statuses = client.status(false).await?.replicas;
    let replicas = statuses.len();
    let (usable, mut skipped) = split(statuses);
    let at = usable.iter().map(committed).min();
    let mut reports = Vec::new();
    for status in usable {
        match client.verify_replica(status.id, at.unwrap_or(0)).await {
            Ok(report) => reports.push(report),
            Err(AdminError::Refused(status_error)) => {
                let reason = status_error.message().to_owned();
                skipped.push((replica_id(status.id), reason));
            }
            Err(error) => return Err(error),
        }
    }
    skipped.sort();
    Ok(Verdict::of(replicas, reports, skipped))
}

/// What a running replica can be checked up to: a primary may be ahead of its own disk.
fn committed(status: &proto::ReplicaStatus) -> u64 {
    let shown = status.commit_index.min(status.applied_index);
    shown.min(status.durable_index)
}

/// Those that can be compared, and those that cannot.
fn split(
    statuses: Vec<proto::ReplicaStatus>,
) -> (Vec<proto::ReplicaStatus>, Vec<(ReplicaId, String)>) {
    let mut usable = Vec::new();
    let mut skipped = Vec::new();
    for status in statuses {
        let id = replica_id(status.id);
        if !status.unreachable.is_empty() {
            skipped.push((id, status.unreachable));
        } else if committed(&status) == 0 {
            skipped.push((id, "nothing is committed there".to_owned()));
        } else {
            usable.push(status);
        }
    }
    (usable, skipped)
}

/// Compares replicas by their data directories, running or stopped, without asking others.
pub async fn verify_members(members: Vec<Member>) -> Result<Verdict, AdminError> {
    let mut replicas = members.len();
    let mut usable = Vec::new();
    let mut skipped = Vec::new();
    let mut first_cluster = Vec::new();
    for member in members {
        let (id, commit, of, cluster) = match &member {
            Member::Stopped(stopped) => {
                let cluster = stopped.cluster().map_or(Vec::new(), |id| id.0.to_vec());
                let (id, commit) = (stopped.id(), stopped.commit());
                (id, commit, stopped.replicas(), cluster)
            }
            Member::Running(client) => {
                let status = client.clone().local_status().await?;
                let (id, commit) = (replica_id(status.id), Index(committed(&status)));
                (id, commit, status.ids.len(), status.cluster.to_vec())
            }
        };
        replicas = replicas.max(of);
        if first_cluster.is_empty() {
            first_cluster.clone_from(&cluster);
        }
        if !cluster.is_empty() && cluster != first_cluster {
            let what = "it belongs to another cluster than those named before it";
            skipped.push((id, what.to_owned()));
        } else if usable.iter().any(|(known, _, _)| *known == id) {
            skipped.push((id, "named twice".to_owned()));
        } else if commit == Index(0) {
            skipped.push((id, "nothing is committed there".to_owned()));
        } else {
            usable.push((id, commit, member));
        }
    }
    let at = usable.iter().map(|(_, commit, _)| *commit).min();
    let mut reports = Vec::new();
    for (_, _, member) in usable {
        reports.push(report(member, at.unwrap_or_default()).await?);
    }
    Ok(Verdict::of(replicas, reports, skipped))
}

async fn report(member: Member, at: Index) -> Result<Report, AdminError> {
    match member {
        Member::Running(mut client) => client.verify_replica(0, at.0).await,
        Member::Stopped(stopped) => {
            tokio::task::spawn_blocking(move || verify_stopped(&stopped, at))
                .await
                .map_err(|_| AdminError::Malformed("the check was interrupted"))
        }
    }
}

/// Checks a stopped replica by itself. `at` is at most its commit point.
pub fn verify_stopped(stopped: &Stopped, at: Index) -> Report {
    let stored = stopped.stored_digest();
    let beside = stored.map(|(index, digest)| (index, digest, "beside the state trees"));
    let scope = Scope {
        id: stopped.id(),
        at,
        commit: stopped.commit(),
        end: stopped.last().max(stopped.commit()),
        digests: beside.into_iter().collect(),
        scan: stopped.scan(),
    };
    let mut report = verify(stopped, scope);
    for (index, sentence) in stopped.damage() {
        // Its own tree and index are in the sentence already.
        let tree = sentence.split([' ', ':']).next().unwrap_or("store");
        report.findings.push(Finding {
            tree: tree.to_owned(),
            index,
            sentence: sentence.clone(),
        });
    }
    report
}

/// Ids are checked where they enter a cluster; one that is out of range only shows as 0 here.
pub(super) fn replica_id(id: u32) -> ReplicaId {
    ReplicaId(u16::try_from(id).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: u16, hash: u8, digest: u8) -> Report {
        Report {
            id: ReplicaId(id),
            index: Index(9),
            hash: Hash([hash; 32]),
            digest: Hash([digest; 32]),
            state_index: Index(9),
            ..Report::default()
        }
    }

    #[test]
    fn a_primary_is_checked_as_far_as_its_own_disk_has_it() {
        let ahead = proto::ReplicaStatus {
            durable_index: 7,
            commit_index: 9,
            applied_index: 8,
            ..proto::ReplicaStatus::default()
        };
        assert_eq!(committed(&ahead), 7);
        let behind = proto::ReplicaStatus {
            durable_index: 12,
            ..ahead
        };
        assert_eq!(committed(&behind), 8);
    }

    #[test]
    fn what_was_compared_with_nothing_is_not_identical() {
        let mut all = vec![report(1, 1, 1), report(2, 1, 1)];
        all[1].state_index = Index(0);
        let verdict = Verdict::of(2, all.clone(), Vec::new());
        assert!(!verdict.all_identical() && verdict.findings().is_empty());
        let [(id, what)] = &verdict.uncompared()[..] else {
            panic!("{:?}", verdict.uncompared());
        };
        assert_eq!(*id, ReplicaId(2));
        assert!(what.contains("state trees"), "{what}");

        all[1] = report(2, 0, 0);
        let verdict = Verdict::of(2, all, Vec::new());
        assert!(!verdict.all_identical());
        assert!(verdict.uncompared()[0].1.contains("was cut above index 9"));
    }

    #[test]
    fn equal_replicas_are_identical_and_a_missing_one_is_not_forgotten() {
        let all = vec![report(2, 1, 1), report(1, 1, 1), report(3, 1, 1)];
        assert!(Verdict::of(3, all.clone(), Vec::new()).all_identical());
        let skipped = vec![(ReplicaId(3), "no connection".to_owned())];
        let verdict = Verdict::of(3, all[..2].to_vec(), skipped);
        assert!(!verdict.all_identical());
        assert!(verdict.findings().is_empty());
    }

    #[test]
    fn a_difference_names_what_where_and_on_which_replicas() {
        let reports = vec![report(1, 1, 1), report(2, 1, 2), report(3, 1, 1)];
        let verdict = Verdict::of(3, reports, Vec::new());
        let sentences: Vec<_> = verdict
            .findings()
            .iter()
            .map(|(_, finding)| finding.sentence.clone())
            .collect();
        assert_eq!(
            sentences,
            [
                "log at index 9: the state digest is 010101010101 on replica 1 and 3, \
              020202020202 on replica 2"
            ]
        );
    }
}
