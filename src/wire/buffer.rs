//! An owned buffer whose first byte lies at a multiple of 16, so that an archive inside it can be read in place.
//!
//! Owns: the alignment. Leaves to others: what the bytes say.
//!
//! Invariants: the start never moves to a lesser alignment; the length is fixed once the buffer is shared.

use std::fmt;
use std::ops::Deref;

use rkyv::util::AlignedVec;

/// Alignment of the first byte: that of the widest column, 128-bit mantissas.
pub const ALIGNMENT: usize = 16;

/// Bytes that start at a multiple of [`ALIGNMENT`].
#[derive(Clone)]
pub struct AlignedBytes(AlignedVec<ALIGNMENT>);

impl AlignedBytes {
    /// A buffer of `bytes` zeros.
    pub fn with_len(bytes: usize) -> Self {
        let mut buffer = AlignedVec::with_capacity(bytes);
        buffer.resize(bytes, 0);
        Self(buffer)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = AlignedVec::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        Self(buffer)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The bytes, to be filled by whoever still owns them alone.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }

    pub(crate) fn from_aligned_vec(bytes: AlignedVec<ALIGNMENT>) -> Self {
        Self(bytes)
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for AlignedBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for AlignedBytes {}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_starts_at_a_multiple_of_sixteen() {
        for bytes in [1, 15, 16, 17, 4_096, 1 << 20] {
            let zeros = AlignedBytes::with_len(bytes);
            assert_eq!(zeros.len(), bytes);
            assert!(zeros.iter().all(|byte| *byte == 0));
            assert_eq!(zeros.as_ptr().addr() % ALIGNMENT, 0);
            let copy = AlignedBytes::copy_of(&zeros);
            assert_eq!(copy.as_ptr().addr() % ALIGNMENT, 0);
            assert_eq!(copy, zeros);
            assert_eq!(copy.clone().as_ptr().addr() % ALIGNMENT, 0);
        }
    }
}
