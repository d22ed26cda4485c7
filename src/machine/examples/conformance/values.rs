//! What a family gives: values by output key.
//!
//! Owns: how values are written. Leaves to others: which keys a family has.
//!
//! Invariants: numbers are texts, a ratio that does not end is `a/b` in lowest terms.

use std::collections::BTreeMap;

use domain::Exact;
use serde_json::{Map, Value};

/// Values by output key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Values {
    fields: Map<String, Value>,
}

impl Values {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The values with one more.
    pub(crate) fn with(mut self, name: &str, value: impl Emit) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Emit) {
        self.fields.insert(name.to_string(), value.emit());
    }

    pub(crate) fn into_fields(self) -> Map<String, Value> {
        self.fields
    }
}

/// What can be given out.
pub(crate) trait Emit {
    fn emit(self) -> Value;
}

impl Emit for Exact {
    fn emit(self) -> Value {
        Value::String(self.to_string())
    }
}

impl Emit for i128 {
    fn emit(self) -> Value {
        Value::String(self.to_string())
    }
}

impl Emit for u64 {
    fn emit(self) -> Value {
        Value::String(self.to_string())
    }
}

impl Emit for usize {
    fn emit(self) -> Value {
        Value::String(self.to_string())
    }
}

impl Emit for bool {
    fn emit(self) -> Value {
        Value::Bool(self)
    }
}

impl Emit for &str {
    fn emit(self) -> Value {
        Value::String(self.to_string())
    }
}

impl Emit for String {
    fn emit(self) -> Value {
        Value::String(self)
    }
}

impl Emit for Value {
    fn emit(self) -> Value {
        self
    }
}

impl Emit for Values {
    fn emit(self) -> Value {
        Value::Object(self.fields)
    }
}

impl<T: Emit> Emit for Option<T> {
    fn emit(self) -> Value {
        self.map_or(Value::Null, Emit::emit)
    }
}

impl<T: Emit> Emit for Vec<T> {
    fn emit(self) -> Value {
        Value::Array(self.into_iter().map(Emit::emit).collect())
    }
}

impl<K: ToString, T: Emit> Emit for BTreeMap<K, T> {
    fn emit(self) -> Value {
        Value::Object(self.into_iter().map(|(name, value)| (name.to_string(), value.emit())).collect())
    }
}
