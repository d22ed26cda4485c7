//! What the charges must be: integers and a table, nothing shared with the server.
//!
//! Owns: sums per account and month. Leaves to others: pulling charges and comparing (`verify`).
//!
//! Invariants: counts each distinct event once, in the month (UTC) of its time; all connections of a process add to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Serialize};

/// Price of a unit in ten-thousandths of a dollar.
pub(crate) const UNIT_AMOUNT: i128 = 125;

/// Sums that connections add to.
pub(crate) struct Oracle {
    months: Vec<String>,
    accounts: u32,
    /// Hundredths of units, per month and account.
    hundredths: Vec<AtomicI64>,
}

/// Account and month.
pub(crate) type Key = (u32, String);

/// What was sent, of one process or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Distinct events.
    pub(crate) events: u64,
    /// Per month, accounts and their hundredths of units; zeros are left out.
    pub(crate) months: BTreeMap<String, BTreeMap<u32, i64>>,
}

impl Oracle {
    pub(crate) fn new(months: Vec<String>, accounts: u32) -> Self {
        let hundredths = (0..months.len() * accounts as usize).map(|_| AtomicI64::new(0)).collect();
        Self { months, accounts, hundredths }
    }

    /// An event that is sent for the first time.
    pub(crate) fn add(&self, account: u32, month: usize, hundredths: i64) {
        let index = month * self.accounts as usize + account as usize;
        self.hundredths[index].fetch_add(hundredths, Ordering::Relaxed);
    }

    /// The sums so far, of so many distinct events.
    pub(crate) fn told(&self, events: u64) -> Told {
        let mut told = Told { events, ..Told::default() };
        for (index, sum) in self.hundredths.iter().enumerate() {
            let sum = sum.load(Ordering::Relaxed);
            if sum != 0 {
                let month = self.months[index / self.accounts as usize].clone();
                let account = (index % self.accounts as usize) as u32;
                told.months.entry(month).or_default().insert(account, sum);
            }
        }
        told
    }
}

impl Told {
    /// Adds what another process sent.
    pub(crate) fn merge(&mut self, other: Told) {
        self.events += other.events;
        for (month, accounts) in other.months {
            let sums = self.months.entry(month).or_default();
            for (account, sum) in accounts {
                *sums.entry(account).or_default() += sum;
            }
        }
    }

    /// Hundredths of units, and cents, per account and month: a unit costs 0.0125, rounded once, half up.
    pub(crate) fn expected(&self) -> BTreeMap<Key, (i128, i128)> {
        let cents = |hundredths: i128| (hundredths * UNIT_AMOUNT + 5_000) / 10_000;
        let rows = self.months.iter().flat_map(|(month, accounts)| {
            accounts.iter().map(|(account, sum)| {
                let sum = i128::from(*sum);
                ((*account, month.clone()), (sum, cents(sum)))
            })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(adds: &[(u32, usize, i64)]) -> Told {
        let oracle = Oracle::new(vec!["2026-01".to_string(), "2026-02".to_string()], 3);
        for (account, month, hundredths) in adds {
            oracle.add(*account, *month, *hundredths);
        }
        oracle.told(adds.len() as u64)
    }

    #[test]
    fn amounts_are_rounded_once_half_up() {
        // 0.40 units cost 0.005 dollars; parts are not rounded by themselves.
        for (adds, cents) in [(&[40][..], 1), (&[39], 0), (&[20, 20], 1), (&[39, 39], 1), (&[80_000], 1_000)]
        {
            let told = told_of(&adds.iter().map(|sum| (1, 0, *sum)).collect::<Vec<_>>());
            let expected: Vec<_> = told.expected().into_values().collect();
            assert_eq!(expected, [(adds.iter().map(|sum| i128::from(*sum)).sum(), cents)]);
        }
    }

    #[test]
    fn processes_together_say_what_one_would() {
        let adds = [(0, 0, 5), (2, 1, 7), (0, 0, 11), (2, 0, 13), (1, 1, 17)];
        let whole = told_of(&adds);
        let mut parts = Told::default();
        for add in adds {
            parts.merge(told_of(&[add]));
        }
        assert_eq!(parts, whole);
        assert_eq!(whole.events, 5);
        assert_eq!(whole.expected()[&(0, "2026-01".to_string())].0, 16);
    }
}
