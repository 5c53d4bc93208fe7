//! Text as it may go to the terminal: harmless, and measured in cells.
//!
//! What others wrote is never sent to the terminal as it is. A control character shows as what it
//! is (`^[` for escape), and so do the invisible ones that turn the direction of what follows.
//! Everything here works on the original text by ranges, so that nothing is copied but what is on
//! the screen.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// What a tab is shown as.
const TAB: &str = "    ";
/// Code points in one cell: more than the longest emoji has, fewer than what draws over the lines
/// above.
const CLUSTER_CHARS_MAX: usize = 12;

/// Where a row may end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// After a space, if there is one.
    Words,
    /// Anywhere: what is being typed must not jump.
    Anywhere,
}

/// How one grapheme is shown: without anything that a terminal would obey.
pub fn shown(grapheme: &str) -> Cow<'_, str> {
    if grapheme == "\t" {
        return Cow::Borrowed(TAB);
    }
    if grapheme.chars().any(is_unfit) {
        let mut text = String::new();
        for letter in grapheme.chars() {
            match letter {
                '\0'..='\u{1f}' => {
                    text.push('^');
                    text.push(char::from(letter as u8 ^ 0x40));
                }
                '\u{7f}' => text.push_str("^?"),
                unfit if is_unfit(unfit) => {
                    let _ = write!(text, "<{:04X}>", u32::from(unfit));
                }
                fit => text.push(fit),
            }
        }
        return Cow::Owned(text);
    }
    match grapheme.char_indices().nth(CLUSTER_CHARS_MAX) {
        Some((end, _)) => Cow::Borrowed(&grapheme[..end]),
        None => Cow::Borrowed(grapheme),
    }
}

