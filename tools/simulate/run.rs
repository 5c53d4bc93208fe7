//! One run from its seed to its verdict.

use super::checker::Violation;
use super::faults::Director;
use super::world::{HEAL_REFRESHES_MAX, LAST_LINES, Options, TRACE_ALL, World};
use chat::types::{Index, Term};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run came to.
pub struct Verdict {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Counts of what happened.
    pub seen: BTreeMap<&'static str, u64>,
    /// Events.
    pub events: u64,
    /// Virtual microseconds.
    pub virtual_us: u64,
    /// Virtual microseconds from the end of the faults until all was well.
    pub healed_us: u64,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics inside a run are verdicts, not noise.
pub fn silence_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|slot| *slot = Some(info.to_string()));
    }));
}

/// Makes the director of a run.
pub type Directed = fn(seed: u64) -> Box<dyn Director>;

/// Runs one seed.
pub fn run(seed: u64, options: &Options, directed: Option<Directed>) -> Verdict {
    LAST_LINES.with_borrow_mut(std::collections::VecDeque::clear);
    let options = options.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, options, directed.map(|make| make(seed)));
        play(&mut world)
    }));
    result.unwrap_or_else(|_| Verdict {
        violation: Some(Violation {
            invariant: "no assertion fails",
            what: PANIC
                .take()
                .unwrap_or_else(|| "a panic without a message".into()),
        }),
        seen: BTreeMap::new(),
        events: 0,
        virtual_us: 0,
        healed_us: 0,
    })
}

/// Runs a seed again and returns the last lines of its trace.
pub fn replay(
    seed: u64,
    options: &Options,
    directed: Option<Directed>,
    print: bool,
) -> (Verdict, Vec<String>) {
    let options = Options {
        trace: true,
        ..options.clone()
    };
    TRACE_ALL.set(print);
    let verdict = run(seed, &options, directed);
    TRACE_ALL.set(false);
    let lines = LAST_LINES.with_borrow(|lines| lines.iter().cloned().collect());
    (verdict, lines)
}

fn play(world: &mut World) -> Verdict {
    let steps = world.options.steps;
    while world.events < steps && world.checker.violation.is_none() {
        if !world.step() {
            break;
        }
    }
    world.heal();
    let healed = world.now;
    let mut healed_us = 0;
    if until(
        world,
        healed,
        |w| w.clients.iter().all(|c| c.acknowledged_after_heal),
        "every client writes again",
    ) {
        world.history.closing = true;
        let idle = until(
            world,
            healed,
            World::clients_idle,
            "every client gets its answer",
        );
        if idle
            && until(
                world,
                healed,
                World::settled,
                "all replicas are equal again",
            )
        {
            healed_us = world.now - healed;
            let reign = peaceful_reign(world);
            world.begin_final_reads();
            if until(
                world,
                world.now,
                World::clients_idle,
                "every replica serves reads",
            ) {
                world.check_history();
                isolation(world, reign);
                same_damage(world);
                double_wipe(world);
            }
        }
    }
    Verdict {
        violation: world.checker.violation.clone(),
        seen: std::mem::take(&mut world.checker.seen),
        events: world.events,
        virtual_us: world.now,
        healed_us,
    }
}

/// Goes on until `done`; a violation if that takes too long.
fn until(world: &mut World, since: u64, done: impl Fn(&World) -> bool, what: &str) -> bool {
    let bound = HEAL_REFRESHES_MAX * world.config.refresh_interval_us;
    let mut turn = 0u64;
    while world.checker.violation.is_none() {
        turn += 1;
        if turn.is_multiple_of(16) && done(world) {
            return true;
        }
        if world.plan.may_halt && world.now > since + HALT_US && halted(world) {
            nobody_serves(world, "who cannot be repaired does not serve");
            return false;
        }
        if !world.step() || world.now > since + bound {
            let state = state_of(world);
            world.checker.fail("progress after the faults", || {
                format!("not within the bound: {what}\n{state}")
            });
        }
    }
    false
}

