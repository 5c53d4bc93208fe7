//! What must be there after a cut, and whether it is.

use super::load::{account, body, handle};
use super::process::Replica;
use anyhow::Context as _;
use chat::client::{Event, Listen, Message, Receipt};
use std::collections::{BTreeMap, BTreeSet};

/// The recipient whose inbox is kept.
pub const HOT: &str = "hot";
/// How the names of the others begin.
pub const BIN: &str = "bin";

/// A message that a client tried to send.
pub struct Sent {
    /// With which its body begins.
    pub name: String,
    pub to: String,
    pub bytes: usize,
    /// The last place of that inbox for which anybody had a receipt when it was sent.
    pub after_seq: u64,
    /// Without one it may be there or not: the power went.
    pub receipt: Option<Receipt>,
}

/// How a cut ended.
pub enum Verdict {
    /// Everything with a receipt is there, once, where the receipt says.
    AllThere { looked_at: usize },
    /// The replica says that its store is damaged.
    Damaged(String),
    /// Something with a receipt is not there, twice, or elsewhere; or the store contradicts itself
    /// and the replica did not notice.
    Lost(String),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllThere { looked_at } => write!(f, "all there, in inboxes of {looked_at}"),
            Self::Damaged(said) => write!(f, "KNOWS THAT IT IS DAMAGED: {said}"),
            Self::Lost(what) => write!(f, "LOST: {what}"),
        }
    }
}

/// What was sent to one recipient.
type Inbox = Vec<Sent>;

/// Everything that was tried and whose recipient is still there.
#[derive(Default)]
pub struct Expected {
    inboxes: BTreeMap<String, Inbox>,
}

impl Expected {
    /// A recipient who has an account now.
    pub fn new_bin(&mut self, name: &str) {
        self.inboxes.insert(name.to_owned(), Vec::new());
    }

    /// The one of the last round: its account is about to go.
    pub fn drop_bin(&mut self) -> Option<String> {
        let name = self.inboxes.keys().find(|name| name.starts_with(BIN));
        let name = name.cloned();
        if let Some(name) = &name {
            self.inboxes.remove(name);
        }
        name
    }

    pub fn extend(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            let inbox = self.inboxes.entry(sent.to.clone()).or_default();
            inbox.push(sent);
        }
    }
}

/// Reads every inbox from its beginning.
pub async fn look(replica: &Replica, expected: &Expected) -> anyhow::Result<Verdict> {
    let cluster = handle(replica)?;
    let mut looked_at = 0;
    for (name, sent) in &expected.inboxes {
        let reader = account(&cluster, name).await?;
        let mut listener = reader.listen(Listen {
            after: Some(0),
            ..Listen::default()
        });
        let mut inbox = Vec::new();
        loop {
            let event = listener.next().await.context("an inbox ends too early")?;
            match event.with_context(|| format!("cannot read the inbox of {name}"))? {
                Event::Message(message) => inbox.push(message),
                Event::EndOfBacklog => break,
                _ => {}
            }
        }
        looked_at += inbox.len();
        if let Err(what) = compare(&inbox, sent) {
            return Ok(Verdict::Lost(format!("in the inbox of {name}: {what}")));
        }
    }
    Ok(Verdict::AllThere { looked_at })
}

/// Gapless, in the order of the log; everything with a receipt once, whole, and at its place; nothing
/// that was not sent.
fn compare(inbox: &[Message], sent: &Inbox) -> Result<(), String> {
    let mut places: BTreeMap<&[u8], &Message> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (expected, message) in (1..).zip(inbox) {
        if message.inbox_seq != expected {
            return Err(format!("place {expected} is missing"));
        }
        if ids.last().is_some_and(|last| *last >= message.message_id) {
            return Err(format!("place {expected} is not in the order of the log"));
        }
        ids.insert(message.message_id);
        let name = message
            .body
            .split(|byte| *byte == b' ')
            .next()
            .unwrap_or_default();
        if places.insert(name, message).is_some() {
            let name = String::from_utf8_lossy(name);
            return Err(format!("message {name} is there twice"));
        }
    }
    for Sent {
        name,
        bytes,
        after_seq,
        receipt,
        ..
    } in sent
    {
        let found = places.remove(name.as_bytes());
        if found.is_some_and(|message| message.body[..] != body(name, *bytes)[..]) {
            return Err(format!("message {name} has another body"));
        }
        let Some(receipt) = receipt else {
            continue;
        };
        if receipt.inbox_seq <= *after_seq {
            let (at, before) = (receipt.inbox_seq, after_seq);
            return Err(format!(
                "message {name} is at {at}, and was sent after {before} was there"
            ));
        }
        let Some(message) = found else {
            return Err(format!("message {name} has a receipt and is not there"));
        };
        let place = (message.message_id, message.inbox_seq, message.time_us);
        if place != (receipt.message_id, receipt.inbox_seq, receipt.time_us) {
            return Err(format!("message {name} is not where its receipt says"));
        }
    }
    match places.keys().next() {
        Some(name) => Err(format!(
            "message {} was never sent",
            String::from_utf8_lossy(name)
        )),
        None => Ok(()),
    }
}
