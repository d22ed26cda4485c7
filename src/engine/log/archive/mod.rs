//! The archive of a log: ended segments that lie elsewhere, whole, as they were.
//!
//! Owns: how a segment goes there and what stays in its place, and reading a log together with its archive. Leaves to others:
//! which segments go and when (`server::archive`), what is in them.
//!
//! ```text
//! usage-0/  00000000000000000000.arc  00000000000067104768.arc  00000000000134209536.seg  00000000000201314304.seg
//!                    │                         │
//! archive/  00000000000000000000.seg  00000000000067104768.seg, and an .idx beside each
//! ```
//!
//! A *stub* (`.arc`) says that its segment was in the archive, whole and durable, and what it is. So a log's folder says by
//! itself which of its segments lie elsewhere, and a reader that cannot come by one refuses, and names it. Where both lie in
//! the log's folder, the segment counts: who brings a segment back copies it there.
//!
//! Steps of [`archive_segment`], and what a crash leaves behind each:
//!
//! | crash behind | what is found | what is done |
//! |---|---|---|
//! | nothing, or a part of the copy written | the segment; maybe a file `.seg.new` or `.idx.new` in the archive | the copy is made anew |
//! | the copy durable, under its name | the segment, its copy | the copy is synced, and compared with the segment, block by block |
//! | the stub written, but not durable | the same, maybe a file `.arc.new` | the same; the stub is written again |
//! | the stub durable | the segment, its copy, the stub | the segment counts; compared and removed as above |
//! | the segment removed, its index not | copy, stub, an index in the log's folder | the index serves; it goes with the next archiving |
//! | all | copy and stub | the segment is read from the archive |
//!
//! Invariants: a segment leaves its log's folder only behind a durable stub, and a stub is written only of a copy that was
//! read back as a whole, each block with its checksum, and is byte for byte what the segment is. Nothing in the archive is
//! ever written over. Whatever fails, the log reads as before.

mod stub;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::stub::ArchivedSegment;
pub(super) use self::stub::{base_of_stub, read_stub};
use self::stub::{stub_name, write_stub};
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, LogError, LogOptions, SECTOR_BYTES, SEGMENT_HEADER_BYTES, base_of,
    check_segment_header, io_error, segment_name,
};
use super::index::index_name;
use super::recovery::position_of;
use super::sectors::SectorBuffer;
use crate::io::{Storage, StorageFile};

/// Bytes of an index that are copied at once.
const COPY_BYTES: usize = 256 << 10;

/// Why a segment that lies in the archive cannot be read.
#[derive(Clone, Debug)]
pub enum ArchiveFault {
    /// Nobody said where the archive is.
    MustBeGiven,
    /// The archive cannot be reached, does not have the segment, or its disk fails.
    MustBeReachable(Arc<io::Error>),
    /// What the archive has under the segment's name is another file.
    MustMatch,
}

impl fmt::Display for ArchiveFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArchiveFault::MustBeGiven => "nobody said where that is (--archive)",
            ArchiveFault::MustBeReachable(_) => "the folder of --archive has it not, or cannot be read",
            ArchiveFault::MustMatch => "the folder of --archive has another file of its name",
        })
    }
}

impl std::error::Error for ArchiveFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ArchiveFault::MustBeReachable(source) => Some(&**source),
            ArchiveFault::MustBeGiven | ArchiveFault::MustMatch => None,
        }
    }
}

impl ArchiveFault {
    /// The fault that a storage's error carries.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().cloned()
    }
}

fn unreachable_because(error: io::Error) -> io::Error {
    io::Error::other(ArchiveFault::MustBeReachable(Arc::new(error)))
}

/// A log's folder together with its archive: what is not here is opened there. Names are those of the log's folder, and
/// only it is written.
pub struct WithArchive {
    log: Arc<dyn Storage>,
    archive: Option<Arc<dyn Storage>>,
    options: LogOptions,
}

