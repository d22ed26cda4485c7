//! Indexes of ended segments of the usage log: which stretches of blocks can hold a subject, an event, or usage of a time.
//!
//! Owns: what an index may be asked, and when it is believed. Leaves to others: folding (`machine`), when indexes are
//! made (`server::segments`).
//!
//! An index is derived from its segment and lies beside it. It is believed only if it is whole, was made under this key
//! of this log, and names the last block that the segment really has; otherwise the segment is read as a whole, and the
//! index is made again.
//!
//! | what is found | what is done |
//! |---|---|
//! | no index; one that is torn, of another version, log or key, or of other blocks | the segment is read as a whole |
//! | a filter that does not validate | its stretch is read |
//! | a file `.idx.new` | an index that was never finished: goes when the index is made |
//! | the newest segment | read as a whole: it has no index |
//!
//! Invariants: what an index leaves out holds nothing of what was asked; asked of any log with and without indexes, the
//! answers are the same.

mod build;
mod filter;
mod format;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use domain::EventPosition;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader};
use wire::usage::UsageBatch;
use wire::usage_record::{BatchRecordHead, KIND_USAGE_BATCH};

pub use self::build::{build_index, check_index};
use self::filter::may_hold;
use self::format::{BarrierEntry, HEADER_BYTES, Header, StretchEntry, decode_table};
use super::format::{BLOCK_HEADER_BYTES, BlockHeader, LogError, LogOptions, crc_of, segment_name};
use super::reader::LogReader;
use super::recovery::position_of;
use crate::identity::IdentityKey;
use crate::io::{Storage, StorageFile};
use crate::prepared::identities_of;

/// Largest table that is believed: that of a segment of 4 GiB in stretches of one small block each.
const TABLE_BYTES_MAX: usize = 256 << 20;

/// Why an index cannot be made or a log not be searched.
#[derive(Clone, Debug)]
pub enum IndexError {
    /// The log is damaged, or the disk failed.
    Log(LogError),
    /// A record is none of a usage log.
    RecordMustBeReadable {
        /// Offset of the record.
        offset: u64,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IndexError::Log(error) => error.fmt(f),
            IndexError::RecordMustBeReadable { offset } => {
                write!(f, "the usage record at offset {offset} is unreadable")
            }
        }
    }
}

impl std::error::Error for IndexError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            IndexError::Log(error) => error.source(),
            IndexError::RecordMustBeReadable { .. } => None,
        }
    }
}

impl From<LogError> for IndexError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// What is looked for in a log.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Events of any of these subjects, by [`IdentityKey::digest_of_subject`].
    Subjects(&'a [u64]),
    /// Events that happened from the first instant on and before the second, in nanoseconds; of any of these subjects, or of all.
    Times(i64, i64, Option<&'a [u64]>),
    /// Events with an identity.
    Identity(u128),
}

/// A part of a log on the way to what is wanted, in log order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A barrier in what is left out, with the control-log offset that it names; only the last before a [`Part::Read`].
    Barrier(u64),
    /// Whole blocks that can hold what is wanted.
    Read(Range<u64>),
}

/// The indexes of a usage log, as far as it has them.
pub struct LogIndex<'s> {
    storage: &'s dyn Storage,
    options: LogOptions,
    key: IdentityKey,
    segments: Vec<u64>,
    /// Those that lie in the archive, with their indexes.
    archived: Vec<u64>,
}

impl<'s> LogIndex<'s> {
    /// The indexes of a log as it lies there.
    ///
    /// # Errors
    /// [`LogError`] if segments are missing.
    pub fn open(storage: &'s dyn Storage, options: LogOptions, key: IdentityKey) -> Result<Self, LogError> {
        // The reader is only asked which segments there are.
        let reader = LogReader::open(storage, options, 0, Some(0))?;
        let segments = reader.segments().to_vec();
        let archived = segments.iter().copied().filter(|base| reader.is_archived(*base)).collect();
        Ok(Self { storage, options, key, segments, archived })
    }

