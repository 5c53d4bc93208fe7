//! How each fault is made and healed.

use crate::faults::{Fault, Kind};
use crate::network::{Node, Rule};
use crate::replicas::{Replicas, WallClock};
use crate::rng::Rng;
use anyhow::{Context as _, Result};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// A wall clock is wrong by at most this: tokens outlive it.
const CLOCK_OFFSET_MS_MAX: u64 = 3_600_000;
/// The clients' place in the network.
const CLIENTS: Node = 0;

/// A fault that has begun.
pub struct Harm {
    /// What was asked for.
    pub fault: Fault,
    /// Whom it hit.
    pub id: Node,
    /// What the salt decided; begins with a colon if it is not empty.
    pub detail: String,
}

/// Begins a fault.
pub fn inflict(replicas: &mut Replicas, fault: Fault, id: Node) -> Result<Harm> {
    let mut rng = Rng::new(fault.salt);
    let detail = match fault.kind {
        Kind::Kill => {
            replicas.kill(id)?;
            String::new()
        }
        Kind::Pause => {
            replicas.pause(id)?;
            String::new()
        }
        Kind::Partition => partition(replicas, id, &mut rng),
        Kind::OneWay => one_way(replicas, id, &mut rng),
        Kind::Slow => slow(replicas, id, &mut rng),
        Kind::DiskFull => {
            if replicas.disk(id)?.is_mounted() {
                replicas.disk(id)?.fill()?;
                String::new()
            } else {
                ": left out, its disk cannot be full".to_owned()
            }
        }
        Kind::Damage => {
            replicas.kill(id)?;
            let detail = damage(replicas, id, &mut rng)?;
            replicas.start(id)?;
            detail
        }
        Kind::Wipe => {
            replicas.kill(id)?;
            replicas.disk(id)?.wipe()?;
            replicas.start(id)?;
            String::new()
        }
        Kind::Clock => turn_clock(replicas, id, &mut rng)?,
    };
    Ok(Harm { fault, id, detail })
}

impl Harm {
    /// Ends it, but for the network, which is healed as a whole.
    pub fn heal(&self, replicas: &mut Replicas) -> Result<()> {
        match self.fault.kind {
            Kind::Kill => replicas.start(self.id),
            Kind::Pause => replicas.go_on(self.id),
            Kind::DiskFull => {
                replicas.disk(self.id)?.empty()?;
                // A replica whose disk failed has ended by itself.
                Ok(())
            }
            Kind::Clock => replicas.set_clock(self.id, WallClock::default()),
            // The replica repairs itself.
            Kind::Damage | Kind::Partition | Kind::OneWay | Kind::Slow | Kind::Wipe => Ok(()),
        }
    }
}

/// What an operator does with a replica that does not repair itself: its store goes aside, and it is
/// started empty.
pub fn operator_step(replicas: &mut Replicas, id: Node) -> Result<()> {
    replicas.kill(id)?;
    replicas.disk(id)?.set_aside()?;
    replicas.start(id)
}

fn others(replicas: &Replicas, id: Node) -> Vec<Node> {
    let ids = replicas.ids().into_iter();
    ids.filter(|other| *other != id).collect()
}

const CUT: Rule = Rule {
    cut: true,
    delay_ms: 0,
    lost_per_mille: 0,
};

fn partition(replicas: &Replicas, id: Node, rng: &mut Rng) -> String {
    let network = replicas.network();
    let mut side = vec![id];
    let others = others(replicas, id);
    if others.len() >= 4 && rng.chance(500) {
        // Two of five together.
        side.push(*rng.pick(&others));
    }
    let with_clients = rng.chance(500);
    for inside in &side {
        for outside in others.iter().filter(|other| !side.contains(other)) {
            network.add(*inside, *outside, CUT);
            network.add(*outside, *inside, CUT);
        }
        if with_clients {
            network.add(*inside, CLIENTS, CUT);
            network.add(CLIENTS, *inside, CUT);
        }
    }
    let together = match side.get(1) {
        Some(second) => format!(" together with replica {second}"),
        None => String::new(),
    };
    let from = if with_clients {
        "everybody"
    } else {
        "the other replicas"
    };
    format!(": cut off from {from}{together}")
}

