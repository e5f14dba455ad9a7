//! The embeddings the diversity filter remembers: a ring of rows, and the search for each new row's near repeats in it.

/// Numbers added up side by side: wide enough for any vector unit, and the same order of summation on all of them.
const LANES: usize = 16;

/// A bounded ring of unit rows of one model, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Length of a row; 0 while empty.
    width: usize,
    /// Row after row; the oldest is at `oldest` once the ring is full.
    rows: Vec<f32>,
    /// Index of the oldest row.
    oldest: usize,
}

impl History {
    /// How many rows are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Length of a row; 0 while empty.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rebuilds a ring from rows in order of age, oldest first, keeping the youngest `capacity`.
    #[must_use]
    pub fn from_rows(width: usize, rows: &[f32], capacity: usize) -> Self {
        let surplus = rows.len().checked_div(width).unwrap_or(0).saturating_sub(capacity);
        Self { width, rows: rows[surplus * width..].to_vec(), oldest: 0 }
    }

    /// The rows in order of age, oldest first, in two runs.
    #[must_use]
    pub fn runs(&self) -> [&[f32]; 2] {
        let (young, old) = self.rows.split_at(self.oldest * self.width);
        [old, young]
    }

    /// Remembers rows of one step, forgetting the oldest beyond `capacity`. Of equal neighbours only the first enters
    /// (`reward/diversity.py:update_historic_embeddings`). Rows of another width start the history anew.
    pub fn remember(&mut self, width: usize, rows: &[f32], capacity: usize) {
        if width == 0 || capacity == 0 {
            return;
        }
        if self.width != width || self.len() > capacity {
            let kept = if self.width == width { self.runs().concat() } else { Vec::new() };
            *self = Self::from_rows(width, &kept, capacity);
        }
        let mut previous: Option<&[f32]> = None;
        for row in rows.chunks_exact(width) {
            if previous != Some(row) {
                self.push(row, capacity);
            }
            previous = Some(row);
        }
    }

    fn push(&mut self, row: &[f32], capacity: usize) {
        if self.len() < capacity {
            // Not full: older rows may start anywhere only if the capacity grew, so straighten the ring first.
            if self.oldest != 0 {
                self.rows.rotate_left(self.oldest * self.width);
                self.oldest = 0;
            }
            self.rows.extend_from_slice(row);
        } else {
            self.rows[self.oldest * self.width..][..self.width].copy_from_slice(row);
            self.oldest = (self.oldest + 1) % capacity;
        }
    }

    /// For each of `rows` (unit rows of the history's width) its distance, 1 − |cosine|, to the `k`-th nearest
    /// remembered row, the oldest `skip` left out. `None` when fewer than `k` rows remain.
    ///
    /// Costs `rows × len × width` multiplications: measured, about 0.1 s on one busy core for 50 new rows against 15,000 of
    /// width 384, hence the worker thread.
    #[must_use]
    pub fn distances(&self, rows: &[f32], k: usize, skip: usize) -> Option<Vec<f32>> {
        if k == 0 || self.width == 0 || self.len().saturating_sub(skip) < k {
            return None;
        }
        let mut nearest = vec![Smallest::new(k); rows.len() / self.width];
        let remembered = self.runs().into_iter().flat_map(|run| run.chunks_exact(self.width)).skip(skip);
        for old in remembered {
            for (row, nearest) in rows.chunks_exact(self.width).zip(&mut nearest) {
                nearest.offer(distance(row, old));
            }
        }
        nearest.into_iter().map(|nearest| nearest.kth()).collect()
    }
}

/// 1 − |cosine| of two unit rows: 0 for repeats, 1 for strangers.
#[must_use]
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    1.0 - dot(a, b).abs()
}

/// Inner product, summed in 16 strands.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The `k` smallest numbers offered so far, in ascending order.
#[derive(Clone, Debug)]
pub struct Smallest {
    k: usize,
    numbers: Vec<f32>,
}

