//! What goes wrong, how often, and to whom.
//!
//! Each seed draws a [`Plan`]: a random part of the allowed kinds of fault, each with a rate of its
//! own, so that some runs are nearly calm and others see one kind only (swarm testing). A
//! [`Director`] replaces the draw by a schedule of its own.

use super::network::Weather;
use super::rng::Rng;
use super::world::{Clock, Happening, Options, World};
use chat::consensus::Role;
use chat::replica::{DiskJob, Input, PeerMessage};

/// Bytes free on a disk that has room.
pub const FREE_ENOUGH: u64 = 1 << 40;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Messages are lost.
    Loss,
    /// Messages are late.
    Delay,
    /// Messages come twice.
    Duplicate,
    /// Messages overtake each other.
    Reorder,
    /// Groups are cut off from each other.
    Partition,
    /// One direction between two replicas is cut.
    OneWay,
    /// Connections close and open again.
    Flap,
    /// A process is killed.
    Kill,
    /// All processes are killed.
    KillAll,
    /// A process is killed inside a disk job, at any of its steps.
    Persist,
    /// A process stands still and goes on.
    Pause,
    /// A disk is slow or stuck.
    Disk,
    /// Wall clocks jump, monotonic clocks drift.
    Clock,
    /// A replica is asked to stop, as by SIGTERM.
    Handover,
    /// A replica comes back with an empty disk, one at a time.
    Wipe,
    /// A disk loses the end of its log, or has other bytes in it, one at a time.
    Damage,
    /// Replicas boot long after each other.
    LateBoot,
    /// A disk goes back to an old copy, as far as a majority of the others remembers more.
    Rollback,
    /// Two disks change places: neither is opened until they are back.
    Swap,
    /// Builds know levels of their own, and a replica comes back under one that knows more.
    Upgrade,
    /// Appends arrive without their last entries.
    Prefix,
    /// Disks become nearly full, and have room again.
    Space,
    /// Two halves that only one replica reaches both of, or a ring.
    Bridge,
}

/// All kinds with their names.
pub const FAULTS: [(&str, Fault); 23] = [
    ("loss", Fault::Loss),
    ("delay", Fault::Delay),
    ("duplicate", Fault::Duplicate),
    ("reorder", Fault::Reorder),
    ("partition", Fault::Partition),
    ("one-way", Fault::OneWay),
    ("flap", Fault::Flap),
    ("kill", Fault::Kill),
    ("kill-all", Fault::KillAll),
    ("persist", Fault::Persist),
    ("pause", Fault::Pause),
    ("disk", Fault::Disk),
    ("clock", Fault::Clock),
    ("handover", Fault::Handover),
    ("wipe", Fault::Wipe),
    ("damage", Fault::Damage),
    ("late-boot", Fault::LateBoot),
    ("rollback", Fault::Rollback),
    ("swap", Fault::Swap),
    ("bridge", Fault::Bridge),
    ("prefix", Fault::Prefix),
    ("space", Fault::Space),
    ("upgrade", Fault::Upgrade),
];

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultSet(u32);

impl FaultSet {
    /// Every kind.
    pub const ALL: Self = Self(u32::MAX);
    /// No fault.
    pub const NONE: Self = Self(0);
    /// With one more kind.
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }
    /// Is this kind in it?
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }
    /// From names separated by commas; "all" and "none" too.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut set = Self::NONE;
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "all" => set = Self::ALL,
                "none" => set = Self::NONE,
                _ => {
                    let known = FAULTS.iter().find(|(name, _)| *name == word);
                    let Some((_, fault)) = known else {
                        let names: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
                        return Err(format!(
                            "no fault {word:?}; there are: {}",
                            names.join(", ")
                        ));
                    };
                    set = set.with(*fault);
                }
            }
        }
        Ok(set)
    }
}

/// What a director does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// As the weather has it.
    Pass,
    /// It never arrives.
    Lost,
    /// It arrives after this many microseconds.
    Late(u64),
}

/// Schedules faults instead of the draw, and has a hand in the network and the disks.
pub trait Director {
    /// Before anything happens.
    fn tune(&mut self, plan: &mut Plan, config: &mut chat::consensus::Config) {
        let _ = (plan, config);
    }
    /// Acts; returns the microseconds to its next act.
    fn act(&mut self, world: &mut World) -> u64;
    /// What becomes of this message? It may be changed into another that its sender could as well
    /// have sent.
    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        let _ = message;
        Fate::Pass
    }
    /// Is the process killed inside this disk job?
    fn kills_in(&mut self, job: &DiskJob) -> bool {
        let _ = job;
        false
    }
}

