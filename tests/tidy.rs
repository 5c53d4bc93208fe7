//! What the compiler cannot check: who may import whom, sizes, leftovers.
//!
//! The checks read the sources as text, without comments and literals, so that talking about
//! something is not doing it. Each failure names the file, the line and the rule.

#[path = "tidy/scanner.rs"]
mod scanner;
#[path = "tidy/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Each module of the library, and what it may name of the crate besides itself.
///
/// The pure modules know numbers and limits; `state_machine` also the trait through which it
/// reads records. `client` is what any other client could be: it knows the protocol only.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("metrics", &[]),
    ("types", &["limits"]),
    ("consensus", &["types", "limits"]),
    ("state_machine", &["types", "limits", "storage"]),
    ("storage", &["types", "limits", "metrics", "consensus"]),
    (
        "replica",
        &[
            "types",
            "limits",
            "metrics",
            "consensus",
            "state_machine",
            "storage",
        ],
    ),
    // What operators read over HTTP.
    (
        "exporter",
        &[
            "types",
            "limits",
            "metrics",
            "config",
            "consensus",
            "replica",
            "storage",
            "net",
        ],
    ),
    ("config", &["types", "limits", "consensus", "replica"]),
    ("service", &["types", "limits", "replica", "state_machine"]),
    // The client API, and the conversions of the inter-server and admin APIs.
    (
        "grpc",
        &[
            "types",
            "limits",
            "proto",
            "service",
            "replica",
            "state_machine",
            "consensus",
            "storage",
            "admin",
            "net",
            "config",
        ],
    ),
    (
        "net",
        &[
            "types",
            "limits",
            "proto",
            "config",
            "grpc",
            "replica",
            "consensus",
            "state_machine",
        ],
    ),
    (
        "admin",
        &[
            "types",
            "limits",
            "proto",
            "consensus",
            "replica",
            "state_machine",
            "storage",
        ],
    ),
    // Of `wire` the codec only, as checked below.
    ("client", &["proto", "wire"]),
    ("wire", &["types", "limits", "service", "state_machine"]),
    ("codec", &["wire"]),
    // What is fed with random bytes.
    (
        "fuzzing",
        &[
            "types",
            "limits",
            "proto",
            "consensus",
            "state_machine",
            "storage",
            "replica",
            "config",
            "service",
            "grpc",
            "wire",
            "client",
            "admin",
        ],
    ),
];

/// Of a module that another one may use, all that it may name there. The state machine reads records
/// and hands out changes: nothing of a store concerns it.
const MAY_NAME: &[(&str, &str, &[&str])] = &[(
    "state_machine",
    "storage",
    &["Change", "Slice", "StateReader", "StorageError", "Tree"],
)];

/// The only place in the product that names the switch of the wrong variants: its definition.
const SWITCH: (&str, &str) = ("activate", "src/consensus/mutants.rs");

/// Modules without I/O, clocks and chance: equal input must give equal output everywhere.
const PURE: &[&str] = &["consensus", "state_machine", "types", "limits", "codec"];
const IMPURE: &[&str] = &[
    "tokio",
    "sled",
    "tonic",
    "prost",
    "std::time",
    "std::fs",
    "std::net",
    "std::thread",
    "SystemTime",
    "Instant",
    "rand",
    "HashMap",
    "HashSet",
];

/// Where sled may be named: one file of the library, and the migrations.
const SLED: &[&str] = &["src/storage/sled_store", "migrations/", "tests/"];

/// Where unsafe code may be: the fdatasync redirect, and of the tools the power cut and the network
/// device.
const UNSAFE: &[&str] = &[
    "src/storage/fdatasync.rs",
    "tools/powercut/ioctl.rs",
    "tools/nemesis/network/tun.rs",
];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// For tests, which tell a story, and for functions that are one match, which are tables.
const STORY_LINES_MAX: usize = 100;

struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
    /// Without comments and the contents of literals; lines are where they were.
    code: String,
    /// First line (from 0) of test code; the number of lines if there is none.
    tests_from: usize,
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = String::new();
    for source in sources() {
        let Some(module) = module_of(&source.path) else {
            continue;
        };
        let rule = MAY_IMPORT.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = rule else {
            let _ = writeln!(
                wrong,
                "{}: give `{module}` a line in this test",
                source.path
            );
            continue;
        };
        for (number, line) in product_lines(&source) {
            for name in named_after(line, "crate::") {
                let beyond_codec = matches!(module, "client" | "codec")
                    && name == "wire"
                    && !line.contains("crate::wire::codec");
                let allowed = allowed.contains(&name) && !beyond_codec;
                if name != module && !allowed && is_module(name) {
                    let path = &source.path;
                    let _ = writeln!(wrong, "{path}:{number}: {module} may not use {name}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn of_another_module_only_what_is_listed_is_named() {
    let mut wrong = String::new();
    for source in sources() {
        for (module, other, items) in MAY_NAME {
            if module_of(&source.path) != Some(module) {
                continue;
            }
            let lines: Vec<&str> = product_lines(&source).map(|(_, line)| line).collect();
            for name in items_of(&lines.join(" "), &format!("crate::{other}::")) {
                if !items.contains(&name.as_str()) {
                    let path = &source.path;
                    let _ = writeln!(wrong, "{path}: {module} may not use {other}::{name}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn no_product_switches_a_wrong_variant_on() {
    let (word, definition) = SWITCH;
    let mut found = 0;
    let mut wrong = String::new();
    for source in sources() {
        if !source.path.starts_with("src/") {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            if !has_word(line, word) {
                continue;
            }
            found += 1;
            if source.path != definition {
                let _ = writeln!(wrong, "{}:{}: {word}", source.path, number + 1);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert_eq!(found, 1, "its definition has another name");
}

#[test]
fn pure_modules_are_pure() {
    let mut wrong = String::new();
    for source in sources() {
        if !module_of(&source.path).is_some_and(|module| PURE.contains(&module)) {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            for word in IMPURE.iter().filter(|word| has_word(line, word)) {
                let _ = writeln!(wrong, "{}:{}: {word}", source.path, number + 1);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn sled_and_unsafe_code_stay_where_they_belong() {
    let mut wrong = String::new();
    for source in sources() {
        for (word, allowed) in [("sled", SLED), ("unsafe", UNSAFE)] {
            if allowed.iter().any(|prefix| source.path.starts_with(prefix)) {
                continue;
            }
            for (number, line) in source.code.lines().enumerate() {
                if has_word(line, word) {
                    let _ = writeln!(wrong, "{}:{}: {word}", source.path, number + 1);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn files_and_functions_have_a_readable_size() {
    let mut wrong = String::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            let _ = writeln!(wrong, "{}: {lines} lines", source.path);
        }
        for function in functions(&source.code) {
            let story = function.is_match || function.first_line >= source.tests_from;
            let allowed = if story {
                STORY_LINES_MAX
            } else {
                FUNCTION_LINES_MAX
            };
            if function.lines > allowed {
                let _ = writeln!(
                    wrong,
                    "{}:{}: `{}` has {} lines of {allowed}",
                    source.path,
                    function.first_line + 1,
                    function.name,
                    function.lines
                );
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn nothing_is_left_over() {
    let mut wrong = String::new();
    for source in sources() {
        let lines = source.code.lines().zip(source.text.lines());
        for (number, (code, text)) in lines.enumerate() {
            let mut found: Vec<&str> = ["todo!", "unimplemented!", "dbg!", "#[ignore"]
                .into_iter()
                .filter(|leftover| code.contains(leftover))
                .collect();
            if number < source.tests_from && code.contains(".unwrap()") {
                found.push(".unwrap() outside tests");
            }
            // In comments, too; this file must name it.
            if source.path != "tests/tidy.rs" && has_word(text, "FIXME") {
                found.push("FIXME");
            }
            for leftover in found {
                let _ = writeln!(wrong, "{}:{}: {leftover}", source.path, number + 1);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "without a first `//!`: {silent:#?}");
}

/// The lines of a file that are no tests, from 1.
fn product_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(source.code.lines());
    lines.take(source.tests_from)
}

/// `consensus` for `src/consensus/node.rs` and `src/consensus.rs`; none for the binaries, for
/// `lib.rs` and outside `src`. The codec of the wire protocol counts as a module of its own.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let inside = inside
        .strip_prefix("wire/codec")
        .map_or(inside, |_| "codec");
    let module = inside.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    (!matches!(module, "bin" | "lib")).then_some(module)
}

/// Modules begin with a small letter; what else hangs under the crate's root is exported there.
fn is_module(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_lowercase())
}

/// The identifiers that follow `prefix` in this line, also in `prefix{a, b::c}`.
fn named_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &line[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(identifier(rest)),
            Some(list) => names.extend(list.split(',').filter_map(|one| identifier(one.trim()))),
        }
    }
    names
}

/// The items that follow `prefix` in this code, also in `prefix{a, b::{c, d}}` over several lines: of
/// a nested path the first name.
fn items_of(code: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        if !rest.starts_with('{') {
            names.extend(identifier(rest).map(str::to_owned));
            continue;
        }
        let list = block_length(rest).map_or(rest, |end| &rest[1..end - 1]);
        let (mut depth, mut expects) = (0, true);
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => expects = true,
                letter if expects && depth == 0 && !letter.is_whitespace() => {
                    expects = false;
                    names.extend(identifier(&list[at..]).map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    names
}

fn identifier(text: &str) -> Option<&str> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next();
        !inside(line[..at].chars().next_back()) && !inside(after)
    })
}

struct Function {
    name: String,
    /// From 0.
    first_line: usize,
    lines: usize,
    /// Its body is one match expression.
    is_match: bool,
}

/// Every function with a body, by its braces.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && !code[..at].ends_with([' ', '\n', '(']) {
            continue;
        }
        let Some(name) = identifier(&code[at + 3..]) else {
            continue;
        };
        let Some(open) = body_of(&code[at..]).map(|open| at + open) else {
            continue;
        };
        let Some(length) = block_length(&code[open..]) else {
            continue;
        };
        let first_line = code[..at].matches('\n').count();
        found.push(Function {
            name: name.to_owned(),
            first_line,
            lines: code[at..open + length].matches('\n').count() + 1,
            is_match: code[open + 1..].trim_start().starts_with("match "),
        });
    }
    found
}

/// Where the body begins; none if the signature ends with a semicolon.
fn body_of(signature: &str) -> Option<usize> {
    let mut depth = 0i32;
    for (at, letter) in signature.char_indices() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Bytes from this brace to the one that closes it.
fn block_length(block: &str) -> Option<usize> {
    let mut depth = 0i32;
    for (at, letter) in block.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// Every Rust file of the repository.
fn sources() -> Vec<Source> {
    let root = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let mut paths = vec![root.join("build.rs")];
    for directory in ["src", "tools", "tests", "migrations"] {
        collect(&root.join(directory), &mut paths);
    }
    let mut test_modules = BTreeSet::new();
    let mut sources = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text::without_comments_and_literals(&text);
        let relative = path.strip_prefix(&root).unwrap().display().to_string();
        test_modules.extend(test_modules_in(&relative, &code));
        sources.push(Source {
            tests_from: tests_from(&code),
            path: relative,
            text,
            code,
        });
    }
    assert!(
        sources.len() > 20,
        "only {} files were found",
        sources.len()
    );
    for source in &mut sources {
        let inside = |module: &String| source.path.starts_with(module.as_str());
        if source.path.starts_with("tests/") || test_modules.iter().any(inside) {
            source.tests_from = 0;
        }
    }
    sources
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    // A directory that is not there yet has no files.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Line of the first `#[cfg(test)]` that opens a module with a body here.
fn tests_from(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let opens = |at: usize| {
        let next = lines[at + 1..]
            .iter()
            .find(|line| !line.trim().starts_with("#["));
        next.is_some_and(|line| line.contains("mod ") && line.trim_end().ends_with('{'))
    };
    (0..lines.len())
        .find(|at| lines[*at].contains("#[cfg(test)]") && opens(*at))
        .unwrap_or(lines.len())
}

/// Path prefixes of the modules that this file declares for tests only.
fn test_modules_in(path: &str, code: &str) -> Vec<String> {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let home = match stem.rsplit_once('/') {
        Some((directory, "mod" | "lib" | "main")) => directory,
        _ => stem,
    };
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        rest = &rest[at + "#[cfg(test)]".len()..];
        let declaration = rest.trim_start();
        let declaration = declaration
            .strip_prefix("pub(crate) ")
            .or_else(|| declaration.strip_prefix("pub(super) "))
            .or_else(|| declaration.strip_prefix("pub "))
            .unwrap_or(declaration);
        let name = declaration.strip_prefix("mod ").and_then(identifier);
        if let Some(name) = name
            && declaration[4 + name.len()..].starts_with(';')
        {
            found.push(format!("{home}/{name}.rs"));
            found.push(format!("{home}/{name}/"));
        }
    }
    found
}
