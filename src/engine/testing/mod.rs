//! Simulated counterparts of the world, for tests.

pub mod disk;
