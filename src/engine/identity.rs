//! Keyed hashes: the identity of an event, the digest of its payload, and the slot it belongs to.
//!
//! Owns: how (source, id) becomes 128 bits, and content becomes 64. Leaves to others: comparing them (`shard::dedup`).
//!
//! Invariants:
//! - Keyed by a secret of the control log's first record, so that nobody can craft colliding ids.
//! - A payload digest covers type, subject, values (normalized: `1.0` = `1.00`) and dimensions, in any order of
//!   columns, and not `time`.

mod lanes;

use std::hash::Hasher;

use self::lanes::{LANES, hashes_of_ids, hashes_of_numbers, hashes_of_pairs};
use domain::decimal::normalize;
use domain::limits::SLOTS;
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};

/// The secret that identities are keyed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdentityKey(u128);

impl IdentityKey {
    /// The key of 128 secret bits.
    pub fn new(secret: u128) -> Self {
        Self(secret)
    }

    /// The key of 32 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }

    /// The key of one source's ids: ids of different sources never meet.
    pub fn of_source(self, source: &str) -> SourceKey {
        let mut hasher = SipHasher128::new_with_key(&self.0.to_le_bytes());
        hasher.write(source.as_bytes());
        SourceKey(hasher.finish128().as_u128().to_le_bytes())
    }

    fn digest(self, domain: u8, bytes: &[u8]) -> u64 {
        let hasher = SipHasher13::new_with_key(&self.0.to_le_bytes());
        let mut short = [domain; SHORT_ID_BYTES + 1];
        match short.get_mut(..bytes.len() + 1) {
            Some(message) => {
                message[1..].copy_from_slice(bytes);
                hasher.hash(message)
            }
            None => hasher.hash(&[&[domain], bytes].concat()),
        }
    }

    /// What an event type adds to a payload digest.
    pub fn digest_of_type(self, event_type: &str) -> u64 {
        self.digest(1, event_type.as_bytes())
    }

    /// What a subject adds to a payload digest.
    pub fn digest_of_subject(self, subject: &str) -> u64 {
        self.digest(2, subject.as_bytes())
    }

    /// What a dimension adds to a payload digest.
    pub fn digest_of_dimension(self, name: &str, text: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0.to_le_bytes());
        hasher.write_u8(3);
        hasher.write_u64(name.len() as u64);
        hasher.write(name.as_bytes());
        hasher.write(text.as_bytes());
        hasher.finish()
    }

    /// Digests the values of one column.
    pub fn of_value(self, name: &str) -> ValueKey {
        let mut hasher = SipHasher13::new_with_key(&self.0.to_le_bytes());
        hasher.write_u8(4);
        hasher.write(name.as_bytes());
        ValueKey { low: self.0 as u64 ^ hasher.finish(), high: (self.0 >> 64) as u64 }
    }
}

/// What stands behind a sequenced id, that it is no id of a producer's.
const SEQUENCED: u8 = 1;

/// Ids up to here are hashed without a copy on the heap.
const SHORT_ID_BYTES: usize = 64;

/// The key of one source's ids.
#[derive(Clone, Copy)]
pub struct SourceKey([u8; 16]);

/// An event, as a shard is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventName {
    /// Its identity.
    pub identity: u128,
    /// The run of the client that minted its id, and its number there.
    pub minted: Option<(u128, u64)>,
}

impl EventName {
    /// Which of so many shards knows the event.
    pub fn shard(&self, shards: usize) -> usize {
        shard_of_slot(slot_of(self.identity), shards)
    }
}

impl SourceKey {
    /// An event with an id that its producer chose.
    pub fn name_of_bytes(&self, id: &[u8]) -> EventName {
        EventName { identity: self.identity_of_bytes(id), minted: None }
    }

    /// An event with an id that a client minted.
    pub fn name_of_sequence(&self, epoch: u64, number: u64) -> EventName {
        let minted = Some((self.run_of_epoch(epoch), number));
        EventName { identity: self.identity_of_sequence(epoch, number), minted }
    }

    /// Identity of an id that the producer chose.
    #[inline]
    pub fn identity_of_bytes(&self, id: &[u8]) -> u128 {
        // Hashed at once instead of part by part: most ids are short.
        let mut short = [0; SHORT_ID_BYTES + 1];
        let hasher = SipHasher128::new_with_key(&self.0);
        match short.get_mut(..id.len() + 1) {
            Some(bytes) => {
                bytes[..id.len()].copy_from_slice(id);
                hasher.hash(bytes).as_u128()
            }
            None => hasher.hash(&[id, &[0]].concat()).as_u128(),
        }
    }