    /// Ended segments, from their first offset to that of the next.
    pub fn ended_segments(&self) -> Vec<Range<u64>> {
        self.ended().collect()
    }

    /// Ended segments, from their first offset to that of the next, that have no index that is believed and did not go to
    /// the archive.
    pub fn unindexed(&self) -> Vec<Range<u64>> {
        let is_here = |segment: &Range<u64>| self.archived.binary_search(&segment.start).is_err();
        self.ended().filter(|segment| is_here(segment) && self.index_of(segment).is_none()).collect()
    }

    /// The parts of the log before `until` that must be read to find all that is wanted. Reads indexes and no block.
    pub fn parts(&self, wanted: Wanted<'_>, until: u64) -> Vec<Part> {
        let mut parts = Parts::default();
        for segment in self.ended().take_while(|segment| segment.start < until) {
            match self.index_of(&segment) {
                Some(index) => index.add_parts(wanted, until, &mut parts),
                None => parts.read(segment.start..segment.end.min(until)),
            }
        }
        if let Some(newest) = self.segments.last().filter(|newest| **newest < until) {
            parts.read(*newest..until);
        }
        parts.found
    }

    /// Positions before `until` of all events with an identity, in log order: the first is the one that counts, those
    /// behind it are repetitions. Reads only blocks that can hold one.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn positions_of(&self, identity: u128, until: u64) -> Result<Vec<EventPosition>, IndexError> {
        let mut found = Vec::new();
        let mut reader = LogReader::open(self.storage, self.options, 0, Some(0))?;
        for part in self.parts(Wanted::Identity(identity), until) {
            let Part::Read(range) = part else { continue };
            reader.seek(range);
            while let Some(record) = reader.next()? {
                if record.kind != KIND_USAGE_BATCH {
                    continue;
                }
                let offset = record.offset;
                let identities = identities_in(record.payload, self.key)
                    .ok_or(IndexError::RecordMustBeReadable { offset })?;
                let at = (0_u16..).zip(identities).filter(|(_, found)| *found == identity);
                found.extend(at.map(|(index, _)| EventPosition::new(offset, index)));
            }
        }
        Ok(found)
    }

    fn ended(&self) -> impl Iterator<Item = Range<u64>> {
        self.segments.windows(2).map(|pair| pair[0]..pair[1])
    }

    fn index_of(&self, segment: &Range<u64>) -> Option<SegmentIndex> {
        SegmentIndex::open(self.storage, &self.options, self.key, segment)
    }
}

fn identities_in(payload: &[u8], key: IdentityKey) -> Option<Vec<u128>> {
    let (_, frame) = BatchRecordHead::decode(payload)?;
    let header = FrameHeader::decode_slice(frame).ok()?;
    let batch = UsageBatch::check(&header, &frame[FRAME_HEADER_BYTES..]).ok()?;
    Some(identities_of(&batch, key))
}

/// Joins parts that follow each other.
#[derive(Default)]
struct Parts {
    found: Vec<Part>,
}

impl Parts {
    fn read(&mut self, range: Range<u64>) {
        match self.found.last_mut() {
            Some(Part::Read(last)) if last.end == range.start => last.end = range.end,
            _ => self.found.push(Part::Read(range)),
        }
    }

    fn barrier(&mut self, control_offset: u64) {
        if let Some(Part::Barrier(_)) = self.found.last() {
            self.found.pop();
        }
        self.found.push(Part::Barrier(control_offset));
    }
}

/// The index of one segment, believed.
struct SegmentIndex {
    file: Box<dyn StorageFile>,
    stretches: Vec<StretchEntry>,
    barriers: Vec<BarrierEntry>,
}

