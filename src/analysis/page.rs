//! A page that needs nothing but itself: no script, no font, nothing from elsewhere. Miners wrote some of what it shows, so
//! everything is escaped, and its policy lets a browser run and fetch nothing.

use openvalidators_tables::figures::{Figure, Form};

use super::{
    svg::{colour, draw},
    terminal::number,
};

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>openvalidators: analysis</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 900px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2.2em 0 .2em } p { margin: .2em 0 .6em; color: #555 }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #444 } .grid { stroke: #ddd }
circle:hover, rect:hover { fill-opacity: 1; stroke: #222; stroke-width: 1.5 } polyline:hover { stroke-width: 4 }
ul.legend { list-style: none; padding: 0; margin: .2em 0; columns: 2; font-size: .85em; overflow-wrap: anywhere }
ul.short { columns: 6 } ul.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .5em }
nav a { margin-right: 1em; white-space: nowrap } div.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .82em } td, th { padding: .2em .6em; text-align: right; white-space: nowrap }
th:first-child { text-align: left } thead th { border-bottom: 1px solid #999 }
</style></head><body><h1>What the steps say</h1>
"#;

/// The most series a legend names.
const NAMED: usize = 20;

/// Names as short as this stand in six columns.
const SHORT_CHARACTERS: usize = 14;

/// Figures one under another.
pub fn page(figures: &[Figure], summary: &str) -> String {
    let mut page = HEAD.to_owned();
    page += &format!("<p>{}</p>\n<nav>", escaped(summary));
    for figure in figures {
        page += &format!(r##"<a href="#{}">{}</a> "##, figure.id, escaped(&figure.title));
    }
    page += "</nav>\n";
    for figure in figures {
        page += &format!("<section id=\"{}\"><h2>{}</h2><p>{}</p>", figure.id, escaped(&figure.title), figure.note);
        page += &match figure.form {
            _ if figure.series.is_empty() => "<p>Nothing was recorded for it.</p>".to_owned(),
            Form::Matrix => matrix(figure),
            _ => draw(figure) + &legend(figure),
        };
        page += "</section>\n";
    }
    page + "</body></html>\n"
}

/// Text as text, whatever is in it.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            _ => out.push(char),
        }
    }
    out
}

fn legend(figure: &Figure) -> String {
    if figure.series.len() < 2 {
        return String::new();
    }
    let entry = |(place, name): (usize, &String)| {
        format!(r#"<li><i style="background:{}"></i>{}</li>"#, colour(place), escaped(name))
    };
    let names = figure.series.iter().map(|series| &series.name).enumerate().take(NAMED);
    let more = figure.series.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("<li>and {more} more</li>") } else { String::new() };
    let is_short = figure.series.iter().all(|series| series.name.chars().count() <= SHORT_CHARACTERS);
    let class = if is_short { "legend short" } else { "legend" };
    format!("<ul class=\"{class}\">{}{more}</ul>", names.map(entry).collect::<String>())
}

/// A table, each column shaded by its own numbers.
fn matrix(figure: &Figure) -> String {
    let labels = figure.series.first().map(|series| &series.labels[..]).unwrap_or_default();
    let heads: String = figure.series.iter().map(|series| format!("<th>{}</th>", escaped(&series.name))).collect();
    let mut table =
        format!("<div class=\"wide\"><table><thead><tr><th>{}</th>{heads}</tr></thead>", escaped(&figure.x_label));
    for (row, label) in labels.iter().enumerate() {
        table += &format!("<tr><th>{}</th>", escaped(label));
        for series in &figure.series {
            let largest = series.y.iter().flatten().fold(0.0_f64, |most, value| most.max(value.abs()));
            let value = series.y.get(row).copied().flatten();
            let share = value.map_or(0.0, |value| if largest > 0.0 { value.abs() / largest } else { 0.0 });
            let hue = if value.is_some_and(|value| value < 0.0) { "213,94,0" } else { "0,114,178" };
            table += &format!("<td style=\"background:rgba({hue},{:.2})\">{}</td>", 0.35 * share, number(value));
        }
        table += "</tr>";
    }
    table + "</table></div>"
}
