//! Writes a run, entry after entry in the order of keys.
//!
//! Owns: the order in which a file comes to be. Leaves to others: where entries come from (`super::work`).
//!
//! The file has another name until all of it is durable: entries, index, filter, header, sync, name, sync of the
//! directory. So a name says that the run was finished; what a crash leaves has the other name and is taken away.
//!
//! Invariants: entries come sorted by key, then position, within the bounds that were said before.

use std::io;

use super::filter::Filter;
use super::format::{
    Bounds, HEADER_BYTES, Layout, RunEntry, RunHeader, RunLog, SLICES, Slice, run_name, unfinished_name,
};
use super::run::{BucketEnd, Run};
use crate::io::{Storage, StorageFile};
use crate::log::{SECTOR_BYTES, SectorBuffer, crc_of};

/// Bytes that are written together.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes that are written between two syncs, so that the last one is short.
const SYNC_BYTES: u64 = 64 << 20;

const _: () = assert!(WRITE_BYTES.is_multiple_of(SECTOR_BYTES) && HEADER_BYTES.is_multiple_of(SECTOR_BYTES));

/// A run in the making.
pub(crate) struct RunWriter {
    file: Box<dyn StorageFile>,
    header: RunHeader,
    layout: Layout,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Where the buffer goes: a whole sector.
    at: u64,
    /// What is being written, where writes past the page cache want it.
    sectors: SectorBuffer,
    synced_at: u64,
    /// Where the entries of the present bucket start in the buffer.
    bucket_start: usize,
    index: Vec<BucketEnd>,
    filter: Filter,
    last: u128,
}

impl RunWriter {
    /// Starts a run with a number that was never used. `keys` is at least the number of entries; without it there is no filter.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn create(
        storage: &dyn Storage,
        log: RunLog,
        (shard, number): (u32, u64),
        bounds: Bounds,
        keys: Option<u64>,
    ) -> io::Result<Self> {
        let file = storage.create(&unfinished_name(number))?;
        let filter = keys.map_or_else(Filter::none, Filter::for_keys);
        let header = RunHeader {
            log,
            shard,
            number,
            entries: 0,
            bounds,
            filter_lines: u32::try_from(filter.lines()).expect("an index counts to fewer"),
            index_crc: 0,
            filter_crc: 0,
            slices: [Slice::EMPTY; SLICES],
        };
        Ok(Self {
            file,
            header,
            layout: bounds.layout(),
            buffer: Vec::new(),
            at: HEADER_BYTES as u64,
            sectors: SectorBuffer::with_len(WRITE_BYTES),
            synced_at: 0,
            bucket_start: 0,
            index: Vec::with_capacity(bounds.buckets() as usize),
            filter,
            last: 0,
        })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// If the disk fails.
    #[inline]
    pub(crate) fn push(&mut self, entry: &RunEntry) -> io::Result<()> {
        assert!(self.last <= entry.key, "entries come in order");
        self.last = entry.key;
        let bounds = self.header.bounds;
        let bucket = bounds.bucket_of(entry.key);
        while (self.index.len() as u64) < bucket {
            self.end_bucket()?;
        }
        self.layout.encode(&bounds, entry, &mut self.buffer);
        self.header.entries += 1;
        if self.filter.lines() > 0 {
            self.filter.put(entry.key);
        }
        self.header.slices[bounds.slice_of(entry.seen.position)].count(&entry.seen);
        Ok(())
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    /// Entries so far.
    pub(crate) fn len(&self) -> u64 {
        self.header.entries
    }

    fn end_bucket(&mut self) -> io::Result<()> {
        let end = u32::try_from(self.header.entries).expect("a run has at most what an index counts to");
        let crc = crc_of(&[&self.buffer[self.bucket_start..]]);
        self.index.push(BucketEnd { end, crc });
        self.write_sectors()?;
        self.bucket_start = self.buffer.len();
        Ok(())
    }

    /// Writes whole sectors once there are enough.
    fn write_sectors(&mut self) -> io::Result<()> {
        while self.buffer.len() >= WRITE_BYTES {
            let sectors = &mut self.sectors.bytes_mut()[..WRITE_BYTES];
            sectors.copy_from_slice(&self.buffer[..WRITE_BYTES]);
            self.file.write_at(self.at, sectors)?;
            self.buffer.drain(..WRITE_BYTES);
            self.at += WRITE_BYTES as u64;
        }
        if self.at - self.synced_at >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced_at = self.at;
        }
        Ok(())
    }

    /// Where the next byte goes.
    fn end(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    /// Makes the run durable and gives it its name.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn finish(mut self, storage: &dyn Storage) -> io::Result<Run> {
        while (self.index.len() as u64) < self.header.bounds.buckets() {
            self.end_bucket()?;
        }
        assert_eq!(self.end(), self.header.index_at(), "the entries lie before the index");
        let index: Vec<u8> = self.index.iter().flat_map(|bucket| bucket.encode()).collect();
        self.header.index_crc = crc_of(&[&index]);
        self.buffer.extend_from_slice(&index);
        self.write_sectors()?;
        let filter = std::mem::replace(&mut self.filter, Filter::none());
        self.header.filter_crc = filter.save(|part| {
            self.buffer.extend_from_slice(part);
            self.write_sectors()
        })?;
        assert_eq!(self.end(), self.header.file_bytes(), "the filter lies at the end");
        self.file.write_at(self.at, &self.buffer)?;
        self.file.write_at(0, &self.header.encode())?;
        self.file.sync_data()?;
        let number = self.header.number;
        storage.rename(&unfinished_name(number), &run_name(number))?;
        storage.sync_directory()?;
        Ok(Run::new(self.file, self.header, self.index, filter))
    }

    /// Takes the unfinished file away.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn abandon(self, storage: &dyn Storage) -> io::Result<()> {
        storage.remove(&unfinished_name(self.header.number))
    }
}
