//! The full-screen client in a real terminal, which `tmux` provides, against real replicas.
//!
//! Without tmux these tests are skipped, as `tests/skips` says: `.ci/run` installs it.

use crate::cluster::{PATIENCE, TestCluster, eventually, program, read_inbox};
use crate::wire::Lines;
use chat::client::{Client, Protocol};
use std::path::PathBuf;
use std::process::{Command, Output};

/// Whether there is a tmux to test with.
fn has_tmux() -> bool {
    let version = Command::new("tmux").arg("-V").output();
    let there = version.is_ok_and(|output| output.status.success());
    if !there {
        crate::skips::skip("tmux", "there is no tmux");
    }
    there
}

/// Somebody in front of a terminal.
struct Person {
    name: &'static str,
    socket: PathBuf,
    flags: &'static str,
}

impl Person {
    /// Opens a terminal of this size with `chat` in it.
    fn sit_down(cluster: &TestCluster, name: &'static str, rows: u16) -> Self {
        let socket = cluster.scratch().join(format!("{name}.tmux"));
        let person = Self {
            name,
            socket,
            flags: "",
        };
        let rows = rows.to_string();
        let new = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "main",
            "-x",
            "80",
            "-y",
            &rows,
        ];
        person.does(&[&new[..], &[&person.command(cluster)]].concat());
        person
    }

    /// Starts `chat` again in the same terminal.
    fn start_again(&self, cluster: &TestCluster) {
        self.does(&["respawn-pane", "-k", "-t", "main", &self.command(cluster)]);
    }

    /// `chat`, and when it has ended how, and whether the terminal shows what is typed.
    fn command(&self, cluster: &TestCluster) -> String {
        let home = cluster.scratch().display();
        let chat = env!("CARGO_BIN_EXE_chat");
        let servers = cluster.server_list();
        let protocol = match cluster.protocol() {
            Protocol::Grpc => "grpc",
            Protocol::Wire => "wire",
        };
        format!(
            "env HOME={home} XDG_CONFIG_HOME={home}/config XDG_DATA_HOME={home}/data TZ=UTC0 \
             LANG=C.UTF-8 {chat} --protocol {protocol} --server {servers} --profile {name} {flags}; \
             echo ended with $?; stty -a | tr ' ' '\n' | grep -x -e '-*echo'; exec sleep 600",
            name = self.name,
            flags = self.flags
        )
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program("tmux");
        command
            .env_remove("TMUX")
            .arg("-u")
            .arg("-S")
            .arg(&self.socket);
        command.args(arguments).output().unwrap()
    }

    fn does(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {errors}");
    }

    /// Presses these keys, by tmux's names.
    fn press(&self, keys: &[&str]) {
        self.does(&[&["send-keys", "-t", "main"], keys].concat());
    }

    fn write(&self, text: &str) {
        self.press(&["-l", text]);
    }

    fn say(&self, text: &str) {
        self.write(text);
        self.press(&["Enter"]);
    }

    /// What is on the screen.
    fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p", "-t", "main"]);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until all of this is on the screen.
    async fn sees(&self, wanted: &[&str]) {
        let what = format!("{wanted:?} on the screen of {}", self.name);
        eventually(&what, async || {
            let screen = self.screen();
            match wanted.iter().find(|text| !screen.contains(**text)) {
                None => Ok(()),
                Some(missing) => Err(format!("no {missing:?} in\n{screen}")),
            }
        })
        .await;
    }

    /// The whole conversation, page by page from its beginning; the last one is the end of it.
    async fn pages(&self) -> Vec<String> {
        self.press(&["C-Home"]);
        let mut pages = Vec::new();
        loop {
            // What a key does is on the screen a moment later, or was the last page.
            let page = eventually("another page", async || {
                let page = self.screen();
                match pages.last() {
                    Some(last) if *last == page => Err("the same"),
                    None if !Self::is_first_page(&page) => Err("not the first"),
                    _ => Ok(page),
                }
            })
            .await;
            let is_last = !page.contains("below (Esc)");
            pages.push(page);
            if is_last {
                return pages;
            }
            self.press(&["PageDown"]);
        }
    }

    /// The first page begins with the day.
    fn is_first_page(page: &str) -> bool {
        let second = page.lines().nth(1);
        second.is_some_and(|line| line.contains("── "))
    }

    /// Makes an account in the form.
    async fn sign_up(&self) {
        self.sees(&["chat: log in"]).await;
        self.press(&["C-t"]);
        for (field, text) in [
            ("Name", self.name),
            ("Password", "secret"),
            ("again", "secret"),
        ] {
            self.sees(&[field]).await;
            self.write(text);
            self.press(&["Tab"]);
        }
        self.press(&["Enter", "Enter"]);
        self.sees(&["No conversations yet", "replica 127.0.0.1", " ms"])
            .await;
    }

    /// The process that runs in the terminal: the child of tmux's shell.
    fn signal(&self, signal: &str) {
        let output = self.run(&["display-message", "-p", "-t", "main", "#{pane_pid}"]);
        let shell = String::from_utf8(output.stdout).unwrap();
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        let kill = format!("kill -{signal} {}", children.unwrap().trim());
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.run(&["kill-server"]);
    }
}

