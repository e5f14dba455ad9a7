//! `openvalidators bench adversary`: what a miner earns that does not do the work.
//!
//! A population of honest miners in three tiers and of attackers is asked step after step. Texts come from finite pools
//! and are scored once by the real rewards and filters ([`pool`]); then every strategy is played at every share of
//! attackers, under the configured rewards and under those of openvalidators 1.2.0, through the real fold of rewards, the
//! real moving averages and the real weight vector ([`play`]). A strategy knows what a miner knows ([`strategy::View`]).
//!
//! What this leaves out: the wire (limits on bytes, headers and time stand before everything that is scored here), the
//! forward (the best completion does not become the next prompt), learned routing, and other validators. Special tokens in
//! completions are read as text in both columns.

pub mod judges;
pub mod lab;
pub mod play;
pub mod pool;
mod remembered;
pub mod strategies;
pub mod strategy;
pub mod table;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, thread};

use anyhow::{Context, ensure};
use openvalidators_hub::Hub;
use openvalidators_rewards::score::Scorer;
use openvalidators_runtime::{Seed, SystemClock};
use prometheus::Registry;
use serde::Serialize;

use self::{
    lab::Lab,
    play::{Attack, Board, Outcome, Setting, play},
    pool::{Prompt, Said, Sheet},
    remembered::Remembered,
    strategy::Strategy,
};
use crate::{cli::BenchAdversary, config::Config, console::print_text, engine, models, score};

/// The most miners: a subnet has no more places.
const MOST_UIDS: usize = 4_096;

/// A game and how it ended under each rule book.
#[derive(Clone, Debug, Serialize)]
pub struct Game {
    /// The strategy's name.
    pub strategy: &'static str,
    /// What it does.
    pub idea: &'static str,
    /// The attackers' share of the uids.
    pub share: f64,
    /// As openvalidators 1.2.0 judged.
    pub reference: Outcome,
    /// As configured.
    pub ours: Outcome,
}

/// Everything that was played.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How.
    pub setting: Setting,
    /// Prompts.
    pub prompts: usize,
    /// Different texts that were scored.
    pub texts: usize,
    /// Where passages and dice came from.
    pub seed: u64,
    /// The same population without attackers.
    pub nobody: Game,
    /// By strategy, then by share.
    pub games: Vec<Game>,
    /// What miners earn who lie as judges, by the number of judges.
    pub collusion: Vec<judges::Collusion>,
}

/// Plays and prints.
///
/// # Errors
/// What kept it from playing: options, models, files.
pub async fn run(command: &BenchAdversary, ours: Config, reference: Config) -> anyhow::Result<ExitCode> {
    let report = report(command, &ours, &reference).await?;
    if let Some(folder) = &command.write {
        table::write(&report, folder)?;
    }
    print_text(&if command.json { serde_json::to_string(&report)? } else { table::text(&report) });
    Ok(ExitCode::SUCCESS)
}

