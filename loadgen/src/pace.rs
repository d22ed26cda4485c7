//! When each event should leave: the schedule of an open loop.
//!
//! Owns: steady rates, bursts, traces. Leaves to others: waiting (`worker`), what an event says (`generator`).
//!
//! Invariants: due times never go back; they depend on nothing but the scenario, so a slow answer delays no due time, and
//! latency that is counted from them omits nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use domain::Timestamp;
use domain::time::SECOND;

use crate::scenario::{Bursts, Scenario};

/// In a closed loop events have no due time; their own times are this far apart, in nanoseconds.
const CLOSED_STEP: u64 = 250;

/// The schedule of all connections together.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    Closed,
    Steady { rate: u64 },
    Bursts { rate: u64, every: u64, during: u64, factor: u64 },
    Trace(Vec<TraceRow>),
}

/// A row of a trace: nanoseconds since its start at the wanted speed, and the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TraceRow {
    pub(crate) at: u64,
    pub(crate) value: i64,
}

impl Pace {
    pub(crate) fn new(scenario: &Scenario) -> Result<Self> {
        if let Some(trace) = &scenario.trace {
            return Ok(Pace::Trace(read_trace(&trace.file, trace.speed)?));
        }
        let rate = scenario.load.rate;
        Ok(match &scenario.bursts {
            _ if rate == 0 => Pace::Closed,
            None => Pace::Steady { rate },
            Some(Bursts { every_seconds, for_seconds, factor }) => Pace::Bursts {
                rate,
                every: u64::from(*every_seconds),
                during: u64::from(*for_seconds),
                factor: u64::from(*factor),
            },
        })
    }

    /// When the event of that number is due, in nanoseconds since the start; in a closed loop a time without meaning.
    pub(crate) fn due(&self, number: u64) -> u64 {
        let second = SECOND as u128;
        let number_wide = u128::from(number);
        let due = match self {
            Pace::Closed => number_wide * u128::from(CLOSED_STEP),
            Pace::Steady { rate } => number_wide * second / u128::from(*rate),
            Pace::Bursts { rate, every, during, factor } => {
                // The burst is at the end of each turn, so that a run does not begin with one.
                let (rate, every, during) = (u128::from(*rate), u128::from(*every), u128::from(*during));
                let calm = rate * (every - during);
                let in_turn = calm + rate * u128::from(*factor) * during;
                let (turn, within) = (number_wide / in_turn, number_wide % in_turn);
                let offset = if within < calm {
                    within * second / rate
                } else {
                    (every - during) * second + (within - calm) * second / (rate * u128::from(*factor))
                };
                turn * every * second + offset
            }
            Pace::Trace(rows) => {
                let (turn, row) = (number / rows.len() as u64, (number % rows.len() as u64) as usize);
                let whole = rows.last().map_or(0, |row| row.at);
                u128::from(turn) * u128::from(whole) + u128::from(rows[row].at)
            }
        };
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// Events that are due before an end.
    pub(crate) fn events_until(&self, seconds: u64) -> u64 {
        let end = seconds.saturating_mul(SECOND as u64);
        let (mut from, mut until) = (0, 1);
        while self.due(until) < end {
            until *= 2;
        }
        // The first event that is not due before the end.
        while from < until {
            let middle = from + (until - from) / 2;
            if self.due(middle) < end { from = middle + 1 } else { until = middle }
        }
        from
    }

    /// The value that a trace has for the event, in whole units.
    pub(crate) fn value(&self, number: u64) -> Option<i64> {
        match self {
            Pace::Trace(rows) => Some(rows[(number % rows.len() as u64) as usize].value),
            _ => None,
        }
    }
}

/// Most that a trace's value may be, so that sums of all events fit.
const VALUE_MAX: i64 = 1_000_000_000;

fn read_trace(path: &Path, speed: u64) -> Result<Vec<TraceRow>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    parse_trace(&text, speed).with_context(|| format!("{}", path.display()))
}

