//! Plots of a run over time, as SVG: throughput, and percentiles on a logarithmic scale.

use std::error::Error;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::results::{Interval, IntervalKind, Results};

const SIZE: (u32, u32) = (1_000, 500);
const FONT: (&str, u32) = ("sans-serif", 16);
/// Told apart by people who see no red or no green, too (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A line of a plot: its name, and values by second.
type Line = (&'static str, Vec<(f64, f64)>);

/// A plot cannot be drawn. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("the plot {title:?} cannot be drawn: {reason}")]
pub(super) struct PlotError {
    title: String,
    reason: String,
}

/// Operations a second of each kind.
pub(super) fn throughput(results: &Results, title: &str) -> Result<String, PlotError> {
    let series = whole_intervals(results);
    let line = |name: &'static str| {
        // An interval without any is a stall, and shown as one.
        let points = series.iter().map(|interval| {
            let kind = interval.kinds.iter().find(|kind| kind.name == name);
            let per_second = kind.map_or(0.0, |kind| kind.summary.done as f64 / interval.seconds);
            (middle(interval), per_second)
        });
        (name, points.collect())
    };
    let lines: Vec<Line> = results.kinds.iter().map(|kind| line(kind.name)).collect();
    let most = values(&lines).fold(1.0, f64::max) * 1.1;
    plot(format!("{title}: operations per second"), results.seconds, 0.0..most, &lines)
}

/// Percentiles of all operations together.
pub(super) fn latency(results: &Results, title: &str) -> Result<String, PlotError> {
    type Take = fn(&IntervalKind) -> u64;
    let takes: [(&str, Take); 5] = [
        ("p50", |kind| kind.summary.p50_us),
        ("p95", |kind| kind.summary.p95_us),
        ("p99", |kind| kind.summary.p99_us),
        ("p99.9", |kind| kind.summary.p999_us),
        ("max", |kind| kind.summary.max_us),
    ];
    let series = whole_intervals(results);
    let line = |(name, take): (&'static str, Take)| {
        let points = series.iter().filter_map(|interval| {
            // All together come last, where there are several kinds.
            let kind = interval.kinds.last()?;
            Some((middle(interval), take(kind).max(1) as f64 / 1e3))
        });
        (name, points.collect())
    };
    let lines = takes.map(line);
    let least = values(&lines).fold(1e3, f64::min) * 0.8;
    let most = values(&lines).fold(least, f64::max) * 1.25;
    let range = (least..most).log_scale();
    plot(format!("{title}: latency in milliseconds"), results.seconds, range, &lines)
}

/// The last interval is left out where it is so short that its rate says nothing.
fn whole_intervals(results: &Results) -> Vec<&Interval> {
    let half_s = results.interval_ms as f64 / 2e3;
    let is_whole = |interval: &&Interval| interval.seconds >= half_s;
    let is_any = |interval: &&Interval| interval.seconds > 0.0;
    match results.series.iter().any(|interval| is_whole(&interval)) {
        true => results.series.iter().filter(is_whole).collect(),
        false => results.series.iter().filter(is_any).collect(),
    }
}

fn middle(interval: &Interval) -> f64 {
    interval.begins_s + interval.seconds / 2.0
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|(_, points)| points.iter().map(|(_, value)| *value))
}

fn plot<Y>(title: String, seconds: f64, range: Y, lines: &[Line]) -> Result<String, PlotError>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut text = String::new();
    match draw(&mut text, &title, seconds, range, lines) {
        Ok(()) => Ok(text),
        Err(error) => Err(PlotError { reason: error.to_string(), title }),
    }
}

fn draw<Y>(
    text: &mut String,
    title: &str,
    seconds: f64,
    range: Y,
    lines: &[Line],
) -> Result<(), Box<dyn Error>>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..seconds.max(1e-3), range)?;
    chart.configure_mesh().max_light_lines(1).label_style(FONT).x_desc("seconds").draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        // A single interval has no line: it is a dot.
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 2, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .label_font(FONT)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::measured;

    #[test]
    fn plots_have_a_line_for_each_kind_and_percentile() {
        let results = Results::new(&[measured()], 1_000, false).expect("packed here");
        let text = throughput(&results, "a <b>").expect("it can be drawn");
        assert!(text.starts_with("<svg ") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(text.matches("<polyline").count() >= 3, "{text}");
        for word in ["get", "put", "all", "seconds", "a &lt;b&gt;: operations per second"] {
            assert!(text.contains(word), "{word}");
        }
        let text = latency(&results, "a").expect("it can be drawn");
        for word in ["p50", "p95", "p99", "p99.9", "max", "milliseconds"] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn a_run_without_any_operation_has_plots_too() {
        let results = Results::new(&[], 1_000, false).expect("nothing to unpack");
        assert!(throughput(&results, "nothing").is_ok());
        assert!(latency(&results, "nothing").is_ok());
    }
}
