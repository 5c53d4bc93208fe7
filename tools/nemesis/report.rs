//! What a run came to: a text for people, and the same with a plot as a page of its own.

use crate::check::account::Action;
use crate::check::guests::GuestsJudged;
use crate::check::messages::Judged;
use crate::check::{self, AccountsJudged, messages};
use crate::ending::Ending;
use crate::history::{Micros, Record};
use crate::measure::{self, Seen};
use crate::nemesis::{Event, Nemesis};
use crate::plot;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::Path;

/// Everything that is told.
pub struct Report {
    command: String,
    network: &'static str,
    notes: Vec<String>,
    /// Each with what clients saw.
    events: Vec<(Event, Seen)>,
    /// (returned, latency), in order.
    acknowledged: Vec<(Micros, Micros)>,
    summary: Vec<String>,
    findings: Vec<String>,
    verdict: String,
}

impl Report {
    /// Judges the run.
    pub fn of(
        nemesis: &Nemesis<Action>,
        ending: &Ending,
        command: &str,
        network: &'static str,
        notes: &[String],
    ) -> Self {
        let mut record = nemesis.history.record();
        record.acknowledged.sort_unstable();
        let judged = messages::check(&record.sent, &record.looked, &record.heard, &ending.inboxes);
        let accounts = check::accounts(&record.accounts);
        let guests = check::guests::check(&record.guests);
        let mut summary = summary(&record, &judged, &accounts, &guests);
        summary.push(nemesis.damages.summary());
        summary.extend(ending.upkeep.iter().cloned());
        let mut findings = nemesis.findings.clone();
        let strange = record.strange.iter();
        findings.extend(
            strange.map(|told| format!("a client was told what it never should be {told}")),
        );
        findings.extend(judged.findings);
        findings.extend(undecided(&accounts));
        findings.extend(accounts.findings);
        findings.extend(guests.findings);
        let starts = nemesis.events.iter().skip(1).map(|event| event.began);
        let starts = starts.chain([Micros::MAX]);
        let events = nemesis.events.iter().zip(starts).map(|(event, next)| {
            let seen = measure::seen(event, next, &record.acknowledged);
            (event.clone(), seen)
        });
        Self {
            command: command.to_owned(),
            network,
            notes: notes.to_vec(),
            events: events.collect(),
            summary,
            findings,
            verdict: ending.verdict.clone(),
            acknowledged: std::mem::take(&mut record.acknowledged),
        }
    }