fn parse_trace(text: &str, speed: u64) -> Result<Vec<TraceRow>> {
    let mut rows: Vec<(i64, i64)> = Vec::new();
    for (index, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let row = parse_row(line).with_context(|| format!("line {}", index + 1))?;
        rows.push(row);
    }
    rows.sort_unstable();
    let Some((first, _)) = rows.first().copied() else { bail!("it has no rows") };
    let since = |time: i64| (time - first) as u64 / speed; // sorted, so not negative
    let rows: Vec<TraceRow> =
        rows.into_iter().map(|(time, value)| TraceRow { at: since(time), value }).collect();
    if rows.last().is_some_and(|row| row.at == 0) {
        bail!("all rows have the same time");
    }
    Ok(rows)
}

fn parse_row(line: &str) -> Result<(i64, i64)> {
    let mut fields = line.trim().split(',');
    let (Some(time), Some(value)) = (fields.next(), fields.next()) else { bail!("it has one column") };
    let time = Timestamp::parse(&format!("{}Z", time.trim_end_matches('Z').replace(' ', "T")))
        .map_err(|status| anyhow::anyhow!("{status}"))?;
    let value: i64 = value.trim().parse().context("the second column is no whole number")?;
    if !(0..=VALUE_MAX).contains(&value) {
        bail!("the value is not from 0 to {VALUE_MAX}");
    }
    Ok((time.nanoseconds(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pace: &Pace, due: &[(u64, u64)]) {
        for (number, expected) in due {
            assert_eq!(pace.due(*number), *expected, "event {number} of {pace:?}");
        }
        for number in 0..100 {
            assert!(pace.due(number) <= pace.due(number + 1), "event {number} of {pace:?}");
        }
    }

    #[test]
    fn due_times_are_where_the_rate_puts_them() {
        const MS: u64 = 1_000_000;
        check(&Pace::Closed, &[(0, 0), (4, 1_000)]);
        check(&Pace::Steady { rate: 1_000 }, &[(0, 0), (1, MS), (2_500, 2_500 * MS)]);
        // Three calm seconds of 10, one of 40: 70 events a turn.
        let bursts = Pace::Bursts { rate: 10, every: 4, during: 1, factor: 4 };
        check(&bursts, &[(0, 0), (29, 2_900 * MS), (30, 3_000 * MS), (31, 3_025 * MS), (70, 4_000 * MS)]);
        assert_eq!(bursts.events_until(4), 70);
        assert_eq!(bursts.events_until(3), 30);
        assert_eq!(Pace::Steady { rate: 3 }.events_until(10), 30);
    }

    #[test]
    fn a_trace_keeps_its_pace_and_begins_again_where_it_ended() {
        let text = "TIMESTAMP,A,B\n2023-11-16 18:17:04.5,7,1\n2023-11-16 18:17:03.5,5,1\n2023-11-16T18:17:05.5Z,9,1\n";
        let rows = parse_trace(text, 2).unwrap();
        let pace = Pace::Trace(rows);
        const MS: u64 = 1_000_000;
        check(&pace, &[(0, 0), (1, 500 * MS), (2, 1_000 * MS), (3, 1_000 * MS), (4, 1_500 * MS)]);
        assert_eq!([0, 1, 2, 3].map(|number| pace.value(number)), [Some(5), Some(7), Some(9), Some(5)]);
    }

    #[test]
    fn a_trace_that_cannot_be_used_says_where() {
        let head = "TIMESTAMP,A\n";
        for (rows, said) in [
            ("", "no rows"),
            ("2023-11-16 18:17:04\n", "line 2"),
            ("yesterday,1\n", "line 2"),
            ("2023-11-16 18:17:04,1\n2023-11-16 18:17:05,many\n", "line 3"),
            ("2023-11-16 18:17:04,-1\n", "line 2"),
            ("2023-11-16 18:17:04,1\n2023-11-16 18:17:04,1\n", "the same time"),
        ] {
            let error = parse_trace(&format!("{head}{rows}"), 1).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}
