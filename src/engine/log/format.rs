//! Bytes of a log, little endian. `schemas/log.md` says the same for people.
//!
//! ```text
//! segment   {base_offset:020}.seg: header 4096, then blocks; the logical offset of a byte is
//!           base_offset + (file position − 4096), so offsets go on without gap from segment to segment
//! header    0 magic "TLMKSEG1"  8 version u16 = 1  10 kind u8  11 zero u8  12 partition u16  14 zero u16
//!          16 tenant u32 = 0  20 incarnation u32  24 base_offset u64  32 created_at i64
//!          40 crc32c u32 over all 4096 bytes with this field zero  44 zeros up to 4096
//! block     0 magic "TLBK"  4 version u16 = 1  6 zero u16  8 body_bytes u32 (records, unpadded)  12 records u32
//!          16 recorded_at i64  24 offset u64  32 incarnation u32  36 kind u8  37 zero u8  38 partition u16
//!          40 body_crc32c u32 over bytes 8..40 and the body, zero padding included  44 zeros  60 header_crc32c u32
//!             over bytes 0..60; then records, then zeros up to a multiple of 4096
//! record    0 payload_bytes u32  4 kind u16  6 zero u16  8 tenant u32 = 0  12 zero u32  16 received_at i64
//!          24 zeros; then the payload, then zeros up to a multiple of 16
//! CLEAN     0 magic "TLMKCLN1"  8 end_offset u64  16 incarnation u32  20 kind u8  21 zero u8  22 partition u16
//!          24 last_block_offset u64  32 last_block_crc u32  36 zeros  60 crc32c u32 over bytes 0..60
//! ```
//!
//! The body checksum covers offset, incarnation, kind and partition: a block validates only where it was written.

use std::fmt;
use std::io;
use std::sync::Arc;

use domain::limits::BATCH_BYTES_MAX;

use super::archive::ArchiveFault;

pub(super) const SEGMENT_HEADER_BYTES: usize = 4_096;
pub(super) const BLOCK_HEADER_BYTES: usize = 64;
pub(super) const RECORD_HEADER_BYTES: usize = 32;
pub(crate) const SECTOR_BYTES: usize = 4_096;
/// Largest payload of a record.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Largest block.
pub(super) const BLOCK_BYTES_MAX: usize = 16 << 20;
/// Offsets stay below this, so that an event position packs into 64 bits.
pub(super) const OFFSET_END: u64 = 1 << 48;
pub(super) const CLEAN_FILE: &str = "CLEAN";
pub(super) const CLEAN_BYTES: usize = 64;

const _: () =
    assert!((BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES).is_multiple_of(16), "payloads are 16-aligned");
const _: () =
    assert!(RECORD_BYTES_MAX >= BATCH_BYTES_MAX + (1 << 18), "a batch and its refusals fit a record");
const _: () =
    assert!(BLOCK_BYTES_MAX >= 2 * RECORD_BYTES_MAX, "a block takes a record beside what is staged");

const SEGMENT_MAGIC: &[u8; 8] = b"TLMKSEG1";
const BLOCK_MAGIC: &[u8; 4] = b"TLBK";
const CLEAN_MAGIC: &[u8; 8] = b"TLMKCLN1";
const VERSION: u16 = 1;

/// Which log a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogKind {
    /// Event batches and barriers.
    Usage = 1,
    /// Everything else that can change a verdict, an amount or a journal.
    Control = 2,
    /// Charge batches.
    Charges = 3,
    /// Journals.
    Journals = 4,
}

/// What a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Which log.
    pub kind: LogKind,
    /// Its partition; 0 where there is one.
    pub partition: u16,
    /// Counts restorations of old backups.
    pub incarnation: u32,
    /// Bytes that a segment is preallocated with.
    pub segment_bytes: u64,
}

