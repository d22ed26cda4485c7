//! Names: catalog ids, opaque subjects, and where an event stands in the log.
//!
//! Owns: which texts are names. Leaves to others: what the names refer to.
//!
//! Invariants: a catalog id matches `[a-z0-9][a-z0-9._-]{0,63}`; a subject is UTF-8 of 1 to 256 bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{CATALOG_ID_BYTES_MAX, ENTITY_ID_BYTES_MAX, OPAQUE_BYTES_MAX};

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdStatus {
    /// The text is empty.
    IdMustNotBeEmpty,
    /// The text is longer than its kind of id may be.
    IdMustFit,
    /// The text has a character outside `[a-z0-9._-]`, or does not start with a letter or digit.
    IdMustBeLowercaseAscii,
}

impl fmt::Display for IdStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdStatus::IdMustNotBeEmpty => "an id must not be empty",
            IdStatus::IdMustFit => {
                "an id is at most 64 characters (24 for a legal entity, 256 bytes for a subject)"
            }
            IdStatus::IdMustBeLowercaseAscii => {
                "an id starts with a-z or 0-9 and goes on with a-z, 0-9, '.', '_' or '-'"
            }
        })
    }
}

impl std::error::Error for IdStatus {}

fn check_catalog_id(text: &str, bytes_max: usize) -> Result<(), IdStatus> {
    let Some(first) = text.bytes().next() else { return Err(IdStatus::IdMustNotBeEmpty) };
    if text.len() > bytes_max {
        return Err(IdStatus::IdMustFit);
    }
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !is_letter(first) || !text.bytes().all(|byte| is_letter(byte) || matches!(byte, b'.' | b'_' | b'-')) {
        return Err(IdStatus::IdMustBeLowercaseAscii);
    }
    Ok(())
}

fn check_opaque(text: &str, bytes_max: usize) -> Result<(), IdStatus> {
    match text.len() {
        0 => Err(IdStatus::IdMustNotBeEmpty),
        bytes if bytes > bytes_max => Err(IdStatus::IdMustFit),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:ident, $bytes_max:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Arc<str>);

        impl PartialEq for $name {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                // Most names that are compared are copies of one.
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl Hash for $name {
            #[inline]
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl $name {
            /// Checks the text and makes a name of it.
            ///
            /// # Errors
            /// The first broken rule, in the order in which [`IdStatus`] declares them.
            pub fn new(text: &str) -> Result<Self, IdStatus> {
                $check(text, $bytes_max)?;
                Ok(Self(text.into()))
            }

            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(|status| serde::de::Error::custom(format!("{text:?}: {status}")))
            }
        }
    };
}

name!(
    /// A legal entity: who sells and keeps the books.
    EntityId, check_catalog_id, ENTITY_ID_BYTES_MAX);
name!(
    /// An account: who pays.
    AccountId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A meter.
    MeterId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A plan.
    PlanId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A price of a plan.
    PriceId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// An account's subscription to a plan.
    SubscriptionId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A commitment of an account.
    CommitmentId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A credit grant of an account.
    GrantId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A discount of an account.
    DiscountId, check_catalog_id, CATALOG_ID_BYTES_MAX);
name!(
    /// A subject as events name it: an API key, a tenant, a seat. Opaque UTF-8 of 1 to 256 bytes.
    Subject, check_opaque, OPAQUE_BYTES_MAX);

/// The tenant of a record. One tenant, number 0, exists today; every stored key and record has the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub u32);

/// Where an event stands: the offset of its batch record in the usage partition, and its index in the batch.
///
/// Packs into 64 bits: 48 for the offset, 16 for the index. Positions of different partitions are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventPosition(u64);

impl EventPosition {
    /// The position as one number, as [`EventPosition::to_bits`] gave it.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The position as one number.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The position of event `index` of the batch record at `offset`.
    ///
    /// # Panics
    /// If the offset needs more than 48 bits; a log refuses to grow that far.
    pub fn new(offset: u64, index: u16) -> Self {
        assert!(offset < 1 << 48, "a log offset fits 48 bits");
        Self(offset << 16 | u64::from(index))
    }

    /// Offset of the batch record in its partition, in bytes.
    pub fn offset(self) -> u64 {
        self.0 >> 16
    }

    /// Index of the event in its batch.
    pub fn index(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{}:{}", self.offset(), self.index())
    }
}

impl fmt::Debug for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalog_ids_are_short_lowercase_and_start_with_a_letter_or_digit() {
        for good in ["a", "0", "acme", "chat-input.v2", "a_b"] {
            assert!(MeterId::new(good).is_ok(), "{good}");
        }
        for (bad, status) in [
            ("", IdStatus::IdMustNotBeEmpty),
            ("A", IdStatus::IdMustBeLowercaseAscii),
            ("-a", IdStatus::IdMustBeLowercaseAscii),
            ("a b", IdStatus::IdMustBeLowercaseAscii),
            ("ä", IdStatus::IdMustBeLowercaseAscii),
        ] {
            assert_eq!(MeterId::new(bad), Err(status), "{bad}");
        }
        assert!(MeterId::new(&"a".repeat(64)).is_ok());
        assert_eq!(MeterId::new(&"a".repeat(65)), Err(IdStatus::IdMustFit));
        assert_eq!(EntityId::new(&"a".repeat(25)), Err(IdStatus::IdMustFit));
        assert!(Subject::new("Any text, ä too").is_ok());
        assert_eq!(Subject::new(&"a".repeat(257)), Err(IdStatus::IdMustFit));
    }

    #[test]
    fn a_position_keeps_offset_and_index_and_sorts_by_both() {
        let position = EventPosition::new((1 << 48) - 1, u16::MAX);
        assert_eq!((position.offset(), position.index()), ((1 << 48) - 1, u16::MAX));
        assert!(EventPosition::new(1, 9) < EventPosition::new(2, 0));
    }
}
