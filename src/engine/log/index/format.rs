//! Bytes of a segment's index, little endian.
//!
//! Owns: the layout and its checks. Leaves to others: what is put there (`build`), what is asked (`mod`).
//!
//! ```text
//! index     {base_offset:020}.idx: header 144, filters of each stretch, then the table: stretches, then barriers
//! header    0 magic "TLMKIDX1"  8 version u16 = 1  10 kind u8  11 zero u8  12 partition u16  14 zero u16
//!          16 incarnation u32  20 zero u32  24 base_offset u64  32 end_offset u64  40 last_block_offset u64
//!          48 last_block_crc u32  52 stretches u32  56 barriers u32  60 zero u32  64 table_position u64
//!          72 key_check u64  80 events u64  88 first_recorded_at i64  96 last_recorded_at i64
//!         104 first_time i64  112 last_time i64  120 table_crc32c u32  124 zeros
//!         140 crc32c u32 over bytes 0..140
//! stretch   0 first_offset u64  8 end_offset u64  16 events u64  24 first_time i64  32 last_time i64
//!          40 filters_position u64  48 subject_bytes u32  52 identity_bytes u32  56 subject_crc32c u32
//!          60 identity_crc32c u32; the filter of subjects lies first, that of identities behind it
//! barrier   0 offset u64  8 control_offset u64
//! ```
//!
//! The header names the last block of its segment by offset and checksum, which covers what it lies behind: an index
//! says something only of the bytes that it was made of. `key_check` is a digest under the key of identities.

use super::super::format::{LogOptions, crc_of, take};

pub(super) const HEADER_BYTES: usize = 144;
const STRETCH_BYTES: usize = 64;
const BARRIER_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"TLMKIDX1";
const VERSION: u16 = 1;

/// What an index says of its segment as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) base: u64,
    pub(super) end_offset: u64,
    pub(super) last_block: (u64, u32),
    pub(super) stretches: u32,
    pub(super) barriers: u32,
    pub(super) table_position: u64,
    pub(super) key_check: u64,
    pub(super) events: u64,
    /// First and last stamp.
    pub(super) recorded_at: (i64, i64),
    /// First and last time of an event; of no events `(i64::MAX, i64::MIN)`.
    pub(super) time: (i64, i64),
    pub(super) table_crc: u32,
}

impl Header {
    pub(super) fn encode(&self, options: &LogOptions) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([options.kind as u8, 0]);
        bytes.extend(options.partition.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(options.incarnation.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.base, self.end_offset, self.last_block.0].map(u64::to_le_bytes).concat());
        let counts = [self.last_block.1, self.stretches, self.barriers, 0];
        bytes.extend(counts.map(u32::to_le_bytes).concat());
        bytes.extend([self.table_position, self.key_check, self.events].map(u64::to_le_bytes).concat());
        let times = [self.recorded_at.0, self.recorded_at.1, self.time.0, self.time.1];
        bytes.extend(times.map(i64::to_le_bytes).concat());
        bytes.extend(self.table_crc.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(crc_of(&[&bytes]).to_le_bytes());
        assert_eq!(bytes.len(), HEADER_BYTES, "the header is as it is drawn");
        bytes
    }

    /// Reads a header; `None` if it is torn, of another version, or of another log.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], options: &LogOptions) -> Option<Self> {
        let number = |at| u64::from_le_bytes(take(bytes, at));
        let small = |at| u32::from_le_bytes(take(bytes, at));
        let time = |at| i64::from_le_bytes(take(bytes, at));
        let header = Self {
            base: number(24),
            end_offset: number(32),
            last_block: (number(40), small(48)),
            stretches: small(52),
            barriers: small(56),
            table_position: number(64),
            key_check: number(72),
            events: number(80),
            recorded_at: (time(88), time(96)),
            time: (time(104), time(112)),
            table_crc: small(120),
        };
        (header.encode(options) == bytes).then_some(header)
    }

    pub(super) fn table_bytes(&self) -> usize {
        self.stretches as usize * STRETCH_BYTES + self.barriers as usize * BARRIER_BYTES
    }
}

/// Blocks of a segment that follow each other, and where the filters over them lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StretchEntry {
    pub(super) first_offset: u64,
    pub(super) end_offset: u64,
    pub(super) events: u64,
    pub(super) time: (i64, i64),
    pub(super) filters_position: u64,
    /// Bytes and checksum.
    pub(super) subjects: (u32, u32),
    pub(super) identities: (u32, u32),
}

/// A barrier and the control-log offset that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarrierEntry {
    pub(super) offset: u64,
    pub(super) control_offset: u64,
}

pub(super) fn encode_table(stretches: &[StretchEntry], barriers: &[BarrierEntry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in stretches {
        bytes.extend([entry.first_offset, entry.end_offset, entry.events].map(u64::to_le_bytes).concat());
        bytes.extend([entry.time.0, entry.time.1].map(i64::to_le_bytes).concat());
        bytes.extend(entry.filters_position.to_le_bytes());
        let filters = [entry.subjects.0, entry.identities.0, entry.subjects.1, entry.identities.1];
        bytes.extend(filters.map(u32::to_le_bytes).concat());
    }
    for entry in barriers {
        bytes.extend([entry.offset, entry.control_offset].map(u64::to_le_bytes).concat());
    }
    bytes
}

/// Reads a table that has the length and the checksum of its header.
pub(super) fn decode_table(bytes: &[u8], header: &Header) -> (Vec<StretchEntry>, Vec<BarrierEntry>) {
    let (stretches, barriers) = bytes.split_at(header.stretches as usize * STRETCH_BYTES);
    let stretch = |bytes: &[u8]| {
        let number = |at| u64::from_le_bytes(take(bytes, at));
        let small = |at| u32::from_le_bytes(take(bytes, at));
        StretchEntry {
            first_offset: number(0),
            end_offset: number(8),
            events: number(16),
            time: (i64::from_le_bytes(take(bytes, 24)), i64::from_le_bytes(take(bytes, 32))),
            filters_position: number(40),
            subjects: (small(48), small(56)),
            identities: (small(52), small(60)),
        }
    };
    let barrier = |bytes: &[u8]| BarrierEntry {
        offset: u64::from_le_bytes(take(bytes, 0)),
        control_offset: u64::from_le_bytes(take(bytes, 8)),
    };
    let stretches = stretches.chunks_exact(STRETCH_BYTES).map(stretch).collect();
    (stretches, barriers.chunks_exact(BARRIER_BYTES).map(barrier).collect())
}