/// Why a log cannot be read or written.
#[derive(Clone, Debug)]
pub enum LogError {
    /// The disk failed.
    Io {
        /// What was done.
        doing: &'static str,
        /// The file.
        file: String,
        /// The failure.
        source: Arc<io::Error>,
    },
    /// Bytes are not what was written.
    Damaged {
        /// The file.
        file: String,
        /// Position in the file.
        position: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// An earlier write or sync failed; the writer does nothing any more.
    WriterPoisoned {
        /// The first failure.
        first: Arc<LogError>,
    },
    /// A record, a block or the log itself would be too large.
    RecordMustFit,
    /// A segment lies in the archive, and cannot be read there.
    Archived {
        /// The segment.
        file: String,
        /// Why.
        fault: ArchiveFault,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Io { doing, file, .. } => write!(f, "cannot {doing} {file}"),
            LogError::Damaged { file, position, what } => {
                write!(f, "segment {file} is damaged at byte {position}: {what}")
            }
            LogError::WriterPoisoned { .. } => f.write_str("the log stopped at an earlier failure"),
            LogError::RecordMustFit => {
                f.write_str("a record must fit 4 MiB, a block 16 MiB, and a log 256 TiB")
            }
            LogError::Archived { file, .. } => write!(f, "segment {file} is in the archive"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogError::Io { source, .. } => Some(&**source),
            LogError::WriterPoisoned { first } => Some(&**first),
            LogError::Archived { fault, .. } => Some(fault),
            LogError::Damaged { .. } | LogError::RecordMustFit => None,
        }
    }
}

pub(super) fn io_error(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> LogError {
    let file = file.to_string();
    move |source| match ArchiveFault::of(&source) {
        Some(fault) => LogError::Archived { file, fault },
        None => LogError::Io { doing, file, source: Arc::new(source) },
    }
}

pub(super) fn segment_name(base_offset: u64) -> String {
    format!("{base_offset:020}.seg")
}

pub(super) fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// CRC-32C over several pieces.
pub(crate) fn crc_of(pieces: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize() as u32
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

pub(super) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the length of the array")
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

pub(super) fn encode_segment_header(options: &LogOptions, base_offset: u64, created_at: i64) -> Vec<u8> {
    let mut header = vec![0; SEGMENT_HEADER_BYTES];
    put(&mut header, 0, *SEGMENT_MAGIC);
    put(&mut header, 8, VERSION.to_le_bytes());
    put(&mut header, 10, [options.kind as u8]);
    put(&mut header, 12, options.partition.to_le_bytes());
    put(&mut header, 20, options.incarnation.to_le_bytes());
    put(&mut header, 24, base_offset.to_le_bytes());
    put(&mut header, 32, created_at.to_le_bytes());
    let crc = crc_of(&[&header]);
    put(&mut header, 40, crc.to_le_bytes());
    header
}

/// Checks a segment header; gives the stamp that it was made for. An error says what is wrong and where.
pub(super) fn check_segment_header(
    header: &[u8],
    options: &LogOptions,
    base_offset: u64,
) -> Result<i64, (u64, &'static str)> {
    let mut unsigned = header.to_vec();
    put(&mut unsigned, 40, [0; 4]);
    if crc_of(&[&unsigned]) != u32::from_le_bytes(take(header, 40)) {
        return Err((0, "the segment header's checksum differs"));
    }
    if header[..8] != *SEGMENT_MAGIC || take(header, 8) != VERSION.to_le_bytes() {
        return Err((0, "the segment is of another format or version"));
    }
    let created_at = i64::from_le_bytes(take(header, 32));
    if header != encode_segment_header(options, base_offset, created_at) {
        return Err((10, "the segment belongs to another log, incarnation or offset"));
    }
    Ok(created_at)
}

/// What a block's header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHeader {
    pub(super) body_bytes: usize,
    pub(super) records: u32,
    pub(super) recorded_at: i64,
    body_crc: u32,
}

impl BlockHeader {
    /// Bytes of the whole block on disk.
    pub(super) fn block_bytes(&self) -> usize {
        (BLOCK_HEADER_BYTES + self.body_bytes).next_multiple_of(SECTOR_BYTES)
    }

    /// Reads a header that belongs at an offset.
    pub(super) fn decode(header: &[u8], options: &LogOptions, offset: u64) -> Result<Self, &'static str> {
        if crc_of(&[&header[..60]]) != u32::from_le_bytes(take(header, 60)) {
            return Err("a block header's checksum differs");
        }
        if header[..4] != *BLOCK_MAGIC || take(header, 4) != VERSION.to_le_bytes() {
            return Err("a block is of another format or version");
        }
        let is_ours = u64::from_le_bytes(take(header, 24)) == offset
            && u32::from_le_bytes(take(header, 32)) == options.incarnation
            && header[36] == options.kind as u8
            && u16::from_le_bytes(take(header, 38)) == options.partition;
        if !is_ours {
            return Err("a block belongs to another log or offset");
        }
        let body_bytes = u32::from_le_bytes(take(header, 8)) as usize;
        if !(RECORD_HEADER_BYTES..=BLOCK_BYTES_MAX).contains(&body_bytes) {
            return Err("a block has an impossible length");
        }
        Ok(Self {
            body_bytes,
            records: u32::from_le_bytes(take(header, 12)),
            recorded_at: i64::from_le_bytes(take(header, 16)),
            body_crc: u32::from_le_bytes(take(header, 40)),
        })
    }

    /// Checks a whole block.
    pub(super) fn check_body(&self, block: &[u8]) -> Result<(), &'static str> {
        if crc_of(&[&block[8..40], &block[BLOCK_HEADER_BYTES..]]) != self.body_crc {
            return Err("a block's checksum differs");
        }
        Ok(())
    }

