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
    write_canonical_json(&mut text, value)?;
    Ok(text)
}

/// Appends the canonical JSON of a value.
///
/// # Errors
/// As [`canonical_json`]; what was appended by then is of no use.
pub fn write_canonical_json(
    text: &mut String,
    value: &(impl Serialize + ?Sized),
) -> Result<(), CanonicalStatus> {
    value.serialize(serializer::Canonical(text))
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of bytes, as 64 lowercase hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    sha256_hex_of(&[bytes])
}

/// SHA-256 of bytes that stand in several places, as if they followed each other.
pub fn sha256_hex_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Variant {
        Unit,
        New(u8),
        Tuple(u8, bool),
        Struct { b: u8, a: Option<u8> },
    }

    #[derive(Serialize)]
    struct Everything {
        zebra: &'static str,
        apple: (i128, u64),
        nested: BTreeMap<u32, Vec<Variant>>,
        unit: (),
        letter: char,
    }

    #[test]
    fn keys_are_sorted_everywhere_and_there_is_no_whitespace() {
        let value = Everything {
            zebra: "q\"\\\n\u{1}é/",
            apple: (i128::MIN, u64::MAX),
            nested: [
                (10, vec![Variant::Unit, Variant::New(1)]),
                (9, vec![Variant::Tuple(2, true), Variant::Struct { b: 1, a: None }]),
            ]
            .into(),
            unit: (),
            letter: 'x',
        };
        assert_eq!(
            canonical_json(&value).unwrap(),
            concat!(
                r#"{"apple":[-170141183460469231731687303715884105728,18446744073709551615],"letter":"x","#,
                r#""nested":{"10":["unit",{"new":1}],"9":[{"tuple":[2,true]},{"struct":{"a":null,"b":1}}]},"#,
                r#""unit":null,"zebra":"q\"\\\n\u0001é/"}"#
            )
        );
    }

    #[test]
    fn a_float_is_an_error_wherever_it_hides() {
        let nan_in_a_list = vec![Some(f64::NAN)];
        assert_eq!(canonical_json(&nan_in_a_list), Err(CanonicalStatus::FloatMustNotOccur));
        assert_eq!(canonical_json(&1.0f32), Err(CanonicalStatus::FloatMustNotOccur));
        assert_eq!(canonical_json(&json!({"a": [{"b": 1.5}]})), Err(CanonicalStatus::FloatMustNotOccur));
        let parsed: serde_json::Value = serde_json::from_str("{\"a\":1e2}").unwrap();
        assert_eq!(canonical_json(&parsed), Err(CanonicalStatus::FloatMustNotOccur));
        assert_eq!(digest_of(&f64::INFINITY), Err(CanonicalStatus::FloatMustNotOccur));
    }

    #[test]
    fn keys_are_text_or_integers_and_come_once() {
        let list_as_key: BTreeMap<(u8, u8), u8> = [((1, 2), 3)].into();
        assert_eq!(canonical_json(&list_as_key), Err(CanonicalStatus::KeyMustBeText));

        struct Twice;
        impl Serialize for Twice {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map([("a", 1), ("b", 2), ("a", 3)])
            }
        }
        assert_eq!(canonical_json(&Twice), Err(CanonicalStatus::KeysMustBeUnique));
    }

    #[test]
    fn the_order_of_keys_that_a_value_was_made_in_does_not_show() {
        let one = json!({"b": {"y": 1, "x": "1.50"}, "a": []});
        let other: serde_json::Value =
            serde_json::from_str(r#"{"a": [], "b": {"x": "1.50", "y": 1}}"#).unwrap();
        assert_eq!(canonical_json(&one).unwrap(), r#"{"a":[],"b":{"x":"1.50","y":1}}"#);
        assert_eq!(digest_of(&one), digest_of(&other));
        // In whatever order entries come, and whatever is nested in them.
        struct Given<'a>(&'a [&'a str]);
        impl Serialize for Given<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|key| (key, BTreeMap::from([(key, "\t")]))))
            }
        }
        for keys in [["a", "b", "\n"], ["b", "a", "\n"], ["\n", "b", "a"], ["a", "\n", "b"]] {
            let expected = r#"["before",{"\n":{"\n":"\t"},"a":{"a":"\t"},"b":{"b":"\t"}}]"#;
            assert_eq!(canonical_json(&("before", Given(&keys))).unwrap(), expected);
        }
    }

    /// Features unify across a workspace: a dependency that turns on `preserve_order` would change every
    /// `serde_json::Value` that is written, and with it the control log.
    #[test]
    fn serde_json_sorts_the_keys_of_values() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"a":2,"b":1}"#);
        assert_eq!(serde_json::to_string(&value).unwrap(), canonical_json(&value).unwrap());
    }

    #[test]
    fn sha256_is_that_of_fips_180() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest_of(&json!({})).unwrap(), sha256_hex(b"{}"));
        assert_eq!(sha256_hex_of(&[b"a", b"", b"bc"]), sha256_hex(b"abc"));
    }
}
