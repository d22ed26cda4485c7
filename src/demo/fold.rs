//! An independent account of the story: what was told, added up by nothing but integers and a map.
//!
//! Owns: expected counts, quantities and amounts. Shares no code with metering or rating.

use std::collections::BTreeMap;

use domain::{Period, Timestamp};

use crate::story::Story;
use crate::stream::month_of;

/// Meter names in the order of their numbers here.
pub(crate) const METERS: [&str; 4] = ["chat-input", "chat-output", "code-input", "code-output"];

/// What is expected.
pub(crate) struct Fold {
    zones: Story,
    /// Tokens of the trace per meter.
    pub(crate) trace: [i64; 4],
    /// Tokens of events besides the trace per meter.
    pub(crate) extra: [i64; 4],
    /// Tokens per account, month and meter.
    pub(crate) months: BTreeMap<(usize, Period), [i64; 4]>,
    pub(crate) trace_events: u64,
    pub(crate) sent: u64,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
    pub(crate) negatives: u64,
    pub(crate) unknown: u64,
    pub(crate) bound: u64,
    pub(crate) future: u64,
}

impl Fold {
    pub(crate) fn new(zones: Story) -> Self {
        Self {
            zones,
            trace: [0; 4],
            extra: [0; 4],
            months: BTreeMap::new(),
            trace_events: 0,
            sent: 0,
            duplicates: 0,
            conflicts: 0,
            negatives: 0,
            unknown: 0,
            bound: 0,
            future: 0,
        }
    }

    /// An event of the trace.
    pub(crate) fn add_trace(
        &mut self,
        (account, time, is_chat, input, output): &(usize, Timestamp, bool, i64, i64),
    ) {
        let first = if *is_chat { 0 } else { 2 };
        self.trace[first] += input;
        self.trace[first + 1] += output;
        self.trace_events += 1;
        self.add_month(*account, *time, first, *input, *output);
    }

    /// An event besides the trace that counts.
    pub(crate) fn add_extra(
        &mut self,
        account: usize,
        time: Timestamp,
        is_chat: bool,
        input: i64,
        output: i64,
    ) {
        let first = if is_chat { 0 } else { 2 };
        self.extra[first] += input;
        self.extra[first + 1] += output;
        self.bound += 1;
        self.add_month(account, time, first, input, output);
    }

    fn add_month(&mut self, account: usize, time: Timestamp, first: usize, input: i64, output: i64) {
        let is_american = self.zones.accounts[account].is_american;
        let month = month_of(&self.zones, is_american, time);
        let sums = self.months.entry((account, month)).or_default();
        sums[first] += input;
        sums[first + 1] += output;
    }

    /// What an account owes for a month in cents, by the price list and schoolbook arithmetic: amounts in millionths
    /// of a cent, rounded once per meter, half up.
    pub(crate) fn expected_cents(&self, account: usize, tokens: &[i64; 4]) -> i64 {
        // Amounts per 1,000 tokens in thousandths of the currency unit: a token costs as many ten-thousandths of a cent.
        let american = self.zones.accounts[account].is_american;
        let (tiers, rest, fee) =
            if american { ([30, 24, 18], [60, 10, 30], 49_900) } else { ([28, 22, 17], [55, 9, 28], 44_900) };
        let round = |amount: i64| (amount + 5_000) / 10_000;
        let first = tokens[0].min(25_000_000);
        let second = (tokens[0] - 25_000_000).clamp(0, 75_000_000);
        let third = (tokens[0] - 100_000_000).max(0);
        let chat_input = first * tiers[0] + second * tiers[1] + third * tiers[2];
        let others: i64 = (1..4).map(|meter| round(tokens[meter] * rest[meter - 1])).sum();
        round(chat_input) + others + fee
    }
}
