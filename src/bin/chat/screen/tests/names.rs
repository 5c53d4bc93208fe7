//! Completion of names, and conversations that are opened and closed by name.

use super::model::states;
use super::*;

#[test]
fn tab_completes_what_is_known_at_once() {
    let mut stage = Stage::logged_in(80, 24);
    stage.hear("barbara", 1, "x");
    stage.hear("bob", 2, "x");
    stage.write("/ms");
    stage.key(KeyCode::Tab);
    stage.write("b");
    stage.key(KeyCode::Tab);
    assert_eq!(stage.app.editor().text(), "/msg barbara");
    stage.key(KeyCode::Tab);
    assert_eq!(stage.app.editor().text(), "/msg bob");
    stage.event(Event::Key(KeyEvent::new(
        KeyCode::BackTab,
        KeyModifiers::SHIFT,
    )));
    assert_eq!(stage.app.editor().text(), "/msg barbara");
    // A paste is no part of the name.
    stage.event(Event::Paste(" hello".into()));
    stage.key(KeyCode::Tab);
    assert_eq!(stage.app.editor().text(), "/msg barbara hello");
}

/// The last question for names to complete, answered with these.
fn answer_tab(stage: &mut Stage, names: &[&str], next: &str) {
    let mut asked = stage.effects.iter().rev();
    let asked = asked.find_map(|effect| match effect {
        Effect::Names(asked) if asked.purpose == Purpose::Completion => Some(asked.clone()),
        _ => None,
    });
    let page = Page {
        usernames: names.iter().map(ToString::to_string).collect(),
        next_page_token: next.into(),
    };
    let asked = asked.expect("nothing was asked");
    stage.event(Event::Names(asked, Ok(page)));
}

#[test]
fn tab_always_asks_the_servers_and_their_answer_moves_nothing() {
    let mut stage = Stage::logged_in(80, 24);
    let hint = |stage: &Stage| {
        let frame = stage.frame();
        frame.lines().nth(21).unwrap().replace(['─', '┴', '|'], "")
    };
    stage.write("ask @ze");
    stage.key(KeyCode::Tab);
    let asked = Asked {
        pattern: "^ze".into(),
        page_token: String::new(),
        purpose: Purpose::Completion,
    };
    assert!(stage.has(|e| matches!(e, Effect::Names(what) if *what == asked)));
    assert_eq!(hint(&stage).trim(), "asking for names");
    answer_tab(&mut stage, &["zelda"], "");
    assert_eq!(stage.app.editor().text(), "ask @zelda ");
    assert_eq!(hint(&stage).trim(), "");
    // What is known is no reason not to ask.
    stage.control('c');
    stage.effects.clear();
    stage.write("z");
    stage.key(KeyCode::Tab);
    assert_eq!(stage.app.editor().text(), "zelda ");
    answer_tab(&mut stage, &["zack", "zelda"], "more");
    assert_eq!(stage.app.editor().text(), "zelda ", "nothing moves");
    answer_tab(&mut stage, &["zoe"], "");
    assert_eq!(hint(&stage).trim(), "2 of 3:  zack  zelda  zoe");
    stage.key(KeyCode::Tab);
    assert_eq!(stage.app.editor().text(), "zoe");
    // The names stay where they are.
    assert_eq!(hint(&stage).trim(), "3 of 3:  zack  zelda  zoe");
    stage.write("!");
    assert_eq!(hint(&stage).trim(), "", "no stale remark");
    // An answer to what is no longer asked is not written anywhere.
    stage.control('c');
    stage.write("y");
    stage.key(KeyCode::Tab);
    stage.write("e");
    answer_tab(&mut stage, &["yves"], "");
    assert_eq!(stage.app.editor().text(), "ye");
    stage.control('c');
    stage.write("qq");
    stage.key(KeyCode::Tab);
    answer_tab(&mut stage, &[], "");
    assert_eq!(hint(&stage).trim(), "no name begins like this");
    stage.key(KeyCode::Backspace);
    assert_eq!(hint(&stage).trim(), "");
}

