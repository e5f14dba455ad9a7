//! The columns of a table: their names, their kinds, and what a step has in each. The names are those of openvalidators
//! 1.2.0 and of its `data_collector`, where they have the thing.

use std::borrow::Cow;

use crate::{COLUMN_NAMES, Shadow, StepRow};

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
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Text(Option<&'a str>),
    Integer(Option<i64>),
    Time(i64),
    Number(Option<f64>),
    Integers(Option<Cow<'a, [i64]>>),
    Texts(Option<Cow<'a, [String]>>),
    Numbers(Option<Cow<'a, [Option<f64>]>>),
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

/// The columns after them: one entry for each candidate of the step. Programs that know none of them pass them over.
const SHADOWS: [(&str, Kind); 5] = [
    ("shadow_names", Kind::Texts),
    ("shadow_correlations", Kind::Numbers),
    ("shadow_blocked", Kind::Numbers),
    ("shadow_seconds", Kind::Numbers),
    ("shadow_failed", Kind::Integers),
];

/// Every column, in order.
pub(crate) fn columns() -> impl Iterator<Item = (String, Kind)> {
    let scores = COLUMN_NAMES.iter().flat_map(|name| [(*name).to_owned(), format!("{name}_normalized")]);
    let named = |&(name, kind): &(&str, Kind)| (name.to_owned(), kind);
    FIRST.iter().map(named).chain(scores.map(|name| (name, Kind::Numbers))).chain(SHADOWS.iter().map(named))
}

/// What a step has in every column.
pub(crate) fn cells(row: &StepRow) -> impl Iterator<Item = Cell<'_>> {
    fn some<T: Clone>(list: &[T]) -> Option<Cow<'_, [T]>> {
        (!list.is_empty()).then_some(Cow::Borrowed(list))
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
        Cell::Integers(Some(Cow::Borrowed(&row.uids))),
        Cell::Texts(some(&row.hotkeys)),
        Cell::Texts(Some(Cow::Borrowed(&row.completions))),
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
    first.into_iter().chain(scores.map(Cell::Numbers)).chain(shadows(&row.shadows))
}

fn shadows(shadows: &[Shadow]) -> [Cell<'static>; SHADOWS.len()] {
    fn each<T: Clone>(shadows: &[Shadow], of: impl Fn(&Shadow) -> T) -> Option<Cow<'static, [T]>> {
        (!shadows.is_empty()).then(|| shadows.iter().map(of).collect())
    }
    [
        Cell::Texts(each(shadows, |shadow| shadow.name.clone())),
        Cell::Numbers(each(shadows, |shadow| shadow.correlation)),
        Cell::Numbers(each(shadows, |shadow| shadow.blocked)),
        Cell::Numbers(each(shadows, |shadow| shadow.seconds)),
        Cell::Integers(each(shadows, |shadow| shadow.failed.into())),
    ]
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
