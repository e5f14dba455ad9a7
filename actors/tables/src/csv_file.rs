//! CSV: what the `data_collector` of openvalidators wrote (one row for each event, lists as Python writes them), and what
//! we write, in the same columns.

use std::{fs::File, io::Write, path::Path};

use serde_json::{Map, Number, Value};

use crate::{
    Item, MICROS_PER_SECOND, Skip, Source, SourceError, StepRow,
    bounded::{Allowance, Bounded},
    cells::{Cell, cells, columns},
    event, list, moment,
};

/// A CSV file with a header.
pub struct CsvFile {
    name: String,
    run: String,
    records: csv::Reader<Bounded<File>>,
    allowance: Allowance,
    header: csv::StringRecord,
    rows: Vec<StepRow>,
    number: u64,
}

/// Writes steps as CSV.
pub struct CsvWriter<W: Write> {
    records: csv::Writer<W>,
}

// === impl CsvFile ===

impl CsvFile {
    /// Opens a file. Rows without a `run_id` have the name of the file for one.
    ///
    /// # Errors
    /// When it cannot be read, or its header has none of the columns of events.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let run = path.file_stem().map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
        let failed = |error: &dyn std::fmt::Display| SourceError::new(&name, error);
        let (file, allowance) = Bounded::new(File::open(path).map_err(|error| failed(&error))?);
        let mut records = csv::ReaderBuilder::new().flexible(true).from_reader(file);
        let header = records.headers().map_err(|error| failed(&error))?.clone();
        if !header.iter().any(|column| ["prompt", "base_prompt", "answer_prompt"].contains(&column)) {
            let columns: Vec<_> = header.iter().take(8).collect();
            let reason = format!(
                "its header names no `prompt`, `base_prompt` or `answer_prompt`, but {}: is it a CSV of the data_collector?",
                columns.join(" ")
            );
            return Err(SourceError::new(&name, reason));
        }
        Ok(Self { name, run, records, allowance, header, rows: Vec::new(), number: 0 })
    }

    fn read(&self, record: &csv::StringRecord) -> Result<Vec<StepRow>, Skip> {
        if record.len() != self.header.len() {
            let place = format!("{} of {} fields", record.len(), self.header.len());
            return Err(Skip { reason: "a row of another length than the header", place });
        }
        let event: Map<String, Value> = self
            .header
            .iter()
            .zip(record)
            .filter(|(_, field)| !field.is_empty())
            .map(|(column, field)| (column.to_owned(), value(column, field)))
            .collect();
        let run = event.get("run_id").and_then(Value::as_str).unwrap_or(&self.run);
        let time = event.get("_timestamp");
        let written = |text: &str| Some(moment::parse(text)? as f64 / MICROS_PER_SECOND);
        let seconds = time.and_then(|time| time.as_f64().or_else(|| written(time.as_str()?))).unwrap_or(f64::NAN);
        event::read(&event, run, seconds, self.number)
    }
}

impl Source for CsvFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if let Some(row) = self.rows.pop() {
            return Ok(Some(Item::Row(Box::new(row))));
        }
        self.allowance.renew();
        self.number += 1;
        let mut record = csv::StringRecord::new();
        let read = match self.records.read_record(&mut record) {
            Ok(true) => self.read(&record),
            Ok(false) => return Ok(None),
            Err(error) if error.is_io_error() => return Err(SourceError::new(&self.name, error)),
            Err(error) => Err(Skip { reason: "no CSV", place: error.to_string() }),
        };
        match read {
            Ok(mut rows) => {
                rows.reverse();
                let row = rows.pop();
                self.rows = rows;
                Ok(row.map(|row| Item::Row(Box::new(row))))
            }
            Err(skip) => Ok(Some(Item::Skipped(Skip { place: format!("row {} {}", self.number, skip.place), ..skip }))),
        }
    }
}

/// A field as the value it was before it became text.
fn value(column: &str, field: &str) -> Value {
    const TEXTS: [&str; 11] = [
        "name",
        "prompt",
        "best",
        "run_id",
        "context",
        "topic",
        "unscored",
        "base_prompt",
        "best_followup",
        "answer_prompt",
        "best_answer",
    ];
    if TEXTS.contains(&column) {
        return field.into();
    }
    if let Some(values) = list::parse(field) {
        return Value::Array(values);
    }
    match field.parse().ok().and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => field.into(),
    }
}

