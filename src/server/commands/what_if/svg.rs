//! The distribution of a comparison as a picture: one self-contained SVG file, without scripts.
//!
//! Owns: geometry, in whole pixels. Leaves to others: what is in the bars (`distribution`).
//!
//! Invariants: every bar says its count; texts of people are escaped.

use std::fmt::Write as _;

use billing::rating::grouped;

use super::comparison::Comparison;
use super::distribution::{Bin, Distribution, bound_text, has_fraction, percent_text};

const WIDTH: u64 = 960;
const HEIGHT: u64 = 580;
/// The plot lies between these.
const LEFT: u64 = 84;
const RIGHT: u64 = 932;
const TOP: u64 = 176;
const BOTTOM: u64 = 476;
/// Lines of the scale, without zero.
const TICKS_MAX: u64 = 5;
/// Totals that have room.
const TOTALS_MAX: usize = 3;
/// Room for a character of the labels below the bars.
const LABEL_CHAR: u64 = 8;

const LESS: &str = "#2a8f82";
const MORE: &str = "#d9772b";
const SAME: &str = "#9aa3ab";
const NEW: &str = "#7863ab";

fn axis_text(comparison: &Comparison<'_>) -> String {
    let credits = if comparison.drawn.is_empty() { "" } else { " before credits" };
    format!("change of what an account is charged{credits}, in percent")
}

/// A bar and where it stands, in halves of a bar's width.
struct Bar {
    at: u64,
    label: String,
    color: &'static str,
    accounts: u64,
}

pub(super) fn draw(comparison: &Comparison<'_>) -> String {
    let distribution = &comparison.distribution;
    let title = title_of(comparison);
    let changed = comparison.changed_accounts();
    let of = comparison.accounts.len();
    let subtitle = format!(
        "{} of {} account{} would be charged another amount",
        grouped(&changed.to_string()),
        grouped(&of.to_string()),
        if of == 1 { "" } else { "s" }
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\" font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" fill=\"#24292f\">\n\
         <title>{}</title>\n<desc>{}</desc>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n",
        escaped(&title),
        escaped(&subtitle)
    );
    text(&mut out, LEFT, 44, "font-size=\"22\" font-weight=\"600\"", &title);
    text(&mut out, LEFT, 72, "font-size=\"15\"", &subtitle);
    for (index, total) in totals_of(comparison).iter().enumerate() {
        text(&mut out, LEFT, 98 + 20 * index as u64, "font-size=\"14\" fill=\"#57606a\"", total);
    }
    draw_scale(&mut out, distribution.accounts_max());
    draw_bars(&mut out, distribution);
    let middle = LEFT.midpoint(RIGHT);
    let axis = "font-size=\"14\" fill=\"#57606a\" text-anchor=\"middle\"";
    text(&mut out, middle, BOTTOM + 52, axis, &axis_text(comparison));
    let height = TOP.midpoint(BOTTOM);
    let turned = format!("{axis} transform=\"rotate(-90 30 {height})\"");
    text(&mut out, 30, height, &turned, "accounts");
    let question = &comparison.question;
    let events = grouped(&question.events.to_string());
    let foot = format!("{events} events in {}, charges as of {}", question.data.display(), question.at);
    text(&mut out, LEFT, HEIGHT - 16, "font-size=\"12\" fill=\"#6e7781\"", &foot);
    out.push_str("</svg>\n");
    out
}

fn title_of(comparison: &Comparison<'_>) -> String {
    let catalog = comparison.question.catalog;
    let name = catalog.file_name().unwrap_or(catalog.as_os_str()).to_string_lossy();
    format!("What if {name} held, for {}", comparison.scope())
}

fn totals_of(comparison: &Comparison<'_>) -> Vec<String> {
    let rows = comparison.totals.iter().take(TOTALS_MAX).map(|(currency, amounts)| {
        let amount = |minor| grouped(&currency.format_minor(minor));
        let percent = percent_text(amounts.before, amounts.difference);
        let percent = percent.map_or_else(String::new, |percent| format!(" ({percent} %)"));
        let after = amounts.before + amounts.difference;
        format!("{currency} {} → {}{percent}", amount(amounts.before), amount(after))
    });
    rows.collect()
}

/// Lines at round counts.
fn draw_scale(out: &mut String, accounts_max: u64) {
    let (step, top) = scale_of(accounts_max);
    for tick in 0..=top / step {
        let y = height_of(tick * step, top);
        let color = if tick == 0 { "#57606a" } else { "#e3e7eb" };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{RIGHT}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"1\"/>"
        );
        let style = "font-size=\"12\" fill=\"#57606a\" text-anchor=\"end\"";
        text(out, LEFT - 8, y + 4, style, &grouped(&(tick * step).to_string()));
    }
}

/// The step between lines, and the count at the top.
fn scale_of(accounts_max: u64) -> (u64, u64) {
    let most = accounts_max.max(1);
    let mut steps = (0..19).flat_map(|exponent| [1, 2, 5].map(|digit| digit * 10u64.pow(exponent)));
    let step = steps.find(|step| most.div_ceil(*step) <= TICKS_MAX).unwrap_or(most);
    (step, most.div_ceil(step) * step)
}

/// Where a count lies between bottom and top.
fn height_of(accounts: u64, top: u64) -> u64 {
    let pixels = u128::from(accounts) * u128::from(BOTTOM - TOP) / u128::from(top);
    BOTTOM - pixels as u64
}

