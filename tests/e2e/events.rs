//! Usage over HTTP: every mode of a body, every verdict, and the answers to what is wrong.

use std::io::Write;

use domain::{Decimal, Timestamp};
use serde_json::{Value, json};
use tallymark_client::{Event, EventIdOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::process::{CATALOG, Server, call, call_json, charged, client, mark_shown, tallymark, text};

async fn started(data: &std::path::Path) -> (Server, String) {
    let server = Server::start(data, &[]);
    let token = server.token.clone().unwrap();
    assert_eq!(call_json("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    (server, token)
}

fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    Timestamp::from_nanoseconds(now)
}

fn event(id: &str, subject: &str, tokens: &Value) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "shop", "type": "request", "subject": subject,
        "time": now(), "data": { "tokens": tokens, "model": "large" },
    })
}

async fn post(
    server: &Server,
    token: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, Value) {
    let mut request = reqwest::Client::new().post(server.url("/v1/events")).bearer_auth(token).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text:?} is not JSON")))
}

type Header = (&'static str, &'static str);

const STRUCTURED: Header = ("content-type", "application/cloudevents+json");
const BATCH: Header = ("content-type", "application/cloudevents-batch+json; charset=utf-8");
const LINES: Header = ("content-type", "application/x-ndjson");

fn counts(said: &Value) -> Vec<(&str, u64)> {
    let fields = said.as_object().unwrap().iter();
    let known = [
        "accepted",
        "pending",
        "unmetered",
        "duplicate",
        "duplicate_restamped",
        "conflict",
        "quarantined",
        "rejected",
    ];
    let counts = fields.filter(|(name, _)| known.contains(&name.as_str()));
    counts
        .filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_counts_once_whatever_mode_or_path_brings_it() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let first = event("1", "key-1", &json!(10));
    let time = Timestamp::parse(first["time"].as_str().unwrap()).unwrap();
    let (status, said) = post(&server, &token, &[STRUCTURED], first.to_string()).await;
    assert_eq!((status, counts(&said)), (200, vec![("accepted", 1)]), "{said}");
    // The same as a batch, as a line, in headers, under a general content type, packed, and over QUIC.
    let time_text = time.to_string();
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "shop"),
        ("ce-type", "request"),
        ("ce-subject", "key-1"),
        ("ce-time", &time_text),
    ];
    let lines = format!("\n{first}\r\n\n{first}");
    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<u8>, u64);
    let again: [Case<'_>; 6] = [
        (&[BATCH], format!("[{first},{first}]").into_bytes(), 2),
        (&[LINES], lines.into_bytes(), 2),
        (&binary, b"{\"tokens\":10.0,\"model\":\"large\"}".to_vec(), 1),
        (&[("content-type", "application/json")], format!("[{first}]").into_bytes(), 1),
        (&[STRUCTURED, ("content-encoding", "gzip")], gzip(first.to_string().as_bytes()), 1),
        (
            &[STRUCTURED, ("content-encoding", "zstd")],
            zstd::encode_all(first.to_string().as_bytes(), 1).unwrap(),
            1,
        ),
    ];
    for (headers, body, duplicates) in again {
        let (status, said) = post(&server, &token, headers, body).await;
        assert_eq!((status, counts(&said)), (200, vec![("duplicate", duplicates)]), "{headers:?}: {said}");
    }
    let client = client(&server, data.path(), &token, "shop").await;
    let same = Event::new(EventIdOwned::Text("1".to_string()), "key-1", time);
    let same = same.value("tokens", Decimal::from_integer(10)).dimension("model", "large");
    client.record("request", &same).await.unwrap();
    client.flush().await.unwrap();
    let sources = call_json("GET", &server.url("/v1/counters"), &token, "").await.1["sources"].clone();
    assert_eq!(
        (sources["shop"]["duplicate"].as_u64(), sources["shop"]["metered"].as_u64()),
        (Some(9), Some(1))
    );
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 10);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_count_is_named_and_the_rest_is_durable() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let mut other = event("4", "key-1", &json!(1));
    other["source"] = json!("elsewhere");
    let batch = json!([
        event("1", "key-1", &json!(10)),
        event("1", "key-1", &json!(11)),
        event("2", "key-1", &json!(-1)),
        event("3", "nobody", &json!(5)),
        other,
        event("5", "key-1", &json!([1])),
        event("", "key-1", &json!(1)),
        7,
    ]);
    let narrow = tallymark(&[
        "token",
        "create",
        "till",
        "--data",
        data.path().to_str().unwrap(),
        "--role",
        "ingest",
        "--source",
        "shop",
    ]);
    let narrow = text(&narrow).split_whitespace().find(|word| word.starts_with("tm_")).unwrap().to_string();
    let (status, said) = post(&server, &narrow, &[BATCH], batch.to_string()).await;
    assert_eq!((status, said["code"].as_str()), (422, Some("events_must_count")), "{said}");
    let expected = [("accepted", 1), ("conflict", 1), ("pending", 1), ("quarantined", 1), ("rejected", 4)];
    assert_eq!(counts(&said), expected);
    let failures: Vec<String> = said["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            format!(
                "{} {} {}",
                f["index"],
                f["verdict"].as_str().unwrap(),
                f["reason"].as_str().unwrap_or("-")
            )
        })
        .collect();
    let expected = [
        "1 conflict -",
        "2 quarantined negative_usage",
        "4 rejected source_must_be_granted",
        "5 rejected property_must_be_scalar",
        "6 rejected id_must_fit",
        "7 rejected event_must_be_object",
    ];
    assert_eq!(failures, expected, "{said}");
    assert_eq!(
        (&said["failures"][3]["source"], &said["failures"][3]["id"]),
        (&json!("shop"), &json!("5")),
        "{said}"
    );
    // Sent again, nothing counts twice, and what is set aside is said as often as it comes.
    let (_, said) = post(&server, &narrow, &[BATCH], batch.to_string()).await;
    let expected = [("conflict", 1), ("duplicate", 2), ("quarantined", 1), ("rejected", 4)];
    assert_eq!(counts(&said), expected, "{said}");
    let alone = batch[2].to_string();
    for _ in 0..2 {
        let (status, said) = post(&server, &narrow, &[STRUCTURED], alone.clone()).await;
        assert_eq!((status, counts(&said)), (422, vec![("quarantined", 1)]), "{said}");
        assert_eq!(said["failures"][0]["reason"], "negative_usage", "{said}");
    }
    let why = json!({ "reason": "it was wrong" }).to_string();
    assert_eq!(call("POST", &server.url("/v1/events/shop/2/discard"), &token, &why).await.0, 200);
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let (status, said) = post(&server, &narrow, &[STRUCTURED], alone).await;
    assert_eq!((status, counts(&said)), (200, vec![("duplicate", 1)]), "a person took it back: {said}");
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_cannot_be_read_are_refused_whole_and_say_why() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let good = event("1", "key-1", &json!(1));
    let cases: [(&[Header], String, u16, &str); 10] = [
        (&[BATCH], good.to_string(), 400, "body_must_be_json"),
        (&[BATCH], format!("[{good},"), 400, "body_must_be_json"),
        (&[STRUCTURED], String::new(), 400, "body_must_be_json"),
        (&[STRUCTURED], format!("{good}{good}"), 400, "body_must_be_json"),
        (&[("content-type", "text/xml")], good.to_string(), 415, "content_type_must_be_known"),
        (&[], good.to_string(), 415, "content_type_must_be_known"),
        (&[STRUCTURED, ("content-encoding", "br")], good.to_string(), 415, "content_encoding_must_be_known"),
        (
            &[STRUCTURED, ("content-encoding", "gzip, gzip")],
            good.to_string(),
            415,
            "content_encoding_must_be_known",
        ),
        (&[STRUCTURED, ("content-encoding", "zstd")], good.to_string(), 400, "body_must_be_whole"),
        (&[STRUCTURED, ("content-encoding", "gzip")], good.to_string(), 400, "body_must_be_whole"),
    ];
    for (headers, body, status, code) in cases {
        let (found, said) = post(&server, &token, headers, body.clone()).await;
        assert_eq!((found, said["code"].as_str()), (status, Some(code)), "{headers:?} {body}: {said}");
    }
    let bomb = gzip(&vec![b' '; 65 << 20]);
    assert!(bomb.len() < 1 << 20);
    let (status, said) = post(&server, &token, &[STRUCTURED, ("content-encoding", "gzip")], bomb).await;
    assert_eq!((status, said["code"].as_str()), (413, Some("body_must_fit")), "{said}");
    // A few bytes that ask for a window of 128 MiB: every request had one, in memory.
    let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(good.to_string().as_bytes()).unwrap();
    let wide = wide.finish().unwrap();
    let (status, said) = post(&server, &token, &[STRUCTURED, ("content-encoding", "zstd")], wide).await;
    assert_eq!((status, said["code"].as_str()), (400, Some("body_must_be_whole")), "{said}");
    assert!(said["detail"].as_str().unwrap().contains("at most 8 MiB"), "{said}");
    let bomb = zstd::encode_all(vec![b' '; 65 << 20].as_slice(), 1).unwrap();
    let (status, said) = post(&server, &token, &[STRUCTURED, ("content-encoding", "zstd")], bomb).await;
    assert_eq!((status, said["code"].as_str()), (413, Some("body_must_fit")), "{said}");
    let (status, said) = post(&server, &token, &[LINES], vec![b'x'; 2 << 20]).await;
    assert_eq!((status, said["code"].as_str()), (413, Some("line_must_fit")), "{said}");
    let billing =
        tallymark(&["token", "create", "b", "--data", data.path().to_str().unwrap(), "--role", "billing"]);
    let billing = text(&billing).split_whitespace().find(|word| word.starts_with("tm_")).unwrap().to_string();
    assert_eq!(post(&server, &billing, &[STRUCTURED], good.to_string()).await.0, 403);
    let sources = call_json("GET", &server.url("/v1/counters"), &token, "").await.1["sources"].clone();
    assert_eq!(sources, json!({}), "nothing of it was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_lines_goes_on_past_what_is_wrong() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let mut body = String::new();
    for number in 0..20_000 {
        let tokens = if number % 5_000 == 7 { json!("text") } else { json!(0.1) };
        body.push_str(&format!("{}\n", event(&format!("e{number}"), "key-1", &tokens)));
        if number == 9_999 {
            body.push_str("not an event\n[]\n\n");
        }
    }
    let packed = zstd::encode_all(body.as_bytes(), 1).unwrap();
    let (status, said) = post(&server, &token, &[LINES, ("content-encoding", "zstd")], packed).await;
    assert_eq!((status, said["received"].as_u64()), (422, Some(20_002)), "{said}");
    assert_eq!(counts(&said), [("accepted", 19_996), ("quarantined", 4), ("rejected", 2)]);
    let indexes: Vec<u64> =
        said["failures"].as_array().unwrap().iter().filter_map(|f| f["index"].as_u64()).collect();
    assert_eq!(indexes, [7, 5_007, 10_000, 10_001, 10_009, 15_009]);
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let url = server.url("/v1/charge-batches");
    let batches = call("GET", &url, &token, "").await.1;
    assert!(batches.contains("\"quantity_after\":\"1999.6\""), "{batches}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_with_too_many_types_is_refused_whole() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let event = |number: u32| {
        format!(r#"{{"specversion":"1.0","id":"{number}","source":"s","type":"t{number}","subject":"k"}}"#)
    };
    let events: Vec<String> = (0..=32_768).map(event).collect();
    let (status, said) = post(&server, &token, &[BATCH], format!("[{}]", events.join(","))).await;
    assert_eq!((status, said["code"].as_str()), (413, Some("types_must_fit")), "{said}");
    let sources = call_json("GET", &server.url("/v1/counters"), &token, "").await.1["sources"].clone();
    assert_eq!(sources, json!({}), "nothing of it was taken");
}

/// A request whose body comes in pieces.
struct Slow(tokio::net::TcpStream);

impl Slow {
    async fn begin(server: &Server, token: &str, content_type: &str) -> Self {
        let mut stream = tokio::net::TcpStream::connect(&server.http).await.unwrap();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: bearer {token}\r\nContent-Type: {content_type}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, piece: &str) {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        self.0.write_all(chunk.as_bytes()).await.unwrap();
    }

    /// Ends the body, if it has not ended; gives the answer.
    async fn answer(mut self) -> (u16, Value) {
        let _ = self.0.write_all(b"0\r\n\r\n").await;
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
    }
}

/// Arrival was when the request began: an event that happened while its body came was ahead of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_when_their_body_is_read() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--future-seconds", "1"]);
    let token = server.token.clone().unwrap();
    assert_eq!(call_json("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    for (content_type, separator) in [(BATCH.1, ","), (LINES.1, "\n")] {
        let mut slow = Slow::begin(&server, &token, content_type).await;
        let is_list = separator == ",";
        slow.send(if is_list { "[" } else { "\n" }).await;
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        let event = event(content_type, "key-1", &json!(1)).to_string();
        slow.send(&event).await;
        slow.send(if is_list { "]" } else { "\n" }).await;
        let (status, said) = slow.answer().await;
        assert_eq!((status, counts(&said)), (200, vec![("accepted", 1)]), "{content_type}: {said}");
    }
}

/// An upload went on with it, for as long as it lasted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_ends_its_upload_with_the_next_block() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let directory = data.path().to_str().unwrap();
    let made = ["token", "--data", directory, "create", "till", "--role", "ingest", "--source", "shop"];
    let till = text(&tallymark(&made)).trim().to_string();
    let lines = |numbers: std::ops::Range<u32>| -> String {
        let line = |number| format!("{}\n", event(&format!("e{number}"), "key-1", &json!(1)));
        numbers.map(line).collect()
    };
    let mut upload = Slow::begin(&server, &till, LINES.1).await;
    upload.send(&lines(0..2_000)).await;
    let received = async || {
        let counters = call_json("GET", &server.url("/v1/counters"), &token, "").await.1;
        counters["sources"]["shop"]["received"].as_u64().unwrap_or_default()
    };
    while received().await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let before = received().await;
    assert!(tallymark(&["token", "--data", directory, "revoke", "till"]).status.success());
    upload.send(&lines(2_000..2_010)).await;
    let (status, said) = upload.answer().await;
    assert_eq!((status, said["code"].as_str()), (401, Some("unauthorized")), "{said}");
    assert_eq!(received().await, before, "nothing of the next block was taken");
}

