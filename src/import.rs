//! `openvalidators import`: what openvalidators 1.2.0 had learned becomes the beginning of a fresh state directory.
//!
//! 1.2.0 keeps its state beside its logs (`utils.py:save_state`): moving averages and hotkeys in `model.torch`, the gating
//! head in `MODEL_gating_linear_layer.pth`, the embeddings of the diversity filter in `diversity_model.pth`. They become the
//! snapshots that scores, routing and rewards begin with, at the place before the first step. Everything is read before
//! anything is written; as long as no step has been taken, an import may be done again, and replaces the one before.

mod state_1_2_0;

use std::{path::Path, process::ExitCode};

use anyhow::{Context, ensure};
use openvalidators_gating::{self as gating, head::Head};
use openvalidators_hub::Hub;
use openvalidators_keys::HotkeySigner;
use openvalidators_ledger::{Identity, Store};
use openvalidators_messages::{Hotkey, Netuid, Sequence, Uid, inference::Pooling, ledger::Snapshot};
use openvalidators_rewards::{self as rewards, history::History};
use openvalidators_runtime::SystemClock;
use openvalidators_weights::{self as weights, scores::Scores};
use serde::Serialize;

use crate::{
    cli::Import,
    config::Config,
    console::{print_json, print_text},
};
use state_1_2_0::{Matrix, State};

/// The encoder of 1.2.0's diversity filter.
const DIVERSITY_REPOSITORY: &str = "sentence-transformers/all-mpnet-base-v2";

/// What became of one part of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    part: &'static str,
    taken: bool,
    says: String,
}

