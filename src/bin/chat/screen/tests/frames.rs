//! What is drawn.

use super::*;
use crate::screen::form::Field;
use insta::assert_snapshot;

/// Two people who talk, with everything that a message can be.
fn talk(columns: u16, rows: u16) -> Stage {
    let mut stage = Stage::logged_in(columns, rows);
    stage.pass(0);
    let start = stage.now_us;
    stage.now_us = start - 24 * 60 * MINUTE;
    stage.hear("bob", 1, "Are you coming tomorrow?");
    stage.now_us = start;
    stage.say("Yes! Where do we meet?");
    stage.accept(15);
    stage.event(Event::Delivered("bob".into(), 15));
    stage.pass(MINUTE);
    stage.hear(
        "bob",
        2,
        "At the station: https://example.org/map?place=station&zoom=12 (日本語でもいいよ 👍)\nBring\ta map.",
    );
    stage.hear("carol", 3, "hello");
    stage.hear("carol", 4, "are you there?");
    stage.say("On my way");
    stage.accept(50);
    stage.say("Where are you?");
    stage.say("bob?");
    let last = stage.last_key();
    let why = "too long ago: nobody can tell any more whether it was sent";
    stage.event(Event::Sent(last, Err(Unsent::Refused(why.into()))));
    stage.app.notice = None;
    stage
}

#[test]
fn a_conversation() {
    assert_snapshot!(talk(80, 24).frame());
}

#[test]
fn a_conversation_on_a_wide_screen() {
    assert_snapshot!(talk(120, 30).frame());
}

#[test]
fn a_conversation_on_a_narrow_screen() {
    assert_snapshot!(talk(44, 16).frame());
}

#[test]
fn a_conversation_without_unicode() {
    let mut stage = talk(80, 24);
    stage.app.look.unicode = false;
    assert_snapshot!(stage.frame());
}

#[test]
fn too_small_a_window() {
    assert_snapshot!(talk(30, 5).frame());
}

#[test]
fn no_size_is_too_strange() {
    let mut stage = talk(80, 24);
    stage.control('f');
    for (columns, rows) in [
        (0, 0),
        (1, 1),
        (36, 8),
        (37, 9),
        (64, 8),
        (300, 100),
        (500, 9),
    ] {
        stage.event(Event::Resize(columns, rows));
        stage.frame();
        for overlay in [Some(Overlay::Help(30)), None] {
            stage.app.overlay = overlay;
            stage.frame();
            stage.key(KeyCode::PageUp);
            stage.frame();
        }
    }
}

#[test]
fn the_first_screen() {
    assert_snapshot!(Stage::new(80, 24).frame());
}

#[test]
fn a_new_account_with_a_mistake() {
    let mut stage = Stage::new(80, 24);
    stage.control('t');
    stage.write("alice");
    stage.key(KeyCode::Tab);
    stage.write("secret");
    stage.key(KeyCode::Tab);
    stage.write("secrets");
    stage.key(KeyCode::Enter);
    assert_snapshot!(stage.frame());
}

/// Every field, a row of what is said and one of hints, on the smallest windows that there are.
#[test]
fn small_forms() {
    let mut frames = Vec::new();
    for (columns, rows) in [(36, 8), (40, 10), (64, 14)] {
        let mut stage = Stage::new(columns, rows);
        stage.app.servers =
            "10.0.0.1:7400, 10.0.0.2:7400, 10.0.0.3:7400 over the wire protocol".into();
        frames.push(stage.frame());
        stage.control('t');
        stage.write("alice");
        stage.key(KeyCode::Tab);
        stage.event(Event::SignInFailed(Refused {
            why: "somebody has this name already, and will not give it up".into(),
            about: Some(Field::Name),
        }));
        frames.push(stage.frame());
        let labels = [
            "Name",
            "Password",
            "again",
            "Full name",
            "Device",
            "somebody",
            "Enter",
        ];
        for label in labels {
            assert!(
                stage.frame().contains(label),
                "{label} in\n{}",
                stage.frame()
            );
        }
    }
    assert_snapshot!(frames.join("\n"));
}

