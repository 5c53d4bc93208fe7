//! What an event changes, and what is done about it.

use super::*;
use crate::screen::form::Field;

pub fn states(stage: &Stage) -> Vec<(String, State)> {
    let talk = stage.app.talk().expect("a conversation is open");
    let messages = talk.messages().iter();
    messages
        .map(|m| (m.body.clone(), m.state.clone()))
        .collect()
}

#[test]
fn a_login_is_taken_into_use_and_the_inbox_is_read_from_where_the_history_ends() {
    let mut stage = Stage::new(80, 24);
    stage.event(Event::Resumed(session()));
    assert!(stage.has(|e| matches!(e, Effect::Open { new: false, .. })));
    stage.event(Event::History(vec![Record::received(&message(
        "bob", 7, NOW, "old",
    ))]));
    stage.up("127.0.0.1:7401", 1_000);
    stage.event(Event::HistoryLoaded { writable: true });
    // Whose history it is must be known first.
    assert!(!stage.has(|e| matches!(e, Effect::Listen(_))));
    stage.event(Event::Account(account()));
    let owner = Owner {
        user_id: 4,
        created_us: 5,
    };
    assert!(stage.has(|e| matches!(e, Effect::Identify(whose) if *whose == owner)));
    stage.event(Event::HistoryReady { emptied: false });
    assert!(stage.has(|e| matches!(e, Effect::Listen(Some(7)))));
    assert_eq!(stage.app.open.as_deref(), Some("bob"));
}

#[test]
fn the_history_of_another_account_of_this_name_is_forgotten() {
    let mut stage = Stage::new(80, 24);
    stage.event(Event::Resumed(session()));
    stage.event(Event::History(vec![Record::received(&message(
        "bob", 7, NOW, "old",
    ))]));
    stage.event(Event::HistoryLoaded { writable: true });
    stage.event(Event::Account(account()));
    stage.event(Event::HistoryReady { emptied: true });
    assert!(stage.has(|e| matches!(e, Effect::Listen(Some(0)))));
    assert!(stage.app.talks.is_empty());
}

#[test]
fn a_message_is_kept_before_it_is_acknowledged() {
    let mut stage = Stage::logged_in(80, 24);
    stage.hear("bob", 1, "hello");
    let kept = stage
        .effects
        .iter()
        .position(|e| matches!(e, Effect::Keep(Record::In { .. })));
    let acknowledged = stage
        .effects
        .iter()
        .position(|e| matches!(e, Effect::Ack(1)));
    assert!(kept.is_some() && kept < acknowledged);
    // A client that keeps nothing acknowledges nothing.
    let mut stage = Stage::logged_in(80, 24);
    stage.event(Event::HistoryLoaded { writable: false });
    stage.hear("bob", 1, "hello");
    assert!(!stage.has(|e| matches!(e, Effect::Ack(_))));
}

#[test]
fn unread_messages_are_counted_until_they_are_seen() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob hello");
    stage.hear("carol", 1, "one");
    stage.hear("carol", 2, "two");
    stage.hear("bob", 3, "three");
    assert_eq!(
        (stage.app.unread(), stage.app.talks["carol"].unread),
        (2, 2)
    );
    // Those with news come first.
    assert_eq!(stage.app.order, ["bob", "carol"]);
    stage.control('g');
    assert_eq!(stage.app.open.as_deref(), Some("carol"));
    assert_eq!(stage.app.unread(), 0);
    assert!(stage.has(|e| matches!(e, Effect::Keep(Record::Read { id: 20, .. }))));
    // Above the end, what comes is not seen.
    for seq in 4..60 {
        stage.hear("carol", seq, "more");
    }
    stage.key(KeyCode::PageUp);
    stage.hear("carol", 60, "unseen");
    assert_eq!(stage.app.unread(), 1);
    stage.key(KeyCode::Esc);
    assert_eq!(stage.app.unread(), 0);
}

#[test]
fn the_bell_rings_for_what_others_say_if_one_wants_it() {
    let mut stage = Stage::logged_in(80, 24);
    stage.hear("bob", 1, "hello");
    assert!(!stage.has(|e| matches!(e, Effect::Bell)));
    stage.say("/bell");
    stage.hear("bob", 2, "hello");
    assert!(stage.has(|e| matches!(e, Effect::Bell)));
    stage.effects.clear();
    stage.hear("alice", 3, "to myself");
    assert!(!stage.has(|e| matches!(e, Effect::Bell)));
}

#[test]
fn each_conversation_keeps_its_draft_and_the_end_keeps_them_all() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.write("for bob");
    stage.hear("carol", 1, "hello");
    stage.control('n');
    assert_eq!(stage.app.open.as_deref(), Some("carol"));
    assert!(stage.app.editor().is_empty());
    stage.control('n');
    assert_eq!(stage.app.editor().text(), "for bob");
    stage.control('q');
    assert!(
        stage.has(|e| matches!(e, Effect::Keep(Record::Draft { text, .. }) if text == "for bob"))
    );
    assert!(matches!(stage.effects.last(), Some(Effect::Quit)));
}

