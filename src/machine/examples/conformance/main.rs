//! Runs case files against the product: one answer on a line for every case.
//!
//! `cargo run --release -p machine --example conformance -- FILE` reads a JSON list of cases, or an object with `vectors`.
//! Each line is `{"id", "status", "values", "reason"?}`: `computed`, also where the product refuses what a case asks for
//! (`{"error": true}`); `unsupported` with a reason; `error` where a case is not written as expected.
//!
//! Owns: the file and the lines. Leaves to others: how cases are read (`json`, `case`), which family is computed by what
//! (`families`), and every computation (`billing`): the families make product types of a case and call the product.
//!
//! Invariants: what a case expects is dropped before anything is computed. The tests run the copies in `tests/vectors` and
//! compare (`expected`).

mod bounds;
mod burndown;
mod case;
mod credits;
mod differences;
mod documents;
mod events;
#[cfg(test)]
mod expected;
mod expression;
mod families;
mod imported;
mod json;
mod keys;
mod levels;
mod measures;
mod metering;
mod models;
mod numbers;
mod prices;
mod proration;
mod runs;
mod split;
mod tax;
mod terms;
mod time;
mod usage;
mod values;
mod window_commitment;
mod windows;

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else { return failed("usage: conformance FILE") };
    #[expect(clippy::disallowed_methods, reason = "an example is a program of its own, not the core")]
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return failed(&format!("{}: {error}", path.display())),
    };
    let cases = match json::cases(&text) {
        Ok(cases) => cases,
        Err(reason) => return failed(&format!("{}: {reason}", path.display())),
    };
    let mut out = io::stdout().lock();
    for case in &cases {
        let line = serde_json::Value::Object(families::answer(case));
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn failed(reason: &str) -> ExitCode {
    // Nobody is left to tell if this fails too.
    let _ = writeln!(io::stderr(), "{reason}");
    ExitCode::FAILURE
}