    /// Identities of ids that the producer chose; adds them to `out`, in order.
    pub fn identities_of_many<'i>(&self, ids: impl Iterator<Item = &'i [u8]>, out: &mut Vec<u128>) {
        let mut group: [&[u8]; LANES] = [&[]; LANES];
        let mut len = 0;
        for id in ids {
            group[len] = id;
            len += 1;
            if len == LANES {
                len = 0;
                if group.iter().all(|id| id.len() == group[0].len()) {
                    out.extend(hashes_of_ids(self.words(), &group, group[0].len()));
                } else {
                    out.extend(group.map(|id| self.identity_of_bytes(id)));
                }
            }
        }
        out.extend(group[..len].iter().map(|id| self.identity_of_bytes(id)));
    }

    /// Identities of sequenced ids from `first` on; adds them to `out`, in order.
    pub fn identities_of_sequences(&self, epoch: u64, first: u64, count: usize, out: &mut Vec<u128>) {
        let groups = (count / LANES) as u64;
        for group in 0..groups {
            let from = first + group * LANES as u64;
            let sequences = std::array::from_fn(|lane| from + lane as u64);
            out.extend(hashes_of_pairs(self.words(), epoch, &sequences, SEQUENCED));
        }
        let rest = groups * LANES as u64..count as u64;
        out.extend(rest.map(|at| self.identity_of_sequence(epoch, first + at)));
    }

    fn words(&self) -> [u64; 2] {
        let key = u128::from_le_bytes(self.0);
        [key as u64, (key >> 64) as u64]
    }

    /// Which run of a client an epoch names: runs of different sources never meet.
    pub fn run_of_epoch(&self, epoch: u64) -> u128 {
        let mut bytes = [2; 9];
        bytes[..8].copy_from_slice(&epoch.to_le_bytes());
        SipHasher128::new_with_key(&self.0).hash(&bytes).as_u128()
    }

    /// Identity of a sequenced id.
    #[inline]
    pub fn identity_of_sequence(&self, epoch: u64, sequence: u64) -> u128 {
        let mut bytes = [SEQUENCED; 17];
        bytes[..8].copy_from_slice(&epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        SipHasher128::new_with_key(&self.0).hash(&bytes).as_u128()
    }
}

/// Digests the values of one column.
#[derive(Clone, Copy)]
pub struct ValueKey {
    low: u64,
    high: u64,
}

impl ValueKey {
    /// What a value adds to a payload digest; equal numbers add the same.
    #[cfg(test)]
    fn digest_of(self, mantissa: i128, scale: u8) -> u64 {
        let (mantissa, scale) = normalize(mantissa, scale);
        let mut bytes = [scale; 17];
        bytes[..16].copy_from_slice(&mantissa.to_le_bytes());
        SipHasher13::new_with_keys(self.low, self.high).hash(&bytes)
    }
}

impl ValueKey {
    /// Adds to each digest what the value of its event adds; `None` adds nothing.
    pub fn add_digests(self, values: impl Iterator<Item = Option<i128>>, scale: u8, digests: &mut [u64]) {
        let mut values = values;
        for digests in digests.chunks_mut(LANES) {
            let mut numbers = [(0, 0); LANES];
            let mut is_value = [false; LANES];
            for ((number, is_value), value) in
                numbers.iter_mut().zip(&mut is_value).zip(values.by_ref().take(digests.len()))
            {
                *is_value = value.is_some();
                *number = normalize(value.unwrap_or(0), scale);
            }
            let (mantissas, scales) =
                (numbers.map(|(mantissa, _)| mantissa), numbers.map(|(_, scale)| scale));
            let hashes = hashes_of_numbers([self.low, self.high], &mantissas, &scales);
            for ((digest, hash), is_value) in digests.iter_mut().zip(hashes).zip(is_value) {
                *digest = digest.wrapping_add(if is_value { hash } else { 0 });
            }
        }
    }
}

/// The slot of an identity: its top ten bits.
#[inline]
pub fn slot_of(identity: u128) -> usize {
    const SHIFT: u32 = 128 - SLOTS.trailing_zeros();
    (identity >> SHIFT) as usize
}

