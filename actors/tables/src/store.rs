//! Steps in a Parquet file, one row for each: what pandas, Polars and DuckDB read, and we read back.
//!
//! Lists are Parquet lists; `_timestamp` is in microseconds, UTC; a list that a source lacked is null. Read back are also
//! Parquet files of others whose columns have the names of events. `docs/analysis.md` has the schema.

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{
    Array, ArrayRef, Float64Array, GenericListArray, Int64Array, OffsetSizeTrait, RecordBatch, StringArray,
    TimestampMicrosecondArray,
    builder::{Float64Builder, Int64Builder, ListBuilder, StringBuilder},
    cast::AsArray,
    types::{
        Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType, UInt64Type,
    },
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use serde_json::{Map, Number, Value};

use crate::{
    Item, MICROS_PER_SECOND, Skip, Source, SourceError, StepRow,
    cells::{Cell, Kind, cells, columns},
    event,
};

/// The version of the schema, under this key in the file's metadata; raised when a reader of the old one would misread it.
pub const SCHEMA_VERSION_KEY: &str = "openvalidators.schema_version";

/// See [`SCHEMA_VERSION_KEY`].
pub const SCHEMA_VERSION: &str = "1";

/// Steps gathered before they are handed to the encoder.
const BATCH_STEPS: usize = 128;

/// Steps of a row group: with a thousand completions each, some 30 MB of text.
const GROUP_STEPS: usize = 512;

/// Writes a store.
pub struct StoreWriter {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    gathered: Vec<StepRow>,
}

/// Reads a store.
pub struct Store {
    name: String,
    batches: ParquetRecordBatchReader,
    batch: Option<RecordBatch>,
    place: usize,
    number: u64,
    /// Of rows without a `run_id`.
    run: String,
    /// Read but not handed on, latest first: an old row is two steps.
    rows: Vec<StepRow>,
}

// === impl StoreWriter ===

impl StoreWriter {
    /// Into an open, empty file.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn new(file: File) -> Result<Self, ParquetError> {
        let fields: Vec<Field> = columns().map(|(name, kind)| Field::new(name, data_type(kind), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let version = KeyValue::new(SCHEMA_VERSION_KEY.to_owned(), SCHEMA_VERSION.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_STEPS))
            .set_key_value_metadata(Some(vec![version]))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))?;
        Ok(Self { writer, schema, gathered: Vec::new() })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, row: StepRow) -> Result<(), ParquetError> {
        self.gathered.push(row);
        if self.gathered.len() == BATCH_STEPS { self.encode() } else { Ok(()) }
    }

    /// Writes what is left and the footer, without which the file is none.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(mut self) -> Result<File, ParquetError> {
        self.encode()?;
        self.writer.into_inner()
    }

    fn encode(&mut self) -> Result<(), ParquetError> {
        let mut by_column: Vec<Vec<Cell<'_>>> = columns().map(|_| Vec::with_capacity(self.gathered.len())).collect();
        for row in &self.gathered {
            by_column.iter_mut().zip(cells(row)).for_each(|(column, cell)| column.push(cell));
        }
        let arrays = columns().zip(by_column).map(|((_, kind), cells)| array(kind, &cells)).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays)?;
        self.writer.write(&batch)?;
        self.gathered.clear();
        Ok(())
    }
}

fn data_type(kind: Kind) -> DataType {
    let list = |of| DataType::List(Arc::new(Field::new("item", of, true)));
    match kind {
        Kind::Text => DataType::Utf8,
        Kind::Integer => DataType::Int64,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Number => DataType::Float64,
        Kind::Integers => list(DataType::Int64),
        Kind::Texts => list(DataType::Utf8),
        Kind::Numbers => list(DataType::Float64),
    }
}

