//! Makes the schedule happen, and notes what happened and when.
//!
//! After each step everything is healed, and within a bound a write must be acknowledged. A
//! replica that ends by itself, or says that it is damaged, where no fault explains it, is a
//! finding.

use crate::faults::{Fault, Kind, Step, Target};
use crate::harm::{self, Harm};
use crate::history::{History, Micros};
use crate::network::Node;
use crate::replicas::{Health, Replicas, WallClock};
use crate::upkeep::Damages;
use anyhow::{Result, bail};
use chat::proto::admin::ReplicaStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// From the end of a fault until a write must be acknowledged again.
pub const PROGRESS_WAIT: Duration = Duration::from_secs(30);
/// From the end of a fault until all replicas must be well and equally far.
pub const WELL_WAIT: Duration = Duration::from_secs(90);
/// From a turned clock to the election that it takes part in: a replica that was started with it is up.
const BEFORE_ELECTION: Duration = Duration::from_millis(700);
/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Between "all are equally far" and a fault that makes one of them forget: what they know of each
/// other is written lazily.
const SETTLE: Duration = Duration::from_secs(1);
/// Times that a replica may end by itself in one step before its store is replaced.
const STRIKES_MAX: u32 = 2;
/// And before the run is given up.
const STRIKES_LAST: u32 = 6;

/// One step as it happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When the first fault began.
    pub began: Micros,
    /// When the last one was healed.
    pub healed: Micros,
    /// What was done to whom.
    pub what: Vec<String>,
    /// What was seen, with its time.
    pub notes: Vec<(Micros, String)>,
}

/// The one who does it.
pub struct Nemesis<A> {
    /// Those that it is done to.
    pub replicas: Replicas,
    /// Where clients write down what they are told.
    pub history: History<A>,
    /// What happened so far.
    pub events: Vec<Event>,
    /// What must not have happened.
    pub findings: Vec<String>,
    /// Disks that were damaged.
    pub damages: Damages,
    strikes: BTreeMap<Node, u32>,
    /// May end, or say that they are damaged: a fault of this step explains it.
    excused: BTreeSet<Node>,
}

impl<A> Nemesis<A> {
    /// On these replicas.
    pub fn new(replicas: Replicas, history: History<A>) -> Self {
        Self {
            replicas,
            history,
            events: Vec::new(),
            findings: Vec::new(),
            damages: Damages::default(),
            strikes: BTreeMap::new(),
            excused: BTreeSet::new(),
        }
    }

    /// Does one step, from its quiet time to the progress after it.
    pub async fn step(&mut self, step: &Step) -> Result<()> {
        self.strikes.clear();
        self.watch_for(Duration::from_millis(step.quiet_ms)).await?;
        if step.faults.iter().any(|fault| fault.kind.loses_memory()) {
            if !self.all_well().await? {
                // One more that forgets would be more than is promised.
                return Ok(());
            }
            self.watch_for(SETTLE).await?;
        }
        let targets = self.targets(&step.faults).await;
        self.events.push(Event {
            began: self.history.now(),
            healed: 0,
            what: Vec::new(),
            notes: Vec::new(),
        });
        let killed = targets.iter().filter(|(f, ..)| f.kind == Kind::Kill);
        let killed: Vec<Node> = killed.map(|(_, id, _)| *id).collect();
        // Together, so that none can act on the death of another.
        self.replicas.strike(&killed);
        let mut harms = self.inflict(targets)?;
        if step.then_elect {
            self.watch_for(BEFORE_ELECTION).await?;
            let targets = self.targets(&[Fault::of_the_primary()]).await;
            harms.extend(self.inflict(targets)?);
        }
        self.watch_for(Duration::from_millis(step.hold_ms)).await?;
        self.heal(&harms).await?;
        self.progress().await
    }

    fn inflict(&mut self, targets: Vec<(Fault, Node, String)>) -> Result<Vec<Harm>> {
        let mut harms = Vec::new();
        for (fault, id, role) in targets {
            if matches!(fault.kind, Kind::DiskFull | Kind::Damage) {
                self.excused.insert(id);
            }
            if fault.kind == Kind::Damage {
                // What its log says from now on it says of the damaged disk.
                self.replicas.kill(id)?;
                self.damages.begin(&self.replicas, id)?;
            }
            let harm = harm::inflict(&mut self.replicas, fault, id)?;
            let what = format!("{} replica {id} ({role}){}", fault.kind, harm.detail);
            crate::say(&self.history, &what);
            if let Some(event) = self.events.last_mut() {
                event.what.push(what);
            }
            harms.push(harm);
        }
        Ok(harms)
    }

