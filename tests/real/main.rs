//! Real peers: programs of other people judge what leaves Tallymark.
//!
//! Owns: running them. With `TALLYMARK_REAL=1` a missing peer fails; without it the test prints SKIPPED and why.
//!
//! Invariants: a peer is used as its users use it, unmodified.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // a skipped test says so; one that cannot go on fails

mod cloudevents;
mod hledger;
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
#[path = "../e2e/process.rs"]
mod process;
mod schema;

use std::process::Command;

/// Whether a peer is there; says why a test is skipped, or fails where peers are required.
pub(crate) fn has_peer(program: &str) -> bool {
    is_there(program, Command::new(program).arg("--version"))
}

/// Whether Python has a module, likewise.
pub(crate) fn has_python_module(module: &str) -> bool {
    is_there(module, Command::new("python3").args(["-c", &format!("import {module}")]))
}

fn is_there(program: &str, asked: &mut Command) -> bool {
    let is_there = asked.output().is_ok_and(|output| output.status.success());
    let is_required = std::env::var_os("TALLYMARK_REAL").is_some_and(|value| value == "1");
    assert!(is_there || !is_required, "TALLYMARK_REAL=1, but {program} is not installed");
    if !is_there {
        println!("SKIPPED: {program} is not installed; TALLYMARK_REAL=1 makes this a failure");
    }
    is_there
}