/// What one seed has drawn.
#[derive(Clone, Debug)]
pub struct Plan {
    pub faults: FaultSet,
    pub weather: Weather,
    /// Mean microseconds between faults.
    pub gap_us: u64,
    /// Mean microseconds that a killed process stays away.
    pub away_us: u64,
    /// Jobs of a thousand that end in a kill.
    pub persist_kill: u64,
    /// Jobs of a thousand that come upon damage.
    pub damage_met: u64,
    /// Jobs of a thousand that are slow.
    pub disk_slow: u64,
    pub boot_spread_us: u64,
    pub clients: usize,
    /// Mean microseconds between a client's operations.
    pub think_us: u64,
    pub token_idle_us: u64,
    pub checkpoint_entries: u64,
    /// Bytes of log below the applied index that a booting replica keeps in memory.
    pub cache_bytes: usize,
    /// When stores are rewritten, and what of the log is kept.
    pub rewriting: chat::replica::Rewriting,
    /// How much of a state is read at once, and what is kept while it is.
    pub portions: chat::replica::Portions,
    /// Between two scrubs of a store; 0: none.
    pub scrub_us: u64,
    /// State digests are kept and compared at multiples of this index.
    pub digest_every: u64,
    /// At the end two of three disks are replaced: nothing may form.
    pub double_wipe: bool,
    /// At the end so many replicas lose the same entries.
    pub same_damage: usize,
    /// The schedule damages more than can be repaired: a halt is a good end too.
    pub may_halt: bool,
}

impl Plan {
    /// Draws one.
    pub fn draw(rng: &mut Rng, options: &Options) -> Self {
        let mut faults = FaultSet::NONE;
        for (_, fault) in FAULTS {
            if rng.chance(600) && options.faults.has(fault) {
                faults = faults.with(fault);
            }
        }
        let mut rate = |fault: Fault, rates: [u64; 3]| {
            let rate = *rng.pick(&rates);
            if faults.has(fault) { rate } else { 0 }
        };
        let weather = Weather {
            loss: rate(Fault::Loss, [5, 40, 200]),
            duplicate: rate(Fault::Duplicate, [5, 50, 300]),
            reorder: rate(Fault::Reorder, [20, 200, 700]),
            prefix: rate(Fault::Prefix, [20, 200, 700]),
            late: rate(Fault::Delay, [5, 50, 200]),
            delay_us_max: 300 + rate(Fault::Delay, [300, 2_000, 8_000]),
        };
        let persist_kill = rate(Fault::Persist, [2, 10, 40]);
        let damage_met = rate(Fault::Damage, [0, 1, 5]);
        let disk_slow = rate(Fault::Disk, [1, 10, 60]);
        let late_boot = rate(Fault::LateBoot, [50_000, 150_000, 300_000]);
        Self {
            faults,
            weather,
            gap_us: *rng.pick(&[20_000, 60_000, 150_000, 300_000]),
            away_us: *rng.pick(&[2_000, 30_000, 150_000]),
            persist_kill,
            damage_met,
            disk_slow,
            boot_spread_us: 5_000 + late_boot,
            clients: rng.between(2, 4) as usize,
            think_us: *rng.pick(&[500, 3_000, 12_000]),
            token_idle_us: if rng.chance(100) { 1_500_000 } else { 1 << 44 },
            checkpoint_entries: *rng.pick(&[4, 32, 256]),
            cache_bytes: *rng.pick(&[1, 1_000, 16 * 1024 * 1024]),
            rewriting: chat::replica::Rewriting {
                bytes_min: *rng.pick(&[200, 2_000, 1 << 40]),
                age_us: *rng.pick(&[0, 0, 0, 300_000]),
                keep_entries: *rng.pick(&[0, 5, 100]),
                keep_behind: *rng.pick(&[0, 50, 1 << 40]),
                keep_age_us: 0,
                keep_log: rng.chance(100),
            },
            portions: chat::replica::Portions {
                rows_max: *rng.pick(&[2, 16, 256]),
                held_bytes: *rng.pick(&[2_000, 20_000, 1 << 28]),
            },
            // Where records rot somebody must look; the end of a run waits for it.
            scrub_us: if faults.has(Fault::Damage) {
                *rng.pick(&[40_000, 200_000, 1_000_000])
            } else {
                *rng.pick(&[0, 0, 40_000])
            },
            digest_every: *rng.pick(&[4, 16, 64]),
            double_wipe: options.replicas == 3 && faults.has(Fault::Wipe) && rng.chance(100),
            same_damage: if options.replicas > 1 && faults.has(Fault::Damage) && rng.chance(200) {
                rng.between(1, options.replicas as u64) as usize
            } else {
                0
            },
            may_halt: false,
        }
    }

