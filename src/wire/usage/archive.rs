//! The archived columns of a usage batch, version 1: what lies behind the envelope, byte for byte.
//!
//! Owns: the layout (rkyv 0.8, little endian, 32-bit relative pointers, fields in this order). Leaves to others: every
//! rule beyond memory safety (`super::check`).
//!
//! ```text
//!  root, at the end of the body       value column            dimension column
//!    0  8  source       text            0  8  name      text     0  8  name                text
//!    8  8  event_type   text            8  1  scale              8  8  dictionary.bytes    list of u8
//!   16  1  id_kind                     12  8  mantissa  list    16  8  dictionary.offsets  list of u32
//!   24  8  id_epoch                           of i128           24  8  index               list of u32
//!   32  8  id_first_sequence           20  8  nulls     list    32  8  nulls               list of u64
//!   40  8  id_bytes     list of u8            of u64            40
//!   48  8  id_offsets   list of u32    28
//!   56  8  subjects.bytes    list of u8
//!   64  8  subjects.offsets  list of u32
//!   72  8  subject_index     list of u32
//!   80  8  time              list of i64
//!   88  8  values            list of value columns
//!   96  8  dimensions        list of dimension columns
//!  104
//! ```
//!
//! A list is the i32 distance from its own first byte to its first element, and the u32 count of elements. A text of at
//! most 8 bytes lies in its field, filled up with 0xff; see `schemas/wire.md` for longer ones.
//!
//! Invariants: this file never changes. Golden files fix its bytes; another layout is another schema number and another
//! type, since an archive says nothing about the type that it was made from.

use rkyv::{Archive, Serialize};

/// Ids are given: bytes and offsets.
pub(crate) const ID_KIND_GIVEN: u8 = 0;
/// Ids are minted: an epoch and the sequence of the first event.
pub(crate) const ID_KIND_SEQUENCED: u8 = 1;

/// The root of the archive.
#[derive(Archive, Serialize, Default)]
pub(crate) struct UsageBatchV1 {
    pub(crate) source: String,
    pub(crate) event_type: String,
    pub(crate) id_kind: u8,
    pub(crate) id_epoch: u64,
    pub(crate) id_first_sequence: u64,
    /// Given ids, one after the other; empty when sequenced.
    pub(crate) id_bytes: Vec<u8>,
    /// Where each given id starts, and where the last one ends; empty when sequenced.
    pub(crate) id_offsets: Vec<u32>,
    pub(crate) subjects: DictionaryV1,
    pub(crate) subject_index: Vec<u32>,
    /// Nanoseconds since 1970.
    pub(crate) time: Vec<i64>,
    pub(crate) values: Vec<ValueColumnV1>,
    pub(crate) dimensions: Vec<DimensionColumnV1>,
}

/// Distinct texts, numbered from zero.
#[derive(Archive, Serialize, Default)]
pub(crate) struct DictionaryV1 {
    pub(crate) bytes: Vec<u8>,
    /// Where each text starts, and where the last one ends: one more than there are texts.
    pub(crate) offsets: Vec<u32>,
}

/// One value of every event.
#[derive(Archive, Serialize, Default)]
pub(crate) struct ValueColumnV1 {
    pub(crate) name: String,
    pub(crate) scale: u8,
    pub(crate) mantissa: Vec<i128>,
    /// Bit `i % 64` of word `i / 64` is set when event `i` has no such value; no words when all have one.
    pub(crate) nulls: Vec<u64>,
}

/// One dimension of every event.
#[derive(Archive, Serialize, Default)]
pub(crate) struct DimensionColumnV1 {
    pub(crate) name: String,
    pub(crate) dictionary: DictionaryV1,
    pub(crate) index: Vec<u32>,
    /// As in a value column.
    pub(crate) nulls: Vec<u64>,
}

const _: () = assert!(size_of::<ArchivedUsageBatchV1>() == 104, "the root is drawn above");
const _: () = assert!(size_of::<ArchivedValueColumnV1>() == 28, "a value column is drawn above");
const _: () = assert!(size_of::<ArchivedDimensionColumnV1>() == 40, "a dimension column is drawn above");
const _: () = assert!(align_of::<rkyv::Archived<i128>>() == crate::buffer::ALIGNMENT, "the widest element");
