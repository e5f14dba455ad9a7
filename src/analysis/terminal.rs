//! A figure as a table of text.

use comfy_table::{CellAlignment, LineStyle, Table, presets};
use openvalidators_tables::{
    figures::{Figure, Form, Series},
    moment,
};

/// The most rows shown of a figure with points.
const ROWS: usize = 24;

/// The title, the table and how to read it.
pub fn table(figure: &Figure) -> String {
    let Figure { title, note, form, series, .. } = figure;
    if series.is_empty() {
        return format!("{title}\n  nothing was recorded for it\n");
    }
    let table = match form {
        Form::Bars | Form::Matrix => by_label(figure),
        Form::Timeline | Form::TimeScatter | Form::Scatter => by_series(figure),
    };
    format!("{title}\n{table}\n{note}\n")
}

/// A row for each label, a column for each series.
fn by_label(figure: &Figure) -> Table {
    let header = std::iter::once(if figure.form == Form::Bars { &figure.y_label } else { &figure.x_label });
    let mut table = empty(header.chain(figure.series.iter().map(|series| &series.name)));
    let labels = figure.series.first().map(|series| &series.labels[..]).unwrap_or_default();
    for (at, label) in labels.iter().enumerate() {
        let values = figure.series.iter().map(|series| number(series.y.get(at).copied().flatten()));
        table.add_row(std::iter::once(label.clone()).chain(values));
    }
    align(table)
}

/// For points: a row for each series of several, or for each point of the only one.
fn by_series(figure: &Figure) -> Table {
    let is_time = figure.form != Form::Scatter;
    let place = |x: f64| if is_time { moment::format(x as i64)[..16].to_owned() } else { number(Some(x)) };
    if let [Series { x, y, labels, .. }] = &figure.series[..] {
        let mut table = empty(["".to_owned(), figure.x_label.clone(), figure.y_label.clone()].iter());
        let first = x.len().saturating_sub(if is_time { ROWS } else { usize::MAX });
        for (at, x) in x.iter().enumerate().skip(first) {
            let label = labels.get(at).cloned().unwrap_or_default();
            table.add_row([label, place(*x), number(y.get(at).copied().flatten())]);
        }
        return align(table);
    }
    let mut table = empty(["", "points", "first", "last", "mean", "latest"].map(str::to_owned).iter());
    for Series { name, x, y, .. } in &figure.series {
        let known: Vec<f64> = y.iter().copied().flatten().collect();
        let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        let ends = [x.first(), x.last()].map(|x| x.map(|x| place(*x)).unwrap_or_default());
        let [first, last] = ends;
        table.add_row([
            name.clone(),
            known.len().to_string(),
            first,
            last,
            number(mean),
            number(known.last().copied()),
        ]);
    }
    align(table)
}

fn empty<'a>(header: impl Iterator<Item = &'a String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(header);
    table
}

/// Numbers to the right, what they are of to the left.
fn align(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Few digits, as many as tell.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value}"),
        Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 0.001 => format!("{value:.3}"),
        Some(value) => format!("{value:.1e}"),
    }
}
