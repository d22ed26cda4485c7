//! Snapshots: what all shards know at a barrier, so that a start reads only the log behind it.
//!
//! Owns: the file's layout, writing it part by part, checking it whole. Leaves to others: what is in a section
//! (`shard::snapshot`), when a snapshot is made, which one a start uses (`machine::recovery`).
//!
//! A snapshot is never truth: a file that is missing, torn, damaged or of another directory is left aside, and the log
//! gives everything again. A file is written once and has its end mark last, so a name that is there says nothing until
//! every checksum and the end mark were read.
//!
//! ```text
//! file `{usage offset, 16 hex digits}.snap`:  header, sections, end mark; little-endian
//!
//! header    0  magic        8   "TMSNAP\r\n"
//!           8  format       4   SNAPSHOT_FORMAT
//!          12  incarnation  4   of the logs
//!          16  partition    4   of the usage log
//!          20  shards       4   sections are theirs
//!          24  usage        8   offset of the barrier in the usage log
//!          32  control      8   control-log offset that the barrier names
//!          40  history     32   what the control log had sealed by then: see `SnapshotHead::history`
//!          72  crc          4   CRC-32C of bytes 0..72
//!          76  reserved     4
//! section   0  kind         2   SectionKind
//!           2  shard        2
//!           4  bytes        4   of the body
//!           8  crc          4   CRC-32C of kind, shard, bytes, and the body
//!          12  body
//! end mark: a section of kind 0xffff whose body is the count of sections before it, 8 bytes
//! ```

pub(crate) mod codec;

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use crate::io::{Storage, StorageFile};
use crate::log::crc_of;
use crate::shard::spill::SpillError;
use crate::shard::{RunError, RunName, SavedCell};

/// Version of the file's layout and of what the sections hold.
pub const SNAPSHOT_FORMAT: u32 = 7;
/// Bytes that a section has at most.
pub const SECTION_BYTES_MAX: usize = 64 << 20;
/// Snapshots that are kept: the last one, and one for the case that it cannot be read.
pub const SNAPSHOTS_KEPT: usize = 2;

const MAGIC: [u8; 8] = *b"TMSNAP\r\n";
const HEADER_BYTES: usize = 80;
const HEADER_CRC_AT: usize = 72;
const SECTION_HEADER_BYTES: usize = 12;
const KIND_END: u16 = 0xffff;
const END_MARK_BYTES: usize = SECTION_HEADER_BYTES + 8;
/// Bytes that are written together.
const WRITE_BYTES: usize = 1 << 20;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Incarnation of the logs.
    pub incarnation: u32,
    /// Partition of the usage log.
    pub partition: u32,
    /// Number of shards.
    pub shards: u32,
    /// Offset of the barrier in the usage log.
    pub usage_offset: u64,
    /// Control-log offset that the barrier names.
    pub control_offset: u64,
    /// Digest of what the control log says up to there, so that a snapshot of another history is not taken for one of
    /// this.
    pub history: [u8; 32],
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum SectionKind {
    /// Names of subjects, in the order of their numbers.
    Subjects = 1,
    /// Texts of groups, in the order of their numbers.
    Groups = 2,
    /// Cells.
    Cells = 3,
    /// Events that wait for an owner.
    Pending = 4,
    /// Counters per source.
    Counters = 5,
    /// Events that did not count.
    SetAside = 6,
    /// Events that are remembered in memory, with ids that producers chose.
    Dedup = 7,
    /// Corrected events.
    Corrections = 8,
    /// Which meters usage met when it arrived.
    Meters = 9,
    /// Events that are remembered, with ids that clients minted.
    Sequenced = 10,
    /// Numbers and checksums of runs, which have the other events that are remembered.
    Runs = 11,
}

impl SectionKind {
    /// All kinds.
    pub const ALL: [SectionKind; 11] = [
        SectionKind::Subjects,
        SectionKind::Groups,
        SectionKind::Cells,
        SectionKind::Pending,
        SectionKind::Counters,
        SectionKind::SetAside,
        SectionKind::Dedup,
        SectionKind::Sequenced,
        SectionKind::Runs,
        SectionKind::Corrections,
        SectionKind::Meters,
    ];

    fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == code)
    }
}

/// A part of a shard's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// What a shard gives a snapshot at once.
#[derive(Clone, Debug)]
pub enum Part {
    /// A section.
    Section(Section),
    /// A cell that sections are made of beside the shard.
    Cell(SavedCell),
}

impl Part {
    /// Gives its sections.
    ///
    /// # Errors
    /// If spilled items cannot be read, or what `take` says.
    pub fn for_each_section(self, take: &mut dyn FnMut(Section) -> io::Result<()>) -> io::Result<()> {
        match self {
            Part::Section(section) => take(section),
            Part::Cell(cell) => cell.for_each_section(take),
        }
    }
}

/// Why a snapshot is left aside.
#[derive(Debug)]
pub enum SnapshotError {
    /// The disk failed.
    Io(io::Error),
    /// Another program wrote it.
    MustBeOfThisFormat {
        /// The format that it has.
        format: u32,
    },
    /// It is no snapshot of these logs.
    MustBeOfTheseLogs,
    /// The writer did not get to the end, or the end is cut off.
    MustBeFinished {
        /// Where the file ends.
        position: u64,
    },
    /// Bytes are damaged.
    MustBeWhole {
        /// Where in the file.
        position: u64,
    },
    /// A section does not hold what it should.
    SectionMustBeReadable {
        /// Which section.
        kind: SectionKind,
        /// Whose.
        shard: u16,
    },
    /// It is whole, and not what the logs give.
    MustSayWhatTheLogsSay {
        /// Which section.
        kind: SectionKind,
        /// Whose.
        shard: u16,
        /// The first thing in it that differs.
        what: String,
    },
    /// A run that it names is of no use.
    RunMustBeReadable(RunError),
    /// Memory has no room for its single events, and they cannot be spilled.
    ItemsMustBeSpilled(SpillError),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Io(_) => f.write_str("it cannot be read"),
            SnapshotError::MustBeOfThisFormat { format } => {
                write!(f, "it has format {format}, and this program reads format {SNAPSHOT_FORMAT}")
            }
            SnapshotError::MustBeOfTheseLogs => {
                f.write_str("it is not a snapshot of these logs and so many shards")
            }
            SnapshotError::MustBeFinished { position } => {
                write!(f, "it ends at byte {position}, before its end mark")
            }
            SnapshotError::MustBeWhole { position } => write!(f, "its bytes at {position} are damaged"),
            SnapshotError::SectionMustBeReadable { kind, shard } => {
                write!(f, "its section {kind:?} of shard {shard} cannot be read")
            }
            SnapshotError::MustSayWhatTheLogsSay { kind, shard, what } => {
                write!(f, "its section {kind:?} of shard {shard} is not what the logs say of {what}")
            }
            SnapshotError::RunMustBeReadable(error) => error.fmt(f),
            SnapshotError::ItemsMustBeSpilled(error) => error.fmt(f),
        }
    }
}

impl SnapshotError {
    /// Whether the file is at fault, or one that it names, and not the disk or who asks: it is of no use any more.
    pub fn is_of_file(&self) -> bool {
        match self {
            SnapshotError::Io(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            SnapshotError::MustBeFinished { .. }
            | SnapshotError::MustBeWhole { .. }
            | SnapshotError::SectionMustBeReadable { .. }
            | SnapshotError::MustSayWhatTheLogsSay { .. } => true,
            SnapshotError::RunMustBeReadable(error) => error.of_file().is_some(),
            SnapshotError::MustBeOfThisFormat { .. }
            | SnapshotError::MustBeOfTheseLogs
            | SnapshotError::ItemsMustBeSpilled(_) => false,
        }
    }
}

impl std::error::Error for SnapshotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SnapshotError::Io(error) => Some(error),
            SnapshotError::RunMustBeReadable(error) => std::error::Error::source(error),
            SnapshotError::ItemsMustBeSpilled(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        SnapshotError::Io(error)
    }
}

/// The file of a snapshot.
pub fn snapshot_name(usage_offset: u64) -> String {
    format!("{usage_offset:016x}.snap")
}