impl WithArchive {
    /// The folder of a log with its archive, if there is one.
    pub fn new(log: Arc<dyn Storage>, archive: Option<Arc<dyn Storage>>, options: LogOptions) -> Self {
        Self { log, archive, options }
    }

    fn open_from(
        &self,
        name: &str,
        open: impl Fn(&dyn Storage) -> io::Result<Box<dyn StorageFile>>,
    ) -> io::Result<Box<dyn StorageFile>> {
        let not_here = match open(&*self.log) {
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            opened => return opened,
        };
        let base = base_of(name).or_else(|| base_of_index(name));
        let Some(base) = base else { return Err(not_here) };
        match self.log.open(&stub_name(base), false) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(not_here),
            opened => drop(opened?),
        }
        let archive = self.archive.as_ref().ok_or_else(|| io::Error::other(ArchiveFault::MustBeGiven))?;
        let stub = read_stub(&*self.log, &self.options, base).map_err(io::Error::other)?;
        let file = open(&**archive).map_err(unreachable_because)?;
        if name == segment_name(base) && !is_of(&*file, &stub, &self.options).map_err(unreachable_because)? {
            return Err(io::Error::other(ArchiveFault::MustMatch));
        }
        Ok(Box::new(ArchivedFile(file)))
    }
}

impl Storage for WithArchive {
    fn list(&self) -> io::Result<Vec<String>> {
        // A listing that runs while a segment goes may miss the stub that is not there yet, and then the segment that is
        // not there any more; the next one finds the stub.
        let mut names = self.log.list()?;
        names.extend(self.log.list()?);
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.log.create(name)
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        match is_writable {
            true => self.log.open(name, true),
            false => self.open_from(name, |folder| folder.open(name, false)),
        }
    }

