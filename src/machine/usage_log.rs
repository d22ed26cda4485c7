//! Records of the usage log as shards take them, and earlier usage read again from the log.
//!
//! Owns: what a record of the usage log is, and folding again. Leaves to others: bytes of records
//! (`wire::usage_record`), the log (`engine::log`), decisions (`engine::shard`).

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use domain::{Subject, Timestamp};
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{LogIndex, LogOptions, LogReader, Part, Wanted};
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use engine::shard::cell::CellReport;
use wire::AlignedBytes;
use wire::frame::FrameStatus;
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, decode_barrier};

use crate::control_writer::NewBarrier;
use crate::replay::History;

/// Earlier usage, read again from the log.
pub struct UsageHistory {
    log: Arc<dyn Storage>,
    options: LogOptions,
    key: IdentityKey,
    shards: usize,
}

impl UsageHistory {
    /// The usage of a log, prepared for so many shards.
    pub fn new(log: Arc<dyn Storage>, options: LogOptions, key: IdentityKey, shards: usize) -> Self {
        Self { log, options, key, shards }
    }
}

impl History for UsageHistory {
    fn for_each_batch(
        &mut self,
        until: u64,
        subjects: &BTreeSet<Subject>,
        fold: &mut dyn FnMut(&PreparedBatch, u64),
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let digest_of = |subject: &Subject| self.key.digest_of_subject(subject.as_str());
        let digests: Vec<u64> = subjects.iter().map(digest_of).collect();
        let index = LogIndex::open(&*self.log, self.options, self.key)?;
        let mut reader = LogReader::open(&*self.log, self.options, 0, Some(0))?;
        let mut control_offset = 0;
        for part in index.parts(Wanted::Subjects(&digests), until) {
            let range = match part {
                Part::Read(range) => range,
                Part::Barrier(offset) => {
                    control_offset = offset;
                    continue;
                }
            };
            reader.seek(range);
            while let Some(record) = reader.next()? {
                let (kind, offset, received_at) = (record.kind, record.offset, record.received_at);
                match usage_item(kind, offset, received_at, record.payload, self.key, self.shards)? {
                    UsageItem::Batch(batch) => fold(&batch, control_offset),
                    UsageItem::Barrier(offset) => control_offset = offset,
                }
            }
        }
        Ok(())
    }

    fn read_batches(
        &mut self,
        offsets: &BTreeSet<u64>,
        read: &mut dyn FnMut(&PreparedBatch),
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        // A reader starts with the segment of its first record: what lies between far ones is not read.
        let mut rest = offsets.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| next - last <= self.options.segment_bytes) {
                last = next;
            }
            self.read_between(first, last, offsets, read)?;
        }
        Ok(())
    }
}

impl UsageHistory {
    fn read_between(
        &self,
        first: u64,
        last: u64,
        offsets: &BTreeSet<u64>,
        read: &mut dyn FnMut(&PreparedBatch),
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut reader = LogReader::open(&*self.log, self.options, first, Some(last + 1))?;
        while let Some(record) = reader.next()? {
            if !offsets.contains(&record.offset) {
                continue;
            }
            let (offset, received_at) = (record.offset, record.received_at);
            match usage_item(record.kind, offset, received_at, record.payload, self.key, self.shards)? {
                UsageItem::Batch(batch) => read(&batch),
                UsageItem::Barrier(_) => return Err(UsageRecordError::RecordMustBeReadable { offset }.into()),
            }
        }
        Ok(())
    }
}

/// A record of the usage log.
pub enum UsageItem {
    /// A batch.
    Batch(Box<PreparedBatch>),
    /// A barrier with the control-log offset that it names.
    Barrier(u64),
}