/// A column of cells, all of one kind.
fn array(kind: Kind, cells: &[Cell<'_>]) -> ArrayRef {
    macro_rules! gather {
        ($variant:ident) => {
            cells.iter().map(|cell| if let Cell::$variant(value) = cell { value.clone() } else { Default::default() })
        };
    }
    match kind {
        Kind::Text => Arc::new(gather!(Text).collect::<StringArray>()),
        Kind::Integer => Arc::new(gather!(Integer).collect::<Int64Array>()),
        Kind::Number => Arc::new(gather!(Number).collect::<Float64Array>()),
        Kind::Time => {
            let times: TimestampMicrosecondArray = gather!(Time).collect::<Vec<i64>>().into();
            Arc::new(times.with_timezone("UTC"))
        }
        Kind::Integers => {
            let mut lists = ListBuilder::new(Int64Builder::new());
            gather!(Integers).for_each(|list| {
                lists.append_option(list.as_deref().map(|list| list.iter().map(|value| Some(*value))))
            });
            Arc::new(lists.finish())
        }
        Kind::Texts => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            gather!(Texts).for_each(|list| lists.append_option(list.as_deref().map(|list| list.iter().map(Some))));
            Arc::new(lists.finish())
        }
        Kind::Numbers => {
            let mut lists = ListBuilder::new(Float64Builder::new());
            gather!(Numbers).for_each(|list| lists.append_option(list.as_deref().map(|list| list.iter().copied())));
            Arc::new(lists.finish())
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens a Parquet file.
    ///
    /// # Errors
    /// When it cannot be read, is no Parquet file, or of a later version.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| SourceError::new(&name, error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| SourceError::new(&name, error))?;
        let metadata = builder.metadata().file_metadata().key_value_metadata();
        let version = metadata.into_iter().flatten().find(|pair| pair.key == SCHEMA_VERSION_KEY);
        if let Some(found) = version.and_then(|pair| pair.value.as_deref()).filter(|found| *found != SCHEMA_VERSION) {
            let reason =
                format!("it has version {found} of the schema; this program reads {SCHEMA_VERSION}: use a later one");
            return Err(SourceError::new(&name, reason));
        }
        let batches = builder.with_batch_size(BATCH_STEPS).build().map_err(|error| SourceError::new(&name, error))?;
        Ok(Self { run: name.clone(), name, batches, batch: None, place: 0, number: 0, rows: Vec::new() })
    }

    /// The run of rows that name none, in place of the file's name.
    #[must_use]
    pub fn of_run(self, run: &str) -> Self {
        Self { run: run.to_owned(), ..self }
    }

    /// A row as an event; what is null is left out.
    fn event(batch: &RecordBatch, place: usize) -> Map<String, Value> {
        let schema = batch.schema_ref();
        let named = schema.fields().iter().zip(batch.columns());
        named
            .filter(|(_, column)| column.is_valid(place))
            .map(|(field, column)| (field.name().clone(), value(column, place)))
            .collect()
    }
}

impl Source for Store {
    fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if let Some(row) = self.rows.pop() {
            return Ok(Some(Item::Row(Box::new(row))));
        }
        let batch = match &self.batch {
            Some(batch) if self.place < batch.num_rows() => batch,
            _ => match self.batches.next() {
                None => return Ok(None),
                Some(batch) => {
                    self.place = 0;
                    let batch = batch.map_err(|error| SourceError::new(&self.name, error))?;
                    if batch.num_rows() == 0 {
                        return self.next();
                    }
                    self.batch.insert(batch)
                }
            },
        };
        let event = Self::event(batch, self.place);
        self.place += 1;
        self.number += 1;
        let run = event.get("run_id").and_then(Value::as_str).unwrap_or(&self.run);
        let seconds = match event.get("_timestamp") {
            Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
            _ => f64::NAN,
        };
        match event::read(&event, run, seconds, self.number) {
            Ok(rows) => self.rows = rows.into_iter().rev().collect(),
            Err(skip) => {
                let place = format!("row {} {}", self.number, skip.place);
                return Ok(Some(Item::Skipped(Skip { place, ..skip })));
            }
        }
        self.next()
    }
}

