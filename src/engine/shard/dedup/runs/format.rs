//! The bytes of a run file: header, entries, index of buckets, filter.
//!
//! Owns: layouts, names, encoding. Leaves to others: in which order parts are written (`super::writer`) and read
//! (`super::run`).
//!
//! ```text
//! file `{number, 16 hex digits}.run`:  header, entries, index, filter; little-endian
//!
//! header, 4,096 bytes
//!     0  magic           8   "TMRUN\r\n\0"
//!     8  format          4   RUN_FORMAT
//!    12  incarnation     4   of the logs
//!    16  partition       4   of the usage log
//!    20  shard           4
//!    24  key check       8   what tells the identity key of this log from others
//!    32  number          8   as in the name
//!    40  entries         8
//!    48  first position  8   no entry lies before it
//!    56  last position   8   no entry lies behind it
//!    64  first time      8   no entry is earlier
//!    72  last time       8   no entry is later
//!    80  bucket bits     4   buckets are 2 to this power
//!    84  filter lines    4   of 64 bytes; 0: without filter
//!    88  index crc       4   CRC-32C
//!    92  filter crc      4   CRC-32C
//!    96  slices    64 x 16   entries 8, end of the times of those that count 8: equal parts of the span of positions
//!  4092  crc             4   CRC-32C of bytes 0..4092
//! entry, as short as the run allows; sorted by key, then position
//!        key                 the low bytes of the key; the bucket gives the others
//!        payload digest  8
//!        position            less the first, in as many bytes as the span needs
//!        time, standing      time less the first << 2 | standing, likewise
//! index: for each bucket, the count of entries up to its end 4, CRC-32C of its entries 4
//! filter: see `super::filter`
//! ```
//!
//! A key is the identity with the bits of the slot moved to its end, so that the keys of every shard are spread evenly
//! over all 128 bits.
//!
//! Invariants: exact. Bucket and key bytes together are all 128 bits of an identity.

use domain::EventPosition;
use domain::limits::SLOTS;

use super::super::{Seen, Standing};
use crate::log::crc_of;
use crate::snapshot::codec::{FieldReader, Fields};

/// Version of the layout.
pub(crate) const RUN_FORMAT: u32 = 1;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 4_096;
/// Parts of the span of positions that are counted apart.
pub(crate) const SLICES: usize = 64;
/// Bytes of a bucket in the index.
pub(crate) const BUCKET_BYTES: usize = 8;
/// Entries of one run: what an index counts to.
pub(crate) const RUN_ENTRIES_MAX: u64 = u32::MAX as u64;

const MAGIC: [u8; 8] = *b"TMRUN\r\n\0";
const CRC_AT: usize = HEADER_BYTES - 4;
/// Entries of a bucket, about.
const BUCKET_ENTRIES: u64 = 64;
const STANDING_BITS: u32 = 2;

const _: () = assert!(96 + SLICES * 16 <= CRC_AT, "the slices fit a header");

/// Which log runs are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLog {
    /// Incarnation of the logs.
    pub incarnation: u32,
    /// Partition of the usage log.
    pub partition: u32,
    /// What tells the identity key of this log from others.
    pub key_check: u64,
}

/// A run, and no other one that ever had its number: a header has the checksums of all that the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunName {
    pub(crate) number: u64,
    pub(crate) header_crc: u32,
}

/// An entry on its way from file to file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunEntry {
    pub(crate) key: u128,
    pub(crate) seen: Seen,
}

/// The key of an identity.
#[inline]
pub(crate) fn key_of(identity: u128) -> u128 {
    identity.rotate_left(SLOTS.trailing_zeros())
}

/// The identity of a key.
#[inline]
pub(crate) fn identity_of(key: u128) -> u128 {
    key.rotate_right(SLOTS.trailing_zeros())
}

/// Entries of a part of the span of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) entries: u64,
    /// Every entry of it that counts is earlier.
    pub(crate) times_end: i64,
}

impl Slice {
    pub(crate) const EMPTY: Slice = Slice { entries: 0, times_end: i64::MIN };

    /// Takes one more entry.
    #[inline]
    pub(crate) fn count(&mut self, seen: &Seen) {
        self.entries += 1;
        if matches!(seen.standing, Standing::Metered | Standing::Pending) {
            self.times_end = self.times_end.max(seen.time + 1);
        }
    }
}

/// What bounds the entries of a run; gives their layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) positions: (EventPosition, EventPosition),
    pub(crate) times: (i64, i64),
    pub(crate) bucket_bits: u32,
}

