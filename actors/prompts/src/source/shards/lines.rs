//! JSON lines: an object on each, the text under a key.

use std::{
    io::{self, BufRead, BufReader},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{MAX_TEXT_BYTES, Mark, Packing, ReadError, Reader, Record, ShardFile, blocks::Blocks};

/// Zstandard's window, as a power of two: what its own tool unpacks without being asked to.
const WINDOW_LOG_MAX: u32 = 27;
/// Keys that an error names.
const SHOWN_KEYS: usize = 10;

pub(super) struct Lines {
    input: Box<dyn BufRead>,
    key: String,
    line: Vec<u8>,
    next: Mark,
}

/// What a line is.
enum Line {
    End,
    Whole,
    TooLong,
}

/// A shard unpacked, from its beginning, or from an offset where it is not packed.
pub(super) fn unpack(file: Arc<dyn ShardFile>, packing: Packing, offset: u64) -> Result<Box<dyn BufRead>, ReadError> {
    let damaged = |error: io::Error| ReadError::from_decoder(error);
    Ok(match packing {
        Packing::Plain => Box::new(Blocks::new(file, offset)),
        Packing::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(Blocks::new(file, 0)))),
        Packing::Zstandard => {
            let mut decoder = zstd::Decoder::with_buffer(Blocks::new(file, 0)).map_err(damaged)?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
            Box::new(BufReader::new(decoder))
        }
    })
}

// === impl Lines ===

impl Lines {
    pub fn open(file: Arc<dyn ShardFile>, packing: Packing, key: &str, from: Mark) -> Result<Self, ReadError> {
        let input = unpack(file, packing, from.offset)?;
        let mut lines = Self { input, key: key.to_owned(), line: Vec::new(), next: from };
        if packing != Packing::Plain {
            lines.next = Mark::default();
            while lines.next.record < from.record && !matches!(lines.advance()?, Line::End) {}
        }
        Ok(lines)
    }

    /// Reads a line; what is too long of it is passed over.
    fn advance(&mut self) -> Result<Line, ReadError> {
        self.line.clear();
        let mut length = 0;
        loop {
            let buffer = self.input.fill_buf().map_err(ReadError::from_decoder)?;
            let (taken, ended) = match buffer.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            length += taken as u64;
            if length <= MAX_TEXT_BYTES {
                self.line.extend_from_slice(&buffer[..taken]);
            }
            self.input.consume(taken);
            if ended {
                break;
            }
        }
        if length == 0 {
            return Ok(Line::End);
        }
        self.next = Mark { record: self.next.record + 1, offset: self.next.offset + length };
        Ok(if length > MAX_TEXT_BYTES { Line::TooLong } else { Line::Whole })
    }

    fn parse(&self) -> Record {
        let mut object: Map<String, Value> = serde_json::from_slice(&self.line)
            .map_err(|error| format!("expected a JSON object with a string `{}`: {error}", self.key))?;
        match object.remove(&self.key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("expected a string under `{}`", self.key)),
            None => {
                let keys: Vec<_> = object.keys().take(SHOWN_KEYS).map(String::as_str).collect();
                Err(format!("there is no `{}`; it has {}; set the source's `column`", self.key, keys.join(", ")))
            }
        }
    }
}

impl Reader for Lines {
    fn next(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            match self.advance()? {
                Line::End => return Ok(None),
                Line::TooLong => return Ok(Some(Err(format!("more than {MAX_TEXT_BYTES} bytes on this line")))),
                Line::Whole if self.line.trim_ascii().is_empty() => {}
                Line::Whole => return Ok(Some(self.parse())),
            }
        }
    }

    fn mark(&self) -> Mark {
        self.next
    }
}
