//! Parquet: one column of texts, a row group at a time. Of a file elsewhere the footer and that column are fetched, and
//! nothing else. The format: <https://parquet.apache.org/docs/file-format/>.

use std::{
    io::{Cursor, Read},
    ops::Range,
    sync::Arc,
};

use arrow_array::{Array, ArrayRef, cast::AsArray};
use arrow_schema::DataType;
use bytes::Bytes;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        },
    },
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};

use super::{FOOTER_LIMIT_BYTES, Mark, ROW_GROUP_LIMIT_BYTES, ReadError, Reader, Record, ShardFile, blocks::Blocks};

/// Length of the footer and the magic word, at the very end.
const TAIL_BYTES: u64 = 8;
/// Rows decoded at a time.
const BATCH_ROWS: usize = 64;

pub(super) struct Table {
    file: Arc<dyn ShardFile>,
    metadata: ArrowReaderMetadata,
    /// The column's place among the leaves of the schema.
    leaf: usize,
    /// The next row group.
    group: usize,
    /// Rows of it that were read before.
    skip: usize,
    batches: Option<ParquetRecordBatchReader>,
    texts: Option<ArrayRef>,
    row: usize,
    next: Mark,
}

/// A file of which one region is in memory.
struct Region {
    file: Arc<dyn ShardFile>,
    start: u64,
    bytes: Bytes,
}

// === impl Table ===

impl Table {
    pub fn open(file: Arc<dyn ShardFile>, column: &str, from: Mark) -> Result<Self, ReadError> {
        let metadata = footer(&file)?;
        let leaf = text_column(&metadata, column)?;
        let mut skip = from.record;
        let mut group = 0;
        for rows in metadata.metadata().row_groups().iter().map(|group| group.num_rows().unsigned_abs()) {
            if skip < rows {
                break;
            }
            skip -= rows;
            group += 1;
        }
        let skip = usize::try_from(skip).map_err(ReadError::lasting)?;
        Ok(Self { file, metadata, leaf, group, skip, batches: None, texts: None, row: 0, next: from })
    }

    /// Fetches the texts of the next row group; false when there is none.
    fn enter(&mut self) -> Result<bool, ReadError> {
        let groups = self.metadata.metadata();
        if self.group >= groups.num_row_groups() {
            return Ok(false);
        }
        let chunk = groups.row_group(self.group).column(self.leaf);
        let (start, length) = chunk.byte_range();
        let unpacked = chunk.uncompressed_size().unsigned_abs();
        if length.max(unpacked) > ROW_GROUP_LIMIT_BYTES || start.saturating_add(length) > self.file.bytes() {
            return Err(ReadError::lasting(format!(
                "the texts of row group {} are {length} bytes at byte {start}, {unpacked} unpacked: the limit is \
                 {ROW_GROUP_LIMIT_BYTES}, the file has {}",
                self.group,
                self.file.bytes()
            )));
        }
        let region = Region::fetch(&self.file, start..start + length)?;
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(region, self.metadata.clone())
            .with_row_groups(vec![self.group])
            .with_projection(ProjectionMask::leaves(groups.file_metadata().schema_descr(), [self.leaf]))
            .with_batch_size(BATCH_ROWS)
            .with_offset(std::mem::take(&mut self.skip))
            .build();
        self.batches = Some(batches.map_err(ReadError::from_decoder)?);
        self.group += 1;
        Ok(true)
    }

    /// The text at a row; an empty one where it is null.
    fn text(&self) -> Option<String> {
        let texts = self.texts.as_ref().filter(|texts| self.row < texts.len())?;
        if texts.is_null(self.row) {
            return Some(String::new());
        }
        Some(match texts.data_type() {
            DataType::LargeUtf8 => texts.as_string::<i64>().value(self.row).to_owned(),
            DataType::Utf8View => texts.as_string_view().value(self.row).to_owned(),
            _ => texts.as_string::<i32>().value(self.row).to_owned(),
        })
    }
}

impl Reader for Table {
    fn next(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            if let Some(text) = self.text() {
                self.row += 1;
                self.next.record += 1;
                return Ok(Some(Ok(text)));
            }
            match self.batches.as_mut().and_then(Iterator::next) {
                Some(batch) => {
                    let batch = batch.map_err(ReadError::from_decoder)?;
                    (self.texts, self.row) = (batch.columns().first().cloned(), 0);
                }
                None if self.enter()? => self.texts = None,
                None => return Ok(None),
            }
        }
    }

    fn mark(&self) -> Mark {
        self.next
    }
}

fn footer(file: &Arc<dyn ShardFile>) -> Result<ArrowReaderMetadata, ReadError> {
    let bytes = file.bytes();
    let tail = file.read(bytes.saturating_sub(TAIL_BYTES)..bytes)?;
    let length = match *tail {
        [a, b, c, d, b'P', b'A', b'R', b'1'] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => return Err(ReadError::lasting("it is not Parquet: the last four bytes are not PAR1")),
    };
    let Some(start) = bytes.checked_sub(TAIL_BYTES + length).filter(|_| length <= FOOTER_LIMIT_BYTES) else {
        return Err(ReadError::lasting(format!("its footer is {length} bytes; the limit is {FOOTER_LIMIT_BYTES}")));
    };
    let region = Region::fetch(file, start..bytes)?;
    ArrowReaderMetadata::load(&region, ArrowReaderOptions::new().with_skip_arrow_metadata(true))
        .map_err(ReadError::from_decoder)
}

/// The leaf of a column of texts at the top of the schema.
fn text_column(metadata: &ArrowReaderMetadata, column: &str) -> Result<usize, ReadError> {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let texts = metadata.schema().fields().iter().filter(|field| is_text(field.data_type()));
    let texts: Vec<&str> = texts.map(|field| field.name().as_str()).collect();
    let leaves = metadata.metadata().file_metadata().schema_descr().columns();
    let leaf = leaves.iter().position(|leaf| leaf.path().parts() == [column]);
    leaf.filter(|_| texts.contains(&column)).ok_or_else(|| {
        let found = if texts.is_empty() { "no column of texts".to_owned() } else { texts.join(", ") };
        ReadError::lasting(format!("it has no column of texts `{column}`; it has {found}; set the source's `column`"))
    })
}

// === impl Region ===

impl Region {
    fn fetch(file: &Arc<dyn ShardFile>, range: Range<u64>) -> Result<Self, ReadError> {
        Ok(Self { file: file.clone(), start: range.start, bytes: file.read(range)? })
    }

    /// What is in memory from a place on.
    fn from(&self, start: u64) -> Option<Bytes> {
        let at = usize::try_from(start.checked_sub(self.start)?).ok()?;
        (at < self.bytes.len()).then(|| self.bytes.slice(at..))
    }
}

impl Length for Region {
    fn len(&self) -> u64 {
        self.file.bytes()
    }
}

impl ChunkReader for Region {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(match self.from(start) {
            Some(bytes) => Box::new(Cursor::new(bytes)),
            None => Box::new(Blocks::new(self.file.clone(), start)),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if let Some(bytes) = self.from(start).filter(|bytes| bytes.len() >= length) {
            return Ok(bytes.slice(..length));
        }
        let end = start.saturating_add(length as u64);
        if end > self.file.bytes() || length as u64 > ROW_GROUP_LIMIT_BYTES {
            return Err(ParquetError::EOF(format!("bytes {start} to {end} of {}", self.file.bytes())));
        }
        self.file.read(start..end).map_err(|error| ParquetError::External(Box::new(error)))
    }
}
