//! The outbox: batches in append-only files until they are acknowledged.
//!
//! Owns: files and their order, what a crash left, reading back what left memory, taking files away.
//! Leaves to others: bytes of a record (`format`), disks (`folder`), when to write, sync and read (`keeper`).
//!
//! What is found at a start, file by file:
//!
//! | bytes | what is done |
//! |---|---|
//! | whole records | batches behind the last mark are sent again |
//! | something torn at the end | cut off, told as torn |
//! | a record at the end that is all there and wrong, or anything wrong before a whole record | skipped, told as damaged; the file is kept as `.damaged` once the rest of it is acknowledged |
//!
//! Invariants: nothing is written over, and nothing behind a crash: a start begins a new file; a file goes only when all of
//! its batches are acknowledged; after a failed write or sync the file is not written any more, and if nothing is in it, it
//! goes, so that a disk that stays full gathers no empty files.

mod folder;
pub(crate) mod format;
pub(crate) mod keeper;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use wire::{AlignedBytes, FRAME_HEADER_BYTES, FrameHeader, UsageBatch};

pub(crate) use self::folder::{DiskFolder, Folder, OutboxFile};
pub(crate) use self::format::Position;
use crate::{OutboxOptions, SyncPolicy};

const SUFFIX: &str = ".outbox";

/// What an earlier process left in the outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Batches that are sent again.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of records that were being written when the process or the machine stopped; they were cut off.
    pub torn_bytes: u64,
    /// Stretches that cannot be read.
    pub damaged: Vec<Damaged>,
    /// Source of the first batch.
    pub(crate) source: Option<String>,
}

/// A stretch of a file that cannot be read. The file is kept, with the ending `.damaged`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Name of the file.
    pub file: String,
    /// First byte.
    pub from: u64,
    /// Byte behind the last.
    pub until: u64,
}

pub(crate) struct Outbox {
    folder: Box<dyn Folder>,
    sync: SyncPolicy,
    bytes_max: u64,
    segment_bytes: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The file of the last segment, as long as it is written.
    current: Option<Box<dyn OutboxFile>>,
    next_file: u64,
    /// Where the next batch is read.
    cursor: Position,
    reading: Option<(u64, Box<dyn OutboxFile>)>,
    /// Where what was written since the last sync starts.
    unsynced_from: Option<u64>,
    /// A file ended and could not be synced since the last [`Outbox::sync`].
    is_sync_lost: bool,
    /// The first file of this process.
    own_file: u64,
    /// Bytes that were found to be unreadable.
    damaged_bytes: u64,
    record: Vec<u8>,
}

struct Segment {
    file: u64,
    /// Where the next record goes.
    end: u64,
    /// End of the last batch: acknowledged up to here, the file is not needed.
    batches_end: u64,
    /// Stretches that cannot be read.
    damaged: Vec<(u64, u64)>,
    /// Stretches whose sync failed: their batches are not counted as stored, and are not read by this process.
    doubtful: Vec<(u64, u64)>,
}

impl Segment {
    fn new(file: u64) -> Self {
        Self { file, end: 0, batches_end: 0, damaged: Vec::new(), doubtful: Vec::new() }
    }
}

/// A batch that was read back.
pub(crate) struct Stored {
    pub(crate) frame: AlignedBytes,
    /// Behind it.
    pub(crate) end: Position,
    /// Whether an earlier process wrote it.
    pub(crate) is_recovered: bool,
}

/// The name of a file.
pub(crate) fn name_of(file: u64) -> String {
    format!("{file:020}{SUFFIX}")
}

impl Outbox {
    /// Takes the folder of the options, and finds what an earlier process left.
    pub(crate) fn open(options: &OutboxOptions) -> io::Result<(Self, Recovered)> {
        let folder = DiskFolder::take(Path::new(&options.folder))?;
        Self::open_in(Box::new(folder), options)
    }

