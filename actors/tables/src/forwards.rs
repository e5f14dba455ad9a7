//! Which conversation a step belongs to, where its record does not say.
//!
//! The rule, safe when several forwards ran at once and their rows are interleaved: openvalidators 1.2.0 (`forward.py`)
//! asks every followup and answer with a prompt that contains the best completion of the step before it in the same
//! forward, and the names go `augment`, `followup0`, `answer0`, `followup1`, … So `augment` opens a forward; any other step
//! goes on with the forward of its run that expects this name and whose latest best completion stands in the prompt, the
//! longest such; where none does so, the only one that expects the name, if that had no best completion. A step without
//! such a forward has none.

use std::collections::{HashMap, VecDeque};

use crate::{StepRow, text_digest};

/// Forwards of one run that are followed at once; the oldest is given up for a new one.
pub const OPEN_FORWARDS_LIMIT: usize = 64;

/// Runs followed at once.
const RUNS_LIMIT: usize = 256;

/// Follows the forwards of every run.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    runs: HashMap<String, Run>,
    order: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Run {
    next: i64,
    open: VecDeque<Forward>,
}

#[derive(Debug)]
struct Forward {
    id: i64,
    context: String,
    expected: String,
    best: String,
}

impl Forwards {
    /// Gives the step its forward and context, where it lacks them.
    pub(crate) fn assign(&mut self, row: &mut StepRow) {
        if !row.context.is_empty() {
            return;
        }
        let run = self.run(&row.run);
        let place = match row.forward {
            Some(id) => run.open.iter().position(|forward| forward.id == id),
            None if row.name == "augment" => None,
            None => run.place_of(row),
        };
        let opens = place.is_none() && (row.name == "augment" || row.forward.is_some());
        let Some(place) = place.or_else(|| opens.then(|| run.open_forward(row))) else {
            row.context = text_digest(&row.prompt);
            return;
        };
        let forward = &mut run.open[place];
        row.forward = Some(forward.id);
        row.context.clone_from(&forward.context);
        forward.expected = following(row);
        forward.best = row.best.clone().unwrap_or_default();
    }

    fn run(&mut self, name: &str) -> &mut Run {
        if !self.runs.contains_key(name) {
            if self.order.len() == RUNS_LIMIT
                && let Some(oldest) = self.order.pop_front()
            {
                self.runs.remove(&oldest);
            }
            self.order.push_back(name.to_owned());
        }
        self.runs.entry(name.to_owned()).or_default()
    }
}

impl Run {
    /// The forward that this step goes on with.
    fn place_of(&self, row: &StepRow) -> Option<usize> {
        let expecting = || self.open.iter().enumerate().filter(|(_, forward)| forward.expected == row.name);
        let quoted = expecting()
            .filter(|(_, forward)| !forward.best.is_empty() && row.prompt.contains(&forward.best))
            .max_by_key(|(place, forward)| (forward.best.len(), *place));
        let only = || {
            let mut all = expecting();
            all.next().filter(|(_, forward)| all.next().is_none() && forward.best.is_empty())
        };
        quoted.or_else(only).map(|(place, _)| place)
    }

    fn open_forward(&mut self, row: &StepRow) -> usize {
        if self.open.len() == OPEN_FORWARDS_LIMIT {
            self.open.pop_front();
        }
        let id = row.forward.unwrap_or(self.next);
        self.next = self.next.max(id.saturating_add(1));
        let context = text_digest(&row.prompt);
        self.open.push_back(Forward { id, context, expected: String::new(), best: String::new() });
        self.open.len() - 1
    }
}

/// The name of the step after this one.
fn following(row: &StepRow) -> String {
    match (row.kind(), row.round()) {
        ("augment", _) => "followup0".to_owned(),
        ("followup", Some(round)) => format!("answer{round}"),
        ("answer", Some(round)) => format!("followup{}", u16::from(round) + 1),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, prompt: &str, best: &str) -> StepRow {
        let best = (!best.is_empty()).then(|| best.to_owned());
        StepRow { run: "r".into(), name: name.into(), prompt: prompt.into(), best, ..StepRow::default() }
    }

    fn forwards(rows: Vec<StepRow>) -> Vec<Option<i64>> {
        let mut forwards = Forwards::default();
        let assign = |mut row| {
            forwards.assign(&mut row);
            row.forward
        };
        rows.into_iter().map(assign).collect()
    }

    #[test]
    fn interleaved_forwards_are_told_apart_by_what_their_prompts_quote() {
        let rows = vec![
            row("augment", "one", "sum one"),
            row("augment", "two", "sum two"),
            row("followup0", "sum two ask", "q two"),
            row("followup0", "sum one ask", "q one"),
            row("answer0", "sum one q one", "a one"),
            row("answer0", "sum two q two", "a two"),
            row("followup1", "sum two q two a two ask", "?"),
        ];
        assert_eq!(forwards(rows), [0, 1, 1, 0, 0, 1, 1].map(Some));
    }

    #[test]
    fn the_longest_quotation_wins_and_a_step_nobody_expects_has_no_forward() {
        let rows = vec![
            row("answer3", "lost", "x"),
            row("augment", "one", "ab"),
            row("augment", "two", "abc"),
            row("followup0", "abc ask", "q"),
            row("followup0", "nothing quoted", "q"),
        ];
        assert_eq!(forwards(rows), [None, Some(0), Some(1), Some(1), None]);
        let silent = vec![row("augment", "one", ""), row("followup0", "anything", "q")];
        assert_eq!(forwards(silent), [Some(0), Some(0)], "the only one that expects it, and it had no best");
    }

    #[test]
    fn all_steps_of_a_forward_share_its_context() {
        let mut forwards = Forwards::default();
        let mut steps = [row("augment", "one", "s"), row("followup0", "s ask", "q"), row("followup0", "else", "q")];
        for (step, forward) in steps.iter_mut().zip([5, 5, 6]) {
            step.forward = Some(forward);
            forwards.assign(step);
        }
        assert_eq!(steps[0].context, text_digest("one"));
        assert_eq!(steps[1].context, steps[0].context);
        assert_ne!(steps[2].context, steps[0].context);
    }
}
