//! When ids are forgotten, and where: what a record of it is made from.
//!
//! Owns: the horizon of remembering, the choice of a place where there are too many ids, and how late what is forgotten there
//! happened. Leaves to others: what a record means (`control`), where ids and stamps lie (the caller), what a shard does
//! (`engine::shard`).
//!
//! Invariants: an id is remembered at least as long as an event with it may arrive without being too old, unless there are
//! too many ids.

use std::error::Error;
use std::ops::Range;

use domain::Timestamp;
use engine::log::LogReader;
use wire::AlignedBytes;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader};
use wire::usage::{IdColumn, UsageBatch};
use wire::usage_record::{BatchRecordHead, KIND_USAGE_BATCH};

use crate::control::ControlState;
use crate::recovery::LogPlace;
use crate::usage_log::UsageRecordError;

impl ControlState {
    /// Usage that arrived by then may be forgotten, if it is remembered for so long: an event that happened within the
    /// horizon is not set aside for it.
    pub fn forgettable_until(&self, now: Timestamp, dedup: i64) -> Timestamp {
        now.plus(-dedup.max(self.policy().horizon + self.future_max_ever() + 1))
    }

    /// The latest time of an event that is forgotten when ids before a place of the usage log are, and was not before; `None`
    /// if there is none. Reads the log from where ids are forgotten up to the place.
    ///
    /// # Errors
    /// Whatever reading the log gives.
    pub fn latest_forgettable(
        &self,
        usage: &LogPlace,
        before: u64,
    ) -> Result<Option<Timestamp>, Box<dyn Error + Send + Sync>> {
        latest_forgettable_in(usage, self.forgotten_ids().before..before, self.future_max_ever())
    }
}

fn latest_forgettable_in(
    usage: &LogPlace,
    stretch: Range<u64>,
    future_max: i64,
) -> Result<Option<Timestamp>, Box<dyn Error + Send + Sync>> {
    let mut reader = LogReader::open(&*usage.storage, usage.options, stretch.start, Some(stretch.end))?;
    let mut latest = None;
    while let Some(record) = reader.next()? {
        if record.kind != KIND_USAGE_BATCH {
            continue;
        }
        let offset = record.offset;
        let head = BatchRecordHead::decode(record.payload);
        let (_, frame) = head.ok_or(UsageRecordError::RecordMustBeReadable { offset })?;
        let unsound = |source| UsageRecordError::FrameMustBeSound { offset, source };
        let frame = AlignedBytes::copy_of(frame);
        let header = FrameHeader::decode_slice(&frame).map_err(unsound)?;
        let batch = UsageBatch::check(&header, &frame[FRAME_HEADER_BYTES..]).map_err(unsound)?;
        let received_at = Timestamp::from_nanoseconds(record.received_at);
        latest = latest.max(latest_forgettable_of(&batch, received_at, future_max));
    }
    Ok(latest)
}

/// The latest time of an event of a batch whose id may be forgotten: no client numbered it, and it may have been accepted
/// as it arrived. Events that are further ahead than `future_max` were set aside, and stay known.
pub(crate) fn latest_forgettable_of(
    batch: &UsageBatch<'_>,
    received_at: Timestamp,
    future_max: i64,
) -> Option<Timestamp> {
    if matches!(batch.ids(), IdColumn::Sequenced { .. }) {
        return None;
    }
    let until = received_at.plus(future_max).nanoseconds();
    let times = (0..batch.len()).map(|event| batch.time(event)).filter(|time| *time <= until);
    // Events of any time arrive, and a record says an instant of the supported years: a later bound holds as well.
    times.max().map(|time| Timestamp::from_nanoseconds(time).max(Timestamp::MIN))
}

/// The offset before which ids are to be forgotten, so that at most so many are left; `None` if all are. Stretches are
/// offsets at which a stretch of the log begins, and how many ids it has.
pub fn offset_of_newest(mut stretches: Vec<(u64, u64)>, ids_max: u64) -> Option<u64> {
    stretches.sort_unstable();
    let (mut left, mut offset) = (ids_max, None);
    let mut newest = stretches.into_iter().rev().peekable();
    while let Some((from, mut ids)) = newest.next() {
        // Stretches of other shards that begin here are kept or forgotten with it.
        while let Some((_, more)) = newest.next_if(|(other, _)| *other == from) {
            ids += more;
        }
        let Some(rest) = left.checked_sub(ids) else { break };
        (left, offset) = (rest, Some(from));
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ids_are_kept_in_whole_stretches() {
        let stretches = vec![(10, 5), (0, 100), (20, 1), (10, 2), (30, 4)];
        for (ids_max, offset) in
            [(200, Some(0)), (112, Some(0)), (111, Some(10)), (12, Some(10)), (11, Some(20)), (4, Some(30))]
        {
            assert_eq!(offset_of_newest(stretches.clone(), ids_max), offset, "{ids_max}");
        }
        assert_eq!(offset_of_newest(stretches, 3), None);
        assert_eq!(offset_of_newest(Vec::new(), 3), None);
    }
}
