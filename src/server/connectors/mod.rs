//! Connectors: other systems' formats, one file each.

pub mod hledger;
