//! End to end: the binary and the wire, nothing else.
//!
//! Owns: starting, killing and asking real processes. `TALLYMARK_BIN` names a binary to test instead of the one that
//! cargo built with the tests.
//!
//! Invariants: no assertion is about time; every server has a directory and ports of its own and dies with its test.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that cannot go on fails; seeds are printed

mod api;
mod archive;
mod bad_input;
mod certificates;
mod corrections;
mod documents;
mod events;
mod forgetting;
mod hostile;
mod kill_nine;
mod lineage;
mod outbox;
mod process;
mod quote;
mod runs;
mod snapshots;
mod spilled;
mod usage;
mod what_if;
