//! The rules: catalog, rating, charges and journals, as pure functions over values.
//!
//! Owns: what may be sold, what usage is worth, and what the books say of it.
//! Leaves to others: counting usage (`engine`), when rating happens (`machine`), bytes (`wire`).
//!
//! Invariants: no clock, no float, no map with random order; the same input gives the same output. Every rounding is a
//! named function: `Exact::round` and what is made of it.

#![deny(clippy::float_arithmetic)]

pub mod catalog;
pub mod charges;
pub mod ledger;
pub mod nearest;
pub mod quote;
pub mod rating;

#[cfg(test)]
mod testing;
