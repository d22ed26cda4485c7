//! Makes the index of an ended segment of the usage log.
//!
//! Owns: reading the segment, and publishing its index. Leaves to others: when (`server::segments`), the layout
//! (`format`).
//!
//! Memory: the identities of one stretch (256 KiB, or one larger block), and 64 bytes a stretch.
//!
//! Invariants: an index has its name only once it is whole and durable; an earlier one of that name goes before.

use std::cell::Cell;
use std::io;
use std::ops::Range;

use wire::frame::{FRAME_HEADER_BYTES, FrameHeader};
use wire::usage::UsageBatch;
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, decode_barrier};

use super::super::format::{LogError, LogOptions, crc_of, io_error};
use super::super::reader::{LogReader, Record};
use super::filter::filter_of;
use super::format::{BarrierEntry, HEADER_BYTES, Header, StretchEntry, encode_table};
use super::{IndexError, index_name, key_check, key_of_identity};
use crate::identity::IdentityKey;
use crate::io::{Storage, StorageFile};
use crate::prepared::identities_of;

/// Bytes of blocks that a stretch has at least, but for the last of a segment.
const STRETCH_BYTES_MIN: u64 = 256 << 10;
const NOTHING_YET: (i64, i64) = (i64::MAX, i64::MIN);

/// Indexes the segment from `base` up to `end_offset`, where the next one starts.
///
/// # Errors
/// [`IndexError`]; the log is as before.
pub fn build_index(
    storage: &dyn Storage,
    options: &LogOptions,
    key: IdentityKey,
    base: u64,
    end_offset: u64,
) -> Result<(), IndexError> {
    let name = index_name(base);
    let new = format!("{name}.new");
    let names = storage.list().map_err(io_error("list", "the log's directory"))?;
    for left in [&new, &name].into_iter().filter(|left| names.contains(left)) {
        storage.remove(left).map_err(io_error("remove", left))?;
    }
    let file = storage.create(&new).map_err(io_error("make", &new))?;
    write_index(storage, options, key, base..end_offset, &*file)?;
    file.sync_data().map_err(io_error("sync", &new))?;
    storage.rename(&new, &name).map_err(io_error("name", &name))?;
    storage.sync_directory().map_err(io_error("sync", "the log's directory"))?;
    Ok(())
}

/// Whether a segment's index is what its blocks say, byte for byte; `None` if it has none. Only reads.
///
/// # Errors
/// [`IndexError`], also for a segment that is damaged.
pub fn check_index(
    storage: &dyn Storage,
    options: &LogOptions,
    key: IdentityKey,
    segment: Range<u64>,
) -> Result<Option<bool>, IndexError> {
    let name = index_name(segment.start);
    let names = storage.list().map_err(io_error("list", "the log's directory"))?;
    if !names.contains(&name) {
        return Ok(None);
    }
    let file = storage.open(&name, false).map_err(io_error("open", &name))?;
    let compared = Compared { file, is_same: Cell::new(true), end: Cell::new(0) };
    write_index(storage, options, key, segment, &compared)?;
    let size = compared.file.size().map_err(io_error("measure", &name))?;
    Ok(Some(compared.is_same.get() && size == compared.end.get()))
}

/// A file that is compared with what would be written into it.
struct Compared {
    file: Box<dyn StorageFile>,
    is_same: Cell<bool>,
    end: Cell<u64>,
}

