//! Bounds of a run, and the numbers that everything else is made of.

use chat::consensus::{Config, Driver};
use chat::types::ReplicaId;

/// Replicas of the cluster.
pub const REPLICAS: usize = 3;
/// Every pair of them.
pub const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

/// What a run is bounded by.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Highest term that any replica reaches.
    pub terms: u64,
    /// Commands proposed, by whichever primaries.
    pub entries: u8,
    /// Crashes, of whichever replicas, each with a restart.
    pub crashes: u8,
    /// Connections cut.
    pub cuts: u8,
    /// What the network may do.
    pub network: Network,
    /// Election values that a replica may draw: 1 or 2.
    pub draws: u8,
}

/// What the network may do with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Everything: any message may arrive at any time, in any order, as often as it likes, or never.
    #[default]
    Any,
    /// A message arrives at once, if the connection is open; but so many at a time may be kept and
    /// arrive at any later time, or never.
    Late(u8),
}

impl std::str::FromStr for Network {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "any" {
            return Ok(Self::Any);
        }
        text.parse().map(Self::Late)
    }
}

/// How far a tick moves a replica's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tick {
    /// Past the end of a window.
    Short,
    /// Past every deadline that there can be: a candidate waits for a primary for twice as long
    /// after each round that is lost, up to 64 windows.
    Long,
}

impl Tick {
    /// In microseconds.
    pub const fn us(self) -> u64 {
        match self {
            Self::Short => 9,
            Self::Long => 600,
        }
    }
}

impl Network {
    /// What a replica's state is told of how it is driven.
    pub const fn driver(self) -> Driver {
        Driver {
            tick_us: Tick::Short.us(),
            // The first limit that must not be reached: marks are fsynced after 100 ms.
            run_us: 100_000,
            ordered: !matches!(self, Self::Any),
        }
    }
}

/// Timings in which every tick means "nothing was heard in time": windows of 8 µs, refreshes that
/// never come by themselves, and a primary that is missed as soon as time passes.
pub fn config(id: ReplicaId) -> Config {
    Config {
        id,
        ids: (1..=REPLICAS as u16).map(ReplicaId).collect(),
        refresh_interval_us: 1 << 50,
        election_iters: 0,
        election_check_interval_us: 1,
        initialize_wait_us: 8,
        notice_wait_us: 0,
        build: String::new(),
        level: chat::types::LEVEL,
    }
}

/// The replica in this place.
pub fn id_of(place: usize) -> ReplicaId {
    ReplicaId(place as u16 + 1)
}

/// The place of this replica.
pub fn place_of(id: ReplicaId) -> usize {
    usize::from(id.0) - 1
}