    pub(crate) fn open_in(folder: Box<dyn Folder>, options: &OutboxOptions) -> io::Result<(Self, Recovered)> {
        let mut outbox = Self {
            folder,
            sync: options.sync,
            bytes_max: options.bytes_max,
            segment_bytes: options.segment_bytes,
            segments: VecDeque::new(),
            current: None,
            next_file: 0,
            cursor: Position::default(),
            reading: None,
            unsynced_from: None,
            is_sync_lost: false,
            own_file: 0,
            damaged_bytes: 0,
            record: Vec::new(),
        };
        let mut recovered = Recovered::default();
        let acked = outbox.recover(&mut recovered)?;
        outbox.own_file = outbox.next_file;
        outbox.cursor = acked;
        outbox.remove_acked(acked)?;
        Ok((outbox, recovered))
    }

    /// Scans all files; gives the last mark.
    fn recover(&mut self, recovered: &mut Recovered) -> io::Result<Position> {
        let names = self.folder.list()?;
        let mut files: Vec<u64> =
            names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect();
        files.sort_unstable();
        self.next_file = files.last().map_or(0, |last| last + 1);
        let mut acked = Position::default();
        // Where each batch starts, and its events.
        let mut batches: Vec<(Position, u32)> = Vec::new();
        for file in files {
            let handle = self.folder.open(&name_of(file))?;
            let mut bytes = vec![0; usize::try_from(handle.bytes()?).unwrap_or(usize::MAX)];
            handle.read(0, &mut bytes)?;
            let mut segment = Segment::new(file);
            let mut at = 0;
            while at < bytes.len() {
                let position = Position { file, offset: at as u64 };
                let Some(record) = format::decode(position, &bytes[at..]) else {
                    let claimed = format::claimed_bytes(&bytes[at..]);
                    let is_all_there = claimed.is_some_and(|claimed| at + claimed <= bytes.len());
                    let next = format::find(file, &bytes, at + 1);
                    if next.is_none() && !is_all_there {
                        break; // torn
                    }
                    let until = next.unwrap_or(bytes.len());
                    segment.damaged.push((at as u64, until as u64));
                    self.damaged_bytes += (until - at) as u64;
                    at = until;
                    continue;
                };
                at += record.bytes;
                match record.kind {
                    format::KIND_MARK => {
                        // A mark says nothing of what lies behind it.
                        let marked = Position::decode(record.body).filter(|marked| *marked <= position);
                        acked = acked.max(marked.unwrap_or(acked));
                    }
                    format::KIND_BATCH => {
                        let header = FrameHeader::decode_slice(record.body);
                        let header = header.map_err(|status| other(&status))?;
                        if recovered.source.is_none() {
                            recovered.source = Some(source_of(record.body)?);
                        }
                        batches.push((position, header.count));
                        segment.batches_end = at as u64;
                    }
                    kind => {
                        return Err(other(&format!("{}: a later client wrote kind {kind}", name_of(file))));
                    }
                }
            }
            segment.end = at as u64;
            if at < bytes.len() {
                recovered.torn_bytes += (bytes.len() - at) as u64;
                handle.cut(at as u64)?;
            }
            let damaged = segment.damaged.iter();
            recovered.damaged.extend(damaged.map(|(from, until)| Damaged {
                file: name_of(file),
                from: *from,
                until: *until,
            }));
            self.segments.push_back(segment);
        }
        for (_, events) in batches.iter().filter(|(start, _)| *start >= acked) {
            recovered.batches += 1;
            recovered.events += u64::from(*events);
        }
        Ok(acked)
    }