fn draw_bars(out: &mut String, distribution: &Distribution) {
    let bars = bars_of(distribution);
    let halves = bars.last().map_or(2, |bar| bar.at + 2);
    let x = |at: u64| LEFT + 12 + at * (RIGHT - LEFT - 24) / halves;
    let (_, top) = scale_of(distribution.accounts_max());
    for bar in &bars {
        let (left, right) = (x(bar.at) + 2, x(bar.at + 2) - 2);
        let middle = left.midpoint(right);
        let mut y = height_of(bar.accounts, top);
        // One account among thousands is still seen.
        if bar.accounts > 0 {
            y = y.min(BOTTOM - 2);
            let (width, height) = (right - left, BOTTOM - y);
            let _ = writeln!(
                out,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
                bar.color
            );
            let style = "font-size=\"13\" font-weight=\"600\" text-anchor=\"middle\"";
            text(out, middle, y - 6, style, &grouped(&bar.accounts.to_string()));
        }
        let style = "font-size=\"12\" fill=\"#57606a\" text-anchor=\"middle\"";
        text(out, middle, BOTTOM + 18, style, &bar.label);
    }
    // Bounds stand below the edges between bins.
    let fraction = has_fraction(&distribution.bins);
    let first = u64::from(distribution.unchanged > 0) * 3;
    let mut edges: Vec<(u64, String)> = Vec::new();
    for (index, bin) in distribution.bins.iter().enumerate() {
        let at = first + 2 * index as u64;
        let bounds = [(at, bin.from), (at + 2, bin.until)];
        for (at, bound) in bounds {
            let Some(bound) = bound else { continue };
            if edges.last().is_none_or(|(last, _)| *last != at) {
                edges.push((at, bound_text(bound, fraction)));
            }
        }
    }
    let chars = edges.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(1) as u64 + 1;
    let every = (chars * LABEL_CHAR).div_ceil((x(2) - x(0)).max(1)).max(1) as usize;
    for (at, label) in edges.iter().step_by(every) {
        let style = "font-size=\"12\" fill=\"#24292f\" text-anchor=\"middle\"";
        text(out, x(*at), BOTTOM + 18, style, &label.replace('-', "−"));
    }
}

/// Bars from left to right: the same, percentages, from nothing; gaps keep apart what is no percentage.
fn bars_of(distribution: &Distribution) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    let mut at = 0;
    let mut push = |at: &mut u64, label: &str, color, accounts| {
        bars.push(Bar { at: *at, label: label.to_string(), color, accounts });
        *at += 2;
    };
    if distribution.unchanged > 0 {
        push(&mut at, "the same", SAME, distribution.unchanged);
        at += 1;
    }
    for bin in &distribution.bins {
        let label = match (bin.from, bin.until) {
            (None, _) => "less",
            (_, None) => "more",
            _ => "",
        };
        push(&mut at, label, color_of(bin), bin.accounts);
    }
    if distribution.from_nothing > 0 {
        at += u64::from(at > 0);
        push(&mut at, "from nothing", NEW, distribution.from_nothing);
    }
    bars
}

fn color_of(bin: &Bin) -> &'static str {
    match (bin.from, bin.until) {
        (_, Some(until)) if until <= 0 => LESS,
        (Some(from), _) if from >= 0 => MORE,
        // Open, with what costs more and what costs less.
        _ => SAME,
    }
}

fn text(out: &mut String, x: u64, y: u64, style: &str, text: &str) {
    if !text.is_empty() {
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" {style}>{}</text>", escaped(text));
    }
}

/// A text as XML; characters that XML does not know are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars().filter(|character| !character.is_control()) {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => {}
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_few_round_lines_and_reaches_the_largest_bar() {
        for (most, step, top) in
            [(0, 1, 1), (1, 1, 1), (5, 1, 5), (6, 2, 6), (11, 5, 15), (99, 20, 100), (1_001, 500, 1_500)]
        {
            assert_eq!(scale_of(most), (step, top), "{most}");
        }
        let (step, top) = scale_of(u64::MAX / 4);
        assert!(top >= u64::MAX / 4 && top / step <= TICKS_MAX);
        assert_eq!((height_of(0, 5), height_of(5, 5)), (BOTTOM, TOP));
    }

    #[test]
    fn bars_stand_apart_from_what_is_no_percentage() {
        let bin = |from, until| Bin { from, until, accounts: 1 };
        let bins =
            vec![bin(None, Some(-10)), bin(Some(-10), Some(0)), bin(Some(0), Some(10)), bin(Some(10), None)];
        let bars = bars_of(&Distribution { bins, unchanged: 2, from_nothing: 3 });
        let found: Vec<_> = bars.iter().map(|bar| (bar.at, &*bar.label, bar.color)).collect();
        let expected = [
            (0, "the same", SAME),
            (3, "less", LESS),
            (5, "", LESS),
            (7, "", MORE),
            (9, "more", MORE),
            (12, "from nothing", NEW),
        ];
        assert_eq!(found, expected);
        assert!(bars_of(&Distribution::default()).is_empty());
    }

    #[test]
    fn texts_of_people_are_escaped() {
        assert_eq!(escaped("a<script>&\"b\"\u{7}\n"), "a&lt;script&gt;&amp;&quot;b&quot;");
    }
}
