//! Appends to a log: records are staged into a block, a commit writes and syncs it.
//!
//! Owns: the present block and segment. Leaves to others: when to commit (`server::usage_log`, `machine::ControlWriter`).
//!
//! States: *open* (stage and commit) → *poisoned* after the first failed write or sync; every later call fails and
//! names the first failure. A sync is never tried again: the kernel may have dropped the pages.
//!
//! Invariants: offsets and stamps never go back, and a block is not stamped before anything in it arrived; what `commit`
//! returned for is durable.

use std::sync::Arc;

use super::format::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, CLEAN_FILE, CleanMarker, LogError, LogOptions, OFFSET_END,
    RECORD_BYTES_MAX, RECORD_HEADER_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES, encode_record_header,
    encode_segment_header, io_error, seal_block, segment_name,
};
use super::reader::Tail;
use super::recovery::position_of;
use super::room::{ROOM_FILE, SegmentRoom};
use super::sectors::SectorBuffer;
use crate::io::{Storage, StorageFile};

/// What a commit made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Offset behind the last record.
    pub end_offset: u64,
    /// The block's stamp.
    pub recorded_at: i64,
    /// Bytes written.
    pub bytes: u64,
    /// First offset of the segment that was ended for it.
    pub ended_segment: Option<u64>,
}

/// Appends to a log.
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    segment: Option<Segment>,
    /// Made ahead for the next segment.
    room: Option<SegmentRoom>,
    block: SectorBuffer,
    staged: usize,
    records: u32,
    /// When the last of what is staged arrived.
    received_until: i64,
    end_offset: u64,
    last_recorded_at: i64,
    last_block: (u64, u32),
    poison: Option<Arc<LogError>>,
}

struct Segment {
    file: Box<dyn StorageFile>,
    name: String,
    base: u64,
}

impl LogWriter {
    pub(super) fn open_at(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        newest: Option<u64>,
        tail: &Tail,
    ) -> Result<Self, LogError> {
        let mut segment = None;
        if let Some(base) = newest {
            let name = segment_name(base);
            let file = storage.open(&name, true).map_err(io_error("open", &name))?;
            let position = position_of(base, tail.end_offset);
            if tail.torn_bytes > 0 {
                file.truncate(position).map_err(io_error("cut off", &name))?;
            }
            file.preallocate(options.segment_bytes.max(position)).map_err(io_error("make room in", &name))?;
            write_again(&*file, &name, base, tail)?;
            file.sync_data().map_err(io_error("sync", &name))?;
            segment = Some(Segment { file, name, base });
        }
        Ok(Self {
            storage,
            options,
            segment,
            room: None,
            block: SectorBuffer::with_len(SECTOR_BYTES),
            staged: BLOCK_HEADER_BYTES,
            records: 0,
            received_until: i64::MIN,
            end_offset: tail.end_offset,
            last_recorded_at: tail.last_recorded_at,
            last_block: (tail.last_block_offset, tail.last_block_crc),
            poison: None,
        })
    }

    /// Offset behind the last committed record: where the next block goes.
    pub fn next_offset(&self) -> u64 {
        self.end_offset
    }

    /// Bytes that the next commit writes so far.
    pub fn staged_bytes(&self) -> usize {
        if self.records == 0 { 0 } else { self.staged }
    }

