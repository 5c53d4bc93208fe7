//! Throughput and latency over the run, with the faults marked: one SVG, nothing to load.

use crate::history::Micros;
use crate::measure::part;
use crate::nemesis::Event;
use std::fmt::Write as _;

/// Of the page.
pub const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;color:#222;\
    background:#fff}h1{font:15px monospace}pre{overflow-x:auto;background:#f5f5f5;padding:1em}\
    .good{border-left:6px solid #2e7d32;padding-left:1em}.bad{border-left:6px solid #c62828;\
    padding-left:1em;white-space:pre-wrap}.good p,.bad p{margin:.2em 0}svg{max-width:100%;height:auto}\
    text{font:11px system-ui,sans-serif;fill:#555}";

/// Pixels.
const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 15.0;
const TOP: f64 = 30.0;
const PANEL: f64 = 190.0;
const BETWEEN: f64 = 45.0;
/// Buckets of time in the plot, at most.
const BUCKETS_MAX: u64 = 600;
/// And each at least this long.
const BUCKET_MIN: Micros = 250_000;
/// Of the latency's axis, which is logarithmic.
const DECADES: [(f64, &str); 6] = [
    (1e2, "0.1 ms"),
    (1e3, "1 ms"),
    (1e4, "10 ms"),
    (1e5, "100 ms"),
    (1e6, "1 s"),
    (1e7, "10 s"),
];
/// Colours of the kinds of faults, by the first word of what was done.
const COLOURS: [(&str, &str); 9] = [
    ("kill", "#c62828"),
    ("pause", "#6a1b9a"),
    ("partition", "#1565c0"),
    ("one-way", "#0097a7"),
    ("slow", "#9e9d24"),
    ("disk-full", "#6d4c41"),
    ("damage", "#d84315"),
    ("wipe", "#ad1457"),
    ("clock", "#455a64"),
];

/// What happened in one bucket of time.
struct Bucket {
    count: usize,
    median: Micros,
    high: Micros,
}

/// The plot. `acknowledged` is (returned, latency), in the order of `returned`.
pub fn svg(acknowledged: &[(Micros, Micros)], events: &[&Event]) -> String {
    let last = acknowledged.last().map_or(1, |last| last.0);
    let end = events
        .iter()
        .map(|event| event.healed)
        .fold(last, Micros::max);
    let bucket = (end / BUCKETS_MAX).max(BUCKET_MIN);
    let buckets = buckets(acknowledged, bucket, end);
    let x = |time: Micros| LEFT + time as f64 / end as f64 * (WIDTH - LEFT - RIGHT);
    let height = TOP + 2.0 * PANEL + BETWEEN + 35.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">"
    );
    faults(&mut svg, events, &x);
    throughput(&mut svg, &buckets, bucket, &x);
    latency(&mut svg, &buckets, bucket, &x);
    seconds(&mut svg, end, height, &x);
    svg.push_str("</svg>");
    svg
}

/// Text in a page.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn buckets(acknowledged: &[(Micros, Micros)], bucket: Micros, end: Micros) -> Vec<Bucket> {
    let place = |time| acknowledged.partition_point(|(returned, _)| *returned < time);
    let number = end / bucket + 1;
    (0..number)
        .map(|number| {
            let inside = &acknowledged[place(number * bucket)..place((number + 1) * bucket)];
            let latencies: Vec<Micros> = inside.iter().map(|(_, latency)| *latency).collect();
            Bucket {
                count: inside.len(),
                median: part(latencies.clone(), 0.5),
                high: part(latencies, 0.99),
            }
        })
        .collect()
}