impl SegmentIndex {
    fn open(
        storage: &dyn Storage,
        options: &LogOptions,
        key: IdentityKey,
        segment: &Range<u64>,
    ) -> Option<Self> {
        let file = storage.open(&index_name(segment.start), false).ok()?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(0, &mut bytes).ok()?;
        let header = Header::decode(&bytes, options)?;
        let is_ours = (header.base, header.end_offset, header.key_check)
            == (segment.start, segment.end, key_check(key))
            && header.table_bytes() <= TABLE_BYTES_MAX
            && header.last_block.1 == last_block_crc(storage, options, &header)?;
        if !is_ours {
            return None;
        }
        let mut table = vec![0; header.table_bytes()];
        file.read_at(header.table_position, &mut table).ok()?;
        if crc_of(&[&table]) != header.table_crc {
            return None;
        }
        let (stretches, barriers) = decode_table(&table, &header);
        Some(Self { file, stretches, barriers })
    }

    fn add_parts(&self, wanted: Wanted<'_>, until: u64, parts: &mut Parts) {
        let mut barriers = self.barriers.iter().filter(|barrier| barrier.offset < until).peekable();
        for stretch in self.stretches.iter().take_while(|stretch| stretch.first_offset < until) {
            let is_read = self.may_hold(stretch, wanted);
            if is_read {
                parts.read(stretch.first_offset..stretch.end_offset.min(until));
            }
            while let Some(barrier) = barriers.next_if(|barrier| barrier.offset < stretch.end_offset) {
                // A reader of the stretch meets the barrier itself.
                if !is_read {
                    parts.barrier(barrier.control_offset);
                }
            }
        }
    }

    fn may_hold(&self, stretch: &StretchEntry, wanted: Wanted<'_>) -> bool {
        let subjects_may = |subjects: &[u64]| {
            let filter = self.filter(stretch.filters_position, stretch.subjects);
            filter.is_none_or(|filter| subjects.iter().any(|subject| may_hold(&filter, *subject)))
        };
        match wanted {
            Wanted::Subjects(subjects) => subjects_may(subjects),
            Wanted::Times(from, until, subjects) => {
                // Of a stretch without events, the first time is behind the last.
                stretch.time.1 >= from && stretch.time.0 < until && subjects.is_none_or(subjects_may)
            }
            Wanted::Identity(identity) => {
                let position = stretch.filters_position + u64::from(stretch.subjects.0);
                let filter = self.filter(position, stretch.identities);
                filter.is_none_or(|filter| may_hold(&filter, key_of_identity(identity)))
            }
        }
    }

    /// A filter that validates.
    fn filter(&self, position: u64, (bytes, crc): (u32, u32)) -> Option<Vec<u8>> {
        let mut filter = vec![0; bytes as usize];
        let is_whole = self.file.read_at(position, &mut filter).is_ok() && crc_of(&[&filter]) == crc;
        is_whole.then_some(filter)
    }
}

/// Checksum of the block that an index calls the last of its segment; `None` if the segment does not end with it.
fn last_block_crc(storage: &dyn Storage, options: &LogOptions, header: &Header) -> Option<u32> {
    let (offset, _) = header.last_block;
    let position = offset.checked_sub(header.base).map(|_| position_of(header.base, offset))?;
    let segment = storage.open(&segment_name(header.base), false).ok()?;
    if segment.size().ok()? != position_of(header.base, header.end_offset) {
        return None;
    }
    let mut bytes = [0; BLOCK_HEADER_BYTES];
    segment.read_at(position, &mut bytes).ok()?;
    let block = BlockHeader::decode(&bytes, options, offset).ok()?;
    (offset + block.block_bytes() as u64 == header.end_offset).then(|| block.body_crc())
}

pub(super) fn index_name(base: u64) -> String {
    format!("{base:020}.idx")
}

fn key_check(key: IdentityKey) -> u64 {
    key.digest_of_type("segment index")
}

/// The half of an identity that does not choose its slot.
fn key_of_identity(identity: u128) -> u64 {
    identity as u64
}
