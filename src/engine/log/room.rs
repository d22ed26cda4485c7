//! Room for the next segment, made ahead, so that no commit waits for it.
//!
//! Owns: the file of zeros that a segment starts as. Leaves to others: when and on which thread it is made
//! (`server::usage_log`), the segment's header and name (`writer`).
//!
//! The zeros are written and not only reserved: a sync over bytes that a disk has seen has no extents to convert, which
//! halves the time of a small commit. The file lies under a name that is no segment's until the writer renames it, so a
//! log is read the same with it and without it; recovery takes it away.
//!
//! Invariants: room that is given to a writer is zero and durable up to its end.

use super::format::{LogError, LogOptions, io_error};
use super::sectors::SectorBuffer;
use crate::io::{Storage, StorageFile};

/// What a log's next segment is called until it is one.
pub(super) const ROOM_FILE: &str = "next.room";
/// Zeros that are written at once.
const ZEROS_BYTES: usize = 256 << 10;

/// Room for the next segment of a log.
pub struct SegmentRoom {
    pub(super) file: Box<dyn StorageFile>,
}

impl SegmentRoom {
    /// Makes room for the next segment of a log; `None` once it is no longer wanted. A log has one at a time.
    ///
    /// # Errors
    /// The failed step, also if there is room already; the log is as before, and its writer makes room itself when it
    /// has none.
    pub fn make(
        storage: &dyn Storage,
        options: &LogOptions,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, LogError> {
        let file = storage.create(ROOM_FILE).map_err(io_error("make", ROOM_FILE))?;
        let filled = fill(&*file, options, is_wanted);
        if let Ok(true) = filled {
            return Ok(Some(Self { file }));
        }
        // What stays all the same goes at the next start.
        let removed = storage.remove(ROOM_FILE).map_err(io_error("remove", ROOM_FILE));
        filled.and(removed).map(|()| None)
    }
}

/// Writes zeros up to the end of a segment; whether it got there before it was no longer wanted.
fn fill(
    file: &dyn StorageFile,
    options: &LogOptions,
    is_wanted: &dyn Fn() -> bool,
) -> Result<bool, LogError> {
    file.preallocate(options.segment_bytes).map_err(io_error("make room in", ROOM_FILE))?;
    let zeros = SectorBuffer::with_len(ZEROS_BYTES);
    for position in (0..options.segment_bytes).step_by(ZEROS_BYTES) {
        if !is_wanted() {
            return Ok(false);
        }
        let left = options.segment_bytes - position;
        let bytes = usize::try_from(left).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
        file.write_at(position, &zeros.bytes()[..bytes]).map_err(io_error("write", ROOM_FILE))?;
    }
    file.sync_data().map_err(io_error("sync", ROOM_FILE))?;
    Ok(true)
}
