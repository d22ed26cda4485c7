//! Bytes and values: what crosses a socket or lies in a log, checked before it is believed. No I/O.
//!
//! Owns: the envelope of every frame, the columns of a usage batch and their builder, replies, the greeting, verdicts
//! by precedence, canonical JSON and digests. Leaves to others: sockets and files (`server`, the client library), what
//! an event means (`engine`). `schemas/wire.md` draws the same bytes for people who do not read Rust.
//!
//! ```
//! use wire::frame::{FLAG_VERDICTS_WANTED, decode_frame};
//! use wire::{BatchBuilder, IdMode, UsageBatch};
//!
//! let mut builder = BatchBuilder::new("checkout", "api_call", IdMode::Given);
//! let time = 1_767_225_600_000_000_000; // 2026-01-01T00:00:00Z
//! builder.push_parts(b"order-1", "key-a", time, &[("tokens", 1_200, 0)], &[("model", "large")])?;
//! let frame = builder.finish(1, FLAG_VERDICTS_WANTED);
//!
//! let (header, body) = decode_frame(&frame)?;
//! let batch = UsageBatch::check(&header, body)?;
//! assert_eq!(batch.value_columns()[0].value(0), Some(1_200));
//! assert!(batch.refusals().is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants:
//! - Every length is checked against its limit before anything is allocated for it.
//! - A value that was decoded is consistent: accessors of a checked batch cannot fail.
//! - Bytes that were written once are read forever: golden files in `schemas/golden` fix each version.

pub mod buffer;
pub mod builder;
pub mod canonical;
pub mod cloudevents;
pub mod control;
pub mod correction;
pub mod event;
pub mod frame;
pub mod hello;
pub mod reply;
pub mod usage;
pub mod usage_record;
pub mod verdict;

pub use buffer::AlignedBytes;
pub use builder::{BatchBuilder, BuilderStatus, IdMode};
pub use event::{Event, EventIdOwned, EventStatus};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema};
pub use usage::{EventId, Refusal, UsageBatch};
pub use verdict::{QuarantineReason, RefusalCode, Verdict};

#[cfg(test)]
mod laws;
