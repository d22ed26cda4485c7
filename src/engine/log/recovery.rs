//! Opens a log for writing: reads all of it, repairs what a crash may leave, refuses everything else.
//!
//! | what is found | what it is | what is done |
//! |---|---|---|
//! | no segments | a new log | the first segment is made at the first commit |
//! | newest segment shorter than its header, or all zeros; no CLEAN | crash while a segment was made | the file is removed |
//! | a file `next.room` | room for a segment that was not needed yet | the file is removed |
//! | newest segment with zeros for a header, then anything else | damage | refused |
//! | zeros behind the last block of the newest segment | preallocated room | kept |
//! | unreadable bytes behind it, no longer than one block, no CLEAN | a torn commit, never acknowledged | cut off |
//! | unreadable bytes with anything behind the block that they are | damage | refused: segment and position |
//! | unreadable bytes in an older segment | damage | refused |
//! | a gap between segments, a foreign header, a segment of another log | damage | refused, also where the segment is not read |
//! | a last block that reads well | committed, or in the cache only, after a failed sync | written and synced once more |
//! | CLEAN, and the log ends as it says | closed cleanly | CLEAN is removed before the first append |
//! | CLEAN, and anything is unreadable or ends elsewhere | damage | refused |
//! | CLEAN empty or all zeros | crash while the log was closed | as if there were none |
//! | CLEAN itself unreadable | damage | refused |
//! | a stub (`.arc`) in place of a segment | a segment that lies in the archive (`super::archive`) | read there; if it cannot be, and is needed, refused by its name |

use super::format::{CLEAN_FILE, LogError, LogOptions, SEGMENT_HEADER_BYTES, io_error, segment_name};
use super::reader::{LogReader, Record, Tail};
use super::room::ROOM_FILE;
use super::writer::LogWriter;
use crate::io::Storage;
use std::sync::Arc;

/// What opening a log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Records that were read.
    pub records: u64,
    /// Offset behind the last one.
    pub end_offset: u64,
    /// Bytes of a torn, unacknowledged commit that were cut off.
    pub torn_bytes: u64,
    /// Stamp of the last block; `None` for a new log.
    pub last_recorded_at: Option<i64>,
    /// Whether the log was closed cleanly.
    pub was_clean: bool,
}

impl LogWriter {
    /// Opens a log for writing; `visit` gets every record in order.
    ///
    /// # Errors
    /// [`LogError`] if the log is damaged or the disk fails; or what `visit` gives.
    pub fn recover<E: From<LogError>>(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        visit: &mut dyn FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(LogWriter, Recovery), E> {
        Ok(FoundLog::read(storage, options, 0, visit)?.open()?)
    }
}

/// A log that was read to its end; nothing of it is changed yet.
pub struct FoundLog {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    segments: Vec<u64>,
    tail: Tail,
    records: u64,
}

impl FoundLog {
    /// Reads the records at `from` and behind. Of segments that end before it only names, lengths and headers are looked at:
    /// damage that they may have is found by who reads them.
    ///
    /// # Errors
    /// [`LogError`] if the log is damaged or the disk fails; or what `visit` gives.
    pub fn read<E: From<LogError>>(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        from: u64,
        visit: &mut dyn FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut records = 0;
        let (tail, segments) = {
            let mut reader = LogReader::open(&*storage, options, from, None)?;
            reader.check_passed_over()?;
            while let Some(record) = reader.next()? {
                records += 1;
                visit(record)?;
            }
            (reader.tail().clone(), reader.segments().to_vec())
        };
        Ok(Self { storage, options, segments, tail, records })
    }

    /// Offset behind the last record.
    pub fn end_offset(&self) -> u64 {
        self.tail.end_offset
    }

    /// Repairs what a crash left, and opens the log for writing.
    ///
    /// # Errors
    /// [`LogError`] if the disk fails.
    pub fn open(self) -> Result<(LogWriter, Recovery), LogError> {
        let Self { storage, options, segments, tail, records } = self;
        repair(&*storage, &segments)?;
        let last_recorded_at = (tail.last_recorded_at != i64::MIN).then_some(tail.last_recorded_at);
        let recovery = Recovery {
            records,
            end_offset: tail.end_offset,
            torn_bytes: tail.torn_bytes,
            last_recorded_at,
            was_clean: tail.is_clean,
        };
        let writer = LogWriter::open_at(storage, options, segments.last().copied(), &tail)?;
        Ok((writer, recovery))
    }
}

/// Removes a segment that never got its header, unused room, and the marker of a clean end; makes all other names durable.
fn repair(storage: &dyn Storage, segments: &[u64]) -> Result<(), LogError> {
    let names = storage.list().map_err(io_error("list", "the log's directory"))?;
    let known: Vec<String> = segments.iter().map(|base| segment_name(*base)).collect();
    for name in names {
        let is_headless = name.ends_with(".seg") && !known.contains(&name);
        if is_headless || name == CLEAN_FILE || name == ROOM_FILE {
            storage.remove(&name).map_err(io_error("remove", &name))?;
        }
    }
    // Always: a process that died may have made the newest segment without making its name durable.
    storage.sync_directory().map_err(io_error("sync", "the log's directory"))
}

/// Position in its file of an offset of a segment.
pub(super) fn position_of(base: u64, offset: u64) -> u64 {
    offset - base + SEGMENT_HEADER_BYTES as u64
}