impl StorageFile for Compared {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.end.set(self.end.get().max(end));
        let mut found = vec![0; bytes.len()];
        let is_there = end <= self.file.size()?;
        if is_there {
            self.file.read_at(offset, &mut found)?;
        }
        self.is_same.set(self.is_same.get() && is_there && found == bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn truncate(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn preallocate(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn write_index(
    storage: &dyn Storage,
    options: &LogOptions,
    key: IdentityKey,
    segment: Range<u64>,
    file: &dyn StorageFile,
) -> Result<(), IndexError> {
    let (base, end_offset) = (segment.start, segment.end);
    let name = index_name(base);
    let mut builder = Builder {
        file,
        name: &name,
        key,
        position: HEADER_BYTES as u64,
        first_offset: base,
        subjects: Vec::new(),
        identities: Vec::new(),
        time: NOTHING_YET,
        stretches: Vec::new(),
        barriers: Vec::new(),
    };
    let mut reader = LogReader::open(storage, *options, base, Some(end_offset))?.in_bulk();
    let mut recorded_at = NOTHING_YET;
    while let Some(record) = reader.next()? {
        recorded_at = (recorded_at.0.min(record.recorded_at), record.recorded_at);
        if record.block_offset >= builder.first_offset + STRETCH_BYTES_MIN {
            builder.end_stretch(record.block_offset)?;
        }
        builder.take(&record)?;
    }
    builder.end_stretch(end_offset)?;
    let tail = reader.tail();
    let header = Header {
        base,
        end_offset,
        last_block: (tail.last_block_offset, tail.last_block_crc),
        stretches: builder.stretches.len() as u32, // a segment is at most 4 GiB
        barriers: builder.barriers.len() as u32,
        table_position: builder.position,
        key_check: key_check(key),
        events: builder.stretches.iter().map(|stretch| stretch.events).sum(),
        recorded_at,
        time: builder.stretches.iter().map(|stretch| stretch.time).fold(NOTHING_YET, hull),
        table_crc: 0,
    };
    let table = encode_table(&builder.stretches, &builder.barriers);
    let header = Header { table_crc: crc_of(&[&table]), ..header };
    file.write_at(header.table_position, &table).map_err(io_error("write", &name))?;
    file.write_at(0, &header.encode(options)).map_err(io_error("write", &name))?;
    Ok(())
}

fn hull(one: (i64, i64), other: (i64, i64)) -> (i64, i64) {
    (one.0.min(other.0), one.1.max(other.1))
}

struct Builder<'f> {
    file: &'f dyn StorageFile,
    name: &'f str,
    key: IdentityKey,
    /// Where the next filter goes.
    position: u64,
    /// Of the present stretch.
    first_offset: u64,
    /// Of all batches, so that a subject may come more than once.
    subjects: Vec<u64>,
    identities: Vec<u64>,
    time: (i64, i64),
    stretches: Vec<StretchEntry>,
    barriers: Vec<BarrierEntry>,
}

impl Builder<'_> {
    fn take(&mut self, record: &Record<'_>) -> Result<(), IndexError> {
        let offset = record.offset;
        let unreadable = || IndexError::RecordMustBeReadable { offset };
        match record.kind {
            KIND_USAGE_BATCH => {
                let (_, frame) = BatchRecordHead::decode(record.payload).ok_or_else(unreadable)?;
                let header = FrameHeader::decode_slice(frame).map_err(|_| unreadable())?;
                let body = &frame[FRAME_HEADER_BYTES..];
                let batch = UsageBatch::check(&header, body).map_err(|_| unreadable())?;
                let subjects = (0..batch.subject_count()).map(|entry| batch.subject(entry));
                self.subjects.extend(subjects.map(|subject| self.key.digest_of_subject(subject)));
                self.identities.extend(identities_of(&batch, self.key).into_iter().map(key_of_identity));
                let times = (0..batch.len()).map(|index| batch.time(index));
                self.time = times.fold(self.time, |time, at| hull(time, (at, at)));
            }
            KIND_BARRIER => {
                let control_offset = decode_barrier(record.payload).ok_or_else(unreadable)?;
                self.barriers.push(BarrierEntry { offset, control_offset });
            }
            _ => return Err(unreadable()),
        }
        Ok(())
    }

    fn end_stretch(&mut self, end_offset: u64) -> Result<(), LogError> {
        self.subjects.sort_unstable();
        self.subjects.dedup();
        let subjects = filter_of(self.subjects.iter().copied());
        self.subjects.clear();
        let identities = filter_of(self.identities.iter().copied());
        let events = self.identities.len() as u64;
        self.identities.clear();
        let filters_position = self.position;
        for filter in [&subjects, &identities] {
            self.file.write_at(self.position, filter).map_err(io_error("write", self.name))?;
            self.position += filter.len() as u64;
        }
        let described = |filter: &[u8]| (filter.len() as u32, crc_of(&[filter]));
        self.stretches.push(StretchEntry {
            first_offset: self.first_offset,
            end_offset,
            events,
            time: std::mem::replace(&mut self.time, NOTHING_YET),
            filters_position,
            subjects: described(&subjects),
            identities: described(&identities),
        });
        self.first_offset = end_offset;
        Ok(())
    }
}
