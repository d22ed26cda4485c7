//! What the tests of this crate share. Owns: how many random cases a property tries.

use proptest::test_runner::Config;

/// `TALLYMARK_CASES` random cases, 128 where it is not set.
pub(crate) fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(128);
    // What a property leaves out is a share of its cases: a fixed limit would end a long run.
    let max_global_rejects = cases.max(1_024);
    Config { cases, max_global_rejects, failure_persistence: None, ..Config::default() }
}
