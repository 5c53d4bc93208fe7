//! Account listing: a regular expression over the names, in pages.
//!
//! The names are a snapshot that the replica keeps sorted in memory; matching runs on a blocking
//! thread, never on the replica's. The `regex` crate is linear in the text; what remains (size of
//! the compiled pattern, nesting, time on a page) is bounded here.

use super::errors::{Reason, ServiceError};
use super::requests::{ListAccounts, Page};
use super::tokens::{Token, hex, parse_hex};
use super::{Backend, Service, validate};
use crate::limits;
use crate::replica::Consistency;
use crate::state_machine::{Answer, Query};
use regex::{Regex, RegexBuilder};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// A page token begins so; a later form will begin otherwise.
const PAGE_TOKEN_PREFIX: &str = "p1_";
/// Names between two looks at the clock.
const NAMES_A_LOOK: usize = 256;

impl<B: Backend> Service<B> {
    /// Account names that match, ascending, a page at a time.
    pub async fn list_accounts(
        &self,
        token: &Token,
        request: ListAccounts,
    ) -> Result<Page, ServiceError> {
        validate::pattern(&request.pattern)?;
        let after = parse_page_token(&request.page_token)?;
        let size = match request.page_size {
            0 => limits::PAGE_DEFAULT,
            size => size.min(limits::PAGE_MAX),
        };
        let token = token.hash();
        // The read also waits until this replica has applied all that was acknowledged, so the
        // names taken AFTER it are as fresh.
        match self
            .read(Query::Check { token }, Consistency::Linearizable)
            .await?
        {
            Answer::WhoAmI { .. } => self.inner.backend.token_used(token),
            _ => return Err(ServiceError::internal("check: unexpected answer")),
        }
        let names = self.inner.backend.names();
        self.inner
            .listings
            .run(move || {
                let matcher = Matcher::new(&request.pattern)?;
                let time = Duration::from_millis(limits::LISTING_SCAN_MS_MAX);
                Ok(page(
                    &names,
                    &matcher,
                    after.as_deref(),
                    size as usize,
                    time,
                ))
            })
            .await?
    }
}

/// A compiled pattern.
pub(super) struct Matcher {
    /// `None` matches everything.
    regex: Option<Regex>,
    /// Every match begins so.
    prefix: String,
}

impl Matcher {
    pub(super) fn new(pattern: &str) -> Result<Self, ServiceError> {
        if pattern.is_empty() {
            return Ok(Self {
                regex: None,
                prefix: String::new(),
            });
        }
        let regex = RegexBuilder::new(pattern)
            .size_limit(limits::PATTERN_COMPILED_BYTES_MAX)
            .dfa_size_limit(limits::PATTERN_COMPILED_BYTES_MAX)
            .nest_limit(limits::PATTERN_NESTING_MAX)
            .build()
            .map_err(|error| invalid_pattern(&error))?;
        Ok(Self {
            regex: Some(regex),
            prefix: literal_prefix(pattern),
        })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.regex.as_ref().is_none_or(|regex| regex.is_match(name))
    }
}

fn invalid_pattern(error: &regex::Error) -> ServiceError {
    let error_is = ServiceError::field(Reason::PatternInvalid, "pattern");
    match error {
        regex::Error::CompiledTooBig(limit) => {
            error_is.with("limit_bytes", limit).because(format!(
                "compiled it would exceed {limit} bytes: repeat less, and nest no counted repeats"
            ))
        }
        // The crate draws a picture over several lines; the last one says what is wrong.
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            error_is.because(last.trim_start_matches("error: "))
        }
    }
}

/// What every match of the pattern begins with: names before it need no look. May be shorter than
/// possible, never longer than certain.
fn literal_prefix(pattern: &str) -> String {
    let Some(rest) = pattern.strip_prefix('^') else {
        return String::new();
    };
    if rest.contains('|') {
        return String::new();
    }
    let mut prefix = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(next) = chars.next() {
        let literal = match next {
            'a'..='z' | '0'..='9' | '_' | '-' => next,
            '\\' => match chars.next() {
                Some(escaped @ ('.' | '-')) => escaped,
                _ => break,
            },
            _ => break,
        };
        // These may let the last one be absent.
        if matches!(chars.peek(), Some('?' | '*' | '{')) {
            break;
        }
        prefix.push(literal);
    }
    prefix
}

/// Scans the sorted `names` after `after` until the page is full, the names end or time is up.
pub(super) fn page(
    names: &[String],
    matcher: &Matcher,
    after: Option<&str>,
    size: usize,
    time: Duration,
) -> Page {
    let began = Instant::now();
    let prefix = matcher.prefix.as_str();
    let first = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let start = names.partition_point(|name| match first {
        Bound::Excluded(after) => name.as_str() <= after,
        _ => name.as_str() < prefix,
    });
    let mut usernames = Vec::new();
    for (scanned, name) in names[start..].iter().enumerate() {
        if !name.starts_with(prefix) {
            break;
        }
        let late = scanned > 0 && scanned.is_multiple_of(NAMES_A_LOOK) && began.elapsed() >= time;
        if usernames.len() == size || late {
            return Page {
                usernames,
                next_page_token: page_token(&names[start + scanned - 1]),
            };
        }
        if matcher.matches(name) {
            usernames.push(name.clone());
        }
    }
    Page {
        usernames,
        next_page_token: String::new(),
    }
}

