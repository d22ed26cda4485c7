//! What the charges must be: integers and a map, nothing shared with the server.
//!
//! Invariants: counts each distinct event once, in the month (UTC) of its time.

use std::collections::BTreeMap;

/// Price of a unit in ten-thousandths of a dollar.
pub(crate) const UNIT_AMOUNT: i128 = 125;

/// Units in hundredths, per account and month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oracle {
    hundredths: BTreeMap<(u32, String), i128>,
    /// Distinct events.
    pub(crate) events: u64,
}

impl Oracle {
    /// An event that is sent for the first time.
    pub(crate) fn add(&mut self, account: u32, month: &str, hundredths: i64) {
        match self.hundredths.get_mut(&(account, month.to_string())) {
            Some(sum) => *sum += i128::from(hundredths),
            None => drop(self.hundredths.insert((account, month.to_string()), hundredths.into())),
        }
        self.events += 1;
    }

    /// Adds what another connection sent.
    pub(crate) fn merge(&mut self, other: Oracle) {
        for (key, sum) in other.hundredths {
            *self.hundredths.entry(key).or_default() += sum;
        }
        self.events += other.events;
    }

    /// Units as text and cents, per account and month: a unit costs 0.0125, rounded once, half up.
    pub(crate) fn expected(&self) -> BTreeMap<(u32, String), (i128, i128)> {
        let cents = |hundredths: i128| (hundredths * UNIT_AMOUNT + 5_000) / 10_000;
        self.hundredths.iter().map(|(key, sum)| (key.clone(), (*sum, cents(*sum)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_once_half_up() {
        let mut oracle = Oracle::default();
        // 0.40 units cost 0.005 dollars.
        oracle.add(1, "2026-01", 40);
        oracle.add(2, "2026-01", 39);
        let expected: Vec<_> = oracle.expected().into_values().collect();
        assert_eq!(expected, [(40, 1), (39, 0)]);
    }
}
