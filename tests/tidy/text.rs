//! Source text without what only talks: comments and literals.

/// Comments and the contents of literals become spaces; every line stays where it is.
pub fn without_comments_and_literals(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let rest = &letters[at..];
        let previous = at.checked_sub(1).map(|before| letters[before]);
        let skip = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => comment_length(rest),
            ['"', ..] => string_length(rest),
            ['r', '"' | '#', ..] if !is_inside_word(previous) => raw_length(rest),
            ['\'', '\\', ..] => {
                2 + rest[2..]
                    .iter()
                    .skip(1)
                    .position(|c| *c == '\'')
                    .unwrap_or(0)
                    + 2
            }
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if skip == 0 {
            code.push(letters[at]);
            at += 1;
            continue;
        }
        let end = (at + skip).min(letters.len());
        code.extend(
            letters[at..end]
                .iter()
                .map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    code
}

fn is_inside_word(previous: Option<char>) -> bool {
    // `br"…"` is a raw literal as well.
    previous.is_some_and(|c| c != 'b' && (c.is_alphanumeric() || c == '_'))
}

fn comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"` and `r#"…"#`; 0 for a raw identifier.
fn raw_length(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut end = vec!['"'];
    end.resize(1 + hashes, '#');
    let body = 2 + hashes;
    let found = rest[body..]
        .windows(end.len())
        .position(|window| window == end);
    found.map_or(rest.len(), |found| body + found + end.len())
}
