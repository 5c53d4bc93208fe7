//! What fuzzers call of this module; see [`crate::fuzzing`]. Each takes any bytes and panics only on
//! a defect.

use super::listing::{Matcher, page, page_token, parse_page_token};
use super::{Password, Token, validate};
use crate::state_machine::validate_name;
use std::time::Duration;

/// Names, devices, tokens and whatever else a client writes into a field.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let folded = validate::fold_name(text);
    assert_eq!(
        folded,
        validate_name(text),
        "the rule is one, on both sides"
    );
    if let Some(name) = &folded {
        assert_eq!(validate::fold_name(name).as_ref(), Some(name));
        let after = parse_page_token(&page_token(name));
        assert_eq!(after.ok().flatten().as_ref(), Some(name));
    }
    if let Ok(token) = Token::parse(text) {
        assert_eq!(token.reveal(), text);
    }
    if let Ok(Some(name)) = parse_page_token(text) {
        assert_eq!(page_token(&name), text);
    }
    let _ = validate::device(text.to_owned());
    let _ = validate::content_type(text.to_owned());
    let _ = validate::full_name(text);
    let _ = validate::password(&Password(text.to_owned()), "password");
    let _ = validate::request_id(data, data.len() as u64);
}

/// Valid inputs of [`names`].
pub fn name_seeds() -> Vec<Vec<u8>> {
    let token = format!("ct_{}", "5a".repeat(32));
    let page = page_token("al.ice");
    let texts = [
        "alice",
        "A.b_c-9",
        "phone-1",
        "text/plain",
        "Ålice",
        &token,
        &page,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A pattern of an account listing: pages of it join to what the pattern matches, whatever prefix was
/// taken from it.
pub fn pattern(data: &[u8]) {
    let Ok(pattern) = std::str::from_utf8(data) else {
        return;
    };
    if validate::pattern(pattern).is_err() {
        return;
    }
    let Ok(matcher) = Matcher::new(pattern) else {
        return;
    };
    let mut names: Vec<String> = (0..40).map(|n| format!("user{n:02}")).collect();
    names.extend(["alice", "al.ice", "alina", "a", "a-b", "bob", "zoe", "0"].map(str::to_owned));
    names.sort();
    let all = names.iter().filter(|name| matcher.matches(name)).cloned();
    let all: Vec<String> = all.collect();
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = page(&names, &matcher, after.as_deref(), 7, Duration::MAX);
        listed.extend(page.usernames);
        after = parse_page_token(&page.next_page_token).expect("it is one of ours");
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, all);
}

/// Valid inputs of [`pattern`].
pub fn pattern_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "^al",
        "^al\\.?ice$",
        "o[be]$",
        "^(a*)*$",
        "(a{9}){9}",
        "^al|bob",
        "(?i)ALICE",
        "^a{0,2}l",
        "\\d+$",
        "^[a-z]{1,5}[^0-9]",
        "(?x) a l # comment",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
