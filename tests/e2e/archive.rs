//! The archive with the real binary: usage goes there whenever the server is killed, everything that is asked of it has the
//! answer that it had, and what is out of reach is refused by name.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use domain::Timestamp;
use domain::time::{DAY, HOUR};
use serde_json::{Value, json};

use crate::process::{CATALOG, Server, call, call_json, mark_shown, tallymark, text};

const SEGMENT_BYTES: &str = "16777216";
/// Events of four kilobytes a day: a bit more than a segment.
const EVENTS: u64 = 4_400;

fn start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

/// The events of a day, one a line; one in a hundred is of a subject that nobody owns.
fn events_of_day(day: i64) -> String {
    let time = start().plus(day * DAY);
    let lines = (0..EVENTS).map(|number| {
        let mut data = json!({ "tokens": number % 7 });
        for field in 0..15 {
            data[format!("d{field}")] = format!("{day:>7}{number:>11}{field:>230}").into();
        }
        let subject = if number.is_multiple_of(100) { "key-2" } else { "key-1" };
        json!({
            "specversion": "1.0", "id": format!("e{day}-{number}"), "source": "shop", "type": "request",
            "subject": subject, "time": time, "data": data,
        })
        .to_string()
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn send(server: &Server, token: &str, body: String) -> Value {
    let request = reqwest::Client::new().post(server.url("/v1/events")).bearer_auth(token);
    let answer = request.header("content-type", "application/x-ndjson").body(body).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn advance(server: &Server, token: &str, now: Timestamp) {
    let body = format!(r#"{{"now": "{now}"}}"#);
    assert_eq!(call("POST", &server.url("/v1/scenario-clock"), token, &body).await.0, 200);
}

async fn archived(server: &Server, token: &str) -> Value {
    call_json("GET", &server.url("/v1/archive"), token, "").await.1
}

/// What is asked of usage that is old: none of it says where the logs end.
async fn answers(server: &Server, token: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let (_, landed) = call_json("GET", &server.url("/v1/where?id=e0-17"), token, "").await;
    let charge = &landed["lines"][0]["charge"];
    let events = format!("/v1/charge-batches/{}/lines/{}/events?limit=20", charge["batch"], charge["line"]);
    for path in [
        "/v1/meters/tokens/usage?window=day&from=2026-01-01&to=2026-01-08&format=csv",
        "/v1/meters/calls/usage?subject=key-1&window=hour&from=2026-01-01&to=2026-01-08&format=csv",
        "/v1/where?id=e0-17&format=text",
        "/v1/where?id=e1-100&format=text",
        &events,
        "/v1/events/shop/e0-18",
        "/v1/charge-batches?after=0",
    ] {
        let (status, answer) = call("GET", &server.url(path), token, "").await;
        assert_eq!(status, 200, "{path}: {answer}");
        answers.push(answer);
    }
    answers
}

/// What a command says, and whether it succeeded.
fn run(command: &[&str], data: &Path, archive: Option<&Path>) -> (bool, String) {
    let archive = archive.map(|archive| ["--archive", archive.to_str().unwrap()]);
    let place = ["--data", data.to_str().unwrap()];
    let output = tallymark(&[command, &place, archive.as_ref().map_or(&[][..], |archive| archive)].concat());
    (output.status.success(), text(&output))
}

fn chain(said: &str) -> &str {
    said.lines().find(|line| line.contains("chain")).unwrap()
}

fn segments(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder.join("usage-0")).map(|files| {
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".seg")).collect::<Vec<_>>()
    });
    let mut names = files.unwrap_or_default();
    names.sort();
    names
}

async fn post(server: &Server, token: &str, path: &str, body: &str) -> (u16, Value) {
    call_json("POST", &server.url(path), token, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_in_the_archive_is_asked_and_corrected_as_before_and_refused_by_name_where_it_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let (data, archive) = (&folder.path().join("data"), &folder.path().join("archive"));
    std::fs::create_dir(data).unwrap();
    let settings = ["--clock", "scenario", "--segment-bytes", SEGMENT_BYTES, "--snapshot-bytes", "4000000"];
    let server = Server::start(data, &settings);
    let token = server.token.clone().unwrap();
    mark_shown(data);
    assert_eq!(call("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    for day in 0..4 {
        advance(&server, &token, start().plus(day * DAY)).await;
        let said = send(&server, &token, events_of_day(day)).await;
        let counted = ["accepted", "pending"].map(|verdict| said[verdict].as_u64().unwrap());
        assert_eq!(counted, [EVENTS - EVENTS / 100, EVENTS / 100], "{said}");
    }
    advance(&server, &token, start().plus(20 * DAY)).await;
    assert_eq!(post(&server, &token, "/v1/cuts", "").await.0, 200);
    assert_eq!(post(&server, &token, "/v1/journal-runs", "").await.0, 200);
    let before = answers(&server, &token).await;
    assert_eq!(server.terminate(), Some(0));
    let here = segments(data);
    assert!(here.len() > 3, "{here:?}");
    let (is_replayed, replayed) = run(&["replay"], data, None);
    assert!(is_replayed, "{replayed}");

    // A folder that is not there is not made: its disk may not be mounted. Usage is taken all the same.
    let days = ["--archive", archive.to_str().unwrap(), "--archive-days", "10"];
    let with_archive = [&settings[..], &days].concat();
    let server = Server::start(data, &with_archive);
    let failed = loop {
        let said = archived(&server, &token).await;
        if said["failures"] != 0 {
            break said;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(failed["last_failure"]["what"].as_str().unwrap().contains("is not there"), "{failed}");
    let said =
        send(&server, &token, events_of_day(19).lines().next().unwrap().replace("key-2", "key-1")).await;
    assert_eq!((&said["accepted"], segments(data).len()), (&1.into(), here.len()), "{said}");
    server.kill();

    // Killed again and again, while segments go.
    std::fs::create_dir(archive).unwrap();
    for kill in 0..6 {
        let server = Server::start(data, &with_archive);
        tokio::time::sleep(Duration::from_millis(1_000 + 130 * kill)).await;
        server.kill();
    }
    let server = Server::start(data, &with_archive);
    let said = loop {
        let said = archived(&server, &token).await;
        if said["segments"].as_u64().unwrap() >= 2 {
            break said;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&said["missing"], &said["out_of_reach"]), (&0.into(), &Value::Null), "{said}");
    for (now, before) in answers(&server, &token).await.iter().zip(&before) {
        assert!(now == before, "{now}\nwas\n{before}");
    }
    let page = call("GET", &server.url("/metrics"), &token, "").await.1;
    assert!(
        page.contains("\ntallymark_archived_segments ")
            && page.contains("\ntallymark_archive_failures_total ")
    );
    assert_eq!(server.terminate(), Some(0));
    let (there, left) = (segments(archive), segments(data));
    assert!(there.len() >= 2 && here.starts_with(&there) && !left.contains(&there[0]), "{there:?} {left:?}");
    let (is_replayed, again) = run(&["replay"], data, Some(archive));
    assert!(is_replayed && chain(&again) == chain(&replayed), "{again}");
    let (is_verified, said) = run(&["verify"], data, Some(archive));
    assert!(is_verified && said.contains(&format!("archive   {} segments", there.len())), "{said}");

    // Without the archive a start needs nothing of it, and all that does is refused by name.
    let (is_replayed, said) = run(&["replay"], data, None);
    assert!(!is_replayed && said.contains(&there[0]) && said.contains("--archive"), "{said}");
    let server = Server::start(data, &settings);
    let why = r#"{"reason": "sent twice"}"#;
    for (method, path, body) in [
        ("POST", "/v1/events/shop/e0-17/void", why),
        ("PUT", "/v1/subjects/key-2", r#"{"subscription": "s1", "from": "2020-01-01T00:00:00Z"}"#),
        ("GET", "/v1/meters/tokens/usage", ""),
        ("GET", "/v1/where?id=e0-17", ""),
        ("GET", "/v1/events/shop/e0-18", ""),
    ] {
        let (status, said) = call_json(method, &server.url(path), &token, body).await;
        assert_eq!((status, &said["code"]), (503, &"archive_must_be_reachable".into()), "{path}: {said}");
        assert!(said["detail"].as_str().unwrap().contains("--archive"), "{path}: {said}");
    }
    let said = send(&server, &token, events_of_day(19).lines().nth(1).unwrap().to_string()).await;
    assert_eq!(said["accepted"], 1, "{said}");
    assert_eq!(server.terminate(), Some(0));

    // With it, old events are corrected, and old usage gets another owner: what waited is folded from the archive.
    let server = Server::start(data, &with_archive);
    assert_eq!(post(&server, &token, "/v1/events/shop/e0-17/void", why).await.0, 200);
    let amended = r#"{"reason": "typo", "values": {"tokens": "1000"}}"#;
    assert_eq!(post(&server, &token, "/v1/events/shop/e0-18/amend", amended).await.1["standing"], "metered");
    let later = start().plus(30 * HOUR);
    let binding = format!(r#"{{"subscription": "s1", "from": "{later}"}}"#);
    assert_eq!(call("PUT", &server.url("/v1/subjects/key-2"), &token, &binding).await.0, 200);
    assert_eq!(post(&server, &token, "/v1/cuts", "").await.0, 200);
    let rows = call("GET", &server.url("/v1/meters/tokens/usage?format=csv"), &token, "").await.1;
    assert_eq!(server.terminate(), Some(0));
    let (is_verified, said) = run(&["verify"], data, Some(archive));
    assert!(is_verified, "{said}");
    let (_, counted) = run(&["usage", "tokens"], data, Some(archive));
    assert_eq!(counted, rows);

    // Damage there is refused by name.
    let damaged = archive.join("usage-0").join(&there[1]);
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[9_000_000] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    for command in [&["replay"][..], &["archive", "--check"], &["usage", "tokens"]] {
        let (is_done, said) = run(command, data, Some(archive));
        assert!(!is_done && said.contains(&there[1]), "{command:?}: {said}");
    }
    assert!(run(&["archive"], data, Some(archive)).0, "all are there");

    bytes[9_000_000] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();

    // A disk that does not answer (a pipe that nobody writes to) keeps a question waiting, and nothing else: not even the end.
    let silent = archive.join("usage-0").join(&there[0]);
    let kept = std::fs::read(&silent).unwrap();
    std::fs::remove_file(&silent).unwrap();
    assert!(Command::new("mkfifo").arg(&silent).status().expect("mkfifo runs").success());
    let server = Server::start(data, &with_archive);
    let question = reqwest::Client::new().get(server.url("/v1/where?id=e0-17")).bearer_auth(&token);
    let asked = tokio::spawn(question.send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let said = send(&server, &token, events_of_day(19).lines().nth(2).unwrap().to_string()).await;
    assert_eq!(said["accepted"], 1, "{said}");
    assert_eq!(post(&server, &token, "/v1/cuts", "").await.0, 200);
    assert!(!asked.is_finished());
    assert_eq!(server.terminate(), Some(0));
    assert!(asked.await.unwrap().is_err(), "it was never answered");
    std::fs::remove_file(&silent).unwrap();
    std::fs::write(&silent, kept).unwrap();

    // Brought back, with what went there since, they are needed there no more.
    for name in &segments(archive) {
        std::fs::copy(archive.join("usage-0").join(name), data.join("usage-0").join(name)).unwrap();
    }
    let (is_replayed, said) = run(&["replay"], data, None);
    assert!(is_replayed, "{said}");
}
