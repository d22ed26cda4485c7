//! Single events that memory has no room for: they are charged from where they are, and the logs give them back.

use std::path::{Path, PathBuf};

use domain::{Decimal, Timestamp};
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, charged, client, mark_shown, tallymark, text};

/// The least memory that there may be: 32,768 single events.
const SETTINGS: [&str; 2] = ["--sequence-memory", "1048576"];
const EVENTS: u64 = 40_000;

/// What the catalog of the other tests has, and a percentile of all events.
const SEQUENCE: &str = r#"
[[meter]]
id = "median"
event_type = "request"
aggregation = "percentile"
percent = "50"
value = "tokens"
[[price]]
id = "median"
plan = "pro"
meter = "median"
model = "per_unit"
unit_amount = "1"
window = "month"
"#;

fn value_of(number: u64) -> u64 {
    number % 1_001
}

fn files(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("spilled")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

async fn spilled(server: &Server, token: &str) -> u64 {
    let page = call("GET", &server.url("/metrics"), token, "").await.1;
    let line = page.lines().find(|line| line.starts_with("tallymark_sequence_items_spilled ")).unwrap();
    line.split(' ').next_back().unwrap().parse().unwrap()
}

async fn send(server: &Server, data: &Path, token: &str, now: Timestamp, numbers: std::ops::Range<u64>) {
    let client = client(server, data, token, "shop").await;
    for number in numbers {
        let event = Event::new(EventIdOwned::Text(format!("e{number}")), "key-1", now.plus(number as i64));
        let event = event.value("tokens", Decimal::from_integer(value_of(number) as i64));
        client.record("request", &event).await.unwrap();
    }
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_events_that_left_memory_are_charged_all_the_same() {
    let data = tempfile::tempdir().unwrap();
    let catalog = data.path().join("catalog.toml");
    std::fs::write(&catalog, format!("{CATALOG}{SEQUENCE}")).unwrap();
    let arguments = [&SETTINGS[..], &["--catalog", catalog.to_str().unwrap()]].concat();
    let server = Server::start(data.path(), &arguments);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let now = Timestamp::from_nanoseconds(now);
    send(&server, data.path(), &token, now, 0..EVENTS).await;
    while spilled(&server, &token).await == 0 {
        // They leave memory beside the shards.
    }
    assert!(!files(data.path()).is_empty());
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let bill = call("GET", &server.url("/v1/accounts/acme/bill"), &token, "").await.1;
    let first = charged(&server, &token).await;
    let mut values: Vec<u64> = (0..EVENTS).map(value_of).collect();
    values.sort_unstable();
    let median = values[values.len() / 2 - 1];
    assert!(bill.contains(&format!("\n    {median} units at 1.00 = {median}.00\n")), "{bill}");

    // Behind a kill the files are those of another process, and the log gives back what was in them.
    server.kill();
    let server = Server::start(data.path(), &arguments);
    while spilled(&server, &token).await == 0 {
        // Reading the log again spilled them again, or will.
    }
    assert_eq!(call("GET", &server.url("/v1/accounts/acme/bill"), &token, "").await.1, bill);
    assert_eq!(call_json("POST", &server.url("/v1/cuts"), &token, "").await.1["lines"], 0);
    assert_eq!(server.terminate(), Some(0));

    // A snapshot has them, too.
    let server = Server::start(data.path(), &arguments);
    assert!(crate::snapshots::started_from(&server, &token).await > 0);
    assert_eq!(call("GET", &server.url("/v1/accounts/acme/bill"), &token, "").await.1, bill);

    // Bytes that are not those that were written stop the server before anything is charged by them.
    while spilled(&server, &token).await == 0 {}
    for path in files(data.path()) {
        let zeros = vec![0; std::fs::metadata(&path).unwrap().len() as usize];
        std::fs::write(&path, zeros).unwrap();
    }
    let bill_of_damage = call("GET", &server.url("/v1/accounts/acme/bill"), &token, "").await;
    assert_eq!(bill_of_damage.0, 500);
    assert!(bill_of_damage.1.contains("spilled items is damaged"), "{}", bill_of_damage.1);
    send(&server, data.path(), &token, now, EVENTS..EVENTS + 1).await;
    let cut = reqwest::Client::new().post(server.url("/v1/cuts")).bearer_auth(&token).send().await;
    assert!(cut.is_err() || cut.unwrap().status() == 503, "the process may end before it answers");
    assert_eq!(server.wait(), Some(1), "what it cannot read ends the process");
    let server = Server::start(data.path(), &arguments);
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_ne!(charged(&server, &token).await, first, "one event more is charged");
    assert_eq!(server.terminate(), Some(0));
    let replayed = tallymark(&["replay", "--data", data.path().to_str().unwrap()]);
    assert!(replayed.status.success(), "{}", text(&replayed));
}
