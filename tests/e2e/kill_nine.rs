//! kill -9 under load at random moments: nothing acknowledged is lost, nothing counts twice, sealed stays sealed.

use std::collections::BTreeMap;

use domain::{Decimal, Timestamp};
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, charged, client, mark_shown, tallymark, text};

fn count_of(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_equal_the_oracle_whenever_the_server_is_killed() {
    for seed in 1..=count_of("TALLYMARK_SEEDS", 2) {
        println!("seed {seed}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let data = tempfile::tempdir().unwrap();
        let catalog = data.path().join("catalog.toml");
        std::fs::write(&catalog, CATALOG).unwrap();
        // Every other seed makes a snapshot whenever there is something new.
        let snapshot_bytes = if seed % 2 == 0 { "0" } else { "10000" };
        // As little memory for ids as there may be, so that most of them are on disk.
        let settings = ["--snapshot-bytes", snapshot_bytes, "--dedup-memory", "524288"];
        let arguments = ["--catalog", catalog.to_str().unwrap()];
        let mut server = Server::start(data.path(), &[&arguments[..], &settings].concat());
        let token = server.token.clone().unwrap();
        mark_shown(data.path());
        let (quic, http) = (server.quic.clone(), server.http.clone());
        let client = client(&server, data.path(), &token, "shop").await;
        let mut oracle: BTreeMap<String, i64> = BTreeMap::new();
        let mut sealed = String::new();
        let (mut number, mut kills) = (0u64, 0);
        let kills_max = count_of("TALLYMARK_KILLS", 3);
        let now = Timestamp::from_nanoseconds(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64,
        );
        while kills < kills_max || number < 3_000 {
            for _ in 0..random.below(400) {
                // One in ten is sent again: the same id, the same content.
                let is_again = number > 0 && random.below(10) == 0;
                let id = if is_again { random.below(number) } else { number };
                let tokens = (id % 97) as i64;
                let time = now.plus(-((id % 1_000) as i64) * 1_000_000);
                let event = Event::new(EventIdOwned::Text(format!("event-{id}")), "key-1", time)
                    .value("tokens", Decimal::from_integer(tokens));
                client.record("request", &event).await.unwrap();
                if !is_again {
                    *oracle.entry("tokens".to_string()).or_default() += tokens;
                    *oracle.entry("calls".to_string()).or_default() += 1;
                    number += 1;
                }
            }
            if random.below(3) == 0 {
                // A cut that a kill may interrupt anywhere.
                let (url, token) = (server.url("/v1/cuts"), token.clone());
                let cutting =
                    tokio::spawn(
                        async move { reqwest::Client::new().post(url).bearer_auth(token).send().await },
                    );
                if random.below(2) == 0 {
                    let _ = cutting.await;
                }
            }
            if kills < kills_max && random.below(2) == 0 {
                let (_, text) = charged(&server, &token).await;
                assert!(text.starts_with(&sealed), "sealed batches never change");
                sealed = text;
                server.kill();
                kills += 1;
                server = Server::start_at(data.path(), &quic, &http, &settings);
            }
        }
        client.flush().await.unwrap();
        let (status, said) = call("POST", &server.url("/v1/cuts"), &token, "").await;
        assert_eq!(status, 200, "{said}");
        let (totals, text_now) = charged(&server, &token).await;
        assert_eq!(totals, oracle, "seed {seed}");
        assert!(text_now.starts_with(&sealed), "sealed batches never change");
        assert_eq!(server.terminate(), Some(0));
        let chains: Vec<String> = ["1", "2", "8"]
            .iter()
            .map(|shards| {
                let output =
                    tallymark(&["replay", "--data", data.path().to_str().unwrap(), "--shards", shards]);
                assert!(output.status.success(), "{}", text(&output));
                text(&output).lines().find(|line| line.contains("chain")).unwrap().to_string()
            })
            .collect();
        let output = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
        assert!(output.status.success() && text(&output).contains("verified"), "{}", text(&output));
        assert!(chains.iter().all(|chain| *chain == chains[0] && !chain.contains("empty")), "{chains:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_makes_replay_fail_and_names_the_segment() {
    let data = tempfile::tempdir().unwrap();
    let catalog = data.path().join("catalog.toml");
    std::fs::write(&catalog, CATALOG).unwrap();
    let server = Server::start(data.path(), &["--catalog", catalog.to_str().unwrap()]);
    let token = server.token.clone().unwrap();
    let client = client(&server, data.path(), &token, "shop").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    for id in 0..500 {
        let event = Event::new(EventIdOwned::Text(id.to_string()), "key-1", Timestamp::from_nanoseconds(now))
            .value("tokens", Decimal::ONE);
        client.record("request", &event).await.unwrap();
    }
    client.close().await.unwrap();
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    call("POST", &server.url("/v1/journal-runs"), &token, "").await;
    assert_eq!(server.terminate(), Some(0));
    let directory = data.path().to_str().unwrap();
    assert!(tallymark(&["replay", "--data", directory]).status.success());
    for log in ["control", "usage-0", "charges", "journals"] {
        for entry in std::fs::read_dir(data.path().join(log)).unwrap() {
            let path = entry.unwrap().path();
            let whole = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            for part in 0..7 {
                let at = part * (whole.len() - 1) / 6;
                let mut broken = whole.clone();
                broken[at] ^= 0x10;
                std::fs::write(&path, &broken).unwrap();
                let command = if part % 2 == 0 { "replay" } else { "verify" };
                let output = tallymark(&[command, "--data", directory]);
                assert!(
                    !output.status.success() && text(&output).contains(&name),
                    "{log}/{name} byte {at}: {}",
                    text(&output)
                );
            }
            std::fs::write(&path, &whole).unwrap();
        }
    }
    assert!(tallymark(&["replay", "--data", directory]).status.success());
}
