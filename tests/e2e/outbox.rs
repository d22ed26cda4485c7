//! kill -9 of clients with an outbox, and of the server, at random moments under load: totals equal the oracle's.
//!
//! A client is this test binary once more, started with [`ROLE`] set: it records events and says on standard output what
//! it is about to record (`told N`) and what its outbox has (`stored N`), until its input ends.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use domain::{Decimal, Timestamp};
use tallymark_client::{Client, ClientError, ClientOptions, Event, EventIdOwned, OutboxOptions, SyncPolicy};

use crate::process::{CATALOG, Server, call, charged, mark_shown, tallymark, text};

/// Set in a client's process: `own` or `minted` ids.
const ROLE: &str = "TALLYMARK_TEST_CLIENT";

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

/// What a number is worth.
fn tokens_of(number: u64) -> i64 {
    (number % 97) as i64
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_nanoseconds(since.as_nanos() as i64)
}

/// The time of an event: the same whichever process records it.
fn time_of(base: Timestamp, number: u64) -> Timestamp {
    base.plus(-((number % 1_000) as i64) * 1_000_000)
}

/// Not a test by itself: the process of a client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let setting = |name: &str| std::env::var(format!("{ROLE}_{name}")).unwrap();
    let pem = std::fs::read(setting("CERT")).unwrap();
    let mut options = ClientOptions::new(setting("QUIC"), &setting("TOKEN"), "shop", pem);
    options.batch_events_max = 20;
    options.memory_bytes_max = 40_000;
    let mut outbox = OutboxOptions::new(setting("OUTBOX"), SyncPolicy::Never);
    outbox.segment_bytes = 50_000;
    options.outbox = Some(outbox);
    let client = Client::start(options).unwrap();
    let base = Timestamp::from_nanoseconds(setting("BASE").parse().unwrap());
    let mut number: u64 = setting("START").parse().unwrap();
    let (stop, stopped) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lines().next();
        let _ = stop.send(());
    });
    while stopped.try_recv().is_err() {
        let until = number + 50;
        say("told", until);
        for number in number..until {
            let event = match role.as_str() {
                "own" => {
                    Event::new(EventIdOwned::Text(format!("event-{number}")), "key-1", time_of(base, number))
                }
                _ => Event::minted("key-1", time_of(base, number)),
            };
            client
                .record("request", &event.value("tokens", Decimal::from_integer(tokens_of(number))))
                .await
                .unwrap();
        }
        client.persist().await.unwrap();
        number = until;
        say("stored", number);
        // A pace, so that what is left at the end does not depend on the machine.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.close().await.unwrap();
    say("closed", number);
}

fn say(what: &str, number: u64) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{what} {number}").unwrap();
    output.flush().unwrap();
}

struct Producer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    told: u64,
    stored: u64,
}

