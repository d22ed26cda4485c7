//! Reads a log from an offset to its end, checking every byte on the way.
//!
//! Owns: the order of segments, the end of a log, torn tails. Leaves to others: repairing (`recovery`).
//!
//! A log may be written while it is read. What is found then was a beginning of it, and none of it is damage: what was torn
//! at one look, and has whole blocks behind it at the next, is looked at again before that is said.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::Range;

use super::archive::{ArchiveFault, base_of_stub, read_stub};
use super::format::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, CLEAN_BYTES, CLEAN_FILE, CleanMarker, LogError,
    LogOptions, RECORD_HEADER_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES, base_of, check_segment_header,
    decode_record_header, io_error, is_zero, segment_name,
};
use super::recovery::position_of;
use super::sectors::SectorBuffer;
use crate::io::{Storage, StorageFile};

/// Looks at what seems to be damage before it is said. Between two, a writer ends what it was at.
const LOOKS: u32 = 3;
/// Bytes that are looked at together when zeros are expected.
const SCAN_BYTES: usize = 64 << 10;

/// A record as it was written; the payload is 16-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Logical offset.
    pub offset: u64,
    /// Logical offset of the block that it came with.
    pub block_offset: u64,
    /// Kind, as the log's owner numbers it.
    pub kind: u16,
    /// When its content arrived, in nanoseconds.
    pub received_at: i64,
    /// When its block was stamped, in nanoseconds.
    pub recorded_at: i64,
    /// Its content.
    pub payload: &'a [u8],
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Offset behind the last whole block.
    pub end_offset: u64,
    /// Bytes of a torn block behind it, which was never acknowledged.
    pub torn_bytes: u64,
    /// Stamp of the last block.
    pub last_recorded_at: i64,
    pub(super) last_block_offset: u64,
    pub(super) last_block_crc: u32,
    pub(super) is_clean: bool,
}

/// Reads records in order.
pub struct LogReader<'s> {
    storage: &'s dyn Storage,
    options: LogOptions,
    segments: Vec<u64>,
    /// Those of which the log's folder has a stub.
    archived: Vec<u64>,
    clean: Option<CleanMarker>,
    current: usize,
    file: Option<OpenSegment>,
    block: SectorBuffer,
    block_len: usize,
    block_offset: u64,
    header: Option<BlockHeader>,
    records_left: u32,
    record_at: usize,
    from: u64,
    until: u64,
    /// Block with which reading starts, if not with the first of its segment.
    first_block: Option<u64>,
    tail: Tail,
    has_ended: bool,
    is_bulk: bool,
}

struct OpenSegment {
    file: Box<dyn StorageFile>,
    name: String,
    base: u64,
    size: u64,
    position: u64,
}

impl<'s> LogReader<'s> {
    /// A reader of the records at `from` and behind; `until` ends it before the tail is looked at, for logs that are
    /// being written.
    ///
    /// # Errors
    /// [`LogError`], also if segments are missing.
    pub fn open(
        storage: &'s dyn Storage,
        options: LogOptions,
        from: u64,
        until: Option<u64>,
    ) -> Result<Self, LogError> {
        let Listed { segments, archived, is_clean } = list(storage)?;
        let clean = if until.is_none() && is_clean { read_clean(storage, &options)? } else { None };
        let first = segments.partition_point(|base| *base <= from).saturating_sub(1);
        let start = segments.get(first).copied().unwrap_or(0);
        Ok(Self {
            storage,
            options,
            segments,
            archived,
            clean,
            current: first,
            file: None,
            block: SectorBuffer::with_len(SECTOR_BYTES),
            block_len: 0,
            block_offset: start,
            header: None,
            records_left: 0,
            record_at: 0,
            from,
            until: until.unwrap_or(u64::MAX),
            first_block: None,
            tail: Tail {
                end_offset: start,
                torn_bytes: 0,
                last_recorded_at: i64::MIN,
                last_block_offset: start,
                last_block_crc: 0,
                is_clean: clean.is_some(),
            },
            has_ended: false,
            is_bulk: false,
        })
    }

    /// The same reader, for what is not read again soon.
    pub(super) fn in_bulk(self) -> Self {
        Self { is_bulk: true, ..self }
    }