    /// Adds a record, given in parts, to the next commit; gives its offset.
    ///
    /// # Errors
    /// [`LogError::RecordMustFit`], or [`LogError::WriterPoisoned`].
    pub fn stage(&mut self, kind: u16, received_at: i64, parts: &[&[u8]]) -> Result<u64, LogError> {
        self.check_poison()?;
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let end = self.staged + RECORD_HEADER_BYTES + payload.next_multiple_of(16);
        let fits = payload <= RECORD_BYTES_MAX
            && end <= BLOCK_BYTES_MAX
            && self.end_offset + (BLOCK_BYTES_MAX as u64) < OFFSET_END;
        if !fits {
            return Err(LogError::RecordMustFit);
        }
        self.block.reserve(end, self.staged);
        let offset = self.end_offset + self.staged as u64;
        let buffer = self.block.bytes_mut();
        let mut at = self.staged;
        let header = encode_record_header(payload, kind, received_at);
        for part in std::iter::once(&header[..]).chain(parts.iter().copied()) {
            buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        buffer[at..end].fill(0);
        self.staged = end;
        self.records += 1;
        self.received_until = self.received_until.max(received_at);
        Ok(offset)
    }

    /// Makes everything staged durable, stamped with an instant, or later if the log or what is staged is later. Does nothing
    /// if nothing is staged.
    ///
    /// # Errors
    /// The failed write or sync; the writer is poisoned then.
    pub fn commit(&mut self, recorded_at: i64) -> Result<Committed, LogError> {
        self.check_poison()?;
        let recorded_at = recorded_at.max(self.last_recorded_at).max(self.received_until);
        if self.records == 0 {
            return Ok(Committed { end_offset: self.end_offset, recorded_at, bytes: 0, ended_segment: None });
        }
        let block_bytes = self.staged.next_multiple_of(SECTOR_BYTES);
        let staged = self.staged;
        self.block.bytes_mut()[staged..block_bytes].fill(0);
        let crc = seal_block(
            &mut self.block.bytes_mut()[..block_bytes],
            &self.options,
            self.end_offset,
            staged - BLOCK_HEADER_BYTES,
            self.records,
            recorded_at,
        );
        let base_before = self.segment.as_ref().map(|segment| segment.base);
        if let Err(error) = self.write(block_bytes, recorded_at) {
            self.poison = Some(Arc::new(error.clone()));
            return Err(error);
        }
        let ended_segment = base_before.filter(|_| base_before != self.segment.as_ref().map(|s| s.base));
        self.last_block = (self.end_offset, crc);
        self.end_offset += block_bytes as u64;
        self.last_recorded_at = recorded_at;
        self.staged = BLOCK_HEADER_BYTES;
        self.records = 0;
        self.received_until = i64::MIN;
        let (end_offset, bytes) = (self.end_offset, block_bytes as u64);
        Ok(Committed { end_offset, recorded_at, bytes, ended_segment })
    }

    fn write(&mut self, block_bytes: usize, recorded_at: i64) -> Result<(), LogError> {
        let room = self.segment.as_ref().map_or(0, |segment| {
            self.options.segment_bytes.saturating_sub(position_of(segment.base, self.end_offset))
        });
        let is_full = self.segment.as_ref().is_none_or(|segment| {
            room < block_bytes as u64
                && position_of(segment.base, self.end_offset) > SEGMENT_HEADER_BYTES as u64
        });
        if is_full {
            self.roll(block_bytes, recorded_at)?;
        }
        let segment = self.segment.as_ref().expect("a segment was just made");
        let position = position_of(segment.base, self.end_offset);
        segment
            .file
            .write_at(position, &self.block.bytes()[..block_bytes])
            .map_err(io_error("write", &segment.name))?;
        segment.file.sync_data().map_err(io_error("sync", &segment.name))
    }

    /// Whether the present segment is half full, and nothing is made ahead for the next one.
    pub fn needs_room(&self) -> bool {
        let is_half_full = self.segment.as_ref().is_some_and(|segment| {
            position_of(segment.base, self.end_offset) >= self.options.segment_bytes / 2
        });
        is_half_full && self.room.is_none()
    }

    /// Takes room that was made ahead of this log, for its next segment.
    ///
    /// # Panics
    /// If the writer still has some.
    pub fn take_room(&mut self, room: SegmentRoom) {
        assert!(self.room.is_none(), "a log has room for one segment at a time");
        self.room = Some(room);
    }

    /// Ends the present segment and makes the next one.
    fn roll(&mut self, block_bytes: usize, recorded_at: i64) -> Result<(), LogError> {
        self.end_segment()?;
        let (base, name) = (self.end_offset, segment_name(self.end_offset));
        let room = self.room.take();
        let is_made_ahead = room.is_some();
        let file = match room {
            Some(room) => room.file,
            None => self.storage.create(&name).map_err(io_error("make", &name))?,
        };
        let bytes = self.options.segment_bytes.max((SEGMENT_HEADER_BYTES + block_bytes) as u64);
        file.preallocate(bytes).map_err(io_error("make room in", &name))?;
        let header = encode_segment_header(&self.options, base, recorded_at);
        file.write_at(0, &header).map_err(io_error("write", &name))?;
        file.sync_data().map_err(io_error("sync", &name))?;
        if is_made_ahead {
            self.storage.rename(ROOM_FILE, &name).map_err(io_error("name", &name))?;
        }
        self.storage.sync_directory().map_err(io_error("sync", "the log's directory"))?;
        self.segment = Some(Segment { file, name, base });
        Ok(())
    }

    /// Cuts the preallocated room off, so that an ended segment has no byte that is not checked.
    fn end_segment(&self) -> Result<(), LogError> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let position = position_of(segment.base, self.end_offset);
        segment.file.truncate(position).map_err(io_error("cut off", &segment.name))?;
        segment.file.sync_data().map_err(io_error("sync", &segment.name))
    }

    /// Ends the log so that the next start knows that nothing may be torn. Staged records are dropped.
    ///
    /// # Errors
    /// The failed write or sync, or [`LogError::WriterPoisoned`].
    pub fn close_cleanly(self) -> Result<(), LogError> {
        self.check_poison()?;
        self.end_segment()?;
        if self.room.is_some() {
            self.storage.remove(ROOM_FILE).map_err(io_error("remove", ROOM_FILE))?;
        }
        let marker = CleanMarker {
            end_offset: self.end_offset,
            last_block_offset: self.last_block.0,
            last_block_crc: self.last_block.1,
        };
        let file = self.storage.create(CLEAN_FILE).map_err(io_error("make", CLEAN_FILE))?;
        file.write_at(0, &marker.encode(&self.options)).map_err(io_error("write", CLEAN_FILE))?;
        file.sync_data().map_err(io_error("sync", CLEAN_FILE))?;
        self.storage.sync_directory().map_err(io_error("sync", "the log's directory"))
    }

    fn check_poison(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(first) => Err(LogError::WriterPoisoned { first: first.clone() }),
            None => Ok(()),
        }
    }
}

/// Writes the header and the last block of the newest segment once more, as they were read.
///
/// A process whose sync failed may have left them: the kernel then takes them for written, so that they read well from
/// its cache and no later sync makes them durable. What came before was synced before it was written behind.
fn write_again(file: &dyn StorageFile, name: &str, base: u64, tail: &Tail) -> Result<(), LogError> {
    let block = tail.last_block_offset.max(base)..tail.end_offset;
    for position in
        [0..SEGMENT_HEADER_BYTES as u64, position_of(base, block.start)..position_of(base, block.end)]
    {
        // A block has at most `BLOCK_BYTES_MAX`.
        let mut bytes = SectorBuffer::with_len((position.end - position.start) as usize);
        file.read_at(position.start, bytes.bytes_mut()).map_err(io_error("read", name))?;
        file.write_at(position.start, bytes.bytes()).map_err(io_error("write", name))?;
    }
    Ok(())
}
