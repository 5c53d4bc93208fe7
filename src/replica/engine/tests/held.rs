//! A state that is held still for peers, and a state that is wrong.

use super::*;
use crate::consensus::{SnapshotHead, SnapshotRead};
use crate::replica::ExtraDone;
use crate::storage::Tree;

const NEVER_US: u64 = 1 << 40;

/// What this replica would offer to a peer that asks for any state.
fn offered(cluster: &mut Cluster, at: usize) -> SnapshotHead {
    let member = &mut cluster.members[at];
    let checkpoint = member.replica.disk.checkpoint_slice().cloned().unwrap();
    let read = SnapshotRead {
        peer: ReplicaId(at as u16 + 2),
        wanted: None,
        at_least: Index(1),
    };
    let read = Extra::Read(read, checkpoint);
    match member.workshop.work(&mut member.store, read).unwrap() {
        ExtraDone::Head(_, head) => *head,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_state_that_was_held_of_trees_that_were_rebuilt_is_let_go() {
    let keep_all = Rewriting {
        bytes_min: NEVER_US,
        keep_log: true,
        ..CUTS
    };
    let mut cluster = Cluster::scrubbing(1, keep_all, 400_000);
    cluster.create(0, "before");
    cluster.run(2_000_000);
    let held = offered(&mut cluster, 0);
    for n in 0..30 {
        cluster.create(0, &format!("beside{n}"));
    }
    cluster.run(REFRESH_US * 10);
    assert_eq!(offered(&mut cluster, 0).name(), held.name(), "held still");
    assert!(cluster.members[0].disk.lose_row(Tree::Tokens));
    let whole = |cluster: &Cluster| cluster.saw(0, rebuilt) == 1 && !cluster.is_doubted(0);
    assert!(cluster.until(2_000_000, whole), "{:?}", cluster.events);
    let after = offered(&mut cluster, 0);
    assert!(after.base.stamp.index >= held.base.stamp.index.next());
}

#[test]
fn a_state_that_a_peer_refuses_is_read_at_once_and_rebuilt() {
    let mut cluster = Cluster::scrubbing(3, CUTS, NEVER_US);
    let primary = cluster.serving().unwrap();
    for n in 0..60 {
        cluster.create(primary, &format!("before{n}"));
        cluster.run(REFRESH_US);
    }
    assert!(cluster.status(primary).node.base > Index(0));
    assert!(cluster.members[primary].disk.lose_row(Tree::Tokens));
    let wiped = cluster.secondary();
    cluster.members[wiped].disk = MemDisk::new();
    cluster.restart(wiped);
    let noticed = |cluster: &Cluster| cluster.saw(primary, quarantined) == 1;
    assert!(cluster.until(4_000_000, noticed), "{:?}", cluster.events);
    let refused = |event: &Event| matches!(event, Event::SnapshotRefused { .. });
    assert!(cluster.saw(wiped, refused) > 0);
    let whole = |cluster: &Cluster| cluster.saw(primary, rebuilt) == 1 && cluster.is_equal();
    assert!(cluster.until(8_000_000, whole), "{:?}", cluster.events);
}
