//! A shard read from a place to its end, a block at a time.

use std::{
    io::{self, BufRead, Read},
    sync::Arc,
};

use bytes::Bytes;

use super::{BLOCK_BYTES, ReadError, ShardFile};

/// A reader over a [`ShardFile`]. Its errors carry a [`ReadError`].
pub(super) struct Blocks {
    file: Arc<dyn ShardFile>,
    /// Where the next block begins.
    at: u64,
    block: Bytes,
}

// === impl Blocks ===

impl Blocks {
    pub fn new(file: Arc<dyn ShardFile>, at: u64) -> Self {
        Self { file, at, block: Bytes::new() }
    }
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let end = (self.at + BLOCK_BYTES).min(self.file.bytes());
        if self.block.is_empty() && self.at < end {
            let block = self.file.read(self.at..end).map_err(io::Error::other)?;
            if block.len() as u64 != end - self.at {
                return Err(io::Error::other(ReadError::passing("it has become shorter")));
            }
            (self.block, self.at) = (block, end);
        }
        Ok(&self.block)
    }

    fn consume(&mut self, amount: usize) {
        let _ = self.block.split_to(amount.min(self.block.len()));
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut block = self.fill_buf()?;
        let read = block.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