/// Everything in somebody's inbox.
async fn inbox_of(cluster: &TestCluster, name: &str) -> Vec<String> {
    let client = Client::login(&cluster.handle(PATIENCE), name, "secret", "reader").await;
    let inbox = read_inbox(&client.unwrap()).await;
    let texts = inbox
        .iter()
        .map(|message| String::from_utf8(message.body.to_vec()));
    texts.map(Result::unwrap).collect()
}

async fn two_people_talk_while_the_primary_is_killed_and_nothing_is_lost_or_doubled(
    protocol: Protocol,
) {
    two_people_talk(protocol, 24).await;
}

async fn two_people_talk_so_on_a_screen_that_shows_all_of_it(protocol: Protocol) {
    two_people_talk(protocol, 120).await;
}

async fn two_people_talk(protocol: Protocol, rows: u16) {
    if !has_tmux() {
        return;
    }
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let watcher = cluster.account("watcher").await;
    let alice = Person::sit_down(&cluster, "alice", rows);
    let bob = Person::sit_down(&cluster, "bob", rows);
    alice.sign_up().await;
    bob.sign_up().await;
    alice.say("/msg bob hello, bob");
    bob.sees(&["hello, bob"]).await;
    bob.say("hello, alice");
    alice.sees(&["✓✓ hello, bob", "hello, alice"]).await;

    let primary = cluster.primary(&watcher).await;
    let mut said = (
        vec!["hello, bob".to_owned()],
        vec!["hello, alice".to_owned()],
    );
    for number in 1..=12 {
        if number == 4 {
            alice.write("half a sentence");
            cluster.kill(&[primary]);
            // What was typed when the primary died is still there, and goes on.
            alice.say(", and the rest");
            said.0.push("half a sentence, and the rest".into());
        }
        if number == 9 {
            cluster.spawn(primary);
        }
        said.0.push(format!("from alice, number {number:02}"));
        alice.say(said.0.last().unwrap());
        said.1.push(format!("from bob, number {number:02}"));
        bob.say(said.1.last().unwrap());
    }
    // Each sees the mark of the other's receipt beside the last thing said, and all before it.
    let delivered = |text: &String| format!("✓✓ {text}");
    alice
        .sees(&[&delivered(said.0.last().unwrap()), said.1.last().unwrap()])
        .await;
    bob.sees(&[&delivered(said.1.last().unwrap()), said.0.last().unwrap()])
        .await;
    for person in [&alice, &bob] {
        let pages = person.pages().await;
        for text in said.0.iter().chain(&said.1) {
            let counts = pages.iter().map(|page| page.matches(text.as_str()).count());
            assert_eq!(counts.max(), Some(1), "{text:?} in\n{}", pages.join("\n"));
        }
        // Neither waits for anything any more.
        let waits = pages.iter().find(|page| page.contains(['…', '✗']));
        assert_eq!(waits, None);
    }
    assert_eq!(inbox_of(&cluster, "bob").await, said.0);
    assert_eq!(inbox_of(&cluster, "alice").await, said.1);

    // It is all there after a restart, and the draft as well.
    alice.write("not sent yet");
    alice.sees(&["not sent yet"]).await;
    alice.signal("TERM");
    alice.sees(&["ended with 0", "\necho"]).await;
    alice.start_again(&cluster);
    alice.sees(&["from bob, number 12", "not sent yet"]).await;
    let pages = alice.pages().await;
    assert!(pages[0].contains("✓✓ hello, bob"), "{}", pages[0]);
    drop((alice, bob));
    cluster.finish(&watcher).await;
}

