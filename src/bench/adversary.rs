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

pub mod candidates;
pub mod defences;
pub mod expense;
pub mod honest;
pub mod judges;
pub mod lab;
pub mod play;
pub mod pool;
pub mod population;
pub mod prose;
mod remembered;
pub mod strategies;
pub mod strategy;
pub mod table;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, thread};

use anyhow::{Context, ensure};
use openvalidators_hub::Hub;
use openvalidators_messages::StepRecord;
use openvalidators_rewards::{score::Scorer, shadow::benchmark::Benchmark};
use openvalidators_runtime::{Seed, SystemClock};
use prometheus::Registry;
use serde::Serialize;

use self::{
    defences::Ablation,
    expense::Expense,
    honest::Honest,
    lab::Lab,
    play::{Attack, Board, Outcome, Recorded, Setting, play},
    pool::{Prompt, Said, Sheet},
    remembered::Remembered,
    strategy::Strategy,
};
use crate::{cli::BenchAdversary, config::Config, console::print_text, engine, models, score};

/// What stands for a strategy where nobody attacks.
const NOBODY: &str = "nobody";

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
    /// What makes it again.
    pub command: String,
    /// The same population without attackers.
    pub nobody: Game,
    /// By strategy, then by share.
    pub games: Vec<Game>,
    /// What miners earn who lie as judges, by the number of judges.
    pub collusion: Vec<judges::Collusion>,
    /// What they earn with each candidate of `rewards.shadows` in force: at the middle share.
    pub candidates: Option<Benchmark>,
    /// By defence, then by strategy: at the middle share.
    pub ablations: Vec<Ablation>,
    /// What the defences take from honest miners; not with `--strategies-only` or `--only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub honest: Option<Honest>,
    /// What they cost; with `--write` alone, since no two runs take the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expense: Option<Expense>,
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
    if let Some(file) = &command.candidates {
        candidates::write(report.candidates.as_ref(), file)?;
    }
    print_text(&if command.json { serde_json::to_string(&report)? } else { table::whole(&report) });
    Ok(ExitCode::SUCCESS)
}

