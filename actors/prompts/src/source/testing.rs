//! What the tests of sources share: files of texts, a clock that flies, and a double of the hub.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod double;

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use futures::future::BoxFuture;
use openvalidators_runtime::Clock;
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

pub use double::{Double, Fault, Seen};

/// A hundred times as fast as the machine's.
#[derive(Default)]
pub struct FlyingClock(Mutex<Duration>);

impl Clock for FlyingClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn unix(&self) -> Duration {
        self.now()
    }

    #[allow(clippy::disallowed_methods, reason = "lets threads and servers of this machine do their work meanwhile")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        *self.0.lock().unwrap() += duration;
        Box::pin(tokio::time::sleep(duration / 100))
    }
}

/// Numbered texts.
#[must_use]
pub fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("This is text number {number}, and it is about nothing else.")).collect()
}

/// A Parquet file of row groups of three, with a column that is a thousand times as heavy as the texts.
#[must_use]
pub fn parquet(column: &str, texts: &[String]) -> Vec<u8> {
    parquet_of(column, texts, 3, 20_000)
}

/// A Parquet file packed as the hub's converter packs: texts under `column`, and a column of so many words that nobody asked
/// for; in row groups of so many rows.
#[must_use]
pub fn parquet_of(column: &str, texts: &[String], group: usize, words: usize) -> Vec<u8> {
    let heavy: Vec<String> = (0..texts.len()).map(|row| format!("{row} ").repeat(words)).collect();
    let columns: [(&str, ArrayRef); 2] = [
        ("heavy", Arc::new(StringArray::from_iter_values(&heavy))),
        (column, Arc::new(StringArray::from_iter_values(texts))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_column_compression(column.into(), Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(group))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// JSON lines of texts.
#[must_use]
pub fn json_lines(texts: &[String]) -> Vec<u8> {
    texts
        .iter()
        .map(|text| format!("{}\n", serde_json::json!({"id": 1, "text": text})))
        .collect::<String>()
        .into_bytes()
}

/// Packed by gzip.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Packed by Zstandard.
#[must_use]
pub fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
