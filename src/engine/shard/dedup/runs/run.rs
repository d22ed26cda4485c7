//! An open run: finds an identity with at most one read.
//!
//! Owns: when a run is believed. Leaves to others: its bytes (`super::format`), making it (`super::writer`).
//!
//! | found | said |
//! |---|---|
//! | no file | `MustBeThere` |
//! | a header of another format, log, shard or number, or damaged | `MustBeOfThisLog` |
//! | a sound header, and another one than the run had when it was named | `MustBeTheOneNamed` |
//! | a file that is shorter or longer than its header says | `MustBeWhole` |
//! | an index or a filter with another checksum | `MustBeWhole`, when it is opened |
//! | entries with another checksum | `MustBeWhole`, when they are read |
//!
//! Invariants: immutable. Nothing is believed that was not checked; a filter decides only whether to look.

use std::fmt;
use std::io;

use domain::EventPosition;

use super::super::Seen;
use super::filter::Filter;
use super::format::{
    BUCKET_BYTES, Bounds, HEADER_BYTES, Layout, RunEntry, RunHeader, RunLog, RunName, SLICES, Slice, run_name,
};
use crate::io::{Storage, StorageFile};
use crate::log::{SECTOR_BYTES, SectorBuffer, crc_of};

/// Bytes that a reader of a whole run takes together, at least.
const READ_BYTES: usize = 1 << 20;

/// Why a run cannot be used.
#[derive(Debug)]
pub enum RunFault {
    /// The disk failed.
    Io(io::Error),
    /// There is no such file.
    MustBeThere,
    /// It is no run of this format, log, shard and number.
    MustBeOfThisLog,
    /// It is another run of the number than the one that was named.
    MustBeTheOneNamed,
    /// Bytes are damaged or missing.
    MustBeWhole {
        /// Where in the file.
        position: u64,
    },
}

/// A run that cannot be used.
#[derive(Debug)]
pub struct RunError {
    /// Which.
    pub number: u64,
    /// Why.
    pub fault: RunFault,
}

impl RunError {
    pub(crate) fn at(number: u64) -> impl Fn(io::Error) -> Self {
        move |error| Self { number, fault: RunFault::Io(error) }
    }

