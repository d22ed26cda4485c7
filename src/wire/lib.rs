//! Bytes and values: what crosses a socket or lies in a log, checked before it is believed. No I/O.
//!
//! Owns: the envelope of every frame, the columns of a usage batch and their builder, replies, the greeting, verdicts
//! by precedence, canonical JSON and digests. Leaves to others: sockets and files (`server`, the client library), what
//! an event means (`engine`). `schemas/wire.md` draws the same bytes for people who do not read Rust.
//!
//! Invariants:
//! - Every length is checked against its limit before anything is allocated for it.
//! - A value that was decoded is consistent: accessors of a checked batch cannot fail.
//! - Bytes that were written once are read forever: golden files in `schemas/golden` fix each version.

pub mod frame;
pub mod buffer;
pub mod usage;
pub mod verdict;
pub mod event;
pub mod builder;
pub mod reply;
pub mod hello;
pub mod canonical;
pub mod control;
pub mod usage_record;

pub use buffer::AlignedBytes;
pub use builder::{BatchBuilder, BuilderStatus, IdMode};
pub use event::{Event, EventIdOwned, EventStatus};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema};
pub use usage::{EventId, Refusal, UsageBatch};
pub use verdict::{QuarantineReason, RefusalCode, Verdict};
