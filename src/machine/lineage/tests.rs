//! What lineage says in cases that histories do not have: lines of terms, texts that could steer a terminal.
//!
//! Leaves to others: whole histories (`crate::tests::lineage`), logs on disk (`usage_query::tests`).

use super::shown;

#[test]
fn what_producers_write_does_not_steer_a_terminal() {
    for (text, told) in [
        ("order-1 groß 東", "order-1 groß 東"),
        ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
        ("a\r\n\tb", "a\\u{d}\\u{a}\\u{9}b"),
        ("\u{9b}31m", "\\u{9b}31m"),
        ("1\u{202e}2\u{2066}3", "1\\u{202e}2\\u{2066}3"),
    ] {
        assert_eq!(shown(text), told);
    }
}
