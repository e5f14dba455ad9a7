//! What several judges come to.

/// The grades of one completion, reduced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Their median: fewer than half of the judges cannot move it beyond what another judge said.
    pub median: f32,
    /// The mean absolute difference of a grade from the median, in grades: how far the judges disagree.
    pub disagreement: f32,
}

// === impl Verdict ===

impl Verdict {
    /// Of the grades that came from so many judges `asked`. `None` unless more than half of them gave one: silence must not
    /// hand the decision to the few who speak.
    #[must_use]
    pub fn of(grades: &[u8], asked: usize) -> Option<Self> {
        if grades.len() * 2 <= asked {
            return None;
        }
        let mut sorted = grades.to_vec();
        sorted.sort_unstable();
        let (lower, upper) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        let median = (f32::from(*lower) + f32::from(*upper)) / 2.0;
        let apart: f32 = grades.iter().map(|&grade| (f32::from(grade) - median).abs()).sum();
        Some(Self { median, disagreement: apart / grades.len() as f32 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_median_of_those_who_spoke_if_they_are_most() {
        assert_eq!(Verdict::of(&[7, 2, 8], 3), Some(Verdict { median: 7.0, disagreement: 2.0 }));
        assert_eq!(Verdict::of(&[7, 8], 3), Some(Verdict { median: 7.5, disagreement: 0.5 }));
        assert_eq!(Verdict::of(&[7], 2), None);
        assert_eq!(Verdict::of(&[], 0), None);
        assert_eq!(Verdict::of(&[4], 1), Some(Verdict { median: 4.0, disagreement: 0.0 }));
    }

    proptest! {
        /// Colluders in the minority get no further than an honest judge went.
        #[test]
        fn a_minority_cannot_leave_the_range_of_the_honest(
            honest in proptest::collection::vec(0_u8..=10, 2..9), lie in 0_u8..=10, liars in 0_usize..8,
        ) {
            let liars = liars.min(honest.len() - 1);
            let (least, most) = (*honest.iter().min().unwrap(), *honest.iter().max().unwrap());
            let mut grades = honest;
            grades.extend(std::iter::repeat_n(lie, liars));
            let median = Verdict::of(&grades, grades.len()).unwrap().median;
            prop_assert!(f32::from(least) <= median && median <= f32::from(most), "{grades:?}: {median}");
        }
    }
}
