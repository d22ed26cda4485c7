//! The data plane as state machines: logs, identities, shards.
//!
//! Owns: what happens to an event between the frame and its cell, and the bytes on disk.
//! Leaves to others: threads, sockets, disks and the clock (`server`), what usage costs (`billing`).
//!
//! Invariants: no clock, no I/O of its own, no randomness; `handle_*` takes input, what comes out is returned.

pub mod identity;
pub mod io;
pub mod log;
pub mod prepared;
pub mod shard;
pub mod snapshot;
pub mod testing;
