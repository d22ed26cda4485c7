//! What stays in a log's folder of a segment that lies in the archive, little endian.
//!
//! Owns: the layout, writing and reading it. Leaves to others: when a segment goes (`super`).
//!
//! ```text
//! stub      {base_offset:020}.arc, 128 bytes
//!           0 magic "TLMKARC1"  8 version u16 = 1  10 kind u8  11 zero u8  12 partition u16  14 zero u16
//!          16 incarnation u32  20 last_block_crc u32  24 base_offset u64  32 end_offset u64
//!          40 last_block_offset u64  48 first_recorded_at i64  56 last_recorded_at i64
//!          64 sha256 of the segment's file  96 zeros  124 crc32c u32 over bytes 0..124
//! ```
//!
//! Invariants: a stub has its name only once it is whole and durable.

use std::ops::Range;

use super::super::format::{
    LogError, LogOptions, SEGMENT_HEADER_BYTES, crc_of, io_error, segment_name, take,
};
use crate::io::Storage;

const STUB_BYTES: usize = 128;
const MAGIC: &[u8; 8] = b"TLMKARC1";
const VERSION: u16 = 1;

/// A whole segment: where it is in the log, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedSegment {
    /// Offset of its first block.
    pub base: u64,
    /// Offset behind its last block.
    pub end_offset: u64,
    /// Stamps of its first and last block, in nanoseconds.
    pub recorded_at: (i64, i64),
    /// SHA-256 of its file.
    pub sha256: [u8; 32],
    /// Offset and checksum of its last block.
    pub(in crate::log) last_block: (u64, u32),
}

impl ArchivedSegment {
    /// Name of its file.
    pub fn file(&self) -> String {
        segment_name(self.base)
    }

    /// Bytes of its file.
    pub fn bytes(&self) -> u64 {
        self.end_offset - self.base + SEGMENT_HEADER_BYTES as u64
    }

    /// Its offsets.
    pub fn offsets(&self) -> Range<u64> {
        self.base..self.end_offset
    }

    fn encode(&self, options: &LogOptions) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STUB_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([options.kind as u8, 0]);
        bytes.extend(options.partition.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(options.incarnation.to_le_bytes());
        bytes.extend(self.last_block.1.to_le_bytes());
        bytes.extend([self.base, self.end_offset, self.last_block.0].map(u64::to_le_bytes).concat());
        bytes.extend([self.recorded_at.0, self.recorded_at.1].map(i64::to_le_bytes).concat());
        bytes.extend(self.sha256);
        bytes.extend([0; 28]);
        bytes.extend(crc_of(&[&bytes]).to_le_bytes());
        assert_eq!(bytes.len(), STUB_BYTES, "the stub is as it is drawn");
        bytes
    }

    fn decode(bytes: &[u8; STUB_BYTES], options: &LogOptions) -> Option<Self> {
        let number = |at| u64::from_le_bytes(take(bytes, at));
        let stamp = |at| i64::from_le_bytes(take(bytes, at));
        let stub = Self {
            base: number(24),
            end_offset: number(32),
            last_block: (number(40), u32::from_le_bytes(take(bytes, 20))),
            recorded_at: (stamp(48), stamp(56)),
            sha256: take(bytes, 64),
        };
        let is_ordered = stub.base <= stub.last_block.0 && stub.last_block.0 < stub.end_offset;
        (is_ordered && stub.encode(options) == bytes).then_some(stub)
    }
}

pub(super) fn stub_name(base: u64) -> String {
    format!("{base:020}.arc")
}

/// The base offset of a stub's name.
pub(in crate::log) fn base_of_stub(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".arc")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// Reads a stub, which must be there.
///
/// # Errors
/// [`LogError`], also for a stub that does not validate.
pub(in crate::log) fn read_stub(
    log: &dyn Storage,
    options: &LogOptions,
    base: u64,
) -> Result<ArchivedSegment, LogError> {
    let name = stub_name(base);
    let file = log.open(&name, false).map_err(io_error("open", &name))?;
    let size = file.size().map_err(io_error("measure", &name))?;
    let mut bytes = [0; STUB_BYTES];
    let what = "the stub of an archived segment does not validate";
    let damaged = || LogError::Damaged { file: name.clone(), position: 0, what };
    if size != STUB_BYTES as u64 {
        return Err(damaged());
    }
    file.read_at(0, &mut bytes).map_err(io_error("read", &name))?;
    ArchivedSegment::decode(&bytes, options).filter(|stub| stub.base == base).ok_or_else(damaged)
}

/// Leaves a stub in place of another one, or of none.
pub(super) fn write_stub(
    log: &dyn Storage,
    options: &LogOptions,
    segment: &ArchivedSegment,
) -> Result<(), LogError> {
    let name = stub_name(segment.base);
    let new = format!("{name}.new");
    let names = log.list().map_err(io_error("list", "the log's directory"))?;
    for left in [&new, &name].into_iter().filter(|left| names.contains(left)) {
        log.remove(left).map_err(io_error("remove", left))?;
    }
    let file = log.create(&new).map_err(io_error("make", &new))?;
    file.write_at(0, &segment.encode(options)).map_err(io_error("write", &new))?;
    file.sync_data().map_err(io_error("sync", &new))?;
    log.rename(&new, &name).map_err(io_error("name", &name))?;
    log.sync_directory().map_err(io_error("sync", "the log's directory"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogKind;

    #[test]
    fn a_stub_is_read_as_it_was_written_and_nothing_else_is_one() {
        let options =
            LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 3, segment_bytes: 1 << 20 };
        let segment = ArchivedSegment {
            base: 8_192,
            end_offset: 40_960,
            recorded_at: (-5, 77),
            sha256: [9; 32],
            last_block: (32_768, 0xdead_beef),
        };
        let bytes: [u8; STUB_BYTES] = segment.encode(&options).try_into().unwrap();
        assert_eq!(ArchivedSegment::decode(&bytes, &options), Some(segment.clone()));
        assert_eq!(segment.bytes(), 32_768 + 4_096);
        for byte in 0..STUB_BYTES {
            let mut other = bytes;
            other[byte] ^= 1;
            assert_eq!(ArchivedSegment::decode(&other, &options), None, "byte {byte}");
        }
        let other = LogOptions { incarnation: 4, ..options };
        assert_eq!(ArchivedSegment::decode(&bytes, &other), None);
    }
}
