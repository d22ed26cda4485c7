//! The official CloudEvents SDKs, two generations of Python and JavaScript, send as they are.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::process::{CATALOG, Server, call, call_json, charged};

/// Where the pinned packages lie; `.ci/run` puts them there.
fn packages(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TALLYMARK_PEERS").map_or_else(|| "target/peers".into(), PathBuf::from);
    let path = std::path::absolute(root.join(name)).unwrap();
    let is_required = std::env::var_os("TALLYMARK_REAL").is_some_and(|value| value == "1");
    assert!(path.exists() || !is_required, "TALLYMARK_REAL=1, but {} is not there", path.display());
    if !path.exists() {
        println!("SKIPPED: {} is not there; TALLYMARK_REAL=1 makes this a failure", path.display());
    }
    path.exists().then_some(path)
}

/// Runs a sender; every line that it prints is a status and the server's answer.
async fn check(mut sender: impl FnMut(&str, &str) -> Command, source: &str, events: u64) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--clock", "scenario"]);
    let token = server.token.clone().unwrap();
    assert_eq!(call_json("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    let clock = r#"{"now": "2026-01-15T12:30:00Z"}"#;
    assert_eq!(call("POST", &server.url("/v1/scenario-clock"), &token, clock).await.0, 200);
    for round in ["accepted", "duplicate"] {
        let url = server.url("/v1/events");
        let output = sender(&url, &token).output().expect("the sender starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let mut found = 0;
        for line in said.lines() {
            let (status, answer) = line.split_once(' ').expect("a status and an answer");
            let answer: Value = serde_json::from_str(answer).expect("an answer is JSON");
            assert_eq!(status, "200", "{line}");
            found += answer[round].as_u64().expect("a count");
        }
        assert_eq!(found, events, "{round}: {said}");
    }
    let sources = call_json("GET", &server.url("/v1/counters"), &token, "").await.1["sources"].clone();
    assert_eq!(sources[source]["metered"].as_u64(), Some(events), "{sources}");
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 2 * i64::try_from(events).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_generations_of_the_sdk_for_python_are_understood() {
    for (generation, name) in [("1", "cloudevents-1"), ("2", "cloudevents-2")] {
        let Some(path) = packages(name) else { continue };
        let sender = |url: &str, token: &str| {
            let mut python = Command::new("python3");
            python.env("PYTHONPATH", &path).args(["tests/real/cloudevents/send.py", generation, url, token]);
            python
        };
        check(sender, &format!("python-{generation}"), 5).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_for_javascript_is_understood() {
    let Some(path) = packages("cloudevents-js") else { return };
    let script = path.join("send.mjs");
    std::fs::copy("tests/real/cloudevents/send.mjs", &script).unwrap(); // modules are found beside the script
    let sender = |url: &str, token: &str| {
        let mut node = Command::new("node");
        node.arg(&script).args([url, token]);
        node
    };
    check(sender, "javascript", 6).await;
}
