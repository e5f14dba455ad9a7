//! Sparse rows: `(column, value)` in ascending order of column, as the chain keeps weights and bonds.
//!
//! An explicit zero is not the same as an absent entry: liquid alpha lets the one decay and drops the other.

/// One validator's row.
pub(super) type Row = Vec<(usize, f64)>;

/// What is left of a number in the chain's fixed point: 32 fractional bits, the rest cut off. It decides the last digit
/// of what is stored as u16, and from there the next epoch.
pub(super) fn fixed(value: f64) -> f64 {
    const ONE: f64 = 4_294_967_296.0;
    (value * ONE).floor() / ONE
}

/// Stored entries in order of column, without those beyond the last one. The first of two for one column counts.
pub(super) fn parse(stored: &[(u16, u16)], columns: usize) -> Row {
    let mut row: Row = stored.iter().map(|&(j, value)| (usize::from(j), f64::from(value))).collect();
    row.retain(|&(j, _)| j < columns);
    row.sort_by_key(|&(j, _)| j);
    row.dedup_by_key(|(j, _)| *j);
    row
}

/// The value in a column; 0 where the row does not name it.
pub(super) fn get(row: &Row, column: usize) -> f64 {
    row.binary_search_by_key(&column, |&(j, _)| j).map_or(0.0, |at| row[at].1)
}

pub(super) fn sum(row: &Row) -> f64 {
    row.iter().map(|(_, value)| value).sum()
}

pub(super) fn scale(row: &Row, factor: f64) -> Row {
    row.iter().map(|&(j, value)| (j, fixed(value * factor))).collect()
}

/// Scales a row to sum 1; leaves all zeros as they are.
pub(super) fn normalise(row: &mut Row) {
    let sum = sum(row);
    if sum > 0.0 {
        row.iter_mut().for_each(|(_, value)| *value = fixed(*value / sum));
    }
}

/// Each value down to its column's ceiling; an entry under a ceiling of 0 disappears.
pub(super) fn clip(row: &Row, ceilings: &[f64]) -> Row {
    row.iter()
        .filter(|&&(j, value)| value <= ceilings[j] || ceilings[j] > 0.0)
        .map(|&(j, value)| (j, value.min(ceilings[j])))
        .collect()
}

/// `columns[j]` holds `(row, value)` of every row that names column `j`.
pub(super) fn columns(rows: &[Row], count: usize) -> Vec<Vec<(usize, f64)>> {
    let mut columns = vec![Vec::new(); count];
    for (i, row) in rows.iter().enumerate() {
        for &(j, value) in row {
            columns[j].push((i, value));
        }
    }
    columns
}

/// For each column, Σ stake_i · row_ij.
pub(super) fn stake_weighted_sum(rows: &[Row], stake: &[f64], count: usize) -> Vec<f64> {
    let mut sums = vec![0.0; count];
    for (row, stake) in rows.iter().zip(stake) {
        for &(j, value) in row {
            sums[j] += fixed(stake * value);
        }
    }
    sums
}

/// `a + ratio · (b − a)`; at 0 and 1 the very rows, explicit zeros included.
pub(super) fn interpolate(a: &[Row], b: &[Row], columns: usize, ratio: f64) -> Vec<Row> {
    if ratio <= 0.0 {
        return a.to_vec();
    }
    if ratio >= 1.0 {
        return b.to_vec();
    }
    a.iter().zip(b).map(|(a, b)| combine(a, 1.0 - ratio, b, ratio, columns)).collect()
}

/// `keep · old + (1 − keep) · new` over all columns either names.
pub(super) fn moving_average(new: &[Row], old: &[Row], columns: usize, keep: f64) -> Vec<Row> {
    new.iter().zip(old).map(|(new, old)| combine(new, 1.0 - keep, old, keep, columns)).collect()
}

fn combine(a: &Row, a_factor: f64, b: &Row, b_factor: f64, columns: usize) -> Row {
    let mut dense = vec![0.0; columns];
    for (row, factor) in [(a, a_factor), (b, b_factor)] {
        for &(j, value) in row {
            dense[j] += fixed(factor * value);
        }
    }
    dense.into_iter().enumerate().filter(|&(_, value)| value > 0.0).collect()
}

/// Scales every column to sum 1; leaves empty columns as they are.
pub(super) fn normalise_columns(rows: &[Row], columns: usize) -> Vec<Row> {
    let mut sums = vec![0.0; columns];
    rows.iter().flatten().for_each(|&(j, value)| sums[j] += value);
    divide_columns(rows, &sums)
}

/// Scales every column so that its largest value is 1.
pub(super) fn upscale_columns(rows: &[Row], columns: usize) -> Vec<Row> {
    let mut largest = vec![0.0_f64; columns];
    rows.iter().flatten().for_each(|&(j, value)| largest[j] = largest[j].max(value));
    divide_columns(rows, &largest)
}

fn divide_columns(rows: &[Row], divisors: &[f64]) -> Vec<Row> {
    let divide = |&(j, value): &(usize, f64)| (j, if divisors[j] > 0.0 { fixed(value / divisors[j]) } else { value });
    rows.iter().map(|row| row.iter().map(divide).collect()).collect()
}
