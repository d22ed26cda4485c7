//! Which segment of the usage log goes to the archive next.
//!
//! Owns: the choice. Leaves to others: how a segment goes (`engine::log`), when to look (`server::archive`).
//!
//! A start from a snapshot reads the usage log behind its barrier. So a segment goes once every snapshot that is kept is
//! behind it: a start from any of them reads nothing there, unless a barrier behind it folded subjects again.
//!
//! Invariants: segments go in the order of the log; nothing goes to an archive that does not have what went before.

use std::io;
use std::ops::Range;

use engine::io::Storage;
use engine::log::{
    ArchivedSegment, ArchivingError, LogError, LogOptions, archive_segment, missing_segments, oldest_segment,
};
use engine::snapshot::snapshots;

/// Why the next segment does not go. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The usage log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A folder cannot be listed.
    #[error("the segments of a folder cannot be listed")]
    Folder(#[from] io::Error),
    /// The archive does not have what went there before: it is not mounted, or another one.
    #[error(
        "the archive does not have {first}, and {segments} segments that went there in all: is it the right one?"
    )]
    ArchiveMustBeWhole {
        /// The first segment that it does not have.
        first: String,
        /// How many there are.
        segments: usize,
    },
    /// The segment cannot go.
    #[error("segment {:020}.seg stays", segment.start)]
    Segment {
        /// Its offsets.
        segment: Range<u64>,
        /// Why.
        #[source]
        source: ArchivingError,
    },
}

/// The offsets of the next segment of the usage log that goes to the archive, if everything in it was stamped by an instant
/// in nanoseconds; `log` is the folder of the log alone.
///
/// # Errors
/// [`ArchiveError`].
pub fn segment_to_archive(
    log: &dyn Storage,
    options: &LogOptions,
    kept: &dyn Storage,
    recorded_until: i64,
) -> Result<Option<Range<u64>>, ArchiveError> {
    let Some(oldest) = oldest_segment(log, options)? else { return Ok(None) };
    let snapshots = snapshots(kept)?;
    let is_covered = snapshots.first().is_some_and(|first| oldest.offsets.end <= *first);
    let is_due = oldest.has_index && oldest.recorded_until <= recorded_until && is_covered;
    Ok(is_due.then_some(oldest.offsets))
}

/// Moves a segment to the archive; `None` once that is no longer wanted.
///
/// # Errors
/// [`ArchiveError`]; the log reads as before.
pub fn move_to_archive(
    log: &dyn Storage,
    archive: &dyn Storage,
    options: &LogOptions,
    segment: Range<u64>,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Option<ArchivedSegment>, ArchiveError> {
    let missing = missing_segments(log, &|| archive.list())?;
    if let Some(first) = missing.first() {
        return Err(ArchiveError::ArchiveMustBeWhole { first: first.clone(), segments: missing.len() });
    }
    let moved = archive_segment(log, archive, options, segment.clone(), is_wanted);
    moved.map_err(|source| ArchiveError::Segment { segment, source })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::log::{LogKind, LogWriter};
    use engine::snapshot::snapshot_name;
    use engine::testing::disk::SimulatedDisk;

    use super::*;

    const OPTIONS: LogOptions =
        LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 24 << 10 };

    #[test]
    fn a_segment_goes_when_it_is_old_and_indexed_and_every_kept_snapshot_is_behind_it() {
        let disk = SimulatedDisk::default();
        let (log, archive, kept) = (disk.folder("log"), disk.folder("archive"), disk.folder("kept"));
        let writer = LogWriter::recover::<LogError>(Arc::new(log.clone()), OPTIONS, &mut |_| Ok(()));
        let (mut writer, _) = writer.unwrap();
        let mut commit = |stamp: i64| {
            writer.stage(1, 0, &[&[1; 9_000]]).unwrap();
            writer.commit(stamp).unwrap().end_offset
        };
        let next = |stamp| segment_to_archive(&log, &OPTIONS, &kept, stamp).unwrap();
        let ends: Vec<u64> = (0..5).map(&mut commit).collect();
        let (first, second) = (0..ends[0], ends[0]..ends[1]);
        assert_eq!(next(9), None, "no snapshot");
        let snapshot = |offset| disk.replace(&format!("kept/{}", snapshot_name(offset)), b"whole");
        snapshot(ends[0]);
        assert_eq!(next(9), None, "no index");
        let index = |base: u64| disk.replace(&format!("log/{base:020}.idx"), b"believed or not");
        [0, ends[0]].into_iter().for_each(index);
        assert_eq!((next(0), next(1)), (None, Some(first.clone())), "the next one was made at 1");
        assert!(move_to_archive(&log, &archive, &OPTIONS, first, &|| true).unwrap().is_some());
        assert_eq!(next(9), None, "the snapshot is not behind it");
        snapshot(ends[3]);
        assert_eq!(next(9), None, "the older snapshot is not behind it");
        disk.lose(&format!("kept/{}", snapshot_name(ends[0])));
        assert_eq!(next(9), Some(second.clone()));
        let error = move_to_archive(&log, &disk.folder("unmounted"), &OPTIONS, second.clone(), &|| true);
        assert!(matches!(error, Err(ArchiveError::ArchiveMustBeWhole { segments: 1, .. })), "{error:?}");
        assert!(move_to_archive(&log, &archive, &OPTIONS, second, &|| true).unwrap().is_some());
    }
}