    /// Nothing was found.
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("\n{}\non {}\n", self.command, self.network);
        for note in &self.notes {
            line(&mut text, note);
        }
        line(&mut text, "\nfaults, and what the clients saw of them");
        line(
            &mut text,
            "   begins  lasts   writes/s before  during  writes again after  longest gap  after its end",
        );
        for (event, seen) in &self.events {
            line(
                &mut text,
                &format!(
                    "{:7.1} s {:4.1} s {:14.0} {:9.0} {:>19} {:>12} {:>14}  {}",
                    event.began as f64 / 1e6,
                    event.healed.saturating_sub(event.began) as f64 / 1e6,
                    seen.rate_before,
                    seen.rate_during,
                    seen.resumed.map_or("not during".to_owned(), time),
                    time(seen.longest_gap),
                    seen.after_heal.map_or("never".to_owned(), time),
                    event.what.join("; ")
                ),
            );
            for (at, note) in &event.notes {
                line(&mut text, &format!("{:7.1} s   {note}", *at as f64 / 1e6));
            }
        }
        text.push('\n');
        for sentence in self.conclusion() {
            line(&mut text, &sentence);
        }
        text
    }

    /// The sentences after the table.
    fn conclusion(&self) -> Vec<String> {
        let mut sentences = self.summary.clone();
        let gaps = |part: f64| {
            let gaps = self.events.iter().map(|(_, seen)| seen.longest_gap);
            time(measure::part(gaps.collect(), part))
        };
        if !self.events.is_empty() {
            sentences.push(format!(
                "longest time without an acknowledgement: median of {} steps {}, worst {}",
                self.events.len(),
                gaps(0.5),
                gaps(1.0)
            ));
        }
        sentences.push(self.verdict.clone());
        if self.findings.is_empty() {
            sentences.push("findings: none".to_owned());
        } else {
            sentences.push(format!("findings: {}", self.findings.len()));
            sentences.extend(self.findings.iter().map(|finding| format!("  {finding}")));
            sentences.push(format!("the same schedule again: {}", self.command));
        }
        sentences
    }

    /// `report.txt` and `report.html`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(directory.join("report.txt"), self.text()))
            .and_then(|()| std::fs::write(directory.join("report.html"), self.page()))
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        println!("report: {}", directory.join("report.html").display());
        Ok(())
    }

    fn page(&self) -> String {
        let events: Vec<&Event> = self.events.iter().map(|(event, _)| event).collect();
        let plot = plot::svg(&self.acknowledged, &events);
        let good = if self.is_good() { "good" } else { "bad" };
        let mut conclusion = String::new();
        for sentence in self.conclusion() {
            line(
                &mut conclusion,
                &format!("<p>{}</p>", plot::escaped(&sentence)),
            );
        }
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>nemesis</title>\n\
             <style>{}</style>\n<h1>{}</h1>\n<div class=\"{good}\">{conclusion}</div>\n{plot}\n\
             <pre>{}</pre>\n</html>\n",
            plot::STYLE,
            plot::escaped(&self.command),
            plot::escaped(&self.text())
        )
    }
}

/// A search that is too long decides nothing; a run with many of them has not judged its accounts.
fn undecided(accounts: &AccountsJudged) -> Option<String> {
    (accounts.undecided * 20 > accounts.accounts).then(|| {
        format!(
            "{} of {} accounts were not judged: their searches were too long",
            accounts.undecided, accounts.accounts
        )
    })
}

/// What was judged, in figures.
fn summary(
    record: &Record<Action>,
    judged: &Judged,
    accounts: &AccountsJudged,
    guests: &GuestsJudged,
) -> Vec<String> {
    let reconnects: u64 = record.heard.iter().map(|heard| heard.reconnects).sum();
    let latencies: Vec<Micros> = record.acknowledged.iter().map(|(_, l)| *l).collect();
    let slowest = latencies.iter().max().copied().unwrap_or(0);
    let seconds = record
        .acknowledged
        .last()
        .map_or(0.0, |last| last.0 as f64 / 1e6);
    vec![
        format!(
            "messages: {} acknowledged ({:.0} a second), {} without an outcome ({} of them \
             applied), {} certainly not sent",
            judged.acknowledged,
            judged.acknowledged as f64 / seconds.max(1.0),
            judged.unknown_applied + judged.unknown_lost,
            judged.unknown_applied,
            judged.refused
        ),
        format!(
            "latency of an acknowledged message: median {}, 99 of 100 below {}, the slowest {}",
            time(measure::part(latencies.clone(), 0.5)),
            time(measure::part(latencies, 0.99)),
            time(slowest)
        ),
        format!(
            "looks at inboxes: {}; heard by listeners: {} messages across {reconnects} \
             reconnects",
            judged.looks, judged.heard
        ),
        format!(
            "accounts that were fought over: {} with {} operations, searched for an order; \
             {} searches were too long",
            accounts.accounts, accounts.calls, accounts.undecided
        ),
        format!(
            "accounts that were deleted in the middle of {} messages to them and by them: {}; \
             {} messages refused for it; {} names taken again",
            guests.sends, guests.deleted, guests.refused, guests.again
        ),
    ]
}

/// `1.25 s`, `340 ms`.
fn time(micros: Micros) -> String {
    if micros >= 1_000_000 {
        format!("{:.2} s", micros as f64 / 1e6)
    } else {
        format!("{:.1} ms", micros as f64 / 1e3)
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
