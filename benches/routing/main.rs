//! Does learned routing find the right miners, and does it starve anyone? Against uniform routing, a text-blind bandit and
//! an oracle, on embeddings of real prompts of ten fields. `cargo bench --bench routing -- [SEEDS] [tune] [KEY=VALUE …]`, the keys
//! those of `[gating]`; offline once the model is there. The table goes to standard output, the plot to
//! `benches/routing/regret.svg`.
//!
//! Settings are chosen on the seeds of `tune`, by a table of fewer rows and without a plot; what is reported is of other seeds,
//! which nothing was chosen by.
//!
//! Prompts are those of forwards about the 150 embedded passages, read by MiniLM once and kept on disk; miners and rewards are
//! simulated (`world.rs`), so that it is known who was best. Routing, folding and scores are the program's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a measurement")]

mod plot;
mod policies;
mod prompts;
mod trial;
mod world;

use std::{collections::BTreeMap, path::Path, thread};

use openvalidators_gating::Config;

use crate::{
    plot::plot,
    policies::Kind,
    trial::{Figures, run},
    world::{PLACES, TEMPOS, World},
};

const SEEDS: u64 = 10;
/// The first seed to choose settings by, and the first to report.
const FIRST_TUNED: u64 = 0;
const FIRST_REPORTED: u64 = 1_000;
/// Two-sided 95 % quantiles of Student's t by degrees of freedom from 1.
const STUDENT: [f64; 9] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26];

fn main() {
    let seeds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(SEEDS);
    let settings: Vec<String> = std::env::args().skip(1).filter(|argument| argument.contains('=')).collect();
    let config: Config = toml::from_str(&settings.join("\n")).expect("keys of [gating] and their values");
    config.check().expect("settings that make sense");
    let prompts = prompts::load();
    let tunes = std::env::args().any(|argument| argument == "tune");
    let (first, kinds) = if tunes { (FIRST_TUNED, &Kind::TUNED[..]) } else { (FIRST_REPORTED, &Kind::ALL[..]) };
    assert!(first != FIRST_TUNED || seeds <= FIRST_REPORTED, "those are kept to report");
    let trials: Vec<(u64, Kind)> =
        (first..first + seeds).flat_map(|seed| kinds.iter().map(move |kind| (seed, *kind))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut found: BTreeMap<Kind, Vec<Figures>> = BTreeMap::new();
    let done: Vec<(Kind, u64, Figures)> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some((seed, kind)) = trials.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                done.push((*kind, *seed, run(&World::new(*seed, &prompts), *kind, &config)));
            }
            done
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a trial ends")).collect()
    });
    let mut done = done;
    done.sort_by_key(|(kind, seed, _)| (*kind, *seed));
    done.into_iter().for_each(|(kind, _, figures)| found.entry(kind).or_default().push(figures));
    report(&found);
    if tunes {
        return;
    }
    let regrets: Vec<_> = Kind::ALL
        .iter()
        .filter(|kind| kind.places() == PLACES && **kind != Kind::Oracle)
        .map(|kind| (kind.label(), found[kind].iter().map(|figures| figures.regret.clone()).collect::<Vec<_>>()))
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/routing/regret.svg");
    std::fs::write(&path, plot(&regrets)).unwrap();
    println!("\ncumulative regret over {TEMPOS} tempos: benches/routing/regret.svg");
}

