//! Every order in which threads of the server can meet: the file that it meets with, compiled over loom.
//!
//! Owns: models of threads, each doing what its original does, in that order. Leaves to others: what they meet with
//! (`src/server/handoff.rs`); queues, which are a library's, stand here as loom's.
//!
//! Run it with `cargo test --manifest-path models/Cargo.toml`.

#[path = "../src/server/handoff.rs"]
pub mod handoff;

/// What threads meet with, here.
pub mod sync {
    pub use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
}

#[cfg(test)]
mod tests;
