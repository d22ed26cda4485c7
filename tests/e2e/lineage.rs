//! Where an event landed, and back, with the real binary: `tallymark where` and `tallymark trace`.

use domain::{Decimal, Timestamp};
use serde_json::Value;
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, client, mark_shown, tallymark, text};

fn event(id: &str, subject: &str, tokens: i64) -> Event {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    Event::new(EventIdOwned::Text(id.to_string()), subject, Timestamp::from_nanoseconds(now))
        .value("tokens", Decimal::from_integer(tokens))
}

struct Asked<'a> {
    server: &'a Server,
    token: &'a str,
}

impl Asked<'_> {
    /// What a command prints, and whether it succeeded.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let url = self.server.url("");
        let output = tallymark(&[arguments, &["--url", &url, "--token", self.token]].concat());
        (output.status.success(), text(&output))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (is_done, text) = self.run(&[arguments, &["--json"]].concat());
        assert!(is_done, "{arguments:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn post(&self, path: &str, body: &str) {
        let (status, said) = call_json("POST", &self.server.url(path), self.token, body).await;
        assert_eq!(status, 200, "{path}: {said}");
    }
}

/// State of every price, in the order of meters.
fn states(lineage: &Value) -> Vec<String> {
    let meters = lineage["meters"].as_array().unwrap().iter();
    let prices = meters.flat_map(|meter| meter["prices"].as_array().unwrap());
    prices
        .map(|price| format!("{} {}", price["price"].as_str().unwrap(), price["state"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_followed_to_its_lines_and_journals_and_found_again_under_them() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--shards", "2"]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let asked = Asked { server: &server, token: &token };
    asked.post("/v1/catalog/apply", CATALOG).await;
    let sender = client(&server, data.path(), &token, "shop/eu").await;
    let first = event("a", "key-1", 100);
    for event in
        [first.clone(), event("b", "key-1", 20), event("bad", "key-1", -5), event("lost", "key-9", 7)]
    {
        sender.record("request", &event).await.unwrap();
    }
    sender.flush().await.unwrap();
    for again in [first, event("a", "key-1", 101)] {
        sender.record("request", &again).await.unwrap();
    }
    sender.flush().await.unwrap();

    let waiting = asked.json(&["where", "a"]);
    assert_eq!(states(&waiting), ["tokens waits_for_cut", "calls waits_for_cut"], "{waiting}");
    let verdicts: Vec<&Value> =
        waiting["arrivals"].as_array().unwrap().iter().map(|arrival| &arrival["verdict"]).collect();
    assert_eq!(verdicts, ["accepted", "duplicate", "conflict"]);
    assert_eq!((&waiting["standing"], &waiting["owner"]["account"]), (&"metered".into(), &"acme".into()));

    asked.post("/v1/cuts", "").await;
    let cut = asked.json(&["where", "a", "--source", "shop/eu"]);
    assert_eq!(states(&cut), ["tokens charged", "calls charged"]);
    let lines = cut["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{cut}");
    // The server makes journals by itself, too.
    let postings = ["waits_for_journals", "posted"].map(Value::from);
    assert!(lines.iter().all(|line| postings.contains(&line["posting"]) && line["counts_event"] == true));
    asked.post("/v1/journal-runs", "").await;
    asked.post("/v1/events/shop%2Feu/b/void", r#"{"reason": "sent twice"}"#).await;
    asked.post("/v1/cuts", "").await;
    asked.post("/v1/journal-runs", "").await;

    // Forward: both batches change the slice; the journals are named with their lines.
    let posted = asked.json(&["where", "a"]);
    let name =
        |line: &Value| (line["charge"]["batch"].as_u64().unwrap(), line["charge"]["price"].to_string());
    let lines = posted["lines"].as_array().unwrap();
    let names: Vec<_> = lines.iter().map(name).collect();
    // An earlier batch says which windows are final.
    assert_eq!(names.iter().map(|(batch, _)| *batch).collect::<Vec<_>>(), [2, 2, 3, 3], "{posted}");
    let journal = lines[0]["journal"]["external_id"].as_str().unwrap();
    assert!(journal.starts_with("inc-") && lines[0]["journal"]["lines"].as_array().unwrap().len() == 2);
    let page = asked.json(&["where", "a", "--limit", "3"]);
    let next = page["next"].as_str().unwrap();
    assert_eq!(asked.json(&["where", "a", "--after", next])["lines"].as_array().unwrap(), &lines[3..]);

    // What was taken back says so, and its lines.
    let voided = asked.json(&["where", "b"]);
    assert_eq!((&voided["standing"], &voided["content"]), (&"voided".into(), &Value::Null));
    assert_eq!(voided["corrections"][0]["reason"], "sent twice");
    let counts: Vec<&Value> =
        voided["lines"].as_array().unwrap().iter().map(|line| &line["counts_event"]).collect();
    assert_eq!(counts, [true, true, false, false]);

    // Back: the journal has the line, and the line the events, as its cut knew them.
    let charges = asked.json(&["trace", "journal", journal]);
    assert_eq!((&charges["is_whole"], &charges["charge_count"]), (&true.into(), &2.into()), "{charges}");
    let usage = asked.json(&["trace", "journal", journal, "--ledger-account", "Revenue:Usage"]);
    assert_eq!((&usage["is_whole"], &usage["total"]), (&true.into(), &charges["total"]));
    for (batch, ids) in [("2", vec!["a", "b"]), ("3", vec!["a"])] {
        let under = asked.json(&["trace", "charge", batch, "1"]);
        let events = under["events"].as_array().unwrap();
        assert_eq!(events.iter().map(|event| &event["id"]).collect::<Vec<_>>(), ids, "{under}");
        assert_eq!((&under["is_whole"], &under["rests_on"]), (&true.into(), &"usage".into()));
    }
    let first = asked.json(&["trace", "charge", "2", "1", "--limit", "1"]);
    let rest = asked.json(&["trace", "charge", "2", "1", "--after", first["next"].as_str().unwrap()]);
    assert_eq!((&first["events"][0]["id"], &rest["events"][0]["id"]), (&"a".into(), &"b".into()));

    // For a person.
    let (_, told) = asked.run(&["where", "b"]);
    for part in
        ["event b of shop/eu", "voided", "sent twice", "takes the event back", journal, "Revenue:Usage"]
    {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
    let (_, told) = asked.run(&["where", "bad"]);
    assert!(told.contains("quarantined: negative_usage") && told.contains("no sealed charge line"), "{told}");
    let (_, told) = asked.run(&["where", "lost"]);
    assert!(told.contains("nobody owned its subject at its time"), "{told}");
    let (_, told) = asked.run(&["trace", "charge", "2", "1"]);
    assert!(told.contains("2 events") && told.contains("the set that the line says"), "{told}");
    let (_, told) = asked.run(&["trace", "journal", journal]);
    assert!(told.contains("which is what the journal says"), "{told}");
    sender.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_wrongly_is_refused_by_name() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let asked = Asked { server: &server, token: &token };
    asked.post("/v1/catalog/apply", CATALOG).await;
    let steering = "x\u{1b}[31m\n\u{202e}y";
    for source in ["one", "two"] {
        let sender = client(&server, data.path(), &token, source).await;
        sender.record("request", &event("a", "key-1", 1)).await.unwrap();
        sender.record("request", &event(&format!("{steering}{source}"), "\u{7}bell", 1)).await.unwrap();
        sender.close().await.unwrap();
    }
    let (is_done, said) = asked.run(&["where", "a"]);
    assert!(!is_done && said.contains("one") && said.contains("two"), "{said}");
    assert_eq!(asked.json(&["where", "a", "--source", "two"])["source"], "two");
    // What a producer wrote does not steer the terminal.
    let (is_done, told) = asked.run(&["where", &format!("{steering}one")]);
    assert!(
        is_done && told.contains("x\\u{1b}[31m\\u{a}\\u{202e}yone") && told.contains("\\u{7}bell"),
        "{told}"
    );
    let (is_done, told) = asked.run(&["where", &format!("{steering}three")]);
    assert!(!is_done && !told.contains('\u{1b}'), "{told}");

    let long = "i".repeat(257);
    let path = |rest: &str| server.url(&format!("/v1/{rest}"));
    for (url, status, code) in [
        (path(&format!("where?id={long}")), 400, "id_must_fit"),
        (path("where?id="), 400, "id_must_fit"),
        (path("where?id=seq:zz"), 400, "id_must_fit"),
        (path("where"), 400, "request_must_be_readable"),
        (path("where?id=%ff"), 404, "event_must_be_known"),
        (path("where?id=a&colour=red"), 400, "request_must_be_readable"),
        (path("where?id=a&source=two&after=x"), 400, "after_must_be_line"),
        (path("where?id=a"), 409, "source_must_be_named"),
        (path("where?id=none"), 404, "event_must_be_known"),
        (path("where?id=none&source=one"), 404, "event_must_be_known"),
        (path("where?id=a&source="), 404, "event_must_be_known"),
        (path(&format!("where?id=a&source={long}")), 404, "event_must_be_known"),
        (path("where?id=seq:0000000000000001/18446744073709551615&source=one"), 404, "event_must_be_known"),
        (path("charge-batches/1/lines/1/events"), 404, "not_found"),
        (path("charge-batches/0/lines/0/events"), 404, "not_found"),
        (path("charge-batches/18446744073709551615/lines/4294967295/events"), 404, "not_found"),
        (path("charge-batches/x/lines/1/events"), 400, "request_must_be_readable"),
        (path("charge-batches/1/lines/1/events?after=281474976710656.1"), 400, "after_must_be_position"),
        (path("journals/none/charges"), 404, "not_found"),
        (path("journals/inc-2026-01-1-v1/charges"), 404, "not_found"),
        (path("journals/inc-2026-01-1-v1/charges?ledger_account=Cash"), 400, "request_must_be_readable"),
    ] {
        let (found, said) = call_json("GET", &url, &token, "").await;
        assert_eq!((found, &said["code"]), (status, &code.into()), "{url}: {said}");
    }
    assert_eq!(call("GET", &path("where?id=a"), "", "").await.0, 401);
    asked.post("/v1/cuts", "").await;
    let (status, said) = call_json("GET", &path("charge-batches/1/lines/9/events"), &token, "").await;
    assert_eq!((status, &said["code"]), (404, &"not_found".into()), "{said}");
    let (status, said) = call_json("GET", &path("where?id=a&source=two&limit=0"), &token, "").await;
    assert_eq!((status, said["lines"].as_array().unwrap().len()), (200, 1), "at least one line is given");
}