/// The shard that owns a slot: shards own equal ranges of slots.
#[inline]
pub fn shard_of_slot(slot: usize, shards: usize) -> usize {
    slot * shards / SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_different_sources_and_kinds_never_meet() {
        let key = IdentityKey::new(7);
        let (a, b) = (key.of_source("a"), key.of_source("b"));
        assert_ne!(a.identity_of_bytes(b"1"), b.identity_of_bytes(b"1"));
        assert_ne!(a.identity_of_bytes(&[0; 16]), a.identity_of_sequence(0, 0));
        assert_ne!(a.identity_of_bytes(b"1"), IdentityKey::new(8).of_source("a").identity_of_bytes(b"1"));
    }

    /// Identities are stored: they are those of the hasher that takes the parts one after the other.
    #[test]
    fn identities_are_keyed_hashes_of_the_id_and_its_kind() {
        let source = IdentityKey::new(7).of_source("a");
        let of_parts = |id: &[u8], kind: u8| {
            let mut hasher = SipHasher128::new_with_key(&source.0);
            hasher.write(id);
            hasher.write_u8(kind);
            hasher.finish128().as_u128()
        };
        for bytes in 0..=domain::limits::OPAQUE_BYTES_MAX {
            let id: Vec<u8> = (0..bytes).map(|byte| byte as u8 | 1).collect();
            assert_eq!(source.identity_of_bytes(&id), of_parts(&id, 0), "{bytes} bytes");
        }
        // Many at once, of one length and of several, and those that fill no group.
        for lengths in [vec![16; 17], vec![7; 8], (0..40).collect::<Vec<usize>>(), vec![255; 9], vec![0; 8]] {
            let ids: Vec<Vec<u8>> = lengths.iter().map(|bytes| vec![*bytes as u8 | 1; *bytes]).collect();
            let mut all = Vec::new();
            source.identities_of_many(ids.iter().map(Vec::as_slice), &mut all);
            assert_eq!(all, ids.iter().map(|id| of_parts(id, 0)).collect::<Vec<u128>>());
        }
        for bytes in 0..=domain::limits::OPAQUE_BYTES_MAX {
            let ids: [Vec<u8>; LANES] = std::array::from_fn(|lane| vec![lane as u8 + 3; bytes]);
            let mut all = Vec::new();
            source.identities_of_many(ids.iter().map(Vec::as_slice), &mut all);
            assert!(all.iter().zip(&ids).all(|(identity, id)| *identity == of_parts(id, 0)), "{bytes} bytes");
        }
        let mut all = Vec::new();
        source.identities_of_sequences(3, u64::MAX - 20, 20, &mut all);
        let expected = (0..20).map(|at| source.identity_of_sequence(3, u64::MAX - 20 + at));
        assert!(all.into_iter().eq(expected));
        let sequenced = [3u64.to_le_bytes(), 0x0102_0304_0506_0708u64.to_le_bytes()].concat();
        assert_eq!(source.identity_of_sequence(3, 0x0102_0304_0506_0708), of_parts(&sequenced, 1));
    }

    #[test]
    fn equal_numbers_have_equal_digests() {
        let key = IdentityKey::new(7).of_value("tokens");
        assert_eq!(key.digest_of(10, 1), key.digest_of(1_000, 3));
        assert_ne!(key.digest_of(10, 1), key.digest_of(10, 2));
        assert_ne!(key.digest_of(10, 1), IdentityKey::new(7).of_value("other").digest_of(10, 1));
        let values = [Some(-10), None, Some(i128::MAX), Some(0), Some(1_000), Some(7), Some(i128::MIN)];
        for count in 0..20 {
            let values = || values.iter().cycle().take(count).copied();
            let mut digests = vec![5; count];
            key.add_digests(values(), 3, &mut digests);
            let one = |value: Option<i128>| value.map_or(0, |value| key.digest_of(value, 3)).wrapping_add(5);
            assert_eq!(digests, values().map(one).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn every_slot_has_one_shard_whatever_their_number() {
        for shards in 1..=domain::limits::SHARDS_MAX {
            let owners: Vec<usize> = (0..SLOTS).map(|slot| shard_of_slot(slot, shards)).collect();
            assert!(owners.is_sorted());
            assert_eq!((owners[0], owners[SLOTS - 1]), (0, shards - 1));
        }
    }
}
