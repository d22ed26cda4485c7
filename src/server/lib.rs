//! The shell: threads, sockets, disks and the clock around the deterministic whole.
//!
//! Owns: everything that meets the world, and the commands of the binary. Leaves to others: what anything means
//! (`machine`, `engine`, `billing`).
//!
//! Threads of a running server: tokio workers (QUIC, HTTP), one usage-log writer and one that works ahead of it, one
//! thread per shard and one for their runs, one control thread. Queues between them are bounded; a full queue makes the sender wait, back to the producer's flow control.

pub mod archive;
pub mod clock;
pub mod commands;

pub mod config;
pub mod connectors;
pub mod control;
pub mod descriptors;
pub mod directory;
pub mod disk;
pub mod edge;
pub mod event_finder;
pub mod forgetting;
pub mod handoff;
pub mod ingest;
pub mod observe;
pub mod patience;
pub mod peers;
pub mod recovery;
pub mod run;
pub mod runs;
pub mod segments;
pub mod shards;
pub mod shares;
pub mod snapshots;
pub mod sources;
mod sync;
pub mod threads;
pub mod tls;
pub mod tokens;
pub mod usage_log;
pub mod usage_request;
