//! The line that is being written; it may have several.

use super::text::{self, Break};
use std::ops::Range;
use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};

/// A text with a cursor in it.
#[derive(Clone, Debug, Default)]
pub struct Editor {
    text: String,
    /// In bytes, between two graphemes.
    cursor: usize,
}

impl Editor {
    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Nothing was.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Where the cursor is, in bytes.
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// Another text, the cursor at its end.
    pub fn set(&mut self, text: &str) {
        self.text.clear();
        self.cursor = 0;
        self.insert(text);
    }

    /// The text, and nothing is left.
    pub fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Writes at the cursor. Line ends become `\n`; other control characters but tabs go.
    pub fn insert(&mut self, text: &str) {
        let clean: String = text
            .replace("\r\n", "\n")
            .chars()
            .map(|letter| if letter == '\r' { '\n' } else { letter })
            .filter(|letter| !letter.is_control() || matches!(letter, '\n' | '\t'))
            .collect();
        self.text.insert_str(self.cursor, &clean);
        self.cursor += clean.len();
        self.settle();
    }

    /// A combining mark may have joined what stood before or behind: the cursor never stands
    /// inside a grapheme.
    fn settle(&mut self) {
        while !self.is_boundary(self.cursor) {
            self.cursor += 1;
        }
    }

    fn is_boundary(&self, at: usize) -> bool {
        self.text.is_char_boundary(at)
            && GraphemeCursor::new(at, self.text.len(), true)
                .is_boundary(&self.text, 0)
                .unwrap_or(true)
    }

    /// Replaces a part; the cursor is after it.
    pub fn replace(&mut self, range: Range<usize>, text: &str) {
        self.cut(range);
        self.insert(text);
    }

    /// Removes a part, and puts the cursor there.
    fn cut(&mut self, range: Range<usize>) {
        self.cursor = range.start;
        self.text.replace_range(range, "");
        self.settle();
    }

    /// Removes what is before the cursor.
    pub fn backspace(&mut self) {
        self.cut(self.before()..self.cursor);
    }

    /// Removes what is under the cursor.
    pub fn delete(&mut self) {
        self.cut(self.cursor..self.after());
    }

    /// Removes the word before the cursor.
    pub fn delete_word(&mut self) {
        self.cut(self.word_start()..self.cursor);
    }

    /// Removes up to the beginning of the line.
    pub fn delete_to_start(&mut self) {
        self.cut(self.line_start()..self.cursor);
    }

    /// Removes up to the end of the line.
    pub fn delete_to_end(&mut self) {
        self.cut(self.cursor..self.line_end());
    }

    /// One to the left.
    pub fn left(&mut self) {
        self.cursor = self.before();
    }

    /// One to the right.
    pub fn right(&mut self) {
        self.cursor = self.after();
    }

    /// To the beginning of the word.
    pub fn word_left(&mut self) {
        self.cursor = self.word_start();
    }

    /// Behind the next word.
    pub fn word_right(&mut self) {
        let rest = &self.text[self.cursor..];
        let word = rest
            .find(|c: char| !c.is_whitespace())
            .unwrap_or(rest.len());
        let end = rest[word..].find(char::is_whitespace);
        self.cursor += end.map_or(rest.len(), |end| word + end);
    }

    /// To the beginning of the line.
    pub fn home(&mut self) {
        self.cursor = self.line_start();
    }

    /// To the end of the line.
    pub fn end(&mut self) {
        self.cursor = self.line_end();
    }

    /// To the line above; false if there is none.
    pub fn up(&mut self) -> bool {
        let start = self.line_start();
        let Some(end_above) = start.checked_sub(1) else {
            return false;
        };
        let column = text::width(&self.text[start..self.cursor]);
        let start_above = self.text[..end_above].rfind('\n').map_or(0, |at| at + 1);
        self.cursor = self.at_column(start_above..end_above, column);
        true
    }