    fn open_bulk(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.open_from(name, |folder| folder.open_bulk(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.log.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.log.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.log.sync_directory()
    }
}

/// A file of the archive: what fails there is said to.
struct ArchivedFile(Box<dyn StorageFile>);

impl StorageFile for ArchivedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer).map_err(unreachable_because)
    }

    fn read_soon(&self, offset: u64, bytes: u64) {
        self.0.read_soon(offset, bytes);
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size().map_err(unreachable_because)
    }

    fn truncate(&self, _bytes: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn preallocate(&self, _bytes: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Whether a file ends with the last block of a segment, where that ends.
fn is_of(file: &dyn StorageFile, stub: &ArchivedSegment, options: &LogOptions) -> io::Result<bool> {
    if file.size()? != stub.bytes() {
        return Ok(false);
    }
    let (offset, crc) = stub.last_block;
    let mut header = [0; BLOCK_HEADER_BYTES];
    file.read_at(position_of(stub.base, offset), &mut header)?;
    Ok(BlockHeader::decode(&header, options, offset).is_ok_and(|block| block.body_crc() == crc))
}

/// Segments of a log that lie in its archive, in log order: that have a stub, and were not brought back.
///
/// # Errors
/// [`LogError`], also for a stub that does not validate.
pub fn archived_segments(log: &dyn Storage, options: &LogOptions) -> Result<Vec<ArchivedSegment>, LogError> {
    let names = log.list().map_err(io_error("list", "the log's directory"))?;
    let mut bases: Vec<u64> = names.iter().filter_map(|name| base_of_stub(name)).collect();
    bases.retain(|base| !names.contains(&segment_name(*base)));
    bases.sort_unstable();
    bases.into_iter().map(|base| read_stub(log, options, base)).collect()
}

/// An ended segment in its log's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSegment {
    /// Its offsets.
    pub offsets: Range<u64>,
    /// Everything in it was stamped by then, in nanoseconds.
    pub recorded_until: i64,
    /// Whether it has an index, which then goes with it.
    pub has_index: bool,
}

/// The first ended segment that lies in a log's folder.
///
/// # Errors
/// [`LogError`]: the folder or the header of a segment cannot be read.
pub fn oldest_segment(log: &dyn Storage, options: &LogOptions) -> Result<Option<EndedSegment>, LogError> {
    let names = log.list().map_err(io_error("list", "the log's directory"))?;
    let Some(base) = names.iter().filter_map(|name| base_of(name)).min() else { return Ok(None) };
    // The next one may lie in the archive, where an older one was brought back.
    let all = names.iter().filter_map(|name| base_of(name).or_else(|| base_of_stub(name)));
    let Some(next) = all.filter(|next| *next > base).min() else { return Ok(None) };
    let name = segment_name(next);
    let recorded_until = if names.contains(&name) {
        let file = log.open(&name, false).map_err(io_error("open", &name))?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_at(0, &mut header).map_err(io_error("read", &name))?;
        check_segment_header(&header, options, next).map_err(|(position, what)| LogError::Damaged {
            file: name,
            position,
            what,
        })?
    } else {
        read_stub(log, options, next)?.recorded_at.0
    };
    let has_index = names.contains(&index_name(base));
    Ok(Some(EndedSegment { offsets: base..next, recorded_until, has_index }))
}

/// Names of segments that have a stub alone, and that the archive does not have; `list` gives the names of what it has, and is
/// asked only if there are such segments.
///
/// # Errors
/// If a folder cannot be listed.
pub fn missing_segments(
    log: &dyn Storage,
    list: &dyn Fn() -> io::Result<Vec<String>>,
) -> io::Result<Vec<String>> {
    let here = log.list()?;
    let mut missing: Vec<String> =
        here.iter().filter_map(|name| base_of_stub(name)).map(segment_name).collect();
    missing.retain(|name| !here.contains(name));
    if !missing.is_empty() {
        let there: BTreeSet<String> = list()?.into_iter().collect();
        missing.retain(|name| !there.contains(name));
    }
    missing.sort_unstable();
    Ok(missing)
}

/// Reads an archived segment as a whole and compares it with its stub.
///
/// # Errors
/// [`LogError`]: what is wrong with it.
pub fn check_archived(
    log: &WithArchive,
    options: &LogOptions,
    stub: &ArchivedSegment,
) -> Result<(), LogError> {
    let name = stub.file();
    let file = log.open_bulk(&name).map_err(io_error("open", &name))?;
    let found = read_segment(&*file, options, stub.base, &mut |_, _| Ok(true))?;
    match found.as_ref() == Some(stub) {
        true => Ok(()),
        false => Err(LogError::Archived { file: name, fault: ArchiveFault::MustMatch }),
    }
}

/// Why a segment does not go to the archive. It stays where it is.
#[derive(Clone, Debug)]
pub enum ArchivingError {
    /// The segment itself, or its folder.
    Log(LogError),
    /// The archive.
    Archive(LogError),
    /// The archive has another file of the segment's name.
    NameMustBeFree {
        /// The file.
        file: String,
    },
}

impl fmt::Display for ArchivingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchivingError::Log(_) => f.write_str("in the log's folder"),
            ArchivingError::Archive(_) => f.write_str("in the archive"),
            ArchivingError::NameMustBeFree { file } => write!(
                f,
                "the archive has another file {file}: it is another log's archive, or the file is damaged"
            ),
        }
    }
}

impl std::error::Error for ArchivingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ArchivingError::Log(error) | ArchivingError::Archive(error) => Some(error),
            ArchivingError::NameMustBeFree { .. } => None,
        }
    }
}