fn state_of(world: &World) -> String {
    let mut text = String::new();
    for (at, member) in world.members.iter().enumerate() {
        let status = member.process.as_ref().map(|p| p.replica.status());
        let line = match status {
            None => format!("  replica {}: not running\n", at + 1),
            Some(s) => format!(
                "  replica {}: {:?} term {} primary {:?} last {} durable {} commit {} applied {} \
                 members {} connected {:?} damage {:?}\n",
                at + 1,
                s.node.role,
                s.node.term,
                s.node.primary,
                s.node.last,
                s.node.durable,
                s.node.commit,
                s.applied,
                s.node.members.len(),
                s.node.connected,
                s.node.damage
            ),
        };
        text.push_str(&line);
    }
    text
}

/// After so many virtual microseconds a halt is no passing state.
const HALT_US: u64 = 5_000_000;

/// Too many are damaged, and have said so.
fn halted(world: &World) -> bool {
    let damaged = world.checker.views.iter().filter(|view| view.damaged);
    let told = world.members.iter().any(|member| {
        let status = member.process.as_ref().map(|p| p.replica.status());
        status.is_some_and(|s| s.node.halt.is_some())
    });
    told && damaged.count() > world.members.len() - world.checker.majority()
}

fn nobody_serves(world: &mut World, invariant: &'static str) {
    let serves = |m: &super::world::Member| m.process.as_ref().is_some_and(|p| p.serving);
    let serving = world.members.iter().any(serves);
    world
        .checker
        .check(!serving, invariant, || "a primary serves".into());
}

impl World {
    /// Every replica runs, and all show the same log, commit, state and primary.
    pub fn settled(&self) -> bool {
        let Some(process) = &self.members[0].process else {
            return false;
        };
        let (first, _, digest_of_first) = process.replica.glance();
        let known = self.members.iter().map(|member| member.level).min();
        let all_alike = self.members.iter().all(|member| {
            let seen = member.process.as_ref().map(|p| p.replica.glance());
            seen.is_some_and(|(node, applied, digest)| {
                applied == node.last.index
                    && node.commit == node.last.index
                    && node.last == first.last
                    && digest == digest_of_first
                    && Some(node.level) == known
                    && node.term == first.term
                    && node.admitted
                    && !member.disk.is_rotten()
            })
        });
        all_alike && self.primary().is_some()
    }
}

/// Who is primary, and in which term.
fn reign(world: &World) -> Option<(usize, Term)> {
    let at = world.primary()?;
    let process = world.members[at].process.as_ref()?;
    Some((at, process.term))
}

/// The same when what the faults have left is over: a primary whose disk stood still is missed until
/// it has told of progress, which it does with its next refresh.
fn peaceful_reign(world: &mut World) -> Option<(usize, Term)> {
    go_on(world, 2 * world.config.election_timeout_us());
    let since = world.now;
    until(world, since, World::settled, "all replicas stay equal");
    reign(world)
}

/// Election timeouts for which a secondary is cut off, and after which all must be as before.
const ISOLATION_TIMEOUTS: u64 = 10;

/// Once all is well the primary stays. A secondary that is cut off asks in vain, and deposes nobody,
/// neither then nor when it is back.
fn isolation(world: &mut World, reign_before: Option<(usize, Term)>) {
    let stays = |world: &mut World, when: &str| {
        let now = reign(world);
        let state = state_of(world);
        world.checker.check(
            now == reign_before,
            "an isolated replica cannot depose the primary",
            || format!("{reign_before:?} {when}, and then {now:?} (place, term)\n{state}"),
        );
    };
    stays(world, "when all was well");
    let n = world.members.len();
    let Some((primary, _)) = reign_before.filter(|_| n > 1) else {
        return;
    };
    let lonely = (primary + 1 + world.rng.below(n as u64 - 1) as usize) % n;
    world.checker.count("secondaries isolated");
    for other in (0..n).filter(|other| *other != lonely) {
        world.cut(lonely, other);
        world.cut(other, lonely);
    }
    let long = ISOLATION_TIMEOUTS * world.config.election_timeout_us();
    go_on(world, long);
    stays(world, "before a secondary was cut off");
    world.network.unblock();
    let since = world.now;
    if until(world, since, World::settled, "the isolated one is back") {
        go_on(world, long);
        stays(world, "before a secondary was cut off and came back");
    }
}