/// Plays.
///
/// # Errors
/// As [`run`].
pub async fn report(command: &BenchAdversary, ours: &Config, reference: &Config) -> anyhow::Result<Report> {
    let setting = check(command)?;
    let chosen = chosen(&command.only)?;
    let seed = Seed(command.seed);
    let clock = SystemClock::shared();
    let hub = Hub::new(&ours.models, clock.clone())?;
    let sources = models::ready(&hub, ours).await?;
    let engine = engine::start(ours, &ours.models_used(), &sources, &Registry::new(), &clock).await?;
    let remembered = Arc::new(Remembered::new(engine, command.cache.as_deref()).await?);
    let inference = score::in_front_of(remembered.clone(), ours)?;

    let prompts = pool::prompts(command.conversations, setting.asked, seed)?;
    let lab = Lab::new(&ours.rewards, inference.clone());
    let mut said: Vec<Said> = Vec::new();
    for strategy in &chosen {
        tracing::info!(strategy = strategy.name(), "writing its texts");
        said.push(pool::said(*strategy, &prompts, &lab, seed).await?);
    }
    let mut sheets = Vec::new();
    for config in [&reference.rewards, &ours.rewards] {
        sheets.push(score_all(&prompts, &said, &Scorer::new(config, inference.clone(), clock.clone())?).await?);
        if let Some(file) = &command.cache {
            remembered.write(file)?;
        }
    }
    let [of_reference, of_ours] = &sheets[..] else { anyhow::bail!("two rule books were to be scored") };
    let board = |config, sheets| Board { prompts: &prompts, sheets, config };
    let boards = [board(&reference.rewards, of_reference), board(&ours.rewards, of_ours)];
    let silence: Said = vec![vec![None]; prompts.len()];
    let mut attacks = vec![Attack { strategy: strategies::ALL[0], said: &silence, share: 0.0 }];
    for (strategy, said) in chosen.iter().zip(&said) {
        attacks.extend(command.shares.iter().map(|share| Attack { strategy: *strategy, said, share: *share }));
    }
    let mut games = play_all(&boards, &attacks, setting, seed);
    let nobody = Game { strategy: "nobody", idea: "the same subnet without attackers", ..games.remove(0) };
    let texts = of_ours.iter().map(|sheet| sheet.places.len()).sum();
    let collusion = judges::play(&prompts, &command.shares, seed)?;
    Ok(Report { setting, prompts: prompts.len(), texts, seed: command.seed, nobody, games, collusion })
}

fn check(command: &BenchAdversary) -> anyhow::Result<Setting> {
    let BenchAdversary { conversations, steps, uids, asked, shares, .. } = command;
    ensure!(
        *conversations > 1,
        "--conversations is {conversations}; there must be a prompt before each of its kind, so 2 or more"
    );
    ensure!(*steps > 0, "--steps is 0; it must be 1 or more");
    ensure!((1..=MOST_UIDS).contains(uids), "--uids is {uids}; it must be from 1 to {MOST_UIDS}");
    ensure!((1..=*uids).contains(asked), "--asked is {asked}; it must be from 1 to the number of uids, {uids}");
    for share in shares {
        ensure!((0.0..1.0).contains(share) && *share > 0.0, "--shares has {share}; a share is above 0 and below 1");
    }
    Ok(Setting { uids: *uids, asked: *asked, steps: *steps })
}

/// The strategies whose name contains one of `only`; all when that is empty.
fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static dyn Strategy>> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only.as_str()));
    let chosen: Vec<_> = strategies::ALL.into_iter().filter(|strategy| wanted(strategy.name())).collect();
    let known = || strategies::ALL.iter().map(|strategy| strategy.name()).collect::<Vec<_>>().join(", ");
    ensure!(!chosen.is_empty(), "--only names no strategy; there are: {}", known());
    Ok(chosen)
}

async fn score_all(prompts: &[Prompt], said: &[Said], scorer: &Scorer) -> anyhow::Result<Vec<Sheet>> {
    let mut sheets = Vec::with_capacity(prompts.len());
    for (place, prompt) in prompts.iter().enumerate() {
        tracing::info!(prompt = place + 1, of = prompts.len(), "scoring everything that is said to it");
        let texts = said.iter().flat_map(|said| said[place].iter().flatten());
        sheets.push(Sheet::new(prompt, texts, scorer).await.context("scoring the texts of the benchmark")?);
    }
    Ok(sheets)
}

/// Every attack under both rule books, on all cores.
fn play_all(boards: &[Board<'_>; 2], attacks: &[Attack<'_>], setting: Setting, seed: Seed) -> Vec<Game> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let played = parking_lot::Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(attack) = attacks.get(place) else { break };
                    let [reference, ours] = boards.each_ref().map(|board| play(board, *attack, setting, seed));
                    let (strategy, idea) = (attack.strategy.name(), attack.strategy.idea());
                    played.lock().insert(place, Game { strategy, idea, share: attack.share, reference, ours });
                }
            });
        }
    });
    played.into_inner().into_values().collect()
}
