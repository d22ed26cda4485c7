//! Every time that an event came: the first, which counts, and those behind it.
//!
//! Owns: finding an id in batches, the verdict of each arrival. Leaves to others: which arrival is the first
//! (`engine::shard`), stretches of the log that can have the id (`engine::log`).

use domain::{EventPosition, Timestamp};
use engine::log::{LogError, LogIndex, LogReader, Part, Wanted};
use engine::prepared::PreparedBatch;
use engine::shard::verdict_of_again;
use wire::correction::EventContent;
use wire::event::EventIdOwned;
use wire::usage::{IdColumn, UsageBatch};
use wire::usage_record::KIND_USAGE_BATCH;
use wire::verdict::Verdict;

use crate::usage_log::{UsageItem, usage_item};
use crate::usage_query::{ScanError, ScannedLog};

/// Arrivals that an answer lists; the others are counted.
pub const ARRIVALS_MAX: usize = 1_000;

/// What an arrival was to the events before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The first with its id.
    First,
    /// Not the first: a duplicate or a conflict; or refused before it was looked at.
    Not(Verdict),
    /// It came so long before the first that is remembered that its id was forgotten between them.
    Forgotten,
}

/// An arrival of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventArrival {
    /// Where it is in the usage log.
    pub position: EventPosition,
    /// When it was received.
    pub received_at: Timestamp,
    /// When its block was stamped.
    pub recorded_at: Timestamp,
    /// What it was to the events before it.
    pub repeat: Repeat,
}

/// Collects the arrivals of an event.
pub struct Arrivals {
    source: String,
    id: EventIdOwned,
    /// Where the first arrival is that is remembered.
    first: Option<EventPosition>,
    first_batch: Option<PreparedBatch>,
    found: Vec<EventArrival>,
    left_out: u64,
}

impl Arrivals {
    /// Arrivals of an event, of which the first that is remembered is at a position.
    pub fn new(source: &str, id: &EventIdOwned, first: Option<EventPosition>) -> Self {
        let (source, id) = (source.to_string(), id.clone());
        Self { source, id, first, first_batch: None, found: Vec::new(), left_out: 0 }
    }

    /// Takes the next batch of the log.
    pub fn take(&mut self, batch: &PreparedBatch, recorded_at: Timestamp) {
        let view = batch.view();
        for index in self.indexes_in(&view) {
            let position = batch.position(index);
            let refusal = batch.refusals().iter().find(|refusal| refusal.index == index);
            let repeat = match (refusal, self.first) {
                (Some(refusal), _) => Repeat::Not(Verdict::Rejected(refusal.code)),
                (None, Some(first)) if first == position => {
                    self.first_batch = Some(batch.clone());
                    Repeat::First
                }
                (None, Some(first)) if first < position => {
                    let before = self.first_batch.as_ref().expect("the first comes before the others");
                    Repeat::Not(verdict_of_again((before, first.index()), (batch, index)))
                }
                (None, _) => Repeat::Forgotten,
            };
            if self.found.len() == ARRIVALS_MAX && repeat != Repeat::First {
                self.left_out += 1;
                continue;
            }
            let received_at = batch.received_at;
            self.found.push(EventArrival { position, received_at, recorded_at, repeat });
        }
    }

    /// Reads the stretches of a log before an offset that can have the event. `is_awaited` is asked at every record.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn read(
        &mut self,
        log: ScannedLog<'_>,
        until: u64,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<(), ScanError> {
        let mut reader = LogReader::open(log.storage, log.options, 0, Some(0))?;
        for range in self.parts(log, until)? {
            reader.seek(range);
            while let Some(record) = reader.next()? {
                if !is_awaited() {
                    return Err(ScanError::Abandoned);
                }
                if record.kind != KIND_USAGE_BATCH || !self.may_be_in(record.payload) {
                    continue;
                }
                let recorded_at = Timestamp::from_nanoseconds(record.recorded_at);
                let (kind, offset, received_at) = (record.kind, record.offset, record.received_at);
                let item = usage_item(kind, offset, received_at, record.payload, log.key, 1)?;
                if let UsageItem::Batch(batch) = item {
                    self.take(&batch, recorded_at);
                }
            }
        }
        Ok(())
    }

    /// Bytes that [`Arrivals::read`] reads at most.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn bytes_to_read(&self, log: ScannedLog<'_>, until: u64) -> Result<u64, LogError> {
        Ok(self.parts(log, until)?.into_iter().map(|range| range.end - range.start).sum())
    }

    fn parts(&self, log: ScannedLog<'_>, until: u64) -> Result<Vec<std::ops::Range<u64>>, LogError> {
        let identity = crate::name_of(log.key, &self.source, &self.id).identity;
        let parts =
            LogIndex::open(log.storage, log.options, log.key)?.parts(Wanted::Identity(identity), until);
        let read = parts.into_iter().filter_map(|part| match part {
            Part::Read(range) => Some(range),
            Part::Barrier(_) => None,
        });
        Ok(read.collect())
    }

    /// Whether a record has the bytes of the source, and of an id that its producer gave: most have not, and are not
    /// read any further.
    fn may_be_in(&self, record: &[u8]) -> bool {
        let has = |text: &str| find(record, text.as_bytes());
        has(&self.source) && !matches!(&self.id, EventIdOwned::Text(id) if !has(id))
    }

    fn indexes_in(&self, view: &UsageBatch<'_>) -> Vec<u16> {
        if view.source() != self.source {
            return Vec::new();
        }
        match (view.ids(), &self.id) {
            (IdColumn::Bytes(ids), EventIdOwned::Text(id)) => {
                let is_it = |index: &u16| ids.id(usize::from(*index)) == id.as_bytes();
                (0..view.len() as u16).filter(is_it).collect() // a batch has fewer than 2^16 events
            }
            (IdColumn::Sequenced { epoch, first }, EventIdOwned::Sequenced { epoch: of, sequence })
                if epoch == *of =>
            {
                let at = sequence.checked_sub(first).filter(|at| *at < view.len() as u64);
                at.map(|at| at as u16).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the first arrival said, once it was taken.
    pub fn content(&self) -> Option<EventContent> {
        let batch = self.first_batch.as_ref()?;
        Some(EventContent::of(&batch.view(), usize::from(self.first?.index())))
    }

    /// What was found, in log order, and how many more there are.
    pub fn finish(self) -> (Vec<EventArrival>, u64) {
        (self.found, self.left_out)
    }
}

/// Whether bytes have a needle.
fn find(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }
    false
}
