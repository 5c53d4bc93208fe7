//! The network between the replicas, and between them and the clients.
//!
//! Where it may, each replica lives in a network namespace of its own, and every packet passes
//! through a switch in this process ([`switch`]). Where namespaces cannot be made, the links
//! between replicas are TCP connections through a proxy in this process ([`proxy`]): it can stop
//! and slow the bytes of a direction, but a refused connection looks like a closed one, nothing is
//! ever lost, and the clients' links are not touched.

mod namespaces;
mod proxy;
mod rules;
mod switch;
mod tun;

use crate::ports;
use anyhow::Result;
use namespaces::Namespaces;
pub use namespaces::run;
use proxy::Proxies;
pub use rules::{Node, Rule, Rules};
use std::process::Command;

/// The network of a run. Removed when dropped.
pub struct Network {
    rules: Rules,
    kind: Kind,
}

enum Kind {
    Namespaces(Namespaces),
    Proxies(Proxies),
}

impl Network {
    /// For replicas 1 to `replicas`. Must be called inside a tokio runtime. The second value says
    /// why there are no namespaces, if there are none.
    pub fn new(replicas: u16, proxies: bool) -> Result<(Self, Option<String>)> {
        let rules = Rules::default();
        let made = if proxies {
            Err(anyhow::anyhow!("proxies were asked for"))
        } else {
            Namespaces::new(replicas, &rules)
        };
        let (kind, why) = match made {
            Ok(namespaces) => (Kind::Namespaces(namespaces), None),
            Err(error) => {
                let proxies = Proxies::new(replicas, &rules)?;
                (Kind::Proxies(proxies), Some(format!("{error:#}")))
            }
        };
        Ok((Self { rules, kind }, why))
    }

    /// One word for the report.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Namespaces(_) => "network namespaces",
            Kind::Proxies(_) => "proxied links",
        }
    }

    /// The beginning of a command that runs on this replica's machine.
    pub fn command(&self, id: Node, program: &std::path::Path) -> Command {
        match &self.kind {
            Kind::Namespaces(namespaces) => namespaces.command(id, program),
            Kind::Proxies(_) => Command::new(program),
        }
    }

    /// Where clients find this replica.
    pub fn client_address(&self, id: Node) -> String {
        match &self.kind {
            Kind::Namespaces(namespaces) => namespaces.address(id, namespaces::CLIENT_PORT),
            Kind::Proxies(proxies) => proxies.client_address(id),
        }
    }

    /// `--peers` of this replica.
    pub fn peers(&self, id: Node, replicas: u16) -> String {
        let peers = (1..=replicas).map(|other| {
            let address = match &self.kind {
                Kind::Namespaces(namespaces) => namespaces.address(other, namespaces::PEER_PORT),
                Kind::Proxies(proxies) => proxies.peer_address(id, other),
            };
            format!("{other}={address}")
        });
        peers.collect::<Vec<_>>().join(",")
    }

    /// Makes one direction worse by this.
    pub fn add(&self, from: Node, to: Node, rule: Rule) {
        self.rules.add(from, to, rule);
    }

    /// Makes the network perfect again.
    pub fn heal(&self) {
        self.rules.clear();
    }
}