    /// Checks that no segment is missing before the first one that is read, by lengths, headers and stubs.
    ///
    /// # Errors
    /// [`LogError`], which names the segment.
    pub(super) fn check_passed_over(&self) -> Result<(), LogError> {
        if self.current == 0 {
            return Ok(());
        }
        let names: BTreeSet<String> =
            self.storage.list().map_err(io_error("list", "the log's directory"))?.into_iter().collect();
        for pair in self.segments[..=self.current].windows(2) {
            let (base, next) = (pair[0], pair[1]);
            let name = segment_name(base);
            let end = match names.contains(&name) {
                true => self.end_of_ended(base, &name)?,
                false => read_stub(self.storage, &self.options, base)?.end_offset,
            };
            if end < next {
                let what = "the segment is missing, or the one before it is cut off";
                return Err(LogError::Damaged { file: segment_name(end), position: 0, what });
            }
            if end > next {
                let position = SEGMENT_HEADER_BYTES as u64;
                let what = "the segment does not end where the next one starts";
                return Err(LogError::Damaged { file: name, position, what });
            }
        }
        Ok(())
    }

    /// Offset behind an ended segment, by its length; its header is checked.
    fn end_of_ended(&self, base: u64, name: &str) -> Result<u64, LogError> {
        let file = self.storage.open(name, false).map_err(io_error("open", name))?;
        let size = file.size().map_err(io_error("measure", name))?;
        let damaged = |(position, what)| LogError::Damaged { file: name.to_string(), position, what };
        if size < SEGMENT_HEADER_BYTES as u64 {
            return Err(damaged((size, "the segment is shorter than its header")));
        }
        let mut header = vec![0; SEGMENT_HEADER_BYTES];
        file.read_at(0, &mut header).map_err(io_error("read", name))?;
        check_segment_header(&header, &self.options, base).map_err(damaged)?;
        Ok(base + size - SEGMENT_HEADER_BYTES as u64)
    }

    /// Goes on with the block that starts at `range.start`, and ends at `range.end` before the tail is looked at.
    pub fn seek(&mut self, range: Range<u64>) {
        let after = self.segments.partition_point(|base| *base <= range.start);
        self.current = after.saturating_sub(1);
        self.file = None;
        self.records_left = 0;
        self.block_offset = range.start;
        self.first_block = Some(range.start);
        (self.from, self.until) = (range.start, range.end);
        self.tail.end_offset = range.start;
        self.tail.last_recorded_at = i64::MIN;
        self.has_ended = false;
    }

