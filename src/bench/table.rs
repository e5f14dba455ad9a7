//! Measurements as a Markdown table.

use std::fmt::Write;

use serde::Serialize;

use super::spent::Spent;

/// A measured piece of work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What was computed.
    pub what: String,
    /// By whom, or in which order.
    pub how: String,
    /// What it took.
    #[serde(flatten)]
    pub spent: Spent,
    /// Tokens that went through layers.
    pub tokens: f64,
    /// Operations, multiplications and additions counted apart.
    pub operations: f64,
}

// === impl Line ===

impl Line {
    /// Several pieces of work as one, one after another.
    #[must_use]
    pub fn sum<'a>(what: &str, how: &str, lines: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum =
            Self { what: what.to_owned(), how: how.to_owned(), spent: Spent::default(), tokens: 0.0, operations: 0.0 };
        for line in lines {
            sum.spent.wall_seconds += line.spent.wall_seconds;
            sum.spent.processor_seconds += line.spent.processor_seconds;
            sum.spent.peak_mib = sum.spent.peak_mib.max(line.spent.peak_mib);
            sum.tokens += line.tokens;
            sum.operations += line.operations;
        }
        sum
    }

    /// Operations for each second on the wall.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.operations / self.spent.wall_seconds.max(f64::MIN_POSITIVE)
    }
}

/// The lines as Markdown; `peak` is in operations a second. Ratios are to the first line of the same work, wall / processor.
#[must_use]
pub fn markdown(lines: &[Line], peak: f64) -> String {
    let mut table = String::from(
        "| what | how | wall | processor | ratio, wall / processor | tokens/s | GFLOP/s | of the peak | peak memory |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        let Line { what, how, spent, tokens, .. } = line;
        let Spent { wall_seconds: wall, processor_seconds: processor, peak_mib } = *spent;
        let ratio = match lines.iter().find(|first| first.what == *what) {
            Some(first) if first.how != *how => {
                format!(
                    "{} / {}",
                    times(first.spent.wall_seconds, wall),
                    times(first.spent.processor_seconds, processor)
                )
            }
            _ => "1".to_owned(),
        };
        let memory = peak_mib.map_or_else(|| "–".to_owned(), |mib| format!("{mib} MiB"));
        let _infallible = writeln!(
            table,
            "| {what} | {how} | {} | {} | {ratio} | {:.0} | {:.0} | {:.0} % | {memory} |",
            seconds(wall),
            seconds(processor),
            tokens / wall,
            line.rate() / 1e9,
            100.0 * line.rate() / peak,
        );
    }
    table
}

/// How many times as long; processor time counts in steps of 10 ms, and a shorter piece of work has none.
fn times(first: f64, this: f64) -> String {
    if this > 0.0 { format!("{:.2}", first / this) } else { "–".to_owned() }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1.0 => format!("{:.1} ms", 1e3 * seconds),
        seconds if seconds < 100.0 => format!("{seconds:.2} s"),
        seconds => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_first_of_the_same_work() {
        let line = |what: &str, how: &str, wall, processor| Line {
            what: what.to_owned(),
            how: how.to_owned(),
            spent: Spent { wall_seconds: wall, processor_seconds: processor, peak_mib: Some(12) },
            tokens: 100.0,
            operations: 5e9,
        };
        let lines = [line("a", "slow", 8.0, 12.0), line("b", "alone", 1.0, 1.0), line("a", "fast", 0.5, 4.0)];
        let table = markdown(&lines, 1e11);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows[2], "| a | fast | 500.0 ms | 4.00 s | 16.00 / 3.00 | 200 | 10 | 10 % | 12 MiB |");
        assert!(rows[0].contains("| 1 |") && rows[1].contains("| 1 |"), "{table}");
        assert_eq!(times(1.0, 0.0), "–");
        let sum = Line::sum("both", "fast", lines[1..].iter());
        assert_eq!((sum.spent.wall_seconds, sum.operations), (1.5, 1e10));
    }
}