/// Plays.
///
/// # Errors
/// As [`run`].
pub async fn report(command: &BenchAdversary, ours: &Config, reference: &Config) -> anyhow::Result<Report> {
    let setting = check(command)?;
    let chosen = chosen(&command.only)?;
    candidates::check(ours, command.candidates.as_deref())?;
    let seed = Seed(command.seed);
    let clock = SystemClock::shared();
    let hub = Hub::new(&ours.models, clock.clone())?;
    let sources = models::ready(&hub, ours).await?;
    let engine = engine::start(ours, &ours.models_used(), &sources, &Registry::new(), &clock).await?;
    let remembered = Arc::new(Remembered::new(engine.clone(), command.cache.as_deref()).await?);
    let inference = score::in_front_of(remembered.clone(), ours)?;

    let prompts = pool::prompts(command.conversations, setting.asked, seed)?;
    let lab = Lab::new(&ours.rewards, inference.clone());
    let mut said: Vec<Said> = Vec::new();
    for strategy in &chosen {
        tracing::info!(strategy = strategy.name(), "writing its texts");
        said.push(pool::said(*strategy, &prompts, &lab, seed).await?);
    }
    // Settings by which texts are scored: those of the reference, ours, and ours without one defence each.
    let mut settings = vec![reference.clone(), ours.clone()];
    let defences = if command.strategies_only { &[][..] } else { &defences::ALL[..] };
    settings.extend(defences.iter().map(|defence| defence.without(ours)));
    let mut sheets = Vec::new();
    for config in &settings {
        let scorer = Scorer::new(&config.rewards, inference.clone(), clock.clone())?;
        sheets.push(score_all(&prompts, &said, &scorer).await?);
        if let Some(file) = &command.cache {
            remembered.write(file)?;
        }
    }
    let boards: Vec<Board<'_>> = settings
        .iter()
        .zip(&sheets)
        .map(|(config, sheets)| Board { prompts: &prompts, sheets, config, judging: None, brief: &[] })
        .collect();
    let silence: Said = vec![vec![None]; prompts.len()];
    let mut attacks = vec![Attack { strategy: strategies::ALL[0], said: &silence, share: 0.0 }];
    for (strategy, said) in chosen.iter().zip(&said) {
        attacks.extend(command.shares.iter().map(|share| Attack { strategy: *strategy, said, share: *share }));
    }
    let middle = command.shares.get(command.shares.len() / 2).copied().unwrap_or_default();
    // Each attack under the reference and under ours; and again without each defence that is against it.
    let mut matches: Vec<Match<'_>> =
        attacks.iter().flat_map(|attack| boards[..2].iter().map(|board| Match { board, attack: *attack })).collect();
    let mut ablated = Vec::new();
    for (defence, board) in defences.iter().zip(&boards[2..]) {
        for (place, attack) in attacks.iter().enumerate() {
            if place == 0 || (attack.share == middle && defence.is_against(attack.strategy.name())) {
                ablated.push((defence, place));
                matches.push(Match { board, attack: *attack });
            }
        }
    }
    let outcomes = play_all(&matches, setting, seed);
    let (of_games, of_ablations) = outcomes.split_at(2 * attacks.len());
    let mut games: Vec<Game> = attacks
        .iter()
        .zip(of_games.chunks_exact(2))
        .map(|(attack, outcomes)| {
            let (strategy, idea) = (attack.strategy.name(), attack.strategy.idea());
            Game { strategy, idea, share: attack.share, reference: outcomes[0], ours: outcomes[1] }
        })
        .collect();
    let at_middle = |place: &usize| *place == 0 || attacks[*place].share == middle;
    let at_middle: Vec<usize> = (0..attacks.len()).filter(at_middle).collect();
    let faced: Vec<Attack<'_>> = at_middle.iter().map(|place| attacks[*place]).collect();
    let in_force: Vec<Outcome> = at_middle.iter().map(|place| games[*place].ours).collect();
    let (inference, clock) = (&inference, &clock);
    let pool = candidates::Pool { prompts: &prompts, said: &said, inference, setting, seed, clock };
    let candidates = candidates::measure(ours, &pool, &faced, &in_force).await?;
    let ablations = ablated.iter().zip(of_ablations).map(|((defence, place), without)| {
        let (attack, with) = (&attacks[*place], games[*place].ours);
        let strategy = if *place == 0 { NOBODY } else { attack.strategy.name() };
        let (switch, idea, share) = (defence.switch, defence.idea, attack.share);
        Ablation { switch, idea, strategy, share, without: *without, with }
    });
    let ablations = ablations.collect();
    let nobody = Game { strategy: NOBODY, idea: "the same subnet without attackers", ..games.remove(0) };
    let collusion = match command.strategies_only {
        true => Vec::new(),
        false => judges::play((&prompts, &sheets[1]), ours, inference, &command.shares, setting, seed)?,
    };
    // A look at some strategies, or at strategies alone, is about attackers.
    let honest = match command.strategies_only || !command.only.is_empty() {
        true => None,
        false => Some(honest::measure(ours, &prompts, setting, seed, inference, clock).await?),
    };
    let expense = match command.write {
        Some(_) => {
            let recorded = Recorded::play(&boards[1], attacks[0], setting, seed);
            let records: Vec<StepRecord> = recorded.steps.into_iter().map(|(record, _)| record).collect();
            let models = score::in_front_of(engine, ours)?;
            Some(expense::measure(ours, &records, &models, inference, clock).await?)
        }
        None => None,
    };
    if let Some(file) = &command.cache {
        remembered.write(file)?;
    }
    let texts = sheets[1].iter().map(|sheet| sheet.places.len()).sum();
    Ok(Report {
        setting,
        prompts: prompts.len(),
        texts,
        seed: command.seed,
        command: again(command),
        nobody,
        games,
        ablations,
        collusion,
        candidates,
        honest,
        expense,
    })
}

/// The command that makes this report again; what was left to the defaults is written out.
fn again(command: &BenchAdversary) -> String {
    let BenchAdversary { conversations, steps, uids, asked, shares, only, seed, set, strategies_only, .. } = command;
    let shares: Vec<String> = shares.iter().map(f64::to_string).collect();
    let mut words = format!(
        "openvalidators bench adversary --conversations {conversations} --steps {steps} --uids {uids} --asked {asked} --shares {} \
         --seed {seed}",
        shares.join(",")
    );
    if !only.is_empty() {
        words += &format!(" --only {}", only.join(","));
    }
    if *strategies_only {
        words += " --strategies-only";
    }
    words.extend(set.iter().map(|set| format!(" --set {set}")));
    words + " --write docs"
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

/// A game to be played.
struct Match<'a> {
    board: &'a Board<'a>,
    attack: Attack<'a>,
}

/// Every game, on all cores; outcomes in the order of the games.
fn play_all(matches: &[Match<'_>], setting: Setting, seed: Seed) -> Vec<Outcome> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let played = parking_lot::Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(Match { board, attack }) = matches.get(place) else { break };
                    played.lock().insert(place, play(board, *attack, setting, seed));
                }
            });
        }
    });
    played.into_inner().into_values().collect()
}
