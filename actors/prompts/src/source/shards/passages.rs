//! Plain text: one passage, or several under `# Title` lines.

use std::{io::Read, sync::Arc, vec};

use super::{MAX_TEXT_BYTES, Mark, Packing, ReadError, Reader, Record, ShardFile, lines::unpack};
use crate::source::titled;

pub(super) struct Passages {
    rest: vec::IntoIter<String>,
    next: Mark,
}

// === impl Passages ===

impl Passages {
    pub fn open(file: Arc<dyn ShardFile>, packing: Packing, from: Mark) -> Result<Self, ReadError> {
        let mut bytes = Vec::new();
        let mut input = unpack(file, packing, 0)?.take(MAX_TEXT_BYTES + 1);
        input.read_to_end(&mut bytes).map_err(ReadError::from_decoder)?;
        if bytes.len() as u64 > MAX_TEXT_BYTES {
            return Err(ReadError::lasting(format!("it has more than {MAX_TEXT_BYTES} bytes; split it")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            ReadError::lasting(format!("it is not UTF-8 at byte {at}; convert it or move it away"))
        })?;
        let skipped = usize::try_from(from.record).unwrap_or(usize::MAX);
        let passages: Vec<_> = titled::passages(&text).skip(skipped).map(str::to_owned).collect();
        Ok(Self { rest: passages.into_iter(), next: from })
    }
}

impl Reader for Passages {
    fn next(&mut self) -> Result<Option<Record>, ReadError> {
        let next = self.rest.next();
        self.next.record += u64::from(next.is_some());
        Ok(next.map(Ok))
    }

    fn mark(&self) -> Mark {
        self.next
    }
}
