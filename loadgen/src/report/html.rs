//! The report as a page: one file, nothing loaded from elsewhere, no scripts, readable in light and dark and on paper.
//!
//! Owns: what is shown, and the style. Leaves to others: drawing lines (`svg`).
//!
//! Invariants: texts of people are escaped; what a chart shows is also there as a table.

use std::fmt::Write as _;

use domain::Timestamp;

use super::Report;
use super::svg::{Chart, Line, Scale, escaped};
use crate::workers::Measured;

/// Seconds that the table lists; the charts show all.
const SECONDS_LISTED_MAX: usize = 600;
/// Of the last second, the part that must be there for its rate to mean something.
const LAST_SECOND_MIN: f64 = 0.2;

const STYLE: &str = r"
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --paper: #ffffff; --card: #f6f8fa; --grid: #d8dee4;
  --a: #0b6bcb; --b: #c4500e; --c: #6e7781; --d: #16826f; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa5b1; --paper: #0d1117; --card: #161b22; --grid: #30363d;
  --a: #58a6ff; --b: #f0883e; --c: #8b949e; --d: #3fb9a0; --good: #56d364; --bad: #ff7b72; } }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 960px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; }
p { margin: 4px 0; } .dim { color: var(--dim); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 10px; margin: 20px 0; }
.tile { background: var(--card); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 21px; font-weight: 600; white-space: nowrap; } .tile span { color: var(--dim); font-size: 13px; }
.note { border-left: 4px solid var(--bad); background: var(--card); padding: 8px 14px; margin: 8px 0; }
.note.good { border-color: var(--good); }
svg { display: block; width: 100%; min-width: 640px; height: auto; margin: 18px 0; }
svg text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: var(--dim); }
svg text.title { font-size: 15px; font-weight: 600; fill: var(--ink); }
.grid { stroke: var(--grid); stroke-width: 1; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.a { stroke: var(--a); } .b { stroke: var(--b); } .c { stroke: var(--c); } .d { stroke: var(--d); stroke-dasharray: 6 4; }
.mark { stroke: none; } .mark.a { fill: var(--a); } .mark.b { fill: var(--b); } .mark.c { fill: var(--c); } .mark.d { fill: var(--d); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
table { font-size: 14px; }
th, td { text-align: right; padding: 4px 7px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--dim); font-weight: 500; white-space: normal; vertical-align: bottom; }
pre { background: var(--card); padding: 12px 16px; border-radius: 8px; overflow-x: auto; font-size: 13px; }
summary { cursor: pointer; color: var(--dim); }
";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let title = format!("loadgen: {}", report.name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<h1>{}</h1>\n<p>{}</p>\n<p class=\"dim\">To {}, begun {}, by loadgen {}.</p>\n",
        escaped(&title),
        escaped(&title),
        escaped(&report.about()),
        escaped(&report.receiver),
        whole_second(report.started_at),
        env!("CARGO_PKG_VERSION")
    );
    tiles(&mut out, report);
    notes(&mut out, report);
    for chart in [throughput(report), latency(&report.measured), percentiles(report)] {
        let _ = writeln!(out, "<div class=\"scroll\">{}</div>", chart.draw());
    }
    comparison(&mut out, report);
    seconds(&mut out, &report.measured);
    let scenario = toml::to_string(&report.scenario).expect("a scenario is made of TOML's own kinds");
    let _ = writeln!(out, "<h2>The scenario as it was run</h2>\n<pre>{}</pre>", escaped(&scenario));
    out.push_str("</body>\n</html>\n");
    out
}

/// An instant for people: its fraction tells them nothing.
fn whole_second(instant: Timestamp) -> String {
    let text = instant.to_string();
    let whole = text.split('.').next().unwrap_or_default().trim_end_matches('Z');
    format!("{} UTC", whole.replace('T', " "))
}

