//! Latencies as pictures: bars in a terminal, and a page that needs nothing else.

use super::meter::{SLOT, Slot};
use super::report::Report;
use hdrhistogram::Histogram;
use std::fmt::Write as _;

/// Bars in the terminal.
const BARS: usize = 16;
/// Width of the longest.
const BAR_WIDTH: usize = 50;
/// Size of a plot on the page.
const PLOT: (f64, f64) = (860.0, 240.0);

/// How many messages took how long, in steps that double about every second bar.
pub fn terminal(latencies: &Histogram<u64>) -> String {
    let mut text = String::new();
    if latencies.is_empty() {
        return text;
    }
    let (low, high) = (latencies.min().max(1) as f64, latencies.max().max(2) as f64);
    let ratio = (high / low).max(1.01).powf(1.0 / BARS as f64);
    let bars: Vec<(f64, u64)> = (0..BARS)
        .map(|bar| {
            let from = low * ratio.powi(bar as i32);
            let to = from * ratio;
            let last = if bar + 1 == BARS { u64::MAX } else { to as u64 };
            let first = if bar == 0 { 0 } else { from as u64 + 1 };
            (to, latencies.count_between(first, last.max(first)))
        })
        .collect();
    let most = bars
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(1)
        .max(1);
    for (to, count) in bars {
        let width = (count * BAR_WIDTH as u64).div_ceil(most) as usize;
        // A String never fails to take text.
        let _ = writeln!(
            text,
            "{:>10.2} ms {:<BAR_WIDTH$} {count}",
            to / 1e3,
            "█".repeat(width)
        );
    }
    text
}

/// A page about these windows.
pub fn html(reports: &[Report]) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>chat-admin bench</title><style>\
         body{font:15px sans-serif;margin:2em;max-width:60em}pre{background:#f4f4f4;padding:1em}\
         svg{background:#fafafa;border:1px solid #ddd}text{font-size:11px;fill:#555}</style>\
         <h1>chat-admin bench</h1>\n",
    );
    for report in reports {
        let _ = write!(
            page,
            "<h2>{}, {} in flight: {:.0} messages/s</h2>\n<pre>{}</pre>\n",
            report.setup.protocol,
            report.setup.in_flight,
            report.rate(),
            report.text()
        );
        let rates: Vec<f64> = full_slots(&report.slots)
            .map(|slot| slot.count as f64 / SLOT.as_secs_f64())
            .collect();
        let worst: Vec<f64> = full_slots(&report.slots)
            .map(|slot| slot.worst_us as f64 / 1e3)
            .collect();
        page.push_str(&line_plot("messages/s over time", "s", &rates));
        page.push_str(&line_plot("longest latency over time, ms", "s", &worst));
        page.push_str(&percentile_plot(&report.latencies));
    }
    page
}

/// The last one is cut off by the end of the window.
fn full_slots(slots: &[Slot]) -> impl Iterator<Item = &Slot> {
    slots[..slots.len().saturating_sub(1)].iter()
}

fn line_plot(title: &str, unit: &str, values: &[f64]) -> String {
    let top = values.iter().copied().fold(1e-9, f64::max);
    let across = values.len().saturating_sub(1).max(1) as f64;
    let points = values
        .iter()
        .enumerate()
        .map(|(at, value)| (at as f64 / across, value / top));
    let end = across * SLOT.as_secs_f64();
    frame(
        title,
        points,
        &format!("{top:.1}"),
        &format!("{end:.1} {unit}"),
    )
}

/// Latency against the percentile, on an axis that shows each further nine alike.
fn percentile_plot(latencies: &Histogram<u64>) -> String {
    const NINES: f64 = 4.0;
    let top = latencies.value_at_quantile(1.0 - 10f64.powf(-NINES)).max(1) as f64;
    let points = (0..=200).map(|step| {
        let across = f64::from(step) / 200.0;
        let quantile = 1.0 - 10f64.powf(-NINES * across);
        (across, latencies.value_at_quantile(quantile) as f64 / top)
    });
    let top = format!("{:.2} ms", top / 1e3);
    frame(
        "latency by percentile (90, 99, 99.9, 99.99 at each quarter)",
        points,
        &top,
        "99.99",
    )
}

fn frame(title: &str, points: impl Iterator<Item = (f64, f64)>, top: &str, end: &str) -> String {
    let (width, height) = PLOT;
    let mut line = String::new();
    for (x, y) in points {
        let _ = write!(
            line,
            "{:.1},{:.1} ",
            x * width,
            height - y * (height - 20.0)
        );
    }
    format!(
        "<h3>{title}</h3><svg width={width} height={height}>\
         <polyline fill=none stroke=#1f6feb stroke-width=1.5 points='{line}'/>\
         <text x=4 y=14>{top}</text><text x={} y={}>{end}</text></svg>\n",
        width - 50.0,
        height - 4.0
    )
}
