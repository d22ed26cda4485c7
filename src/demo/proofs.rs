//! The proofs: each compares two numbers that came about on different ways.
//!
//! Owns: the list of proofs and how it is printed. Leaves to others: the numbers.

use serde_json::{Value, json};

/// All proofs of a run.
#[derive(Default)]
pub(crate) struct Proofs {
    proofs: Vec<(String, bool, String)>,
    pub(crate) facts: serde_json::Map<String, Value>,
}

impl Proofs {
    /// Proves that two numbers are equal.
    pub(crate) fn equal<T: PartialEq + std::fmt::Display>(
        &mut self,
        name: &str,
        found: T,
        expected: T,
    ) -> bool {
        let holds = found == expected;
        let detail = if holds { String::new() } else { format!("found {found}, expected {expected}") };
        self.hold(name, holds, &detail)
    }

    /// Proves a statement.
    pub(crate) fn hold(&mut self, name: &str, holds: bool, detail: &str) -> bool {
        self.proofs.push((name.to_string(), holds, detail.to_string()));
        holds
    }

    /// Proofs that hold, and all of them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.proofs.iter().filter(|(_, holds, _)| *holds).count(), self.proofs.len())
    }

    /// The proofs that do not hold, for a person.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.proofs.iter().filter(|(_, holds, _)| !holds);
        failed.map(|(name, _, detail)| format!("{name}: {detail}")).collect()
    }

    /// Everything as JSON.
    pub(crate) fn to_json(&self) -> Value {
        let proofs: Vec<Value> = self
            .proofs
            .iter()
            .map(|(name, holds, detail)| json!({ "proof": name, "holds": holds, "detail": detail }))
            .collect();
        json!({ "proofs": proofs, "facts": self.facts })
    }
}