/// So many virtual microseconds pass.
fn go_on(world: &mut World, us: u64) {
    let until = world.now + us;
    while world.now < until && world.checker.violation.is_none() && world.step() {}
}

/// The same committed entries are lost on the first so many, or the same one is another. False if there is
/// none to lose.
fn strike_alike(world: &mut World, count: usize) -> bool {
    // What was not synced goes with that: the trees may be further behind then.
    for at in 0..count {
        world.kill(at, "its disk is damaged");
    }
    let stores = (0..count).map(|at| {
        let (base, applied) = world.members[at].disk.base_and_applied();
        let last = world.checker.views[at].durable.len() as u64;
        (base.0, applied.0, world.mark(at), last)
    });
    let stores: Vec<_> = stores.collect();
    let Some(lowest) = stores.iter().map(|store| store.2).min() else {
        return false;
    };
    let after = stores.iter().map(|store| store.0).max().unwrap_or(0);
    if after >= lowest {
        return false;
    }
    // What an open looks at: from what the trees stand at up to before the last entry.
    let from = stores.iter().map(|store| store.1.max(store.0 + 1)).max();
    let before = stores.iter().map(|store| store.3).min();
    let seen = from.zip(before).filter(|(from, before)| from < before);
    if let Some((from, before)) = seen.filter(|_| world.rng.chance(500)) {
        let index = world.rng.between(from, before - 1);
        for at in 0..count {
            world.rot_entry(at, Index(index));
        }
        world.checker.count("same damage: one entry is another");
        return true;
    }
    let after = world.rng.between(after, lowest - 1);
    for at in 0..count {
        world.lose_tail(at, after);
    }
    true
}

/// The same committed entries are damaged on some: a minority is repaired, a majority halts.
fn same_damage(world: &mut World) {
    let count = world.plan.same_damage;
    let readmitted = world.checker.last_readmission > Index(1);
    if count > 0 && readmitted {
        until(
            world,
            world.now,
            World::readmission_is_known,
            "a commit becomes durable on an idle replica",
        );
    }
    // A repair is over when its end is durable.
    let repaired = |w: &World| w.checker.views.iter().all(|view| !view.is_repairing());
    if count > 0 {
        until(
            world,
            world.now,
            repaired,
            "a repair ends on an idle replica",
        );
    }
    if count == 0 {
        return;
    }
    if !strike_alike(world, count) {
        for at in 0..count {
            world.boot(at);
        }
        return;
    }
    // A primary that goes on serving would repair all others, rightly.
    for at in 0..world.members.len() {
        world.kill(at, "with all others");
    }
    for at in 0..world.members.len() {
        world.boot(at);
    }
    if count > world.members.len() - world.checker.majority() {
        world.checker.count("same damage on a majority");
        go_on(world, HALT_US);
        nobody_serves(world, "who cannot be repaired does not serve");
        let told = halted(world);
        let state = state_of(world);
        world.checker.check(told, "a halt is told", || state);
    } else {
        world.checker.count("same damage on a minority");
        until(
            world,
            world.now,
            |w| w.checker.views.iter().all(|v| !v.damaged) && w.settled(),
            "a minority is repaired",
        );
    }
}

/// Two empty disks of three do not make a new cluster, and nobody serves.
fn double_wipe(world: &mut World) {
    if !world.plan.double_wipe || world.checker.views.iter().any(|view| view.damaged) {
        return;
    }
    world.checker.count("two of three wiped");
    for at in 0..2 {
        world.wipe(at);
        world.boot(at);
    }
    go_on(world, 1_500_000);
    nobody_serves(world, "two wiped of three do not serve");
}
