//! Synthetic events: who, when, how much, and which are sent twice.
//!
//! Owns: the random choices, all from one seed; what an event's id, subject and dimensions are as text.
//! Leaves to others: when it leaves (`pace`), how it is packed (`target`).
//!
//! Invariants: the events of a connection are a function of scenario, run, start and connection; an event that is sent
//! again is the same in every field; ids of different events differ.

use std::fmt::Write as _;
use std::sync::Arc;

use domain::time::{DAY, HOUR, SECOND};
use domain::{Timestamp, Zone};

use crate::oracle::Oracle;
use crate::pace::Pace;
use crate::random::{Random, Zipf, below, mix};
use crate::scenario::{IdShape, Scenario};

/// What all connections of a process share.
pub(crate) struct Plan {
    /// Name of the run: source, and the start of every name.
    pub(crate) run: String,
    pub(crate) event_type: String,
    pub(crate) pace: Pace,
    pub(crate) oracle: Oracle,
    pub(crate) dimensions: Vec<(String, Vec<String>)>,
    subjects: u32,
    accounts: u32,
    connections: u64,
    seed: u64,
    shares: Option<Zipf>,
    ids: IdShape,
    duplicates: u32,
    late: (u32, u64),
    disorder: (u32, u64),
    start: i64,
    /// First instants of the months that events may lie in.
    months: Vec<i64>,
}

/// An event, before it has texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generated {
    pub(crate) subject: u32,
    pub(crate) time: i64,
    pub(crate) hundredths: i64,
    /// Which fresh event of its connection it is.
    number: u64,
    /// When it should leave, in nanoseconds since the start.
    pub(crate) due: u64,
}

/// An event as texts; memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(crate) id: String,
    pub(crate) subject: String,
    /// For each dimension, which text.
    pub(crate) picks: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(scenario: &Scenario, run: &str, start: Timestamp) -> anyhow::Result<Self> {
        let hours = |hours: u32| u64::from(hours) * HOUR as u64;
        let (late, disorder) = (hours(scenario.time.late_hours), u64::from(scenario.time.disorder_seconds));
        let (names, months) = months_around(start, late as i64 + 2 * HOUR);
        let dimensions = scenario.dimensions.iter().map(|dimension| {
            let made = (0..dimension.distinct.unwrap_or(0)).map(|n| format!("{}-{n}", dimension.name));
            (dimension.name.clone(), dimension.values.iter().cloned().chain(made).collect())
        });
        let is_even = scenario.load.skew == 0.0;
        Ok(Self {
            run: run.to_string(),
            event_type: format!("{run}.usage"),
            pace: Pace::new(scenario)?,
            oracle: Oracle::new(names, scenario.load.accounts),
            dimensions: dimensions.collect(),
            subjects: scenario.subjects(),
            accounts: scenario.load.accounts,
            connections: scenario.send.connections.into(),
            seed: scenario.load.seed,
            shares: (!is_even).then(|| Zipf::new(scenario.subjects(), scenario.load.skew)),
            ids: scenario.ids.shape,
            duplicates: scenario.ids.duplicates,
            late: (scenario.time.late, late),
            disorder: (scenario.time.disorder, disorder * SECOND as u64),
            start: start.nanoseconds(),
            months,
        })
    }

    fn month_of(&self, time: i64) -> usize {
        self.months.partition_point(|from| *from <= time).saturating_sub(1)
    }
}

/// Months from some time before the start to 40 days behind it: names, and first instants.
fn months_around(start: Timestamp, before: i64) -> (Vec<String>, Vec<i64>) {
    let utc = Zone::utc();
    let mut period = utc.period_of(start.plus(-before));
    let (mut names, mut firsts) = (Vec::new(), Vec::new());
    loop {
        let from = utc.month(period).from;
        if from > start.plus(40 * DAY) {
            return (names, firsts);
        }
        names.push(period.to_string());
        firsts.push(from.nanoseconds());
        period = period.next();
    }
}

/// The account of a subject.
pub(crate) fn account_of(subject: u32, accounts: u32) -> u32 {
    subject % accounts
}

/// Writes the name of a subject behind what is there.
pub(crate) fn write_subject(out: &mut String, run: &str, subject: u32) {
    out.push_str(run);
    out.push_str("-key-");
    let mut digits = [b'0'; 10];
    let (mut rest, mut at) = (subject, digits.len());
    while rest > 0 || at > digits.len() - 6 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.push_str(std::str::from_utf8(&digits[at..]).expect("digits are ASCII"));
}

/// The events of one connection.
pub(crate) struct Generator {
    plan: Arc<Plan>,
    random: Random,
    connection: u64,
    /// Fresh events so far.
    number: u64,
    /// All events so far.
    position: u64,
    /// Events that may be sent again.
    recent: Vec<Generated>,
}

const RECENT: usize = 4_096;

impl Generator {
    pub(crate) fn new(plan: Arc<Plan>, connection: u64) -> Self {
        let random = Random::new(plan.seed, connection);
        Self { plan, random, connection, number: 0, position: 0, recent: Vec::new() }
    }

