//! Curves with their spread, as an SVG.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const BELOW: f64 = 40.0;
const COLOURS: [&str; 6] = ["#1b7837", "#999999", "#c2a5cf", "#762a83", "#e08214", "#2166ac"];

/// Draws the mean of each group of curves, from 0, and a band of one standard deviation.
pub fn plot(groups: &[(&str, Vec<Vec<f64>>)]) -> String {
    let points = groups.iter().flat_map(|(_, curves)| curves).map(Vec::len).max().unwrap_or(1) as f64;
    let top = groups.iter().flat_map(|(_, curves)| curves.iter().flatten()).copied().fold(1.0, f64::max);
    let x = |point: usize| LEFT + point as f64 / points * (WIDTH - LEFT - 190.0);
    let y = |value: f64| HEIGHT - BELOW - value / top * (HEIGHT - BELOW - 20.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for tick in 0..=4 {
        let value = top * f64::from(tick) / 4.0;
        let at = y(value);
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
            x(points as usize)
        )
        .unwrap();
        writeln!(svg, "<text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{value:.0}</text>", LEFT - 6.0).unwrap();
    }
    for tempo in (0..=points as usize).step_by(4) {
        let at = x(tempo);
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tempo}</text>", HEIGHT - 22.0).unwrap();
    }
    writeln!(svg, "<text x=\"{LEFT}\" y=\"12\">cumulative regret of the best reward</text>").unwrap();
    writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">tempos</text>", x(points as usize), HEIGHT - 6.0)
        .unwrap();
    for ((label, curves), colour) in groups.iter().zip(COLOURS.iter().cycle()) {
        let length = curves.iter().map(Vec::len).min().unwrap_or(0);
        let statistics: Vec<(f64, f64)> = (0..length)
            .map(|point| {
                let mean = curves.iter().map(|curve| curve[point]).sum::<f64>() / curves.len() as f64;
                let squares = curves.iter().map(|curve| (curve[point] - mean).powi(2)).sum::<f64>();
                (mean, (squares / curves.len() as f64).sqrt())
            })
            .collect();
        let path = |shift: f64| -> Vec<String> {
            let place = |(point, (mean, spread)): (usize, &(f64, f64))| {
                format!("{:.1},{:.1}", x(point + 1), y(mean + shift * spread))
            };
            std::iter::once(format!("{LEFT},{:.1}", y(0.0))).chain(statistics.iter().enumerate().map(place)).collect()
        };
        let mut band = path(1.0);
        band.extend(path(-1.0).into_iter().rev());
        writeln!(svg, "<polygon points=\"{}\" fill=\"{colour}\" opacity=\"0.15\"/>", band.join(" ")).unwrap();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            path(0.0).join(" ")
        )
        .unwrap();
        let last = statistics.last().map_or(0.0, |(mean, _)| *mean);
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{label}, {last:.0}</text>",
            x(length) + 6.0,
            y(last) + 4.0
        )
        .unwrap();
    }
    svg + "</svg>\n"
}
