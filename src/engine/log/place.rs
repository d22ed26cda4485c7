//! Places between the blocks of a log, and by when everything before them was stamped.
//!
//! Owns: finding them by a stamp or by an offset, from the headers of blocks alone. Leaves to others: what lies in blocks
//! (`super::reader`).
//!
//! Stamps never go back, so what was stamped by an instant lies before what was stamped later. A search reads the first
//! header of some segments, and all headers of one. Of a segment that lies in the archive it reads the stub alone, and knows
//! no place inside: the archive may be out of reach.

use super::archive::{ArchivedSegment, base_of_stub, read_stub};
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, LogError, LogOptions, SEGMENT_HEADER_BYTES, base_of, io_error,
    segment_name,
};
use super::recovery::position_of;
use crate::io::{Storage, StorageFile};

/// A place between two blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StampedPlace {
    /// Its offset.
    pub offset: u64,
    /// Stamp of the block before it, in nanoseconds: nothing before it was stamped later.
    pub recorded_until: i64,
}

/// Finds places in a log that may be being written.
pub struct PlaceFinder<'s> {
    storage: &'s dyn Storage,
    options: LogOptions,
    /// First offsets of segments.
    segments: Vec<u64>,
    /// Those of which the log's folder has a stub.
    archived: Vec<u64>,
    /// Everything before this is durable.
    until: u64,
}

impl<'s> PlaceFinder<'s> {
    /// Finds places up to an offset at which a durable block ends.
    ///
    /// # Errors
    /// If the log's directory cannot be listed.
    pub fn new(storage: &'s dyn Storage, options: LogOptions, until: u64) -> Result<Self, LogError> {
        let names = storage.list().map_err(io_error("list", "the log's directory"))?;
        let mut segments: Vec<u64> = names.iter().filter_map(|name| base_of(name)).collect();
        let mut archived: Vec<u64> = names.iter().filter_map(|name| base_of_stub(name)).collect();
        archived.sort_unstable();
        segments.extend(&archived);
        segments.retain(|base| *base < until);
        segments.sort_unstable();
        segments.dedup();
        Ok(Self { storage, options, segments, archived, until })
    }

    /// The last place before which nothing was stamped later than an instant; `None` if that is before the first block.
    ///
    /// # Errors
    /// [`LogError`]: a header cannot be read.
    pub fn by_stamp(&self, recorded_until: i64) -> Result<Option<StampedPlace>, LogError> {
        let (mut first, mut until) = (0, self.segments.len());
        while first < until {
            let middle = first.midpoint(until);
            if self.first_stamp(self.segments[middle])?.is_some_and(|first| first <= recorded_until) {
                first = middle + 1;
            } else {
                until = middle;
            }
        }
        // Of an archived segment that starts by then, no place may be by then.
        for base in self.segments[..first].iter().rev() {
            let found = self.last_of(*base, |place| place.recorded_until <= recorded_until)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn first_stamp(&self, base: u64) -> Result<Option<i64>, LogError> {
        match self.stub(base)? {
            Some(stub) => Ok(Some(stub.recorded_at.0)),
            None => Ok(self.blocks(base)?.next()?.map(|place| place.recorded_until)),
        }
    }

    fn stub(&self, base: u64) -> Result<Option<ArchivedSegment>, LogError> {
        let is_archived = self.archived.binary_search(&base).is_ok();
        is_archived.then(|| read_stub(self.storage, &self.options, base)).transpose()
    }

    /// The first place at an offset or behind it; `None` if there is none.
    ///
    /// # Errors
    /// [`LogError`]: a header cannot be read.
    pub fn by_offset(&self, offset: u64) -> Result<Option<StampedPlace>, LogError> {
        let before = self.segments.partition_point(|base| *base < offset);
        let Some(segment) = before.checked_sub(1) else { return Ok(None) };
        if let Some(stub) = self.stub(self.segments[segment])? {
            return Ok((stub.end_offset >= offset).then(|| behind(&stub)));
        }
        let mut blocks = self.blocks(self.segments[segment])?;
        while let Some(place) = blocks.next()? {
            if place.offset >= offset {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn last_of(
        &self,
        base: u64,
        is_wanted: impl Fn(&StampedPlace) -> bool,
    ) -> Result<Option<StampedPlace>, LogError> {
        if let Some(stub) = self.stub(base)? {
            return Ok(Some(behind(&stub)).filter(is_wanted));
        }
        let mut blocks = self.blocks(base)?;
        let mut last = None;
        while let Some(place) = blocks.next()?.filter(&is_wanted) {
            last = Some(place);
        }
        Ok(last)
    }

    fn blocks(&self, base: u64) -> Result<Blocks<'_>, LogError> {
        let name = segment_name(base);
        let file = self.storage.open(&name, false).map_err(io_error("open", &name))?;
        let following = self.segments.partition_point(|other| *other <= base);
        let until = self.segments.get(following).map_or(self.until, |next| *next);
        Ok(Blocks { file, name, options: &self.options, base, offset: base, until })
    }
}

/// The place behind an archived segment.
fn behind(stub: &ArchivedSegment) -> StampedPlace {
    StampedPlace { offset: stub.end_offset, recorded_until: stub.recorded_at.1 }
}

/// The blocks of a segment.
struct Blocks<'o> {
    file: Box<dyn StorageFile>,
    name: String,
    options: &'o LogOptions,
    base: u64,
    offset: u64,
    until: u64,
}

impl Blocks<'_> {
    /// The place behind the next block.
    fn next(&mut self) -> Result<Option<StampedPlace>, LogError> {
        if self.offset >= self.until {
            return Ok(None);
        }
        let mut header = [0; BLOCK_HEADER_BYTES];
        let position = position_of(self.base, self.offset);
        assert!(position >= SEGMENT_HEADER_BYTES as u64, "blocks lie behind the header of their segment");
        self.file.read_at(position, &mut header).map_err(io_error("read", &self.name))?;
        let header = BlockHeader::decode(&header, self.options, self.offset)
            .map_err(|what| LogError::Damaged { file: self.name.clone(), position, what })?;
        self.offset += header.block_bytes() as u64;
        Ok(Some(StampedPlace { offset: self.offset, recorded_until: header.recorded_at }))
    }
}