/// Why a record of the usage log is not what belongs there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageRecordError {
    /// The record has another layout.
    #[error("the usage record at offset {offset} is unreadable")]
    RecordMustBeReadable {
        /// Offset of the record.
        offset: u64,
    },
    /// The frame in the record breaks a rule.
    #[error("the usage record at offset {offset} is unreadable")]
    FrameMustBeSound {
        /// Offset of the record.
        offset: u64,
        /// The broken rule.
        #[source]
        source: FrameStatus,
    },
    /// The record is of no kind that belongs into a usage log.
    #[error("the usage record at offset {offset} is of unknown kind {kind}")]
    KindMustBeKnown {
        /// Offset of the record.
        offset: u64,
        /// Its kind.
        kind: u16,
    },
}

/// Reads a record of the usage log.
///
/// # Errors
/// [`UsageRecordError`].
pub fn usage_item(
    kind: u16,
    offset: u64,
    received_at: i64,
    payload: &[u8],
    key: IdentityKey,
    shards: usize,
) -> Result<UsageItem, UsageRecordError> {
    let unreadable = UsageRecordError::RecordMustBeReadable { offset };
    match kind {
        KIND_USAGE_BATCH => {
            let (head, frame) = BatchRecordHead::decode(payload).ok_or(unreadable)?;
            let frame = Arc::new(AlignedBytes::copy_of(frame));
            let received_at = Timestamp::from_nanoseconds(received_at);
            let mut batch = PreparedBatch::prepare(frame, Some(head.refusals), received_at, key, shards)
                .map_err(|source| UsageRecordError::FrameMustBeSound { offset, source })?;
            batch.offset = offset;
            Ok(UsageItem::Batch(Box::new(batch)))
        }
        KIND_BARRIER => Ok(UsageItem::Barrier(decode_barrier(payload).ok_or(unreadable)?)),
        _ => Err(UsageRecordError::KindMustBeKnown { offset, kind }),
    }
}

/// Takes a barrier at `offset` through one shard; gives the cells that changed if a cut is to happen there.
///
/// # Errors
/// Whatever reading earlier usage or remembered ids gives.
pub fn pass_barrier_through(
    shard: &mut Shard,
    offset: u64,
    barrier: &NewBarrier,
    history: &mut dyn History,
) -> Result<Vec<CellReport>, Box<dyn Error + Send + Sync>> {
    pass_barrier_through_all(std::slice::from_mut(shard), offset, barrier, history)?;
    Ok(if barrier.is_cut { shard.take_reports() } else { Vec::new() })
}

/// Takes a barrier at `offset` through shards: what corrected events did is taken away, what a new bound or owner cuts is
/// folded again, and corrections count.
///
/// # Errors
/// Whatever reading earlier usage gives.
pub(crate) fn pass_barrier_through_all(
    shards: &mut [Shard],
    offset: u64,
    barrier: &NewBarrier,
    history: &mut dyn History,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let has_corrections =
        shards.iter().any(|shard| barrier.corrections.get(shard.index()).is_some_and(|own| !own.is_empty()));
    if has_corrections {
        let mut wanted = BTreeSet::new();
        for shard in &mut *shards {
            wanted.extend(shard.start_corrections(&barrier.corrections[shard.index()])?);
        }
        history.read_batches(&wanted, &mut |batch| {
            shards.iter_mut().for_each(|shard| shard.retract_batch(batch));
        })?;
    }
    let mut refolding: Vec<&mut Shard> = Vec::new();
    for shard in &mut *shards {
        if shard.handle_barrier(barrier.control_offset, &barrier.plan) {
            refolding.push(shard);
        }
    }
    if !refolding.is_empty() {
        let subjects = refolding.iter().flat_map(|shard| shard.refolding().cloned()).collect();
        let mut folded = Ok(());
        history.for_each_batch(offset, &subjects, &mut |batch, before| {
            for shard in &mut refolding {
                if folded.is_ok() {
                    folded = shard.refold_batch(batch, before);
                }
            }
        })?;
        folded?;
        refolding.into_iter().for_each(Shard::finish_refold);
    }
    if has_corrections {
        shards.iter_mut().for_each(Shard::finish_corrections);
    }
    Ok(())
}