/// The usage offset that a snapshot's file is named after.
pub fn snapshot_offset(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".snap").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Writes a snapshot. What is dropped before `finish` is no snapshot.
pub struct SnapshotWriter {
    file: Box<dyn StorageFile>,
    name: String,
    position: u64,
    buffer: Vec<u8>,
    sections: u64,
}

impl SnapshotWriter {
    /// Starts the file; one that an earlier process left unfinished under this name is taken away.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn create(storage: &dyn Storage, head: &SnapshotHead) -> io::Result<Self> {
        let name = snapshot_name(head.usage_offset);
        if storage.list()?.contains(&name) {
            storage.remove(&name)?;
        }
        let file = storage.create(&name)?;
        Ok(Self { file, name, position: 0, buffer: head.encode().to_vec(), sections: 0 })
    }

    /// Adds a section of a shard.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write(&mut self, shard: u16, section: &Section) -> io::Result<()> {
        assert!(section.body.len() <= SECTION_BYTES_MAX, "a section is cut before it is too large");
        self.push(section.kind as u16, shard, &section.body);
        self.sections += 1;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn push(&mut self, kind: u16, shard: u16, body: &[u8]) {
        let mut head = [0; SECTION_HEADER_BYTES];
        head[..2].copy_from_slice(&kind.to_le_bytes());
        head[2..4].copy_from_slice(&shard.to_le_bytes());
        head[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes()); // at most SECTION_BYTES_MAX
        let crc = crc_of(&[&head[..8], body]);
        head[8..].copy_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(body);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.position, &self.buffer)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file and makes it durable; then takes away all snapshots but the last [`SNAPSHOTS_KEPT`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish(mut self, storage: &dyn Storage) -> io::Result<u64> {
        self.push(KIND_END, 0, &self.sections.to_le_bytes());
        self.flush()?;
        self.file.sync_data()?;
        storage.sync_directory()?;
        for old in snapshots(storage)?.into_iter().rev().skip(SNAPSHOTS_KEPT) {
            storage.remove(&snapshot_name(old))?;
        }
        storage.sync_directory()?;
        Ok(self.position)
    }

    /// Takes an unfinished file away.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn abandon(self, storage: &dyn Storage) -> io::Result<()> {
        storage.remove(&self.name)
    }
}

/// A part of a snapshot, and whose; none once the shard has no more.
pub type SnapshotPart = (u16, Option<Part>);

/// A snapshot on its way to the disk, from the parts of all shards.
///
/// Calling order: [`SnapshotWork::begin`], [`SnapshotWork::take`] until it says that there are no more, [`SnapshotWork::finish`];
/// or [`SnapshotWork::give_up`] when something fails before. Parts of one shard come in their order, shards in any.
pub struct SnapshotWork {
    writer: SnapshotWriter,
    shards_left: u32,
}

impl SnapshotWork {
    /// Starts the file.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin(storage: &dyn Storage, head: &SnapshotHead) -> io::Result<Self> {
        Ok(Self { writer: SnapshotWriter::create(storage, head)?, shards_left: head.shards })
    }

    /// Writes a part; whether there are more.
    ///
    /// # Errors
    /// If the disk fails, or spilled items cannot be read.
    pub fn take(&mut self, part: SnapshotPart) -> io::Result<bool> {
        match part {
            (shard, Some(part)) => {
                part.for_each_section(&mut |section| self.writer.write(shard, &section))?;
            }
            (_, None) => self.shards_left -= 1,
        }
        Ok(self.shards_left > 0)
    }

    /// Makes the snapshot durable; gives its bytes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish(self, storage: &dyn Storage) -> io::Result<u64> {
        assert_eq!(self.shards_left, 0, "a snapshot has the parts of all shards");
        self.writer.finish(storage)
    }

    /// Takes the unfinished file away.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn give_up(self, storage: &dyn Storage) -> io::Result<()> {
        self.writer.abandon(storage)
    }
}

/// Usage offsets of all files that are named like snapshots, ascending.
///
/// # Errors
/// If the disk fails.
pub fn snapshots(storage: &dyn Storage) -> io::Result<Vec<u64>> {
    let mut offsets: Vec<u64> = storage.list()?.iter().filter_map(|name| snapshot_offset(name)).collect();
    offsets.sort_unstable();
    Ok(offsets)
}

