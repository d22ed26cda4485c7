//! The bytes of an outbox file: a row of records.
//!
//! Owns: the layout and its checksum, finding the records that are whole. Leaves to others: files (`super`).
//!
//! ```text
//!  record   0  4  magic       "TMO1"
//!           4  4  body_bytes
//!           8  4  kind        1 a batch: its frame;  2 a mark: all before a position is acknowledged
//!          12  4  crc32c      of the file's number, the record's offset, bytes 0 to 12, and the body
//!          16     body        then zeros up to a multiple of 8
//!  mark     0  8  file        number of the file that the position lies in
//!           8  8  offset      in it
//! ```
//!
//! Invariants: a record is valid at one place only, so that bytes of an older file never pass for a record; records start
//! at multiples of 8, so that those behind a damaged stretch are found again.

use crc_fast::{CrcAlgorithm, Digest};
use domain::limits::BATCH_BYTES_MAX;

const MAGIC: [u8; 4] = *b"TMO1";
const BODY_BYTES_OFFSET: usize = 4;
const KIND_OFFSET: usize = 8;
const CRC_OFFSET: usize = 12;
/// Bytes before a body.
pub(crate) const HEAD_BYTES: usize = 16;
/// Records start at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;
/// A record whose body is a frame.
pub(crate) const KIND_BATCH: u32 = 1;
/// A record whose body is a [`Position`].
pub(crate) const KIND_MARK: u32 = 2;

/// A place in an outbox; later places are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Number of the file.
    pub(crate) file: u64,
    /// Byte in it.
    pub(crate) offset: u64,
}

impl Position {
    pub(crate) fn encode(self) -> [u8; 16] {
        (u128::from(self.offset) << 64 | u128::from(self.file)).to_le_bytes()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let both = u128::from_le_bytes(body.try_into().ok()?);
        Some(Self { file: both as u64, offset: (both >> 64) as u64 }) // the lower and the upper half
    }
}

/// A record in memory.
pub(crate) struct Record<'a> {
    pub(crate) kind: u32,
    pub(crate) body: &'a [u8],
    /// Bytes from its start to the next record.
    pub(crate) bytes: usize,
}

/// Bytes that a record with such a body takes.
pub(crate) fn record_bytes(body_bytes: usize) -> usize {
    (HEAD_BYTES + body_bytes).next_multiple_of(ALIGNMENT)
}

/// Appends a record that will lie at a position.
pub(crate) fn encode(at: Position, kind: u32, body: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes()); // a frame, at most BATCH_BYTES_MAX
    bytes.extend_from_slice(&kind.to_le_bytes());
    let crc = checksum(at, &bytes[start..], body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(start + record_bytes(body.len()), 0);
}

/// Bytes of the record that starts here, as its head says; believed only as far as its magic and limits.
pub(crate) fn claimed_bytes(head: &[u8]) -> Option<usize> {
    let field = |at: usize| head.get(at..)?.first_chunk().copied();
    let body_bytes = u32::from_le_bytes(field(BODY_BYTES_OFFSET)?) as usize;
    (field(0)? == MAGIC && body_bytes <= BATCH_BYTES_MAX).then(|| record_bytes(body_bytes))
}

/// The record at the start of some bytes that lie at a position, if it is whole and valid there.
pub(crate) fn decode(at: Position, bytes: &[u8]) -> Option<Record<'_>> {
    let whole = bytes.get(..claimed_bytes(bytes)?)?;
    let field = |at: usize| Some(u32::from_le_bytes(*whole.get(at..)?.first_chunk()?));
    let body_bytes = field(BODY_BYTES_OFFSET)? as usize;
    let (body, padding) = whole.get(HEAD_BYTES..)?.split_at_checked(body_bytes)?;
    let is_valid = field(CRC_OFFSET)? == checksum(at, &whole[..CRC_OFFSET], body)
        && padding.iter().all(|byte| *byte == 0);
    is_valid.then_some(Record { kind: field(KIND_OFFSET)?, body, bytes: whole.len() })
}

fn checksum(at: Position, head: &[u8], body: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&at.encode());
    digest.update(head);
    digest.update(body);
    digest.finalize() as u32 // the algorithm has 32 bits
}

/// Offset of the first valid record at or behind an offset, if there is one.
pub(crate) fn find(file: u64, bytes: &[u8], from: usize) -> Option<usize> {
    let starts = (from.next_multiple_of(ALIGNMENT)..bytes.len()).step_by(ALIGNMENT);
    let is_valid = |start: &usize| {
        bytes[*start..].starts_with(&MAGIC)
            && decode(Position { file, offset: *start as u64 }, &bytes[*start..]).is_some()
    };
    starts.into_iter().find(is_valid)
}
