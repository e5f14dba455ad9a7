//! What a ledger takes on the disk, and what it will take.

use openvalidators_messages::{Sequence, ledger::LedgerError};

use crate::{
    LedgerConfig, Reader, additions,
    fault::{Fault, our_number},
    reader::{READ_LIMIT_STEPS, used_bytes},
    store::without_texts,
};

const SECONDS_A_DAY: f64 = 86_400.0;

/// Of so many of the latest steps it is seen what their texts take.
const SAMPLED_STEPS: u64 = 100;

/// What lies in a ledger, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    /// Of the file, without its write-ahead log.
    pub file_bytes: u64,
    /// Of its pages that hold something.
    pub used_bytes: u64,
    /// Steps there are.
    pub steps: u64,
    /// Of records and outcomes.
    pub steps_bytes: u64,
    /// Of the owners' latest states and of those put aside.
    pub states_bytes: u64,
    /// Intents there are.
    pub intents: u64,
    /// Of intents and settlements.
    pub intents_bytes: u64,
    /// A step with its texts and outcome, on average of the latest; 0 without steps.
    pub step_bytes: f64,
    /// The same without texts.
    pub textless_step_bytes: f64,
    /// Steps a day, from when the oldest and the latest began; `None` when they say nothing.
    pub steps_a_day: Option<f64>,
}

// === impl Reader ===

impl Reader {
    /// Measures the ledger. Reads lengths, not contents, but for the latest steps.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sizes(&self) -> Result<Sizes, LedgerError> {
        let measured = self.measure().map_err(|fault| fault.during("measure the ledger"))?;
        self.sample(measured)
    }

    fn measure(&self) -> Result<Sizes, Fault> {
        let number =
            |sql: &str| -> Result<u64, Fault> { our_number(self.connection.query_row(sql, [], |row| row.get(0))?) };
        let length =
            |table: &str, column: &str| number(&format!("SELECT coalesce(sum(length({column})), 0) FROM {table}"));
        let archive = if additions::is_complete(&self.connection)? { length("archive", "state")? } else { 0 };
        let page_bytes = number("PRAGMA page_size")?;
        let steps = number("SELECT count(*) FROM steps")?;
        let span: Option<f64> = self.connection.query_row(
            "SELECT max(at) - min(at) FROM (SELECT record ->> '$.started_at' AS at FROM steps WHERE sequence IN
                 ((SELECT min(sequence) FROM steps), (SELECT max(sequence) FROM steps)))",
            [],
            |row| row.get(0),
        )?;
        Ok(Sizes {
            file_bytes: page_bytes * number("PRAGMA page_count")?,
            used_bytes: used_bytes(&self.connection)?,
            steps,
            steps_bytes: length("steps", "CAST(record AS BLOB)")? + length("outcomes", "CAST(outcome AS BLOB)")?,
            states_bytes: length("snapshots", "state")? + archive,
            intents: number("SELECT count(*) FROM intents")?,
            intents_bytes: length("intents", "intent")? + length("settlements", "settlement")?,
            steps_a_day: span.filter(|span| *span > 0.0).map(|span| (steps - 1) as f64 / span * SECONDS_A_DAY),
            ..Sizes::default()
        })
    }

    fn sample(&self, mut sizes: Sizes) -> Result<Sizes, LedgerError> {
        let after = Sequence(self.latest()?.0.saturating_sub(SAMPLED_STEPS));
        let length = |value: serde_json::Result<String>| value.map_or(0, |json| json.len());
        let (mut count, mut whole, mut textless) = (0_u64, 0, 0);
        let mut at = after;
        loop {
            let steps = self.read_steps(at, READ_LIMIT_STEPS)?;
            let Some(last) = steps.last() else { break };
            at = last.sequence;
            for step in &steps {
                let outcome = length(serde_json::to_string(&step.outcome));
                let mut record = (*step.record).clone();
                whole += length(serde_json::to_string(&record)) + outcome;
                without_texts(&mut record);
                textless += length(serde_json::to_string(&record)) + outcome;
                count += 1;
            }
        }
        if count > 0 {
            sizes.step_bytes = whole as f64 / count as f64;
            sizes.textless_step_bytes = textless as f64 / count as f64;
        }
        Ok(sizes)
    }
}

// === impl Sizes ===

impl Sizes {
    /// Bytes of the file after so many more days at the pace so far, under these settings; `None` without a pace.
    #[must_use]
    pub fn forecast_bytes(&self, config: &LedgerConfig, days: f64) -> Option<f64> {
        let pace = self.steps_a_day?;
        let steps = self.steps as f64 + pace * days;
        let kept = if config.retention_steps == 0 { steps } else { steps.min(config.retention_steps as f64) };
        let with_texts = match config.keep_texts_days {
            0 => kept,
            texts_days => kept.min(pace * texts_days as f64),
        };
        let content = with_texts * self.step_bytes + (kept - with_texts) * self.textless_step_bytes;
        let intents = self.intents_bytes as f64 * (1.0 + pace * days / (self.steps.max(1)) as f64);
        let overhead =
            self.used_bytes as f64 / (self.steps_bytes + self.states_bytes + self.intents_bytes).max(1) as f64;
        let forecast = overhead.max(1.0) * (content + intents + self.states_bytes as f64);
        Some(if config.max_bytes == 0 { forecast } else { forecast.min(config.max_bytes as f64) })
    }
}
