//! The columns of a table: their names, their kinds, and what a step has in each. The names are those of openvalidators
//! 1.2.0 and of its `data_collector`, where they have the thing.

use crate::{COLUMN_NAMES, StepRow};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Time,
    Number,
    Integers,
    Texts,
    Numbers,
}

/// What a step has in a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Text(Option<&'a str>),
    Integer(Option<i64>),
    Time(i64),
    Number(Option<f64>),
    Integers(Option<&'a [i64]>),
    Texts(Option<&'a [String]>),
    Numbers(Option<&'a [Option<f64>]>),
}

/// The columns before those of scores.
const FIRST: [(&str, Kind); 18] = [
    ("run_id", Kind::Text),
    ("forward", Kind::Integer),
    ("context", Kind::Text),
    ("topic", Kind::Text),
    ("name", Kind::Text),
    ("_timestamp", Kind::Time),
    ("block", Kind::Integer),
    ("step_length", Kind::Number),
    ("prompt", Kind::Text),
    ("uids", Kind::Integers),
    ("hotkeys", Kind::Texts),
    ("completions", Kind::Texts),
    ("completion_times", Kind::Numbers),
    ("status_codes", Kind::Integers),
    ("propensities", Kind::Numbers),
    ("rewards", Kind::Numbers),
    ("best", Kind::Text),
    ("unscored", Kind::Text),
];

/// Every column, in order.
pub(crate) fn columns() -> impl Iterator<Item = (String, Kind)> {
    let scores = COLUMN_NAMES.iter().flat_map(|name| [(*name).to_owned(), format!("{name}_normalized")]);
    FIRST.iter().map(|&(name, kind)| (name.to_owned(), kind)).chain(scores.map(|name| (name, Kind::Numbers)))
}

/// What a step has in every column.
pub(crate) fn cells(row: &StepRow) -> impl Iterator<Item = Cell<'_>> {
    fn some<T>(list: &[T]) -> Option<&[T]> {
        (!list.is_empty()).then_some(list)
    }
    let first = [
        Cell::Text(Some(&row.run)),
        Cell::Integer(row.forward),
        Cell::Text(Some(&row.context)),
        Cell::Text(row.topic.as_deref()),
        Cell::Text(Some(&row.name)),
        Cell::Time(row.timestamp),
        Cell::Integer(row.block),
        Cell::Number(row.step_length),
        Cell::Text(Some(&row.prompt)),
        Cell::Integers(Some(&row.uids)),
        Cell::Texts(some(&row.hotkeys)),
        Cell::Texts(Some(&row.completions)),
        Cell::Numbers(some(&row.completion_times)),
        Cell::Integers(some(&row.status_codes)),
        Cell::Numbers(some(&row.propensities)),
        Cell::Numbers(some(&row.rewards)),
        Cell::Text(row.best.as_deref()),
        Cell::Text(row.unscored.as_deref()),
    ];
    let scores = COLUMN_NAMES.iter().flat_map(|name| {
        let column = row.columns.iter().find(|column| column.name == *name);
        [column.and_then(|column| some(&column.raw)), column.and_then(|column| some(&column.normalized))]
    });
    first.into_iter().chain(scores.map(Cell::Numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_of_its_columns_kind() {
        let row = StepRow::default();
        let kinds = cells(&row).map(|cell| match cell {
            Cell::Text(_) => Kind::Text,
            Cell::Integer(_) => Kind::Integer,
            Cell::Time(_) => Kind::Time,
            Cell::Number(_) => Kind::Number,
            Cell::Integers(_) => Kind::Integers,
            Cell::Texts(_) => Kind::Texts,
            Cell::Numbers(_) => Kind::Numbers,
        });
        assert!(kinds.eq(columns().map(|(_, kind)| kind)));
    }
}