    async fn heal(&mut self, harms: &[Harm]) -> Result<()> {
        for harm in harms {
            if harm.fault.kind == Kind::Damage {
                let seen = self.how_damaged(harm.id).await;
                self.note(format!("replica {}: {seen}", harm.id));
            }
            harm.heal(&mut self.replicas)?;
        }
        self.replicas.network().heal();
        // What ended by itself during the fault is started by its operator now.
        self.watch()?;
        for id in self.replicas.ids() {
            self.replicas.start(id)?;
        }
        self.excused.clear();
        let now = self.history.now();
        if let Some(event) = self.events.last_mut() {
            event.healed = now;
        }
        Ok(())
    }

    /// What a damaged replica says of itself.
    async fn how_damaged(&self, id: Node) -> String {
        match self.replicas.health(id).await {
            Health::Dead => "did not start on it".to_owned(),
            Health::Silent => "runs and does not answer".to_owned(),
            Health::Answers(status) if status.errors.is_empty() => {
                format!("noticed nothing so far ({})", status.role)
            }
            Health::Answers(status) => format!("{}: {}", status.role, status.errors.join("; ")),
        }
    }

    /// A write that begins now is acknowledged within the bound.
    async fn progress(&mut self) -> Result<()> {
        let from = self.history.now();
        let deadline = Instant::now() + PROGRESS_WAIT;
        while self.history.acknowledged_since(from).is_none() {
            if Instant::now() >= deadline {
                let states = self.states().await;
                let finding = format!(
                    "no write was acknowledged within {} s after {} had been healed: {states}",
                    PROGRESS_WAIT.as_secs(),
                    self.last_what()
                );
                self.find(finding);
                break;
            }
            self.watch()?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until all replicas run, know one primary, have applied what was committed when the
    /// wait began, and have shown that their disks are whole.
    pub async fn all_well(&mut self) -> Result<bool> {
        let mut deadline = Instant::now() + WELL_WAIT;
        let mut target = None;
        loop {
            self.watch()?;
            let all = self.replicas.all_health().await;
            let mut statuses = Vec::new();
            for (id, health) in &all {
                if let Health::Answers(status) = health {
                    statuses.push(status.as_ref());
                    if status.role == "damaged" && !self.damages.explains(*id) {
                        let said = status.errors.join("; ");
                        self.unexplained(*id, &format!("says that it is damaged: {said}"))?;
                    }
                }
            }
            if statuses.len() == all.len() {
                let commit = statuses.iter().map(|status| status.commit_index).max();
                let target = *target.get_or_insert(commit.unwrap_or(0));
                if are_well(&statuses, target) && self.all_whole()? {
                    return Ok(true);
                }
            }
            if Instant::now() >= deadline && !self.damages.open().is_empty() {
                for id in self.damages.open() {
                    let states = self.states().await;
                    let wait = WELL_WAIT.as_secs();
                    self.find(format!(
                        "replica {id} does not show within {wait} s that its disk is whole: {states}"
                    ));
                    self.let_operator_help(id, "has not repaired itself")?;
                }
                deadline = Instant::now() + WELL_WAIT;
            }
            if Instant::now() >= deadline {
                let states = self.states().await;
                let finding = format!(
                    "not all replicas were well within {} s after {}: {states}",
                    WELL_WAIT.as_secs(),
                    self.last_what()
                );
                self.find(finding);
                return Ok(false);
            }
            sleep(LOOK).await;
        }
    }

    fn all_whole(&mut self) -> Result<bool> {
        for sentence in self.damages.look(&self.replicas)? {
            self.note(sentence);
        }
        Ok(self.damages.open().is_empty())
    }

    fn let_operator_help(&mut self, id: Node, why: &str) -> Result<()> {
        self.note(format!(
            "replica {id} {why}: its operator puts the store aside"
        ));
        self.damages.helped(id);
        harm::operator_step(&mut self.replicas, id)
    }

    /// Every fault of every kind ends.
    pub async fn heal_everything(&mut self) -> Result<()> {
        self.replicas.network().heal();
        for id in self.replicas.ids() {
            self.replicas.disk(id)?.empty()?;
            self.replicas.go_on(id)?;
            self.replicas.set_clock(id, WallClock::default())?;
            self.replicas.start(id)?;
        }
        self.excused.clear();
        self.progress().await
    }

    async fn watch_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.watch()?;
            sleep(LOOK.min(until - Instant::now())).await;
        }
        Ok(())
    }