#[test]
fn servers_that_do_not_answer_are_named() {
    let mut stage = Stage::new(80, 24);
    stage.app.servers = "10.0.0.1:7400, 10.0.0.2:7400, 10.0.0.3:7400 over the wire protocol".into();
    stage.write("alice");
    stage.key(KeyCode::Tab);
    stage.write("secret");
    stage.key(KeyCode::Enter);
    stage.pass(12_000_000);
    stage.event(Event::Tick);
    assert_snapshot!(stage.frame());
}

#[test]
fn a_search_that_fails_says_all_of_why() {
    let mut stage = talk(80, 24);
    stage.control('f');
    stage.write("(");
    for pattern in ["", "("] {
        let asked = Asked {
            pattern: pattern.into(),
            page_token: String::new(),
            purpose: Purpose::Search,
        };
        let why = "the pattern is not a regular expression that this server accepts: a group was \
                   opened and not closed";
        stage.event(Event::Names(asked, Err(why.into())));
    }
    assert_snapshot!(stage.frame());
}

#[test]
fn nothing_yet() {
    assert_snapshot!(Stage::logged_in(80, 24).frame());
}

#[test]
fn help() {
    let mut stage = Stage::logged_in(80, 46);
    stage.key(KeyCode::F(1));
    let frame = stage.frame();
    let cut = frame.lines().find(|line| line.contains("… │"));
    assert_eq!(cut, None, "no line is too long");
    assert_snapshot!(frame);
}

#[test]
fn a_search() {
    let mut stage = talk(80, 24);
    stage.control('f');
    stage.write("^b");
    for pattern in ["", "^b"] {
        let usernames = ["barbara", "bert", "bob"].map(String::from).to_vec();
        let page = Page {
            usernames,
            next_page_token: String::new(),
        };
        let asked = Asked {
            pattern: pattern.into(),
            page_token: String::new(),
            purpose: Purpose::Search,
        };
        stage.event(Event::Names(asked, Ok(page)));
    }
    stage.key(KeyCode::Down);
    assert_snapshot!(stage.frame());
}

#[test]
fn profiles() {
    let mut stage = talk(80, 24);
    stage.event(Event::Profiles(vec![
        Profiled {
            name: "default".into(),
            account: Some("alice".into()),
        },
        Profiled {
            name: "work".into(),
            account: None,
        },
    ]));
    assert_snapshot!(stage.frame());
}

#[test]
fn a_lost_connection_and_several_lines() {
    let mut stage = talk(80, 24);
    let since_us = stage.now_us;
    stage.event(Event::Link(Link::Down { since_us }));
    stage.event(Event::Paste(
        "first line\r\nsecond line\nthird: 日本語".into(),
    ));
    stage.pass(7_000_000);
    stage.event(Event::Tick);
    assert_snapshot!(stage.frame());
}

#[test]
fn scrolled_back() {
    let mut stage = Stage::logged_in(80, 16);
    for seq in 1..=200 {
        stage.pass(MINUTE / 2);
        stage.hear("bob", seq, &format!("message {seq}"));
    }
    stage.key(KeyCode::PageUp);
    assert_snapshot!(stage.frame());
}

/// The open one must not go because the count of the others needs its row.
#[test]
fn thirty_conversations() {
    let mut stage = Stage::logged_in(80, 24);
    for seq in 1..=30 {
        stage.hear(&format!("peer-{seq:02}"), seq, "hello");
    }
    let mut frames = Vec::new();
    for steps in [0, 12, 12, 5] {
        for _ in 0..steps {
            stage.control('n');
        }
        let open = stage.app.open.clone().unwrap();
        let buffer = stage.buffer();
        let bar = |y: &u16| buffer[(1, *y)].modifier.contains(Modifier::REVERSED);
        let rows: Vec<u16> = (1..21).filter(bar).collect();
        assert_eq!(rows.len(), 1, "{}", stage.frame());
        // A click goes where one sees it.
        for y in 1..21 {
            let row: String = (0..20).map(|x| buffer[(x, y)].symbol()).collect();
            let peer = view::peer_at(&stage.app, 3, y);
            match peer {
                Some(peer) => assert!(row.contains(&peer), "{row:?} is not {peer}"),
                None => assert!(!row.contains("peer-"), "{row:?} is nobody"),
            }
        }
        assert_eq!(view::peer_at(&stage.app, 3, rows[0]), Some(open));
        frames.push(stage.frame());
    }
    assert_snapshot!(frames.join("\n"));
}