fn tiles(out: &mut String, report: &Report) {
    let measured = &report.measured;
    let percentile =
        |percentile: f64| milliseconds(measured.latencies.value_at_percentile(percentile) as f64);
    let mut tiles = vec![
        (grouped(measured.rate()), "events/s"),
        (percentile(50.0), "latency p50"),
        (percentile(99.0), "latency p99"),
        (percentile(99.9), "latency p99.9"),
        (format!("{:.1} B", measured.bytes_per_event()), "an event on the wire"),
    ];
    if let Some(ns) = measured.receiver_ns_per_event() {
        tiles.push((format!("{} ns", grouped(ns)), "receiver's CPU an event"));
    }
    if let Some(percent) = measured.cpu.and_then(|cpu| cpu.foreign_percent()) {
        tiles.push((format!("{percent:.1} %"), "of a core for other programs"));
    }
    if let Some(share) = report.share_of_sink() {
        tiles.push((format!("{:.1} %", share * 100.0), "of the raw sink's bytes"));
    }
    out.push_str("<div class=\"tiles\">\n");
    for (value, label) in tiles {
        let _ = writeln!(
            out,
            "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
            escaped(&value),
            escaped(label)
        );
    }
    out.push_str("</div>\n");
}

fn notes(out: &mut String, report: &Report) {
    for warning in report.warnings() {
        let _ = writeln!(out, "<div class=\"note\">{}</div>", escaped(&warning));
    }
    let Some(verified) = &report.verified else { return };
    if verified.differences.is_empty() {
        let _ = writeln!(
            out,
            "<div class=\"note good\">Verified: {} monthly charges equal the oracle to the last digit, {} in all.</div>",
            grouped(verified.rows as f64),
            escaped(&verified.charged)
        );
    } else {
        let shown: Vec<String> = verified.differences.iter().take(20).map(|text| escaped(text)).collect();
        let _ = writeln!(
            out,
            "<div class=\"note\">NOT verified: {} differences.<br>{}</div>",
            verified.differences.len(),
            shown.join("<br>")
        );
    }
}

/// Seconds of a run that are whole enough for a rate: number of the second, and the part of it that was there.
fn whole_seconds(measured: &Measured) -> impl Iterator<Item = (usize, f64)> + '_ {
    let parts =
        (0..measured.series.len()).map(|index| (index, (measured.seconds - index as f64).clamp(0.0, 1.0)));
    parts.filter(|(index, part)| *index == 0 || *part >= LAST_SECOND_MIN)
}

fn throughput(report: &Report) -> Chart<'static> {
    let rates = |measured: &Measured| -> Vec<(f64, f64)> {
        let rate = |(index, part): (usize, f64)| {
            let events = measured.series[index].counts.events as f64;
            (index as f64 + part, events / part.max(0.001))
        };
        whole_seconds(measured).map(rate).collect()
    };
    let mut lines = vec![Line { name: "receiver".to_string(), class: "a", points: rates(&report.measured) }];
    let sinks = report.sinks().zip(["d", "c"]);
    lines.extend(sinks.map(|((name, sink), class)| Line {
        name: name.to_string(),
        class,
        points: rates(sink),
    }));
    let all = || lines.iter().flat_map(|line| line.points.iter());
    Chart {
        title: "Events per second",
        x_label: "seconds",
        y_label: "events/s",
        x: Scale::linear(all().map(|(x, _)| *x).fold(1.0, f64::max)),
        y: Scale::linear(all().map(|(_, y)| *y).fold(1.0, f64::max)),
        lines,
        y_text: grouped,
        x_text: plain,
    }
}

fn latency(measured: &Measured) -> Chart<'static> {
    let answered: Vec<(f64, &crate::workers::Second)> = whole_seconds(measured)
        .map(|(index, part)| (index as f64 + part, &measured.series[index]))
        .filter(|(_, second)| second.max > 0)
        .collect();
    let line = |name: &str, class, of: fn(&crate::workers::Second) -> u64| Line {
        name: name.to_string(),
        class,
        points: answered.iter().map(|(at, second)| (*at, of(second) as f64)).collect(),
    };
    // What lies above the others is drawn first, so that it hides none.
    let lines = vec![
        line("longest", "c", |second| second.max),
        line("p99", "b", |second| second.p99),
        line("p50", "a", |second| second.p50),
    ];
    let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
    Chart {
        title: "Latency of each second",
        x_label: "seconds",
        y_label: "latency",
        x: Scale::linear(answered.last().map_or(1.0, |(at, _)| at.max(1.0))),
        y: Scale::log(values),
        lines,
        y_text: milliseconds,
        x_text: plain,
    }
}

