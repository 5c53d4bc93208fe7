//! One search, and what is told of it.

use crate::checks::Broken;
use crate::options::{Bounds, REPLICAS};
use crate::world::{Action, Cluster, Start};
use chat::consensus::Mutant;
use stateright::{Checker, HasDiscoveries, Model};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What is searched.
pub struct Plan {
    pub bounds: Bounds,
    pub start: Start,
    pub mutant: Option<Mutant>,
    /// It ends then, explored or not.
    pub limit: Option<Duration>,
}

/// What came of it; with the number of different states.
pub enum Outcome {
    /// Every state was explored.
    Holds(usize),
    /// An invariant.
    Broken { states: usize, what: String },
    /// The search itself: the model is wrong, or its view of a replica.
    Trouble(String),
    /// The time was over before every state was explored.
    Unfinished(usize),
}

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Searches depth first, on one thread: the same states in the same order each time.
pub fn run(plan: &Plan, tell: bool) -> Outcome {
    if tell {
        println!("{}", bounds_of(plan));
    }
    let cluster = Cluster::new(plan);
    let began = Instant::now();
    let builder = cluster.checker().finish_when(HasDiscoveries::AnyFailures);
    let mut checker = builder.spawn_dfs();
    let handles = checker.handles();
    let mut told = Instant::now();
    while handles.iter().any(|handle| !handle.is_finished()) {
        std::thread::sleep(Duration::from_millis(5));
        let over = plan.limit.is_some_and(|limit| began.elapsed() >= limit);
        checker.model().over.store(over, Ordering::Relaxed);
        if tell && told.elapsed() > TELL_EVERY {
            told = Instant::now();
            eprintln!("{}", sizes(&checker, began));
        }
    }
    let mut trouble = None;
    for handle in handles {
        if let Err(panic) = handle.join() {
            trouble = Some(words_of(&*panic));
        }
    }
    // A path to a state is found by expanding the states before it again.
    checker.model().over.store(false, Ordering::Relaxed);
    let outcome = outcome(&checker, trouble);
    if tell {
        println!("{}", sizes(&checker, began));
        report(&checker, &outcome);
    }
    outcome
}

fn bounds_of(plan: &Plan) -> String {
    let Bounds {
        terms,
        entries,
        crashes,
        cuts,
        network,
        draws,
    } = &plan.bounds;
    let start = plan.start;
    format!(
        "{REPLICAS} replicas, start {start:?}; at most: term {terms}, commands {entries}, \
         crashes {crashes}, cuts {cuts}, election values {draws}; network: {network:?}"
    )
}

fn outcome(checker: &impl Checker<Cluster>, trouble: Option<String>) -> Outcome {
    let states = checker.unique_state_count();
    // Before anything asks for a path: that expands its states again.
    let expanded = checker.model().expanded.load(Ordering::Relaxed);
    if let Some(what) = trouble {
        return Outcome::Trouble(what);
    }
    let failed = Broken::ALL.map(Broken::property);
    let found = failed.iter().find(|name| checker.discovery(name).is_some());
    if let Some(what) = found {
        let what = (*what).to_owned();
        return Outcome::Broken { states, what };
    }
    if expanded == states as u64 {
        Outcome::Holds(states)
    } else {
        Outcome::Unfinished(states)
    }
}

fn report(checker: &impl Checker<Cluster>, outcome: &Outcome) {
    let model = checker.model();
    let events = model.shared().store.events.clone();
    println!("different steps of one replica that bring about:");
    for (name, count) in events {
        println!("  {count:>9}  {name}");
    }
    println!("seen on the way:");
    let failed = Broken::ALL.map(Broken::property);
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(name, _)| *name);
    for (name, path) in found {
        let actions = path.into_actions();
        println!("  {name} ({} steps)", actions.len());
        if failed.contains(&name) {
            tell_way(&actions);
        }
    }
    if let Some(words) = &model.shared().store.panic {
        println!("an assertion failed: {words}");
    }
    match outcome {
        Outcome::Holds(states) => println!("explored: all {states} states; every invariant holds"),
        Outcome::Broken { states, what } => println!("BROKEN after {states} states: {what}"),
        Outcome::Trouble(what) => println!("the search itself failed: {what}"),
        Outcome::Unfinished(states) => {
            println!(
                "NOT EXPLORED: the time was over after {states} states; none broke an invariant"
            );
        }
    }
}

fn tell_way(actions: &[Action]) {
    for (number, action) in actions.iter().enumerate() {
        println!("    {:>3}. {action:?}", number + 1);
    }
}

fn sizes(checker: &impl Checker<Cluster>, began: Instant) -> String {
    format!(
        "{:.1} s: {} states, {} different, depth {}; {}",
        began.elapsed().as_secs_f64(),
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        checker.model().shared().store.sizes(),
    )
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "the search ended with a panic".to_owned())
}
