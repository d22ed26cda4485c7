//! The laws of every encoding: what is written is read again, what is damaged is refused, what was written once is read
//! forever.
//!
//! Owns: tests that need more than one module of this crate. Leaves to others: rules of one module (beside it).

mod costs;
mod damage;
mod document;
mod golden;
mod limits;
mod refusals;
mod round_trip;
mod samples;
mod statuses;

/// Random cases of each property; `TALLYMARK_CASES` asks for more.
fn cases() -> proptest::test_runner::Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    proptest::test_runner::Config::with_cases(cases)
}