/// Names the last name that was looked at.
pub(super) fn page_token(name: &str) -> String {
    format!("{PAGE_TOKEN_PREFIX}{}", hex(name.as_bytes()))
}

pub(super) fn parse_page_token(token: &str) -> Result<Option<String>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    token
        .strip_prefix(PAGE_TOKEN_PREFIX)
        .and_then(parse_hex)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|name| validate::fold_name(name).as_ref() == Some(name))
        .map(Some)
        .ok_or_else(|| ServiceError::field(Reason::PageTokenInvalid, "page_token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn names() -> Vec<String> {
        let mut names: Vec<_> = (0..1_000).map(|n| format!("user{n:04}")).collect();
        names.extend(["alice", "al.ice", "alina", "bob", "zoe"].map(str::to_owned));
        names.sort();
        names
    }

    fn list(pattern: &str) -> Vec<String> {
        let matcher = Matcher::new(pattern).unwrap();
        page(&names(), &matcher, None, 2_000, LONG).usernames
    }

    #[test]
    fn two_patterns_and_the_empty_one() {
        assert_eq!(list("^al"), ["al.ice", "alice", "alina"]);
        assert_eq!(list("o[be]$"), ["bob", "zoe"]);
        assert_eq!(list("").len(), 1_005);
        assert!(list("nobody").is_empty());
    }

    #[test]
    fn a_pattern_that_is_none_says_why() {
        for pattern in ["(", "a**{", "[z-a]", "\\", "(?P<x", "a{2,1}", "(?=a)"] {
            let error = Matcher::new(pattern).map(drop).unwrap_err();
            assert_eq!(error.reason, Reason::PatternInvalid, "{pattern}");
            assert!(error.detail.is_some_and(|d| !d.contains('\n')), "{pattern}");
        }
    }

    #[test]
    fn nested_counted_repeats_are_refused_for_their_size() {
        for pattern in ["(a{1000}){1000}", "((((a{99}){99}){99}){99}){99}"] {
            let error = Matcher::new(pattern).map(drop).unwrap_err();
            assert_eq!(error.reason, Reason::PatternInvalid);
            assert!(error.to_string().contains("repeat less"), "{error}");
        }
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        let error = Matcher::new(&deep).map(drop).unwrap_err();
        assert_eq!(error.reason, Reason::PatternInvalid);
        // Catastrophic in a backtracking engine, linear here.
        assert!(list("^(a*)*$").is_empty());
    }

    #[test]
    fn the_literal_prefix_is_never_longer_than_certain() {
        for (pattern, prefix) in [
            ("", ""),
            ("al", ""),
            ("^al", "al"),
            ("^al$", "al"),
            ("^al.*e", "al"),
            ("^al?ice", "a"),
            ("^al*", "a"),
            ("^al{0}ice", "a"),
            ("^al+", "al"),
            ("^al\\.ice", "al.ice"),
            ("^al\\.?ice", "al"),
            ("^al\\d", "al"),
            ("^al|bob", ""),
            ("^(al)", ""),
            ("^Al", ""),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
            let Ok(regex) = Regex::new(pattern) else {
                panic!("{pattern}")
            };
            let slow: Vec<_> = names().into_iter().filter(|n| regex.is_match(n)).collect();
            assert_eq!(list(pattern), slow, "{pattern}");
        }
    }

    #[test]
    fn pages_join_to_the_whole_without_gap_or_repeat() {
        let names = names();
        for (pattern, size) in [("", 25), ("^user0", 7), ("5", 100), ("zoe", 1)] {
            let matcher = Matcher::new(pattern).unwrap();
            let mut all = Vec::new();
            let mut after = None;
            loop {
                let page = page(&names, &matcher, after.as_deref(), size, LONG);
                assert!(page.usernames.len() <= size);
                all.extend(page.usernames);
                after = parse_page_token(&page.next_page_token).unwrap();
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(all, list(pattern), "{pattern}");
        }
    }

    #[test]
    fn a_page_that_takes_too_long_is_short_and_goes_on() {
        let names = names();
        let matcher = Matcher::new("zoe").unwrap();
        let first = page(&names, &matcher, None, 25, Duration::ZERO);
        assert!(first.usernames.is_empty());
        let mut after = parse_page_token(&first.next_page_token).unwrap();
        let mut found = Vec::new();
        while after.is_some() {
            let next = page(&names, &matcher, after.as_deref(), 25, Duration::ZERO);
            found.extend(next.usernames);
            after = parse_page_token(&next.next_page_token).unwrap();
        }
        assert_eq!(found, ["zoe"]);
    }

    #[test]
    fn a_page_token_is_one_of_ours_or_refused() {
        let token = page_token("al.ice");
        assert_eq!(parse_page_token(&token).unwrap().unwrap(), "al.ice");
        for wrong in ["p1_", "al.ice", "p1_zz", "p1_20", "p1_4141", "p2_61"] {
            let error = parse_page_token(wrong).unwrap_err();
            assert_eq!(error.reason, Reason::PageTokenInvalid, "{wrong}");
        }
    }
}