    /// Clocks of a replica.
    pub fn clock(&self, rng: &mut Rng) -> Clock {
        let drifts = self.faults.has(Fault::Clock);
        Clock {
            drift_ppm: if drifts {
                rng.between(0, 20_000) as i64 - 10_000
            } else {
                0
            },
            started: 0,
            wall_stopped: None,
            wall_ahead_us: if drifts {
                rng.below(200_000_000) as i64 - 100_000_000
            } else {
                0
            },
        }
    }

    /// How long a disk job takes, in microseconds.
    pub fn disk_time(&self, rng: &mut Rng, slow: bool) -> u64 {
        let usual = rng.between(60, 500);
        if slow || rng.chance(self.disk_slow) {
            usual + rng.around(20_000)
        } else {
            usual
        }
    }
}

impl World {
    /// What a director does with this message.
    pub fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        self.director
            .as_mut()
            .map_or(Fate::Pass, |d| d.fate(message))
    }

    /// The next fault, and when the one after it comes.
    pub fn next_fault(&mut self) {
        if self.healing {
            return;
        }
        if let Some(mut director) = self.director.take() {
            let after = director.act(self);
            self.director = Some(director);
            self.schedule(after, Happening::Fault);
            return;
        }
        let after = self.rng.around(self.plan.gap_us);
        self.schedule(after, Happening::Fault);
        let all = [
            Fault::Partition,
            Fault::OneWay,
            Fault::Flap,
            Fault::Kill,
            Fault::Kill,
            Fault::KillAll,
            Fault::Pause,
            Fault::Disk,
            Fault::Clock,
            Fault::Handover,
            Fault::Wipe,
            Fault::Damage,
            Fault::Rollback,
            Fault::Swap,
            Fault::Bridge,
            Fault::Upgrade,
            Fault::Space,
        ];
        let fault = *self.rng.pick(&all);
        if self.plan.faults.has(fault) {
            self.strike(fault);
        }
    }

    fn strike(&mut self, fault: Fault) {
        let n = self.members.len();
        let victim = self.victim();
        match fault {
            Fault::Partition => self.partition(),
            Fault::Bridge => self.bridge(),
            Fault::Upgrade => self.upgrade(victim),
            Fault::Space => {
                let free = *self.rng.pick(&[0, 900, 100_000]);
                self.has_free(victim, free);
                self.checker.count("disks that filled or emptied");
            }
            Fault::Rollback => self.roll_back(victim),
            Fault::Swap => {
                let other = self.rng.below(n as u64) as usize;
                self.swap(victim, other);
            }
            Fault::OneWay => {
                let other = self.rng.below(n as u64) as usize;
                self.cut_for_a_while(victim, other);
            }
            Fault::Flap => {
                let other = self.rng.below(n as u64) as usize;
                self.link_lost(victim, other);
                self.link_lost(other, victim);
            }
            Fault::Kill => {
                self.kill(victim, "at random");
                self.restart_later(victim);
            }
            Fault::KillAll if self.rng.chance(300) => {
                for at in 0..n {
                    self.kill(at, "with all others");
                    self.restart_later(at);
                }
            }
            Fault::KillAll => {}
            Fault::Pause => self.pause(victim),
            Fault::Disk => {
                let long = self.rng.around(60_000);
                self.members[victim].slow_until = self.now + long;
            }
            Fault::Clock => self.turn_clock(victim),
            Fault::Handover => {
                self.note(|| format!("{} is asked to stop", victim + 1));
                if self.members[victim].process.is_some() {
                    self.checker.count("handovers");
                    self.feed(victim, Input::ShutDown);
                }
            }
            Fault::Wipe if self.may_wipe() => {
                if self.rng.chance(500) {
                    self.wipe(victim);
                } else {
                    self.lose_promises(victim);
                }
                self.restart_later(victim);
            }
            Fault::Damage if self.may_wipe() => {
                self.damage(victim);
                self.restart_later(victim);
            }
            _ => {}
        }
    }

    /// So many bytes are free on its disk from now on.
    fn has_free(&mut self, at: usize, free: u64) {
        self.members[at].free = free;
        self.feed_free(at);
    }

    /// As a running replica looks every now and then.
    pub(super) fn feed_free(&mut self, at: usize) {
        if self.plan.faults.has(Fault::Space) && self.members[at].process.is_some() {
            self.feed(at, Input::DiskSpace(self.members[at].free));
        }
    }

    /// A wall clock stands still, or goes again and is wrong by seconds or hours.
    fn turn_clock(&mut self, at: usize) {
        if self.rng.chance(250) {
            let now = self.clock(at).wall;
            self.members[at].clock.wall_stopped = Some(now);
            self.checker.count("wall clocks that stood still");
            return;
        }
        self.members[at].clock.wall_stopped = None;
        let jump = self.rng.below(20_000_000_000) as i64 - 10_000_000_000;
        let small = self.rng.below(2_000_000) as i64 - 1_000_000;
        let jump = if self.rng.chance(300) { jump } else { small };
        self.members[at].clock.wall_ahead_us += jump;
    }

    /// One replica, the primary in half of the cases.
    pub fn victim(&mut self) -> usize {
        let n = self.members.len() as u64;
        let primary = self.primary();
        let random = self.rng.below(n) as usize;
        if self.rng.chance(500) {
            primary.unwrap_or(random)
        } else {
            random
        }
    }

    /// The running primary of the highest term.
    pub fn primary(&self) -> Option<usize> {
        let running = self.members.iter().enumerate();
        let primaries = running.filter_map(|(at, member)| {
            let process = member.process.as_ref()?;
            (process.role == Role::Primary).then_some((process.term, at))
        });
        primaries.max().map(|(_, at)| at)
    }

    fn partition(&mut self) {
        let n = self.members.len();
        let lonely = self.victim();
        let split = self.rng.chance(500);
        let group: Vec<bool> = (0..n)
            .map(|at| {
                if split {
                    self.rng.chance(500)
                } else {
                    at == lonely
                }
            })
            .collect();
        self.note(|| format!("partition {group:?}"));
        // A partial partition leaves single paths open.
        let partial = self.rng.chance(300);
        for a in 0..n {
            for b in 0..n {
                if group[a] != group[b] && !(partial && self.rng.chance(300)) {
                    self.cut_for_a_while(a, b);
                }
            }
        }
    }

    pub fn cut_for_a_while(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut(from, to);
            let after = self.rng.around(150_000);
            self.schedule(after, Happening::Unblock { from, to });
        }
    }

    /// Stands still for a while.
    pub fn pause(&mut self, at: usize) {
        let life = self.members[at].life;
        let now = self.now;
        let reads = self.is_reading(at);
        if let Some(process) = self.process(at)
            && !process.paused
        {
            process.paused = true;
            process.read_paused_at = reads.then_some(now);
            self.note(|| format!("{} pauses", at + 1));
            let after = self.rng.around(80_000);
            self.schedule(after, Happening::Resume { at, life });
        }
    }

    /// A dead process comes back after a while.
    pub fn restart_later(&mut self, at: usize) {
        let after = self.rng.around(self.plan.away_us);
        self.schedule(after, Happening::Boot { at });
    }

    /// Faults end: everything is started, the network is perfect, clocks run true.
    pub fn heal(&mut self) {
        self.healing = true;
        self.note(|| "faults end".to_string());
        self.director = None;
        self.swap_back();
        self.network.unblock();
        self.network.weather = Weather {
            delay_us_max: 300,
            ..Weather::default()
        };
        self.plan.disk_slow = 0;
        for at in 0..self.members.len() {
            self.members[at].slow_until = 0;
            self.members[at].clock.wall_stopped = None;
            self.has_free(at, FREE_ENOUGH);
            self.schedule(1, Happening::Boot { at });
            let life = self.members[at].life;
            if self.process(at).is_some_and(|p| p.paused) {
                self.schedule(1, Happening::Resume { at, life });
            }
        }
        for client in &mut self.clients {
            client.acknowledged_after_heal = false;
        }
    }
}