/// Bands over both panels, each with its story as a tooltip, and the colours' names.
fn faults(svg: &mut String, events: &[&Event], x: &dyn Fn(Micros) -> f64) {
    for event in events {
        let (from, to) = (x(event.began), x(event.healed.max(event.began)));
        let story = escaped(&event.what.join("; "));
        let height = (2.0 * PANEL + BETWEEN) / event.what.len().max(1) as f64;
        for (number, what) in event.what.iter().enumerate() {
            let (y, width) = (TOP + number as f64 * height, (to - from).max(1.0));
            put(
                svg,
                &format!(
                    "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
                     height=\"{height:.1}\" fill=\"{}\" fill-opacity=\".22\"><title>{story}\
                     </title></rect>",
                    colour(what)
                ),
            );
        }
    }
    for (number, (name, colour)) in COLOURS.iter().enumerate() {
        let x = LEFT + number as f64 * 100.0;
        put(
            svg,
            &format!(
                "<rect x=\"{x}\" y=\"6\" width=\"12\" height=\"12\" fill=\"{colour}\" \
                 fill-opacity=\".5\"/><text x=\"{}\" y=\"16\">{name}</text>",
                x + 17.0
            ),
        );
    }
}

fn colour(what: &str) -> &'static str {
    let found = COLOURS.iter().find(|(name, _)| what.starts_with(name));
    found.map_or("#777", |(_, colour)| *colour)
}

fn throughput(svg: &mut String, buckets: &[Bucket], bucket: Micros, x: &dyn Fn(Micros) -> f64) {
    let seconds = bucket as f64 / 1e6;
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    let most = (most as f64 / seconds).max(1.0) * 1.05;
    let bottom = TOP + PANEL;
    let y = |rate: f64| bottom - rate / most * PANEL;
    for part in [0.0, 0.5, 0.95] {
        let rate = part * most;
        grid(svg, y(rate), &format!("{rate:.0}/s"));
    }
    let mut line = String::new();
    for (number, one) in (0..).zip(buckets) {
        let y = y(one.count as f64 / seconds);
        let (from, to) = (x(number * bucket), x((number + 1) * bucket));
        let _ = write!(line, "{from:.1},{y:.1} {to:.1},{y:.1} ");
    }
    curve(svg, &line, "#2e7d32");
    title(svg, TOP - 4.0, "acknowledged messages a second");
}

fn latency(svg: &mut String, buckets: &[Bucket], bucket: Micros, x: &dyn Fn(Micros) -> f64) {
    let (low, high) = (
        DECADES[0].0.log10(),
        DECADES[DECADES.len() - 1].0.log10() + 0.2,
    );
    let bottom = TOP + 2.0 * PANEL + BETWEEN;
    let y = |micros: f64| {
        let place = (micros.max(DECADES[0].0).log10() - low) / (high - low);
        bottom - place.min(1.0) * PANEL
    };
    for (value, name) in DECADES {
        grid(svg, y(value), name);
    }
    for (which, colour) in [("high", "#ef6c00"), ("median", "#1565c0")] {
        let mut line = String::new();
        for (number, one) in (0..).zip(buckets) {
            let value = if which == "high" {
                one.high
            } else {
                one.median
            };
            if one.count > 0 {
                let x = x(number * bucket + bucket / 2);
                let _ = write!(line, "{x:.1},{:.1} ", y(value as f64));
            } else if !line.is_empty() {
                curve(svg, &line, colour);
                line.clear();
            }
        }
        curve(svg, &line, colour);
    }
    let above = TOP + PANEL + BETWEEN - 4.0;
    title(
        svg,
        above,
        "latency: median (blue), 99 of 100 below (orange)",
    );
}

fn seconds(svg: &mut String, end: Micros, height: f64, x: &dyn Fn(Micros) -> f64) {
    let steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 3_600];
    let wanted = end / 1_000_000 / 12;
    let step = steps.iter().find(|step| **step >= wanted).unwrap_or(&7_200);
    let mut at = 0;
    while at * 1_000_000 <= end {
        let (x, y) = (x(at * 1_000_000), height - 14.0);
        put(
            svg,
            &format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{at} s</text>"),
        );
        at += step;
    }
}

fn grid(svg: &mut String, y: f64, name: &str) {
    let (right, text_y) = (WIDTH - RIGHT, y + 4.0);
    put(
        svg,
        &format!(
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{text_y:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT - 6.0
        ),
    );
}

fn curve(svg: &mut String, points: &str, colour: &str) {
    put(
        svg,
        &format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>"
        ),
    );
}

fn title(svg: &mut String, y: f64, text: &str) {
    put(svg, &format!("<text x=\"{LEFT}\" y=\"{y}\">{text}</text>"));
}

fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}