    /// The same, if the file is at fault and not the disk: it is of no use any more.
    pub fn of_file(&self) -> Option<Self> {
        let fault = match self.fault {
            RunFault::Io(_) => return None,
            RunFault::MustBeThere => RunFault::MustBeThere,
            RunFault::MustBeOfThisLog => RunFault::MustBeOfThisLog,
            RunFault::MustBeTheOneNamed => RunFault::MustBeTheOneNamed,
            RunFault::MustBeWhole { position } => RunFault::MustBeWhole { position },
        };
        Some(Self { number: self.number, fault })
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = run_name(self.number);
        match self.fault {
            RunFault::Io(_) => write!(f, "run {name} of remembered ids cannot be read or written"),
            RunFault::MustBeThere => write!(f, "run {name} of remembered ids is missing"),
            RunFault::MustBeOfThisLog => {
                write!(f, "run {name} of remembered ids is damaged, or of another log")
            }
            RunFault::MustBeTheOneNamed => {
                write!(f, "run {name} of remembered ids is another one than was named")
            }
            RunFault::MustBeWhole { position } => {
                write!(f, "run {name} of remembered ids is damaged or cut off at byte {position}")
            }
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            RunFault::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// What a bucket's line in the index says.
#[derive(Clone, Copy)]
pub(crate) struct BucketEnd {
    /// Entries up to its end.
    pub(crate) end: u32,
    /// Of its entries.
    pub(crate) crc: u32,
}

impl BucketEnd {
    pub(crate) fn encode(self) -> [u8; BUCKET_BYTES] {
        (u64::from(self.end) | u64::from(self.crc) << 32).to_le_bytes()
    }

    fn decode(bytes: [u8; BUCKET_BYTES]) -> Self {
        let both = u64::from_le_bytes(bytes);
        Self { end: both as u32, crc: (both >> 32) as u32 }
    }
}

/// What is kept of a run in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing: finding takes two reads, and only positions tell whether to look.
    Nothing,
    /// The index: for reading all of it.
    Index,
    /// Index and filter.
    All,
}

/// An open run.
pub(crate) struct Run {
    file: Box<dyn StorageFile>,
    header: RunHeader,
    layout: Layout,
    /// Empty if it is not kept.
    index: Vec<BucketEnd>,
    filter: Filter,
}

impl Run {
    /// Opens a run of a shard.
    ///
    /// # Errors
    /// [`RunError`], as the table above says.
    pub(crate) fn open(
        storage: &dyn Storage,
        log: RunLog,
        shard: u32,
        wanted: RunName,
        kept: Kept,
    ) -> Result<Self, RunError> {
        let (file, header) = Self::open_file(storage, log, wanted.number, kept)?;
        let fault = |fault| RunError { number: wanted.number, fault };
        if header.shard != shard {
            return Err(fault(RunFault::MustBeOfThisLog));
        }
        if header.name() != wanted {
            return Err(fault(RunFault::MustBeTheOneNamed));
        }
        let layout = header.bounds.layout();
        let mut run = Self { file, header, layout, index: Vec::new(), filter: Filter::none() };
        if kept != Kept::Nothing {
            run.load_index()?;
        }
        if kept == Kept::All {
            run.load_filter()?;
        }
        Ok(run)
    }

    /// Reads all of a run of any shard; gives its entries.
    ///
    /// # Errors
    /// [`RunError`], as the table above says; `MustBeWhole` as well if its parts contradict each other.
    pub(crate) fn check(storage: &dyn Storage, log: RunLog, number: u64) -> Result<u64, RunError> {
        let (_, header) = Self::open_file(storage, log, number, Kept::Nothing)?;
        let (shard, name) = (header.shard, header.name());
        // A run of the past has no filter.
        let kept = if header.filter_lines > 0 { Kept::All } else { Kept::Nothing };
        let run = Self::open(storage, log, shard, name, kept)?;
        let mut reader = RunReader::new(Self::open(storage, log, shard, name, Kept::Index)?);
        let (mut slices, mut last) = ([Slice::EMPTY; SLICES], None);
        while let Some(RunEntry { key, seen }) = reader.next()? {
            let place = Some((key, seen.position));
            if last >= place || (kept == Kept::All && !run.may_hold(key)) {
                return Err(run.damaged_at(HEADER_BYTES as u64));
            }
            last = place;
            slices[header.bounds.slice_of(seen.position)].count(&seen);
        }
        if slices == header.slices { Ok(run.len()) } else { Err(run.damaged_at(0)) }
    }

    /// Opens the file of a run that is as long as its header says.
    fn open_file(
        storage: &dyn Storage,
        log: RunLog,
        number: u64,
        kept: Kept,
    ) -> Result<(Box<dyn StorageFile>, RunHeader), RunError> {
        let fault = |fault| RunError { number, fault };
        let in_io = RunError::at(number);
        let name = run_name(number);
        let opened = if kept == Kept::Index { storage.open_bulk(&name) } else { storage.open(&name, false) };
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(fault(RunFault::MustBeThere));
            }
            opened => opened.map_err(&in_io)?,
        };
        let size = file.size().map_err(&in_io)?;
        if size < HEADER_BYTES as u64 {
            return Err(fault(RunFault::MustBeWhole { position: size }));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(0, &mut bytes).map_err(&in_io)?;
        let header = RunHeader::decode(&bytes)
            .filter(|header| (header.log, header.number) == (log, number))
            .ok_or_else(|| fault(RunFault::MustBeOfThisLog))?;
        if size != header.file_bytes() {
            let position = size.min(header.file_bytes());
            return Err(fault(RunFault::MustBeWhole { position }));
        }
        Ok((file, header))
    }

    /// A run as it was just written.
    pub(crate) fn new(
        file: Box<dyn StorageFile>,
        header: RunHeader,
        index: Vec<BucketEnd>,
        filter: Filter,
    ) -> Self {
        let layout = header.bounds.layout();
        Self { file, header, layout, index, filter }
    }

    fn load_index(&mut self) -> Result<(), RunError> {
        let mut bytes = vec![0; self.header.bounds.buckets() as usize * BUCKET_BYTES];
        let at = self.header.index_at();
        self.file.read_at(at, &mut bytes).map_err(RunError::at(self.header.number))?;
        let (lines, _) = bytes.as_chunks();
        let index: Vec<BucketEnd> = lines.iter().map(|line| BucketEnd::decode(*line)).collect();
        let is_whole = crc_of(&[&bytes]) == self.header.index_crc
            && index.is_sorted_by_key(|bucket| bucket.end)
            && index.last().is_some_and(|last| u64::from(last.end) == self.header.entries);
        self.index = index;
        if is_whole { Ok(()) } else { Err(self.damaged_at(at)) }
    }

    fn load_filter(&mut self) -> Result<(), RunError> {
        let start = self.header.filter_at();
        let (file, mut at) = (&self.file, start);
        let read = |part: &mut [u8]| {
            let read = file.read_at(at, part);
            at += part.len() as u64;
            read
        };
        let loaded = Filter::load(self.header.filter_lines as usize, read);
        let (filter, crc) = loaded.map_err(RunError::at(self.header.number))?;
        self.filter = filter;
        if crc == self.header.filter_crc && self.has_filter() { Ok(()) } else { Err(self.damaged_at(start)) }
    }

    fn damaged_at(&self, position: u64) -> RunError {
        RunError { number: self.header.number, fault: RunFault::MustBeWhole { position } }
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    pub(crate) fn name(&self) -> RunName {
        self.header.name()
    }

    /// Entries of it.
    pub(crate) fn len(&self) -> u64 {
        self.header.entries
    }

    pub(crate) fn header(&self) -> &RunHeader {
        &self.header
    }

    /// No entry lies before or behind these.
    pub(crate) fn positions(&self) -> (EventPosition, EventPosition) {
        self.header.bounds.positions
    }

    pub(crate) fn has_filter(&self) -> bool {
        self.filter.lines() > 0
    }

    /// Loads what a question for a key will read of the filter.
    #[inline]
    pub(crate) fn touch(&self, key: u128) -> u64 {
        self.filter.touch(key)
    }

    /// Whether the run may have a key; only of a run with a filter.
    #[inline]
    pub(crate) fn may_hold(&self, key: u128) -> bool {
        self.filter.may_hold(key)
    }

    /// Says that a key will be looked for soon.
    pub(crate) fn read_soon(&self, key: u128) {
        if let Ok((from, BucketEnd { end, .. })) = self.bucket(self.header.bounds.bucket_of(key)) {
            let bytes = self.layout.entry_bytes() as u64;
            let at = HEADER_BYTES as u64 + u64::from(from) * bytes;
            self.file.read_soon(at, u64::from(end.saturating_sub(from)) * bytes);
        }
    }

    /// The entry with a key that `is_it`.
    ///
    /// # Errors
    /// [`RunError`]: entries cannot be read, or are damaged.
    pub(crate) fn find(
        &self,
        key: u128,
        buffer: &mut Vec<u8>,
        is_it: impl Fn(EventPosition) -> bool,
    ) -> Result<Option<Seen>, RunError> {
        let bucket = self.header.bounds.bucket_of(key);
        let start = self.read_bucket(bucket, buffer)?;
        for entry in buffer.chunks_exact(self.layout.entry_bytes()) {
            if !self.layout.has_key(entry, key) {
                continue;
            }
            let seen = self.layout.seen(&self.header.bounds, entry).ok_or_else(|| self.damaged_at(start))?;
            if is_it(seen.position) {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    /// Reads the entries of a bucket; gives where they lie.
    fn read_bucket(&self, bucket: u64, buffer: &mut Vec<u8>) -> Result<u64, RunError> {
        let (from, BucketEnd { end, crc }) = self.bucket(bucket)?;
        let bytes = self.layout.entry_bytes();
        let at = HEADER_BYTES as u64 + u64::from(from) * bytes as u64;
        // An index that is not kept was not checked as a whole.
        let count = end.checked_sub(from).filter(|_| u64::from(end) <= self.len());
        let count = count.ok_or_else(|| self.damaged_at(self.header.index_at()))?;
        buffer.resize(count as usize * bytes, 0);
        self.file.read_at(at, buffer).map_err(RunError::at(self.header.number))?;
        if crc_of(&[buffer]) == crc { Ok(at) } else { Err(self.damaged_at(at)) }
    }

    /// Entries before a bucket, and its line in the index.
    fn bucket(&self, bucket: u64) -> Result<(u32, BucketEnd), RunError> {
        if let Some(end) = self.index.get(bucket as usize) {
            let before = (bucket as usize).checked_sub(1).map_or(0, |before| self.index[before].end);
            return Ok((before, *end));
        }
        let mut lines = [0; 2 * BUCKET_BYTES];
        let first = usize::from(bucket == 0);
        let at = self.header.index_at() + (bucket + first as u64).saturating_sub(1) * BUCKET_BYTES as u64;
        self.file
            .read_at(at, &mut lines[first * BUCKET_BYTES..])
            .map_err(RunError::at(self.header.number))?;
        let (lines, _) = lines.as_chunks();
        Ok((BucketEnd::decode(lines[0]).end, BucketEnd::decode(lines[1])))
    }
}

/// All entries of a run, in order.
pub(crate) struct RunReader {
    run: Run,
    /// The next bucket to be read.
    bucket: u64,
    /// Whole sectors, as reads past the page cache want them.
    buffer: SectorBuffer,
    /// What is left of the buffer.
    at: usize,
    /// Buckets in the buffer: number, and where its entries end.
    buckets: std::collections::VecDeque<(u64, usize)>,
}

impl RunReader {
    /// All of a run that has its index.
    pub(crate) fn new(run: Run) -> Self {
        assert!(!run.index.is_empty(), "a run that is read whole has its index");
        let buffer = SectorBuffer::with_len(2 * READ_BYTES);
        Self { run, bucket: 0, buffer, at: 0, buckets: std::collections::VecDeque::new() }
    }

    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// [`RunError`]: entries cannot be read, or are damaged.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<RunEntry>, RunError> {
        loop {
            let Some((bucket, end)) = self.buckets.front().copied() else {
                if !self.fill()? {
                    return Ok(None);
                }
                continue;
            };
            if self.at == end {
                self.buckets.pop_front();
                continue;
            }
            let (layout, bounds): (&Layout, &Bounds) = (&self.run.layout, &self.run.header.bounds);
            let entry = &self.buffer.bytes()[self.at..self.at + layout.entry_bytes()];
            self.at += layout.entry_bytes();
            let seen = layout.seen(bounds, entry).ok_or_else(|| self.run.damaged_at(HEADER_BYTES as u64))?;
            return Ok(Some(RunEntry { key: layout.key(bounds, bucket, entry), seen }));
        }
    }

    /// Reads the next buckets; whether there were any.
    fn fill(&mut self) -> Result<bool, RunError> {
        let (run, bytes) = (&self.run, self.run.layout.entry_bytes());
        let first = self.bucket;
        let (from, _) = match first < run.index.len() as u64 {
            true => run.bucket(first)?,
            false => return Ok(false),
        };
        let mut until = first;
        let mut end = from;
        while until < run.index.len() as u64 && ((end - from) as usize * bytes) < READ_BYTES {
            end = run.index[until as usize].end;
            until += 1;
        }
        let at = HEADER_BYTES as u64 + u64::from(from) * bytes as u64;
        // From the sector that they start in to the end of the one that they end in, if the file has all of that.
        let first_sector = at - at % SECTOR_BYTES as u64;
        let start = (at - first_sector) as usize;
        let stop = start + (end - from) as usize * bytes;
        let left = usize::try_from(run.header.file_bytes() - first_sector).unwrap_or(usize::MAX);
        let read = stop.next_multiple_of(SECTOR_BYTES).min(left);
        self.buffer.reserve(read, 0);
        let sectors = &mut self.buffer.bytes_mut()[..read];
        run.file.read_at(first_sector, sectors).map_err(RunError::at(run.header.number))?;
        let mut bucket_start = start;
        for bucket in first..until {
            let BucketEnd { end, crc } = run.index[bucket as usize];
            let stop = start + (end - from) as usize * bytes;
            if crc_of(&[&sectors[bucket_start..stop]]) != crc {
                return Err(run.damaged_at(first_sector + bucket_start as u64));
            }
            self.buckets.push_back((bucket, stop));
            bucket_start = stop;
        }
        (self.at, self.bucket) = (start, until);
        Ok(true)
    }
}
