//! Drawings of points, lines and bars as SVG: no script, values under the pointer.

use std::fmt::Write;

use openvalidators_tables::{
    figures::{Figure, Form, Series},
    moment,
};

use super::{page::escaped, terminal::number};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

/// A bar and the space after it.
const BAR: f64 = 13.0;

/// Where the labels of bars end.
const BAR_LEFT: f64 = 230.0;

/// The most points of a figure without axes that have their names beside them.
const NAMED_POINTS: usize = 100;

/// The most points drawn of one series; of more every second, third, … is.
const POINTS: usize = 3_000;

/// Colours that people who see few colours tell apart (Okabe & Ito 2008), twice, the second time lighter.
pub const COLOURS: [&str; 14] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#7fb8d8", "#eaae7f", "#7fcebb",
    "#e5bcd3", "#f2cf7f", "#aad9f4", "#aaaaaa",
];

/// The colour of a series by its place.
pub fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

/// A figure of lines, points or bars.
pub fn draw(figure: &Figure) -> String {
    match figure.form {
        Form::Bars => bars(figure),
        _ => points(figure),
    }
}

/// From numbers to places on the paper.
struct Scale {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

// === impl Scale ===

impl Scale {
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut least, mut most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(v), m.max(v)));
        if !(least.is_finite() && most.is_finite()) {
            (least, most) = (0.0, 1.0);
        }
        if least == most {
            (least, most) = (least - 0.5, most + 0.5);
        }
        Self { least, most, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.least) / (self.most - self.least) * (self.to - self.from)
    }

    /// Round numbers along it: 1, 2 or 5 times a power of ten apart.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.most - self.least) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.least / step).ceil();
        (0..12).map(|at| (first + f64::from(at)) * step).take_while(|tick| *tick <= self.most).collect()
    }

    /// Even times along it.
    fn times(&self) -> Vec<f64> {
        (0..=4).map(|at| self.least + (self.most - self.least) * f64::from(at) / 4.0).collect()
    }
}

fn points(figure: &Figure) -> String {
    let is_time = figure.form != Form::Scatter;
    let all = || figure.series.iter();
    let x = Scale::new(all().flat_map(|series| series.x.iter().copied()), LEFT, WIDTH - RIGHT);
    let from_zero = is_time.then_some(0.0);
    let y =
        Scale::new(all().flat_map(|series| series.y.iter().copied().flatten()).chain(from_zero), HEIGHT - BOTTOM, TOP);
    let largest = all().flat_map(|series| series.sizes.iter().copied()).fold(1.0, f64::max);
    let mut svg = begin(HEIGHT, &figure.title);
    let bare = figure.x_label.is_empty() && figure.y_label.is_empty();
    for tick in if bare { Vec::new() } else { y.ticks() } {
        let at = y.place(tick);
        let _ = write!(svg, r#"<path class="grid" d="M{LEFT} {at:.1}H{:.1}"/>"#, WIDTH - RIGHT);
        text(&mut svg, LEFT - 6.0, at + 4.0, "end", &number(Some(tick)));
    }
    for tick in if is_time {
        x.times()
    } else if bare {
        Vec::new()
    } else {
        x.ticks()
    } {
        let label = if is_time { moment::format_minute(tick as i64).split_off(5) } else { number(Some(tick)) };
        text(&mut svg, x.place(tick), HEIGHT - BOTTOM + 16.0, "middle", &label);
    }
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, "middle", &figure.x_label);
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let _ = write!(svg, r#"<g transform="translate(14 {middle}) rotate(-90)">"#);
    text(&mut svg, 0.0, 0.0, "middle", &figure.y_label);
    svg += "</g>";
    let are_named = all().map(|series| series.y.len()).sum::<usize>() <= NAMED_POINTS;
    for (place, series) in figure.series.iter().enumerate() {
        let every = series.y.len().div_ceil(POINTS).max(1);
        let drawn =
            || (0..series.y.len()).step_by(every).filter_map(move |at| Some((at, *series.x.get(at)?, series.y[at]?)));
        if figure.form == Form::Timeline {
            let line: Vec<_> =
                drawn().map(|(_, left, up)| format!("{:.1},{:.1}", x.place(left), y.place(up))).collect();
            let (colour, name) = (colour(place), escaped(&series.name));
            let _ = write!(
                svg,
                r#"<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{}"><title>{name}</title></polyline>"#,
                line.join(" ")
            );
        }
        let few = drawn().count() <= 200;
        for (at, left, up) in drawn().filter(|_| few || figure.form != Form::Timeline) {
            let size = series.sizes.get(at).map_or(3.0, |size| 3.0 + 9.0 * (size / largest).max(0.0).sqrt());
            let of = series.labels.get(at).unwrap_or(&series.name);
            let when = if is_time { moment::format(left as i64)[..19].to_owned() } else { number(Some(left)) };
            let tip = if bare { of.clone() } else { format!("{of}: {} at {when}", number(Some(up))) };
            let _ = write!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="{size:.1}" fill="{}" fill-opacity="0.45"><title>{}</title></circle>"#,
                x.place(left),
                y.place(up),
                colour(place),
                escaped(&tip)
            );
            if bare && are_named {
                let name = of.split(':').next().unwrap_or_default();
                text(&mut svg, x.place(left) + size + 2.0, y.place(up) + 4.0, "start", name);
            }
        }
    }
    svg + "</svg>"
}

fn bars(figure: &Figure) -> String {
    let labels = figure.series.first().map(|series| &series.labels[..]).unwrap_or_default();
    let rows = figure.series.len() as f64 * BAR + 5.0;
    let height = TOP + labels.len() as f64 * rows + BOTTOM;
    let values = figure.series.iter().flat_map(|series| series.y.iter().copied().flatten());
    let x = Scale::new(values.chain([0.0]), BAR_LEFT, WIDTH - RIGHT);
    let mut svg = begin(height, &figure.title);
    for tick in x.ticks() {
        let at = x.place(tick);
        let _ = write!(svg, r#"<path class="grid" d="M{at:.1} {TOP}V{:.1}"/>"#, height - BOTTOM);
        text(&mut svg, at, height - BOTTOM + 16.0, "middle", &number(Some(tick)));
    }
    text(&mut svg, (BAR_LEFT + WIDTH) / 2.0, height - 8.0, "middle", &figure.x_label);
    for (row, label) in labels.iter().enumerate() {
        let down = TOP + row as f64 * rows;
        text(&mut svg, BAR_LEFT - 6.0, down + rows / 2.0 + 2.0, "end", &short(label));
        for (place, Series { name, y, .. }) in figure.series.iter().enumerate() {
            let Some(value) = y.get(row).copied().flatten() else { continue };
            let (from, to) = (x.place(0.0), x.place(value));
            let _ = write!(
                svg,
                r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{}" fill="{}"><title>{}</title></rect>"#,
                from.min(to),
                down + place as f64 * BAR,
                (to - from).abs(),
                BAR - 2.0,
                colour(place),
                escaped(&format!("{label}, {name}: {}", number(Some(value))))
            );
        }
    }
    svg + "</svg>"
}

fn begin(height: f64, title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{}">"#, escaped(title))
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(words));
}

/// As much of a label as there is room for.
fn short(label: &str) -> String {
    const CHARACTERS: usize = 34;
    match label.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &label[..end]),
        None => label.to_owned(),
    }
}