/// Takes a snapshot away, so that it has no place of those that are kept.
///
/// # Errors
/// If the disk fails.
pub fn take_snapshot_away(storage: &dyn Storage, usage_offset: u64) -> io::Result<()> {
    storage.remove(&snapshot_name(usage_offset))?;
    storage.sync_directory()
}

/// Takes a section: shard, kind, body.
pub type VisitSection<'v> = dyn FnMut(u16, SectionKind, &[u8]) -> Result<(), SnapshotError> + 'v;

/// Reads a snapshot: its head, then every section in the order of the file. What `visit` made of the sections counts
/// only if all of the file was whole.
///
/// # Errors
/// [`SnapshotError`]: the file is to be left aside.
pub fn read_snapshot(
    storage: &dyn Storage,
    usage_offset: u64,
    is_ours: impl FnOnce(&SnapshotHead) -> bool,
    visit: &mut VisitSection<'_>,
) -> Result<SnapshotHead, SnapshotError> {
    let (head, mut sections) = open_snapshot(storage, usage_offset)?;
    if !is_ours(&head) {
        return Err(SnapshotError::MustBeOfTheseLogs);
    }
    while let Some((shard, kind)) = sections.next()? {
        visit(shard, kind, &sections.body)?;
    }
    Ok(head)
}

/// What a file says that it is a snapshot of, whole or not.
///
/// # Errors
/// [`SnapshotError`]: it does not say so.
pub fn snapshot_head(storage: &dyn Storage, usage_offset: u64) -> Result<SnapshotHead, SnapshotError> {
    Ok(open_snapshot(storage, usage_offset)?.0)
}

