//! `openvalidators ledger`: whether the records are whole, copies of them, and what they take on the disk.

use std::{path::Path, process::ExitCode};

use openvalidators_ledger::{self as ledger, Checked, Identity, Reader, Sizes};
use openvalidators_messages::{Sequence, ledger::Snapshot};
use openvalidators_rewards as rewards;
use openvalidators_weights as weights;
use serde_json::{Value, json};

use crate::{
    archive::{self, ArchiveFile},
    cli::{Ledger, LedgerAction, Steps},
    config::Config,
    console::{print_json, print_text},
    shutdown,
};

/// Steps read at a time.
const PAGE_STEPS: usize = 64;

/// Runs the subcommand.
///
/// # Errors
/// When there is no ledger, it cannot be read or written, or a copy would overwrite something.
pub fn run(command: &Ledger, config: &Config) -> anyhow::Result<ExitCode> {
    let (directory, as_json) = (config.state_dir.as_path(), command.place.json);
    match &command.action {
        LedgerAction::Check => check(directory, config, as_json),
        LedgerAction::Backup { to } => {
            let bytes = ledger::backup(directory, to)?;
            match as_json {
                true => print_json(&json!({ "event": "backup", "file": to, "bytes": bytes })),
                false => print_text(&format!("{} copied to {}", amount(bytes as f64), to.display())),
            }
            Ok(ExitCode::SUCCESS)
        }
        LedgerAction::Restore { from } => {
            let (whose, checked) = ledger::restore(from, directory)?;
            match as_json {
                true => print_json(&restored_json(&whose, &checked, directory)),
                false => print_text(&restored_text(&whose, &checked, directory)),
            }
            Ok(ExitCode::SUCCESS)
        }
        LedgerAction::Export { step } => export(directory, *step),
        LedgerAction::Size { days } => size(directory, config, f64::from(*days), as_json),
    }
}

// === Check ===

