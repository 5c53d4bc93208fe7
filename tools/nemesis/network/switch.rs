//! A switch for IP packets in this process: every packet between two machines passes here, so
//! that any direction of any link can be cut, delayed or made lossy at any moment.
//!
//! A thread for each machine reads its device; what is delayed waits in a heap for a thread of its
//! own. Nothing is ever queued without a delay, and what is delayed is bounded by the TCP windows
//! of the connections that it belongs to.

use super::{Node, Rules};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest packet; the devices' MTU is below.
const PACKET_BYTES_MAX: usize = 65_536;

/// Packets that wait: (when, order of arrival, to whom, bytes).
type Waiting = BinaryHeap<Reverse<(Instant, u64, Node, Vec<u8>)>>;

struct Delayed {
    waiting: Mutex<(Waiting, u64)>,
    arrived: Condvar,
}

/// Starts the threads. Each ends when its device is gone; the last byte of a machine's address is
/// its number, and any other number is that of the clients (0).
pub fn start(devices: BTreeMap<Node, File>, rules: &Rules) -> std::io::Result<()> {
    let devices = Arc::new(devices);
    let delayed = Arc::new(Delayed {
        waiting: Mutex::default(),
        arrived: Condvar::new(),
    });
    for node in devices.keys().copied() {
        let port = Port {
            node,
            devices: Arc::clone(&devices),
            rules: rules.clone(),
            delayed: Arc::clone(&delayed),
        };
        let name = format!("port-{node}");
        std::thread::Builder::new()
            .name(name)
            .spawn(move || port.run())?;
    }
    std::thread::Builder::new()
        .name("delayed".into())
        .spawn(move || delayed.run(&devices))?;
    Ok(())
}

struct Port {
    node: Node,
    devices: Arc<BTreeMap<Node, File>>,
    rules: Rules,
    delayed: Arc<Delayed>,
}

impl Port {
    fn run(self) {
        let Some(mut device) = self.devices.get(&self.node) else {
            return;
        };
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut last_due = BTreeMap::new();
        while let Ok(length) = device.read(&mut buffer) {
            let packet = &buffer[..length];
            let Some(to) = self.destination(packet) else {
                continue;
            };
            let rule = self.rules.of(self.node, to);
            if rule.cut || rand::random_range(0..1_000) < rule.lost_per_mille {
                continue;
            }
            if rule.delay_ms == 0 {
                send(&self.devices, to, packet);
                continue;
            }
            let jitter = rand::random_range(0..=rule.delay_ms / 2);
            let due = Instant::now() + Duration::from_millis(rule.delay_ms + jitter);
            // A delayed link keeps its order.
            let due = last_due.get(&to).map_or(due, |last| due.max(*last));
            last_due.insert(to, due);
            self.delayed.push(due, to, packet.to_vec());
        }
    }

    fn destination(&self, packet: &[u8]) -> Option<Node> {
        let version = packet.first()? >> 4;
        let last = *packet.get(19)?;
        let node = if self.devices.contains_key(&Node::from(last)) {
            Node::from(last)
        } else {
            0
        };
        (version == 4 && node != self.node).then_some(node)
    }
}

impl Delayed {
    fn push(&self, due: Instant, to: Node, packet: Vec<u8>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.1 += 1;
        let order = waiting.1;
        waiting.0.push(Reverse((due, order, to, packet)));
        self.arrived.notify_one();
    }

    /// For as long as the process lives.
    fn run(&self, devices: &BTreeMap<Node, File>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let until = match waiting.0.peek() {
                Some(Reverse((due, ..))) if *due <= now => {
                    if let Some(Reverse((_, _, to, packet))) = waiting.0.pop() {
                        send(devices, to, &packet);
                    }
                    continue;
                }
                Some(Reverse((due, ..))) => *due - now,
                None => Duration::from_secs(1),
            };
            let woken = self.arrived.wait_timeout(waiting, until);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn send(devices: &BTreeMap<Node, File>, to: Node, packet: &[u8]) {
    if let Some(mut device) = devices.get(&to) {
        // A machine that cannot take it has lost it, as on any network.
        let _ = device.write(packet);
    }
}
