//! Which piece of work comes when.

use super::*;
use crate::limits::REWRITE_GROWTH;
use crate::replica::testing::{ms, slice};

const POLICY: Rewriting = Rewriting {
    bytes_min: 100,
    age_us: 0,
    keep_entries: 10,
    keep_behind: 30,
    keep_age_us: 0,
    keep_log: false,
};

fn with(policy: Rewriting) -> Upkeep {
    Upkeep::with(policy, Scrubbing::new(0, ReplicaId(1)), 0)
}

fn sight(checkpoint: &Slice) -> Sight<'_> {
    Sight {
        now: ms(1),
        checkpoint: Some(checkpoint),
        base: Index(40),
        behind: None,
        log_time: WallTime(5),
        written: checkpoint.applied,
        rests: false,
        low: false,
        fits: true,
        rebuilding: None,
    }
}

#[test]
fn a_store_is_rewritten_when_it_has_grown_and_only_exchanged_when_it_was_checked() {
    let checkpoint = slice(50);
    let mut upkeep = with(POLICY);
    upkeep.on_done(None, 100 * REWRITE_GROWTH, ms(0));
    assert!(upkeep.next(sight(&checkpoint)).is_none());
    upkeep.on_done(None, 100 * REWRITE_GROWTH + 1, ms(0));
    let begun = upkeep.next(sight(&checkpoint));
    assert!(matches!(
        begun,
        Some(Extra::Rewrite(RewriteStep::Begin {
            cut: Cut {
                base: Index(40),
                ..
            },
            ..
        }))
    ));
    let next = |upkeep: &mut Upkeep, done| {
        upkeep.on_done(Some(done), 500, ms(0));
        upkeep.next(sight(&slice(70)))
    };
    let copy = next(&mut upkeep, ExtraDone::GoesOn);
    let Some(Extra::Rewrite(RewriteStep::Copy { cut: Some(cut), .. })) = copy else {
        panic!("{copy:?}");
    };
    assert_eq!(cut.base, Index(60), "as the trees stand by now");
    let check = next(&mut upkeep, ExtraDone::Copied);
    assert!(matches!(check, Some(Extra::Rewrite(RewriteStep::Check))));
    let install = next(&mut upkeep, ExtraDone::Checked);
    assert!(matches!(
        install,
        Some(Extra::Rewrite(RewriteStep::Install))
    ));
    let news = upkeep.on_done(Some(ExtraDone::Rewritten(Base::default())), 90, ms(0));
    assert!(matches!(news, Some(News::Compacted(_))));
    assert!(upkeep.next(sight(&checkpoint)).is_none(), "small again");
}

/// The peer has got the state by the time at which the log is cut, and not yet what follows it.
#[test]
fn what_follows_a_state_that_a_peer_was_given_meanwhile_is_not_cut() {
    let mut upkeep = with(POLICY);
    upkeep.on_done(None, 1_000, ms(0));
    let begins = slice(50);
    upkeep.read(vec![SnapshotRead {
        peer: ReplicaId(2),
        wanted: None,
        at_least: Index(0),
    }]);
    let read = upkeep.next(sight(&begins));
    assert!(matches!(read, Some(Extra::Read(..))));
    let later = slice(90);
    let cuts = |upkeep: &mut Upkeep, now| {
        let at = Sight {
            now: Monotonic(now),
            ..sight(&later)
        };
        upkeep.on_done(Some(ExtraDone::GoesOn), 1_000, Monotonic(now));
        match upkeep.next(at) {
            Some(Extra::Rewrite(RewriteStep::Begin { cut, .. })) => Some(cut.base),
            Some(Extra::Rewrite(RewriteStep::Copy { cut, .. })) => cut.map(|cut| cut.base),
            _ => None,
        }
    };
    let (soon, late) = (ms(1).0, ms(1).0 + PIN_IDLE_US);
    assert_eq!(cuts(&mut upkeep, soon), Some(Index(50)), "begins");
    assert_eq!(cuts(&mut upkeep, late), None, "let go");
    assert_eq!(cuts(&mut upkeep, late), Some(Index(50)));
    upkeep.on_done(Some(ExtraDone::RewriteFailed), 1_000, Monotonic(late));
    let next = late + FAILED_PAUSE_US;
    assert_eq!(cuts(&mut upkeep, next), Some(Index(80)), "the next one");
}

