//! An end of remembering with the real binary: too many ids are loud, what may have counted is set aside, and every start
//! and every replay comes to the same.

use std::path::Path;

use domain::Timestamp;
use domain::time::{DAY, HOUR};
use serde_json::Value;

use crate::process::{CATALOG, Server, call, call_json, charged, client, mark_shown, tallymark, text};
use crate::snapshots::{event, send};

fn start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

async fn ids(server: &Server, token: &str) -> Value {
    call_json("GET", &server.url("/v1/counters"), token, "").await.1["ids"].clone()
}

async fn shop(server: &Server, token: &str) -> Value {
    call_json("GET", &server.url("/v1/counters"), token, "").await.1["sources"]["shop"].clone()
}

async fn advance(server: &Server, token: &str, now: Timestamp) {
    let body = format!(r#"{{"now": "{now}"}}"#);
    assert_eq!(call("POST", &server.url("/v1/scenario-clock"), token, &body).await.0, 200);
}

/// Sends event `number`, of an instant; gives how many were known, and how many were too old, of all so far.
async fn send_one(server: &Server, data: &Path, token: &str, now: Timestamp, number: u64) -> (u64, u64) {
    let sender = client(server, data, token, "shop").await;
    sender.record("request", &event(now, number)).await.unwrap();
    sender.close().await.unwrap();
    let counters = shop(server, token).await;
    let too_old = counters["quarantined"]["too_old"].as_u64().unwrap();
    (counters["duplicate"].as_u64().unwrap(), too_old)
}

fn check(data: &Path) {
    for command in ["replay", "verify"] {
        let output = tallymark(&[command, "--data", data.to_str().unwrap()]);
        assert!(output.status.success(), "{command}: {}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_ids_are_forgotten_and_what_may_have_counted_is_set_aside() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let (day, settings) = (start().plus(DAY), ["--clock", "scenario", "--ids-max", "1000"]);
    let server = Server::start(data, &settings);
    let token = server.token.clone().unwrap();
    mark_shown(data);
    assert_eq!(call("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    send(&server, data, &token, start(), 0, 600).await;
    assert_eq!(ids(&server, &token).await["forgotten"], Value::Null);
    advance(&server, &token, day).await;
    send(&server, data, &token, day, 600, 600).await;
    // The control thread looks twice a second, and shards forget at their next barrier.
    let found = loop {
        let found = ids(&server, &token).await;
        if !found["forgotten"].is_null() && found["remembered"] != found["forgotten"]["ids"] {
            break found;
        }
    };
    let forgotten = &found["forgotten"];
    assert_eq!((&forgotten["because"], &forgotten["ids"]), (&"ids_max".into(), &1_200.into()), "{found}");
    // The oldest batches go whole, until there is an eighth of room; how many events they have is a matter of time.
    let remembered = found["remembered"].as_u64().unwrap();
    assert!((600..=875).contains(&remembered) && found["max"] == 1_000, "{found}");
    assert_eq!(forgotten["arrived_until"], start().to_string());
    // One event a nanosecond: behind the last that was forgotten.
    assert_eq!(forgotten["proven_from"], start().plus(1_200 - remembered as i64).to_string());
    let page = call("GET", &server.url("/metrics"), &token, "").await.1;
    assert!(page.contains("\ntallymark_ids_max_exceeded_total 1\n"), "{page}");
    let completeness = "/v1/accounts/acme/completeness?period=2026-01";
    let (_, statement) = call_json("GET", &server.url(completeness), &token, "").await;
    assert_eq!(statement["forgotten"], *forgotten, "{statement}");

    // Nobody can say whether this one came before.
    assert_eq!(send_one(&server, data, &token, start(), 0).await, (0, 1));
    assert_eq!(send_one(&server, data, &token, start(), 0).await, (1, 1), "what is set aside is remembered");
    assert_eq!(send_one(&server, data, &token, day, 600).await, (2, 1));
    let why = r#"{"reason": "it is right"}"#;
    let (status, said) = call_json("POST", &server.url("/v1/events/shop/e0/release"), &token, why).await;
    assert_eq!((status, &said["code"]), (409, &"event_must_not_count_already".into()), "{said}");
    server.kill();
    check(data);

    let server = Server::start(data, &settings);
    assert_eq!(ids(&server, &token).await["forgotten"], *forgotten);
    assert_eq!(send_one(&server, data, &token, start(), 0).await, (3, 1));
    assert_eq!(send_one(&server, data, &token, start(), 1).await, (3, 2));
    assert_eq!(send_one(&server, data, &token, start().plus(2 * HOUR), 2_000).await, (3, 2), "it is new");
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(charged(&server, &token).await.0["calls"], 960, "four of five have an owner");
    assert_eq!(server.terminate(), Some(0));
    check(data);

    // From a snapshot, and by days alone: 40 of them without a word.
    let server = Server::start(data, &["--clock", "scenario", "--shards", "2"]);
    advance(&server, &token, start().plus(41 * DAY - HOUR)).await;
    assert_eq!(ids(&server, &token).await["forgotten"], *forgotten, "the next day is not over");
    advance(&server, &token, start().plus(41 * DAY)).await;
    let found = ids(&server, &token).await;
    assert_eq!((&found["forgotten"]["because"], &found["remembered"]), (&"dedup_days".into(), &0.into()));
    assert_eq!(send_one(&server, data, &token, day, 601).await, (3, 3));
    assert_eq!(send_one(&server, data, &token, start(), 0).await, (4, 3), "what was set aside stays known");
    assert_eq!(server.terminate(), Some(0));
    check(data);
}

/// Ids lie in runs on disk, and so does what is forgotten of them: it is asked when a person corrects an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_of_runs_is_found_when_a_person_asks() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let more = ["--dedup-memory", "524288", "--ids-max", "2500", "--pending-per-slot-max", "1000"];
    let settings = [&["--clock", "scenario"][..], &more].concat();
    let server = Server::start(data, &settings);
    let token = server.token.clone().unwrap();
    mark_shown(data);
    assert_eq!(call("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    send(&server, data, &token, start(), 0, 1_500).await;
    advance(&server, &token, start().plus(DAY)).await;
    send(&server, data, &token, start().plus(DAY), 1_500, 1_500).await;
    while ids(&server, &token).await["forgotten"].is_null() {
        // The control thread looks twice a second.
    }
    let why = r#"{"reason": "it was sent twice"}"#;
    assert_eq!(send_one(&server, data, &token, start(), 1).await, (0, 1));
    let (status, said) = call_json("POST", &server.url("/v1/events/shop/e1/release"), &token, why).await;
    assert_eq!((status, &said["code"]), (409, &"event_must_not_count_already".into()), "{said}");
    let (_, shown) = call_json("GET", &server.url("/v1/events/shop/e1"), &token, "").await;
    let earlier = &shown["counted_before"];
    assert!(earlier["offset"].as_u64() < shown["offset"].as_u64() && earlier["index"] == 1, "{shown}");
    let (status, said) = call_json("POST", &server.url("/v1/events/shop/e2/void"), &token, why).await;
    assert_eq!((status, &said["standing"]), (200, &"voided".into()), "{said}");
    assert_eq!(
        send_one(&server, data, &token, start(), 2).await,
        (1, 1),
        "who corrects an event remembers it"
    );
    server.kill();
    check(data);
    for folder in ["snapshots", "runs"] {
        std::fs::remove_dir_all(data.join(folder)).unwrap();
    }
    let server = Server::start(data, &settings);
    assert_eq!(send_one(&server, data, &token, start(), 2).await, (2, 1));
    assert_eq!(send_one(&server, data, &token, start(), 3).await, (2, 2));
    assert_eq!(send_one(&server, data, &token, start().plus(DAY), 2_999).await, (3, 2));
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(
        charged(&server, &token).await.0["calls"],
        2_399,
        "four of five have an owner, less the voided one"
    );
    assert_eq!(server.terminate(), Some(0));
    check(data);
}

#[test]
fn horizons_that_contradict_each_other_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    for (settings, refusal) in [
        (["--dedup-days", "34"], "--dedup-days is not less than --horizon-hours"),
        (["--horizon-hours", "961"], "--dedup-days is not less than --horizon-hours"),
        (["--correction-hours", "959"], "--correction-hours is not less than --dedup-days"),
    ] {
        let output = tallymark(&["serve", "--data", data.to_str().unwrap(), settings[0], settings[1]]);
        assert!(!output.status.success() && text(&output).contains(refusal), "{}", text(&output));
        assert!(!data.exists(), "nothing was made");
    }
}
