//! What was written long ago is read again, beside everything else.

use super::*;
use crate::storage::Tree;

const INTERVAL_US: u64 = 400_000;
const KEEP_ALL: Rewriting = Rewriting {
    bytes_min: 1 << 40,
    keep_log: true,
    ..CUTS
};

/// Two replicas' worth of accounts, all of them in the trees of every store.
fn cluster() -> Cluster {
    let mut cluster = Cluster::scrubbing(3, KEEP_ALL, INTERVAL_US);
    let primary = cluster.serving().unwrap();
    for n in 0..30 {
        cluster.create(primary, &format!("before{n}"));
    }
    cluster.run(REFRESH_US * 10);
    cluster
}

/// Goes on until this replica has failed, and returns its words.
fn failure(cluster: &mut Cluster, at: usize) -> String {
    cluster.fails = true;
    let failed = cluster.until(INTERVAL_US * 3, |cluster| !cluster.failures.is_empty());
    assert!(failed, "nothing was found; scrubs: {:?}", cluster.scrubs);
    let (who, error) = cluster.failures.remove(0);
    assert_eq!(who, at);
    assert!(matches!(error, StorageError::Damaged(_)), "{error}");
    error.to_string()
}

#[test]
fn a_scrub_compares_everything_again_and_again_while_the_trees_move_on() {
    let mut cluster = cluster();
    let (primary, before) = (cluster.serving().unwrap(), cluster.scrubs.len());
    for n in 0..90 {
        cluster.create(primary, &format!("beside{n}"));
        cluster.run(INTERVAL_US / 20);
    }
    for at in 0..3 {
        let of_this = cluster.scrubs[before..]
            .iter()
            .filter(|(who, _)| *who == at);
        let of_this: Vec<Scrubbed> = of_this.map(|(_, found)| *found).collect();
        assert!(of_this.len() >= 3, "{of_this:?}");
        for found in &of_this {
            assert!(found.entries >= 30 && found.entries <= found.applied.0);
            assert!(found.commit_records > 0);
        }
        assert!(of_this.is_sorted_by_key(|found| found.applied));
    }
}

#[test]
fn an_entry_that_cannot_be_read_or_is_another_is_damage() {
    let mut rotten = cluster();
    let at = rotten.secondary();
    let applied = rotten.status(at).checkpoint;
    // The first of the three kinds: an entry.
    let mut first = true;
    rotten.members[at].disk.rot(applied, &mut |n| {
        let kind = std::mem::take(&mut first);
        if kind { 0 } else { n / 2 }
    });
    assert!(failure(&mut rotten, at).contains("log: entry"));

    let mut changed = cluster();
    changed.members[at].disk.alter_entry(Index(7), b"another");
    let found = failure(&mut changed, at);
    assert!(found.contains("log at index 8: continues hash"), "{found}");
}

#[test]
fn a_state_that_is_not_what_it_adds_up_to_is_rebuilt_over_the_same_log() {
    let mut cluster = cluster();
    let at = cluster.secondary();
    assert!(cluster.members[at].disk.lose_row(Tree::Tokens));
    let found = cluster.until(INTERVAL_US * 3, |cluster| cluster.saw(at, quarantined) == 1);
    assert!(found, "scrubs: {:?}", cluster.scrubs);
    let whole = |cluster: &Cluster| cluster.saw(at, rebuilt) == 1 && !cluster.is_doubted(at);
    assert!(cluster.until(2_000_000, whole), "{:?}", cluster.events);
    assert!(cluster.is_equal());
    let before = cluster.scrubs.len();
    let again = |cluster: &Cluster| cluster.scrubs[before..].iter().any(|(who, _)| *who == at);
    assert!(cluster.until(INTERVAL_US * 3, again));
    assert_eq!(cluster.saw(at, quarantined), 1);
}

#[test]
fn a_scrub_is_void_when_a_rewriting_begins_and_comes_again() {
    let mut cluster = Cluster::scrubbing(3, CUTS, INTERVAL_US);
    let primary = cluster.serving().unwrap();
    for n in 0..60 {
        cluster.create(primary, &format!("beside{n}"));
        cluster.run(INTERVAL_US / 20);
    }
    cluster.run(INTERVAL_US * 2);
    for at in 0..3 {
        assert!(cluster.scrubs.iter().any(|(who, _)| *who == at));
        assert!(cluster.members[at].store.base().unwrap().stamp.index > Index(0));
    }
}