fn percentiles(report: &Report) -> Chart<'static> {
    let nines = ((report.measured.latencies.len().max(10)) as f64).log10().clamp(1.0, 6.0);
    let curve = |measured: &Measured| -> Vec<(f64, f64)> {
        const STEPS: u32 = 240;
        let step = |step: u32| {
            let percentile = 100.0 * (1.0 - 10f64.powf(-nines * f64::from(step) / f64::from(STEPS)));
            (percentile, measured.latencies.value_at_percentile(percentile) as f64)
        };
        if measured.latencies.is_empty() { Vec::new() } else { (0..=STEPS).map(step).collect() }
    };
    let mut lines = vec![Line { name: "receiver".to_string(), class: "a", points: curve(&report.measured) }];
    let sinks = report.sinks().zip(["d", "c"]);
    lines.extend(sinks.map(|((name, sink), class)| Line {
        name: name.to_string(),
        class,
        points: curve(sink),
    }));
    let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
    Chart {
        title: "Latency by percentile (HDR)",
        x_label: "percentile; each nine takes the same room",
        y_label: "latency",
        x: Scale::Nines { nines },
        y: Scale::log(values),
        lines,
        y_text: milliseconds,
        x_text: |percentile| format!("{} %", plain(percentile)),
    }
}

fn comparison(out: &mut String, report: &Report) {
    out.push_str(
        "<h2>Figures</h2>\n<div class=\"scroll\"><table>\n<tr><th></th><th>events</th><th>s</th><th>events/s</th><th>requests/s</th>\
         <th>MB/s</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th><th>cores: generator</th><th>receiver</th></tr>\n",
    );
    let rows = [("receiver", &report.measured)].into_iter().chain(report.sinks());
    for (name, measured) in rows {
        let percentile =
            |percentile: f64| milliseconds(measured.latencies.value_at_percentile(percentile) as f64);
        let cores = |seconds: Option<f64>| match (measured.cpu, seconds) {
            (Some(cpu), Some(seconds)) => format!("{:.2}", seconds / cpu.seconds),
            _ => "–".to_string(),
        };
        let cells = [
            name.to_string(),
            grouped(measured.counts.events as f64),
            format!("{:.2}", measured.seconds),
            grouped(measured.rate()),
            grouped(measured.requests_per_second()),
            format!("{:.1}", measured.bytes_per_second() / 1e6),
            percentile(50.0),
            percentile(90.0),
            percentile(99.0),
            percentile(99.9),
            milliseconds(measured.latencies.max() as f64),
            cores(measured.cpu.map(|cpu| cpu.generator)),
            cores(measured.cpu.and_then(|cpu| cpu.receiver)),
        ];
        row(out, &cells);
    }
    out.push_str("</table></div>\n");
}

fn seconds(out: &mut String, measured: &Measured) {
    let left_out = measured.series.len().saturating_sub(SECONDS_LISTED_MAX);
    out.push_str(
        "<details><summary>Every second</summary>\n<div class=\"scroll\"><table>\n\
         <tr><th>second</th><th>events</th><th>requests</th><th>bytes</th><th>p50</th><th>p99</th><th>longest</th></tr>\n",
    );
    for (index, second) in measured.series.iter().take(SECONDS_LISTED_MAX).enumerate() {
        let cells = [
            (index + 1).to_string(),
            grouped(second.counts.events as f64),
            grouped(second.counts.requests as f64),
            grouped(second.counts.bytes as f64),
            milliseconds(second.p50 as f64),
            milliseconds(second.p99 as f64),
            milliseconds(second.max as f64),
        ];
        row(out, &cells);
    }
    out.push_str("</table></div>\n");
    if left_out > 0 {
        let _ = writeln!(out, "<p class=\"dim\">{left_out} more seconds are in the charts only.</p>");
    }
    out.push_str("</details>\n");
}

fn row(out: &mut String, cells: &[String]) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = write!(out, "<td>{}</td>", escaped(cell));
    }
    out.push_str("</tr>\n");
}

/// Microseconds as milliseconds, with three digits that count.
fn milliseconds(microseconds: f64) -> String {
    let milliseconds = microseconds / 1e3;
    match milliseconds {
        ms if ms >= 100.0 => format!("{} ms", grouped(ms)),
        ms if ms >= 10.0 => format!("{} ms", plain((ms * 10.0).round() / 10.0)),
        ms => format!("{} ms", plain((ms * 100.0).round() / 100.0)),
    }
}

/// A whole number in groups of three digits.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with as few digits as it needs.
fn plain(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests;