    /// Writes a batch behind all others; gives the position behind it. It is durable after the next sync.
    pub(crate) fn append(&mut self, frame: &[u8]) -> io::Result<Position> {
        let bytes = format::record_bytes(frame.len()) as u64;
        if self.bytes() + bytes > self.bytes_max {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the outbox has reached its limit"));
        }
        let is_full = self.segments.back().is_none_or(|last| last.end >= self.segment_bytes);
        if self.current.is_none() || is_full {
            self.begin_file()?;
        }
        let end = self.write(format::KIND_BATCH, frame)?;
        if let Some(last) = self.segments.back_mut() {
            last.batches_end = end.offset;
        }
        Ok(end)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    fn begin_file(&mut self) -> io::Result<()> {
        let is_synced = self.sync != SyncPolicy::Never;
        if is_synced {
            let synced = self.sync_file();
            self.is_sync_lost |= synced.is_err();
            synced?;
        }
        self.give_up_file();
        self.unsynced_from = None;
        let file = self.next_file;
        self.next_file += 1;
        let handle = self.folder.create(&name_of(file))?;
        self.segments.push_back(Segment::new(file));
        if is_synced && let Err(error) = self.folder.sync_names() {
            self.give_up_file();
            return Err(error);
        }
        self.current = Some(handle);
        Ok(())
    }

    /// The last file is not written any more; it stays only if something is in it.
    fn give_up_file(&mut self) {
        self.current = None;
        while self.segments.back().is_some_and(|last| last.end == 0) {
            // What cannot be removed now is tried again with the next file.
            if self.take_away(self.segments.len() - 1).is_err() {
                break;
            }
        }
    }

    fn write(&mut self, kind: u32, body: &[u8]) -> io::Result<Position> {
        let (Some(current), Some(last)) = (&self.current, self.segments.back_mut()) else {
            return Err(io::Error::other("no file is open"));
        };
        self.record.clear();
        format::encode(Position { file: last.file, offset: last.end }, kind, body, &mut self.record);
        if let Err(error) = current.write(last.end, &self.record) {
            // What was written of it is torn; the next record goes to another file.
            let _ = current.cut(last.end);
            if self.sync != SyncPolicy::Never {
                self.is_sync_lost |= self.sync_file().is_err();
            }
            self.give_up_file();
            return Err(error);
        }
        self.unsynced_from.get_or_insert(last.end);
        last.end += self.record.len() as u64;
        Ok(Position { file: last.file, offset: last.end })
    }

    /// Makes everything written durable. An error means that what was written since the last call may not be.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let synced = self.sync_file();
        match std::mem::take(&mut self.is_sync_lost) {
            true => synced.and(Err(io::Error::other("a file that ended could not be synced"))),
            false => synced,
        }
    }

    fn sync_file(&mut self) -> io::Result<()> {
        let (Some(current), Some(from)) = (&self.current, self.unsynced_from) else { return Ok(()) };
        let synced = current.sync();
        self.unsynced_from = None;
        if synced.is_err() {
            // A second sync of this file would tell nothing about the first.
            self.current = None;
            if let Some(last) = self.segments.back_mut().filter(|_| self.sync == SyncPolicy::EachBatch) {
                last.doubtful.push((from, last.end));
                last.batches_end = last.batches_end.min(from);
            }
        }
        synced
    }

    /// Whether something was written since the last sync.
    pub(crate) fn is_dirty(&self) -> bool {
        self.current.is_some() && self.unsynced_from.is_some()
    }

    /// Where the next batch is read.
    pub(crate) fn set_cursor(&mut self, cursor: Position) {
        self.cursor = cursor;
    }

    /// Reads the next batch and goes on behind it; `None` at the end.
    pub(crate) fn read(&mut self) -> io::Result<Option<Stored>> {
        loop {
            let has_more = |segment: &&Segment| {
                let end = Position { file: segment.file, offset: segment.batches_end };
                segment.batches_end > 0 && end > self.cursor
            };
            let Some(segment) = self.segments.iter().find(has_more) else {
                self.reading = None;
                return Ok(None);
            };
            let file = segment.file;
            if self.cursor.file < file {
                self.cursor = Position { file, offset: 0 };
            }
            let mut passed_over = segment.damaged.iter().chain(&segment.doubtful);
            if let Some((_, until)) = passed_over.find(|(from, _)| *from == self.cursor.offset) {
                self.cursor.offset = *until;
                continue;
            }
            let end = segment.end;
            let bytes = self.read_record(end)?;
            let Some(record) = format::decode(self.cursor, &bytes) else {
                self.skip_damage(file, end)?;
                continue;
            };
            self.cursor.offset += record.bytes as u64;
            if record.kind == format::KIND_BATCH {
                let frame = AlignedBytes::copy_of(record.body);
                return Ok(Some(Stored { frame, end: self.cursor, is_recovered: file < self.own_file }));
            }
        }
    }