/// Blocks of one upload overtook each other: of two lines with one id the later one counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_lines_of_an_upload_with_one_id_the_first_one_counts() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = started(data.path()).await;
    let (ids, rounds) = (4_000, 4);
    let lines = (0..ids * rounds).map(|line| event(&format!("e{}", line % ids), "key-1", &json!(line / ids)));
    let body = lines.map(|line| line.to_string()).collect::<Vec<_>>().join("\n");
    let (status, said) = post(&server, &token, &[LINES], body).await;
    assert_eq!((status, said["accepted"].as_u64()), (422, Some(ids)), "conflicts do not count");
    assert_eq!(said["conflict"].as_u64(), Some(ids * (rounds - 1)));
    let indexes =
        said["failures"].as_array().unwrap().iter().map(|failure| failure["index"].as_u64().unwrap());
    assert!(indexes.min() >= Some(ids), "a first one is not in conflict");
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(charged(&server, &token).await.0.get("tokens").copied().unwrap_or(0), 0);
}

/// A token for all sources let in as many as its producer made up, each to be remembered for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_sources_than_there_may_be_are_refused_and_known_ones_are_not() {
    let data = tempfile::tempdir().unwrap();
    let of = |source: &str, id: &str| {
        let mut event = event(id, "key-1", &json!("1"));
        event["source"] = source.into();
        event
    };
    let mut token = String::new();
    for start in 0..2 {
        let server = Server::start(data.path(), &["--sources-max", "2"]);
        token = server.token.clone().unwrap_or(token);
        mark_shown(data.path());
        let id = |n: usize| format!("{start}-{n}");
        let batch = json!([of("a", &id(0)), of("b", &id(1)), of("c", &id(2)), of("a", &id(3))]);
        let (status, said) = post(&server, &token, &[BATCH], batch.to_string()).await;
        assert_eq!((status, counts(&said)), (422, vec![("rejected", 1), ("unmetered", 3)]), "{said}");
        let refused = &said["failures"][0];
        assert_eq!(
            (&refused["index"], &refused["reason"]),
            (&2.into(), &"source_must_be_known".into()),
            "{said}"
        );
        assert!(refused["detail"].as_str().unwrap().contains("--sources-max"), "{said}");
        for (query, names, next) in
            [("", &["a", "b"][..], None), ("?limit=1", &["a"], Some("a")), ("?after=a", &["b"], None)]
        {
            let said = call_json("GET", &server.url(&format!("/v1/counters{query}")), &token, "").await.1;
            let found: Vec<&str> = said["sources"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!((&*found, &said["source_count"]), (names, &2.into()), "{said}");
            assert_eq!(said["next_after"].as_str(), next, "{said}");
        }
        let page = call("GET", &server.url("/metrics"), &token, "").await.1;
        assert!(
            page.contains("\ntallymark_sources 2\n") && page.contains("\ntallymark_sources_max 2\n"),
            "{page}"
        );
        assert_eq!(server.terminate(), Some(0));
    }
}
