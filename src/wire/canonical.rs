//! Canonical JSON and the digests over it: what leaves the product is digested in a form that anyone can make again.
//!
//! Owns: the one text of a value (keys sorted by their bytes, no whitespace, integers plain, decimals as text) and
//! SHA-256 over it. Leaves to others: which values are digested.
//!
//! Invariants: the same value gives the same bytes on every machine; a float is an error, never text, not even as the
//! `null` that JSON libraries write for NaN; a key that comes twice is an error.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

mod serializer;

/// Why a value has no canonical text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CanonicalStatus {
    /// The value has a float somewhere.
    FloatMustNotOccur,
    /// The key of a map is neither text nor an integer nor a unit variant.
    KeyMustBeText,
    /// Two keys of one map have the same text.
    KeysMustBeUnique,
    /// The value refused to be serialized, with its own reason.
    ValueMustSerialize(String),
}

impl fmt::Display for CanonicalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CanonicalStatus::FloatMustNotOccur => "a canonical value has no floats",
            CanonicalStatus::KeyMustBeText => "the keys of a canonical map are text or integers",
            CanonicalStatus::KeysMustBeUnique => "the keys of a canonical map are unique",
            CanonicalStatus::ValueMustSerialize(reason) => reason,
        })
    }
}

impl std::error::Error for CanonicalStatus {}

impl serde::ser::Error for CanonicalStatus {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        CanonicalStatus::ValueMustSerialize(reason.to_string())
    }
}

/// The canonical JSON of a value.
///
/// # Errors
/// [`CanonicalStatus`]; with integers, text, and decimals that serialize as text there is none.
pub fn canonical_json(value: &(impl Serialize + ?Sized)) -> Result<String, CanonicalStatus> {
    let mut text = String::new();
    value.serialize(serializer::Canonical(&mut text))?;
    Ok(text)
}

/// SHA-256 of bytes, as 64 lowercase hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a hex digit"));
        }
        text
    })
}

/// SHA-256 of the canonical JSON of a value, as 64 lowercase hex digits.
///
/// # Errors
/// As [`canonical_json`].
pub fn digest_of(value: &(impl Serialize + ?Sized)) -> Result<String, CanonicalStatus> {
    Ok(sha256_hex(canonical_json(value)?.as_bytes()))
}
