//! Raw receivers: they read the same bytes, answer that all is well, and do nothing else. The denominators of every ratio.
//!
//! Invariants: nothing is checked, kept or written.

pub(crate) mod http;
pub(crate) mod quic;
