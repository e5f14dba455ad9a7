//! `openvalidators analyze`: figures of recorded steps, as a page, as tables, as data.
//!
//! The numbers come from `actors/tables`; here they are only shown. The page is HTML with drawings in SVG and no script:
//! Plotly's own library would be 4.6 MB in the program and in every page, for the sake of zooming; here a point tells its
//! value under the pointer, and `--data` hands the numbers to whatever draws better.

mod page;
mod svg;
mod terminal;

use std::{collections::BTreeSet, fs, io::Write, path::Path, process::ExitCode};

use anyhow::Context;
use openvalidators_rewards::shadow::benchmark::Benchmark;
use openvalidators_tables::figures::{Figure, Figures, Options};

use crate::{
    cli::Analyze,
    console::print_text,
    dataset::{Output, Selected},
};

/// Makes what was asked for.
///
/// # Errors
/// What cannot be read or written, and figures that do not exist.
pub fn run(command: &Analyze) -> anyhow::Result<ExitCode> {
    let output = command.output.as_deref().map(|path| Output::create(path, command.force)).transpose()?;
    let mut steps = Selected::open(&command.select)?;
    let benchmark = command.benchmark.as_deref().map(Benchmark::read).transpose()?;
    let captures = benchmark.map(|benchmark| benchmark.worst()).unwrap_or_default();
    let mut figures = Figures::new(Options { captures, ..command.options.options() });
    while let Some(row) = steps.next_step()? {
        figures.add(&row);
    }
    let chosen = chosen(figures.finish(), &command.figure)?;
    let summary = steps.summary();
    if let Some(output) = output {
        output.handle()?.write_all(page::page(&chosen, &summary).as_bytes())?;
        let path = output.path().to_owned();
        output.finish()?;
        print_text(&format!("the report is in {}", path.display()));
    }
    if let Some(folder) = &command.data {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        chosen.iter().try_for_each(|figure| write_data(folder, figure, &summary, command.force))?;
        print_text(&format!("{} figures are in {}", chosen.len(), folder.display()));
    }
    if command.tables {
        chosen.iter().for_each(|figure| print_text(&terminal::table(figure)));
    }
    if !command.select.quiet {
        print_text(&summary);
    }
    Ok(ExitCode::SUCCESS)
}

/// The figures asked for; all without a choice.
fn chosen(all: Vec<Figure>, ids: &[String]) -> anyhow::Result<Vec<Figure>> {
    let known: BTreeSet<&str> = all.iter().map(|figure| figure.id).collect();
    if let Some(unknown) = ids.iter().find(|id| !known.contains(id.as_str())) {
        let known: Vec<_> = known.into_iter().collect();
        anyhow::bail!("--figure {unknown}: there is no such figure; there are {}", known.join(" "));
    }
    Ok(all.into_iter().filter(|figure| ids.is_empty() || ids.iter().any(|id| id == figure.id)).collect())
}

fn write_data(folder: &Path, figure: &Figure, summary: &str, force: bool) -> anyhow::Result<()> {
    let page = page::page(std::slice::from_ref(figure), summary);
    let files = [("html", page), ("json", serde_json::to_string_pretty(figure)?), ("csv", csv(figure))];
    for (extension, text) in files {
        let output = Output::create(&folder.join(format!("{}.{extension}", figure.id)), force)?;
        output.handle()?.write_all(text.as_bytes())?;
        output.finish()?;
    }
    Ok(())
}

/// A row for each point.
fn csv(figure: &Figure) -> String {
    let quoted = |field: String| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    };
    let mut text = "series,label,x,y,size\n".to_owned();
    for series in &figure.series {
        for (at, y) in series.y.iter().enumerate() {
            let number = |list: &[f64]| list.get(at).map(ToString::to_string).unwrap_or_default();
            let fields = [
                series.name.clone(),
                series.labels.get(at).cloned().unwrap_or_default(),
                number(&series.x),
                y.map(|y| y.to_string()).unwrap_or_default(),
                number(&series.sizes),
            ];
            text += &fields.map(quoted).join(",");
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests;
