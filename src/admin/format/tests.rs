//! What the formatter prints, to the letter.

use super::*;
use crate::admin::cluster::Verdict;
use crate::admin::verify::{Finding, Report};
use crate::proto::admin::ReplicaStatus;
use crate::state_machine::{Auth, Command, NewToken, Operation};
use crate::storage::CommitRecord;
use crate::types::entry::{Entry, Kind};
use crate::types::{
    ClientId, Hash, Incarnation, Index, Members, ReplicaId, RequestId, Stamp, Term, TokenHash,
};
use serde_json::json;

fn status(id: u32, role: &str, commit: u64, applied: u64) -> ReplicaStatus {
    ReplicaStatus {
        id,
        role: role.to_owned(),
        term: 3,
        primary: 1,
        serving: role == "primary",
        last_term: 3,
        last_index: commit,
        durable_index: commit,
        commit_index: commit,
        applied_index: applied,
        digest: vec![0xab; 32].into(),
        head_hash: vec![0xcd; 32].into(),
        store_bytes: 3 * 1024 * 1024 / 2,
        version: "0.1.0".to_owned(),
        ..ReplicaStatus::default()
    }
}

#[test]
fn the_status_table_has_a_row_for_each_replica() {
    let damaged = ReplicaStatus {
        errors: vec!["damaged at index 7: log at index 7: gone".to_owned()],
        ..status(2, "damaged", 90, 80)
    };
    let unreachable = ReplicaStatus {
        id: 3,
        unreachable: "no connection".to_owned(),
        ..ReplicaStatus::default()
    };
    let mut primary = status(1, "primary", 100, 100);
    primary.adopted = Some(crate::proto::admin::Adoption {
        from: 3,
        last_term: 2,
        last_index: 41,
    });
    assert_eq!(
        status_json(&[primary.clone()])[0]["adopted"]["last_index"],
        41
    );
    let table = status_table(&[primary, damaged, unreachable]);
    assert_eq!(
        table,
        "\
ID  ROLE         TERM  PRIMARY  LAST  COMMITTED  APPLIED  LAG  DIGEST        STORE    VERSION  ERRORS
1   primary         3        1   100        100      100    0  abababababab  1.5 MiB  0.1.0    -
2   damaged         3        1    90         90       80   20  abababababab  1.5 MiB  0.1.0    damaged at index 7: log at index 7: gone
3   unreachable     -        -     -          -        -    -  -             -        -        no connection
replica 1 has adopted the copy of replica 3 that ends at (2,41)
"
    );
}

