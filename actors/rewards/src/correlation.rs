//! How far two judges agree about an order.

/// Fewest pairs that say anything about an order.
const FEWEST_PAIRS: usize = 3;

/// Spearman's rank correlation of the places that both have a number for, ties at their mean rank: from −1, the opposite
/// order, to 1, the same (Spearman 1904, "The proof and measurement of association between two things"). `None` for fewer
/// than three such places, or where one side does not vary.
#[must_use]
pub fn spearman(left: &[Option<f64>], right: &[Option<f64>]) -> Option<f32> {
    let both = left.iter().zip(right).filter_map(|(left, right)| Some((finite(*left)?, finite(*right)?)));
    let (left, right): (Vec<f64>, Vec<f64>) = both.unzip();
    if left.len() < FEWEST_PAIRS {
        return None;
    }
    let (left, right) = (ranks(&left), ranks(&right));
    let mean = (left.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let scale = (product(&left, &left) * product(&right, &right)).sqrt();
    (scale > 0.0).then(|| (product(&left, &right) / scale) as f32)
}

fn finite(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.is_finite())
}

/// From 0; equal ones share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        tied.iter().for_each(|place| ranks[*place] = start as f64 + (tied.len() - 1) as f64 / 2.0);
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn an_order_agrees_with_itself_and_opposes_its_reverse() {
        assert_eq!(spearman(&some(&[1.0, 2.0, 3.0]), &some(&[-9.0, 0.0, 1e6])), Some(1.0));
        assert_eq!(spearman(&some(&[1.0, 2.0, 3.0]), &some(&[9.0, 7.0, 5.0])), Some(-1.0));
        // By hand: ranks 0, 1.5, 1.5, 3, 4 and 0, 3, 1.5, 1.5, 4 give 7.25 of 9.5.
        let tied = spearman(&some(&[1.0, 2.0, 2.0, 4.0, 5.0]), &some(&[1.0, 3.0, 2.0, 2.0, 5.0])).unwrap();
        assert!((tied - 0.763_157_9).abs() < 1e-6, "{tied}");
    }

    #[test]
    fn what_one_side_lacks_is_left_out_and_too_little_says_nothing() {
        let left = [Some(1.0), None, Some(2.0), Some(f64::NAN), Some(3.0)];
        assert_eq!(spearman(&left, &some(&[1.0, 9.0, 2.0, 9.0, 3.0])), Some(1.0));
        assert_eq!(spearman(&left[..4], &some(&[1.0, 9.0, 2.0, 9.0])), None);
        assert_eq!(spearman(&some(&[1.0; 3]), &some(&[1.0, 2.0, 3.0])), None);
    }
}