/// A client of version 1 and no library on one side, the full screen on the other.
async fn a_person_with_nc_and_one_at_the_full_screen_talk_while_the_primary_is_killed(
    protocol: Protocol,
) {
    if !has_tmux() {
        return;
    }
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let watcher = cluster.account("watcher").await;
    let primary = cluster.primary(&watcher).await;
    // It sits at a replica that stays; the other's client has to find one.
    let mut bob = Lines::connect(cluster.wire_addr(primary % 3 + 1)).await;
    let token = bob.ask("0||1||bob||secret||Bob").await[3].clone();
    let alice = Person::sit_down(&cluster, "alice", 24);
    alice.sign_up().await;
    let (mut heard, mut doubled) = (String::new(), Vec::new());
    for number in 1..=9 {
        match number {
            4 => cluster.kill(&[primary]),
            7 => cluster.spawn(primary),
            _ => {}
        }
        let ping = format!("ping {number}");
        alice.say(&match number {
            1 => format!("/msg bob {ping}"),
            _ => ping.clone(),
        });
        while !heard.ends_with(&ping) {
            let batch = bob.ask(&format!("5||1||{token}||bob")).await;
            heard.push_str(&batch[2]);
        }
        let pong = format!("pong {number}");
        loop {
            let send = format!("2||1||{token}||bob||alice||{pong}");
            match bob.ask(&send).await[2].as_str() {
                "" => break,
                "NOT_APPLIED" | "UNAVAILABLE" => {}
                // Version 1 has no request ids: one who tries again may say it twice.
                "OUTCOME_UNKNOWN" => doubled.push(pong.clone()),
                other => panic!("{other}"),
            }
        }
        alice.sees(&[&pong]).await;
    }
    // The next refresh acknowledges what the last one brought.
    assert_eq!(bob.ask(&format!("5||1||{token}||bob")).await[2], "");
    alice.sees(&["✓✓ ping 9", "pong 9"]).await;
    let pings: Vec<String> = (1..=9).map(|n| format!("[alice]: ping {n}")).collect();
    assert_eq!(heard, pings.concat());
    let mut pongs = inbox_of(&cluster, "alice").await;
    pongs.dedup_by(|later, earlier| later == earlier && doubled.contains(later));
    let expected: Vec<String> = (1..=9).map(|n| format!("pong {n}")).collect();
    assert_eq!(pongs, expected);
    drop(alice);
    cluster.finish(&watcher).await;
}

/// Longer than the deadline: what was written goes out by itself, in its order, when it can.
async fn what_is_written_without_a_majority_is_sent_when_there_is_one(protocol: Protocol) {
    if !has_tmux() {
        return;
    }
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let watcher = cluster.account("bob").await;
    let mut alice = Person::sit_down(&cluster, "alice", 24);
    alice.sign_up().await;
    alice.press(&["C-q"]);
    alice.sees(&["ended with 0"]).await;
    // Only now: on a busy machine the account itself takes longer.
    alice.flags = "--deadline 1";
    alice.start_again(&cluster);
    alice
        .sees(&["No conversations yet", "replica 127.0.0.1"])
        .await;
    alice.say("/msg bob before");
    alice.sees(&["✓  before"]).await;
    cluster.kill(&[1, 2, 3]);
    alice.say("first");
    alice.say("second");
    alice
        .sees(&["…  first", "it goes out by itself", "2 on the way"])
        .await;
    alice.say("third");
    alice.sees(&["…  third", "3 on the way"]).await;
    for id in 1..=3 {
        cluster.spawn(id);
    }
    alice.sees(&["✓  first", "✓  second", "✓  third"]).await;
    let inbox = read_inbox(&watcher).await;
    let bodies: Vec<&[u8]> = inbox.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [&b"before"[..], b"first", b"second", b"third"]);
}

