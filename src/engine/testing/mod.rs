//! Simulated counterparts of the world, for tests, and files that may be any bytes.

pub mod disk;
pub use crate::shard::visit as runs;
