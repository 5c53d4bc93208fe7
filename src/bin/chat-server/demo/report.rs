//! What was measured, and whether it is good.

use super::adapter::Verified;
use super::replicas::names;
use super::talk::{Acknowledged, Delivered, Spoken};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

/// Promises against deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Messages whose sender has a receipt.
    pub acknowledged: usize,
    /// Messages that a listener heard, or the last reading found.
    pub delivered: usize,
    /// Acknowledged and not heard, or gone at the last reading.
    pub lost: usize,
    /// Deliveries of a message beyond its first.
    pub duplicated: usize,
    /// Messages that are not where their receipt says, or before one that was acknowledged before
    /// they were sent, or elsewhere in the two readings.
    pub disordered: usize,
}

impl Counted {
    /// Compares what was promised with what the listeners heard while it happened and with what a
    /// restarted replica holds afterwards.
    pub fn of(promised: Vec<Acknowledged>, heard: &[Delivered], settled: &[Delivered]) -> Self {
        let heard = Places::of(heard);
        let settled = Places::of(settled);
        let bodies: BTreeSet<&String> = heard.0.keys().chain(settled.0.keys()).copied().collect();
        let mut counted = Self {
            acknowledged: promised.len(),
            delivered: bodies.len(),
            duplicated: heard.surplus().max(settled.surplus()),
            ..Self::default()
        };
        for message in promised {
            // The two talk to each other: the inbox is the other's.
            let place = (1 - message.from, message.inbox_seq);
            match (heard.first(&message.body), settled.first(&message.body)) {
                (Some(live), Some(later)) => {
                    let right = live == place && later == place;
                    let in_order = message.inbox_seq > message.after_seq;
                    counted.disordered += usize::from(!right || !in_order);
                }
                _ => counted.lost += 1,
            }
        }
        counted
    }
}

/// Where each body was found.
struct Places<'a>(BTreeMap<&'a String, Vec<(usize, u64)>>);

impl<'a> Places<'a> {
    fn of(delivered: &'a [Delivered]) -> Self {
        let mut places: BTreeMap<&String, Vec<(usize, u64)>> = BTreeMap::new();
        for (inbox, place, body) in delivered {
            places.entry(body).or_default().push((*inbox, *place));
        }
        Self(places)
    }

    fn first(&self, body: &String) -> Option<(usize, u64)> {
        self.0.get(body)?.first().copied()
    }

    fn surplus(&self) -> usize {
        self.0.values().map(|places| places.len() - 1).sum()
    }
}

/// The whole result.
pub struct Report {
    /// At the end.
    pub primary: u16,
    /// Those that were killed; the first was the primary.
    pub victims: Vec<u16>,
    /// Of the conversation.
    pub spoken: Spoken,
    /// Of the comparison.
    pub counted: Counted,
    /// From the restart until all replicas were equal.
    pub caught_up: Duration,
    /// Of the logs.
    pub verified: Verified,
}

impl Report {
    /// Nothing lost, doubled or out of order, and all replicas compared and equal.
    pub fn is_good(&self) -> bool {
        let counted = self.counted;
        counted.lost == 0
            && counted.duplicated == 0
            && counted.disordered == 0
            && counted.delivered == counted.acknowledged
            && self.verified.identical
            && self.spoken.resumed.is_some()
    }

    /// To standard output.
    pub fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for line in self.lines() {
            writeln!(out, "{line}").context("cannot write the result")?;
        }
        out.flush().context("cannot write the result")
    }

    fn lines(&self) -> Vec<String> {
        let Counted {
            acknowledged,
            delivered,
            lost,
            duplicated,
            disordered,
        } = self.counted;
        let seconds = self.spoken.took.as_secs_f64();
        let gap = self.spoken.resumed.map_or("never".into(), |gap| {
            format!("{:.1} ms", gap.as_secs_f64() * 1_000.0)
        });
        let mut lines = vec![
            format!(
                "primary: replica {}; killed: {} (replica {} was primary)",
                self.primary,
                names(&self.victims),
                self.victims[0]
            ),
            format!(
                "{acknowledged} messages acknowledged in {seconds:.2} s: {:.0} per second, with the kill",
                acknowledged as f64 / seconds
            ),
            format!("from the kill to the next acknowledged message: {gap}"),
            format!("sends that were retried: {}", self.spoken.retried),
            format!(
                "{} restarted and equal to the others after {:.2} s",
                names(&self.victims),
                self.caught_up.as_secs_f64()
            ),
            format!(
                "acknowledged {acknowledged}, delivered {delivered}, lost {lost}, duplicated {duplicated}"
            ),
        ];
        if disordered > 0 {
            lines.push(format!("out of order or out of place: {disordered}"));
        }
        lines.push(self.verified.line.clone());
        lines.extend(
            self.verified
                .findings
                .iter()
                .map(|finding| format!("  {finding}")),
        );
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promised(body: &str, inbox_seq: u64, after_seq: u64) -> Acknowledged {
        Acknowledged {
            from: 0,
            body: body.into(),
            inbox_seq,
            after_seq,
        }
    }

    fn inbox(bodies: &[&str]) -> Vec<Delivered> {
        (1..)
            .zip(bodies)
            .map(|(place, body)| (1, place, (*body).to_owned()))
            .collect()
    }

    #[test]
    fn losses_and_doubles_are_seen_in_either_reading() {
        let all = vec![promised("a", 1, 0), promised("b", 2, 1)];
        let good = Counted::of(all.clone(), &inbox(&["a", "b"]), &inbox(&["a", "b"]));
        let expected = Counted {
            acknowledged: 2,
            delivered: 2,
            ..Counted::default()
        };
        assert_eq!(good, expected);
        let lost = Counted::of(all.clone(), &inbox(&["a", "b"]), &inbox(&["a"]));
        assert_eq!(lost.lost, 1);
        let doubled = Counted::of(all, &inbox(&["a", "b"]), &inbox(&["a", "b", "a"]));
        assert_eq!((doubled.lost, doubled.duplicated), (0, 1));
    }

    #[test]
    fn a_message_before_one_that_was_acknowledged_before_it_was_sent_is_out_of_order() {
        let all = vec![promised("a", 2, 0), promised("b", 1, 2)];
        let counted = Counted::of(all, &inbox(&["b", "a"]), &inbox(&["b", "a"]));
        assert_eq!(counted.disordered, 1);
    }
}
