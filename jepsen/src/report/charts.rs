//! Drawings as SVG, without scripts or anything from elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::timeline::{Timeline, milliseconds};
use crate::history::Kind;

const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 24.0;
/// Latencies are drawn between these, in milliseconds, on a logarithmic scale.
const LEAST_MS: f64 = 0.1;
const MOST_MS: f64 = 10_000.0;
/// More points are thinned out.
const POINTS_MAX: usize = 8_000;
/// Percentiles are of so many nanoseconds each.
const WINDOW: u64 = 1_000_000_000;

const COLOURS: [(Kind, &str); 3] =
    [(Kind::Ok, "#3f7f4f"), (Kind::Fail, "#c2851c"), (Kind::Info, "#b8332e")];

fn colour(kind: Kind) -> &'static str {
    COLOURS.iter().find(|(other, _)| *other == kind).map_or("#888", |(_, colour)| colour)
}

struct Frame {
    end: f64,
}

impl Frame {
    fn x(&self, ns: u64) -> f64 {
        LEFT + (WIDTH - LEFT) * (ns as f64 / self.end)
    }
}

/// A latency's height.
fn y(ms: f64) -> f64 {
    let share = (ms.clamp(LEAST_MS, MOST_MS) / LEAST_MS).ln() / (MOST_MS / LEAST_MS).ln();
    (HEIGHT - BOTTOM) * (1.0 - share)
}

/// The frame of a drawing: faults as bands, and seconds below.
fn open(svg: &mut String, timeline: &Timeline) -> Frame {
    let frame = Frame { end: timeline.end.max(1) as f64 };
    let _ = write!(svg, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for band in &timeline.bands {
        let (from, to) = (frame.x(band.from), frame.x(band.to));
        let _ = write!(
            svg,
            "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{}\" fill=\"#8883\">\
             <title>{}</title></rect>",
            to - from,
            HEIGHT - BOTTOM,
            super::html::escaped(&band.told),
        );
    }
    let seconds = timeline.end / 1_000_000_000;
    let step = (seconds / 10).max(1);
    for at in (0..=seconds).step_by(usize::try_from(step).unwrap_or(1)) {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\">{at} s</text>",
            frame.x(at * 1_000_000_000),
            HEIGHT - 6.0
        );
    }
    frame
}

/// Each operation as a point, by when it began and how long it took.
pub(super) fn points(timeline: &Timeline) -> String {
    let mut svg = String::new();
    let frame = open(&mut svg, timeline);
    latency_axis(&mut svg);
    let step = timeline.points.len() / POINTS_MAX + 1;
    // What was not done is rare, and never thinned out.
    let shown = timeline
        .points
        .iter()
        .enumerate()
        .filter(|(at, point)| at % step == 0 || point.kind != Kind::Ok);
    for (_, point) in shown {
        let _ = write!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.4\" fill=\"{}\"/>",
            frame.x(point.at),
            y(milliseconds(point.latency)),
            colour(point.kind)
        );
    }
    svg + "</svg>"
}

fn latency_axis(svg: &mut String) {
    for ms in [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0] {
        let at = y(ms);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#8884\"/>\
             <text x=\"0\" y=\"{:.1}\">{ms} ms</text>",
            at + 10.0
        );
    }
}

/// The median, the 95th and the 99th percentile and the greatest latency of each second.
pub(super) fn percentiles(timeline: &Timeline) -> String {
    let mut svg = String::new();
    let frame = open(&mut svg, timeline);
    latency_axis(&mut svg);
    let mut windows: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for point in timeline.points.iter().filter(|point| point.kind == Kind::Ok) {
        windows.entry(point.at / WINDOW).or_default().push(point.latency);
    }
    for latencies in windows.values_mut() {
        latencies.sort_unstable();
    }
    for (percent, colour) in [(50, "#2f6f9f"), (95, "#6a4fa0"), (99, "#b8332e"), (100, "#888888")] {
        let mut path = String::new();
        for (window, latencies) in &windows {
            let latency = latencies[(latencies.len() - 1) * percent / 100];
            let (x, y) = (frame.x(window * WINDOW + WINDOW / 2), y(milliseconds(latency)));
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\"><title>{percent} %</title></path>"
        );
    }
    svg + "</svg>"
}

/// How many operations ended a second, by outcome.
pub(super) fn rates(timeline: &Timeline) -> String {
    let mut svg = String::new();
    let frame = open(&mut svg, timeline);
    let mut windows: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    for point in &timeline.points {
        let counts = windows.entry((point.at + point.latency) / WINDOW).or_default();
        if let Some(at) = COLOURS.iter().position(|(kind, _)| *kind == point.kind) {
            counts[at] += 1;
        }
    }
    let most = windows.values().map(|counts| counts.iter().sum::<u64>()).max().unwrap_or(1).max(1);
    let scale = (HEIGHT - BOTTOM - 10.0) / most as f64;
    let width = (frame.x(WINDOW) - frame.x(0) - 1.0).max(0.5);
    for (window, counts) in &windows {
        let mut top = HEIGHT - BOTTOM;
        for (count, (_, colour)) in counts.iter().zip(COLOURS) {
            let height = *count as f64 * scale;
            top -= height;
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                 fill=\"{colour}\"/>",
                frame.x(window * WINDOW)
            );
        }
    }
    let _ = write!(svg, "<text x=\"0\" y=\"20\">{most}/s</text>");
    svg + "</svg>"
}

const CLOCK_COLOURS: [&str; 8] =
    ["#2f6f9f", "#b8332e", "#3f7f4f", "#6a4fa0", "#c2851c", "#208080", "#a04f7f", "#707070"];

/// Where an offset is drawn: on a scale that is logarithmic to both sides of zero.
fn clock_y(ms: i64, most: i64) -> f64 {
    let size = |ms: i64| (1.0 + ms.unsigned_abs() as f64).ln();
    let share = size(ms) / size(most.max(1));
    let half = (HEIGHT - BOTTOM) / 2.0;
    half - (half - 8.0) * share * if ms < 0 { -1.0 } else { 1.0 }
}

/// How far each node's clock is off, over time.
pub(super) fn clocks(timeline: &Timeline) -> String {
    let mut svg = String::new();
    let frame = open(&mut svg, timeline);
    let offsets = timeline.clocks.values().flatten().map(|(_, offset)| offset.abs());
    let most = offsets.max().unwrap_or(0).max(1_000);
    let marks = [(1_000, "1 s"), (60_000, "1 min"), (3_600_000, "1 h")];
    let marks = marks.into_iter().filter(|(ms, _)| *ms <= most);
    let both = marks.flat_map(|(ms, name)| [(ms, format!("+{name}")), (-ms, format!("-{name}"))]);
    for (ms, name) in both.chain([(0, "0".to_owned())]) {
        let at = clock_y(ms, most);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#8884\"/>\
             <text x=\"0\" y=\"{:.1}\">{name}</text>",
            at + 4.0
        );
    }
    for ((node, course), colour) in timeline.clocks.iter().zip(CLOCK_COLOURS.iter().cycle()) {
        let mut path = format!("M{LEFT} {:.1}", clock_y(0, most));
        for (at, offset) in course.iter().filter(|(at, _)| *at <= timeline.end) {
            let _ = write!(path, "H{:.1}V{:.1}", frame.x(*at), clock_y(*offset, most));
        }
        let _ = write!(
            svg,
            "<path d=\"{path}H{WIDTH}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\">\
             <title>{}</title></path>",
            super::html::escaped(node)
        );
    }
    svg + "</svg>"
}
