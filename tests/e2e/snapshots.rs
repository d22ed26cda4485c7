//! Snapshots: a start from one is a start from the logs, only shorter; whatever is wrong with one, the logs are enough.

use std::path::{Path, PathBuf};

use domain::{Decimal, Timestamp};
use serde_json::Value;
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, charged, client, mark_shown, tallymark, text};

fn snapshots(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("snapshots")).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
}

pub(crate) async fn started_from(server: &Server, token: &str) -> u64 {
    let page = call("GET", &server.url("/metrics"), token, "").await.1;
    let line = page.lines().find(|line| line.starts_with("tallymark_snapshot_offset ")).unwrap();
    line.split(' ').next_back().unwrap().parse().unwrap()
}

pub(crate) async fn counters(server: &Server, token: &str) -> Value {
    call_json("GET", &server.url("/v1/counters"), token, "").await.1["sources"].clone()
}

/// Sends `count` events from `first` on, one in five of them for a subject that nobody owns.
pub(crate) async fn send(server: &Server, data: &Path, token: &str, now: Timestamp, first: u64, count: u64) {
    let client = client(server, data, token, "shop").await;
    for number in first..first + count {
        client.record("request", &event(now, number)).await.unwrap();
    }
    client.close().await.unwrap();
}

pub(crate) fn event(now: Timestamp, number: u64) -> Event {
    let subject = if number.is_multiple_of(5) { "key-2" } else { "key-1" };
    Event::new(EventIdOwned::Text(format!("e{number}")), subject, now.plus(number as i64))
        .value("tokens", Decimal::from_integer((number % 7) as i64))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_a_snapshot_is_a_start_from_the_logs() {
    let data = tempfile::tempdir().unwrap();
    let catalog = data.path().join("catalog.toml");
    std::fs::write(&catalog, CATALOG).unwrap();
    let arguments = ["--catalog", catalog.to_str().unwrap(), "--pending-per-slot-max", "1000"];
    let server = Server::start(data.path(), &arguments);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let now = Timestamp::from_nanoseconds(now);
    send(&server, data.path(), &token, now, 0, 3_000).await;
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    // A cut that has nothing to seal, and that nothing follows in the control log: the snapshot lies behind it, and what
    // the shards know there is no part of it.
    assert_eq!(call_json("POST", &server.url("/v1/cuts"), &token, "").await.1["lines"], 0);
    send(&server, data.path(), &token, now, 3_000, 500).await;
    let before = counters(&server, &token).await;
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(snapshots(data.path()).len(), 1);

    // Every start knows every id and every cell, and what came behind the snapshot.
    let server = Server::start(data.path(), &arguments);
    assert!(started_from(&server, &token).await > 0);
    assert_eq!(counters(&server, &token).await, before);
    send(&server, data.path(), &token, now, 2_900, 200).await;
    let again = counters(&server, &token).await;
    assert_eq!(again["shop"]["duplicate"].as_u64(), Some(200), "{again}");
    send(&server, data.path(), &token, now, 3_500, 100).await;
    server.kill();

    // Behind a kill, from the same snapshot and a longer log; what waited finds its owner.
    let server = Server::start(data.path(), &arguments);
    assert!(started_from(&server, &token).await > 0);
    let binding = r#"{"subscription": "s1", "from": "2020-01-01T00:00:00Z"}"#;
    assert_eq!(call("PUT", &server.url("/v1/subjects/key-2"), &token, binding).await.0, 200);
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let expected: i64 = (0..3_600).map(|number| number % 7).sum();
    assert_eq!(charged(&server, &token).await.0["tokens"], expected);
    assert_eq!(charged(&server, &token).await.0["calls"], 3_600);
    let whole = counters(&server, &token).await;
    send(&server, data.path(), &token, now, 0, 1_000).await;
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(snapshots(data.path()).len(), 2);
    let replayed = tallymark(&["replay", "--data", data.path().to_str().unwrap()]);
    assert!(replayed.status.success(), "{}", text(&replayed));

    // The last one is damaged: the one before it is used. Both are: none. Other shards: none.
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let files = snapshots(data.path());
    let expect = |offset_is_older: Option<bool>, found: u64| {
        let name =
            |path: &PathBuf| u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
        let expected = offset_is_older.map_or(0, |is_older| name(&files[usize::from(!is_older)]));
        assert_eq!(found, expected);
    };
    for (step, is_older, shards) in
        [("whole", Some(false), "1"), ("one", Some(true), "1"), ("both", None, "1"), ("other", None, "2")]
    {
        match step {
            "one" => damage(&files[1]),
            "both" => std::fs::File::options().write(true).open(&files[0]).unwrap().set_len(1_000).unwrap(),
            _ => {}
        }
        let arguments = [&arguments[..], &["--snapshot-bytes", "0", "--shards", shards]].concat();
        let server = Server::start(data.path(), &arguments);
        expect(is_older, started_from(&server, &token).await);
        let found = counters(&server, &token).await;
        assert_eq!(found["shop"]["metered"], whole["shop"]["metered"], "{step}");
        assert_eq!(found["shop"]["duplicate"].as_u64(), Some(1_200), "{step}");
        server.kill();
    }
}
