//! Dictionaries that grow: each distinct text once, found by hash.
//!
//! Owns: numbering texts. Leaves to others: how many there may be.
//!
//! Invariants: texts are numbered in the order in which they first came, so the same events give the same bytes,
//! whatever the hash.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::usage::archive::DictionaryV1;

/// Bytes of a dictionary without entries: its first offset.
pub(super) const EMPTY_BYTES: usize = size_of::<u32>();

/// Finds the entries of one dictionary.
#[derive(Default)]
pub(super) struct TextTable {
    table: HashTable<u32>,
    hasher: FixedState,
}

impl TextTable {
    /// Empties the dictionary.
    pub(super) fn start(&mut self, dictionary: &mut DictionaryV1) {
        dictionary.bytes.clear();
        dictionary.offsets.clear();
        dictionary.offsets.push(0);
        self.table.clear();
    }

    #[inline]
    pub(super) fn find(&self, dictionary: &DictionaryV1, text: &str) -> Option<u32> {
        let text = text.as_bytes();
        self.table.find(self.hasher.hash_one(text), |entry| entry_of(dictionary, *entry) == text).copied()
    }

    /// Adds a text that [`TextTable::find`] does not find.
    pub(super) fn add(&mut self, dictionary: &mut DictionaryV1, text: &str) -> u32 {
        let entry = count(dictionary) as u32; // dictionaries are far smaller than 32 bits
        dictionary.bytes.extend_from_slice(text.as_bytes());
        dictionary.offsets.push(dictionary.bytes.len() as u32);
        let hash = self.hasher.hash_one(text.as_bytes());
        self.table.insert_unique(hash, entry, |entry| self.hasher.hash_one(entry_of(dictionary, *entry)));
        entry
    }
}

/// Entries of a dictionary.
pub(super) fn count(dictionary: &DictionaryV1) -> usize {
    dictionary.offsets.len() - 1
}

/// Bytes of all entries and offsets.
#[inline]
pub(super) fn bytes(dictionary: &DictionaryV1) -> usize {
    dictionary.bytes.len() + size_of::<u32>() * dictionary.offsets.len()
}

/// Bytes that one more entry takes.
#[inline]
pub(super) fn entry_bytes(text: &str) -> usize {
    text.len() + size_of::<u32>()
}

#[inline]
fn entry_of(dictionary: &DictionaryV1, entry: u32) -> &[u8] {
    let entry = entry as usize;
    &dictionary.bytes[dictionary.offsets[entry] as usize..dictionary.offsets[entry + 1] as usize]
}
