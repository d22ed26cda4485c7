//! Records of a usage partition: a batch with what was decided when it arrived, and a barrier.
//!
//! ```text
//! batch record    0 version u16 = 1    2 reserved u16 = 0    4 refusals u32
//!                 8 producer u64 (first eight bytes of the token's hash: who sent it)
//!                16 refusals × { index u16, code u16 }, zeros up to a multiple of 16, then the frame as it arrived
//! barrier record  0 version u16 = 1    2 reserved u16 = 0    4 reserved u32 = 0    8 control_offset u64
//! ```
//!
//! Owns: both layouts. Leaves to others: blocks, checksums and `received_at` (`engine::log`).

use crate::frame::FRAME_HEADER_BYTES;
use crate::usage::Refusal;
use crate::verdict::RefusalCode;

/// Kind of a batch record in the log.
pub const KIND_USAGE_BATCH: u16 = 1;
/// Kind of a barrier record in the log.
pub const KIND_BARRIER: u16 = 2;

const VERSION: u16 = 1;
const HEAD_BYTES: usize = 16;

/// What was decided when a batch arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecordHead {
    /// Who sent it: the first eight bytes of the token's hash.
    pub producer: u64,
    /// Events refused from the frame alone.
    pub refusals: Vec<Refusal>,
}

impl BatchRecordHead {
    /// The bytes before the frame, a multiple of 16.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = (HEAD_BYTES + 4 * self.refusals.len()).next_multiple_of(16);
        let mut head = Vec::with_capacity(bytes);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 2]);
        head.extend_from_slice(
            &u32::try_from(self.refusals.len()).expect("refusals are limited").to_le_bytes(),
        );
        head.extend_from_slice(&self.producer.to_le_bytes());
        for refusal in &self.refusals {
            head.extend_from_slice(&refusal.index.to_le_bytes());
            head.extend_from_slice(&refusal.code.code().to_le_bytes());
        }
        head.resize(bytes, 0);
        head
    }

    /// Reads the head; gives it and the frame behind it. `None` if the record has another layout.
    pub fn decode(record: &[u8]) -> Option<(Self, &[u8])> {
        let head = record.first_chunk::<HEAD_BYTES>()?;
        let refusals = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        let is_ours = head[..2] == VERSION.to_le_bytes() && head[2..4] == [0; 2];
        let bytes = HEAD_BYTES.checked_add(refusals.checked_mul(4)?)?;
        let frame = record.get(bytes.next_multiple_of(16)..)?;
        if !is_ours || frame.len() < FRAME_HEADER_BYTES {
            return None;
        }
        let (entries, _) = record[HEAD_BYTES..bytes].as_chunks::<4>();
        let refusals = entries.iter().map(decode_refusal).collect::<Option<Vec<_>>>()?;
        Some((Self { producer: u64::from_le_bytes(head[8..16].try_into().ok()?), refusals }, frame))
    }
}

fn decode_refusal(entry: &[u8; 4]) -> Option<Refusal> {
    let code = RefusalCode::from_code(u16::from_le_bytes([entry[2], entry[3]]))?;
    Some(Refusal { index: u16::from_le_bytes([entry[0], entry[1]]), code })
}

/// The bytes of a barrier that names a control-log offset.
pub fn encode_barrier(control_offset: u64) -> [u8; 16] {
    let mut record = [0; 16];
    record[..2].copy_from_slice(&VERSION.to_le_bytes());
    record[8..].copy_from_slice(&control_offset.to_le_bytes());
    record
}

/// The control-log offset that a barrier names. `None` if the record has another layout.
pub fn decode_barrier(record: &[u8]) -> Option<u64> {
    let record: &[u8; 16] = record.try_into().ok()?;
    let is_ours = record[..2] == VERSION.to_le_bytes() && record[2..8] == [0; 6];
    is_ours.then(|| u64::from_le_bytes(record[8..].try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::RefusalCode;

    #[test]
    fn records_round_trip() {
        for refusals in 0..6u16 {
            let head = BatchRecordHead {
                producer: 7,
                refusals: (0..refusals)
                    .map(|index| Refusal { index, code: RefusalCode::IdMustFit })
                    .collect(),
            };
            let mut record = head.encode();
            assert_eq!(record.len() % 16, 0);
            record.extend_from_slice(&[5; FRAME_HEADER_BYTES]);
            assert_eq!(BatchRecordHead::decode(&record), Some((head, &[5; FRAME_HEADER_BYTES][..])));
            assert_eq!(BatchRecordHead::decode(&record[..record.len() - 1]), None);
        }
        assert_eq!(decode_barrier(&encode_barrier(99)), Some(99));
        assert_eq!(decode_barrier(&[1; 16]), None);
    }
}