/// The snapshots to begin with, and what is to be said of them.
struct Beginning {
    /// By owner.
    snapshots: [(&'static str, Snapshot); 3],
    findings: [Finding; 3],
}

/// Reads the state directory of 1.2.0 and writes the ledger's first snapshots.
///
/// # Errors
/// When the directory holds no such state, a file of it is damaged, or the ledger has steps already. Nothing was written then.
pub fn run(command: &Import, config: &Config, signer: &HotkeySigner) -> anyhow::Result<ExitCode> {
    let state = State::read(&command.from)?;
    let hub = Hub::new(&config.models, SystemClock::shared())?;
    let beginning = Beginning::of(&state, config, &hub)?;
    let identity = Identity {
        network: config.chain.endpoint.network().to_owned(),
        netuid: Netuid(config.chain.netuid),
        hotkey: signer.hotkey(),
    };
    beginning.write(&config.state_dir, &identity)?;
    if command.json {
        print_json(&serde_json::json!({
            "event": "import",
            "from": command.from,
            "state_dir": config.state_dir,
            "findings": beginning.findings,
        }));
    } else {
        for Finding { part, taken, says } in &beginning.findings {
            print_text(&format!("{part:<18} {:<10} {says}", if *taken { "taken" } else { "NOT TAKEN" }));
        }
        print_text(&format!("written to {}; `openvalidators run` goes on from there", config.state_dir.display()));
    }
    Ok(ExitCode::SUCCESS)
}

impl Finding {
    fn of(part: &'static str, says: Result<String, String>) -> Self {
        let taken = says.is_ok();
        Self { part, taken, says: says.unwrap_or_else(|why| why) }
    }
}

// === impl Beginning ===

impl Beginning {
    fn of(state: &State, config: &Config, hub: &Hub) -> anyhow::Result<Self> {
        let scores: Vec<(Hotkey, f64)> = state.scores().collect();
        let averages = format!("{} of {} hotkeys have a score{}", scores.len(), state.hotkeys.len(), state.left_out());
        let scores = Scores::begin_with(scores).snapshot()?;

        let encoder = config.gating.encoder();
        let (routing, head) = match head(state, config, hub) {
            Ok(head) => {
                let says = format!("{} rows of {} weights and a bias", head.len(), head.width());
                (gating::state::State::with_head(&encoder, head), Ok(says))
            }
            Err(why) => (gating::state::State::new(&encoder), Err(why)),
        };
        let (rewards, history) = match history(state, config, hub) {
            Ok(history) => {
                let says = format!("the latest {} embeddings of {} numbers", history.len(), history.width());
                let history_model = config.rewards.diversity.model.to_string();
                (rewards::fold::State { history, history_model, ..Default::default() }, Ok(says))
            }
            Err(why) => (rewards::fold::State::default(), Err(why)),
        };
        Ok(Self {
            // All three, so that nothing of an earlier import stays.
            snapshots: [
                (weights::OWNER, scores),
                (gating::OWNER, gating::snapshot::encode(&routing)?),
                (rewards::OWNER, rewards::snapshot::encode(&rewards)?),
            ],
            findings: [
                Finding::of("moving averages", Ok(averages)),
                Finding::of("gating head", head),
                Finding::of("diversity history", history),
            ],
        })
    }

    fn write(&self, directory: &Path, identity: &Identity) -> anyhow::Result<()> {
        let mut store = Store::open(directory, identity, 0)?;
        let latest = store.latest()?;
        ensure!(
            latest == Sequence(0),
            "importing into {}: its ledger has {latest} steps, which know nothing of 1.2.0; name a fresh --state-dir",
            directory.display()
        );
        for (owner, snapshot) in &self.snapshots {
            store.save_snapshot(owner, snapshot).context("importing; do it again before the first run")?;
        }
        Ok(())
    }
}

/// The head of the encoder that reads prompts here, a row for each hotkey.
fn head(state: &State, config: &Config, hub: &Hub) -> Result<Head, String> {
    let model = &config.gating.model;
    let repository = hub.entry(&model.0).ok().and_then(|entry| entry.repository.clone());
    let known = [Some(model.to_string()), repository];
    let file_of = |name: &String| name.replace('/', "_");
    let found = state.heads.iter().find(|(encoder, _)| known.iter().flatten().any(|name| file_of(name) == **encoder));
    let Some((_, head)) = found else {
        let others: Vec<_> = state.heads.keys().map(String::as_str).collect();
        return Err(match others.as_slice() {
            [] => "there is none".to_owned(),
            others => format!(
                "it scores what {} reads, and gating.model is `{model}`; name that model to go on with it",
                others.join(" or ")
            ),
        });
    };
    if !matches!(config.gating.pooling, Pooling::LastToken | Pooling::MeanOfWindows) {
        return Err("1.2.0 reads the last token of a causal model, or the mean of windows: set gating.pooling to \
                    \"last_token\" or \"mean_of_windows\""
            .to_owned());
    }
    let mut taken = Head::new(head.weights.width);
    let rows = head.weights.rows().zip(&head.biases);
    for (uid, (hotkey, (weights, bias))) in (0..).map(Uid).zip(state.hotkeys.iter().zip(rows)) {
        if let Some(hotkey) = hotkey {
            taken.seat_with(uid, *hotkey, [weights, &[*bias]].concat());
        }
    }
    if taken.is_empty() {
        Err("not one of its rows belongs to a hotkey and is all numbers".to_owned())
    } else {
        Ok(taken)
    }
}

/// What the diversity filter remembers, if it is the same encoder that does.
fn history(state: &State, config: &Config, hub: &Hub) -> Result<History, String> {
    let Some(Matrix { width, values }) = &state.history else { return Err("there is none".to_owned()) };
    let model = &config.rewards.diversity.model;
    let repository = hub.entry(&model.0).ok().and_then(|entry| entry.repository.clone());
    if repository.as_deref() != Some(DIVERSITY_REPOSITORY) {
        return Err(format!(
            "it was made by {DIVERSITY_REPOSITORY}, and rewards.diversity.model is `{model}`: their embeddings do not mix"
        ));
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err("it holds what is no number".to_owned());
    }
    Ok(History::from_rows(*width, values, rewards::fold::Rules::new(&config.rewards).history_rows()))
}

#[cfg(test)]
mod tests;