fn report(found: &BTreeMap<Kind, Vec<Figures>>) {
    println!(
        "| routing | asked a step | best reward | best, unseen passages | mean reward | regret | longest wait, blocks |"
    );
    println!("|---|---|---|---|---|---|---|");
    for kind in found.keys().copied() {
        let of = |figure: fn(&Figures) -> f64| interval(&found[&kind].iter().map(figure).collect::<Vec<_>>(), 3);
        let longest = found[&kind].iter().map(|figures| figures.longest_wait).max().unwrap_or_default();
        let regret = found[&kind].iter().map(|figures| figures.regret.last().copied().unwrap_or_default());
        println!(
            "| {} | {} | {} | {} | {} | {} | {longest} |",
            kind.label(),
            kind.places(),
            of(|figures| figures.best),
            of(|figures| figures.best_unseen),
            of(|figures| figures.mean),
            interval(&regret.collect::<Vec<_>>(), 0),
        );
    }
    let gap = |kind: Kind, figure: fn(&Figures) -> f64| {
        let all = found[&kind].iter().zip(&found[&Kind::Blind]).zip(&found[&Kind::Oracle]);
        let shares: Vec<f64> = all
            .map(|((ours, blind), oracle)| 100.0 * (figure(ours) - figure(blind)) / (figure(oracle) - figure(blind)))
            .collect();
        interval(&shares, 1)
    };
    let of_kind =
        |kind: Kind, figure: fn(&Figures) -> f64| found.contains_key(&kind).then(|| format!("{} %", gap(kind, figure)));
    let half = found.get(&Kind::Half).map(|half| {
        let less = half.iter().zip(&found[&Kind::Uniform]).map(|(half, uniform)| half.best - uniform.best);
        interval(&less.collect::<Vec<_>>(), 3)
    });
    let learned = &found[&Kind::Learned];
    let worst = |figure: fn(&Figures) -> Option<f64>| {
        let found: Vec<Option<f64>> = learned.iter().map(figure).collect();
        let late = found.iter().filter(|tempos| tempos.is_none()).count();
        let mut known: Vec<f64> = found.into_iter().flatten().collect();
        known.sort_by(f64::total_cmp);
        let median = known.get(known.len() / 2).copied().unwrap_or(f64::NAN);
        format!("median {median:.2}, longest {:.2} tempos; never in {late}", known.last().copied().unwrap_or(f64::NAN))
    };
    let apart = |naive: bool| {
        let ratios: Vec<f64> = learned
            .iter()
            .map(|figures| 100.0 * (if naive { figures.twins_naive } else { figures.twins } - 1.0))
            .collect();
        interval(&ratios, 1)
    };
    let longest = learned.iter().map(|figures| figures.longest_wait).max().unwrap_or_default();
    let aims = [
        ("above the text-blind bandit by at least 10 % of its gap to the oracle", of_kind(Kind::Learned, |f| f.best)),
        ("the same on passages never routed before", of_kind(Kind::Learned, |f| f.best_unseen)),
        ("with shuffled prompts the advantage disappears", of_kind(Kind::Shuffled, |f| f.best)),
        ("LinUCB on the same features in its place", of_kind(Kind::LinUcb, |f| f.best)),
        ("Thompson sampling on the same features in its place", of_kind(Kind::Thompson, |f| f.best)),
        ("the gating head of openvalidators 1.2.0 in its place", of_kind(Kind::Head, |f| f.best)),
        ("half the queries: best reward, less that of uniform routing with all", half),
        ("a newcomer that is a specialist is found within two tempos", Some(worst(|figures| figures.newcomer))),
        ("a specialist that turned bad is dropped within two tempos", Some(worst(|figures| figures.turned))),
        ("nobody waits longer than 360 blocks", Some(longest.to_string())),
        (
            "scores of equal miners agree within 5 %: specialists above all-rounders of the same mean",
            Some(format!("{} %", apart(false))),
        ),
        ("(were every reward to count alike)", Some(format!("{} %", apart(true)))),
    ];
    println!("\n| aim | found |\n|---|---|");
    for (aim, found) in aims.into_iter().filter_map(|(aim, found)| Some((aim, found?))) {
        println!("| {aim} | {found} |");
    }
}

/// Mean and half-width of the 95 % interval over seeds.
fn interval(values: &[f64], digits: usize) -> String {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return format!("{mean:.digits$}");
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let student = STUDENT.get(values.len() - 2).copied().unwrap_or(1.96);
    format!("{mean:.digits$} ± {:.digits$}", student * (variance / count).sqrt())
}