impl Bounds {
    /// Bounds of at most so many entries.
    pub(crate) fn new(
        entries_max: u64,
        positions: (EventPosition, EventPosition),
        times: (i64, i64),
    ) -> Self {
        let buckets = entries_max.div_ceil(BUCKET_ENTRIES).max(1).next_power_of_two();
        Self { positions, times, bucket_bits: buckets.trailing_zeros() }
    }

    pub(crate) fn buckets(&self) -> u64 {
        1 << self.bucket_bits
    }

    /// The bucket of a key.
    #[inline]
    pub(crate) fn bucket_of(&self, key: u128) -> u64 {
        ((key >> 64) as u64).checked_shr(64 - self.bucket_bits).unwrap_or(0)
    }

    fn position_span(&self) -> u64 {
        self.positions.1.to_bits() - self.positions.0.to_bits()
    }

    /// The slice of a position; positions before the first belong to it.
    pub(crate) fn slice_of(&self, position: EventPosition) -> usize {
        let behind = position.to_bits().saturating_sub(self.positions.0.to_bits());
        let slice = u128::from(behind) * SLICES as u128 / (u128::from(self.position_span()) + 1);
        slice.min(SLICES as u128 - 1) as usize
    }

    /// The first position of a slice.
    fn slice_start(&self, slice: usize) -> EventPosition {
        let span = u128::from(self.position_span()) + 1;
        let behind = (slice as u128 * span).div_ceil(SLICES as u128) as u64;
        EventPosition::from_bits(self.positions.0.to_bits() + behind)
    }

    pub(crate) fn layout(&self) -> Layout {
        let times = self.times.1.abs_diff(self.times.0) << STANDING_BITS | ((1 << STANDING_BITS) - 1);
        let key = 16 - (self.bucket_bits / 8) as usize;
        Layout { key, position: bytes_of(self.position_span()), time: bytes_of(times) }
    }
}

/// Bytes that a number needs.
fn bytes_of(number: u64) -> usize {
    (64 - number.leading_zeros() as usize).div_ceil(8)
}

/// Bytes of each field of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    key: usize,
    position: usize,
    time: usize,
}

impl Layout {
    /// Bytes of an entry.
    pub(crate) fn entry_bytes(&self) -> usize {
        self.key + 8 + self.position + self.time
    }

    /// Whether an entry of a bucket has a key; both lie in the bucket.
    #[inline]
    pub(crate) fn has_key(&self, entry: &[u8], key: u128) -> bool {
        entry[..self.key] == key.to_be_bytes()[16 - self.key..]
    }

    /// Adds an entry.
    #[inline]
    pub(crate) fn encode(&self, bounds: &Bounds, entry: &RunEntry, bytes: &mut Vec<u8>) {
        let RunEntry { key, seen } = entry;
        let position = seen.position.to_bits() - bounds.positions.0.to_bits();
        let time = seen.time.abs_diff(bounds.times.0) << STANDING_BITS | seen.standing as u64;
        bytes.extend_from_slice(&key.to_be_bytes()[16 - self.key..]);
        bytes.extend_from_slice(&seen.payload_digest.to_le_bytes());
        bytes.extend_from_slice(&position.to_le_bytes()[..self.position]);
        bytes.extend_from_slice(&time.to_le_bytes()[..self.time]);
    }

    /// Reads what an entry remembers; `None` if it is none.
    #[inline]
    pub(crate) fn seen(&self, bounds: &Bounds, entry: &[u8]) -> Option<Seen> {
        let (digest, rest) = entry.get(self.key..)?.split_first_chunk::<8>()?;
        let (position, time) = rest.split_at_checked(self.position)?;
        let position = bounds.positions.0.to_bits().checked_add(number_of(position))?;
        if position > bounds.positions.1.to_bits() {
            return None;
        }
        let time_and_standing = number_of(time.get(..self.time)?);
        let standing = Standing::of_bits(time_and_standing & 3)?;
        Some(Seen {
            payload_digest: u64::from_le_bytes(*digest),
            position: EventPosition::from_bits(position),
            time: bounds.times.0.checked_add_unsigned(time_and_standing >> STANDING_BITS)?,
            standing,
        })
    }

    /// Reads the key of an entry of a bucket.
    #[inline]
    pub(crate) fn key(&self, bounds: &Bounds, bucket: u64, entry: &[u8]) -> u128 {
        let mut key = [0; 16];
        key[16 - self.key..].copy_from_slice(&entry[..self.key]);
        let high = u128::from(bucket).checked_shl(128 - bounds.bucket_bits).unwrap_or(0);
        // Where the bucket and the bytes overlap they say the same.
        u128::from_be_bytes(key) | high
    }
}