// === impl CsvWriter ===

impl<W: Write> CsvWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn new(out: W) -> Result<Self, csv::Error> {
        let mut records = csv::Writer::from_writer(out);
        records.write_record(columns().map(|(name, _)| name))?;
        Ok(Self { records })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, row: &StepRow) -> Result<(), csv::Error> {
        self.records.write_record(cells(row).map(field))
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(self) -> Result<W, csv::Error> {
        self.records.into_inner().map_err(|error| csv::Error::from(error.into_error()))
    }
}

fn field(cell: Cell<'_>) -> String {
    let numbers = |list: &[Option<f64>]| list::write(&list.iter().map(|value| (*value).into()).collect::<Vec<_>>());
    match cell {
        Cell::Text(text) => text.unwrap_or_default().to_owned(),
        Cell::Integer(number) => number.map(|number| number.to_string()).unwrap_or_default(),
        Cell::Number(number) => number.map(|number| number.to_string()).unwrap_or_default(),
        Cell::Time(micros) => moment::format(micros),
        Cell::Integers(list) => list
            .map(|list| list::write(&list.iter().map(|&value| value.into()).collect::<Vec<_>>()))
            .unwrap_or_default(),
        Cell::Texts(list) => list
            .map(|list| list::write(&list.iter().map(|text| text.as_str().into()).collect::<Vec<_>>()))
            .unwrap_or_default(),
        Cell::Numbers(list) => list.as_deref().map(numbers).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Vec<Item>, SourceError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut source = CsvFile::open(file.path())?;
        let mut items = Vec::new();
        while let Some(item) = source.next()? {
            items.push(item);
        }
        Ok(items)
    }

    #[test]
    fn rows_of_the_data_collector_are_steps_in_either_schema() {
        let long = "_timestamp,name,prompt,uids,completions,rewards,run_id\n\
            2023-07-01 12:00:00.250000,augment,p,\"[1, 2]\",\"['it''s', \"\"a\"\"]\",\"[0.5, nan]\",r1\n"
            .replace("it''s", "its");
        let found = items(&long).unwrap();
        let [Item::Row(row)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((row.run.as_str(), row.timestamp), ("r1", 1_688_212_800_250_000));
        assert_eq!(
            (&row.completions[..], &row.rewards[..]),
            (&["its".to_owned(), "a".into()][..], &[Some(0.5), None][..])
        );
        let wide = "_timestamp,base_prompt,best_followup,followup_uids,followup_completions,followup_rewards,answer_prompt,\
            best_answer,answer_uids,answer_completions,answer_rewards\n\
            1688212800,b,q,[1],['q'],[1.0],b q,a,[2],['a'],[0.5]\n";
        let found = items(wide).unwrap();
        let [Item::Row(followup), Item::Row(answer)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((followup.name.as_str(), answer.name.as_str()), ("followup0", "answer0"));
        assert_eq!(followup.forward, answer.forward);
    }

    #[test]
    fn a_bad_row_is_skipped_and_a_foreign_file_refused() {
        let found =
            items("_timestamp,name,prompt,uids,completions\nx,augment,p,[1],['a']\n1,augment\n2,augment,p,[1],['a']\n");
        let found = found.unwrap();
        let [Item::Skipped(no_time), Item::Skipped(short), Item::Row(_)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((no_time.reason, short.reason), ("no time", "a row of another length than the header"));
        assert!(items("a,b\n1,2\n").unwrap_err().to_string().contains("is it a CSV of the data_collector?"));
    }

    #[test]
    fn an_open_quotation_mark_ends_the_reading_and_not_the_memory() {
        let text = format!("name,prompt\naugment,\"{}", "x".repeat(crate::RECORD_LIMIT_BYTES + (1 << 20)));
        let error = items(&text).unwrap_err().to_string();
        assert!(error.contains("is a quotation mark left open?"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let rows = crate::store::tests::rows(6);
        let mut writer = CsvWriter::new(Vec::new()).unwrap();
        rows.iter().for_each(|row| writer.write(row).unwrap());
        let text = String::from_utf8(writer.finish().unwrap()).unwrap();
        let found: Vec<_> = items(&text).unwrap();
        let expected: Vec<_> = rows.into_iter().map(|row| Item::Row(Box::new(row))).collect();
        assert_eq!(found, expected);
    }
}
