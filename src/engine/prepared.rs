//! A usage batch made ready for the shards: checked once, hashed once, and sorted into shards.
//!
//! Owns: what every shard needs of a batch and none should compute twice.
//! Leaves to others: checking the bytes (`wire::usage`), deciding about events (`shard`).
//!
//! Invariants: an event that was refused at the edge belongs to no shard; every other one to exactly one.

use std::sync::Arc;

use domain::{EventPosition, Timestamp};
use wire::buffer::AlignedBytes;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus};
use wire::usage::{IdColumn, Refusal, UsageBatch};

use crate::identity::{IdentityKey, shard_of_slot, slot_of};

/// A batch as the shards take it.
#[derive(Clone)]
pub struct PreparedBatch {
    frame: Arc<AlignedBytes>,
    header: FrameHeader,
    /// Offset of the batch record in the usage partition; set once the log knows it.
    pub offset: u64,
    /// When the batch arrived.
    pub received_at: Timestamp,
    refusals: Vec<Refusal>,
    identities: Vec<u128>,
    digests: Vec<u64>,
    sequenced: Option<SequencedIds>,
    by_shard: Vec<Vec<u16>>,
}

/// The ids of a batch of a client that mints them: event `i` has number `first + i`.
#[derive(Clone)]
pub(crate) struct SequencedIds {
    /// The client's run: its source and its epoch.
    pub(crate) run: u128,
    /// Number of the first event.
    pub(crate) first: u64,
    /// What all events say.
    pub(crate) contents: Arc<Vec<Content>>,
}

/// What tells a repeated event from another one with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Digest of what counts.
    pub(crate) payload_digest: u64,
    /// Its time, in nanoseconds.
    pub(crate) time: i64,
}

impl PreparedBatch {
    /// Checks a whole frame (envelope and archive) and computes identities and payload digests.
    ///
    /// `refusals` are those that were decided when the batch arrived; `None` decides them now.
    ///
    /// # Errors
    /// The first broken rule of the frame.
    pub fn prepare(
        frame: Arc<AlignedBytes>,
        refusals: Option<Vec<Refusal>>,
        received_at: Timestamp,
        key: IdentityKey,
        shards: usize,
    ) -> Result<Self, FrameStatus> {
        let header = FrameHeader::decode_slice(&frame)?;
        let body = &frame[FRAME_HEADER_BYTES..];
        header.check_body(body)?;
        let batch = UsageBatch::check(&header, body)?;
        let refusals = refusals.unwrap_or_else(|| batch.refusals());
        let identities = identities_of(&batch, key);
        let digests = payload_digests_of(&batch, key);
        let sequenced = sequenced_ids_of(&batch, key, &digests);
        let mut by_shard = vec![Vec::new(); shards];
        let mut refused = refusals.iter().map(|refusal| refusal.index).peekable();
        for (index, identity) in identities.iter().enumerate() {
            let index = index as u16; // at most BATCH_EVENTS_MAX, which fits 16 bits
            if refused.next_if_eq(&index).is_some() {
                continue;
            }
            by_shard[shard_of_slot(slot_of(*identity), shards)].push(index);
        }
        assert!(refused.peek().is_none(), "refusals are sorted by index and lie in the batch");
        Ok(Self { frame, header, offset: 0, received_at, refusals, identities, digests, sequenced, by_shard })
    }

    /// The columns.
    pub fn view(&self) -> UsageBatch<'_> {
        UsageBatch::reopen(&self.header, &self.frame[FRAME_HEADER_BYTES..])
            .expect("the frame was checked when the batch was prepared")
    }

    /// The frame as it arrived.
    pub fn frame(&self) -> &AlignedBytes {
        &self.frame
    }

    /// The envelope.
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Events in the batch, refused ones included.
    pub fn event_count(&self) -> usize {
        self.identities.len()
    }

    /// Events refused at the edge, in order of their index.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Indexes of the events of one shard, in order.
    pub fn events_of_shard(&self, shard: usize) -> &[u16] {
        &self.by_shard[shard]
    }

    /// Identity of an event.
    #[inline]
    pub fn identity(&self, index: u16) -> u128 {
        self.identities[usize::from(index)]
    }

    /// What the ids are, if a client minted them.
    pub(crate) fn sequenced(&self) -> Option<&SequencedIds> {
        self.sequenced.as_ref()
    }

    /// Payload digest of an event.
    #[inline]
    pub fn payload_digest(&self, index: u16) -> u64 {
        self.digests[usize::from(index)]
    }

    /// Position of an event.
    #[inline]
    pub fn position(&self, index: u16) -> EventPosition {
        EventPosition::new(self.offset, index)
    }
}

pub(crate) fn identities_of(batch: &UsageBatch<'_>, key: IdentityKey) -> Vec<u128> {
    let source = key.of_source(batch.source());
    let mut identities = Vec::with_capacity(batch.len());
    match batch.ids() {
        IdColumn::Bytes(ids) => {
            source.identities_of_many((0..batch.len()).map(|index| ids.id(index)), &mut identities);
        }
        IdColumn::Sequenced { epoch, first } => {
            source.identities_of_sequences(epoch, first, batch.len(), &mut identities);
        }
    }
    identities
}

fn sequenced_ids_of(batch: &UsageBatch<'_>, key: IdentityKey, digests: &[u64]) -> Option<SequencedIds> {
    let IdColumn::Sequenced { epoch, first } = batch.ids() else { return None };
    let content =
        |(index, digest): (usize, &u64)| Content { payload_digest: *digest, time: batch.time(index) };
    let contents = digests.iter().enumerate().map(content).collect();
    let run = key.of_source(batch.source()).run_of_epoch(epoch);
    Some(SequencedIds { run, first, contents: Arc::new(contents) })
}

/// Sums what type, subject, values and dimensions add: a sum does not depend on the order of columns.
fn payload_digests_of(batch: &UsageBatch<'_>, key: IdentityKey) -> Vec<u64> {
    let of_type = key.digest_of_type(batch.event_type());
    let subjects: Vec<u64> =
        (0..batch.subject_count()).map(|entry| key.digest_of_subject(batch.subject(entry))).collect();
    let mut digests: Vec<u64> =
        (0..batch.len()).map(|index| of_type.wrapping_add(subjects[batch.subject_index(index)])).collect();
    for column in batch.value_columns() {
        let value_key = key.of_value(column.name());
        let values = (0..batch.len()).map(|index| column.value(index));
        value_key.add_digests(values, column.scale(), &mut digests);
    }
    for column in batch.dimension_columns() {
        let texts: Vec<u64> = (0..column.dictionary_len())
            .map(|entry| key.digest_of_dimension(column.name(), column.text(entry)))
            .collect();
        for (index, digest) in digests.iter_mut().enumerate() {
            if let Some(entry) = column.index(index) {
                *digest = digest.wrapping_add(texts[entry]);
            }
        }
    }
    digests
}
