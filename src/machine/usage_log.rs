//! Records of the usage log as shards take them, and earlier usage read again from the log.
//!
//! Owns: what a record of the usage log is, and folding again. Leaves to others: bytes of records
//! (`wire::usage_record`), the log (`engine::log`), decisions (`engine::shard`).

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use domain::plan::MeteringPlan;
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

/// Takes a barrier at `offset` through one shard, and folds again what a new bound or owner cuts; gives the cells that
/// changed if a cut is to happen there.
///
/// # Errors
/// Whatever reading earlier usage or remembered ids gives.
pub fn pass_barrier_through(
    shard: &mut Shard,
    offset: u64,
    control_offset: u64,
    plan: &Arc<MeteringPlan>,
    is_cut: bool,
    history: &mut dyn History,
) -> Result<Vec<CellReport>, Box<dyn Error + Send + Sync>> {
    if shard.handle_barrier(control_offset, plan) {
        let subjects = shard.refolding().cloned().collect();
        let mut folded = Ok(());
        history.for_each_batch(offset, &subjects, &mut |batch, before| {
            if folded.is_ok() {
                folded = shard.refold_batch(batch, before);
            }
        })?;
        folded?;
        shard.finish_refold();
    }
    Ok(if is_cut { shard.take_reports() } else { Vec::new() })
}