/// Numbers of all runs that snapshots name, whole ones or not.
///
/// # Errors
/// If the disk fails.
pub fn runs_named(storage: &dyn Storage) -> io::Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for usage_offset in snapshots(storage)? {
        match add_runs_named(storage, usage_offset, &mut numbers) {
            // What ends early is left aside by every start; and one that is finished meanwhile takes an old one away.
            Err(SnapshotError::Io(error))
                if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(numbers)
}

/// Reads as far as the last shard's list of runs, which every shard gives first.
fn add_runs_named(
    storage: &dyn Storage,
    usage_offset: u64,
    numbers: &mut BTreeSet<u64>,
) -> Result<(), SnapshotError> {
    let (head, mut sections) = open_snapshot(storage, usage_offset)?;
    let mut shards = 0;
    while shards < head.shards
        && let Some((_, kind)) = sections.next()?
    {
        if kind == SectionKind::Runs {
            shards += 1;
            numbers.extend(runs_in(&sections.body).into_iter().flatten().map(|(name, _)| name.number));
        }
    }
    Ok(())
}

fn open_snapshot(
    storage: &dyn Storage,
    usage_offset: u64,
) -> Result<(SnapshotHead, Sections), SnapshotError> {
    let file = storage.open(&snapshot_name(usage_offset), false)?;
    let size = file.size()?;
    if size < HEADER_BYTES as u64 {
        return Err(SnapshotError::MustBeFinished { position: size });
    }
    let mut header = [0; HEADER_BYTES];
    file.read_at(0, &mut header)?;
    let head = SnapshotHead::decode(&header)?;
    if head.usage_offset != usage_offset {
        return Err(SnapshotError::MustBeOfTheseLogs);
    }
    let sections = Sections { file, size, position: HEADER_BYTES as u64, count: 0, body: Vec::new() };
    Ok((head, sections))
}

/// The sections of a file, one after the other.
struct Sections {
    file: Box<dyn StorageFile>,
    size: u64,
    position: u64,
    count: u64,
    /// Of the section that was given last.
    body: Vec<u8>,
}

impl Sections {
    /// Shard and kind of the next section; `None` behind a sound end mark.
    fn next(&mut self) -> Result<Option<(u16, SectionKind)>, SnapshotError> {
        let position = self.position;
        let broken = SnapshotError::MustBeWhole { position };
        let mut head = [0; SECTION_HEADER_BYTES];
        if self.size < position + SECTION_HEADER_BYTES as u64 {
            return Err(self.ends_early(position)?);
        }
        self.file.read_at(position, &mut head)?;
        let field = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let number = |at: usize| [0, 1, 2, 3].map(|index: usize| head[at + index]);
        let (kind, shard) = (field(0), field(2));
        let bytes = u32::from_le_bytes(number(4)) as usize;
        let end = position + (SECTION_HEADER_BYTES + bytes) as u64;
        if bytes > SECTION_BYTES_MAX {
            return Err(broken);
        }
        if end > self.size {
            return Err(self.ends_early(position)?);
        }
        self.body.resize(bytes, 0);
        self.file.read_at(position + SECTION_HEADER_BYTES as u64, &mut self.body)?;
        if crc_of(&[&head[..8], &self.body]) != u32::from_le_bytes(number(8)) {
            return Err(broken);
        }
        if kind == KIND_END {
            let is_whole = self.body == self.count.to_le_bytes() && end == self.size;
            return if is_whole { Ok(None) } else { Err(broken) };
        }
        let kind = SectionKind::from_code(kind).ok_or(broken)?;
        self.count += 1;
        self.position = end;
        Ok(Some((shard, kind)))
    }

    /// What is wrong with a section that the file does not have all of: behind a damaged length there is an end mark.
    fn ends_early(&self, position: u64) -> Result<SnapshotError, SnapshotError> {
        let mut mark = [0; END_MARK_BYTES];
        if let Some(at) = self.size.checked_sub(END_MARK_BYTES as u64).filter(|at| *at >= position) {
            self.file.read_at(at, &mut mark)?;
        }
        let (head, body) = mark.split_at(SECTION_HEADER_BYTES);
        let is_mark = head[..8] == end_mark_head() && crc_of(&[&head[..8], body]).to_le_bytes() == head[8..];
        let size = self.size;
        Ok(if is_mark {
            SnapshotError::MustBeWhole { position }
        } else {
            SnapshotError::MustBeFinished { position: size }
        })
    }
}

/// How an end mark begins: kind, shard, bytes.
fn end_mark_head() -> [u8; 8] {
    let [kind, high] = KIND_END.to_le_bytes();
    [kind, high, 0, 0, 8, 0, 0, 0]
}

/// The runs that a section of them names, and whether each is of the past; `None` if it is no such section.
pub(crate) fn runs_in(body: &[u8]) -> Option<Vec<(RunName, bool)>> {
    let mut fields = codec::FieldReader::new(body);
    let mut runs = Vec::new();
    while !fields.is_empty() {
        let name = RunName { number: fields.u64()?, header_crc: fields.u32()? };
        runs.push((name, fields.u8()? != 0));
    }
    Some(runs)
}

impl SnapshotHead {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        for (at, value) in
            [(8, SNAPSHOT_FORMAT), (12, self.incarnation), (16, self.partition), (20, self.shards)]
        {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&self.usage_offset.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.control_offset.to_le_bytes());
        bytes[40..HEADER_CRC_AT].copy_from_slice(&self.history);
        let crc = crc_of(&[&bytes[..HEADER_CRC_AT]]);
        bytes[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, SnapshotError> {
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|index: usize| bytes[at + index]));
        let offset = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err(SnapshotError::MustBeWhole { position: 0 });
        }
        if number(HEADER_CRC_AT) != crc_of(&[&bytes[..HEADER_CRC_AT]]) {
            return Err(SnapshotError::MustBeWhole { position: HEADER_CRC_AT as u64 });
        }
        if number(8) != SNAPSHOT_FORMAT {
            return Err(SnapshotError::MustBeOfThisFormat { format: number(8) });
        }
        let mut history = [0; 32];
        history.copy_from_slice(&bytes[40..HEADER_CRC_AT]);
        Ok(Self {
            incarnation: number(12),
            partition: number(16),
            shards: number(20),
            usage_offset: offset(24),
            control_offset: offset(32),
            history,
        })
    }
}

#[cfg(test)]
mod tests;
