//! What the tests of this crate share. Owns: how many random cases a property tries.

use proptest::test_runner::Config;

/// `TALLYMARK_CASES` random cases, 128 where it is not set.
pub(crate) fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(128);
    Config { cases, failure_persistence: None, ..Config::default() }
}
