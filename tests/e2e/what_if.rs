//! What a changed catalog would do, against what it then does.

use std::collections::BTreeMap;
use std::path::Path;

use domain::{Decimal, Timestamp};
use serde_json::Value;
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, client, mark_shown, tallymark, text};

const EUROPE: &str = r#"
[[account]]
id = "bell"
name = "Bell"
entity = "inc"
currency = "EUR"
time_zone = "Europe/Berlin"
[[plan]]
id = "euro"
currency = "EUR"
[[price]]
id = "euro-tokens"
plan = "euro"
meter = "tokens"
model = "per_unit"
unit_amount = "0.3"
window = "month"
[[subscription]]
id = "s2"
account = "bell"
plan = "euro"
from = "2020-01-01T00:00:00Z"
[[subject]]
id = "key-2"
subscription = "s2"
from = "2020-01-01T00:00:00Z"
"#;

fn event(id: usize, subject: &str, tokens: i64) -> Event {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    Event::new(EventIdOwned::Text(id.to_string()), subject, Timestamp::from_nanoseconds(now))
        .value("tokens", Decimal::from_integer(tokens))
}

/// Rounded amounts per account over all charge batches, in minor units.
async fn charged(server: &Server, token: &str) -> BTreeMap<String, i64> {
    let (_, batches) = call("GET", &server.url("/v1/charge-batches?after=0"), token, "").await;
    let mut sums = BTreeMap::new();
    for line in batches.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(charge) = line.get("charge") {
            *sums.entry(charge["account"].as_str().unwrap().to_string()).or_insert(0) +=
                minor(&charge["rounded"]);
        }
    }
    sums
}

fn minor(amount: &Value) -> i64 {
    amount.as_str().unwrap().replace('.', "").parse().unwrap()
}

/// Every file of a directory with its bytes.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// Exit code, and what was said.
fn what_if(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = tallymark(&[&["what-if", "--data", data.to_str().unwrap()], arguments].concat());
    (output.status.code(), text(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_if_says_what_applying_the_catalog_then_charges_and_writes_nothing() {
    let (data, files_of_ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let present = format!("{CATALOG}{EUROPE}");
    // Dearer in USD, cheaper in EUR.
    let changed = present
        .replace("{ unit_amount = \"0.25\" }", "{ unit_amount = \"0.4\" }")
        .replace("unit_amount = \"0.3\"", "unit_amount = \"0.19\"");
    let file = |name: &str, text: &str| {
        let path = files_of_ours.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (present_file, changed_file) = (file("present.toml", &present), file("changed.toml", &changed));
    let server = Server::start(data.path(), &["--catalog", &present_file]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let client = client(&server, data.path(), &token, "shop").await;
    for number in 0..100 {
        client.record("request", &event(number, ["key-1", "key-2"][number % 2], 33)).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(call("POST", &server.url("/v1/cuts"), &token, "").await.0, 200);
    // Usage behind the last cut is on both sides.
    client.record("request", &event(100, "key-1", 7)).await.unwrap();
    client.close().await.unwrap();

    let beside = what_if(data.path(), &["--catalog", &changed_file, "--json"]);
    assert_eq!(beside.0, Some(0), "beside a running server: {}", beside.1);
    assert_eq!(server.terminate(), Some(0));
    let before = files(data.path());
    let picture = files_of_ours.path().join("effect.svg");
    let (code, said) =
        what_if(data.path(), &["--catalog", &changed_file, "--json", "--svg", picture.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let effect: Value = serde_json::from_str(&said).unwrap();
    let picture = std::fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");

    let (_, said) = what_if(data.path(), &["--catalog", &changed_file]);
    for part in
        ["~ prices tokens (version 2)", "affected: 2 accounts, 2 subscriptions", "another amount: 2 of 2"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = what_if(data.path(), &["--catalog", &present_file]);
    assert!(code == Some(0) && said.contains("no changes"), "{said}");
    let (code, said) = what_if(data.path(), &["--catalog", &changed_file, "--period", "2019-01"]);
    assert!(code == Some(0) && said.contains("no charges for usage of 2019-01"), "{said}");
    check_refusals(data.path(), &file, &changed);
    assert!(files(data.path()) == before, "the data directory is not written to");

    let server = Server::start(data.path(), &[]);
    let (status, _) = call_json("POST", &server.url("/v1/catalog/apply"), &token, &changed).await;
    assert_eq!(status, 200);
    assert_eq!(call("POST", &server.url("/v1/cuts"), &token, "").await.0, 200);
    let after: BTreeMap<String, i64> = charged(&server, &token).await;
    let accounts = effect["accounts"].as_array().unwrap();
    let foreseen = accounts
        .iter()
        .map(|row| (row["account"].as_str().unwrap().to_string(), minor(&row["after"])))
        .collect();
    assert_eq!(after, foreseen);
    for (row, difference, percent) in [(1, "98.55", "14.8"), (0, "-181.50", "-36.7")] {
        assert_eq!(
            (&accounts[row]["difference"], &accounts[row]["percent"]),
            (&difference.into(), &percent.into())
        );
    }
}

/// Mistakes are refused with what to do about them.
fn check_refusals(data: &Path, file: &dyn Fn(&str, &str) -> String, catalog: &str) {
    let typo = file("typo.toml", &catalog.replace("unit_amount = \"0.01\"", "unit_amount = 0.01"));
    let fixed = file("fixed.toml", &catalog.replace("time_zone = \"Europe/Berlin\"", "time_zone = \"UTC\""));
    let good = file("good.toml", catalog);
    let inside = data.join("effect.svg").display().to_string();
    let nowhere = data.join("nowhere").display().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["--catalog", &typo], "typo.toml:37:15"),
        (&["--catalog", &fixed], "fixed.toml, line 50 does not fit the catalog of"),
        (&["--catalog", &nowhere], "cannot read"),
        (&["--catalog", &good, "--svg", &inside], "choose another place"),
        (&["--catalog", &good, "--at", "2020-01-01T00:00:00Z"], "is before the last cut"),
    ];
    for (arguments, part) in cases {
        let (code, said) = what_if(data, arguments);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = what_if(Path::new(&nowhere), &["--catalog", &good]);
    assert!(code == Some(1) && said.contains("is not a data directory"), "{said}");
}
