//! How examples are written.

use std::{collections::BTreeMap, io::Write};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use super::example::{Example, LeftOut, Origin};
use crate::cli::{Export, ExportKind, MiningFormat};

/// Followups that wait for their answer at once; the oldest is given up.
const WAITING_LIMIT: usize = 4_096;

/// One file of examples, in the shape that was asked for.
pub struct Shape<W: Write> {
    out: W,
    form: Form,
    /// Examples written.
    pub written: u64,
}

enum Form {
    /// `data_formatter.create_json_dataset`: `{PROMPT: COMPLETION}`, or `{PROMPT: {COMPLETION: REWARD}}`.
    Object { scored: bool },
    /// One JSON object a line.
    Lines(ExportKind),
    /// `data_formatter.create_csv_dataset`: a followup and its answer in each row.
    Table { scored: bool, waiting: BTreeMap<(i64, String, String), Example>, unpaired: u64 },
}

#[derive(Serialize)]
struct RewardLine<'a> {
    prompt: &'a str,
    completion: &'a str,
    reward: Option<f64>,
    scores: &'a BTreeMap<&'static str, f64>,
    origin: &'a Origin,
}

#[derive(Serialize)]
struct PairLine<'a> {
    prompt: &'a str,
    chosen: &'a str,
    rejected: &'a str,
    chosen_reward: Option<f64>,
    rejected_reward: f64,
    origin: &'a Origin,
}

// === impl Shape ===

impl<W: Write> Shape<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(mut out: W, command: &Export) -> anyhow::Result<Self> {
        let scored = command.kind == ExportKind::ScoredMining;
        let form = match (command.kind, command.format) {
            (ExportKind::Mining | ExportKind::ScoredMining, MiningFormat::Json) => {
                out.write_all(b"{")?;
                Form::Object { scored }
            }
            (ExportKind::Mining | ExportKind::ScoredMining, MiningFormat::Csv) => {
                // The first column is the index that pandas writes.
                let header: &[&str] = match scored {
                    false => &["", "base_prompt", "best_followup", "answer_prompt", "best_answer"],
                    true => &[
                        "",
                        "base_prompt",
                        "best_followup",
                        "followup_rewards",
                        "answer_prompt",
                        "best_answer",
                        "answer_rewards",
                    ],
                };
                write_csv(&mut out, header)?;
                Form::Table { scored, waiting: BTreeMap::new(), unpaired: 0 }
            }
            (kind, _) => Form::Lines(kind),
        };
        Ok(Self { out, form, written: 0 })
    }

    /// Adds an example.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, example: Example) -> anyhow::Result<()> {
        let Example { prompt, completion, reward, rejected, origin, scores } = &example;
        match &mut self.form {
            Form::Object { scored } => {
                let before = if self.written == 0 { "" } else { ", " };
                let completion = if *scored { json!({ completion.as_str(): reward }) } else { json!(completion) };
                write!(self.out, "{before}{}: {completion}", json!(prompt))?;
            }
            Form::Lines(ExportKind::Chat) => {
                let messages =
                    json!([{ "role": "user", "content": prompt }, { "role": "assistant", "content": completion }]);
                writeln!(self.out, "{}", json!({ "messages": messages }))?;
            }
            Form::Lines(ExportKind::RewardModel) => {
                line(&mut self.out, &RewardLine { prompt, completion, reward: *reward, scores, origin })?;
            }
            Form::Lines(ExportKind::Dpo) => {
                let (rejected, least) = rejected.as_ref().context("a pair without the rejected one")?;
                let (chosen_reward, rejected_reward) = (*reward, *least);
                line(
                    &mut self.out,
                    &PairLine { prompt, chosen: completion, rejected, chosen_reward, rejected_reward, origin },
                )?;
            }
            Form::Lines(_) => line(&mut self.out, &json!({ "prompt": prompt, "completion": completion }))?,
            Form::Table { scored, waiting, unpaired } => {
                let round = origin.name.trim_start_matches(|letter: char| letter.is_ascii_alphabetic()).to_owned();
                let Some(forward) = origin.forward.filter(|_| !round.is_empty()) else {
                    *unpaired += 1;
                    return Ok(());
                };
                let key = (forward, origin.run_id.clone(), round);
                if origin.name.starts_with("followup") {
                    waiting.insert(key, example);
                    if waiting.len() > WAITING_LIMIT {
                        waiting.pop_first();
                        *unpaired += 1;
                    }
                    return Ok(());
                }
                let Some(followup) = waiting.remove(&key) else {
                    *unpaired += 1;
                    return Ok(());
                };
                let [asked, answered] = [followup.reward, *reward].map(|reward| reward.unwrap_or_default().to_string());
                let index = self.written.to_string();
                let mut fields =
                    vec![index.as_str(), &followup.prompt, &followup.completion, &asked, prompt, completion, &answered];
                if !*scored {
                    fields = vec![&index, &followup.prompt, &followup.completion, prompt, completion];
                }
                write_csv(&mut self.out, &fields)?;
            }
        }
        self.written += 1;
        Ok(())
    }

    /// Ends the file; says what could not be written.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(mut self) -> anyhow::Result<LeftOut> {
        let mut left_out = LeftOut::new();
        match self.form {
            Form::Object { .. } => self.out.write_all(b"}")?,
            Form::Table { waiting, unpaired, .. } if unpaired > 0 || !waiting.is_empty() => {
                left_out.insert("a followup or answer without the other", unpaired + waiting.len() as u64);
            }
            _ => {}
        }
        self.out.flush()?;
        Ok(left_out)
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(out.write_all(b"\n")?)
}

/// One row, quoted where it has to be (RFC 4180).
fn write_csv(out: &mut impl Write, fields: &[&str]) -> anyhow::Result<()> {
    let quoted = |field: &&str| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => (*field).to_owned(),
    };
    Ok(writeln!(out, "{}", fields.iter().map(quoted).collect::<Vec<_>>().join(","))?)
}
