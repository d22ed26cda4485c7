//! Line charts as SVG, to be put into a page that brings colours for light and dark.
//!
//! Owns: scales, ticks, geometry. Leaves to others: what is drawn (`html`), colours (the page's style, by class).
//!
//! Invariants: texts of people are escaped; every line is named; nothing is drawn outside the plot.

use std::fmt::Write as _;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 300.0;
/// The plot lies between these.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 900.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 252.0;
const TICKS_MAX: f64 = 6.0;
/// Points that get a mark with its value as a tooltip.
const MARKS_MAX: usize = 130;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From zero.
    Linear { most: f64 },
    /// From a power of ten to a power of ten.
    Log { least: f64, most: f64 },
    /// Percentiles: each nine takes the same room.
    Nines { nines: f64 },
}

impl Scale {
    /// A linear scale up to a round number.
    pub(super) fn linear(most: f64) -> Self {
        let step = round_step(most.max(1e-9));
        Scale::Linear { most: (most / step).ceil().max(1.0) * step }
    }

    /// A logarithmic scale around some values.
    pub(super) fn log(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::MAX, f64::MIN);
        for value in values.filter(|value| *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (1.0, 10.0);
        }
        let least = 10f64.powf(least.log10().floor());
        Scale::Log { least, most: 10f64.powf(most.log10().ceil()).max(least * 10.0) }
    }

    /// Where a value lies, from 0 to 1.
    fn share(self, value: f64) -> f64 {
        let share = match self {
            Scale::Linear { most } => value / most,
            Scale::Log { least, most } => (value.max(least) / least).log10() / (most / least).log10(),
            Scale::Nines { nines } => -(1.0 - (value / 100.0).min(1.0 - 1e-12)).log10() / nines,
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Scale::Linear { most } => {
                let step = round_step(most);
                (0..=(most / step).round() as u32).map(|tick| f64::from(tick) * step).collect()
            }
            Scale::Log { least, most } => {
                let decades = (most / least).log10().round() as i32;
                let within: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let ticks = (0..decades)
                    .flat_map(|decade| within.iter().map(move |by| least * 10f64.powi(decade) * by));
                ticks.chain([most]).collect()
            }
            Scale::Nines { nines } => {
                let ticks = (1..=nines.floor() as i32).map(|nines| 100.0 * (1.0 - 10f64.powi(-nines)));
                [0.0, 50.0].into_iter().chain(ticks).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that there are few ticks.
fn round_step(most: f64) -> f64 {
    let magnitude = 10f64.powf((most / TICKS_MAX).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|by| by * magnitude);
    steps.into_iter().find(|step| most / step <= TICKS_MAX).unwrap_or(steps[3])
}

/// A line of a chart.
pub(super) struct Line {
    pub(super) name: String,
    /// Class of its colour in the page's style.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) lines: Vec<Line>,
    /// A number of the y axis as text.
    pub(super) y_text: fn(f64) -> String,
    /// A number of the x axis as text.
    pub(super) x_text: fn(f64) -> String,
}

impl Chart<'_> {
    /// The chart as an element of a page.
    pub(super) fn draw(&self) -> String {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n<title>{}</title>\n",
            escaped(&format!("{}: {}", self.title, names.join(", "))),
            escaped(self.title)
        );
        text(&mut out, LEFT, 18.0, "title", "start", self.title);
        self.draw_legend(&mut out);
        self.draw_axes(&mut out);
        for line in &self.lines {
            self.draw_line(&mut out, line);
        }
        out.push_str("</svg>\n");
        out
    }

    fn draw_legend(&self, out: &mut String) {
        // Every name stands close behind its line, whatever room the font really takes.
        let mut end = RIGHT;
        for line in self.lines.iter().rev() {
            let name_at = end - 7.0 * line.name.chars().count() as f64;
            let (from, until, class) = (name_at - 24.0, name_at - 6.0, line.class);
            let _ = writeln!(
                out,
                "<line class=\"line {class}\" x1=\"{from:.1}\" y1=\"14\" x2=\"{until:.1}\" y2=\"14\"/>"
            );
            text(out, name_at, 18.0, "label", "start", &line.name);
            end = from - 16.0;
        }
    }

    fn draw_axes(&self, out: &mut String) {
        for tick in self.y.ticks() {
            let y = self.y_of(tick);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\"/>"
            );
            text(out, LEFT - 8.0, y + 4.0, "label", "end", &(self.y_text)(tick));
        }
        for tick in self.x.ticks() {
            let x = self.x_of(tick);
            let end = BOTTOM + 5.0;
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{BOTTOM}\" x2=\"{x:.1}\" y2=\"{end}\"/>"
            );
            text(out, x, BOTTOM + 20.0, "label", "middle", &(self.x_text)(tick));
        }
        text(out, LEFT.midpoint(RIGHT), HEIGHT - 6.0, "label", "middle", self.x_label);
        text(out, LEFT - 8.0, TOP - 8.0, "label", "end", self.y_label);
    }

    fn draw_line(&self, out: &mut String, line: &Line) {
        let class = line.class;
        let mut path = String::new();
        for (index, (x, y)) in line.points.iter().enumerate() {
            let verb = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {:.1}", self.x_of(*x), self.y_of(*y));
        }
        let _ = writeln!(out, "<path class=\"line {class}\" d=\"{path}\"/>");
        if line.points.len() > MARKS_MAX {
            return;
        }
        for (x, y) in &line.points {
            let _ = writeln!(
                out,
                "<circle class=\"mark {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}</title></circle>",
                self.x_of(*x),
                self.y_of(*y),
                escaped(&format!("{} at {}: {}", line.name, (self.x_text)(*x), (self.y_text)(*y)))
            );
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * self.x.share(value)
    }

    fn y_of(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * self.y.share(value)
    }
}

fn text(out: &mut String, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
    let text = escaped(text);
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// Text inside an element or an attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scale: Scale, shares: &[(f64, f64)], ticks: &[f64]) {
        for (value, share) in shares {
            assert!(
                (scale.share(*value) - share).abs() < 1e-6,
                "{value} of {scale:?} lies at {}",
                scale.share(*value)
            );
        }
        let found = scale.ticks();
        assert_eq!(found.len(), ticks.len(), "{scale:?}: {found:?}");
        for (found, tick) in found.iter().zip(ticks) {
            assert!((found - tick).abs() < 1e-6 * tick.abs().max(1.0), "{scale:?}: {found} is not {tick}");
        }
    }

    #[test]
    fn scales_put_values_where_they_belong() {
        let linear = Scale::linear(47.0);
        check(
            linear,
            &[(0.0, 0.0), (25.0, 0.5), (60.0, 1.0), (-1.0, 0.0)],
            &[0.0, 10.0, 20.0, 30.0, 40.0, 50.0],
        );
        let log = Scale::log([0.0, 3.0, 700.0, 20_000.0].into_iter());
        check(
            log,
            &[(1.0, 0.0), (1_000.0, 0.6), (0.0, 0.0)],
            &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0],
        );
        check(Scale::log(std::iter::empty()), &[(10.0, 1.0)], &[1.0, 2.0, 5.0, 10.0]);
        let nines = Scale::Nines { nines: 3.0 };
        check(
            nines,
            &[(0.0, 0.0), (90.0, 1.0 / 3.0), (99.9, 1.0), (100.0, 1.0)],
            &[0.0, 50.0, 90.0, 99.0, 99.9],
        );
    }

    #[test]
    fn nothing_of_a_text_becomes_markup() {
        assert_eq!(escaped("<a b=\"c\">'&"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;");
    }
}