impl Producer {
    fn start(server: &Server, data: &Path, token: &str, role: &str, base: Timestamp, start: u64) -> Self {
        let set = |name: &str| format!("{ROLE}_{name}");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "outbox::client_process", "--nocapture"])
            .env(ROLE, role)
            .env(set("CERT"), data.join("dev-cert.pem"))
            .env(set("QUIC"), &server.quic)
            .env(set("TOKEN"), token)
            .env(set("OUTBOX"), data.join("outbox"))
            .env(set("BASE"), base.nanoseconds().to_string())
            .env(set("START"), start.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, told: start, stored: start }
    }

    /// Reads what the client says, line by line, up to so many lines; false when it said all.
    fn listen(&mut self, lines: u64) -> bool {
        for _ in 0..lines {
            let Some(Ok(line)) = self.lines.next() else { return false };
            // The harness ends its own words where the client's begin.
            let mut words = line.rsplit(' ');
            let number = words.next().and_then(|word| word.parse().ok());
            match (words.next().map(|word| word.trim_start_matches("...")), number) {
                (Some(what), Some(number)) if what.ends_with("told") => self.told = number,
                (Some(what), Some(number)) if what.ends_with("stored") => self.stored = number,
                _ => {}
            }
        }
        true
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while self.listen(100) {}
    }

    /// Lets the client flush and end.
    fn finish(&mut self) {
        drop(self.child.stdin.take());
        while self.listen(100) {}
        assert!(self.child.wait().unwrap().success(), "the client ends well");
        assert_eq!(self.told, self.stored);
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs of a client recorded: exactly, or between two bounds.
#[derive(Default)]
struct Oracle {
    least: (i64, i64),
    most: (i64, i64),
}

impl Oracle {
    fn add(bound: &mut (i64, i64), numbers: std::ops::Range<u64>) {
        for number in numbers {
            *bound = (bound.0 + tokens_of(number), bound.1 + 1);
        }
    }
}

async fn totals_whenever_clients_and_server_are_killed(role: &str) {
    for seed in 1..=count_of("TALLYMARK_SEEDS", 2) {
        println!("seed {seed}, {role} ids");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let data = tempfile::tempdir().unwrap();
        let catalog = data.path().join("catalog.toml");
        std::fs::write(&catalog, CATALOG).unwrap();
        let mut server = Server::start(data.path(), &["--catalog", catalog.to_str().unwrap()]);
        let token = server.token.clone().unwrap();
        mark_shown(data.path());
        let (quic, http) = (server.quic.clone(), server.http.clone());
        let base = now();
        let mut oracle = Oracle::default();
        let mut start = 0;
        let mut producer = Producer::start(&server, data.path(), &token, role, base, start);
        for _ in 0..count_of("TALLYMARK_KILLS", 3) {
            assert!(producer.listen(1 + random.below(60)), "the client goes on");
            let (kills_server, kills_client) =
                [(true, false), (false, true), (true, true)][random.below(3) as usize];
            let was_down_for = random.below(60);
            if kills_server {
                server.kill_in_place();
                // Without a server the outbox fills.
                assert!(producer.listen(was_down_for), "the client goes on without a server");
            }
            if kills_client {
                producer.kill();
                // What was told and not stored is recorded again, with the same ids if they are the caller's own.
                let next = if role == "own" { producer.stored } else { producer.told };
                Oracle::add(&mut oracle.least, start..producer.stored);
                Oracle::add(&mut oracle.most, start..next);
                start = next;
            }
            if kills_server {
                server = Server::start_at(data.path(), &quic, &http, &[]);
            }
            if kills_client {
                producer = Producer::start(&server, data.path(), &token, role, base, start);
            }
        }
        assert!(producer.listen(10), "the client goes on");
        producer.finish();
        Oracle::add(&mut oracle.least, start..producer.stored);
        Oracle::add(&mut oracle.most, start..producer.stored);
        let (status, said) = call("POST", &server.url("/v1/cuts"), &token, "").await;
        assert_eq!(status, 200, "{said}");
        let (totals, _) = charged(&server, &token).await;
        let (tokens, calls) = (totals["tokens"], totals["calls"]);
        let bounds = (oracle.least, oracle.most);
        assert!((oracle.least.1..=oracle.most.1).contains(&calls), "seed {seed}: {calls} calls, {bounds:?}");
        assert!(
            (oracle.least.0..=oracle.most.0).contains(&tokens),
            "seed {seed}: {tokens} tokens, {bounds:?}"
        );
        if role == "own" {
            assert_eq!(oracle.least, oracle.most, "with own ids the oracle is exact");
        }
        let left = std::fs::read_dir(data.path().join("outbox")).unwrap().count();
        assert_eq!(left, 1, "of the outbox the lock is left");
        assert_eq!(server.terminate(), Some(0));
        let output = tallymark(&["verify", "--data", data.path().to_str().unwrap()]);
        assert!(output.status.success() && text(&output).contains("verified"), "{}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_ids_count_once_whenever_clients_and_server_are_killed() {
    totals_whenever_clients_and_server_are_killed("own").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minted_ids_lose_nothing_that_was_stored_whenever_clients_and_server_are_killed() {
    totals_whenever_clients_and_server_are_killed("minted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_starts_without_a_server_and_what_it_leaves_is_sent_by_the_next_one() {
    let data = tempfile::tempdir().unwrap();
    let catalog = data.path().join("catalog.toml");
    std::fs::write(&catalog, CATALOG).unwrap();
    let server = Server::start(data.path(), &["--catalog", catalog.to_str().unwrap()]);
    let token = server.token.clone().unwrap();
    mark_shown(data.path());
    let (quic, http) = (server.quic.clone(), server.http.clone());
    assert_eq!(server.terminate(), Some(0));
    let pem = std::fs::read(data.path().join("dev-cert.pem")).unwrap();
    let mut options = ClientOptions::new(&quic, &token, "shop", pem);
    let mut outbox = OutboxOptions::new(data.path().join("outbox"), SyncPolicy::EachBatch);
    outbox.keeps = tallymark_client::Keeps::Overflow;
    options.outbox = Some(outbox);
    let client = Client::start(options.clone()).unwrap();
    let busy = Client::start(options.clone()).err().expect("the outbox is in use");
    assert!(matches!(&busy, ClientError::Outbox(what) if what.contains("in use")), "{busy}");
    for number in 0..100 {
        let event = Event::minted("key-1", now()).value("tokens", Decimal::from_integer(number));
        client.record("request", &event).await.unwrap();
    }
    // What memory holds goes to the outbox when time is up.
    let passed = client.close_within(Duration::from_millis(200)).await;
    assert_eq!(passed, Err(ClientError::DeadlinePassed { unacked: 100, stored: 100 }));
    drop(client);
    let mut other = options.clone();
    other.source = "another".to_string();
    let refused = Client::start(other).err().expect("the outbox is another source's");
    assert!(refused.to_string().contains("source \"shop\""), "{refused}");
    let server = Server::start_at(data.path(), &quic, &http, &[]);
    options.verdicts = true;
    let (acks_to, mut acks) = tokio::sync::mpsc::unbounded_channel();
    options.acks = Some(acks_to);
    let client = Client::connect(options).await.unwrap();
    assert_eq!((client.recovered().events, client.stats().recovered), (100, 100));
    client.close().await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.acked, stats.resent, stats.unacked), (100, 100, 0));
    let acked = acks.recv().await.unwrap();
    assert_eq!(
        acked.verdicts.as_ref().map(Vec::len),
        Some(acked.events),
        "verdicts come for recovered batches too"
    );
    assert!(acked.id(0).unwrap().starts_with("seq:"));
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let (totals, _) = charged(&server, &token).await;
    assert_eq!((totals["tokens"], totals["calls"]), (4_950, 100));
}
