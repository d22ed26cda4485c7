//! A buffer that starts at a sector, as writes past the page cache want it.
//!
//! Owns: the alignment. Leaves to others: what the bytes say.
//!
//! Invariants: the first byte lies at a multiple of [`SECTOR_BYTES`], also after the buffer grew.

use super::format::SECTOR_BYTES;

/// Zeros at first, in whole sectors.
pub(crate) struct SectorBuffer {
    room: Vec<u8>,
    start: usize,
}

impl SectorBuffer {
    pub(crate) fn with_len(bytes: usize) -> Self {
        let room = vec![0; bytes.next_multiple_of(SECTOR_BYTES) + SECTOR_BYTES];
        let start = room.as_ptr().addr().next_multiple_of(SECTOR_BYTES) - room.as_ptr().addr();
        Self { room, start }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[self.start..][..self.room.len() - SECTOR_BYTES]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.room.len() - SECTOR_BYTES;
        &mut self.room[self.start..][..len]
    }

    /// Makes room for so many bytes; the first `kept` of them stay.
    pub(crate) fn reserve(&mut self, bytes: usize, kept: usize) {
        if self.bytes().len() < bytes {
            let mut larger = Self::with_len(bytes.next_power_of_two());
            larger.bytes_mut()[..kept].copy_from_slice(&self.bytes()[..kept]);
            *self = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_starts_at_a_sector_however_often_it_grew() {
        let mut buffer = SectorBuffer::with_len(1);
        buffer.bytes_mut()[..3].copy_from_slice(b"abc");
        for bytes in [1, 4_096, 4_097, 70_000, 3 << 20] {
            buffer.reserve(bytes, 3);
            assert!(buffer.bytes().len() >= bytes);
            assert_eq!(buffer.bytes().len() % SECTOR_BYTES, 0);
            assert_eq!(buffer.bytes().as_ptr().addr() % SECTOR_BYTES, 0);
            assert_eq!(&buffer.bytes()[..3], b"abc");
        }
    }
}