/// Moves the ended segment with these offsets to an archive, with its index if it has one; `None` once that is no longer
/// wanted. Done again behind any failure, it goes on.
///
/// # Errors
/// [`ArchivingError`]; the log reads as before.
pub fn archive_segment(
    log: &dyn Storage,
    archive: &dyn Storage,
    options: &LogOptions,
    offsets: Range<u64>,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Option<ArchivedSegment>, ArchivingError> {
    let name = segment_name(offsets.start);
    let there = archive.list().map_err(in_archive("list", "the archive"))?;
    let new = format!("{name}.new");
    if there.contains(&new) {
        archive.remove(&new).map_err(in_archive("remove", &new))?;
    }
    let segment = log.open_bulk(&name).map_err(in_log("open", &name))?;
    let read = |on_piece: OnPiece<'_>| read_segment(&*segment, options, offsets.start, on_piece);
    let found = if there.contains(&name) {
        // Whoever made it may not have synced it.
        let copy = archive.open(&name, true).map_err(in_archive("open", &name))?;
        copy.sync_data().map_err(in_archive("sync", &name))?;
        read(&mut |_, _| Ok(is_wanted())).map_err(ArchivingError::Log)?
    } else {
        let file = archive.create(&new).map_err(in_archive("make", &new))?;
        let mut failed = None;
        let found = read(&mut |position, bytes| {
            failed = file.write_at(position, bytes).err();
            Ok(failed.is_none() && is_wanted())
        });
        let found = found.map_err(ArchivingError::Log)?;
        if let Some(error) = failed {
            return Err(in_archive("write", &new)(error));
        }
        if found.is_some() {
            file.sync_data().map_err(in_archive("sync", &new))?;
            archive.rename(&new, &name).map_err(in_archive("name", &name))?;
        }
        found
    };
    let Some(found) = found else { return Ok(None) };
    if found.end_offset != offsets.end {
        let what = "the segment does not end where the next one starts";
        let position = SEGMENT_HEADER_BYTES as u64;
        return Err(ArchivingError::Log(LogError::Damaged { file: name, position, what }));
    }
    copy_index(log, archive, offsets.start, &there)?;
    archive.sync_directory().map_err(in_archive("sync", "the archive"))?;

    let copy = archive.open_bulk(&name).map_err(in_archive("open", &name))?;
    match read_segment(&*copy, options, offsets.start, &mut |_, _| Ok(is_wanted())) {
        Ok(Some(copy)) if copy == found => {}
        Ok(None) => return Ok(None),
        Ok(Some(_)) | Err(LogError::Damaged { .. }) => {
            return Err(ArchivingError::NameMustBeFree { file: name });
        }
        Err(error) => return Err(ArchivingError::Archive(error)),
    }
    // From here the archive has the segment.
    leave(log, options, &found).map_err(ArchivingError::Log)?;
    Ok(Some(found))
}

/// Leaves the stub of a segment that the archive has, and removes the segment.
fn leave(log: &dyn Storage, options: &LogOptions, segment: &ArchivedSegment) -> Result<(), LogError> {
    write_stub(log, options, segment)?;
    let names = log.list().map_err(io_error("list", "the log's directory"))?;
    // The segment first: an index beside its stub is only room that is not free yet.
    let left = names.iter().filter_map(|name| base_of_index(name)).filter(|base| {
        *base == segment.base || names.contains(&stub_name(*base)) && !names.contains(&segment_name(*base))
    });
    let indexes: Vec<String> = left.map(index_name).collect();
    for name in std::iter::once(segment.file()).chain(indexes) {
        log.remove(&name).map_err(io_error("remove", &name))?;
    }
    log.sync_directory().map_err(io_error("sync", "the log's directory"))
}

/// Copies an index, which is believed only if it fits its segment; one that is there already stays.
fn copy_index(
    log: &dyn Storage,
    archive: &dyn Storage,
    base: u64,
    there: &[String],
) -> Result<(), ArchivingError> {
    let name = index_name(base);
    if there.contains(&name) {
        return Ok(());
    }
    let file = match log.open(&name, false) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(in_log("open", &name))?,
    };
    let new = format!("{name}.new");
    if there.contains(&new) {
        archive.remove(&new).map_err(in_archive("remove", &new))?;
    }
    let copy = archive.create(&new).map_err(in_archive("make", &new))?;
    let size = file.size().map_err(in_log("measure", &name))?;
    let mut buffer = vec![0; COPY_BYTES];
    for position in (0..size).step_by(COPY_BYTES) {
        let bytes = usize::try_from(size - position).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
        file.read_at(position, &mut buffer[..bytes]).map_err(in_log("read", &name))?;
        copy.write_at(position, &buffer[..bytes]).map_err(in_archive("write", &new))?;
    }
    copy.sync_data().map_err(in_archive("sync", &new))?;
    archive.rename(&new, &name).map_err(in_archive("name", &name))
}

