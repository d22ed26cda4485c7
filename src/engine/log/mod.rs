//! An append-only log in segments: the truth of Tallymark.
//!
//! Owns: bytes on disk, group commit, recovery. Leaves to others: what records mean, threads, time.
//!
//! Invariants:
//! - A committed record is read back byte for byte, or opening fails and names the damaged segment and offset.
//! - Every byte of a log is covered by a checksum or must be zero.
//! - After a failed write or sync a writer does nothing any more.

mod archive;
mod format;
mod index;
mod place;
mod reader;
mod recovery;
mod room;
mod sectors;
mod writer;

pub use self::archive::{
    ArchiveFault, ArchivedSegment, ArchivingError, EndedSegment, WithArchive, archive_segment,
    archived_segments, check_archived, missing_segments, oldest_segment,
};
pub use self::format::{LogError, LogKind, LogOptions, RECORD_BYTES_MAX};
pub(crate) use self::format::{SECTOR_BYTES, crc_of};
pub use self::index::{IndexError, LogIndex, Part, Wanted, build_index, check_index};
pub use self::place::{PlaceFinder, StampedPlace};
pub use self::reader::{LogReader, Record, Tail};
pub use self::recovery::{FoundLog, Recovery};
pub use self::room::SegmentRoom;
pub(crate) use self::sectors::SectorBuffer;
pub use self::writer::{Committed, LogWriter};

#[cfg(test)]
mod tests;
