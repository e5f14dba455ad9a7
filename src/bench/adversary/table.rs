//! The benchmark's table and plot.

use std::{fmt::Write, path::Path};

use anyhow::Context;

use super::{Game, Report, candidates, defences::Ablation, expense, honest, judges::Captured, play::Outcome};

/// What the table promises of each column.
const LEGEND: &str = "\
*Capture*: the attackers' share of the weights over their share of the uids; 1 is what an average miner gets. *Rank*: \
Spearman's correlation of honest miners' weights with their three tiers (ties at their mean rank, so that about 0.94 is the \
most). *Zeroed*: honest completions that filters leave less than a tenth of. *Found out*: the step from which on capture \
stays at or below 0.5. *Length*: characters of an attacker's text over those of an honest one: what scoring it costs.";

/// What the table of judges shows.
const COLLUSION_LEGEND: &str = "\
Where miners grade each other (`network_reward_model`), attackers who do poor work give each other 10 and others 0. In each \
cell their capture ratio in a game in which these grades are the only reward, asked for, read and reduced by the validator's \
own code, with every completion judged and all filters in force: by the mean of the judges' grades → by their median, as in \
the validator; in brackets, when they judge honestly.";

/// How to read the second table.
const ABLATION_LEGEND: &str = "\
In each cell: everything but this defence → everything. One row is the subnet without attackers: what the defence costs honest \
miners. Each is a switch of the configuration; `--compat` turns all off. Thresholds were set with the texts of seed 20231 in sight; \
those of another seed were not.";

/// What the aims mean.
const MISSED_LEGEND: &str = "\
Aims: capture at most 0.5 at 5 and 15 % attackers and 1.0 at 30 %; honest completions zeroed at most 1 %; rank correlation at \
least 0.9. What the benchmark measured otherwise:";

/// Most that attackers may capture, and up to which share of the uids.
const AIM_CAPTURE: f64 = 0.5;
const AIM_UNTIL_SHARE: f64 = 0.15;
/// Most that more of them may capture.
const AIM_CAPTURE_OF_MANY: f64 = 1.0;
/// Most honest completions that filters may zero.
const AIM_ZEROED: f64 = 0.01;
/// The least rank correlation of honest miners.
const AIM_RANK: f64 = 0.9;

/// The games of one strategy, by share.
struct Row<'a> {
    games: Vec<&'a Game>,
}

/// Both tables as text, and what is missed.
#[must_use]
pub fn whole(report: &Report) -> String {
    let candidates = candidates::section(report.candidates.as_ref());
    let (games, costs) = (text(report), costs(report));
    format!("{games}\n{}\n{costs}\n{candidates}{}", ablations(report), missed(report).join("\n"))
}

/// The table as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let shares: Vec<f64> =
        rows(report).first().map_or_else(Vec::new, |row| row.games.iter().map(|g| g.share).collect());
    let percent = |share: &f64| format!("{:.0} %", 100.0 * share);
    let columns: Vec<String> = shares.iter().map(|share| format!("capture at {}", percent(share))).collect();
    let last = shares.last().map_or_else(String::new, percent);
    let _ = writeln!(
        text,
        "| strategy | what it does | {} | rank at {last} | zeroed at {last} | found out at {last} | length |",
        columns.join(" | ")
    );
    let _ = writeln!(text, "|---|---|{}---|---|---|---|", "---|".repeat(columns.len()));
    let nobody = &report.nobody;
    let dashes = vec!["–"; columns.len()].join(" | ");
    let _ = writeln!(text, "| *{}* | {} | {dashes} | {} | – | – |", nobody.strategy, nobody.idea, honesty(nobody));
    for row in rows(report) {
        let Some(game) = row.games.last() else { continue };
        let captures: Vec<String> = row.games.iter().map(|game| pair(game, |outcome| two(outcome.capture))).collect();
        let found_out =
            pair(game, |outcome| outcome.found_out_after.map_or("never".to_owned(), |step| step.to_string()));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {found_out} | {} |",
            game.strategy,
            game.idea,
            captures.join(" | "),
            honesty(game),
            two(game.ours.length)
        );
    }
    text
}

