//! The checks check themselves: a scanner that sees nothing finds nothing.

use super::*;

#[test]
fn comments_and_literals_are_not_code() {
    let text = "a // todo!\nb /* x /* y */ z */ c \"todo! \\\" d\" e r#\"f \" g\"# 'h' '\\'' &'i j";
    let code = text::without_comments_and_literals(text);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "b", "c", "e", "&'i", "j"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn imports_are_seen_in_every_form() {
    assert_eq!(
        named_after("use crate::replica::Handle;", "crate::"),
        ["replica"]
    );
    assert_eq!(
        named_after("let x: crate::net::A = crate::b::C;", "crate::"),
        ["net", "b"]
    );
    assert_eq!(
        named_after("use crate::{types::Term, limits};", "crate::"),
        ["types", "limits"]
    );
    assert!(named_after("use other_crate::x;", "crate::").is_empty());
    assert!(has_word("use sled::Db;", "sled") && !has_word("sled_store::open", "sled"));
}

#[test]
fn items_are_seen_in_every_form() {
    let items = |code| items_of(code, "crate::storage::");
    assert_eq!(
        items("use crate::storage::Tree; fn a(t: crate::storage::Slice)"),
        ["Tree", "Slice"]
    );
    assert_eq!(
        items("use crate::storage::{\n    Tree, sled_store::{Engine, open}, Store as Kept,\n};"),
        ["Tree", "sled_store", "Store"]
    );
    assert!(items("use crate::types::Term;").is_empty());
}

#[test]
fn functions_are_measured_with_their_braces() {
    let code =
        "trait T { fn a(&self); }\nfn b(x: [u8; 2]) -> u8 {\n  match x {\n    _ => 1,\n  }\n}\n";
    let found = functions(code);
    assert_eq!(found.len(), 1);
    let b = &found[0];
    assert_eq!(
        (b.name.as_str(), b.first_line, b.lines, b.is_match),
        ("b", 1, 5, true)
    );
}

#[test]
fn tests_begin_where_they_are_declared() {
    let code = "fn a() {}\n#[cfg(test)]\nmod fakes;\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(tests_from(code), 3);
    let modules = test_modules_in("src/storage/mod.rs", code);
    assert_eq!(modules, ["src/storage/fakes.rs", "src/storage/fakes/"]);
    let modules = test_modules_in("src/storage.rs", code);
    assert_eq!(modules[0], "src/storage/fakes.rs");
}