fn in_log(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> ArchivingError {
    move |source| ArchivingError::Log(io_error(doing, file)(source))
}

fn in_archive(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> ArchivingError {
    move |source| ArchivingError::Archive(io_error(doing, file)(source))
}

/// Gets the pieces of a segment with their positions; whether to go on.
type OnPiece<'p> = &'p mut dyn FnMut(u64, &[u8]) -> io::Result<bool>;

/// Reads an ended segment from front to back and checks every byte; `None` once `on_piece` wants no more.
fn read_segment(
    file: &dyn StorageFile,
    options: &LogOptions,
    base: u64,
    on_piece: OnPiece<'_>,
) -> Result<Option<ArchivedSegment>, LogError> {
    let name = segment_name(base);
    let damaged = |position, what| LogError::Damaged { file: name.clone(), position, what };
    let size = file.size().map_err(io_error("measure", &name))?;
    let mut buffer = SectorBuffer::with_len(SEGMENT_HEADER_BYTES);
    let (mut digest, mut last_block, mut recorded_at) = (Sha256::new(), None, None::<(i64, i64)>);
    let mut position = 0;
    while position < size {
        let left = size - position;
        if left < SECTOR_BYTES as u64 {
            return Err(damaged(position, "a block is cut off"));
        }
        file.read_at(position, &mut buffer.bytes_mut()[..SECTOR_BYTES]).map_err(io_error("read", &name))?;
        let mut bytes = SECTOR_BYTES;
        if position == 0 {
            check_segment_header(&buffer.bytes()[..SEGMENT_HEADER_BYTES], options, base)
                .map_err(|(position, what)| damaged(position, what))?;
        } else {
            let offset = base + position - SEGMENT_HEADER_BYTES as u64;
            let header = BlockHeader::decode(&buffer.bytes()[..BLOCK_HEADER_BYTES], options, offset)
                .map_err(|what| damaged(position, what))?;
            bytes = header.block_bytes();
            if bytes as u64 > left {
                return Err(damaged(position, "a block is cut off"));
            }
            buffer.reserve(bytes, SECTOR_BYTES);
            let rest = &mut buffer.bytes_mut()[SECTOR_BYTES..bytes];
            file.read_at(position + SECTOR_BYTES as u64, rest).map_err(io_error("read", &name))?;
            header.check_body(&buffer.bytes()[..bytes]).map_err(|what| damaged(position, what))?;
            let first = recorded_at.map_or(header.recorded_at, |(first, _)| first);
            recorded_at = Some((first, header.recorded_at));
            last_block = Some((offset, header.body_crc()));
        }
        let piece = &buffer.bytes()[..bytes];
        digest.update(piece);
        if !on_piece(position, piece).map_err(io_error("read", &name))? {
            return Ok(None);
        }
        position += bytes as u64;
    }
    let (Some(last_block), Some(recorded_at)) = (last_block, recorded_at) else {
        return Err(damaged(position, "the segment has no block"));
    };
    let end_offset = base + size - SEGMENT_HEADER_BYTES as u64;
    Ok(Some(ArchivedSegment { base, end_offset, recorded_at, sha256: digest.finalize().into(), last_block }))
}

fn base_of_index(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".idx")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

const _: () =
    assert!(SEGMENT_HEADER_BYTES == SECTOR_BYTES, "a segment is read in sectors from its first byte on");