#[test]
fn a_slash_is_a_command_and_two_are_text() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.say("/nonsense");
    assert!(stage.app.notice.as_ref().is_some_and(|notice| notice.bad));
    assert_eq!(
        stage.app.editor().text(),
        "/nonsense",
        "what was written stays"
    );
    stage.control('c');
    stage.say("//etc/passwd");
    assert_eq!(states(&stage), [("/etc/passwd".into(), State::Sending)]);
    stage.say("/help");
    assert!(matches!(stage.app.overlay, Some(Overlay::Help(0))));
}

#[test]
fn what_is_too_long_stays_in_the_line() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.event(Event::Paste("x".repeat(16 * 1024 + 1)));
    stage.key(KeyCode::Enter);
    assert!(states(&stage).is_empty());
    assert_eq!(stage.app.editor().text().len(), 16 * 1024 + 1);
    stage.key(KeyCode::Backspace);
    stage.key(KeyCode::Enter);
    assert_eq!(states(&stage).len(), 1);
}

#[test]
fn a_paste_is_one_message_and_the_arrows_call_it_back() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.event(Event::Paste("one\r\ntwo".into()));
    stage.key(KeyCode::Enter);
    assert_eq!(states(&stage), [("one\ntwo".into(), State::Sending)]);
    stage.write("unfinished");
    stage.key(KeyCode::Up);
    assert_eq!(stage.app.editor().text(), "one\ntwo");
    stage.key(KeyCode::Down);
    assert_eq!(stage.app.editor().text(), "unfinished");
}

#[test]
fn a_login_that_ends_leads_to_the_form_and_loses_no_draft() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.write("half a sen");
    stage.event(Event::LoginEnded("the login has ended".into()));
    assert!(matches!(&stage.app.screen, Screen::SignIn(form) if form.error.is_some()));
    let kept = stage
        .effects
        .iter()
        .position(|e| matches!(e, Effect::Keep(Record::Draft { .. })));
    let closed = stage
        .effects
        .iter()
        .position(|e| matches!(e, Effect::Close));
    assert!(kept.is_some() && kept < closed);
    // The name is there already; the password is what is missing.
    stage.write("secret");
    stage.key(KeyCode::Enter);
    let back = |e: &Effect| matches!(e, Effect::SignIn(who) if who.name == "alice" && who.password == "secret");
    assert!(stage.has(back));
}

#[test]
fn what_was_not_to_blame_for_a_refusal_stays_in_the_form() {
    let mut stage = Stage::new(80, 24);
    stage.control('t');
    for text in ["alice", "secret", "secret"] {
        stage.write(text);
        stage.key(KeyCode::Tab);
    }
    let refuse = |stage: &mut Stage, about| {
        stage.effects.clear();
        // In an empty field it is a step, and not yet the end.
        for _ in 0..3 {
            if stage.effects.is_empty() {
                stage.key(KeyCode::Enter);
            }
        }
        let asked = |e: &Effect| matches!(e, Effect::SignUp(c) if c.password == "secret");
        assert!(stage.has(asked), "{:?}", stage.effects);
        let why = "why".into();
        stage.event(Event::SignInFailed(Refused { why, about }));
        let Screen::SignIn(form) = &stage.app.screen else {
            panic!("no form");
        };
        (form.field, form.editor(Field::Again).text().to_owned())
    };
    let name = refuse(&mut stage, Some(Field::Name));
    assert_eq!(name, (Field::Name, "secret".into()));
    // Nobody answered: everything stays.
    assert_eq!(refuse(&mut stage, None), name);
    let device = refuse(&mut stage, Some(Field::Device));
    assert_eq!(device, (Field::Device, "secret".into()));
    let password = refuse(&mut stage, Some(Field::Password));
    assert_eq!(password, (Field::Password, String::new()));
}

#[test]
fn servers_of_another_protocol_are_no_lost_connection() {
    let mut stage = Stage::new(80, 24);
    stage.event(Event::Resumed(session()));
    stage.event(Event::HistoryLoaded { writable: true });
    let since_us = stage.now_us;
    stage.event(Event::Link(Link::Down { since_us }));
    stage.pass(3_000_000);
    stage.event(Event::Tick);
    let silent = "no answer for 3 s from 127.0.0.1:7401 over gRPC";
    assert!(stage.frame().contains(silent), "{}", stage.frame());
    let hint = "127.0.0.1:7401 speaks the wire protocol: try --protocol wire";
    stage.event(Event::Link(Link::Wrong(hint.into())));
    assert!(stage.frame().contains(hint), "{}", stage.frame());
}

#[test]
fn another_profile_starts_anew() {
    let mut stage = Stage::logged_in(80, 24);
    stage.hear("bob", 1, "hello");
    stage.say("/profile work");
    assert!(stage.app.talks.is_empty());
    assert!(matches!(stage.effects.last(), Some(Effect::Profile(name)) if name == "work"));
    let mut other = session();
    other.username = "worker".into();
    stage.event(Event::Resumed(other));
    assert_eq!(stage.app.me, "worker");
}