/// As long as they may be: none is cut where there are 80 columns.
#[test]
fn long_names() {
    let mut stage = Stage::logged_in(80, 12);
    let name = "a-name-of-thirty-two-letters-all";
    assert_eq!(name.len(), chat::limits::USER_NAME_MAX);
    stage.hear("bob", 1, "hello");
    stage.say("/msg bob");
    for seq in 2..14 {
        stage.hear(name, seq, "hello");
    }
    let frame = stage.frame();
    assert!(frame.contains(&format!(" {name} 12 ")), "{frame}");
    stage.control('g');
    stage.key(KeyCode::PageUp);
    assert_snapshot!(stage.frame());
    stage.event(Event::Resize(64, 12));
    assert!(
        stage.frame().contains(" a-name-of-thirty-two-letters…"),
        "{}",
        stage.frame()
    );
}

#[test]
fn a_thousand_unread() {
    let mut stage = Stage::logged_in(80, 12);
    stage.say("/msg bob");
    for seq in 1..=1_000 {
        stage.hear("carol", seq, "hello");
    }
    assert_snapshot!(stage.frame());
    stage.event(Event::Resize(64, 12));
    assert!(stage.frame().contains(" Unread: 999+     │"));
}

#[test]
fn escape_sequences_are_shown_and_not_obeyed() {
    let mut stage = Stage::logged_in(80, 12);
    stage.hear(
        "bob",
        1,
        "\u{1b}[2J\u{1b}]0;title\u{7}red\u{9b}31m \u{202e}turned\u{202c} a\rb\u{8}",
    );
    stage.event(Event::Trouble("what \u{1b}[31m says\nmore".into()));
    assert_snapshot!(stage.frame());
    let buffer = stage.buffer();
    let raw = |cell: &&ratatui::buffer::Cell| cell.symbol().chars().any(char::is_control);
    assert_eq!(buffer.content.iter().find(raw), None);
}

#[test]
fn links_are_underlined_and_nothing_is_said_by_colour_alone() {
    let mut stage = talk(80, 24);
    let underlined = |buffer: &Buffer| -> String {
        let cells = buffer.content.iter();
        let cells = cells.filter(|cell| cell.modifier.contains(Modifier::UNDERLINED));
        cells.map(ratatui::buffer::Cell::symbol).collect()
    };
    let coloured = |buffer: &Buffer| buffer.content.iter().any(|cell| cell.fg != Color::Reset);
    let buffer = stage.buffer();
    assert_eq!(
        underlined(&buffer),
        "https://example.org/map?place=station&zoom=12"
    );
    assert!(coloured(&buffer));
    let with_colour = stage.frame();
    stage.app.look.colour = false;
    let buffer = stage.buffer();
    assert!(!coloured(&buffer));
    assert_eq!(stage.frame(), with_colour);
}

#[test]
fn of_a_hundred_thousand_messages_only_those_on_the_screen_are_laid_out() {
    let mut stage = Stage::logged_in(80, 24);
    let mut records = Vec::new();
    for seq in 1..=100_000_u64 {
        records.push(Record::received(&message(
            "bob",
            seq,
            NOW + seq * 1_000,
            "some words",
        )));
    }
    stage.event(Event::History(records));
    stage.event(Event::HistoryLoaded { writable: true });
    let count = |stage: &mut Stage, act: &mut dyn FnMut(&mut Stage)| {
        let before = crate::screen::layout::laid_out();
        act(stage);
        stage.frame();
        crate::screen::layout::laid_out() - before
    };
    assert!(count(&mut stage, &mut |_| {}) <= 25);
    assert!(
        count(&mut stage, &mut |stage| stage
            .hear("bob", 100_001, "one more"))
            <= 25
    );
    assert!(count(&mut stage, &mut |stage| stage.key(KeyCode::PageUp)) <= 100);
    let home = KeyEvent::new(KeyCode::Home, KeyModifiers::CONTROL);
    assert!(count(&mut stage, &mut |stage| stage.event(Event::Key(home))) <= 100);
    assert!(count(&mut stage, &mut |stage| stage.event(Event::Resize(60, 20))) <= 100);
    assert!(stage.frame().contains("some words"));
}
