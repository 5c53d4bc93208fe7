//! Cuts a stream of bytes into frames, each a line.

use bytes::{Bytes, BytesMut};

/// What could be cut off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// A frame, without its line end.
    Frame(Bytes),
    /// A frame beyond the limit. Told once; the rest of it is dropped up to its line end.
    TooLong,
    /// The frame is not complete yet.
    Incomplete,
}

/// The bytes of one direction of a connection.
///
/// Invariants: the buffer holds at most the limit and what was read at once; a byte is looked at
/// for a line end once only, however slowly a frame dribbles in.
#[derive(Debug)]
pub struct Lines {
    buffer: BytesMut,
    /// No line end before this.
    scanned: usize,
    /// Inside a frame beyond the limit.
    dropping: bool,
    frame_bytes_max: usize,
}

impl Lines {
    /// Frames of at most so many bytes, without their line end.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            dropping: false,
            frame_bytes_max,
        }
    }

    /// Where to put what was read: append only.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame. A CR before the line end is part of the line end; empty lines are skipped.
    pub fn next_frame(&mut self) -> Cut {
        loop {
            let rest = &self.buffer[self.scanned..];
            let Some(found) = rest.iter().position(|byte| *byte == b'\n') else {
                return self.incomplete();
            };
            let mut line = self.buffer.split_to(self.scanned + found + 1);
            self.scanned = 0;
            line.truncate(line.len() - 1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if std::mem::take(&mut self.dropping) || line.is_empty() {
                continue;
            }
            if line.len() > self.frame_bytes_max {
                return Cut::TooLong;
            }
            return Cut::Frame(line.freeze());
        }
    }

    fn incomplete(&mut self) -> Cut {
        self.scanned = self.buffer.len();
        // One more for a CR that may belong to the line end.
        if self.dropping || self.scanned > self.frame_bytes_max + 1 {
            self.buffer.clear();
            self.scanned = 0;
            if !std::mem::replace(&mut self.dropping, true) {
                return Cut::TooLong;
            }
        }
        Cut::Incomplete
    }

    /// Has a frame begun that has not ended? Meaningful after [`Cut::Incomplete`].
    pub fn is_inside_frame(&self) -> bool {
        self.dropping || !self.buffer.is_empty()
    }

    /// Gives the memory back, if nothing is kept in it.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}
