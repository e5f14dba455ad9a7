//! Reading with a limit on each record, so that a line without an end takes no memory.

use std::{
    cell::Cell,
    io::{self, BufRead, Read},
    rc::Rc,
};

use crate::RECORD_LIMIT_BYTES;

/// What one call of [`next_line`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// The last line, which has no end: whoever wrote it was cut off, or is writing still.
    Cut(Vec<u8>),
    /// A line longer than [`RECORD_LIMIT_BYTES`]; it was passed over.
    TooLong,
}

/// The next line; `None` at the end.
pub(crate) fn next_line(lines: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    let limit = RECORD_LIMIT_BYTES as u64 + 1;
    if lines.by_ref().take(limit).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        return Ok(Some(Line::Whole(bytes)));
    }
    if (bytes.len() as u64) < limit {
        return Ok(Some(Line::Cut(bytes)));
    }
    lines.skip_until(b'\n')?;
    Ok(Some(Line::TooLong))
}

/// A reader that refuses to go on once more than so many bytes were taken since [`Allowance::renew`].
pub(crate) struct Bounded<R> {
    inner: R,
    allowance: Allowance,
}

/// What may still be read.
#[derive(Clone)]
pub(crate) struct Allowance(Rc<Cell<usize>>);

impl Allowance {
    /// Allows a whole record again.
    pub(crate) fn renew(&self) {
        self.0.set(RECORD_LIMIT_BYTES);
    }
}

impl<R: Read> Bounded<R> {
    pub(crate) fn new(inner: R) -> (Self, Allowance) {
        let allowance = Allowance(Rc::new(Cell::new(RECORD_LIMIT_BYTES)));
        (Self { inner, allowance: allowance.clone() }, allowance)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.allowance.0.get().checked_sub(read).ok_or_else(|| {
            let mebibytes = RECORD_LIMIT_BYTES >> 20;
            io::Error::other(format!("a record is longer than {mebibytes} MiB: is a quotation mark left open?"))
        })?;
        self.allowance.0.set(left);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_is_passed_over_and_the_next_one_read() {
        let long = io::repeat(b'x').take(RECORD_LIMIT_BYTES as u64 + 5);
        let mut lines = io::BufReader::new(io::Cursor::new("a\n").chain(long).chain(io::Cursor::new("\nb\nc")));
        assert_eq!(next_line(&mut lines).unwrap(), Some(Line::Whole(b"a".to_vec())));
        assert_eq!(next_line(&mut lines).unwrap(), Some(Line::TooLong));
        assert_eq!(next_line(&mut lines).unwrap(), Some(Line::Whole(b"b".to_vec())));
        assert_eq!(next_line(&mut lines).unwrap(), Some(Line::Cut(b"c".to_vec())));
        assert_eq!(next_line(&mut lines).unwrap(), None);
    }
}