/// What colluding judges get, as text.
fn collusion(report: &Report) -> String {
    let shares: Vec<f64> =
        rows(report).first().map_or_else(Vec::new, |row| row.games.iter().map(|game| game.share).collect());
    let columns: Vec<String> = shares.iter().map(|share| format!("capture at {:.0} %", 100.0 * share)).collect();
    let mut text = format!("| judges | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for played in &report.collusion {
        let cell = |captured: &Captured| {
            format!("{} → {} ({})", two(captured.mean), two(captured.median), two(captured.honest))
        };
        let cells: Vec<String> = played.captures.iter().map(cell).collect();
        let _ = writeln!(text, "| {} | {} |", played.judges, cells.join(" | "));
    }
    text
}

/// What each defence buys, as text; nothing where no game was played without one.
#[must_use]
pub fn ablations(report: &Report) -> String {
    let mut text =
        String::from("| defence | what it does | strategy | capture | rank | zeroed |\n|---|---|---|---|---|---|\n");
    for ablation in &report.ablations {
        let Ablation { switch, idea, strategy, share, without, with } = ablation;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let (against, capture) = match *share > 0.0 {
            true => (
                format!("{strategy} at {:.0} %", 100.0 * share),
                format!("{} → {}", two(without.capture), two(with.capture)),
            ),
            false => (format!("*{strategy}*"), "–".to_owned()),
        };
        let rank = format!("{} → {}", two(without.rank_correlation), two(with.rank_correlation));
        let zeroed = format!("{} → {}", percent(without.honest_zeroed), percent(with.honest_zeroed));
        let _ = writeln!(text, "| `{switch}` | {idea} | {against} | {capture} | {rank} | {zeroed} |");
    }
    text
}

/// What the defences take from honest miners and what they cost, as far as it was measured: chapters of the page.
fn costs(report: &Report) -> String {
    let mut text = String::new();
    if let Some(honest) = &report.honest {
        let _ = writeln!(text, "## What the defences take from honest miners\n\n{}", honest::text(honest));
    }
    if let Some(expense) = &report.expense {
        let _ = writeln!(text, "## What the defences cost\n\n{}", expense::text(expense));
    }
    text
}

/// What the project aims at and does not reach, one line each.
#[must_use]
pub fn missed(report: &Report) -> Vec<String> {
    let mut missed = Vec::new();
    for Game { strategy, share, ours, .. } in &report.games {
        let aim = if *share > AIM_UNTIL_SHARE { AIM_CAPTURE_OF_MANY } else { AIM_CAPTURE };
        if ours.capture > aim {
            let share = 100.0 * share;
            missed.push(format!("{strategy} captures {} at {share:.0} %; the aim is {aim}", two(ours.capture)));
        }
    }
    let everywhere: Vec<&Game> = std::iter::once(&report.nobody).chain(&report.games).collect();
    let zeroed = everywhere.iter().filter(|game| game.ours.honest_zeroed > AIM_ZEROED);
    let most = everywhere.iter().max_by(|a, b| a.ours.honest_zeroed.total_cmp(&b.ours.honest_zeroed));
    if let (games @ 1.., Some(most)) = (zeroed.count(), most) {
        missed.push(format!(
            "in {games} of {} games more than 1 % of honest completions are zeroed: {:.1} % without attackers, {:.1} % at most \
             ({} at {:.0} %)",
            everywhere.len(),
            100.0 * report.nobody.ours.honest_zeroed,
            100.0 * most.ours.honest_zeroed,
            most.strategy,
            100.0 * most.share
        ));
    }
    for Game { strategy, share, ours, .. } in
        everywhere.into_iter().filter(|game| game.ours.rank_correlation < AIM_RANK)
    {
        let (share, rank) = (100.0 * share, two(ours.rank_correlation));
        missed.push(format!("{strategy} at {share:.0} %: the rank correlation is {rank}; the aim is {AIM_RANK}"));
    }
    missed.extend(report.honest.iter().flat_map(honest::missed));
    missed.extend(report.expense.iter().filter_map(expense::missed));
    missed
}