#[test]
fn replicas_do_not_rewrite_their_stores_at_once() {
    let checkpoint = slice(50);
    for (later, times) in [(0, 6), (1, 7), (2, 8)] {
        let mut upkeep = Upkeep {
            later,
            ..with(POLICY)
        };
        upkeep.on_done(None, 50 * times, ms(0));
        assert!(upkeep.next(sight(&checkpoint)).is_none());
        upkeep.on_done(None, 50 * times + 1, ms(0));
        assert!(upkeep.next(sight(&checkpoint)).is_some());
    }
}

#[test]
fn a_copy_rests_as_long_as_it_has_worked_unless_space_is_short_or_the_store_outgrows_it() {
    let checkpoint = slice(50);
    for (low, size, hurries) in [(false, 450, false), (true, 450, true), (false, 451, true)] {
        let at = |now| Sight {
            now: ms(now),
            low,
            ..sight(&checkpoint)
        };
        let mut upkeep = with(POLICY);
        upkeep.on_done(None, size, ms(1));
        assert!(upkeep.next(at(1)).is_some(), "begins");
        upkeep.on_done(Some(ExtraDone::GoesOn), size, ms(2));
        let copy = upkeep.next(at(2));
        let Some(Extra::Rewrite(RewriteStep::Copy { portions, .. })) = copy else {
            panic!("{copy:?}");
        };
        assert_eq!(portions > 1, hurries);
        upkeep.on_done(Some(ExtraDone::GoesOn), size, ms(12));
        assert_eq!(upkeep.next(at(21)).is_some(), hurries);
        if !hurries {
            assert!(upkeep.next(at(22)).is_some());
        }
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_tidied_early_but_only_where_the_next_store_fits() {
    let checkpoint = slice(50);
    let low = Sight {
        low: true,
        ..sight(&checkpoint)
    };
    let mut upkeep = with(POLICY);
    upkeep.on_done(None, 150, ms(0));
    assert!(upkeep.next(low).is_none(), "nothing to be had");
    upkeep.on_done(None, 151, ms(0));
    assert!(upkeep.next(Sight { fits: false, ..low }).is_none());
    assert!(upkeep.next(sight(&checkpoint)).is_none());
    assert!(upkeep.next(low).is_some());
    assert!(upkeep.is_rewriting());
}

#[test]
fn an_idle_replica_is_tidied_early_and_not_all_of_them_at_once() {
    for later in 0..3 {
        let mut upkeep = Upkeep {
            later,
            ..with(POLICY)
        };
        upkeep.on_done(None, 151, ms(0));
        let mut begins = |written, now| {
            // The trees stand still for a scan.
            let checkpoint = slice(50);
            let at = Sight {
                now: Monotonic(now),
                written: Index(written),
                ..sight(&checkpoint)
            };
            upkeep.next(at).is_some()
        };
        let long = IDLE_US * (1 + later);
        assert!(!begins(50, 1));
        assert!(!begins(50, long));
        assert!(!begins(51, long + 1), "something was written");
        assert!(!begins(51, 2 * long));
        assert!(begins(51, 2 * long + 1));
    }
}

#[test]
fn the_whole_log_is_kept_if_that_is_asked() {
    let checkpoint = slice(50);
    let policy = Rewriting {
        keep_log: true,
        ..POLICY
    };
    let mut upkeep = with(policy);
    upkeep.on_done(None, 1_000, ms(0));
    let begun = upkeep.next(sight(&checkpoint));
    assert!(matches!(
        begun,
        Some(Extra::Rewrite(RewriteStep::Begin {
            cut: Cut {
                base: Index(40),
                ..
            },
            ..
        }))
    ));
}

#[test]
fn a_store_is_rewritten_for_its_age_if_some_of_the_log_can_go() {
    let policy = Rewriting {
        age_us: 1_000,
        ..POLICY
    };
    let begins = |upkeep: &mut Upkeep, now: u64, base: u64, applied: u64| {
        let next = upkeep.next(Sight {
            now: Monotonic(now),
            base: Index(base),
            ..sight(&slice(applied))
        });
        match next {
            Some(Extra::Rewrite(RewriteStep::Begin { cut, least, .. })) => {
                Some((cut.base.0, least.0))
            }
            Some(Extra::Cut(_)) | None => None,
            other => panic!("{other:?}"),
        }
    };
    let mut upkeep = with(policy);
    upkeep.on_done(None, 1, ms(0));
    let young = begins(&mut upkeep, 5_000, 39, 50);
    assert_eq!(young, None, "not before it is old");
    let little = begins(&mut upkeep, 6_000, 39, 50);
    assert_eq!(little, None, "11 entries, 10 stay, and 2 are too few");
    let begun = begins(&mut upkeep, 6_000, 40, 51);
    assert_eq!(begun, Some((41, 41)), "what was cut in place counts, too");
    upkeep.on_done(Some(ExtraDone::NothingToCut), 1, Monotonic(6_500));
    let young = begins(&mut upkeep, 7_499, 40, 51);
    assert_eq!(young, None, "young entries: a day later");
    assert!(begins(&mut upkeep, 7_500, 40, 51).is_some());
    let done = ExtraDone::Rewritten(Base::default());
    upkeep.on_done(Some(done), 1, Monotonic(7_000));
    assert_eq!(begins(&mut upkeep, 7_999, 40, 51), None);
    assert!(begins(&mut upkeep, 8_000, 40, 51).is_some());
}

#[test]
fn a_part_for_a_peer_waits_for_the_trees_and_a_new_question_takes_the_place_of_the_old() {
    let peer = crate::types::ReplicaId(2);
    let read = |at_least| SnapshotRead {
        peer,
        wanted: None,
        at_least: Index(at_least),
    };
    let mut upkeep = with(POLICY);
    upkeep.read(vec![read(60), read(51)]);
    assert!(upkeep.wants_checkpoint(Index(50)));
    assert!(upkeep.next(sight(&slice(50))).is_none());
    let found = upkeep.next(sight(&slice(51)));
    assert!(matches!(found, Some(Extra::Read(read, _)) if read.at_least == Index(51)));
    assert!(!upkeep.wants_checkpoint(Index(50)));
    let checkpoint = slice(51);
    let later = Sight {
        now: Monotonic(ms(1).0 + PIN_IDLE_US),
        ..sight(&checkpoint)
    };
    assert!(matches!(upkeep.next(later), Some(Extra::Unpin)));
}

/// What the log is cut to where it is, if that is what is done next.
fn cut_to(upkeep: &mut Upkeep, sight: Sight<'_>) -> Option<u64> {
    match upkeep.next(sight) {
        None => None,
        Some(Extra::Cut(cut)) => Some(cut.base.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_log_is_cut_where_it_is_as_far_as_nobody_needs_it() {
    let checkpoint = slice(100);
    let at = |base, behind: Option<u64>| Sight {
        base: Index(base),
        behind: behind.map(Index),
        ..sight(&checkpoint)
    };
    assert_eq!(cut_to(&mut with(POLICY), at(40, None)), Some(90));
    assert_eq!(cut_to(&mut with(POLICY), at(88, None)), Some(90));
    assert_eq!(
        cut_to(&mut with(POLICY), at(89, None)),
        None,
        "not worth it"
    );
    assert_eq!(cut_to(&mut with(POLICY), at(40, Some(95))), Some(90));
    assert_eq!(cut_to(&mut with(POLICY), at(40, Some(80))), Some(80));
    let far = cut_to(&mut with(POLICY), at(40, Some(3)));
    assert_eq!(far, Some(70), "it is given the state instead");
    let all = Rewriting {
        keep_log: true,
        ..POLICY
    };
    assert_eq!(cut_to(&mut with(all), at(40, None)), None);
    let rests = Sight {
        rests: true,
        ..at(40, None)
    };
    assert_eq!(cut_to(&mut with(POLICY), rests), None);
    let low = Sight {
        low: true,
        ..at(40, Some(3))
    };
    assert_eq!(cut_to(&mut with(POLICY), low), Some(90));
    let mut pinned = with(POLICY);
    pinned.pinned = Some((Index(60), ms(1)));
    assert_eq!(cut_to(&mut pinned, at(40, None)), Some(60));
}

#[test]
fn what_cannot_be_cut_yet_is_tried_again_when_there_is_more() {
    let at = |applied| slice(applied);
    let mut upkeep = with(POLICY);
    assert_eq!(cut_to(&mut upkeep, sight(&at(100))), Some(90));
    let news = upkeep.on_done(Some(ExtraDone::Cut(Base::default())), 9, ms(1));
    assert!(matches!(news, Some(News::Cut(_))));
    assert_eq!(cut_to(&mut upkeep, sight(&at(100))), Some(90), "goes on");
    upkeep.on_done(Some(ExtraDone::Nothing), 9, ms(1));
    assert_eq!(cut_to(&mut upkeep, sight(&at(101))), None);
    assert_eq!(cut_to(&mut upkeep, sight(&at(102))), Some(92));
}

#[test]
fn nothing_is_cut_where_it_is_while_the_store_is_copied() {
    let checkpoint = slice(100);
    let mut upkeep = with(POLICY);
    upkeep.on_done(None, 1_000, ms(0));
    for done in [ExtraDone::GoesOn, ExtraDone::Copied, ExtraDone::Checked] {
        let next = upkeep.next(sight(&checkpoint));
        assert!(matches!(next, Some(Extra::Rewrite(_))), "{next:?}");
        upkeep.on_done(Some(done), 400, ms(0));
    }
}

#[test]
fn a_store_whose_live_bytes_are_known_is_rewritten_when_it_is_mostly_dead() {
    let due = |live, rewritten, when| {
        let upkeep = Upkeep {
            live,
            rewritten,
            ..with(POLICY)
        };
        upkeep.due(when)
    };
    let (busy, idle, low) = (When::Busy, When::Idle, When::Low);
    assert_eq!(
        due(Some(10), 0, busy),
        300,
        "not below three times the least"
    );
    assert_eq!(due(Some(200), 0, busy), 1_000);
    assert_eq!(
        due(Some(200), 600, busy),
        1_000,
        "all it grew by may be alive"
    );
    assert_eq!(due(Some(200), 0, idle), 400);
    assert_eq!(due(Some(200), 400, idle), 500, "it has just been copied");
    assert_eq!(due(Some(300), 300, low), 450);
    assert_eq!(due(None, 200, busy), 600);
    assert_eq!(due(None, 200, low), 300);
    let mib = |bytes: u64| bytes << 20;
    let gone = due(Some(mib(20)), mib(4_000), idle);
    assert_eq!(gone, mib(40), "and most of that is gone");
    let mut second = with(POLICY);
    (second.later, second.live) = (1, Some(200));
    assert_eq!(second.due(busy), 1_100, "not all at once");
}

/// Else it would be copied again and again.
#[test]
fn a_copy_is_never_due_when_it_has_just_been_made() {
    for live in [0, 1, 1_000, 1 << 20, 100 << 20, 10 << 30] {
        for size in [live, live * 2, live * 7, live * 7 + (8 << 20)] {
            let mut upkeep = with(POLICY);
            upkeep.knows_live(Some(live));
            let done = ExtraDone::Rewritten(Base::default());
            upkeep.on_done(Some(done), size, ms(0));
            for when in [When::Busy, When::Idle, When::Low] {
                assert!(size <= upkeep.due(when), "{size} of {live}, {when:?}");
            }
        }
    }
}

#[test]
fn a_copy_of_little_fits_where_the_file_would_not() {
    let mut upkeep = with(POLICY);
    upkeep.on_done(None, 1 << 40, ms(0));
    assert_eq!(upkeep.copy_bytes(), 1 << 40);
    upkeep.knows_live(Some(1 << 30));
    assert_eq!(upkeep.copy_bytes(), (3 << 30) + (64 << 20));
}