    /// To the line below; false if there is none.
    pub fn down(&mut self) -> bool {
        let end = self.line_end();
        if end == self.text.len() {
            return false;
        }
        let column = text::width(&self.text[self.line_start()..self.cursor]);
        let below = end + 1;
        let end_below = self.text[below..]
            .find('\n')
            .map_or(self.text.len(), |at| below + at);
        self.cursor = self.at_column(below..end_below, column);
        true
    }

    /// The word before the cursor, for completion.
    pub fn word(&self) -> Range<usize> {
        let start = self.text[..self.cursor]
            .rfind(char::is_whitespace)
            .map_or(0, |at| {
                at + self.text[at..].chars().next().map_or(1, char::len_utf8)
            });
        start..self.cursor
    }

    /// The rows on the screen, and where in them the cursor is (row, cell).
    pub fn layout(&self, width: usize) -> (Vec<Range<usize>>, (usize, usize)) {
        let mut rows = text::rows(&self.text, width, Break::Anywhere);
        let row = rows
            .iter()
            .rposition(|row| row.start <= self.cursor)
            .unwrap_or(0);
        let cell = text::width(&self.text[rows[row].start..self.cursor]);
        if cell < width.max(2) {
            return (rows, (row, cell));
        }
        // Behind the last cell: the cursor stands on a row of its own.
        if row + 1 == rows.len() {
            rows.push(self.cursor..self.cursor);
        }
        (rows, (row + 1, 0))
    }

    fn before(&self) -> usize {
        let last = self.text[..self.cursor].graphemes(true).next_back();
        self.cursor - last.map_or(0, str::len)
    }

    fn after(&self) -> usize {
        let next = self.text[self.cursor..].graphemes(true).next();
        self.cursor + next.map_or(0, str::len)
    }

    fn word_start(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        let space = before.char_indices().rev().find(|(_, c)| c.is_whitespace());
        space.map_or(0, |(at, c)| at + c.len_utf8())
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        let rest = &self.text[self.cursor..];
        rest.find('\n')
            .map_or(self.text.len(), |at| self.cursor + at)
    }

    fn at_column(&self, line: Range<usize>, column: usize) -> usize {
        let mut cell = 0;
        for (at, grapheme) in self.text[line.clone()].grapheme_indices(true) {
            if cell >= column {
                return line.start + at;
            }
            cell += text::cells(grapheme);
        }
        line.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn editor(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(text);
        editor
    }

    #[test]
    fn a_paste_keeps_its_lines_and_loses_what_steers_a_terminal() {
        assert_eq!(editor("a\r\nb\rc\u{1b}[31m\td").text(), "a\nb\nc[31m\td");
    }

    #[test]
    fn the_cursor_moves_by_what_a_person_sees() {
        let mut editor = editor("a👩‍👩‍👧é");
        editor.left();
        editor.left();
        assert_eq!(editor.cursor(), 1);
        editor.delete();
        assert_eq!(editor.text(), "aé");
        editor.end();
        editor.backspace();
        editor.backspace();
        editor.backspace();
        assert!(editor.is_empty());
    }

    #[test]
    fn words_and_lines() {
        let mut editor = editor("one two\nthree four");
        editor.delete_word();
        assert_eq!(editor.text(), "one two\nthree ");
        assert!(editor.up());
        assert_eq!(editor.cursor(), 6);
        assert!(!editor.up());
        assert!(editor.down());
        assert!(!editor.down());
        editor.home();
        editor.delete_to_end();
        assert_eq!(editor.text(), "one two\n");
    }

    #[test]
    fn the_cursor_is_found_again_on_the_screen() {
        let mut editor = editor("abcdef\ngh");
        assert_eq!(editor.layout(4), (vec![0..4, 4..6, 7..9], (2, 2)));
        editor.set("abcd");
        assert_eq!(editor.layout(4), (vec![0..4, 4..4], (1, 0)));
        editor.set("日本");
        assert_eq!(editor.layout(5).1, (0, 4));
    }
}
