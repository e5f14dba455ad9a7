//! What is computed together. Rows are packed without padding, so a batch costs what its tokens cost: it is cut by a
//! budget of tokens, never by a count of rows.

use std::{collections::HashMap, hash::Hash};

/// Equal items, kept once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Distinct<T> {
    /// In the order of their first appearance.
    pub(crate) items: Vec<T>,
    /// For each item asked for, its place in `items`.
    pub(crate) places: Vec<usize>,
}

impl<T: Clone + Eq + Hash> Distinct<T> {
    /// Keeps each of `asked` once.
    pub(crate) fn of(asked: impl IntoIterator<Item = T>) -> Self {
        let mut known: HashMap<T, usize> = HashMap::new();
        let mut items = Vec::new();
        let places = asked
            .into_iter()
            .map(|item| {
                *known.entry(item).or_insert_with_key(|item| {
                    items.push(item.clone());
                    items.len() - 1
                })
            })
            .collect();
        Self { items, places }
    }

    /// How many were asked for that need no work of their own.
    pub(crate) fn repeated(&self) -> usize {
        self.places.len() - self.items.len()
    }
}

/// Rows of these lengths, to be cut into batches: longest rows first, so that a batch holds rows of one size.
pub(crate) struct Rows<'a> {
    lengths: &'a [usize],
    /// What is not cut yet, the next one last.
    rest: Vec<usize>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(lengths: &'a [usize]) -> Self {
        let mut rest: Vec<usize> = (0..lengths.len()).rev().collect();
        // The sort is stable: rows of one length keep their order.
        rest.sort_by_key(|&row| lengths[row]);
        Self { lengths, rest }
    }

    /// The next batch, of at most `budget_tokens`. A row longer than the budget is a batch of its own.
    pub(crate) fn next_batch(&mut self, budget_tokens: usize) -> Option<Vec<usize>> {
        let first = self.rest.pop()?;
        let mut room = budget_tokens.saturating_sub(self.lengths[first]);
        let mut batch = vec![first];
        while let Some(row) = self.rest.pop_if(|row| self.lengths[*row] <= room) {
            room -= self.lengths[row];
            batch.push(row);
        }
        Some(batch)
    }
}

/// Computes `rows` together; when that fails, each half by itself, down to single rows. `compute` answers with one value
/// for each of the rows it is given; `settle` receives each row's value, or the failure of the row alone.
pub(crate) fn compute_or_split<T, E>(
    rows: &[usize],
    compute: &mut impl FnMut(&[usize]) -> Result<Vec<T>, E>,
    settle: &mut impl FnMut(usize, Result<T, E>),
) {
    match compute(rows) {
        Ok(values) => rows.iter().zip(values).for_each(|(&row, value)| settle(row, Ok(value))),
        Err(error) => match rows {
            [] => {}
            [row] => settle(*row, Err(error)),
            _ => {
                let (left, right) = rows.split_at(rows.len() / 2);
                compute_or_split(left, compute, settle);
                compute_or_split(right, compute, settle);
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_items_are_kept_once() {
        let distinct = Distinct::of(["b", "a", "b", "b", "c"]);
        assert_eq!(distinct, Distinct { items: vec!["b", "a", "c"], places: vec![0, 1, 0, 0, 2] });
        assert_eq!(distinct.repeated(), 2);
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_batch_and_no_batch_is_over_budget(
            lengths in prop::collection::vec(0_usize..300, 0..60), budget in 1_usize..500, later in 1_usize..500,
        ) {
            // The budget changes after the third batch.
            let (mut waiting, mut batches) = (Rows::new(&lengths), Vec::new());
            let budget_of = |batch: usize| if batch < 3 { budget } else { later };
            while let Some(batch) = waiting.next_batch(budget_of(batches.len())) {
                batches.push(batch);
            }
            let mut rows: Vec<usize> = batches.iter().flatten().copied().collect();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            for (number, batch) in batches.iter().enumerate() {
                prop_assert!(!batch.is_empty());
                // An empty row costs nothing, wherever it is put.
                let full: Vec<usize> = batch.iter().map(|&row| lengths[row]).filter(|&length| length > 0).collect();
                prop_assert!(full.len() <= 1 || full.iter().sum::<usize>() <= budget_of(number));
            }
        }

        #[test]
        fn only_rows_that_fail_alone_fail(rows in 0_usize..40, bad in prop::collection::btree_set(0_usize..40, 0..6), at_once in 1_usize..40) {
            let rows: Vec<usize> = (0..rows).collect();
            let mut settled = HashMap::new();
            compute_or_split(
                &rows,
                &mut |batch: &[usize]| {
                    if batch.len() > at_once || batch.iter().any(|row| bad.contains(row)) {
                        return Err("too much");
                    }
                    Ok(batch.iter().map(|row| row * 10).collect())
                },
                &mut |row, result| assert!(settled.insert(row, result).is_none(), "settled twice"),
            );
            prop_assert_eq!(settled.len(), rows.len());
            for row in rows {
                let expected = if bad.contains(&row) { Err("too much") } else { Ok(row * 10) };
                prop_assert_eq!(&settled[&row], &expected);
            }
        }
    }
}
