//! The `chat` command, as scripts use it.

use crate::cluster::{TestCluster, eventually, program, read_inbox};
use chat::client::Protocol;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Output, Stdio};

/// Runs `chat` with this standard input.
fn chat(home: &Path, servers: &str, arguments: &[&str], input: &str) -> Output {
    chat_over(Protocol::Grpc, home, servers, arguments, input)
}

fn chat_over(
    protocol: Protocol,
    home: &Path,
    servers: &str,
    arguments: &[&str],
    input: &str,
) -> Output {
    let mut child = start(protocol, home, servers, arguments);
    // A program that refuses at once does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn start(protocol: Protocol, home: &Path, servers: &str, arguments: &[&str]) -> Child {
    let protocol = match protocol {
        Protocol::Grpc => "grpc",
        Protocol::Wire => "wire",
    };
    program(env!("CARGO_BIN_EXE_chat"))
        .env("XDG_CONFIG_HOME", home)
        .args(["--protocol", protocol])
        .args(["--server", servers])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn succeeds(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn bodies(json_lines: &str) -> Vec<String> {
    json_lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|message| message["body"].as_str().unwrap().to_owned())
        .collect()
}

/// So many messages, the most part one process each, the others lines of one process.
const SCRIPT: usize = 1_000;
const SINGLE: usize = 400;

async fn a_script_delivers_1000_messages_once_and_in_order_while_replicas_are_killed(
    protocol: Protocol,
) {
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let bob = cluster.account("bob").await;
    let (home, servers) = (cluster.scratch().to_owned(), cluster.server_list());
    let run =
        |arguments: &[&str], input: &str| chat_over(protocol, &home, &servers, arguments, input);
    succeeds(run(&["create-account", "alice"], "secret\n"));
    let expected: Vec<String> = (0..SCRIPT)
        .map(|number| format!("message {number}"))
        .collect();
    let first = cluster.primary(&bob).await;
    let mut second = 0;
    for (number, text) in expected[..SINGLE].iter().enumerate() {
        match number {
            50 => cluster.kill(&[first]),
            150 => {
                cluster.spawn(first);
                // One of three may be away: it must be back before the next one goes.
                read_inbox(&cluster.reader_on(first, &bob)).await;
                second = cluster.primary(&bob).await;
                if second == first {
                    // Elected again meanwhile, on a machine that stood still.
                    second = first % 3 + 1;
                }
            }
            200 => cluster.kill(&[second]),
            300 => {
                cluster.spawn(second);
                read_inbox(&cluster.reader_on(second, &bob)).await;
            }
            _ => {}
        }
        succeeds(run(&["send", "bob", text], ""));
    }
    // And as one process that reads lines, in the middle of which the last replica goes.
    let third = 6 - first - second;
    let mut lines = start(protocol, &home, &servers, &["send", "bob", "--lines"]);
    let mut input = lines.stdin.take().unwrap();
    let half = SINGLE + (SCRIPT - SINGLE) / 2;
    writeln!(input, "{}", expected[SINGLE..half].join("\n")).unwrap();
    eventually("some of the lines", async || {
        let some = read_inbox(&bob).await.len() > SINGLE;
        some.then_some(()).ok_or("none yet")
    })
    .await;
    cluster.kill(&[third]);
    writeln!(input, "{}", expected[half..].join("\n")).unwrap();
    drop(input);
    succeeds(lines.wait_with_output().unwrap());
    cluster.spawn(third);
    let inbox = read_inbox(&bob).await;
    let heard: Vec<String> = inbox
        .iter()
        .map(|message| String::from_utf8(message.body.to_vec()).unwrap())
        .collect();
    assert_eq!(heard, expected);
    assert_eq!(heard.len(), SCRIPT);
    cluster.finish(&bob).await;
}

async fn what_a_person_does_in_a_day(protocol: Protocol) {
    let cluster = TestCluster::start_on(protocol, 1, &[]).await;
    let (home, servers) = (cluster.scratch().to_owned(), cluster.server_list());
    let run =
        |arguments: &[&str], input: &str| chat_over(protocol, &home, &servers, arguments, input);
    let create = [
        "create-account",
        "alice",
        "--full-name",
        "Alice A.",
        "--device",
        "desk",
    ];
    let shown = succeeds(run(&create, "one\n"));
    assert_eq!(shown, "alice (Alice A.), device desk\n");
    succeeds(run(&["-p", "bob", "create-account", "bob"], "two\n"));
    succeeds(run(&["-p", "bob", "send", "alice", "hello"], ""));
    succeeds(run(
        &["-p", "bob", "send", "alice"],
        "from a pipe\nwith two lines\n",
    ));

    let listen = ["-o", "json", "listen", "--count", "2", "--timeout", "20"];
    let heard = bodies(&succeeds(run(&listen, "")));
    assert_eq!(heard, ["hello", "from a pipe\nwith two lines"]);
    // Nothing was acknowledged: it comes again, and then no more.
    let mut acking = listen.to_vec();
    acking.push("--ack");
    assert_eq!(bodies(&succeeds(run(&acking, ""))).len(), 2);
    let quiet = run(&["listen", "--count", "1", "--timeout", "0.5"], "");
    assert_eq!(quiet.status.code(), Some(3), "nothing is waiting");

    assert_eq!(succeeds(run(&["list"], "")), "alice\nbob\n");
    assert_eq!(succeeds(run(&["list", "^b"], "")), "bob\n");
    let sessions = succeeds(run(&["-o", "json", "sessions"], ""));
    assert_eq!(sessions.lines().count(), 1);
    succeeds(run(
        &["-p", "phone", "login", "alice", "--device", "phone"],
        "one\n",
    ));
    succeeds(run(&["change-password"], "one\nthree\n"));
    let ended = run(&["-p", "phone", "whoami"], "");
    assert_eq!(ended.status.code(), Some(4), "the other login ended");
    succeeds(run(&["logout"], ""));
    assert_eq!(run(&["whoami"], "").status.code(), Some(4));
    assert_eq!(run(&["login", "alice"], "one\n").status.code(), Some(1));
    succeeds(run(&["login", "alice"], "three\n"));
    assert_eq!(run(&["delete-account"], "wrong\n").status.code(), Some(1));
    succeeds(run(&["delete-account"], "three\n"));
    assert_eq!(succeeds(run(&["-p", "bob", "list"], "")), "bob\n");
    cluster.verify();
}

#[test]
fn exit_codes_without_a_server() {
    let home = tempfile::tempdir().unwrap();
    // Port 1 is reserved, and nobody listens there.
    let run = |arguments: &[&str]| chat(home.path(), "127.0.0.1:1", arguments, "secret\n");
    assert_eq!(run(&["whoami"]).status.code(), Some(4));
    assert_eq!(run(&["send"]).status.code(), Some(2));
    assert_eq!(
        run(&["send", "bob", "text", "--lines"]).status.code(),
        Some(2)
    );
    let gone = run(&["-o", "json", "--deadline", "0.5", "login", "alice"]);
    assert_eq!(gone.status.code(), Some(3));
    let error: Value = serde_json::from_slice(&gone.stderr).unwrap();
    assert_eq!(error["error"], "NOT_APPLIED");
}

#[test]
fn without_a_command_and_without_a_terminal_it_says_so() {
    let home = tempfile::tempdir().unwrap();
    let output = chat(home.path(), "127.0.0.1:1", &[], "");
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("there is no terminal here"), "{errors}");
}

#[test]
fn completions_and_the_manual_page_name_every_command() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| succeeds(chat(home.path(), "127.0.0.1:1", arguments, ""));
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        assert!(
            script.contains("create-account") && script.contains("profile"),
            "{shell}"
        );
    }
    let page = run(&["man"]);
    assert!(
        page.contains(".TH chat 1") && page.contains("create\\-account"),
        "{page}"
    );
}

crate::over_both! {
    a_script_delivers_1000_messages_once_and_in_order_while_replicas_are_killed,
    what_a_person_does_in_a_day,
}
