//! The last line of a terminal while a validator runs: what it does now. Everything else is written above it.

use std::{
    io::IsTerminal,
    sync::{Arc, OnceLock},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use openvalidators_messages::{Hotkey, Metagraph, weights::ScoreTable};
use openvalidators_runtime::SharedClock;
use tokio::{sync::watch, task::JoinHandle};

use crate::console::Style;

/// How often the line is written anew.
const EVERY: Duration = Duration::from_secs(1);

/// The line, once there is one. A terminal is the whole process's.
static LINE: OnceLock<ProgressBar> = OnceLock::new();

/// The line while it is shown; dropped, it disappears.
pub struct Status(JoinHandle<()>);

/// What the line tells.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Facts {
    steps: u64,
    latest_step: Option<Duration>,
    running: Duration,
    block: u64,
    registered: bool,
    /// Blocks since the chain took weights of ours; none before.
    weights_age: Option<u64>,
    permit: bool,
    trust: f64,
    scored: usize,
}

/// Writes to the terminal without mixing with the line.
pub fn above<T>(write: impl FnOnce() -> T) -> T {
    match LINE.get() {
        Some(line) => line.suspend(write),
        None => write(),
    }
}

/// Shows the line where a person looks: progress as text, and both outputs a terminal.
pub fn show(
    style: Style,
    ours: Hotkey,
    metagraph: watch::Receiver<Arc<Metagraph>>,
    scores: watch::Receiver<Arc<ScoreTable>>,
    clock: SharedClock,
) -> Option<Status> {
    let is_seen = style == Style::Text && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    if !is_seen {
        return None;
    }
    let line = LINE.get_or_init(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())).clone();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        line.set_style(style);
    }
    Some(Status(tokio::spawn(async move {
        let (start, first) = (clock.now(), scores.borrow().sequence.0);
        let (mut sequence, mut latest_step) = (first, None);
        loop {
            let now = clock.now();
            if scores.borrow().sequence.0 != sequence {
                sequence = scores.borrow().sequence.0;
                latest_step = Some(now);
            }
            let running = now.saturating_sub(start);
            let ago = latest_step.map(|latest| now.saturating_sub(latest));
            line.set_message(
                Facts::of(&metagraph.borrow(), &scores.borrow(), &ours, sequence - first, ago, running).text(),
            );
            line.tick();
            clock.sleep(EVERY).await;
        }
    })))
}

// === impl Status ===

impl Drop for Status {
    fn drop(&mut self) {
        self.0.abort();
        if let Some(line) = LINE.get() {
            line.finish_and_clear();
        }
    }
}

// === impl Facts ===

impl Facts {
    fn of(
        metagraph: &Metagraph,
        scores: &ScoreTable,
        ours: &Hotkey,
        steps: u64,
        latest_step: Option<Duration>,
        running: Duration,
    ) -> Self {
        let us = metagraph.uid_of(ours).and_then(|uid| metagraph.neuron(uid));
        Self {
            steps,
            latest_step,
            running,
            block: metagraph.block.0,
            registered: us.is_some(),
            // A new uid's last update is its registration.
            weights_age: us
                .filter(|us| us.last_update != us.registered_at)
                .map(|us| metagraph.block.0.saturating_sub(us.last_update.0)),
            permit: us.is_some_and(|us| us.validator_permit),
            trust: us.map_or(0.0, |us| us.validator_trust),
            scored: scores.rows.len(),
        }
    }

    fn text(&self) -> String {
        let pace = 60.0 * self.steps as f64 / self.running.as_secs_f64().max(1.0);
        let latest =
            self.latest_step.map_or_else(|| "none yet".to_owned(), |ago| format!("the latest {} ago", short(ago)));
        let weights = match self.weights_age {
            _ if !self.registered => "not registered".to_owned(),
            _ if !self.permit => "no permit".to_owned(),
            None => "no weights yet".to_owned(),
            Some(blocks) => format!("weights {blocks} blocks old, vtrust {:.2}", self.trust),
        };
        format!(
            "{} · {} steps, {pace:.1} a minute, {latest} · block {} · {weights} · {} miners with a score",
            short(self.running),
            self.steps,
            self.block,
            self.scored,
        )
    }
}

fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, ..) => format!("{days} d {hours:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_matters_most() {
        let facts = Facts {
            steps: 90,
            latest_step: Some(Duration::from_secs(7)),
            running: Duration::from_secs(3_700),
            block: 4_711,
            registered: true,
            weights_age: Some(120),
            permit: true,
            trust: 0.8134,
            scored: 16,
        };
        assert_eq!(
            facts.text(),
            "1 h 01 min · 90 steps, 1.5 a minute, the latest 7 s ago · block 4711 · weights 120 blocks old, vtrust 0.81 · \
             16 miners with a score"
        );
        assert!(Facts { permit: false, ..facts }.text().contains("no permit"));
        assert!(Facts { registered: false, ..facts }.text().contains("not registered"));
        assert!(Facts { weights_age: None, ..facts }.text().contains("no weights yet"));
        assert!(Facts { latest_step: None, ..facts }.text().contains("none yet"));
    }

    #[test]
    fn times_are_short() {
        let told = [5, 65, 3_725, 90_061].map(|seconds| short(Duration::from_secs(seconds)));
        assert_eq!(told, ["5 s", "1 min 05 s", "1 h 02 min", "1 d 01 h"]);
    }
}