/// Control characters, separators of lines, and what changes the direction of writing.
fn is_unfit(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A line end of any system.
pub fn is_line_end(grapheme: &str) -> bool {
    matches!(grapheme, "\n" | "\r\n")
}

/// Cells that one grapheme takes.
pub fn cells(grapheme: &str) -> usize {
    // Most of what is written; the tables need not be asked.
    if let [byte] = grapheme.as_bytes()
        && (0x20..0x7f).contains(byte)
    {
        return 1;
    }
    shown(grapheme).width()
}

/// Cells of a text in one line.
pub fn width(text: &str) -> usize {
    text.graphemes(true).map(cells).sum()
}

/// A text in one line, harmless, and at most so many cells wide; `cut` (of one cell) stands at its
/// end if some of it is missing.
pub fn line(text: &str, cells_max: usize, cut: &str) -> String {
    let mut result = String::new();
    let mut left = cells_max;
    for grapheme in text.graphemes(true) {
        let piece = if is_line_end(grapheme) {
            Cow::Borrowed(" ")
        } else {
            shown(grapheme)
        };
        let wide = piece.width();
        if wide > left {
            // Room for the sign that something is missing.
            while left == 0
                && let Some(last) = result.graphemes(true).next_back().map(str::len)
            {
                let last = result.split_off(result.len() - last);
                left += last.width();
            }
            result.push_str(cut);
            break;
        }
        left -= wide;
        result.push_str(&piece);
    }
    result
}

/// The rows of a text in a column of this width. Line ends belong to no row; with
/// [`Break::Words`] neither do the spaces at which a row was broken.
pub fn rows(text: &str, width: usize, at: Break) -> Vec<Range<usize>> {
    // A wide character must find room.
    let width = width.max(2);
    let mut rows = Vec::new();
    let (mut start, mut used) = (0, 0);
    // After the last space of this row, and the cells up to there.
    let mut space: Option<(usize, usize)> = None;
    for (index, grapheme) in text.grapheme_indices(true) {
        if is_line_end(grapheme) {
            rows.push(start..index);
            (start, used, space) = (index + grapheme.len(), 0, None);
            continue;
        }
        let wide = cells(grapheme);
        if used + wide > width && at == Break::Words && grapheme == " " {
            // It hangs over the edge, unseen.
            rows.push(start..index);
            (start, used, space) = (index + 1, 0, None);
            continue;
        }
        // Twice if a wide character follows a word that fills a row but for its space.
        while used > 0 && used + wide > width {
            if let Some((after, cells)) = space.take().filter(|_| at == Break::Words) {
                rows.push(start..after - 1);
                (start, used) = (after, used - cells);
            } else {
                rows.push(start..index);
                (start, used) = (index, 0);
            }
        }
        used += wide;
        if grapheme == " " {
            space = Some((index + 1, used));
        }
    }
    rows.push(start..text.len());
    rows
}

/// The first rows of a text, harmless; the last one shows with `cut` that more would follow.
pub fn fold(text: &str, rows: &[Range<usize>], rows_max: usize, cut: &str) -> Vec<String> {
    let shown = rows.iter().take(rows_max);
    let mut shown: Vec<String> = shown
        .map(|row| line(&text[row.clone()], usize::MAX, cut))
        .collect();
    if rows.len() > rows_max
        && let (Some(last), Some(row)) = (shown.last_mut(), rows.get(rows_max))
    {
        // One cell more than it has: the end goes, and the sign stands there.
        let room = width(last);
        *last = line(&format!("{last}{}", &text[row.clone()]), room.max(1), cut);
    }
    shown
}

/// Where the links of a text are: `http://` or `https://` up to a space, without the punctuation
/// that ends a sentence.
pub fn links(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for scheme in ["http://", "https://"] {
        for (start, _) in text.match_indices(scheme) {
            let rest = &text[start..];
            let end = rest
                .find(|c: char| c.is_whitespace() || is_unfit(c) || "<>\"`".contains(c))
                .unwrap_or(rest.len());
            let link = rest[..end].trim_end_matches(|c| ".,;:!?'*_".contains(c));
            let closes = link.ends_with(')') && !link.contains('(');
            let link = if closes {
                &link[..link.len() - 1]
            } else {
                link
            };
            if link.len() > scheme.len() {
                found.push(start..start + link.len());
            }
        }
    }
    found.sort_by_key(|range| range.start);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, width: usize) -> Vec<&str> {
        let rows = rows(text, width, Break::Words);
        rows.into_iter().map(|row| &text[row]).collect()
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for code in (0..0x20)
            .chain(0x7f..0xa0)
            .chain(0x2028..0x202f)
            .chain(0x2066..0x206a)
        {
            let letter = char::from_u32(code).unwrap();
            let text = format!("a{letter}b");
            let line = line(&text, 80, "~");
            assert!(!line.chars().any(is_unfit), "{code:x}: {line:?}");
            for grapheme in text.graphemes(true).filter(|g| !is_line_end(g)) {
                assert!(!shown(grapheme).chars().any(is_unfit), "{code:x}");
            }
        }
        assert_eq!(
            line("\u{1b}[2Jx\u{202e}y\u{9b}", 80, "~"),
            "^[[2Jx<202E>y<009B>"
        );
    }

    #[test]
    fn a_cell_holds_only_so_many_marks() {
        let text = format!("a{}", "\u{301}".repeat(500));
        assert_eq!(line(&text, 80, "~").chars().count(), CLUSTER_CHARS_MAX);
        assert_eq!(width(&text), 1);
    }

    #[test]
    fn rows_break_at_spaces_and_else_anywhere() {
        assert_eq!(
            wrapped("the quick brown fox", 10),
            ["the quick", "brown fox"]
        );
        assert_eq!(
            wrapped("one\r\ntwo\n\nthree", 10),
            ["one", "two", "", "three"]
        );
        assert_eq!(wrapped("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("ab cdefghij", 4), ["ab", "cdef", "ghij"]);
        assert_eq!(wrapped("abcd efgh", 4), ["abcd", "efgh"]);
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!(wrapped(" abc日", 4), ["", "abc", "日"]);
    }

    #[test]
    fn wide_characters_take_two_cells() {
        assert_eq!(wrapped("日本語の本", 5), ["日本", "語の", "本"]);
        assert_eq!(width("日本"), 4);
        assert_eq!(width("👩‍👩‍👧x"), 3);
        assert_eq!(line("日本語", 5, "~"), "日本~");
        assert_eq!(line("abcdef", 4, "~"), "abc~");
    }

    #[test]
    fn no_row_is_wider_than_its_column() {
        let text = "a日 b語\tc https://example.org/日本 \u{1b}[31m dd  eee   ffff ";
        for width in 8..30 {
            for at in [Break::Words, Break::Anywhere] {
                for row in rows(text, width, at) {
                    assert!(super::width(&text[row.clone()]) <= width, "{width} {row:?}");
                }
            }
        }
    }

    #[test]
    fn links_end_where_a_reader_ends_them() {
        let found = |text: &'static str| -> Vec<&str> {
            links(text).into_iter().map(|range| &text[range]).collect()
        };
        assert_eq!(
            found("see https://a.example/x?y=1, and (http://b.example)."),
            ["https://a.example/x?y=1", "http://b.example"]
        );
        assert_eq!(
            found("https://c.example/w_(x)"),
            ["https://c.example/w_(x)"]
        );
        assert!(found("https:// no").is_empty());
    }

    #[test]
    fn what_does_not_fit_in_the_rows_says_so() {
        let text = "the quick brown fox jumps";
        let folded = |rows_max| {
            let rows = rows(text, 10, Break::Words);
            fold(text, &rows, rows_max, "…")
        };
        assert_eq!(folded(3), ["the quick", "brown fox", "jumps"]);
        assert_eq!(folded(2), ["the quick", "brown fo…"]);
        assert_eq!(folded(1), ["the quic…"]);
    }
}