    /// Notes who ended by itself; starts it again where no fault explains it.
    fn watch(&mut self) -> Result<()> {
        for (id, how) in self.replicas.ended() {
            if self.excused.contains(&id) {
                self.note(format!("replica {id} ended by itself: {how}"));
                continue;
            }
            if self.damages.explains(id) && !is_crash(&how) {
                self.note(format!("replica {id} ended by itself: {how}"));
                if self.damages.ended(id) {
                    self.let_operator_help(id, "does not go on")?;
                } else {
                    self.replicas.start(id)?;
                }
                continue;
            }
            self.unexplained(id, &format!("ended by itself: {how}"))?;
            self.replicas.start(id)?;
        }
        Ok(())
    }

    /// A finding; the second time its store is replaced, so that the run can go on.
    fn unexplained(&mut self, id: Node, what: &str) -> Result<()> {
        let strikes = self.strikes.entry(id).or_default();
        *strikes += 1;
        if *strikes >= STRIKES_LAST {
            bail!("replica {id} {what}, again and again");
        }
        let hopeless = *strikes >= STRIKES_MAX;
        self.find(format!("replica {id} {what} (after {})", self.last_what()));
        if hopeless {
            harm::operator_step(&mut self.replicas, id)?;
        }
        Ok(())
    }

    /// Which replica each of these faults hits, and what that replica is.
    async fn targets(&self, faults: &[Fault]) -> Vec<(Fault, Node, String)> {
        let all = self.replicas.all_health().await;
        let role = |id: Node| {
            let found = all.iter().find(|(known, _)| *known == id);
            match found {
                Some((_, Health::Answers(status))) => status.role.clone(),
                Some((_, Health::Silent)) => "silent".to_owned(),
                _ => "dead".to_owned(),
            }
        };
        let mut left = self.replicas.ids();
        let mut targets = Vec::new();
        for fault in faults {
            let primary = left.iter().position(|id| role(*id) == "primary");
            let at = match (fault.target, primary) {
                (Target::Primary, Some(at)) => at,
                (Target::Primary, None) => 0,
                (Target::Number(number), _) => (number % left.len().max(1) as u64) as usize,
            };
            if at < left.len() {
                let id = left.remove(at);
                targets.push((*fault, id, role(id)));
            }
        }
        targets
    }

    /// `1 primary at 812, 2 secondary at 812, 3 dead`.
    async fn states(&self) -> String {
        let all = self.replicas.all_health().await;
        let states = all.iter().map(|(id, health)| match health {
            Health::Answers(status) => format!(
                "{id} {} in term {} under {} at {}{}{}",
                status.role,
                status.term,
                status.primary,
                status.applied_index,
                if status.errors.is_empty() { "" } else { ": " },
                status.errors.join("; ")
            ),
            Health::Silent => format!("{id} silent"),
            Health::Dead => format!("{id} dead"),
        });
        states.collect::<Vec<_>>().join(", ")
    }

    fn last_what(&self) -> String {
        let last = self.events.last().map(|event| event.what.join(" and "));
        last.unwrap_or_else(|| "the start".to_owned())
    }

    /// Something seen during the last step.
    fn note(&mut self, note: String) {
        crate::say(&self.history, &format!("  {note}"));
        let now = self.history.now();
        if let Some(event) = self.events.last_mut() {
            event.notes.push((now, note));
        }
    }

    fn find(&mut self, finding: String) {
        self.note(format!("FINDING: {finding}"));
        let at = self.history.now() as f64 / 1e6;
        self.findings.push(format!("at {at:.1} s: {finding}"));
    }
}

/// It did not end as a server does that says why: a panic, an abort, a fault of memory.
fn is_crash(how: &str) -> bool {
    how.starts_with("signal") || how.starts_with("exit status: 101")
}

/// One primary that serves and that all know, nobody with errors, all at least at `target`.
fn are_well(statuses: &[&ReplicaStatus], target: u64) -> bool {
    let primary = statuses.iter().find(|status| status.role == "primary");
    let Some(primary) = primary.filter(|primary| primary.serving) else {
        return false;
    };
    statuses.iter().all(|status| {
        matches!(status.role.as_str(), "primary" | "secondary")
            && status.primary == primary.id
            && status.term == primary.term
            && status.errors.is_empty()
            && status.applied_index >= target
    })
}