fn one_way(replicas: &Replicas, id: Node, rng: &mut Rng) -> String {
    let network = replicas.network();
    let others = others(replicas, id);
    match rng.below(3) {
        0 => {
            for other in others {
                network.add(id, other, CUT);
            }
            ": nothing that it sends arrives at the other replicas".to_owned()
        }
        1 => {
            for other in others {
                network.add(other, id, CUT);
            }
            ": nothing arrives at it from the other replicas".to_owned()
        }
        _ => {
            let other = *rng.pick(&others);
            network.add(id, other, CUT);
            format!(": nothing that it sends arrives at replica {other}")
        }
    }
}

fn slow(replicas: &Replicas, id: Node, rng: &mut Rng) -> String {
    let rule = Rule {
        cut: false,
        delay_ms: rng.between(10, 250),
        lost_per_mille: *rng.pick(&[0, 0, 10, 50]),
    };
    for other in others(replicas, id).into_iter().chain([CLIENTS]) {
        replicas.network().add(id, other, rule);
        replicas.network().add(other, id, rule);
    }
    format!(
        ": {} ms and more each way, {} in a thousand packets lost",
        rule.delay_ms, rule.lost_per_mille
    )
}

/// Turns or stops a wall clock, mostly under the running process.
fn turn_clock(replicas: &mut Replicas, id: Node, rng: &mut Rng) -> Result<String> {
    let most = *rng.pick(&[2_000, 60_000, CLOCK_OFFSET_MS_MAX, CLOCK_OFFSET_MS_MAX]);
    let distance_ms = rng.between(most / 10, most) as i64;
    let (offset_ms, side) = if rng.chance(500) {
        (distance_ms, "ahead")
    } else {
        (-distance_ms, "behind")
    };
    let wrong = format!("{:.1} s {side}", distance_ms as f64 / 1e3);
    let clock = |stands| WallClock { offset_ms, stands };
    Ok(match rng.below(4) {
        0 => {
            replicas.kill(id)?;
            replicas.set_clock(id, clock(false))?;
            replicas.start(id)?;
            format!(": killed, and started with a wall clock that is {wrong}")
        }
        1 => {
            replicas.set_clock(
                id,
                WallClock {
                    offset_ms: 0,
                    stands: true,
                },
            )?;
            ": its wall clock stands still".to_owned()
        }
        2 => {
            replicas.set_clock(id, clock(true))?;
            format!(": its wall clock jumps, and stands still {wrong}")
        }
        _ => {
            replicas.set_clock(id, clock(false))?;
            format!(": its wall clock jumps, and is {wrong}")
        }
    })
}

/// Changes a file of a store that nobody has open.
fn damage(replicas: &Replicas, id: Node, rng: &mut Rng) -> Result<String> {
    /// Where no contents are: an empty lock, say.
    const LEAST_BYTES: u64 = 16;
    let mut files = replicas.disk(id)?.files();
    files.retain(|(_, length)| *length >= LEAST_BYTES);
    let Some((path, length)) = (!files.is_empty()).then(|| rng.pick(&files).clone()) else {
        return Ok(": there is nothing to damage".to_owned());
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let what = match rng.below(4) {
        0 => {
            let left = rng.below(length);
            file.set_len(left)?;
            format!("cut to {left} of {length} bytes")
        }
        1 => {
            let at = rng.below(length) & !0xFFF;
            let zeros = vec![0; 4096.min(length - at) as usize];
            file.write_all_at(&zeros, at)?;
            format!("{} bytes at {at} of {length} turned to zero", zeros.len())
        }
        _ => {
            let count = rng.between(1, 64);
            for _ in 0..count {
                let at = rng.below(length);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                file.write_all_at(&[byte[0] ^ (1 << rng.below(8))], at)?;
            }
            format!("{count} of {length} bytes changed")
        }
    };
    let home = replicas.disk(id)?.data_dir();
    let name = path.strip_prefix(home).unwrap_or(&path);
    Ok(format!(": {}: {what}", name.display()))
}
