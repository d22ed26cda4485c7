//! Synthetic events: who, when, how much, and which are sent twice.
//!
//! Owns: the random choices, all from one seed. Leaves to others: sending (`load`).

use std::sync::Arc;

use domain::time::{DAY, SECOND};
use domain::{Timestamp, Zone};

use crate::oracle::Oracle;
use crate::{Ids, LoadArgs};

/// A small generator of reproducible numbers.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// What all connections share.
pub(crate) struct Plan {
    pub(crate) subjects: Vec<String>,
    /// Cumulative shares in parts of 2^32.
    shares: Vec<u64>,
    /// Values and times of a trace, in nanoseconds since its start.
    trace: Vec<(i64, i64)>,
    start: Timestamp,
    utc: Zone,
}

/// Account, time, hundredths of a unit, and the id's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generated {
    pub(crate) account: u32,
    pub(crate) time: i64,
    pub(crate) hundredths: i64,
    pub(crate) number: u64,
    pub(crate) is_duplicate: bool,
    /// When the trace wants it sent, in nanoseconds since the start.
    pub(crate) due: i64,
}

impl Plan {
    pub(crate) fn new(args: &LoadArgs, run: &str, now: Timestamp) -> anyhow::Result<Self> {
        // Shares need no exactness, only reproducibility: they decide who is picked, not what is counted.
        let weights: Vec<f64> =
            (1..=args.accounts).map(|rank| f64::from(rank).powf(-f64::from(args.skew) / 100.0)).collect();
        let total: f64 = weights.iter().sum();
        let mut below = 0.0;
        let shares = weights
            .iter()
            .map(|weight| {
                below += weight / total;
                (below * 4_294_967_296.0) as u64
            })
            .collect();
        let trace = match &args.trace {
            None => Vec::new(),
            Some(path) => read_trace(&std::fs::read_to_string(path)?, args.speed)?,
        };
        let subjects = (0..args.accounts).map(|account| format!("{run}-key-{account:06}")).collect();
        Ok(Self { subjects, shares, trace, start: now, utc: Zone::utc() })
    }
}

fn read_trace(text: &str, speed: u64) -> anyhow::Result<Vec<(i64, i64)>> {
    let mut rows = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let mut fields = line.trim().split(',');
        let (Some(time), Some(value)) = (fields.next(), fields.next()) else {
            anyhow::bail!("a line of the trace has fewer than two columns: {line:?}");
        };
        let time = Timestamp::parse(&format!("{}Z", time.trim_end_matches('Z').replace(' ', "T")))?;
        rows.push((time.nanoseconds(), value.parse::<i64>()? * 100));
    }
    rows.sort_unstable();
    let first = rows.first().map(|(time, _)| *time).ok_or_else(|| anyhow::anyhow!("the trace is empty"))?;
    Ok(rows.into_iter().map(|(time, value)| ((time - first) / speed as i64, value)).collect())
}

/// The events of one connection.
pub(crate) struct Generator {
    plan: Arc<Plan>,
    random: Random,
    connection: u64,
    number: u64,
    /// Events that may be sent again.
    recent: Vec<Generated>,
    duplicates: u32,
    late: u32,
    disorder: u32,
    /// Month of a day, so that calendars are asked once a day.
    month: (i64, String),
    pub(crate) oracle: Oracle,
}

const RECENT: usize = 4_096;

impl Generator {
    pub(crate) fn new(plan: Arc<Plan>, args: &LoadArgs, connection: u64) -> Self {
        let seed = (args.seed << 16 ^ connection).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            plan,
            random: Random(seed),
            connection,
            number: 0,
            recent: Vec::with_capacity(RECENT),
            // A client that mints ids never sends an event twice.
            duplicates: if args.ids == Ids::Sequenced { 0 } else { args.duplicates },
            late: args.late,
            disorder: args.disorder,
            month: (i64::MIN, String::new()),
            oracle: Oracle::default(),
        }
    }

    pub(crate) fn subject(&self, account: u32) -> &str {
        &self.plan.subjects[account as usize]
    }

    pub(crate) fn next(&mut self) -> Generated {
        let roll = self.random.below(1_000) as u32;
        if roll < self.duplicates && !self.recent.is_empty() {
            let index = self.random.below(self.recent.len() as u64) as usize;
            return Generated { is_duplicate: true, ..self.recent[index] };
        }
        let generated = self.fresh();
        let day = generated.time.div_euclid(DAY);
        if self.month.0 != day {
            self.month =
                (day, self.plan.utc.period_of(Timestamp::from_nanoseconds(generated.time)).to_string());
        }
        self.oracle.add(generated.account, &self.month.1, generated.hundredths);
        if self.recent.len() < RECENT {
            self.recent.push(generated);
        } else {
            self.recent[(generated.number % RECENT as u64) as usize] = generated;
        }
        generated
    }

    fn fresh(&mut self) -> Generated {
        let point = self.random.next() >> 32;
        let account =
            self.plan.shares.partition_point(|share| *share <= point).min(self.plan.shares.len() - 1) as u32;
        let number = self.number;
        self.number += 1;
        let mut back = 0;
        let roll = self.random.below(1_000) as u32;
        if roll < self.late {
            back = self.random.below(2 * DAY as u64) as i64;
        } else if roll < self.late + self.disorder {
            back = self.random.below(60 * SECOND as u64) as i64;
        }
        let (due, hundredths) = match self.plan.trace.len() {
            0 => (0, 1 + self.random.below(99_999) as i64),
            rows => {
                let (turn, row) = (number as usize / rows, number as usize % rows);
                let whole = self.plan.trace.last().map_or(0, |(time, _)| *time);
                let (time, value) = self.plan.trace[row];
                (turn as i64 * whole + time, value)
            }
        };
        let time = self.plan.start.nanoseconds() - back;
        Generated { account, time, hundredths, number, is_duplicate: false, due }
    }

    /// 16 characters: the connection and the number.
    pub(crate) fn id_of(&self, generated: &Generated) -> [u8; 16] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let packed = self.connection << 48 | generated.number;
        let mut id = [0; 16];
        for (index, byte) in id.iter_mut().enumerate() {
            *byte = HEX[(packed >> (60 - 4 * index) & 15) as usize];
        }
        id
    }
}