    /// The next record.
    ///
    /// # Errors
    /// [`LogError`]; damage is named with its segment and position.
    #[allow(clippy::should_implement_trait)] // lends its buffer, which an iterator cannot
    pub fn next(&mut self) -> Result<Option<Record<'_>>, LogError> {
        loop {
            if self.records_left == 0 && !self.next_block()? {
                return Ok(None);
            }
            let (offset, payload, kind, received_at) = self.take_record()?;
            if offset >= self.until {
                self.has_ended = true;
                self.records_left = 0;
                return Ok(None);
            }
            if offset >= self.from {
                let recorded_at = self.tail.last_recorded_at;
                let block_offset = self.block_offset;
                let payload = &self.block.bytes()[payload.0..payload.1];
                return Ok(Some(Record { offset, block_offset, kind, received_at, recorded_at, payload }));
            }
        }
    }

    /// How the log ends, once [`LogReader::next`] gave `None`.
    pub fn tail(&self) -> &Tail {
        assert!(self.has_ended, "the tail is known once all records were read");
        &self.tail
    }

    fn take_record(&mut self) -> Result<(u64, (usize, usize), u16, i64), LogError> {
        let end = BLOCK_HEADER_BYTES + self.header.map_or(0, |header| header.body_bytes);
        let at = self.record_at;
        let impossible = "a record does not lie in its block";
        let header =
            self.block.bytes().get(at..at + RECORD_HEADER_BYTES).filter(|_| at + RECORD_HEADER_BYTES <= end);
        let decoded = header.and_then(decode_record_header);
        let Some((payload_bytes, kind, received_at)) = decoded else {
            return Err(self.damage(at as u64, impossible));
        };
        let payload = at + RECORD_HEADER_BYTES;
        let next = payload + payload_bytes.next_multiple_of(16);
        if next > end {
            return Err(self.damage(at as u64, impossible));
        }
        self.record_at = next;
        self.records_left -= 1;
        if self.records_left == 0 && next != end {
            return Err(self.damage(next as u64, "a block has bytes behind its last record"));
        }
        Ok((self.block_offset + at as u64, (payload, payload + payload_bytes), kind, received_at))
    }

    /// Damage at a position of the present block.
    fn damage(&self, in_block: u64, what: &'static str) -> LogError {
        let (file, position) = match &self.file {
            Some(segment) => {
                let start = self.block_offset - segment.base + SEGMENT_HEADER_BYTES as u64;
                (segment.name.clone(), start + in_block)
            }
            None => (segment_name(self.block_offset), in_block),
        };
        LogError::Damaged { file, position, what }
    }

    fn next_block(&mut self) -> Result<bool, LogError> {
        let mut looks = 0;
        loop {
            if self.has_ended || self.tail.end_offset >= self.until {
                self.has_ended = true;
                return Ok(false);
            }
            // A segment that was made between two looks at it reads well now.
            if self.file.is_none() && !self.open_segment().or_else(|_| self.open_segment())? {
                self.end_log(0)?;
                return Ok(false);
            }
            let segment = self.file.as_ref().expect("a segment was just opened");
            let is_last = self.current + 1 == self.segments.len();
            if segment.position == segment.size {
                if is_last {
                    self.end_log(0)?;
                    return Ok(false);
                }
                let end = segment.base + segment.position - SEGMENT_HEADER_BYTES as u64;
                self.current += 1;
                self.file = None;
                if self.segments[self.current] != end {
                    let file = segment_name(self.segments[self.current]);
                    let what = "the segment does not start where the one before ends";
                    return Err(LogError::Damaged { file, position: 0, what });
                }
                continue;
            }
            let ended = match self.read_block() {
                Ok(Ok(())) => return Ok(true),
                Ok(Err(unreadable)) => self.torn_tail(is_last, unreadable),
                Err(error) => Err(error),
            };
            match ended {
                Ok(torn_bytes) => {
                    self.end_log(torn_bytes)?;
                    return Ok(false);
                }
                Err(damage) => {
                    looks = if self.has_grown()? { 0 } else { looks + 1 };
                    if looks == LOOKS {
                        return Err(damage);
                    }
                }
            }
        }
    }

    /// Whether the present segment was ended, or another one was made behind it, or the log was opened to be written, since it
    /// was looked at.
    fn has_grown(&mut self) -> Result<bool, LogError> {
        let Listed { segments, archived, .. } = list(self.storage)?;
        let segment = self.file.as_mut().expect("a segment is open");
        let size = segment.file.size().map_err(io_error("measure", &segment.name))?;
        let has_grown = size != segment.size || segments != self.segments;
        segment.size = size;
        (self.segments, self.archived) = (segments, archived);
        Ok(self.was_opened()? || has_grown)
    }

    /// Whether the log was opened to be written since: that takes the marker of its clean end away.
    fn was_opened(&mut self) -> Result<bool, LogError> {
        let Some(clean) = self.clean else { return Ok(false) };
        let is_there =
            list(self.storage)?.is_clean && read_clean(self.storage, &self.options)? == Some(clean);
        self.clean = self.clean.filter(|_| is_there);
        Ok(!is_there)
    }

    fn open_segment(&mut self) -> Result<bool, LogError> {
        let Some(base) = self.segments.get(self.current).copied() else { return Ok(false) };
        let name = segment_name(base);
        let opened =
            if self.is_bulk { self.storage.open_bulk(&name) } else { self.storage.open(&name, false) };
        let file = opened.map_err(|error| match error.kind() {
            // A storage without an archive.
            ErrorKind::NotFound if self.is_archived(base) => {
                LogError::Archived { file: name.clone(), fault: ArchiveFault::MustBeGiven }
            }
            _ => io_error("open", &name)(error),
        })?;
        let size = file.size().map_err(io_error("measure", &name))?;
        let is_newest = self.current + 1 == self.segments.len();
        let mut header = vec![0; SEGMENT_HEADER_BYTES];
        let is_short = size < SEGMENT_HEADER_BYTES as u64;
        if !is_short {
            file.read_at(0, &mut header).map_err(io_error("read", &name))?;
        }
        // A crash while a segment was made leaves it without a header; it never held a record. A header is durable
        // before the first block, so zeros in front of anything else are damage.
        let may_be_unborn = is_newest && self.clean.is_none() && is_zero(&header);
        if may_be_unborn && (is_short || nonzero_end(&*file, &name, 0..size)?.is_none()) {
            self.segments.pop();
            return Ok(false);
        }
        if is_short {
            let what = "the segment is shorter than its header";
            return Err(LogError::Damaged { file: name, position: size, what });
        }
        check_segment_header(&header, &self.options, base).map_err(|(position, what)| LogError::Damaged {
            file: name.clone(),
            position,
            what,
        })?;
        let position = position_of(base, self.first_block.take().unwrap_or(base));
        self.file = Some(OpenSegment { file, name, base, size, position });
        Ok(true)
    }

    /// Reads and checks the block at the present position; the inner error says why there is none.
    fn read_block(&mut self) -> Result<Result<(), Unreadable>, LogError> {
        let segment = self.file.as_mut().expect("a segment is open");
        let left = segment.size - segment.position;
        let offset = segment.base + segment.position - SEGMENT_HEADER_BYTES as u64;
        self.block_offset = offset;
        if left < SECTOR_BYTES as u64 {
            return Ok(Err(Unreadable { what: "a block is cut off", block_bytes: None }));
        }
        let reading = "read";
        let sector = &mut self.block.bytes_mut()[..SECTOR_BYTES];
        segment.file.read_at(segment.position, sector).map_err(io_error(reading, &segment.name))?;
        let header = match BlockHeader::decode(&sector[..BLOCK_HEADER_BYTES], &self.options, offset) {
            Ok(header) => header,
            Err(what) => return Ok(Err(Unreadable { what, block_bytes: None })),
        };
        let block_bytes = header.block_bytes();
        let unreadable = |what| Ok(Err(Unreadable { what, block_bytes: Some(block_bytes as u64) }));
        if block_bytes as u64 > left {
            return unreadable("a block is cut off");
        }
        self.block.reserve(block_bytes, SECTOR_BYTES);
        let rest = &mut self.block.bytes_mut()[SECTOR_BYTES..block_bytes];
        segment
            .file
            .read_at(segment.position + SECTOR_BYTES as u64, rest)
            .map_err(io_error(reading, &segment.name))?;
        if let Err(what) = header.check_body(&self.block.bytes()[..block_bytes]) {
            return unreadable(what);
        }
        if header.recorded_at < self.tail.last_recorded_at || header.records == 0 {
            return Err(self.damage(16, "a block's time runs backwards or it has no records"));
        }
        segment.position += block_bytes as u64;
        self.block_len = block_bytes;
        self.records_left = header.records;
        self.record_at = BLOCK_HEADER_BYTES;
        self.header = Some(header);
        self.tail.end_offset = offset + block_bytes as u64;
        self.tail.last_recorded_at = header.recorded_at;
        self.tail.last_block_offset = offset;
        self.tail.last_block_crc = header.body_crc();
        Ok(Ok(()))
    }

    /// Decides what an unreadable block is: the zeros behind the end, a torn block that was never acknowledged, or
    /// damage. Gives the bytes of the torn block.
    ///
    /// A commit is synced before the next one is written. So only the last block can be torn, nothing of it lies
    /// behind its end, and no whole block lies behind it; anything else was durable once, and is damage.
    fn torn_tail(&self, is_last: bool, unreadable: Unreadable) -> Result<u64, LogError> {
        let segment = self.file.as_ref().expect("a segment is open");
        let (start, size, name) = (segment.position, segment.size, &segment.name);
        let damaged = || LogError::Damaged { file: name.clone(), position: start, what: unreadable.what };
        if !is_last || self.clean.is_some() {
            return Err(damaged());
        }
        let Some(nonzero_end) = nonzero_end(&*segment.file, name, start..size)? else { return Ok(0) };
        if nonzero_end > start + unreadable.block_bytes.unwrap_or(BLOCK_BYTES_MAX as u64) {
            return Err(damaged());
        }
        if unreadable.block_bytes.is_none() && self.has_block_in(start + SECTOR_BYTES as u64..nonzero_end)? {
            return Err(damaged());
        }
        Ok((nonzero_end - start).next_multiple_of(SECTOR_BYTES as u64).min(size - start))
    }

    /// Whether any sector of a range of the present segment starts with a header that was written there.
    fn has_block_in(&self, range: Range<u64>) -> Result<bool, LogError> {
        let segment = self.file.as_ref().expect("a segment is open");
        let mut header = [0; BLOCK_HEADER_BYTES];
        for position in range.clone().step_by(SECTOR_BYTES) {
            if range.end - position < BLOCK_HEADER_BYTES as u64 {
                break;
            }
            segment.file.read_at(position, &mut header).map_err(io_error("read", &segment.name))?;
            let offset = segment.base + position - SEGMENT_HEADER_BYTES as u64;
            if BlockHeader::decode(&header, &self.options, offset).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn end_log(&mut self, torn_bytes: u64) -> Result<(), LogError> {
        self.has_ended = true;
        self.tail.torn_bytes = torn_bytes;
        let Some(clean) = self.clean else { return Ok(()) };
        let found = (self.tail.end_offset, self.tail.last_block_offset, self.tail.last_block_crc);
        // A reader that started behind the last block has not seen it.
        let is_seen = self.tail.last_recorded_at != i64::MIN;
        let is_same = found == (clean.end_offset, clean.last_block_offset, clean.last_block_crc);
        let is_empty = clean.end_offset == 0 && self.tail.end_offset == 0;
        let is_elsewhere = (is_seen && !is_same) || (!is_seen && !is_empty && self.from == 0);
        if is_elsewhere && !self.was_opened()? {
            let file = self.segments.last().map_or(CLEAN_FILE.to_string(), |base| segment_name(*base));
            let what = "the log does not end where it was closed";
            return Err(LogError::Damaged { file, position: SEGMENT_HEADER_BYTES as u64, what });
        }
        Ok(())
    }

    pub(super) fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// Whether the log's folder has a stub of a segment.
    pub(super) fn is_archived(&self, base: u64) -> bool {
        self.archived.binary_search(&base).is_ok()
    }
}

/// Why there is no whole block, and how large it should be if its header is whole.
struct Unreadable {
    what: &'static str,
    block_bytes: Option<u64>,
}

/// What a log's folder has.
struct Listed {
    /// First offsets of all segments, in order.
    segments: Vec<u64>,
    /// Those that have a stub.
    archived: Vec<u64>,
    /// Whether there is a marker of a clean end.
    is_clean: bool,
}

fn list(storage: &dyn Storage) -> Result<Listed, LogError> {
    let names = storage.list().map_err(io_error("list", "the log's directory"))?;
    let mut segments: Vec<u64> = Vec::new();
    for name in &names {
        match base_of(name) {
            Some(base) => segments.push(base),
            None if name.ends_with(".seg") => {
                let what = "the segment's name is not an offset";
                return Err(LogError::Damaged { file: name.clone(), position: 0, what });
            }
            None => {}
        }
    }
    let mut archived: Vec<u64> = names.iter().filter_map(|name| base_of_stub(name)).collect();
    archived.sort_unstable();
    segments.extend(&archived);
    segments.sort_unstable();
    segments.dedup();
    if segments.first().is_some_and(|base| *base != 0) {
        let what = "the segments before it are missing";
        return Err(LogError::Damaged { file: segment_name(segments[0]), position: 0, what });
    }
    let is_clean = names.iter().any(|name| name == CLEAN_FILE);
    Ok(Listed { segments, archived, is_clean })
}

/// The marker of a clean end; `None` if a crash left it unwritten, since a crash on the way to it is no damage, or if whoever
/// opened the log meanwhile took it away.
fn read_clean(storage: &dyn Storage, options: &LogOptions) -> Result<Option<CleanMarker>, LogError> {
    let file = match storage.open(CLEAN_FILE, false) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io_error("open", CLEAN_FILE))?,
    };
    let size = file.size().map_err(io_error("measure", CLEAN_FILE))?;
    let mut bytes = vec![0; usize::try_from(size.min(4_096)).unwrap_or_default()];
    file.read_at(0, &mut bytes).map_err(io_error("read", CLEAN_FILE))?;
    if bytes.len() <= CLEAN_BYTES && is_zero(&bytes) {
        return Ok(None);
    }
    let what = "the marker of a clean end does not validate";
    let damaged = LogError::Damaged { file: CLEAN_FILE.to_string(), position: 0, what };
    CleanMarker::decode(&bytes, options).map(Some).ok_or(damaged)
}

/// Position behind the last byte of a range that is not zero.
fn nonzero_end(file: &dyn StorageFile, name: &str, range: Range<u64>) -> Result<Option<u64>, LogError> {
    let mut chunk = vec![0; SCAN_BYTES];
    let mut end = None;
    for position in range.clone().step_by(SCAN_BYTES) {
        let bytes = usize::try_from(range.end - position).map_or(SCAN_BYTES, |left| left.min(SCAN_BYTES));
        let chunk = &mut chunk[..bytes];
        file.read_at(position, chunk).map_err(io_error("read", name))?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            end = Some(position + last as u64 + 1);
        }
    }
    Ok(end)
}