    /// The next event of this connection. All connections together follow the pace, each event in turn.
    pub(crate) fn next(&mut self) -> Generated {
        let place = self.position * self.plan.connections + self.connection;
        self.position += 1;
        let due = self.plan.pace.due(place);
        let roll = self.random.below(1_000) as u32;
        if roll < self.plan.duplicates && !self.recent.is_empty() {
            let index = self.random.below(self.recent.len() as u64) as usize;
            return Generated { due, ..self.recent[index] };
        }
        let generated = self.fresh(place, due);
        let month = self.plan.month_of(generated.time);
        let account = account_of(generated.subject, self.plan.accounts);
        self.plan.oracle.add(account, month, generated.hundredths);
        if self.plan.duplicates > 0 {
            if self.recent.len() < RECENT {
                self.recent.push(generated);
            } else {
                self.recent[(generated.number % RECENT as u64) as usize] = generated;
            }
        }
        generated
    }

    fn fresh(&mut self, place: u64, due: u64) -> Generated {
        let plan = &self.plan;
        let subject = match &plan.shares {
            Some(shares) => shares.draw(&mut self.random),
            None => self.random.below(plan.subjects.into()) as u32,
        };
        let number = self.number;
        self.number += 1;
        let roll = self.random.below(1_000) as u32;
        let back = if roll < plan.late.0 {
            self.random.below(plan.late.1)
        } else if roll < plan.late.0 + plan.disorder.0 {
            self.random.below(plan.disorder.1)
        } else {
            0
        };
        let drawn = 1 + self.random.below(99_999) as i64;
        let hundredths = plan.pace.value(place).map_or(drawn, |value| value * 100);
        // Both are far below 2^63: due times of a run are at most days.
        let time = plan.start + due as i64 - back as i64;
        Generated { subject, time, hundredths, number, due }
    }

    /// Distinct events so far.
    pub(crate) fn distinct(&self) -> u64 {
        self.number
    }

    /// Writes what an event says as text.
    pub(crate) fn write(&self, generated: &Generated, texts: &mut Texts) {
        texts.subject.clear();
        write_subject(&mut texts.subject, &self.plan.run, generated.subject);
        texts.id.clear();
        self.write_id(generated, &mut texts.id);
        texts.picks.clear();
        let mut choice = mix(self.connection << 48 ^ generated.number ^ self.plan.seed);
        for (_, values) in &self.plan.dimensions {
            texts.picks.push(below(choice, values.len() as u64) as usize);
            choice = mix(choice);
        }
    }

    fn write_id(&self, generated: &Generated, id: &mut String) {
        // A connection makes fewer than 2^48 events, so this number has no equal.
        let unique = self.connection << 48 | generated.number;
        match self.plan.ids {
            IdShape::Sequenced => {}
            IdShape::Hex16 => write_hex(id, unique, 16),
            IdShape::Uuid => {
                let (high, low) = (mix(unique), mix(!unique));
                for (part, digits) in [(high >> 32, 8), (high >> 16, 4), (high & 0xfff | 0x4000, 4)] {
                    write_hex(id, part, digits);
                    id.push('-');
                }
                write_hex(id, low >> 48 & 0x3fff | 0x8000, 4);
                id.push('-');
                // The number itself keeps the ids of a connection apart; 74 shuffled bits keep connections apart.
                write_hex(id, unique & 0xffff_ffff_ffff ^ mix(self.connection) & 0xffff_ffff_ffff, 12);
            }
            IdShape::Ulid => {
                let milliseconds = generated.time.div_euclid(1_000_000) as u64;
                write_base32(id, milliseconds, 10);
                write_base32(id, mix(self.connection) & 0x7fff, 3);
                write_base32(id, mix(unique), 13);
            }
            IdShape::Long => {
                // A fixed width, so that all events have the same number of bytes.
                let _ = write!(id, "urn:example:tenant:{:0>40}:request:", self.plan.run);
                while id.len() < 112 {
                    id.push('/');
                }
                write_hex(id, unique, 16);
            }
        }
    }
}

fn write_hex(out: &mut String, number: u64, digits: u32) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    push_digits(out, digits, |place| HEX[(number >> (4 * place) & 15) as usize]);
}

/// Digits of Crockford's base 32, as ULIDs have them.
fn write_base32(out: &mut String, number: u64, digits: u32) {
    const BASE32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    push_digits(out, digits, |place| BASE32[(number >> (5 * place) & 31) as usize]);
}

/// Digits from the highest place down, 16 at most.
fn push_digits(out: &mut String, digits: u32, digit: impl Fn(u32) -> u8) {
    let mut ascii = [0; 16];
    for (slot, place) in ascii.iter_mut().zip((0..digits).rev()) {
        *slot = digit(place);
    }
    out.push_str(std::str::from_utf8(&ascii[..digits as usize]).expect("digits are ASCII"));
}

#[cfg(test)]
mod tests;
