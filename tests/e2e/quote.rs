//! `tallymark quote` and `tallymark catalog check`: exit codes, JSON, usage from the input, and what is said of mistakes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::process::{CATALOG, binary, tallymark, text};

fn models() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/pricing-models.toml");
    path.to_str().unwrap().to_string()
}

fn quote(arguments: &[&str]) -> Output {
    let catalog = models();
    tallymark(&[&["quote", "--catalog", &catalog], arguments].concat())
}

#[test]
fn a_quote_in_json_says_what_the_text_says() {
    let arguments = ["--price", "storage", "--quantity", "1234.5", "--period", "2026-02"];
    let output = quote(&[&arguments[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bill = &all["bills"][0];
    assert_eq!((&bill["period"], &bill["currency"]), (&"2026-02".into(), &"USD".into()));
    assert_eq!((&bill["precise"], &bill["rounded"]), (&"113.725".into(), &"113.73".into()));
    let group = &bill["prices"][0]["groups"][0];
    assert_eq!(group["quantities"]["storage-gb"], "1234.5");
    assert_eq!(group["explanation"][0], "first 100 units at 0.10 = 10.00");
    assert_eq!(group["lines"][0]["price_version"], 1);
    let said = text(&quote(&arguments));
    assert!(said.contains("total exactly 113.725 USD, billed 113.73 USD"), "{said}");
}

#[test]
fn a_quote_of_a_subscription_says_its_agreements_and_what_it_cannot_have() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/agreements.toml");
    let quote = |arguments: &[&str]| {
        tallymark(
            &[&["quote", "--catalog", path.to_str().unwrap(), "--period", "2026-02"], arguments].concat(),
        )
    };
    let output = quote(&["--subscription", "globex-pro", "--quantity", "150000000", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bill = &all["bills"][0];
    // 130 million tokens are 325.00, seats 95.00; a fifth less is 336.00, of which the wallet pays 100.00.
    assert_eq!(bill["rounded"], "236.00");
    assert_eq!(bill["agreed"][0]["component"], "covered");
    assert_eq!(bill["thresholds"]["reached"], "250.00");
    assert!(all["notes"][0].as_str().unwrap().contains("commitment globex-2026"), "{all}");
    let said = text(&quote(&["--plan", "pro", "--quantity", "150000000"]));
    assert!(
        said.contains("without what accounts agreed to (discount launch-2026, commitment globex-2026, grant"),
        "{said}"
    );
    let output = quote(&["--subscription", "globex-pro", "--seats", "3"]);
    assert!(!output.status.success() && text(&output).contains("cannot be used with"), "{}", text(&output));
}

#[test]
fn usage_comes_from_the_input_and_every_event_is_accounted_for() {
    let mut child = Command::new(binary())
        .args(["quote", "--catalog", &models(), "--plan", "market", "--usage", "-", "--type", "payment"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let usage = "id,time,type,amount\n\
                 a,2026-02-01T00:00:00Z,,100\n\
                 a,2026-02-01T00:00:00Z,,100\n\
                 b,2026-02-28T23:59:59Z,,x\n\
                 c,2026-03-01T00:00:00Z,,50\n\
                 d,2026-03-01T00:00:00Z,mail,\n";
    child.stdin.take().unwrap().write_all(usage.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let first = "5 events, 1 with an id that came before, 1 that no meter of the catalog takes, 1 that does not count\n";
    assert!(said.starts_with(first), "{said}");
    assert!(said.contains("  line 4: the value is not a decimal\n"), "{said}");
    assert!(said.contains("  meters take events of the types call, email, job,"), "{said}");
    for what in [
        "in 2026-02 (UTC)",
        "in 2026-03 (UTC)",
        "3% of 100 = 3.00",
        "3% of 50 = 1.50",
        "100 payments, in 1 event",
    ] {
        assert!(said.contains(what), "{what} in {said}");
    }
}

#[test]
fn what_cannot_be_quoted_exits_with_one_and_says_why() {
    for (arguments, what) in [
        (&["--price", "storag"][..], "the catalog has no price \"storag\"; it has storage"),
        (&["--price", "storage", "--quantity", "1e3"], "is not a quantity"),
        (&["--price", "storage", "--quantity", "1", "--seats", "-1"], "seats must be zero or more"),
        (&["--plan", "market", "--quantity", "5"], "say which meter"),
        (&["--plan", "market", "--usage", "no-such-file"], "cannot read no-such-file"),
    ] {
        let output = quote(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output).contains(what), "{}", text(&output));
    }
    assert_eq!(quote(&["--quantity", "5"]).status.code(), Some(2), "a quote is of a price or a plan");
}

#[test]
fn a_check_exits_with_one_for_mistakes_and_shows_each_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.toml");
    let file = path.to_str().unwrap();
    let check = |catalog: &str| {
        std::fs::write(&path, catalog).unwrap();
        let output = tallymark(&["catalog", "check", file]);
        (output.status.code(), text(&output))
    };
    let (code, said) = check(CATALOG);
    assert_eq!((code, said.trim()), (Some(0), &*format!("{file}: 0 mistakes, 0 warnings in 9 resources")));
    let (code, said) = check(&CATALOG.replace("{ unit_amount = \"0.25\" }", "{ unit_amount = \"-0.25\" }"));
    assert_eq!(code, Some(0), "a warning is no mistake: {said}");
    assert!(said.contains("warning (amount_is_negative): price tokens"), "{said}");
    let wrong = CATALOG.replace("\"0.01\"", "0.01").replace("account = \"acme\"", "account = \"acne\"");
    let (code, said) = check(&wrong);
    assert_eq!(code, Some(1));
    for what in [
        "unit_amount = 0.01\n   |               ^^^^\n",
        "account = \"acne\"\n   |           ^^^^^^\n   = did you mean \"acme\"?",
        "2 mistakes, 0 warnings in 9 resources",
    ] {
        assert!(said.contains(what), "{what} in {said}");
    }
    // The same before anything is sent: there is no server here.
    let output = tallymark(&["catalog", "apply", file, "--token", "none", "--url", "http://127.0.0.1:1"]);
    let said = text(&output);
    assert!(said.contains("unit_amount = 0.01") && said.contains("nothing was sent"), "{said}");
    assert!(!said.contains("acne"), "the server may have it: {said}");
}
