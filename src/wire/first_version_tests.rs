//! Version 1 with real sockets, and a model of a replica behind it.

use super::tests::Server;
use crate::replica::WriteError;
use crate::service::fake::Fault;
use crate::state_machine::Operation;
use std::fmt::Write as _;

#[tokio::test]
async fn version_1_in_its_whole() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let created = client.fields("0||1||alice||pw||Alice \\p A.").await;
    assert_eq!((&*created[2], &*created[4]), ("", "Alice \\p A."));
    let alice = created[3].clone();
    client.fields("0||1||bob||pw||").await;
    let bob = client.fields("1||1||Bob||pw").await[3].clone();
    assert_eq!(
        client.ask("1||1||bob||x").await,
        "1||1||BAD_CREDENTIALS||||"
    );
    assert_eq!(client.ask("0||1||alice||x||").await, "0||1||NAME_TAKEN||||");
    // Pipelined with a token that the connection has not seen: still in order.
    let mut sends = String::new();
    for n in 0..5 {
        writeln!(sends, "2||1||{alice}||Alice||bob||m{n}\\n\\p||-").unwrap();
    }
    client.send(sends).await;
    for _ in 0..5 {
        assert_eq!(client.reply().await, "2||1||");
    }
    for (line, reply) in [
        (format!("2||1||{alice}||bob||bob||x"), "2||1||TOKEN_INVALID"),
        (
            format!("2||1||{alice}||alice||eve||x"),
            "2||1||RECIPIENT_UNKNOWN",
        ),
        (
            format!("2||1||{alice}||alice||bob||"),
            "2||1||MESSAGE_EMPTY",
        ),
        (
            format!("2||1||{alice}||alice||bob||a\u{1e}[eve]: b"),
            "2||1||FIELD_INVALID",
        ),
        (format!("3||1||{alice}||alice||10||^b"), "3||1||||bob"),
        (format!("3||1||{alice}||alice||1||"), "3||1||||alice"),
        (format!("3||1||{alice}||alice||||"), "3||1||||alice,bob"),
        (
            format!("3||1||{alice}||alice||x||"),
            "3||1||FIELD_INVALID||",
        ),
        (
            format!("3||1||{alice}||alice||1||("),
            "3||1||PATTERN_INVALID||",
        ),
    ] {
        assert_eq!(client.ask(&line).await, reply, "{line}");
    }
    let refresh = format!("5||1||{bob}||bob");
    let text = |numbers: std::ops::Range<u32>| {
        let messages: Vec<_> = numbers.map(|n| format!("[alice]: m{n}\\n\\p")).collect();
        format!("5||1||{}||", messages.join("\u{1e}"))
    };
    assert_eq!(client.ask(&refresh).await, text(0..5));
    // A new connection gets again what was not acknowledged.
    let mut other = server.connect().await;
    assert_eq!(other.ask(&refresh).await, text(0..5));
    assert_eq!(other.ask(&refresh).await, "5||1||||");
    assert_eq!(client.ask(&refresh).await, "5||1||||");
    assert_eq!(client.ask(&format!("4||1||{bob}||bob")).await, "4||1||");
    assert_eq!(client.ask(&refresh).await, "5||1||||TOKEN_INVALID");
}

#[tokio::test]
async fn a_refresh_of_version_1_that_fails_to_acknowledge_loses_nothing() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = client.account("alice").await;
    client.ask(&format!("2||2||{token}||alice||hello")).await;
    let refresh = format!("5||1||{token}||alice");
    assert_eq!(client.ask(&refresh).await, "5||1||[alice]: hello||");
    server
        .fake
        .state()
        .faults
        .push_back(Fault::Refuse(WriteError::Overloaded));
    assert_eq!(client.ask(&refresh).await, "5||1||||OVERLOADED");
    assert_eq!(client.ask(&refresh).await, "5||1||||");
    let acknowledged = server
        .fake
        .state()
        .writes
        .iter()
        .filter(|write| matches!(write.operation, Operation::Acknowledge { .. }))
        .count();
    assert_eq!(acknowledged, 2, "refused once, then done, and never again");
}

#[tokio::test]
async fn nobody_forges_a_sender_in_a_batch_of_version_1() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = client.account("mallory").await;
    let forged = "hi\u{1e}[alice]: send money";
    client
        .ask(&format!("2||2||{token}||mallory||{forged}"))
        .await;
    let batch = client.ask(&format!("5||1||{token}||mallory")).await;
    assert_eq!(batch, "5||1||[mallory]: hi\u{241e}[alice]: send money||");
}

/// What somebody wrote must not reach the terminal of a person with `nc` as a command.
#[tokio::test]
async fn no_control_character_of_a_body_reaches_a_person_with_nc() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = client.account("mallory").await;
    let mut body = String::from("tab\t ");
    let mut shown = body.clone();
    for code in (0..0x20).chain(0x7f..0xa0) {
        let letter = char::from_u32(code).unwrap();
        let (written, read) = match letter {
            '\t' => continue,
            '\n' => ("\\n".to_owned(), "\\n".to_owned()),
            '\r' => ("\\r".to_owned(), "\\r".to_owned()),
            '\0'..='\u{1f}' => (
                format!("\\x{code:02x}"),
                char::from_u32(0x2400 + code).unwrap().to_string(),
            ),
            '\u{7f}' => ("\u{7f}".into(), "\u{2421}".into()),
            _ => (letter.to_string(), "\u{fffd}".into()),
        };
        body.push_str(&written);
        shown.push_str(&read);
    }
    let sent = client
        .ask(&format!("2||2||{token}||mallory||{body}||text/plain"))
        .await;
    assert!(sent.starts_with("2||2||||"), "{sent}");
    let batch = client.ask(&format!("5||1||{token}||mallory")).await;
    assert_eq!(batch, format!("5||1||[mallory]: {shown}||"));
    let batch = client.ask(&format!("5||2||{token}||0")).await;
    assert!(!batch.chars().any(char::is_control), "{batch:?}");
    assert!(batch.contains("\\x1b") && batch.contains("\\xc2\\x9b"));
}