#[test]
fn the_mouse_scrolls_and_opens() {
    let mut stage = Stage::logged_in(80, 24);
    for seq in 1..50 {
        stage.hear("bob", seq, "words");
    }
    stage.hear("carol", 50, "words");
    let mouse = |kind, column, row| {
        Event::Mouse(MouseEvent {
            kind,
            column,
            row,
            modifiers: KeyModifiers::NONE,
        })
    };
    stage.event(mouse(MouseEventKind::ScrollUp, 40, 10));
    assert!(!stage.app.talk().unwrap().follows());
    let click = MouseEventKind::Down(ratatui::crossterm::event::MouseButton::Left);
    stage.event(mouse(click, 3, 1));
    assert_eq!(stage.app.open.as_deref(), Some("carol"));
}

#[test]
fn a_failover_is_told_and_nothing_typed_is_lost() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.write("half");
    stage.event(Event::Link(Link::Down { since_us: NOW }));
    stage.event(Event::Link(Link::Down { since_us: NOW + 9 }));
    assert_eq!(stage.app.link, Link::Down { since_us: NOW });
    stage.write(" and half");
    stage.up("127.0.0.1:7402", 900);
    let said = stage.app.notice.as_ref().map(|notice| notice.text.clone());
    assert_eq!(said.as_deref(), Some("connected again, to 127.0.0.1:7402"));
    assert_eq!(stage.app.editor().text(), "half and half");
    stage.pass(60 * 1_000_000);
    stage.event(Event::Tick);
    assert!(stage.app.notice.is_none());
}

#[test]
fn an_inbox_that_was_trimmed_is_read_from_where_the_servers_think_best() {
    let mut stage = Stage::logged_in(80, 24);
    stage.event(Event::InboxTrimmed);
    assert!(stage.has(|e| matches!(e, Effect::Listen(None))));
}

#[test]
fn what_the_servers_have_removed_is_not_asked_for_again() {
    let mut stage = Stage::logged_in(80, 24);
    stage.event(Event::Removed(40));
    let kept = |e: &Effect| matches!(e, Effect::Keep(Record::Cursor { seq: 40 }));
    assert!(stage.has(kept));
    stage.hear("bob", 41, "hello");
    assert_eq!(stage.app.seen, 41);
}

#[test]
fn a_logout_keeps_the_drafts_and_forgets_the_login() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.say("/logout");
    assert!(stage.has(|e| matches!(e, Effect::Logout)));
    stage.event(Event::LoggedOut(Err("no replica answers".into())));
    assert!(matches!(stage.app.screen, Screen::Talks));
    stage.write("a draft");
    stage.effects.clear();
    stage.event(Event::LoggedOut(Ok(())));
    let [
        Effect::Keep(Record::Draft { .. }),
        Effect::Forget,
        Effect::Close,
    ] = stage.effects[..]
    else {
        panic!("{:?}", stage.effects);
    };
}

/// The server revokes the token first: its other streams may tell so before the answer comes.
#[test]
fn a_logout_forgets_the_login_whichever_event_comes_first() {
    let ended = || Event::LoginEnded("the login has ended".into());
    for events in [
        [Event::LoggedOut(Ok(())), ended()],
        [ended(), Event::LoggedOut(Ok(()))],
    ] {
        let mut stage = Stage::logged_in(80, 24);
        stage.say("/logout");
        stage.say("/logout");
        assert_eq!(stage.effects.len(), 1, "{:?}", stage.effects);
        let [first, _too_late] = events;
        stage.event(first);
        let [Effect::Logout, Effect::Forget, Effect::Close] = stage.effects[..] else {
            panic!("{:?}", stage.effects);
        };
        let Screen::SignIn(form) = &stage.app.screen else {
            panic!("no form");
        };
        assert_eq!(form.error, None);
        let notice = stage.app.notice.as_ref().unwrap();
        assert!(!notice.bad && notice.text == "logged out");
    }
    // One that failed is no reason to take a later end for it.
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/logout");
    stage.event(Event::LoggedOut(Err("no replica answers".into())));
    stage.event(ended());
    assert!(!stage.has(|e| matches!(e, Effect::Forget)));
}

#[test]
fn the_choice_of_profiles_has_this_one_and_takes_a_new_name() {
    let mut stage = Stage::new(80, 24);
    stage.event(Event::Profiles(Vec::new()));
    let frame = stage.frame();
    assert!(
        frame.contains("default              not logged in (this one)"),
        "{frame}"
    );
    stage.write("wrok");
    stage.key(KeyCode::Left);
    stage.key(KeyCode::Backspace);
    stage.key(KeyCode::Backspace);
    stage.write("or");
    assert!(stage.frame().contains("› work"));
    stage.key(KeyCode::Enter);
    assert!(stage.has(|e| matches!(e, Effect::Profile(name) if name == "work")));
    assert!(stage.frame().contains("profile work, at"));
}

#[test]
fn a_profile_with_a_strange_name_is_refused() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/profile ../x");
    assert!(matches!(stage.app.screen, Screen::Talks));
    assert!(!stage.has(|e| matches!(e, Effect::Profile(_))));
}
