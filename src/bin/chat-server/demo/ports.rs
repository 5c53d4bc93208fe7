//! Free ports on the loopback interface.
//!
//! The usual way, binding port 0 and releasing it, gives ports from the range that the system
//! also uses for outgoing connections. While a replica is down, the others try to reach its port
//! many times a second; sooner or later such a connection gets that very port as its own, connects
//! to itself, and the restarted replica finds its address in use. So the ports come from below
//! that range, and none is given twice in one process: whoever has got it may be dead for a while,
//! and comes back.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Below 32768, where Linux starts by default (`ip_local_port_range`), and above the well-known.
const RANGE: std::ops::Range<u16> = 12_000..32_000;
/// Random tries for each port.
const TRIES_MAX: usize = 1_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// So many different ports that nobody listens on just now.
pub fn free(count: usize) -> std::io::Result<Vec<u16>> {
    // All are held until all are found: no port is given twice.
    let mut held = Vec::with_capacity(count);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..count * TRIES_MAX {
        if held.len() == count {
            break;
        }
        let port = rand::random_range(RANGE);
        if given.contains(&port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            given.insert(port);
            held.push((listener, port));
        }
    }
    if held.len() < count {
        return Err(std::io::Error::other(
            "no free ports on the loopback interface",
        ));
    }
    Ok(held.into_iter().map(|(_, port)| port).collect())
}
