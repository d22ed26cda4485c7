//! Corrections of single events with the real binary: what was charged already is taken back, books stay balanced, and a
//! replay comes to the same.

use domain::{Decimal, Timestamp};
use serde_json::Value;
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, charged, client, mark_shown, tallymark, text};

fn event(id: &str, subject: &str, tokens: i64) -> Event {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    Event::new(EventIdOwned::Text(id.to_string()), subject, Timestamp::from_nanoseconds(now))
        .value("tokens", Decimal::from_integer(tokens))
}

async fn post(server: &Server, token: &str, path: &str, body: &str) -> (u16, Value) {
    call_json("POST", &server.url(path), token, body).await
}

/// Debits and credits over all journals, in text of the ledger: equal, whatever was posted.
async fn check_journals(server: &Server, token: &str) -> usize {
    let (_, journals) = call("GET", &server.url("/v1/journals"), token, "").await;
    let parse = |text: &Value| Decimal::parse(text.as_str().unwrap_or("0")).unwrap();
    for journal in journals.lines() {
        let journal: Value = serde_json::from_str(journal).unwrap();
        let sum_of = |side: &str| {
            let lines = journal["lines"].as_array().unwrap().iter().map(|line| parse(&line[side]));
            lines.map(|amount| amount.mantissa() * 10i128.pow(u32::from(4 - amount.scale()))).sum::<i128>()
        };
        assert_eq!(sum_of("debit"), sum_of("credit"), "{journal}");
    }
    journals.lines().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_after_an_issued_batch_gives_a_correction_and_a_balanced_journal() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--shards", "2"]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    assert_eq!(post(&server, &token, "/v1/catalog/apply", CATALOG).await.0, 200);
    let sender = client(&server, data.path(), &token, "shop/eu").await;
    for (id, subject, tokens) in [
        ("a", "key-1", 100),
        ("b/1 ü", "key-1", 20),
        ("c", "key-1", 3),
        ("bad", "key-1", -5),
        ("lost", "key-9", 7),
    ] {
        sender.record("request", &event(id, subject, tokens)).await.unwrap();
    }
    sender.flush().await.unwrap();
    post(&server, &token, "/v1/cuts", "").await;
    post(&server, &token, "/v1/journal-runs", "").await;
    let sums = charged(&server, &token).await.0;
    assert_eq!((sums["tokens"], sums["calls"]), (123, 3));
    let journals = check_journals(&server, &token).await;

    let void = "/v1/events/shop%2Feu/b%2F1%20%C3%BC/void";
    let (status, said) = post(&server, &token, void, r#"{"reason": "sent twice"}"#).await;
    assert_eq!(
        (status, &said["standing"], &said["change"]),
        (200, &"voided".into(), &"changed".into()),
        "{said}"
    );
    let (status, again) = post(&server, &token, void, r#"{"reason": "sent twice"}"#).await;
    assert_eq!((status, &again["change"]), (200, &"unchanged".into()), "{again}");
    let amended = r#"{"reason": "typo", "values": {"tokens": "50"}}"#;
    assert_eq!(post(&server, &token, "/v1/events/shop%2Feu/a/amend", amended).await.1["standing"], "metered");
    let fixed = r#"{"reason": "sign", "values": {"tokens": "5"}}"#;
    assert_eq!(post(&server, &token, "/v1/events/shop%2Feu/bad/amend", fixed).await.1["standing"], "metered");
    let cases = [
        (void, r#"{"reason": "otherwise"}"#, 409, "event_must_not_be_voided"),
        ("/v1/events/shop%2Feu/none/void", r#"{"reason": "x"}"#, 404, "event_must_be_known"),
        ("/v1/events/shop%2Feu/a/release", r#"{"reason": "x"}"#, 409, "event_must_be_in_quarantine"),
        ("/v1/events/shop%2Feu/a/discard", r#"{"reason": "x"}"#, 409, "event_must_be_in_quarantine"),
        ("/v1/events/shop%2Feu/a/void", r#"{"reason": ""}"#, 422, "reason_must_fit"),
        ("/v1/events/shop%2Feu/a/void", "{}", 400, "body_must_be_json"),
        ("/v1/events/shop%2Feu/seq:1/void", r#"{"reason": "x"}"#, 400, "id_must_fit"),
        ("/v1/events/shop%2Feu/a/amend", r#"{"reason": "x", "subject": ""}"#, 422, "content_must_fit"),
    ];
    for (path, body, status, code) in cases {
        let (found, said) = post(&server, &token, path, body).await;
        assert_eq!((found, said["code"].as_str()), (status, Some(code)), "{path} {body}: {said}");
    }
    let (_, counters) = call_json("GET", &server.url("/v1/counters"), &token, "").await;
    let counters = &counters["sources"]["shop/eu"];
    let count = |name: &str| counters[name].as_u64();
    assert_eq!(
        (count("received"), count("metered"), count("pending")),
        (Some(5), Some(3), Some(1)),
        "{counters}"
    );
    assert_eq!((count("voided"), &counters["quarantined"]["negative_usage"]), (Some(1), &0.into()));

    post(&server, &token, "/v1/cuts", "").await;
    post(&server, &token, "/v1/journal-runs", "").await;
    let sums = charged(&server, &token).await.0;
    assert_eq!((sums["tokens"], sums["calls"]), (58, 3), "50 + 3 + 5");
    assert!(check_journals(&server, &token).await > journals, "what was taken back is posted");

    // A kill behind the answer loses nothing of it, and whoever sends the event again does so in vain.
    let (quic, http) = (server.quic.clone(), server.http.clone());
    assert_eq!(post(&server, &token, "/v1/events/shop%2Feu/c/void", r#"{"reason": "test"}"#).await.0, 200);
    server.kill();
    let server = Server::start_at(data.path(), &quic, &http, &["--shards", "1"]);
    sender.record("request", &event("c", "key-1", 3)).await.unwrap();
    sender.close().await.unwrap();
    post(&server, &token, "/v1/cuts", "").await;
    let sums = charged(&server, &token).await.0;
    assert_eq!((sums["tokens"], sums["calls"]), (55, 2));
    let (_, shown) = call_json("GET", &server.url("/v1/events/shop%2Feu/a"), &token, "").await;
    assert_eq!(
        (&shown["standing"], &shown["values"]["tokens"]),
        (&"metered".into(), &"100".into()),
        "{shown}"
    );
    let correction = &shown["corrections"][0];
    assert_eq!(
        (&correction["correction"], &correction["actor"], &correction["reason"]),
        (&"amend".into(), &"development".into(), &"typo".into())
    );
    assert_eq!(correction["content"]["values"]["tokens"], "50");
    assert_eq!(server.terminate(), Some(0));
    let replayed = tallymark(&["replay", "--data", data.path().to_str().unwrap()]);
    assert!(replayed.status.success(), "{}", text(&replayed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantine_is_listed_page_by_page_and_decided_by_command() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--future-seconds", "60"]);
    let token = server.token.clone().unwrap();
    assert_eq!(post(&server, &token, "/v1/catalog/apply", CATALOG).await.0, 200);
    let sender = client(&server, data.path(), &token, "shop").await;
    let ahead = |id: &str, tokens: i64| {
        let event = event(id, "key-1", tokens);
        Event { time: event.time.plus(3_600_000_000_000), ..event }
    };
    for event in
        [ahead("e1", 1), ahead("e2", 2), ahead("e3", -3), event("e4", "key-1", -4), event("e5", "key-1", 5)]
    {
        sender.record("request", &event).await.unwrap();
    }
    sender.close().await.unwrap();
    let page = |query: &str| {
        let url = server.url(&format!("/v1/quarantine{query}"));
        let token = token.clone();
        async move {
            let (status, text) = call("GET", &url, &token, "").await;
            assert_eq!(status, 200, "{text}");
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
        }
    };
    let ids =
        |page: &[Value]| page.iter().map(|line| line["id"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    let all = page("").await;
    assert_eq!(ids(&all), ["e1", "e2", "e3", "e4"]);
    assert_eq!(
        (&all[0]["reason"], &all[0]["values"]["tokens"]),
        (&"future".into(), &"1".into()),
        "{}",
        all[0]
    );
    let first = page("?limit=3").await;
    assert_eq!(ids(&first), ["e1", "e2", "e3"]);
    let after = format!("?after={}.{}", first[2]["offset"], first[2]["index"]);
    assert_eq!(ids(&page(&after).await), ["e4"]);
    assert_eq!(ids(&page("?reason=negative_usage").await), ["e4"]);
    assert_eq!(
        call_json("GET", &server.url("/v1/quarantine?after=x"), &token, "").await.1["code"],
        "after_must_be_position"
    );

    let url = server.url("");
    let command = |arguments: &[&str]| {
        let fixed = ["event", "--url", &url, "--token", &token];
        tallymark(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>())
    };
    for (arguments, said) in [
        (&["release", "shop", "e1", "--reason", "clock was right"] as &[&str], r#""standing":"metered""#),
        (&["discard", "shop", "e2", "--reason", "test"], r#""standing":"voided""#),
        (&["release", "shop", "e3", "--reason", "clock"], r#""quarantined":"negative_usage""#),
        (&["release", "shop", "e4", "--reason", "please"], "amend it"),
        (&["amend", "shop", "e4", "--reason", "sign", "--value", "tokens=4"], r#""standing":"metered""#),
        (&["show", "shop", "e1"], r#""correction":"release""#),
        (&["list-quarantine", "--only", "negative_usage"], r#""id":"e3""#),
        (&["void", "shop", "none", "--reason", "x"], "no event with this source and id"),
    ] {
        let output = text(&command(arguments));
        assert!(output.contains(said), "{arguments:?}: {output}");
    }
    post(&server, &token, "/v1/cuts", "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 10, "1 + 4 + 5");
    assert_eq!(ids(&page("").await), ["e3"]);
}

/// Units of a meter by subscription, and what all batches charge, in millionths.
fn by_subscription(batches: &str, meter: &str) -> (std::collections::BTreeMap<String, i64>, i128) {
    let (mut units, mut amount) = (std::collections::BTreeMap::new(), 0);
    for line in batches.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(charge) = line.get("charge").filter(|charge| charge["meter"] == meter) else { continue };
        let number = |field: &str| Decimal::parse(charge[field].as_str().unwrap()).unwrap();
        let whole = |field: &str| i64::try_from(number(field).mantissa()).unwrap();
        let subscription = charge["subscription"].as_str().unwrap().to_string();
        *units.entry(subscription).or_insert(0) += whole("quantity_after") - whole("quantity_before");
        let precise = number("precise");
        amount += precise.mantissa() * 10i128.pow(6 - u32::from(precise.scale()));
    }
    (units, amount)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_takes_its_usage_along_and_a_price_cuts_filled_slices_with_corrections_on_both_sides() {
    const MINUTE: i64 = 60_000_000_000;
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--shards", "2"]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    assert_eq!(post(&server, &token, "/v1/catalog/apply", CATALOG).await.0, 200);
    let put = |server: &Server, path: &str, body: Value| {
        let (url, token) = (server.url(path), token.clone());
        async move {
            let (status, said) = call_json("PUT", &url, &token, &body.to_string()).await;
            assert_eq!((status, &said["change"]), (200, &"changed".into()), "{said}");
        }
    };
    let beta = serde_json::json!({"name": "Beta", "entity": "inc", "currency": "USD", "time_zone": "UTC"});
    put(&server, "/v1/accounts/beta", beta).await;
    let second = serde_json::json!({"account": "beta", "plan": "pro", "from": "2020-01-01T00:00:00Z"});
    put(&server, "/v1/subscriptions/s2", second).await;
    let sender = client(&server, data.path(), &token, "shop").await;
    let now = event("now", "key-1", 0).time;
    for (id, subject, minutes_ago, tokens) in
        [("a", "key-1", 20, 10), ("b", "key-2", 20, 30), ("c", "key-1", 5, 400), ("d", "key-1", 5, 7_000)]
    {
        let event = event(id, subject, tokens);
        let event = Event { time: now.plus(-minutes_ago * MINUTE), ..event };
        sender.record("request", &event).await.unwrap();
    }
    sender.close().await.unwrap();
    // Nobody owns key-2: an amendment gives what it used to key-1, and another one corrects what key-1 used.
    let moved = r#"{"reason": "wrong key", "subject": "key-1"}"#;
    assert_eq!(post(&server, &token, "/v1/events/shop/b/amend", moved).await.1["standing"], "metered");
    assert_eq!(post(&server, &token, "/v1/events/shop/d/void", r#"{"reason": "a test"}"#).await.0, 200);
    post(&server, &token, "/v1/cuts", "").await;
    let (units, amount) = by_subscription(&charged(&server, &token).await.1, "tokens");
    assert_eq!((units, amount), ([("s1".to_string(), 440)].into(), 220_000_000));

    // A clean stop makes a snapshot, and the corrections are in it.
    let (quic, http) = (server.quic.clone(), server.http.clone());
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start_at(data.path(), &quic, &http, &["--shards", "2"]);
    let bound = serde_json::json!({"subscription": "s2", "from": "2021-01-01T00:00:00Z"});
    put(&server, "/v1/subjects/key-1", bound).await;
    post(&server, &token, "/v1/cuts", "").await;
    let (units, amount) = by_subscription(&charged(&server, &token).await.1, "tokens");
    assert_eq!(units, [("s1".to_string(), 0), ("s2".to_string(), 440)].into());
    assert_eq!(amount, 220_000_000);

    // A price from between the events on, and a kill behind the answer.
    let price = serde_json::json!({
        "plan": "pro", "meter": "tokens", "model": "graduated", "window": "month",
        "effective_from": now.plus(-10 * MINUTE), "tiers": [{ "unit_amount": "1" }],
    });
    put(&server, "/v1/prices/tokens", price).await;
    let undone = r#"{"reason": "less", "values": {"tokens": "100"}}"#;
    assert_eq!(post(&server, &token, "/v1/events/shop/c/amend", undone).await.1["standing"], "metered");
    server.kill();
    let server = Server::start_at(data.path(), &quic, &http, &["--shards", "2"]);
    post(&server, &token, "/v1/cuts", "").await;
    let (units, amount) = by_subscription(&charged(&server, &token).await.1, "tokens");
    assert_eq!(units, [("s1".to_string(), 0), ("s2".to_string(), 140)].into());
    assert_eq!(amount, 40 * 500_000 + 100 * 1_000_000);

    // The log counted again says the same, now and before.
    let usage = |query: &str| {
        let url = server.url(&format!("/v1/meters/tokens/usage{query}"));
        let token = token.clone();
        async move {
            let (status, answer) = call_json("GET", &url, &token, "").await;
            assert_eq!(status, 200, "{answer}");
            (answer["rows"][0]["value"].clone(), answer["as_of"]["usage_offset"].as_u64().unwrap())
        }
    };
    assert_eq!(usage("?subscription=s1").await.0, "0");
    let (value, end) = usage("?subscription=s2").await;
    assert_eq!(value, "140");
    assert_eq!(usage("?subject=key-2").await.0, "0");
    let mut known: Vec<Value> = Vec::new();
    for before in (0..=end).step_by(512).chain([end]) {
        let url = server.url(&format!("/v1/meters/tokens/usage?as_of={before}&account=acme"));
        let (status, answer) = call_json("GET", &url, &token, "").await;
        // Before the first barrier there is no meter.
        let value = answer["rows"][0]["value"].clone();
        known.extend((status == 200 && known.last() != Some(&value)).then_some(value));
    }
    assert_eq!(known[known.len() - 3..], ["7440", "440", "0"], "{known:?}");
    let month = now.to_string()[..7].to_string();
    let completeness = format!("/v1/accounts/beta/completeness?period={month}");
    let (_, statement) = call_json("GET", &server.url(&completeness), &token, "").await;
    assert!(
        statement["prices"].as_array().unwrap().iter().all(|price| price["is_charged"] == true),
        "{statement}"
    );
    assert_eq!(server.terminate(), Some(0));
    let verified = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified));
}

/// Flips a byte of an event's id where it lies in the log, or flips it back.
fn flip(data: &std::path::Path, id: &str) {
    let path = data.join("usage-0/00000000000000000000.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    // Of the id, the first byte is left: the next call finds it by that.
    let is_there = |window: &[u8]| window[0] == id.as_bytes()[0] && window[2..] == id.as_bytes()[2..];
    let at = bytes.windows(id.len()).position(is_there).unwrap() + 1;
    bytes[at] ^= 0x10;
    use std::os::unix::fs::FileExt;
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&bytes[at..=at], at as u64)
        .unwrap();
}

/// A correction that had to read damaged usage ended the server; where other usage of the subject was damaged, its record was
/// durable by then, and no start succeeded any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_that_would_read_damaged_usage_is_refused_and_the_server_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let largest =
        "[[meter]]\nid = \"largest\"\nevent_type = \"request\"\naggregation = \"max\"\nvalue = \"tokens\"\n";
    let catalog = format!("{CATALOG}{largest}");
    assert_eq!(post(&server, &token, "/v1/catalog/apply", &catalog).await.0, 200);
    let sender = client(&server, data.path(), &token, "shop").await;
    for (id, tokens) in [("first-event", 100), ("second-event", 20)] {
        sender.record("request", &event(id, "key-1", tokens)).await.unwrap();
        sender.flush().await.unwrap();
    }
    sender.close().await.unwrap();
    let void = |id: &str| format!("/v1/events/shop/{id}/void");
    let why = r#"{"reason": "test"}"#;
    for damaged in ["first-event", "second-event"] {
        flip(data.path(), damaged);
        let (status, said) = post(&server, &token, &void("second-event"), why).await;
        assert_eq!((status, &said["code"]), (503, &"usage_must_be_readable".into()), "{damaged}: {said}");
        let detail = said["detail"].as_str().unwrap();
        assert!(detail.contains("00000000000000000000.seg") || detail.contains("at offset"), "{said}");
        flip(data.path(), damaged);
    }
    assert_eq!(post(&server, &token, &void("second-event"), why).await.1["standing"], "voided");
    post(&server, &token, "/v1/cuts", "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 100);
    assert_eq!(server.terminate(), Some(0));
    let verified = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified));
}

/// Its record was durable, and then the process ended, at every start again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_catalog_that_would_fold_damaged_usage_is_refused_and_the_server_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--shards", "2"]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let other = "[[subscription]]\nid = \"s2\"\naccount = \"acme\"\nplan = \"pro\"\nfrom = \"2020-01-01T00:00:00Z\"\n";
    assert_eq!(post(&server, &token, "/v1/catalog/apply", &format!("{CATALOG}{other}")).await.0, 200);
    let before = event("before", "key-1", 0).time;
    let sender = client(&server, data.path(), &token, "shop").await;
    for (id, tokens) in [("first-event", 100), ("second-event", 20)] {
        sender.record("request", &event(id, "key-1", tokens)).await.unwrap();
        sender.flush().await.unwrap();
    }
    sender.close().await.unwrap();
    let put = async |path: &str, body: &str| call_json("PUT", &server.url(path), &token, body).await;
    let binding = format!(r#"{{"subscription": "s2", "from": "{before}"}}"#);
    let price = format!(
        r#"{{"plan": "pro", "meter": "calls", "model": "per_unit", "unit_amount": "0.02", "window": "month", "effective_from": "{before}"}}"#
    );
    let folding = [("/v1/subjects/key-1", &binding), ("/v1/prices/calls", &price)];
    for damaged in ["first-event", "second-event"] {
        flip(data.path(), damaged);
        for (path, body) in folding {
            let (status, said) = put(path, body).await;
            assert_eq!((status, &said["code"]), (503, &"usage_must_be_readable".into()), "{damaged}: {said}");
        }
        let new = format!(r#"{{"subscription": "s1", "from": "{before}"}}"#);
        assert_eq!(put(&format!("/v1/subjects/of-{damaged}"), &new).await.0, 200, "it folds nothing again");
        flip(data.path(), damaged);
    }
    for (path, body) in folding {
        assert_eq!(put(path, body).await.0, 200);
    }
    post(&server, &token, "/v1/cuts", "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 120);
    assert_eq!(server.terminate(), Some(0));
    let verified = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified));
}

/// A start without its control log made a new one, and from then on nothing started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_its_control_log_is_refused_and_starts_once_it_is_back() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    assert_eq!(post(&server, &token, "/v1/catalog/apply", CATALOG).await.0, 200);
    let sender = client(&server, data.path(), &token, "shop").await;
    sender.record("request", &event("a", "key-1", 5)).await.unwrap();
    sender.close().await.unwrap();
    post(&server, &token, "/v1/cuts", "").await;
    assert_eq!(post(&server, &token, "/v1/events/shop/a/void", r#"{"reason": "test"}"#).await.0, 200);
    assert_eq!(server.terminate(), Some(0));
    let (control, away) = (data.path().join("control"), data.path().join("away"));
    std::fs::rename(&control, &away).unwrap();
    std::fs::create_dir(&control).unwrap();
    for command in
        [&["serve", "--quic", "127.0.0.1:0", "--http", "127.0.0.1:0"][..], &["verify"], &["replay"]]
    {
        let output = tallymark(&[command, &["--data", data.path().to_str().unwrap()]].concat());
        let said = text(&output);
        assert!(!output.status.success() && said.contains("does not start with a genesis record"), "{said}");
    }
    assert_eq!(std::fs::read_dir(&control).unwrap().count(), 0, "nothing new begins");
    std::fs::remove_dir(&control).unwrap();
    std::fs::rename(&away, &control).unwrap();
    let server = Server::start(data.path(), &[]);
    post(&server, &token, "/v1/cuts", "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 0);
    assert_eq!(server.terminate(), Some(0));
    let verified = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified));
}
