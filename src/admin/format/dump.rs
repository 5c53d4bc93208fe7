//! One entry or commit record a line.

use super::time_text;
use crate::state_machine::{Command, Operation};
use crate::storage::CommitRecord;
use crate::types::entry::{Entry, Kind};
use crate::types::{Level, Members};
use serde_json::{Map, Value, json};

/// `entry (2,7) 2026-01-01T00:00:00.000000Z 0123456789ab command operation=send_message …`
pub fn entry_text(entry: &Entry, show_bodies: bool) -> String {
    let mut line = format!(
        "entry {} {} {} {}",
        entry.stamp(),
        time_text(entry.time()),
        entry.hash().short(),
        kind_name(entry.kind())
    );
    for (name, value) in details(entry, show_bodies) {
        let value = match value {
            Value::String(text) if plain(&text) => text,
            other => other.to_string(),
        };
        line.extend([" ", &name, "=", &value]);
    }
    line
}

/// One JSON object.
pub fn entry_json(entry: &Entry, show_bodies: bool) -> Value {
    let mut object = Map::new();
    object.insert("index".into(), entry.index().0.into());
    object.insert("term".into(), entry.stamp().term.0.into());
    object.insert("time".into(), time_text(entry.time()).into());
    object.insert("kind".into(), kind_name(entry.kind()).into());
    object.insert("hash".into(), entry.hash().to_hex().into());
    object.insert(
        "previous_hash".into(),
        entry.previous_hash().to_hex().into(),
    );
    object.insert("payload_bytes".into(), entry.payload().len().into());
    object.insert("payload".into(), details(entry, show_bodies).into());
    Value::Object(object)
}

/// `commit (2,7) 2026-01-01T00:00:00.000000Z 0123456789ab state digest 0123456789ab`
pub fn commit_record_text(record: &CommitRecord) -> String {
    format!(
        "commit {} {} {} state digest {}",
        record.stamp,
        time_text(record.time),
        record.hash.short(),
        record.digest.short()
    )
}

/// One JSON object.
pub fn commit_record_json(record: &CommitRecord) -> Value {
    json!({
        "index": record.stamp.index.0,
        "term": record.stamp.term.0,
        "time": time_text(record.time),
        "kind": "commit_record",
        "hash": record.hash.to_hex(),
        "digest": record.digest.to_hex(),
    })
}

/// `cut: the log begins with entry 7, which continues hash 0123456789ab`
pub fn cut_text(first: &Entry) -> String {
    format!(
        "cut: the log begins with entry {}, which continues hash {}",
        first.index(),
        first.previous_hash().short()
    )
}

/// One JSON object.
pub fn cut_json(first: &Entry) -> Value {
    json!({
        "index": first.index().previous().0,
        "kind": "cut",
        "hash": first.previous_hash().to_hex(),
    })
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Formation => "formation",
        Kind::TermStart => "term_start",
        Kind::ReplaceIncarnation => "replace_incarnation",
        Kind::RaiseLevel => "raise_level",
        Kind::Command => "command",
    }
}

/// What the payload says, without secrets.
fn details(entry: &Entry, show_bodies: bool) -> Map<String, Value> {
    let parsed = match entry.kind() {
        Kind::Formation => entry.as_formation().map(|formation| {
            json!({
                "members": members(&formation.members),
                "level": formation.level.0,
            })
        }),
        Kind::TermStart => Some(json!({})),
        Kind::ReplaceIncarnation => entry.replace_incarnation().map(|replace| {
            json!({
                "id": replace.id.0,
                "old": replace.old.to_hex(),
                "new": replace.new.to_hex(),
            })
        }),
        Kind::RaiseLevel => rmp_serde::from_slice::<Level>(entry.payload())
            .ok()
            .map(|level| json!({ "level": level.0 })),
        Kind::Command => rmp_serde::from_slice::<Command>(entry.payload())
            .ok()
            .map(|command| command_details(&command, show_bodies)),
    };
    match parsed {
        Some(Value::Object(details)) => details,
        _ => Map::from_iter([("undecodable".to_owned(), true.into())]),
    }
}

fn members(members: &Members) -> Value {
    let members = members
        .iter()
        .map(|(id, incarnation)| (id.to_string(), incarnation.to_hex().into()));
    Value::Object(members.collect())
}

fn command_details(command: &Command, show_bodies: bool) -> Value {
    let mut details = json!({ "operation": command.operation.name() });
    if let Some(request) = &command.request {
        details["request"] = format!("{}/{}", request.client.short(), request.sequence).into();
    }
    match &command.operation {
        Operation::CreateAccount {
            name,
            full_name,
            token,
            ..
        } => {
            details["name"] = name.as_str().into();
            details["full_name"] = full_name.as_str().into();
            details["device"] = token.device.as_str().into();
        }
        Operation::IssueToken { user, token, .. } => {
            details["user"] = user.0.into();
            details["device"] = token.device.as_str().into();
        }
        Operation::RevokeSession { session } => details["session"] = (*session).into(),
        Operation::SendMessage {
            recipient,
            body,
            content_type,
        } => {
            details["recipient"] = recipient.as_str().into();
            details["content_type"] = content_type.as_str().into();
            details["body_bytes"] = body.len().into();
            if show_bodies {
                details["body"] = String::from_utf8_lossy(body).into();
            }
        }
        Operation::Acknowledge { up_to } => details["up_to"] = up_to.0.into(),
        Operation::UpdateProfile { full_name } => {
            details["full_name"] = full_name.as_str().into();
        }
        Operation::ExtendTokens { tokens } => details["tokens"] = tokens.len().into(),
        Operation::ExpireTokens { tokens, idle_us } => {
            details["tokens"] = tokens.len().into();
            details["idle_us"] = (*idle_us).into();
        }
        Operation::ExpireMessages { users, before } => {
            details["users"] = users.len().into();
            details["before_us"] = before.0.into();
        }
        Operation::RevokeOwnToken | Operation::ChangePassword { .. } | Operation::DeleteAccount => {
        }
    }
    details
}
