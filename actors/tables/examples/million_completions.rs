//! The figure of `docs/analysis.md`: makes the event log of so many steps from a seed, collects it into a store, makes every
//! figure of that, and says how long it took and how much memory.
//!
//! ```sh
//! cargo run --release -p openvalidators-tables --example million_completions -- 20000 7 [FOLDER]
//! ```
//!
//! A step has 50 completions of some 300 characters by 256 miners, four scored columns and four filters, as a validator with
//! the reference's rewards records it. With a folder the log stays there, for `openvalidators dataset collect --from`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement by hand")]

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use openvalidators_tables::{
    EventLog, Merged, Store, StoreWriter,
    figures::{Figures, Options},
};

const COMPLETIONS: u64 = 50;
const MINERS: u64 = 256;
const WORDS: [&str; 16] = [
    "river",
    "that",
    "stone",
    "under",
    "the",
    "light",
    "morning",
    "and",
    "bridge",
    "of",
    "water",
    "slowly",
    "a",
    "hill",
    "\\\"quoted\\\"",
    "é",
];

/// splitmix64 (Steele et al. 2014): the same log on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn text(&mut self, words: u64) -> String {
        let words: Vec<_> = (0..words).map(|_| WORDS[(self.next() % WORDS.len() as u64) as usize]).collect();
        words.join(" ")
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| args.get(at).map_or(otherwise, |text| text.parse().unwrap());
    let (steps, seed) = (number(0, 20_000), number(1, 7));
    let given = args.get(2).map(PathBuf::from);
    let folder = given.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("million-{}", std::process::id())));
    std::fs::create_dir_all(&folder).unwrap();
    let (log, store) = (folder.join("completions.log"), folder.join("steps.parquet"));

    let began = Instant::now();
    make(&log, steps, seed);
    println!("made     {:6.1} s, {} MB", began.elapsed().as_secs_f64(), megabytes(&log));

    let began = Instant::now();
    let mut merged = Merged::new(vec![Box::new(EventLog::open(&log).unwrap())]);
    let mut writer = StoreWriter::new(File::create(&store).unwrap()).unwrap();
    while let Some(row) = merged.next_step().unwrap() {
        writer.write(row).unwrap();
    }
    writer.finish().unwrap();
    println!("collect  {:6.1} s, {} MB, {}", began.elapsed().as_secs_f64(), megabytes(&store), merged.tally());

    let began = Instant::now();
    let mut merged = Merged::new(vec![Box::new(Store::open(&store).unwrap())]);
    let mut figures = Figures::new(Options::default());
    while let Some(row) = merged.next_step().unwrap() {
        figures.add(&row);
    }
    let points: usize = figures.finish().iter().flat_map(|figure| &figure.series).map(|series| series.y.len()).sum();
    println!(
        "figures  {:6.1} s, {points} points of {} completions",
        began.elapsed().as_secs_f64(),
        merged.tally().completions
    );
    println!("at most  {} of memory", memory());
    if given.is_none() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// Writes an event log as loguru does.
fn make(path: &Path, steps: u64, seed: u64) {
    let mut random = Random(seed);
    let mut out = BufWriter::new(File::create(path).unwrap());
    for step in 0..steps {
        let (forward, index) = (step / 9, step % 9);
        let name = match index {
            0 => "augment".to_owned(),
            index if index % 2 == 1 => format!("followup{}", index / 2),
            index => format!("answer{}", index / 2 - 1),
        };
        let uids: Vec<String> = (0..COMPLETIONS).map(|_| (random.next() % MINERS).to_string()).collect();
        let texts: Vec<String> = (0..COMPLETIONS)
            .map(|_| match random.next() % 20 {
                0 | 1 => "\"\"".to_owned(),
                2 => "\"I don't know\"".to_owned(),
                _ => format!("\"{}\"", random.text(55)),
            })
            .collect();
        let numbers = |random: &mut Random| {
            let numbers: Vec<_> = (0..COMPLETIONS).map(|_| random.share().to_string()).collect();
            numbers.join(", ")
        };
        let mut columns = String::new();
        for column in ["dpo_reward_model", "rlhf_reward_model", "reciprocate_reward_model", "dahoas_reward_model"] {
            write!(
                columns,
                r#""{column}": [{}], "{column}_normalized": [{}], "#,
                numbers(&mut random),
                numbers(&mut random)
            )
            .unwrap();
        }
        for column in ["blacklist_filter", "task_validator_filter", "relevance_filter", "diversity_reward_model"] {
            let passed: Vec<_> =
                (0..COMPLETIONS).map(|_| if random.next().is_multiple_of(8) { "0.0" } else { "1.0" }).collect();
            let passed = passed.join(", ");
            write!(columns, r#""{column}": [{passed}], "{column}_normalized": [{passed}], "#).unwrap();
        }
        let prompt = random.text(150);
        writeln!(
            out,
            r#"{{"text": "EVENTS", "record": {{"extra": {{"name": "{name}", "forward": {forward}, {columns}"block": {step}, "step_length": {:.3}, "prompt": "{prompt}", "uids": [{}], "completions": [{}], "completion_times": [{}], "rewards": [{}], "gating_loss": 0.5, "best": {}}}, "level": {{"icon": "", "name": "EVENTS", "no": 38}}, "time": {{"repr": "", "timestamp": {}}}}}}}"#,
            5.0 + random.share(),
            uids.join(", "),
            texts.join(", "),
            numbers(&mut random),
            numbers(&mut random),
            texts[3],
            1.75e9 + 6.0 * step as f64,
        )
        .unwrap();
    }
    out.flush().unwrap();
}

fn megabytes(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len() / 1_000_000
}

/// The most memory this process has had, as Linux counts it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "an unknown amount".to_owned(), |line| line.trim().to_owned())
}