#[test]
fn a_long_choice_has_pages() {
    let mut stage = Stage::logged_in(40, 24);
    stage.write("n");
    stage.key(KeyCode::Tab);
    let names: Vec<String> = (10..40).map(|n| format!("name-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    answer_tab(&mut stage, &names, "");
    for name in &names {
        let frame = stage.frame();
        let line = frame.lines().nth(21).unwrap();
        assert!(line.contains(name), "{line}");
        stage.key(KeyCode::Tab);
    }
    assert_eq!(stage.app.editor().text(), "name-10");
}

/// The question whether there is somebody, answered.
fn answer_opening(stage: &mut Stage, result: Result<&[&str], &str>) {
    let mut asked = stage.effects.iter().rev();
    let asked = asked.find_map(|effect| match effect {
        Effect::Names(asked) if asked.purpose == Purpose::Opening => Some(asked.clone()),
        _ => None,
    });
    let page = result.map(|names| Page {
        usernames: names.iter().map(ToString::to_string).collect(),
        next_page_token: String::new(),
    });
    let asked = asked.expect("nothing was asked");
    stage.event(Event::Names(asked, page.map_err(str::to_owned)));
}

#[test]
fn a_mistyped_name_leaves_no_conversation() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob");
    stage.say("/msg z.lda hello");
    let asked = Asked {
        pattern: "^z\\.lda$".into(),
        page_token: String::new(),
        purpose: Purpose::Opening,
    };
    assert!(stage.has(|e| matches!(e, Effect::Names(what) if *what == asked)));
    answer_opening(&mut stage, Ok(&[]));
    assert_eq!(stage.app.order, ["bob"]);
    assert_eq!(stage.app.editor().text(), "/msg z.lda hello");
    let notice = stage.app.notice.clone().unwrap();
    assert!(notice.bad && notice.text == "nobody is called z.lda");
    stage.control('c');
    stage.say("/msg zelda hello");
    assert_eq!(stage.app.order, ["bob"], "not before it is known");
    answer_opening(&mut stage, Ok(&["zelda"]));
    assert_eq!(states(&stage), [("hello".into(), State::Sending)]);
    assert_eq!(stage.app.order, ["zelda", "bob"]);
    // Without an answer a message is sent all the same, and an empty conversation is not opened.
    stage.say("/msg yves hello");
    answer_opening(&mut stage, Err("no replica answers"));
    assert_eq!(stage.app.open.as_deref(), Some("yves"));
    stage.say("/msg xaver");
    answer_opening(&mut stage, Err("no replica answers"));
    assert_eq!(stage.app.open.as_deref(), Some("yves"));
    assert_eq!(stage.app.editor().text(), "/msg xaver");
    // Nor is anybody waited for who cannot be asked.
    stage.control('c');
    stage.event(Event::Link(Link::Down { since_us: NOW }));
    stage.say("/msg walter hello");
    assert_eq!(stage.app.open.as_deref(), Some("walter"));
}

#[test]
fn a_closed_conversation_comes_back_with_its_next_message() {
    let mut stage = Stage::logged_in(80, 24);
    stage.hear("carol", 1, "hello");
    stage.hear("bob", 2, "hello");
    stage.say("/msg bob");
    stage.say("on its way");
    stage.say("/close");
    assert_eq!(
        stage.app.order,
        ["bob", "carol"],
        "something is not sent yet"
    );
    stage.control('c');
    stage.accept(25);
    stage.say("/close");
    assert_eq!(stage.app.order, ["carol"]);
    assert_eq!(stage.app.open.as_deref(), Some("carol"));
    assert!(stage.has(|e| matches!(e, Effect::Keep(Record::Closed { peer }) if peer == "bob")));
    stage.say("/close");
    assert_eq!((stage.app.order.len(), &stage.app.open), (0, &None));
    assert!(stage.frame().contains("No conversations yet"));
    stage.hear("bob", 3, "are you there?");
    assert_eq!(stage.app.order, ["bob"]);
    assert_eq!(states(&stage).len(), 3, "all of it");
    // The next run sees the same.
    let records: Vec<Record> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Keep(record) => Some(record.clone()),
            _ => None,
        })
        .collect();
    let mut next = Stage::new(80, 24);
    next.event(Event::Resumed(session()));
    next.event(Event::History(records));
    next.event(Event::HistoryLoaded { writable: true });
    assert_eq!(next.app.order, ["bob"]);
}

#[test]
fn what_is_typed_while_somebody_is_looked_for_goes_to_nobody_else() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg carol");
    stage.say("/msg zelda");
    stage.say("a secret");
    assert!(!stage.has(|e| matches!(e, Effect::Send { .. })));
    answer_opening(&mut stage, Ok(&["zelda"]));
    assert_eq!(stage.app.open.as_deref(), Some("zelda"));
    assert_eq!(stage.app.editor().text(), "a secret");
    stage.key(KeyCode::Enter);
    assert!(stage.has(|e| matches!(e, Effect::Send { peer, .. } if peer == "zelda")));
    assert!(stage.app.talks["carol"].draft.is_empty());
}
