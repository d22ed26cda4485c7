//! The catalog of a run: one entity, one meter, one price; accounts with their subjects.
//!
//! Owns: its texts, in files that the server takes at once. Leaves to others: what they are charged (`oracle`).
//!
//! Invariants: every name begins with the run's, so runs of one directory do not touch each other.

use std::fmt::Write as _;

use crate::generator::{account_of, write_subject};

/// Rows of one file: some megabytes of text.
const ROWS_MAX: u32 = 20_000;

/// The files, to be applied in this order.
pub(crate) fn files(run: &str, accounts: u32, subjects: u32) -> impl Iterator<Item = String> + '_ {
    let terms = std::iter::once_with(move || terms(run));
    let chunks =
        |rows: u32| (0..rows).step_by(ROWS_MAX as usize).map(move |from| (from, rows.min(from + ROWS_MAX)));
    let accounts_of = chunks(accounts).map(move |(from, until)| {
        file((from..until).map(|account| {
            format!(
                "[[account]]\nid = \"{run}-{account:06}\"\nname = \"{run}-{account:06}\"\nentity = \"{run}\"\n\
                 currency = \"USD\"\ntime_zone = \"UTC\"\n[[subscription]]\nid = \"{run}-{account:06}\"\n\
                 account = \"{run}-{account:06}\"\nplan = \"{run}\"\nfrom = \"2020-01-01T00:00:00Z\"\n"
            )
        }))
    });
    let subjects_of = chunks(subjects).map(move |(from, until)| {
        file((from..until).map(|subject| {
            let mut name = String::new();
            write_subject(&mut name, run, subject);
            let account = account_of(subject, accounts);
            format!(
                "[[subject]]\nid = \"{name}\"\nsubscription = \"{run}-{account:06}\"\nfrom = \"2020-01-01T00:00:00Z\"\n"
            )
        }))
    });
    terms.chain(accounts_of).chain(subjects_of)
}

fn terms(run: &str) -> String {
    format!(
        r#"catalog = 1
[[entity]]
id = "{run}"
currency = "USD"
time_zone = "UTC"
[[meter]]
id = "{run}-units"
event_type = "{run}.usage"
aggregation = "sum"
value = "units"
[[plan]]
id = "{run}"
currency = "USD"
[[price]]
id = "{run}-units"
plan = "{run}"
meter = "{run}-units"
model = "per_unit"
unit_amount = "0.0125"
window = "month"
"#
    )
}

fn file(rows: impl Iterator<Item = String>) -> String {
    let mut text = "catalog = 1\n".to_string();
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
    text
}
