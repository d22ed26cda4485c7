//! hledger accepts our journals under its strictest checks, and sees the same balances.

use std::io::Write;
use std::process::{Command, Stdio};

use billing::ledger::{Journal, JournalLine, LedgerAccount};
use domain::{Currency, EntityId, Period};
use server::connectors::hledger::export;

fn journal(entity: &str, period: &str, run: u64, code: &str, minor: i128) -> Journal {
    let currency = Currency::from_code(code).expect("a known currency");
    let line = |ledger_account, debit: i128, credit: i128| JournalLine {
        ledger_account,
        debit: currency.format_minor(debit),
        credit: currency.format_minor(credit),
    };
    let (debit, credit) = (minor.max(0), (-minor).max(0));
    Journal {
        external_id: format!("{entity}-{period}-{run}-v1"),
        entity: EntityId::new(entity).expect("a short id"),
        ledger: "main".to_string(),
        period: Period::parse(period).expect("a month"),
        currency,
        posted_on: Period::parse(period).expect("a month").last_day(),
        run,
        lines: vec![
            line(LedgerAccount::UnbilledReceivable, debit, credit),
            line(LedgerAccount::RevenueUsage, credit, debit),
        ],
        batches: [1, 9],
        charge_count: 3,
    }
}

fn hledger(arguments: &[&str], text: &str) -> (bool, String) {
    let mut child = Command::new("hledger")
        .args(["-f", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hledger starts");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("hledger reads");
    let output = child.wait_with_output().expect("hledger ends");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn journals_pass_strict_checks_in_every_kind_of_currency() {
    if !crate::has_peer("hledger") {
        return;
    }
    let journals = [
        journal("lumen-inc", "2026-01", 1, "USD", 123_456_789),
        journal("lumen-inc", "2026-02", 2, "USD", -50),
        journal("lumen-inc", "2026-02", 3, "JPY", 1_234),
        journal("lumen.gmbh_2", "2026-02", 1, "KWD", 1_001),
    ];
    let text = export(&journals);
    let (is_accepted, said) = hledger(&["check", "--strict"], &text);
    assert!(is_accepted, "{said}\n{text}");
    let (_, balance) = hledger(&["balance", "--flat", "-N", "assets:lumen-inc", "cur:USD"], &text);
    assert!(balance.contains("1234567.39 USD") || balance.contains("1,234,567.39 USD"), "{balance}");
}

#[test]
fn an_unbalanced_journal_would_be_refused() {
    if !crate::has_peer("hledger") {
        return;
    }
    let mut broken = journal("lumen-inc", "2026-01", 1, "USD", 100);
    broken.lines[1].credit = "0.99".to_string();
    assert!(!hledger(&["check", "--strict"], &export(&[broken])).0);
}