#[test]
fn status_as_json_has_the_whole_digest() {
    let value = status_json(&[status(1, "primary", 100, 99)]);
    assert_eq!(value[0]["lag"], 1);
    assert_eq!(value[0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(value[0]["role"], "primary");
}

fn entry(index: u64, kind: Kind, payload: &[u8]) -> Entry {
    let stamp = Stamp::new(Term(2), Index(index));
    let time = WallTime(1_767_225_600_000_001);
    Entry::seal(stamp, time, Hash([9; 32]), kind, payload)
}

/// As it stands in the log: fields that were added later take their defaults.
fn command(operation: Operation) -> Vec<u8> {
    let auth = Auth {
        token: TokenHash([0x77; 32]),
    };
    let request = RequestId {
        client: ClientId([0xc1; 16]),
        sequence: 4,
    };
    let bytes = rmp_serde::to_vec(&(Some(auth), Some(request), operation)).unwrap();
    assert!(rmp_serde::from_slice::<Command>(&bytes).is_ok());
    bytes
}

fn message() -> Entry {
    let operation = Operation::SendMessage {
        recipient: "bob".into(),
        body: b"hello there".to_vec(),
        content_type: "text/plain".into(),
    };
    entry(7, Kind::Command, &command(operation))
}

#[test]
fn an_entry_is_one_line_and_hides_its_body_unless_asked() {
    let entry = message();
    let hash = entry.hash().short();
    assert_eq!(
        entry_text(&entry, false),
        format!(
            "entry (2,7) 2026-01-01T00:00:00.000001Z {hash} command body_bytes=11 \
             content_type=text/plain operation=send_message recipient=bob \
             request=c1c1c1c1c1c1/4"
        )
    );
    assert!(entry_text(&entry, true).contains(" body=\"hello there\" "));
}

#[test]
fn an_entry_as_json_has_the_same_fields() {
    let entry = message();
    assert_eq!(
        entry_json(&entry, false),
        json!({
            "index": 7,
            "term": 2,
            "time": "2026-01-01T00:00:00.000001Z",
            "kind": "command",
            "hash": entry.hash().to_hex(),
            "previous_hash": "09".repeat(32),
            "payload_bytes": entry.payload().len(),
            "payload": {
                "operation": "send_message",
                "request": "c1c1c1c1c1c1/4",
                "recipient": "bob",
                "content_type": "text/plain",
                "body_bytes": 11,
            },
        })
    );
    assert_eq!(entry_json(&entry, true)["payload"]["body"], "hello there");
}

#[test]
fn no_secret_is_ever_shown() {
    let operation = Operation::CreateAccount {
        name: "alice".into(),
        full_name: "Alice A.".into(),
        password_hash: "$argon2id$secret".into(),
        token: NewToken {
            hash: TokenHash([0x55; 32]),
            device: "phone".into(),
            client: ClientId([1; 16]),
        },
    };
    let entry = entry(8, Kind::Command, &command(operation));
    let shown = format!("{} {}", entry_text(&entry, true), entry_json(&entry, true));
    assert!(shown.contains("alice") && shown.contains("full_name=\"Alice A.\""));
    for secret in ["argon2id", "5555", "7777"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn consensus_entries_and_garbage_are_readable_too() {
    let members = Members::from([(ReplicaId(1), Incarnation([1; 16]))]);
    let formation = Entry::formation(&members);
    assert_eq!(
        entry_text(&formation, false),
        format!(
            "entry (0,1) 1970-01-01T00:00:00.000000Z {} formation level=1 \
             members={{\"1\":\"{}\"}}",
            formation.hash().short(),
            "01".repeat(16)
        )
    );
    assert!(entry_text(&entry(2, Kind::TermStart, b""), false).ends_with(" term_start"));
    let garbage = entry(3, Kind::Command, b"\xc1");
    assert!(entry_text(&garbage, false).ends_with(" command undecodable=true"));
}

#[test]
fn a_commit_record_is_one_line() {
    let record = CommitRecord {
        stamp: Stamp::new(Term(2), Index(7)),
        hash: Hash([0xaa; 32]),
        digest: Hash([0xbb; 32]),
        time: WallTime(1_000_000),
    };
    assert_eq!(
        commit_record_text(&record),
        "commit (2,7) 1970-01-01T00:00:01.000000Z aaaaaaaaaaaa state digest bbbbbbbbbbbb"
    );
    assert_eq!(commit_record_json(&record)["digest"], "bb".repeat(32));
}

#[test]
fn dates_are_right_around_leap_days_and_centuries() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00"),
        (951_782_399, "2000-02-28T23:59:59"),
        (951_782_400, "2000-02-29T00:00:00"),
        (1_709_251_199, "2024-02-29T23:59:59"),
        (1_709_251_200, "2024-03-01T00:00:00"),
        (4_107_542_400, "2100-03-01T00:00:00"),
    ] {
        let expected = format!("{text}.000000Z");
        assert_eq!(time_text(WallTime(seconds * 1_000_000)), expected);
    }
}

fn report(id: u16) -> Report {
    Report {
        id: ReplicaId(id),
        index: Index(40),
        hash: Hash([0xaa; 32]),
        digest: Hash([0xbb; 32]),
        entries: 41,
        commit_records: 5,
        digests: 7,
        state_index: Index(40),
        ..Report::default()
    }
}

#[test]
fn a_verdict_says_how_many_were_compared_and_how_many_skipped() {
    let line = |count: u16, of, skipped: Vec<(ReplicaId, String)>| {
        verdict_line(&Verdict::of(of, (1..=count).map(report).collect(), skipped))
    };
    assert_eq!(
        line(3, 3, Vec::new()),
        "verify: 3 of 3 replicas compared at index 40: identical"
    );
    let gone = |id| (ReplicaId(id), "no connection".to_owned());
    assert_eq!(
        line(2, 3, vec![gone(3)]),
        "verify: 2 of 3 replicas compared at index 40: identical; 1 skipped (3: no connection)"
    );
    assert_eq!(
        line(1, 3, vec![gone(2), gone(3)]),
        "verify: 1 of 3 replicas compared at index 40: consistent, and nothing to compare it \
         with; 2 skipped (2: no connection, 3: no connection)"
    );
    let mut half = report(1);
    half.state_index = Index(0);
    let verdict = Verdict::of(2, vec![half, report(2)], Vec::new());
    assert_eq!(
        verdict_line(&verdict),
        "verify: 2 of 2 replicas compared at index 40: identical; not everything was compared"
    );
    let text = verdict_text(&verdict);
    let named = "NOT COMPARED replica 1: its state trees were not compared with its log\n";
    assert!(text.contains(named), "{text}");
    assert_eq!(verdict_json(&verdict)["uncompared"][0]["id"], 1);
    assert_eq!(
        line(1, 1, Vec::new()),
        "verify: 1 of 1 replicas compared at index 40: consistent"
    );
    assert_eq!(
        line(0, 3, vec![gone(1), gone(2), gone(3)]),
        "verify: 0 of 3 replicas compared at index 0: nothing was compared; 3 skipped \
         (1: no connection, 2: no connection, 3: no connection)"
    );
}

#[test]
fn a_finding_names_replica_tree_and_index() {
    let mut bad = report(2);
    bad.findings.push(Finding {
        tree: "commits".to_owned(),
        index: Index(12),
        sentence: "commits at index 12: is about no entry of the log".to_owned(),
    });
    let verdict = Verdict::of(2, vec![report(1), bad], Vec::new());
    assert_eq!(
        verdict_text(&verdict),
        "\
replica 1: 41 entries, 5 commit records and 7 digests checked, state trees compared at index 40; \
at index 40 hash aaaaaaaaaaaa, state digest bbbbbbbbbbbb
replica 2: 41 entries, 5 commit records and 7 digests checked, state trees compared at index 40; \
at index 40 hash aaaaaaaaaaaa, state digest bbbbbbbbbbbb
FINDING replica 2: commits at index 12: is about no entry of the log
verify: 2 of 2 replicas compared at index 40: 1 finding
"
    );
    let value = verdict_json(&verdict);
    assert_eq!(value["identical"], false);
    assert_eq!(value["findings"][0]["index"], 12);
}
