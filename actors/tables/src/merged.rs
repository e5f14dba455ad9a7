//! Several sources as one stream.

use std::collections::HashSet;

use crate::{Item, Skip, Source, SourceError, StepRow, Tally, forwards::Forwards};

/// The steps of several sources, oldest first as far as each has its own so, without those that came before, each with its
/// forward and context.
///
/// Holds one step of each source, and 16 bytes for every step so far, by which a step that comes again is known.
pub struct Merged {
    sources: Vec<Head>,
    seen: HashSet<u128>,
    forwards: Forwards,
    tally: Tally,
}

struct Head {
    source: Box<dyn Source>,
    next: Option<Box<StepRow>>,
    ended: bool,
}

impl Merged {
    /// Of these.
    #[must_use]
    pub fn new(mut sources: Vec<Box<dyn Source>>) -> Self {
        sources.sort_by_key(|source| source.not_before());
        let sources = sources.into_iter().map(|source| Head { source, next: None, ended: false }).collect();
        Self { sources, seen: HashSet::new(), forwards: Forwards::default(), tally: Tally::default() }
    }

    /// The next step; `None` when all sources have ended.
    ///
    /// # Errors
    /// When a source cannot be read on.
    pub fn next_step(&mut self) -> Result<Option<StepRow>, SourceError> {
        loop {
            let mut oldest = self.sources.iter().filter_map(Head::timestamp).min();
            for head in &mut self.sources {
                if head.next.is_none() && oldest.is_none_or(|oldest| head.source.not_before() <= oldest) {
                    head.fill(&mut self.tally)?;
                    oldest = oldest.into_iter().chain(head.timestamp()).min();
                }
            }
            self.sources.retain(|head| !head.ended);
            let oldest = self.sources.iter_mut().filter(|head| head.next.is_some());
            let oldest = oldest.min_by_key(|head| head.timestamp());
            let Some((name, row)) = oldest.and_then(|head| Some((head.source.name(), head.next.take()?))) else {
                return Ok(None);
            };
            let mut row = *row;
            if !self.seen.insert(row.identity()) {
                let place = format!("{name} {} at {}", row.name, row.timestamp);
                self.tally.skip(Skip { reason: "the same step again", place });
                continue;
            }
            self.forwards.assign(&mut row);
            self.tally.count(&row);
            return Ok(Some(row));
        }
    }

    /// What was read so far and what was skipped.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Head {
    fn timestamp(&self) -> Option<i64> {
        self.next.as_ref().map(|row| row.timestamp)
    }

    fn fill(&mut self, tally: &mut Tally) -> Result<(), SourceError> {
        while self.next.is_none() && !self.ended {
            match self.source.next()? {
                Some(Item::Row(row)) => self.next = Some(row),
                Some(Item::Skipped(Skip { reason, place })) => {
                    tally.skip(Skip { reason, place: format!("{} {place}", self.source.name()) });
                }
                None => self.ended = true,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given(Vec<Item>, i64);

    impl Source for Given {
        fn name(&self) -> &str {
            "given"
        }

        fn not_before(&self) -> i64 {
            self.1
        }

        fn next(&mut self) -> Result<Option<Item>, SourceError> {
            Ok((!self.0.is_empty()).then(|| self.0.remove(0)))
        }
    }

    #[test]
    fn sources_are_merged_by_time_and_what_comes_twice_is_counted() {
        let row = |timestamp: i64, prompt: &str| {
            let prompt = prompt.to_owned();
            Item::Row(Box::new(StepRow { timestamp, prompt, name: "augment".into(), ..StepRow::default() }))
        };
        let skipped = Item::Skipped(Skip { reason: "no JSON", place: "line 2".into() });
        let left = Given(vec![row(1, "a"), skipped, row(5, "c")], i64::MIN);
        let right = Given(vec![row(2, "b"), row(6, "c")], 2);
        let mut merged = Merged::new(vec![Box::new(left), Box::new(right)]);
        let found: Vec<_> = std::iter::from_fn(|| merged.next_step().unwrap()).map(|row| row.prompt).collect();
        assert_eq!(found, ["a", "b", "c"]);
        assert_eq!(
            merged.tally().to_string(),
            "3 steps, 0 completions; skipped 1 (no JSON: given line 2); skipped 1 (the same step again: given augment at 6)"
        );
    }

    /// A thousand runs of a project are not read from at once.
    #[test]
    fn a_source_is_opened_when_its_time_has_come() {
        struct Late(std::rc::Rc<std::cell::Cell<u32>>, Given);
        impl Source for Late {
            fn name(&self) -> &str {
                "late"
            }
            fn not_before(&self) -> i64 {
                self.1.1
            }
            fn next(&mut self) -> Result<Option<Item>, SourceError> {
                self.0.set(self.0.get() + 1);
                self.1.next()
            }
        }
        let row =
            |timestamp: i64| Item::Row(Box::new(StepRow { timestamp, block: Some(timestamp), ..StepRow::default() }));
        let reads = std::rc::Rc::new(std::cell::Cell::new(0));
        let late = Late(reads.clone(), Given(vec![row(12)], 10));
        let early = Given(vec![row(5), row(9), row(11), row(13)], 5);
        let mut merged = Merged::new(vec![Box::new(late), Box::new(early)]);
        let mut found = Vec::new();
        while let Some(step) = merged.next_step().unwrap() {
            found.push((step.timestamp, reads.get()));
        }
        assert_eq!(found, [(5, 0), (9, 0), (11, 1), (12, 1), (13, 2)]);
    }
}