/// Writes `adversary.md` and `adversary.svg`.
///
/// # Errors
/// When they cannot be written.
pub fn write(report: &Report, folder: &Path) -> anyhow::Result<()> {
    let setting = report.setting;
    let missed: String = missed(report).iter().map(|missed| format!("- {missed}\n")).collect();
    let missed = if missed.is_empty() { "None.\n".to_owned() } else { missed };
    let page = format!(
        "# What attackers earn\n\n\
         Made by `{}`; do not edit. {} uids, {} asked in a step, {} steps, {} prompts, {} texts, seed {}. In each cell: under the \
         rules of openvalidators 1.2.0 → under ours.\n\n{}\n{LEGEND}\n\n\
         ![Capture ratio of each strategy](adversary.svg)\n\n\
         ## What each defence buys\n\n{ABLATION_LEGEND}\n\n{}\n\
         {}\
         ## Colluding judges\n\n{}\n{COLLUSION_LEGEND}\n\n{}\
         ## What is missed\n\n{MISSED_LEGEND}\n\n{missed}",
        report.command,
        setting.uids,
        setting.asked,
        setting.steps,
        report.prompts,
        report.texts,
        report.seed,
        text(report),
        ablations(report),
        costs(report),
        collusion(report),
        candidates::section(report.candidates.as_ref()),
    );
    for (name, content) in [("adversary.md", page), ("adversary.svg", plot(report))] {
        let file = folder.join(name);
        std::fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn rows(report: &Report) -> Vec<Row<'_>> {
    let rows = report.games.chunk_by(|a, b| a.strategy == b.strategy);
    rows.map(|games| Row { games: games.iter().collect() }).collect()
}

fn honesty(game: &Game) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    format!("{} | {}", pair(game, |outcome| two(outcome.rank_correlation)), pair(game, |o| percent(o.honest_zeroed)))
}

fn pair(game: &Game, say: impl Fn(&Outcome) -> String) -> String {
    format!("{} → {}", say(&game.reference), say(&game.ours))
}

fn two(number: f64) -> String {
    format!("{number:.2}")
}

/// Two bars for each strategy at the middle share, and lines at what it may have and what an average miner gets.
fn plot(report: &Report) -> String {
    const LEFT: f64 = 190.0;
    const UNIT: f64 = 180.0;
    const ROW: f64 = 26.0;
    const MOST: f64 = 2.5;
    let rows = rows(report);
    let height = ROW * rows.len() as f64 + 60.0;
    let width = LEFT + MOST * UNIT + 60.0;
    let share = rows.first().and_then(|row| row.games.get(row.games.len() / 2)).map_or(0.0, |game| game.share);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"16\" font-size=\"13\">capture ratio at {:.0} % attackers: 1.2.0 (grey), ours (green)</text>\n",
        100.0 * share
    );
    for mark in [0.5, 1.0, 2.0] {
        let x = LEFT + mark * UNIT;
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"26\" y2=\"{}\" stroke=\"#ccc\"/><text x=\"{x}\" y=\"{}\" \
             text-anchor=\"middle\">{mark}</text>",
            height - 24.0,
            height - 8.0
        );
    }
    for (place, row) in rows.iter().enumerate() {
        let Some(game) = row.games.get(row.games.len() / 2) else { continue };
        let top = 30.0 + ROW * place as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            top + 14.0,
            game.strategy
        );
        for (outcome, colour, below) in [(&game.reference, "#999999", 0.0), (&game.ours, "#1b7837", 10.0)] {
            let length = outcome.capture.clamp(0.0, MOST) * UNIT;
            let y = top + below;
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"9\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
                LEFT + length + 3.0,
                y + 9.0,
                outcome.capture
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