/// The value at a place, times in seconds; of a type that events do not have, null.
fn value(column: &ArrayRef, place: usize) -> Value {
    fn number(value: f64) -> Value {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
    fn list<O: OffsetSizeTrait>(lists: &GenericListArray<O>, place: usize) -> Value {
        let values = lists.value(place);
        (0..values.len()).map(|at| if values.is_valid(at) { value(&values, at) } else { Value::Null }).collect()
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(place).into(),
        DataType::Utf8View => column.as_string_view().value(place).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(place).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(place).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(place).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(place).into(),
        DataType::Float64 => number(column.as_primitive::<Float64Type>().value(place)),
        DataType::Float32 => number(column.as_primitive::<Float32Type>().value(place).into()),
        DataType::Boolean => column.as_boolean().value(place).into(),
        DataType::Timestamp(unit, _) => number(match unit {
            TimeUnit::Second => column.as_primitive::<TimestampSecondType>().value(place) as f64,
            TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().value(place) as f64 / 1e3,
            TimeUnit::Microsecond => {
                column.as_primitive::<TimestampMicrosecondType>().value(place) as f64 / MICROS_PER_SECOND
            }
            // Whole microseconds, or the number would not be the one that was written.
            TimeUnit::Nanosecond => {
                (column.as_primitive::<TimestampNanosecondType>().value(place) / 1_000) as f64 / MICROS_PER_SECOND
            }
        }),
        DataType::List(_) => list(column.as_list::<i32>(), place),
        DataType::LargeList(_) => list(column.as_list::<i64>(), place),
        _ => Value::Null,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Column, Merged, Shadow};

    pub(crate) fn rows(count: i64) -> Vec<StepRow> {
        let shadows = |at: i64| {
            let (name, seconds) = ("firewall_filter".to_owned(), Some(0.25));
            let asked =
                Shadow { name, correlation: None, blocked: Some(0.1 * at as f64), seconds, failed: at % 3 == 0 };
            vec![asked, Shadow { name: "rank_normaliser".into(), correlation: Some(1.0), ..Shadow::default() }]
        };
        let row = |at: i64| StepRow {
            run: "r".into(),
            forward: Some(at / 3),
            context: format!("{at:016x}"),
            topic: (at % 2 == 0).then(|| "rivers".to_owned()),
            name: ["augment", "followup0", "answer0"][(at % 3) as usize].into(),
            timestamp: 1_795_339_015_321_338 + at,
            block: Some(at),
            step_length: Some(0.1 * at as f64),
            prompt: format!("prompt {at}\n\"é\""),
            uids: vec![1, 2, 3],
            hotkeys: vec![],
            completions: vec!["a".into(), String::new(), format!("{at}")],
            completion_times: vec![Some(0.5), None, Some(1.0 / 3.0)],
            status_codes: vec![200, 408, 200],
            propensities: vec![],
            rewards: if at % 4 == 0 { vec![] } else { vec![Some(0.25), Some(0.0), None] },
            best: Some("a".into()),
            unscored: (at % 4 == 0).then(|| "no model".to_owned()),
            columns: vec![Column {
                name: "dpo_reward_model",
                raw: vec![Some(-1.5), None, Some(0.1)],
                normalized: vec![],
            }],
            shadows: if at % 2 == 0 { vec![] } else { shadows(at) },
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let rows = rows(300);
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = StoreWriter::new(file.reopen().unwrap()).unwrap();
        rows.iter().for_each(|row| writer.write(row.clone()).unwrap());
        writer.finish().unwrap();
        let mut found = Merged::new(vec![Box::new(Store::open(file.path()).unwrap())]);
        let found: Vec<_> = std::iter::from_fn(|| found.next_step().unwrap()).collect();
        assert_eq!(found, rows);
    }

    /// What knows the columns of earlier versions alone takes each by its name, and what stands beside them for nothing of its own.
    #[test]
    fn candidates_have_columns_that_no_earlier_version_has_by_the_name_of_another() {
        let names: Vec<String> = columns().map(|(name, _)| name).collect();
        assert!(names[names.len() - 5..].iter().all(|name| name.starts_with("shadow_")), "{names:?}");
        assert!(!names.iter().any(|name| name == "shadows"), "a list of objects in event logs");
        assert_eq!(SCHEMA_VERSION, "1");
    }

    #[test]
    fn what_is_no_parquet_file_is_told_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"PAR1 truncated").unwrap();
        let error = Store::open(file.path()).err().unwrap().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