fn check(directory: &Path, config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(directory)?;
    let mut checked = reader.check()?;
    for (owner, _) in checked.snapshots.clone() {
        for place in reader.states(&owner)? {
            let snapshot = reader.load_state_until(&owner, place)?;
            if let Some(Err(error)) = snapshot.map(|snapshot| decode(&owner, &snapshot, config)) {
                checked.find(format!("the state of `{owner}` at {place} cannot be read, and is folded anew: {error}"));
            }
        }
    }
    let is_whole = checked.findings.is_empty();
    match as_json {
        true => print_json(&check_json(&checked)),
        false => print_text(&check_text(&checked)),
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

/// Whether the owner that made a state can read it.
fn decode(owner: &str, snapshot: &Snapshot, config: &Config) -> Result<(), String> {
    match owner {
        rewards::OWNER => {
            let rules = rewards::fold::Rules::new(&config.rewards);
            rewards::snapshot::decode(snapshot, &rules).map(drop).map_err(|error| error.to_string())
        }
        weights::OWNER => weights::scores::Scores::restore(snapshot).map(drop).map_err(|error| error.to_string()),
        openvalidators_gating::OWNER => openvalidators_gating::snapshot::decode(snapshot, &config.gating.rules())
            .map(drop)
            .map_err(|error| error.to_string()),
        _ => Err("no part of this program has that name".to_owned()),
    }
}

fn check_json(checked: &Checked) -> Value {
    let Checked { oldest, latest, steps, outcomes, digests, intents, snapshots, findings } = checked;
    json!({
        "event": "ledger_check", "whole": findings.is_empty(), "oldest": oldest, "latest": latest, "steps": steps,
        "outcomes": outcomes, "digests": digests, "intents": intents, "snapshots": snapshots, "findings": findings,
    })
}

fn check_text(checked: &Checked) -> String {
    let Checked { oldest, latest, steps, outcomes, digests, intents, snapshots, findings } = checked;
    let owners: Vec<String> = snapshots.iter().map(|(owner, place)| format!("{owner} at {place}")).collect();
    let mut lines = vec![format!(
        "steps {oldest} to {latest}: {steps} records ({digests} compared with their digest), {outcomes} outcomes, \
         {intents} weight intents, snapshots: {}",
        if owners.is_empty() { "none yet".to_owned() } else { owners.join(", ") }
    )];
    lines.extend(findings.iter().map(|finding| format!("WRONG  {finding}")));
    lines.push(match findings.len() {
        0 => "The ledger is whole.".to_owned(),
        count => format!("{count} findings: restore a backup into a fresh state directory (docs/reliability.md)."),
    });
    lines.join("\n")
}

// === Restore ===

fn restored_json(whose: &Identity, checked: &Checked, directory: &Path) -> Value {
    json!({
        "event": "restored", "state_dir": directory, "network": whose.network, "netuid": whose.netuid,
        "hotkey": whose.hotkey, "latest": checked.latest, "intents": checked.intents,
    })
}

fn restored_text(whose: &Identity, checked: &Checked, directory: &Path) -> String {
    format!(
        "{} has the ledger of {} on {} netuid {}, up to step {}. Start it only where no other validator runs with this hotkey.",
        directory.display(),
        openvalidators_keys::ss58::encode(&whose.hotkey),
        whose.network,
        whose.netuid,
        checked.latest
    )
}

// === Export ===

/// One line for the ledger, each step, and each intent.
fn export(directory: &Path, steps: Option<Steps>) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(directory)?;
    let Identity { network, netuid, hotkey } = reader.identity();
    let (first, last) = steps.map_or((Sequence(1), Sequence(u64::MAX)), |steps| (steps.first, steps.last));
    print_json(&json!({ "event": "ledger", "network": network, "netuid": netuid, "hotkey": hotkey }));
    let mut after = Sequence(first.0 - 1);
    loop {
        let page = reader.read_steps(after, PAGE_STEPS)?;
        for step in page.iter().filter(|step| step.sequence <= last) {
            print_json(
                &json!({ "event": "step", "sequence": step.sequence, "record": step.record, "outcome": step.outcome }),
            );
        }
        match page.last() {
            Some(read) if read.sequence < last => after = read.sequence,
            _ => break,
        }
    }
    for stored in reader.intents() {
        let stored = stored?;
        let settlements = reader.read_settlements(stored.id)?;
        print_json(&json!({ "event": "intent", "id": stored.id, "intent": stored.intent, "settlements": settlements }));
    }
    Ok(ExitCode::SUCCESS)
}

// === Size ===

fn size(directory: &Path, config: &Config, days: f64, as_json: bool) -> anyhow::Result<ExitCode> {
    let sizes = Reader::open(directory)?.sizes()?;
    let archived = Archived::of(&archive::files(directory)?);
    let forecast = sizes.forecast_bytes(&config.ledger, days);
    let archive_forecast = archived.forecast_bytes(&sizes, config, days);
    match as_json {
        true => {
            let mut line = size_json(&sizes, days, forecast);
            line["archived_steps"] = archived.steps.into();
            line["archive_bytes"] = archived.bytes.into();
            line["archive_forecast_bytes"] = archive_forecast.into();
            print_json(&line);
        }
        false => {
            print_text(&size_text(&sizes, config, days, forecast));
            print_text(&archived.text(config, archive_forecast));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the ledger has given to its archive.
struct Archived {
    steps: u64,
    bytes: u64,
}

impl Archived {
    fn of(files: &[ArchiveFile]) -> Self {
        let steps = files.iter().map(|file| file.last + 1 - file.first).sum();
        Self { steps, bytes: files.iter().map(|file| file.bytes).sum() }
    }

    /// After so many more days at the pace so far; `None` without a pace, or while no step was archived to measure.
    fn forecast_bytes(&self, sizes: &Sizes, config: &Config, days: f64) -> Option<f64> {
        let settings = &config.ledger;
        if settings.retention_steps == 0 || settings.archive_max_bytes == 0 {
            return Some(self.bytes as f64);
        }
        let more = (sizes.steps as f64 + sizes.steps_a_day? * days - settings.retention_steps as f64).max(0.0);
        let each = match self.steps {
            0 if more > 0.0 => return None,
            steps => self.bytes as f64 / steps.max(1) as f64,
        };
        Some((self.bytes as f64 + more * each).min(settings.archive_max_bytes as f64))
    }

    fn text(&self, config: &Config, forecast: Option<f64>) -> String {
        let then = forecast.map_or_else(|| "not known yet".to_owned(), amount);
        format!(
            "archive  {} of {} steps; then {then}, with ledger.archive_max_bytes = {}",
            amount(self.bytes as f64),
            self.steps,
            config.ledger.archive_max_bytes
        )
    }
}

fn size_json(sizes: &Sizes, days: f64, forecast: Option<f64>) -> Value {
    json!({
        "event": "ledger_size", "file_bytes": sizes.file_bytes, "used_bytes": sizes.used_bytes, "steps": sizes.steps,
        "steps_bytes": sizes.steps_bytes, "states_bytes": sizes.states_bytes, "intents": sizes.intents,
        "intents_bytes": sizes.intents_bytes, "step_bytes": sizes.step_bytes,
        "textless_step_bytes": sizes.textless_step_bytes, "steps_a_day": sizes.steps_a_day, "days": days,
        "forecast_bytes": forecast,
    })
}

fn size_text(sizes: &Sizes, config: &Config, days: f64, forecast: Option<f64>) -> String {
    let settings = &config.ledger;
    let pace = match (sizes.steps_a_day, forecast) {
        (Some(pace), Some(bytes)) => format!("At {pace:.0} steps a day: {} in {days:.0} days", amount(bytes)),
        _ => "One step says nothing about the pace: no forecast".to_owned(),
    };
    format!(
        "file     {} ({} in use)\nsteps    {} ({}; a step {}, without texts {})\nstates   {}\nintents  {} ({})\n\
         {pace}, with ledger.retention_steps = {}, keep_texts_days = {}, max_bytes = {} (0 is no limit).",
        amount(sizes.file_bytes as f64),
        amount(sizes.used_bytes as f64),
        sizes.steps,
        amount(sizes.steps_bytes as f64),
        amount(sizes.step_bytes),
        amount(sizes.textless_step_bytes),
        amount(sizes.states_bytes as f64),
        sizes.intents,
        amount(sizes.intents_bytes as f64),
        settings.retention_steps,
        settings.keep_texts_days,
        settings.max_bytes,
    )
}

fn amount(bytes: f64) -> String {
    match bytes {
        small if small < 1e6 => format!("{:.0} KB", (small / 1e3).ceil()),
        medium if medium < 1e9 => format!("{:.1} MB", medium / 1e6),
        large => format!("{:.1} GB", large / 1e9),
    }
}
