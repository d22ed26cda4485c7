//! What became of an event, line by line: gathered from the batches and journals that its trail names.
//!
//! Owns: which lines of a batch concern the event, which journal a line went to, what still waits and for what.
//! Leaves to others: reading stored content (the caller), how it is written (`super::answer`).
//!
//! Invariants: a line counts the event if its key is one of the event's at the cut of its batch; a line whose key was one
//! of them, and is no more, takes it back.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use billing::charges::LineKey;
use billing::ledger::{Journal, LedgerAccount};
use domain::AccountId;
use wire::control::{Cut, JournalRun, RatingFailure};
use wire::correction::EventContent;

use super::answer::{EventLineage, LandedLine, Posting, PriceState};
use super::arrivals::EventArrival;
use super::places::{EventPlace, Landing};
use super::trail::ArrivedEvent;
use super::{JournalEntry, LinePage};
use crate::batch::{BatchError, lines_with};
use crate::corrections::RecordedCorrection;

/// A sealed batch on the trail of an event.
#[derive(Clone, Debug)]
pub(super) struct PassedBatch {
    pub(super) number: u64,
    pub(super) digest: String,
    pub(super) cut: Cut,
    /// The keys that count the event as of the cut.
    pub(super) keys: Arc<BTreeSet<LineKey>>,
}

/// A journal run whose journals are sealed.
#[derive(Clone, Debug)]
pub struct SealedRun {
    /// Its place in the order of all sealed runs.
    pub index: usize,
    /// The run.
    pub run: JournalRun,
}

/// What a trail found in the control log.
pub(super) struct Passed {
    pub(super) event: ArrivedEvent,
    pub(super) place: EventPlace,
    /// What counts now; nothing if the event was taken back.
    pub(super) content: Option<EventContent>,
    pub(super) corrections: Vec<RecordedCorrection>,
    pub(super) batches: VecDeque<PassedBatch>,
    pub(super) runs: Vec<SealedRun>,
    /// What the last cut could not rate.
    pub(super) failures: Vec<RatingFailure>,
    pub(super) at_cut: Option<(Cut, Arc<BTreeSet<LineKey>>)>,
}

/// What became of an event, in the making.
pub struct Story {
    passed: Passed,
    page: LinePage,
    /// Texts that a line has if it is of an account that ever owned the event.
    needles: Vec<String>,
    /// Keys whose last line counts the event.
    held: BTreeSet<LineKey>,
    lines: Vec<LandedLine>,
    has_more: bool,
}

impl Story {
    pub(super) fn new(passed: Passed) -> Self {
        let keys = passed.batches.iter().flat_map(|batch| batch.keys.iter());
        let accounts: BTreeSet<&AccountId> = keys.map(|key| &key.account).collect();
        let needles = accounts.into_iter().map(|account| format!("\"account\":\"{account}\"")).collect();
        Self {
            passed,
            page: LinePage::default(),
            needles,
            held: BTreeSet::new(),
            lines: Vec::new(),
            has_more: false,
        }
    }

    /// Which of the lines are given.
    #[must_use]
    pub fn with_page(mut self, page: LinePage) -> Self {
        self.page = page;
        self
    }

    /// Numbers of the batches that can have a line that concerns the event, in order.
    pub fn batches(&self) -> Vec<u64> {
        self.passed.batches.iter().map(|batch| batch.number).collect()
    }

    /// Takes the bytes of the next of these batches.
    ///
    /// # Errors
    /// [`BatchError`].
    ///
    /// # Panics
    /// If all were taken.
    pub fn take_batch(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        let batch = self.passed.batches.pop_front().expect("the trail names the batch");
        if batch.keys.is_empty() && self.held.is_empty() {
            return Ok(());
        }
        for line in lines_with(bytes, &self.needles)? {
            let key = line.key();
            let counts_event = batch.keys.contains(&key);
            let takes_back = !counts_event && self.held.remove(&key);
            if !counts_event && !takes_back {
                continue;
            }
            if counts_event {
                self.held.insert(key);
            }
            if !self.page.has(line.batch, line.line) {
                continue;
            }
            self.has_more = self.lines.len() == self.page.limit;
            if self.has_more {
                continue;
            }
            self.lines.push(LandedLine {
                digest: batch.digest.clone(),
                cut: batch.cut.number,
                at: batch.cut.at,
                counts_event,
                posting: Posting::Waits,
                line,
            });
        }
        Ok(())
    }

    /// The runs whose journals the lines went to, in order.
    pub fn runs(&self) -> Vec<SealedRun> {
        let is_wanted = |sealed: &&SealedRun| self.lines.iter().any(|line| is_posted_by(line, &sealed.run));
        self.passed.runs.iter().filter(is_wanted).cloned().collect()
    }

    /// Takes the journals of one of these runs.
    pub fn take_run(&mut self, run: &SealedRun, journals: &[Journal]) {
        for line in self.lines.iter_mut().filter(|line| is_posted_by(line, &run.run)) {
            let charge = &line.line;
            let is_its =
                |journal: &&Journal| (journal.period, journal.currency) == (charge.period, charge.currency);
            let Some(journal) = journals.iter().find(is_its) else {
                line.posting = Posting::NothingMoved { first_run: run.run.first_run };
                continue;
            };
            let counter = LedgerAccount::counter_account_of(charge.posting_class);
            let accounts = [LedgerAccount::UnbilledReceivable, counter];
            line.posting = Posting::Journal(JournalEntry::of(journal, &accounts));
        }
    }

    /// What became of the event.
    pub fn finish(self, arrivals: Vec<EventArrival>, arrivals_left_out: u64) -> EventLineage {
        let states = self.states();
        let Passed { event, place, content, corrections, .. } = self.passed;
        let next = self.lines.last().filter(|_| self.has_more);
        EventLineage {
            source: event.source,
            id: event.id.to_string(),
            arrived: event.content,
            content,
            arrivals,
            arrivals_left_out,
            corrections,
            place,
            states,
            next: next.map(|last| (last.line.batch, last.line.line)),
            lines: self.lines,
        }
    }

    /// Where the event stands at each price of each meter.
    fn states(&self) -> Vec<Vec<PriceState>> {
        let failures = &self.passed.failures;
        let was_cut = |key: &LineKey| self.passed.at_cut.as_ref().is_some_and(|(_, keys)| keys.contains(key));
        let state_of = |landing: &Landing| match landing {
            Landing::Counts(key) if self.held.contains(key) => PriceState::Charged,
            Landing::Counts(key) => {
                let failure = failures.iter().find(|failure| failure.account == key.account && was_cut(key));
                failure.map_or(PriceState::WaitsForCut, |failure| PriceState::Unrated(failure.clone()))
            }
            Landing::Trial => PriceState::Trial,
            Landing::NotAgreed => PriceState::NotAgreed,
            Landing::SetAside => PriceState::SetAside,
            Landing::RowMustMatch => PriceState::RowMustMatch,
        };
        let meters = self.passed.place.meters.iter();
        meters.map(|meter| meter.prices.iter().map(|(_, landing)| state_of(landing)).collect()).collect()
    }
}

fn is_posted_by(line: &LandedLine, run: &JournalRun) -> bool {
    run.entity == line.line.entity && (run.batches[0]..=run.batches[1]).contains(&line.line.batch)
}