impl Smallest {
    /// Keeps `k` numbers.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self { k, numbers: Vec::with_capacity(k + 1) }
    }

    /// Takes a number in if it is among the smallest.
    pub fn offer(&mut self, number: f32) {
        if self.numbers.len() == self.k && self.numbers.last().is_none_or(|&largest| number >= largest) {
            return;
        }
        let place = self.numbers.partition_point(|&kept| kept <= number);
        self.numbers.insert(place, number);
        self.numbers.truncate(self.k);
    }

    /// The `k`-th smallest, if so many were offered.
    #[must_use]
    pub fn kth(&self) -> Option<f32> {
        self.numbers.get(self.k.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::parity::{golden, numbers, rows};

    fn row(value: f32) -> [f32; 2] {
        [value, 0.0]
    }

    #[test]
    fn recorded_cosines_come_out_as_in_the_reference() {
        let (prompts, recorded) = (rows("relevance_prompts"), golden("relevance"));
        let embeddings = golden("diversity_mpnet")["embeddings"].clone();
        let index = |row: &Value, key: &str| row[key].as_u64().unwrap() as usize;
        let recorded = recorded["rows"].as_array().unwrap();
        for row in recorded {
            let embedding: Vec<f32> = numbers(&embeddings[index(row, "completion")]).into_iter().flatten().collect();
            let distance = f64::from(distance(&prompts[index(row, "prompt")], &embedding));
            assert!((1.0 - distance - row["mpnet"].as_f64().unwrap()).abs() <= 2e-6, "{row}");
        }
        assert_eq!(recorded.len(), 84);
    }

    #[test]
    fn equal_neighbours_enter_once_and_the_oldest_leave() {
        let mut history = History::default();
        history.remember(2, &[row(1.0), row(1.0), row(2.0), row(1.0)].concat(), 4);
        assert_eq!(history.runs().concat(), [row(1.0), row(2.0), row(1.0)].concat());
        history.remember(2, &[row(3.0), row(4.0)].concat(), 4);
        assert_eq!(history.runs().concat(), [row(2.0), row(1.0), row(3.0), row(4.0)].concat());
        assert_eq!(history.len(), 4);
    }

    #[test]
    fn rows_of_another_width_start_anew() {
        let mut history = History::default();
        history.remember(2, &row(1.0), 4);
        history.remember(3, &[1.0, 2.0, 3.0], 4);
        assert_eq!((history.width(), history.len()), (3, 1));
    }

    #[test]
    fn the_kth_nearest_is_what_counts() {
        let mut history = History::default();
        let unit = |angle: f32| [angle.cos(), angle.sin()];
        history.remember(2, &[unit(0.0), unit(0.5), unit(1.0)].concat(), 8);
        let distances = |k, skip| history.distances(&unit(0.1), k, skip);
        let close = |found: Option<Vec<f32>>, angle: f32| (found.unwrap()[0] - (1.0 - angle.cos())).abs() < 1e-6;
        assert!(close(distances(1, 0), 0.1));
        assert!(close(distances(2, 0), 0.4));
        assert!(close(distances(2, 1), 0.9));
        assert_eq!(distances(2, 2), None, "one row left");
        assert_eq!(distances(4, 0), None);
        assert_eq!(History::default().distances(&unit(0.1), 1, 0), None);
    }

    proptest! {
        #[test]
        fn the_ring_is_the_end_of_everything_remembered(
            steps in prop::collection::vec(prop::collection::vec(0u8..4, 0..6), 0..12),
            capacities in prop::collection::vec(1usize..9, 12),
        ) {
            let mut history = History::default();
            let mut all: Vec<f32> = Vec::new();
            for (step, &capacity) in steps.iter().zip(&capacities) {
                let rows: Vec<f32> = step.iter().flat_map(|&value| row(value.into())).collect();
                history.remember(2, &rows, capacity);
                let mut step = step.clone();
                step.dedup();
                all.extend(step.iter().flat_map(|&value| row(value.into())));
                all.drain(..all.len().saturating_sub(2 * capacity));
                prop_assert_eq!(history.runs().concat(), all.clone());
            }
        }

        #[test]
        fn smallest_agrees_with_sorting(numbers in prop::collection::vec(-1.0f32..1.0, 0..20), k in 1usize..5) {
            let mut smallest = Smallest::new(k);
            numbers.iter().for_each(|&number| smallest.offer(number));
            let mut sorted = numbers.clone();
            sorted.sort_by(f32::total_cmp);
            prop_assert_eq!(smallest.kth(), sorted.get(k - 1).copied());
        }

        #[test]
        fn dot_is_the_inner_product(pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 0..70)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let exact: f64 = pairs.iter().map(|&(a, b)| f64::from(a) * f64::from(b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-4);
        }
    }
}