    /// The bytes of the record at the cursor, or as many as there are.
    fn read_record(&mut self, end: u64) -> io::Result<Vec<u8>> {
        let Position { file, offset } = self.cursor;
        let handle = self.handle(file)?;
        let mut head = [0; format::HEAD_BYTES];
        handle.read(offset, &mut head)?;
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let mut bytes = vec![0; format::claimed_bytes(&head).unwrap_or(format::HEAD_BYTES).min(left)];
        handle.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn handle(&mut self, file: u64) -> io::Result<&dyn OutboxFile> {
        if self.reading.as_ref().is_none_or(|(open, _)| *open != file) {
            self.reading = Some((file, self.folder.open(&name_of(file))?));
        }
        Ok(&*self.reading.as_ref().expect("it was just opened").1)
    }

    /// The record at the cursor changed since it was written: goes on behind it.
    fn skip_damage(&mut self, file: u64, end: u64) -> io::Result<()> {
        let from = self.cursor.offset;
        let mut bytes = vec![0; usize::try_from(end).unwrap_or(usize::MAX)];
        self.handle(file)?.read(0, &mut bytes)?;
        let next = format::find(file, &bytes, from as usize + 1);
        let until = next.map_or(end, |next| next as u64);
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.file == file) {
            segment.damaged.push((from, until));
            self.damaged_bytes += until - from;
        }
        self.cursor.offset = until;
        Ok(())
    }

    /// Bytes that were found to be unreadable.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Notes that every batch before a position is acknowledged, so that a start after a crash does not send it again.
    pub(crate) fn mark_acked(&mut self, acked: Position) -> io::Result<()> {
        if self.current.is_some() { self.write(format::KIND_MARK, &acked.encode()).map(drop) } else { Ok(()) }
    }

    /// Takes files away of which everything is acknowledged; the one that is written stays.
    pub(crate) fn remove_acked(&mut self, acked: Position) -> io::Result<()> {
        let is_writing = usize::from(self.current.is_some());
        while self.segments.len() > is_writing {
            let Some(segment) = self.segments.front() else { break };
            let last_batch = Position { file: segment.file, offset: segment.batches_end };
            if segment.batches_end > 0 && last_batch > acked {
                break;
            }
            self.take_away(0)?;
        }
        Ok(())
    }

    fn take_away(&mut self, index: usize) -> io::Result<()> {
        let segment = &self.segments[index];
        let name = name_of(segment.file);
        if self.reading.as_ref().is_some_and(|(open, _)| *open == segment.file) {
            self.reading = None;
        }
        match segment.damaged.is_empty() {
            true => self.folder.remove(&name)?,
            false => self.folder.rename(&name, &format!("{name}.damaged"))?,
        }
        self.segments.remove(index);
        Ok(())
    }

    /// Ends: syncs what is left, or leaves nothing if everything is acknowledged.
    pub(crate) fn close(mut self, acked: Position) -> io::Result<()> {
        let synced = if self.sync == SyncPolicy::Never { Ok(()) } else { self.sync() };
        self.current = None;
        self.remove_acked(acked)?;
        synced
    }
}

fn source_of(frame: &[u8]) -> io::Result<String> {
    let frame = AlignedBytes::copy_of(frame);
    let header = FrameHeader::decode_slice(&frame).map_err(|status| other(&status))?;
    let batch = UsageBatch::check(&header, &frame[FRAME_HEADER_BYTES..]).map_err(|status| other(&status))?;
    Ok(batch.source().to_string())
}

fn other(error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
