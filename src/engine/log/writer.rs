//! Appends to a log: records are staged into a block, a commit writes and syncs it.
//!
//! Owns: the present block and segment. Leaves to others: when to commit (`server::usage_log`, `machine::ControlWriter`).
//!
//! States: *open* (stage and commit) → *poisoned* after the first failed write or sync; every later call fails and
//! names the first failure. A sync is never tried again: the kernel may have dropped the pages.
//!
//! Invariants: offsets and stamps never go back; what `commit` returned for is durable.

use std::sync::Arc;

use wire::AlignedBytes;

use super::format::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, CLEAN_FILE, CleanMarker, LogError, LogOptions, OFFSET_END,
    RECORD_BYTES_MAX, RECORD_HEADER_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES, encode_record_header,
    encode_segment_header, io_error, seal_block, segment_name,
};
use super::reader::Tail;
use super::recovery::position_of;
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
}

/// Appends to a log.
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    segment: Option<Segment>,
    block: AlignedBytes,
    staged: usize,
    records: u32,
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
            file.truncate(position).map_err(io_error("cut off", &name))?;
            file.preallocate(options.segment_bytes.max(position)).map_err(io_error("make room in", &name))?;
            file.sync_data().map_err(io_error("sync", &name))?;
            segment = Some(Segment { file, name, base });
        }
        Ok(Self {
            storage,
            options,
            segment,
            block: AlignedBytes::with_len(SECTOR_BYTES),
            staged: BLOCK_HEADER_BYTES,
            records: 0,
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
        self.reserve(end);
        let offset = self.end_offset + self.staged as u64;
        let buffer = self.block.as_mut_slice();
        let mut at = self.staged;
        let header = encode_record_header(payload, kind, received_at);
        for part in std::iter::once(&header[..]).chain(parts.iter().copied()) {
            buffer[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        buffer[at..end].fill(0);
        self.staged = end;
        self.records += 1;
        Ok(offset)
    }

    fn reserve(&mut self, bytes: usize) {
        let needed = bytes.next_multiple_of(SECTOR_BYTES);
        if self.block.len() < needed {
            let mut larger = AlignedBytes::with_len(needed.next_power_of_two());
            larger.as_mut_slice()[..self.staged].copy_from_slice(&self.block[..self.staged]);
            self.block = larger;
        }
    }

    /// Makes everything staged durable. Does nothing if nothing is staged.
    ///
    /// # Errors
    /// The failed write or sync; the writer is poisoned then.
    pub fn commit(&mut self, recorded_at: i64) -> Result<Committed, LogError> {
        self.check_poison()?;
        let recorded_at = recorded_at.max(self.last_recorded_at);
        if self.records == 0 {
            return Ok(Committed { end_offset: self.end_offset, recorded_at, bytes: 0 });
        }
        let block_bytes = self.staged.next_multiple_of(SECTOR_BYTES);
        let staged = self.staged;
        self.block.as_mut_slice()[staged..block_bytes].fill(0);
        let crc = seal_block(
            &mut self.block.as_mut_slice()[..block_bytes],
            &self.options,
            self.end_offset,
            staged - BLOCK_HEADER_BYTES,
            self.records,
            recorded_at,
        );
        if let Err(error) = self.write(block_bytes, recorded_at) {
            self.poison = Some(Arc::new(error.clone()));
            return Err(error);
        }
        self.last_block = (self.end_offset, crc);
        self.end_offset += block_bytes as u64;
        self.last_recorded_at = recorded_at;
        self.staged = BLOCK_HEADER_BYTES;
        self.records = 0;
        Ok(Committed { end_offset: self.end_offset, recorded_at, bytes: block_bytes as u64 })
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
            .write_at(position, &self.block[..block_bytes])
            .map_err(io_error("write", &segment.name))?;
        segment.file.sync_data().map_err(io_error("sync", &segment.name))
    }

    /// Ends the present segment and makes the next one.
    fn roll(&mut self, block_bytes: usize, recorded_at: i64) -> Result<(), LogError> {
        self.end_segment()?;
        let (base, name) = (self.end_offset, segment_name(self.end_offset));
        let file = self.storage.create(&name).map_err(io_error("make", &name))?;
        let bytes = self.options.segment_bytes.max((SEGMENT_HEADER_BYTES + block_bytes) as u64);
        file.preallocate(bytes).map_err(io_error("make room in", &name))?;
        let header = encode_segment_header(&self.options, base, recorded_at);
        file.write_at(0, &header).map_err(io_error("write", &name))?;
        file.sync_data().map_err(io_error("sync", &name))?;
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
