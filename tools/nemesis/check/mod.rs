//! The judges. They know nothing of processes and networks: a history goes in, sentences come out.

pub mod account;
pub mod guests;
pub mod linear;
pub mod messages;

use crate::history::Call;
use account::{Accounts, Action, Name};
use linear::Verdict;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the search over accounts came to.
#[derive(Debug, Default)]
pub struct AccountsJudged {
    /// Accounts.
    pub accounts: usize,
    /// Operations.
    pub calls: usize,
    /// Accounts whose search was too long.
    pub undecided: usize,
    /// A paragraph for each account that no single copy explains.
    pub findings: Vec<String>,
}

/// Judges each account by itself.
pub fn accounts(histories: &BTreeMap<String, Vec<Call<Action>>>) -> AccountsJudged {
    let mut judged = AccountsJudged {
        accounts: histories.len(),
        ..AccountsJudged::default()
    };
    for (name, calls) in histories {
        judged.calls += calls.len();
        match linear::check::<Accounts>(Name::default(), calls) {
            Verdict::Linearizable => {}
            Verdict::Undecided => judged.undecided += 1,
            Verdict::Impossible { stuck } => {
                judged.findings.push(explain(name, calls, &stuck));
            }
        }
    }
    judged
}

fn explain(name: &str, calls: &[Call<Action>], stuck: &[usize]) -> String {
    let mut text = format!("NOT LINEARIZABLE: account {name}; no order explains the marked ones:");
    let mut in_order: Vec<usize> = (0..calls.len()).collect();
    in_order.sort_by_key(|number| calls[*number].invoked);
    for number in in_order {
        let call = &calls[number];
        let seconds = |micros: u64| format!("{:.6}", micros as f64 / 1e6);
        let returned = call.returned.map_or("…".to_owned(), seconds);
        let mark = if stuck.contains(&number) { '>' } else { ' ' };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n  {mark} {} – {returned}  {:?}",
            seconds(call.invoked),
            call.action
        );
    }
    text
}