#[inline]
fn number_of(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(number)
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunHeader {
    pub(crate) log: RunLog,
    pub(crate) shard: u32,
    pub(crate) number: u64,
    pub(crate) entries: u64,
    pub(crate) bounds: Bounds,
    pub(crate) filter_lines: u32,
    pub(crate) index_crc: u32,
    pub(crate) filter_crc: u32,
    pub(crate) slices: [Slice; SLICES],
}

impl RunHeader {
    /// What the run is called by those who want this one.
    pub(crate) fn name(&self) -> RunName {
        let bytes = self.encode();
        let header_crc = bytes.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
        RunName { number: self.number, header_crc }
    }

    /// The slices that have entries: where each begins, and how many.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (EventPosition, u64)> {
        let filled = self.slices.iter().enumerate().filter(|(_, slice)| slice.entries > 0);
        filled.map(|(number, slice)| (self.bounds.slice_start(number), slice.entries))
    }

    /// Where the index starts.
    pub(crate) fn index_at(&self) -> u64 {
        HEADER_BYTES as u64 + self.entries * self.bounds.layout().entry_bytes() as u64
    }

    /// Where the filter starts.
    pub(crate) fn filter_at(&self) -> u64 {
        self.index_at() + self.bounds.buckets() * BUCKET_BYTES as u64
    }

    /// Bytes of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.filter_at() + u64::from(self.filter_lines) * 64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Fields::default();
        let RunLog { incarnation, partition, key_check } = self.log;
        let Bounds { positions, times, bucket_bits } = self.bounds;
        MAGIC.into_iter().for_each(|byte| _ = fields.u8(byte));
        fields.u32(RUN_FORMAT).u32(incarnation).u32(partition).u32(self.shard).u64(key_check);
        fields.u64(self.number).u64(self.entries);
        fields.u64(positions.0.to_bits()).u64(positions.1.to_bits()).i64(times.0).i64(times.1);
        fields.u32(bucket_bits).u32(self.filter_lines).u32(self.index_crc).u32(self.filter_crc);
        self.slices.iter().for_each(|slice| _ = fields.u64(slice.entries).i64(slice.times_end));
        let mut bytes = fields.take();
        bytes.resize(CRC_AT, 0);
        let crc = crc_of(&[&bytes]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if it is none of this format, or damaged.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut fields = FieldReader::new(&bytes[8..]);
        if bytes[..8] != MAGIC || crc_of(&[&bytes[..CRC_AT]]).to_le_bytes() != bytes[CRC_AT..] {
            return None;
        }
        let (format, incarnation, partition) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (shard, key_check, number, entries) =
            (fields.u32()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let mut position = || fields.u64().map(EventPosition::from_bits);
        let positions = (position()?, position()?);
        let times = (fields.i64()?, fields.i64()?);
        let (bucket_bits, filter_lines) = (fields.u32()?, fields.u32()?);
        let (index_crc, filter_crc) = (fields.u32()?, fields.u32()?);
        let mut slices = [Slice::default(); SLICES];
        for slice in &mut slices {
            *slice = Slice { entries: fields.u64()?, times_end: fields.i64()? };
        }
        let in_slices = slices.iter().try_fold(0u64, |sum, slice| sum.checked_add(slice.entries));
        let is_sound = format == RUN_FORMAT
            && in_slices == Some(entries)
            && positions.0 <= positions.1
            && times.0 <= times.1
            && bucket_bits <= 32
            && entries <= RUN_ENTRIES_MAX;
        is_sound.then_some(Self {
            log: RunLog { incarnation, partition, key_check },
            shard,
            number,
            entries,
            bounds: Bounds { positions, times, bucket_bits },
            filter_lines,
            index_crc,
            filter_crc,
            slices,
        })
    }
}

/// The file of a run.
pub(crate) fn run_name(number: u64) -> String {
    format!("{number:016x}.run")
}

/// The file of a run while it is written.
pub(crate) fn unfinished_name(number: u64) -> String {
    format!("{number:016x}.new")
}

/// The number that a file is named after, and whether it was finished.
pub(crate) fn number_of_name(name: &str) -> Option<(u64, bool)> {
    let (digits, ending) = name.split_once('.')?;
    let is_finished = match ending {
        "run" => true,
        "new" => false,
        _ => return None,
    };
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten().map(|n| (n, is_finished))
}
