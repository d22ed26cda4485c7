//! Lineage: from an event to the charge lines and journals that it landed in, and from these back to events of the log.
//!
//! An event counts in the lines of some keys: those of its owner at its time, of every price of the plan that prices a
//! meter which takes the event, in the slice of its time. Which keys these are follows from what a cut knows: the catalog
//! and the corrections before it. They are no record; here they are found again.
//!
//! ```text
//!   event ──▶ control log, cut by cut: the keys that it counts in ──▶ sealed lines of these keys ──▶ journals
//!   journal ──▶ charge lines ──▶ key, barrier of the batch's cut ──▶ usage log before it, recounted ──▶ events
//! ```
//!
//! Both ways are exact: an event is under a line if, and only if, the line's key was one of the event's at the cut of the
//! line's batch. The digest of the events under a line is that which the line says.
//!
//! Calling order forward: [`Arrivals`] of the event; then a [`Trail`] of it takes every record of the control log;
//! [`Trail::finish`] gives a [`Story`], which takes the bytes of the batches and runs that it asks for. Backward:
//! [`LineEvents`] counts the log before the barrier, as a usage query does.
//!
//! An id that was forgotten may have come again, as another event: what is followed is the event that its shard finds by the
//! id, and earlier ones are among the arrivals.
//!
//! Owns: which lines an event is in, which events a line counts, what is said of both.
//! Leaves to others: reading logs and asking shards (`server`), amounts (`billing`).
//!
//! Invariants: answers are functions of the logs before a place; what is not charged or posted yet is said and not
//! guessed.

mod answer;
mod arrivals;
mod charges;
mod line_events;
mod places;
mod story;
mod trail;

use std::fmt;

use billing::ledger::{Journal, JournalLine, LedgerAccount};
use serde_json::{Value, json};

pub use self::answer::{EventLineage, LandedLine, Posting, PriceState, unknown_to_json, unknown_to_text};
pub use self::arrivals::{ARRIVALS_MAX, Arrivals, EventArrival, Repeat};
pub use self::charges::{JournalCharges, run_of_external_id};
pub use self::line_events::{CountedEvent, LineEvents, RestsOn, ToldEvent, UnderLine};
pub use self::places::{EventPlace, Landing, MeterPlace, Owner};
pub use self::story::{SealedRun, Story};
pub use self::trail::{ArrivedEvent, Trail};

/// Charge lines in one answer.
pub const LINES_PAGE_MAX: usize = 10_000;

/// Which charge lines are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePage {
    /// Batch and number of the last line of the page before.
    pub after: Option<(u64, u32)>,
    /// At most so many.
    pub limit: usize,
}

impl Default for LinePage {
    fn default() -> Self {
        Self { after: None, limit: LINES_PAGE_MAX }
    }
}

impl LinePage {
    fn has(&self, batch: u64, line: u32) -> bool {
        self.after.is_none_or(|after| (batch, line) > after)
    }
}

/// A journal, as a charge line that it sums up is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// `{entity}-{period}-{run}-v1`.
    pub external_id: String,
    /// Number of the journal within its entity.
    pub run: u64,
    /// Posting date.
    pub posted_on: String,
    /// First and last batch that the run covers.
    pub batches: [u64; 2],
    /// Its lines in the accounts that the charge line went to; one whose sum is nothing has no line.
    pub lines: Vec<JournalLine>,
    accounts: Vec<LedgerAccount>,
}

impl JournalEntry {
    fn of(journal: &Journal, accounts: &[LedgerAccount]) -> Self {
        let is_its = |line: &&JournalLine| accounts.contains(&line.ledger_account);
        Self {
            external_id: journal.external_id.clone(),
            run: journal.run,
            posted_on: journal.posted_on.clone(),
            batches: journal.batches,
            lines: journal.lines.iter().filter(is_its).cloned().collect(),
            accounts: accounts.to_vec(),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "external_id": self.external_id, "run": self.run, "posted_on": self.posted_on, "batches": self.batches,
            "ledger_accounts": self.accounts, "lines": self.lines,
        })
    }
}

/// Where a page goes on, as `after` takes it.
fn place_json<A: fmt::Display, B: fmt::Display>(place: Option<(A, B)>) -> Value {
    place.map(|(first, second)| format!("{first}.{second}")).into()
}

/// A text of a producer's or a person's on a terminal: what could steer the terminal is escaped.
fn shown(text: &str) -> String {
    let is_plain = |character: char| !character.is_control() && !is_bidirectional(character);
    text.chars()
        .map(|character| match is_plain(character) {
            true => character.to_string(),
            false => character.escape_unicode().to_string(),
        })
        .collect()
}

/// Characters that turn the direction of a line around.
fn is_bidirectional(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