async fn without_a_majority_a_message_waits_and_a_client_that_dies_sends_it_once_later(
    protocol: Protocol,
) {
    if !has_tmux() {
        return;
    }
    let mut cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let watcher = cluster.account("bob").await;
    let alice = Person::sit_down(&cluster, "alice", 24);
    alice.sign_up().await;
    alice.say("/msg bob before");
    alice.sees(&["✓  before"]).await;
    cluster.kill(&[1, 2, 3]);
    alice.say("meanwhile");
    alice
        .sees(&["…  meanwhile", "reconnecting, for", "1 on the way"])
        .await;
    // Not even the time to say goodbye.
    alice.signal("KILL");
    alice.sees(&["ended with 137"]).await;
    alice.start_again(&cluster);
    alice.sees(&["✓  before", "…  meanwhile"]).await;
    for id in 1..=3 {
        cluster.spawn(id);
    }
    alice.sees(&["✓  meanwhile", "replica 127.0.0.1"]).await;
    alice.press(&["C-q"]);
    alice.sees(&["ended with 0", "\necho"]).await;
    let inbox = read_inbox(&watcher).await;
    let bodies: Vec<&[u8]> = inbox.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [&b"before"[..], b"meanwhile"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_drawn_anew_and_given_back_after_any_signal() {
    if !has_tmux() {
        return;
    }
    let cluster = TestCluster::start(1).await;
    let alice = Person::sit_down(&cluster, "alice", 24);
    alice.sign_up().await;
    // Something else has written all over it.
    alice.does(&["send-keys", "-R", "-t", "main"]);
    assert!(!alice.screen().contains("No conversations yet"));
    alice.press(&["C-l"]);
    alice
        .sees(&["No conversations yet", "alice · replica"])
        .await;
    // Stopped from outside, and going on.
    alice.signal("STOP");
    alice.does(&["send-keys", "-R", "-t", "main"]);
    alice.signal("CONT");
    alice
        .sees(&["No conversations yet", "alice · replica"])
        .await;
    for (signal, again) in [("HUP", true), ("TERM", true), ("INT", false)] {
        alice.signal(signal);
        alice.sees(&["ended with 0", "\necho"]).await;
        if again {
            alice.start_again(&cluster);
            alice.sees(&["No conversations yet"]).await;
        }
    }
}

async fn a_logout_is_no_error_and_leaves_no_login_behind(protocol: Protocol) {
    if !has_tmux() {
        return;
    }
    let cluster = TestCluster::start_on(protocol, 3, &[]).await;
    let alice = Person::sit_down(&cluster, "alice", 24);
    let login = cluster.scratch().join("config/chat/alice.json");
    alice.sign_up().await;
    // The end of the login is told by several tasks; which is first differs from time to time.
    for _ in 0..5 {
        assert!(login.exists());
        alice.say("/logout");
        alice.sees(&["chat: log in", "logged out"]).await;
        let screen = alice.screen();
        assert!(!screen.contains("the login has ended"), "{screen}");
        eventually("no login in the profile", async || {
            if login.exists() {
                return Err("it is there");
            }
            Ok(())
        })
        .await;
        alice.write("alice");
        alice.press(&["Tab"]);
        alice.write("secret");
        alice.press(&["Enter", "Enter"]);
        alice
            .sees(&["No conversations yet", "replica 127.0.0.1", " ms"])
            .await;
    }
}

async fn a_receipt_that_came_while_the_sender_was_away_is_shown(protocol: Protocol) {
    if !has_tmux() {
        return;
    }
    let cluster = TestCluster::start_on(protocol, 1, &[]).await;
    let bob = cluster.account("bob").await;
    let alice = Person::sit_down(&cluster, "alice", 24);
    alice.sign_up().await;
    alice.say("/msg bob are you there?");
    alice.sees(&["✓  are you there?"]).await;
    alice.press(&["C-q"]);
    alice.sees(&["ended with 0"]).await;
    bob.ack(1).await.unwrap();
    alice.start_again(&cluster);
    alice.sees(&["✓✓ are you there?"]).await;
}

crate::over_both! {
    a_receipt_that_came_while_the_sender_was_away_is_shown,
    what_is_written_without_a_majority_is_sent_when_there_is_one,
    a_logout_is_no_error_and_leaves_no_login_behind,
    two_people_talk_while_the_primary_is_killed_and_nothing_is_lost_or_doubled,
    two_people_talk_so_on_a_screen_that_shows_all_of_it,
    a_person_with_nc_and_one_at_the_full_screen_talk_while_the_primary_is_killed,
    without_a_majority_a_message_waits_and_a_client_that_dies_sends_it_once_later,
}