    pub(super) fn body_crc(&self) -> u32 {
        self.body_crc
    }
}

/// Writes the header over the first 64 bytes of a whole, padded block.
pub(super) fn seal_block(
    block: &mut [u8],
    options: &LogOptions,
    offset: u64,
    body_bytes: usize,
    records: u32,
    recorded_at: i64,
) -> u32 {
    put(block, 0, *BLOCK_MAGIC);
    put(block, 4, VERSION.to_le_bytes());
    put(block, 6, [0; 2]);
    put(block, 8, u32::try_from(body_bytes).expect("a block is far below 4 GiB").to_le_bytes());
    put(block, 12, records.to_le_bytes());
    put(block, 16, recorded_at.to_le_bytes());
    put(block, 24, offset.to_le_bytes());
    put(block, 32, options.incarnation.to_le_bytes());
    put(block, 36, [options.kind as u8, 0]);
    put(block, 38, options.partition.to_le_bytes());
    let crc = crc_of(&[&block[8..40], &block[BLOCK_HEADER_BYTES..]]);
    put(block, 40, crc.to_le_bytes());
    put(block, 44, [0; 16]);
    let header_crc = crc_of(&[&block[..60]]);
    put(block, 60, header_crc.to_le_bytes());
    crc
}

pub(super) fn encode_record_header(
    payload_bytes: usize,
    kind: u16,
    received_at: i64,
) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = [0; RECORD_HEADER_BYTES];
    put(&mut header, 0, u32::try_from(payload_bytes).expect("a record is far below 4 GiB").to_le_bytes());
    put(&mut header, 4, kind.to_le_bytes());
    put(&mut header, 16, received_at.to_le_bytes());
    header
}

/// Payload bytes, kind and received_at of a record header; `None` if a reserved field is set.
pub(super) fn decode_record_header(header: &[u8]) -> Option<(usize, u16, i64)> {
    let reserved_is_zero = is_zero(&header[6..16]) && is_zero(&header[24..32]);
    reserved_is_zero.then(|| {
        let payload_bytes = u32::from_le_bytes(take(header, 0)) as usize;
        (payload_bytes, u16::from_le_bytes(take(header, 4)), i64::from_le_bytes(take(header, 16)))
    })
}

/// What a clean end looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CleanMarker {
    pub(super) end_offset: u64,
    pub(super) last_block_offset: u64,
    pub(super) last_block_crc: u32,
}

impl CleanMarker {
    pub(super) fn encode(&self, options: &LogOptions) -> Vec<u8> {
        let mut bytes = vec![0; CLEAN_BYTES];
        put(&mut bytes, 0, *CLEAN_MAGIC);
        put(&mut bytes, 8, self.end_offset.to_le_bytes());
        put(&mut bytes, 16, options.incarnation.to_le_bytes());
        put(&mut bytes, 20, [options.kind as u8]);
        put(&mut bytes, 22, options.partition.to_le_bytes());
        put(&mut bytes, 24, self.last_block_offset.to_le_bytes());
        put(&mut bytes, 32, self.last_block_crc.to_le_bytes());
        let crc = crc_of(&[&bytes[..60]]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], options: &LogOptions) -> Option<Self> {
        if bytes.len() != CLEAN_BYTES {
            return None;
        }
        let marker = Self {
            end_offset: u64::from_le_bytes(take(bytes, 8)),
            last_block_offset: u64::from_le_bytes(take(bytes, 24)),
            last_block_crc: u32::from_le_bytes(take(bytes, 32)),
        };
        (marker.encode(options) == bytes).then_some(marker)
    }
}
