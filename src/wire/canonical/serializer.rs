//! The serializer behind canonical JSON.
//!
//! Owns: the text of each kind of value. Leaves to others: nothing; there is no second form.
//!
//! Invariants: the entries of a map are written in the order of their keys' bytes, whatever order they come in.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::ser::{
    Error, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::CanonicalStatus;

type Outcome = Result<(), CanonicalStatus>;

/// Appends the canonical text of one value.
pub(super) struct Canonical<'a>(pub(super) &'a mut String);

/// Writes the elements of a list as they come.
pub(super) struct List<'a> {
    out: &'a mut String,
    is_first: bool,
    end: &'static str,
}

/// Writes the entries of a map as they come, and sorts their texts at the end if they came in another order.
pub(super) struct Entries<'a> {
    out: &'a mut String,
    /// Length of `out` before the first entry.
    start: usize,
    /// Keys, and where each entry's text ends in `out`; it starts at the end of the one before.
    entries: Vec<(Cow<'static, str>, usize)>,
    key: Option<String>,
    end: &'static str,
}

fn needs_escape(text: &str) -> bool {
    text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')
}

fn write_text(out: &mut String, text: &str) -> Outcome {
    if needs_escape(text) {
        out.push_str(&serde_json::to_string(text).map_err(CanonicalStatus::custom)?);
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
    Ok(())
}

impl<'a> Canonical<'a> {
    fn list(self, start: &str, end: &'static str) -> List<'a> {
        self.0.push_str(start);
        List { out: self.0, is_first: true, end }
    }

    fn entries(self, capacity: usize, end: &'static str) -> Entries<'a> {
        self.0.push('{');
        Entries { start: self.0.len(), out: self.0, entries: Vec::with_capacity(capacity), key: None, end }
    }

    /// `{"variant":` in front of what a variant holds; the caller closes it.
    fn open_variant(self, variant: &str) -> Result<Self, CanonicalStatus> {
        self.0.push('{');
        write_text(self.0, variant)?;
        self.0.push(':');
        Ok(self)
    }

    fn plain(self, text: impl AsRef<str>) -> Outcome {
        self.0.push_str(text.as_ref());
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Outcome {
            self.plain(itoa::Buffer::new().format(value))
        })*
    };
}

impl<'a> Serializer for Canonical<'a> {
    type Ok = ();
    type Error = CanonicalStatus;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = List<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = Entries<'a>;

    integers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    );

    fn serialize_bool(self, value: bool) -> Outcome {
        self.plain(if value { "true" } else { "false" })
    }

    fn serialize_f32(self, _: f32) -> Outcome {
        Err(CanonicalStatus::FloatMustNotOccur)
    }

    fn serialize_f64(self, _: f64) -> Outcome {
        Err(CanonicalStatus::FloatMustNotOccur)
    }

    fn serialize_char(self, value: char) -> Outcome {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Outcome {
        write_text(self.0, value)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Outcome {
        let start = self.0.len();
        write!(self.0, "\"{value}").map_err(CanonicalStatus::custom)?;
        if needs_escape(&self.0[start + 1..]) {
            let text = self.0.split_off(start);
            return write_text(self.0, &text[1..]);
        }
        self.plain("\"")
    }

    fn serialize_bytes(self, value: &[u8]) -> Outcome {
        value.serialize(self)
    }

    fn serialize_none(self) -> Outcome {
        self.plain("null")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Outcome {
        self.plain("null")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Outcome {
        self.plain("null")
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Outcome {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Outcome {
        let out = self.open_variant(variant)?.0;
        value.serialize(Canonical(out))?;
        out.push('}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a>, CanonicalStatus> {
        Ok(self.list("[", "]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<List<'a>, CanonicalStatus> {
        Ok(self.list("[", "]"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'a>, CanonicalStatus> {
        Ok(self.list("[", "]"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List<'a>, CanonicalStatus> {
        Ok(self.open_variant(variant)?.list("[", "]}"))
    }

    fn serialize_map(self, entries: Option<usize>) -> Result<Entries<'a>, CanonicalStatus> {
        Ok(self.entries(entries.unwrap_or(0), "}"))
    }

    fn serialize_struct(self, _: &'static str, fields: usize) -> Result<Entries<'a>, CanonicalStatus> {
        Ok(self.entries(fields, "}"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        fields: usize,
    ) -> Result<Entries<'a>, CanonicalStatus> {
        Ok(self.open_variant(variant)?.entries(fields, "}}"))
    }
}

impl List<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Outcome {
        if !self.is_first {
            self.out.push(',');
        }
        self.is_first = false;
        value.serialize(Canonical(self.out))
    }

    fn close(self) -> Outcome {
        self.out.push_str(self.end);
        Ok(())
    }
}

impl Entries<'_> {
    fn entry<T: Serialize + ?Sized>(&mut self, key: Cow<'static, str>, value: &T) -> Outcome {
        write_text(self.out, &key)?;
        self.out.push(':');
        value.serialize(Canonical(self.out))?;
        self.out.push(',');
        self.entries.push((key, self.out.len()));
        Ok(())
    }

    fn close(self) -> Outcome {
        if !self.entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            let text = self.out.split_off(self.start);
            let starts = [self.start].into_iter().chain(self.entries.iter().map(|(_, end)| *end));
            let mut sorted: Vec<(&str, &str)> = self
                .entries
                .iter()
                .zip(starts)
                .map(|((key, end), start)| (&**key, &text[start - self.start..end - self.start]))
                .collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
                return Err(CanonicalStatus::KeysMustBeUnique);
            }
            self.out.extend(sorted.iter().map(|(_, entry)| *entry));
        }
        if !self.entries.is_empty() {
            self.out.pop();
        }
        self.out.push_str(self.end);
        Ok(())
    }
}

macro_rules! list {
    ($($trait:ident $method:ident),*) => {
        $(impl $trait for List<'_> {
            type Ok = ();
            type Error = CanonicalStatus;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Outcome {
                self.element(value)
            }

            fn end(self) -> Outcome {
                self.close()
            }
        })*
    };
}

list!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl $trait for Entries<'_> {
            type Ok = ();
            type Error = CanonicalStatus;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Outcome {
                self.entry(Cow::Borrowed(key), value)
            }

            fn end(self) -> Outcome {
                self.close()
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = CanonicalStatus;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Outcome {
        self.key = Some(key.serialize(KeyText)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Outcome {
        let key = self.key.take().expect("serde gives a key before its value");
        self.entry(Cow::Owned(key), value)
    }

    fn end(self) -> Outcome {
        self.close()
    }
}

/// The text of a map's key.
struct KeyText;

type Key = Result<String, CanonicalStatus>;
type Never = Impossible<String, CanonicalStatus>;

macro_rules! key_text {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Key {
            Ok(value.to_string())
        })*
    };
}

macro_rules! no_key {
    ($($method:ident($($argument:ty),*) -> $outcome:ty;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$outcome, CanonicalStatus> {
            Err(CanonicalStatus::KeyMustBeText)
        })*
    };
}

impl Serializer for KeyText {
    type Ok = String;
    type Error = CanonicalStatus;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Never;
    type SerializeStructVariant = Never;

    key_text!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_char: char, serialize_str: &str
    );

    no_key! {
        serialize_bool(bool) -> String;
        serialize_bytes(&[u8]) -> String;
        serialize_none() -> String;
        serialize_unit() -> String;
        serialize_unit_struct(&'static str) -> String;
        serialize_seq(Option<usize>) -> Never;
        serialize_tuple(usize) -> Never;
        serialize_tuple_struct(&'static str, usize) -> Never;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Never;
        serialize_map(Option<usize>) -> Never;
        serialize_struct(&'static str, usize) -> Never;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Never;
    }

    fn serialize_f32(self, _: f32) -> Key {
        Err(CanonicalStatus::FloatMustNotOccur)
    }

    fn serialize_f64(self, _: f64) -> Key {
        Err(CanonicalStatus::FloatMustNotOccur)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Key {
        Ok(variant.to_owned())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Key {
        Err(CanonicalStatus::KeyMustBeText)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Key {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Key {
        Err(CanonicalStatus::KeyMustBeText)
    }
}
