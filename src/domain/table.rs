//! A table of values by name that is found in one step and read in order.
//!
//! Owns: where each entry lies. Leaves to others: what the entries mean.
//!
//! ```text
//! places   hash of a key ──▶ place      one look whatever the number of entries
//! order    key, in order ──▶ place      for reading all of them
//! entries  place ──▶ (key, value)
//! ```
//!
//! Invariants: nothing that can be seen depends on a hash: entries are read in the order of their keys, or one by its key. Both ways
//! name the same places, and places have no gaps.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::Index;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

/// Values by key.
#[derive(Clone)]
pub struct Table<K, V> {
    places: HashTable<u32>,
    order: BTreeMap<K, u32>,
    entries: Vec<(K, V)>,
    hasher: RandomState,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            places: HashTable::new(),
            order: BTreeMap::new(),
            entries: Vec::new(),
            hasher: RandomState::default(),
        }
    }
}

impl<K: Clone + Ord + Hash, V> Table<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        // Many tables are empty: hardly anybody has discounts.
        if self.entries.is_empty() {
            return None;
        }
        self.place_of(key).map(|place| &self.entries[place as usize].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.place_of(key).map(|place| &mut self.entries[place as usize].1)
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The value of a key; if there is none, a new one is put there.
    pub fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let place = self.place_of(&key).unwrap_or_else(|| self.push(key, value()));
        &mut self.entries[place as usize].1
    }

    /// The value of a key; if there is none, an empty one is put there.
    pub fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.get_or_insert_with(key, V::default)
    }

    /// Puts a value in the place of the one that the key has, if it has one.
    pub fn insert(&mut self, key: K, value: V) {
        match self.place_of(&key) {
            Some(place) => self.entries[place as usize].1 = value,
            None => drop(self.push(key, value)),
        }
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        const BOTH: &str = "places and order have the same keys";
        let place = self.order.remove(key)?;
        let hash = self.hasher.hash_one(key);
        self.places.find_entry(hash, |at| *at == place).expect(BOTH).remove();
        let (_, value) = self.entries.swap_remove(place as usize);
        // The last entry lies there now.
        if let Some((moved, _)) = self.entries.get(place as usize) {
            let (hash, last) = (self.hasher.hash_one(moved), self.entries.len() as u32);
            *self.places.find_mut(hash, |at| *at == last).expect(BOTH) = place;
            *self.order.get_mut(moved.borrow()).expect(BOTH) = place;
        }
        Some(value)
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.values().map(|place| {
            let (key, value) = &self.entries[*place as usize];
            (key, value)
        })
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    #[inline]
    fn place_of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        let is_key = |place: &u32| self.entries[*place as usize].0.borrow() == key;
        self.places.find(self.hasher.hash_one(key), is_key).copied()
    }

    fn push(&mut self, key: K, value: V) -> u32 {
        let place = u32::try_from(self.entries.len()).expect("a table has fewer than 2^32 entries");
        let Self { places, entries, hasher, .. } = self;
        let hash_of = |place: &u32| hasher.hash_one(&entries[*place as usize].0);
        places.insert_unique(hasher.hash_one(&key), place, hash_of);
        self.order.insert(key.clone(), place);
        self.entries.push((key, value));
        place
    }
}

impl<K: Clone + Ord + Hash + Borrow<Q>, V, Q: Hash + Eq + ?Sized> Index<&Q> for Table<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("who indexes a table knows the key")
    }
}

impl<K: Clone + Ord + Hash, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Clone + Ord + Hash + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is put in and taken out, a table is an ordered map.
        #[test]
        fn a_table_is_an_ordered_map(steps in prop::collection::vec((0u8..5, 0u8..12, any::<u8>()), 0..80)) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (verb, key, value) in steps {
                match verb {
                    0 => {
                        table.insert(key, value);
                        map.insert(key, value);
                    }
                    1 => *table.get_or_default(key) ^= value,
                    2 => *table.get_or_insert_with(key, || value) ^= 1,
                    3 => prop_assert_eq!(table.remove(&key), map.remove(&key)),
                    _ => {
                        if let Some(found) = table.get_mut(&key) {
                            *found = value;
                        }
                        map.entry(key).and_modify(|found| *found = value);
                    }
                }
                match verb {
                    1 => *map.entry(key).or_default() ^= value,
                    2 => *map.entry(key).or_insert(value) ^= 1,
                    _ => {}
                }
                prop_assert!(table.iter().eq(map.iter()));
                prop_assert!(table.values().eq(map.values()));
                prop_assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
                for key in 0..12u8 {
                    prop_assert_eq!(table.get(&key), map.get(&key));
                    prop_assert_eq!(table.contains_key(&key), map.contains_key(&key));
                }
                let again: Table<u8, u8> = {
                    let mut again = Table::default();
                    map.iter().rev().for_each(|(key, value)| again.insert(*key, *value));
                    again
                };
                prop_assert!(table == again && table.clone() == again);
            }
        }
    }
}
