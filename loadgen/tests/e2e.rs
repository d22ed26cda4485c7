//! The generator as a program against a real server: every target, verified to the last digit of the charges.
//!
//! Owns: a server in this process, with a directory and ports of its own. Invariants: no assertion is about time.
#![allow(clippy::unwrap_used)] // a test that cannot go on fails

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use clap::Parser;
use serde_json::Value;
use server::config::ServeArgs;
use server::run::{Running, start};

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

struct Server {
    running: Arc<Running>,
    data: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().to_str().unwrap();
        let arguments = ["--data", path, "--quic", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let serve = Serve::try_parse_from(arguments).unwrap();
        let running = Arc::new(start(&serve.args).await.unwrap());
        // A server whose disk is full ends its process; in this one nobody would answer any more.
        let watched = running.clone();
        tokio::spawn(async move {
            let cause = watched.failed().await;
            // Past what a test captures, since the process ends with it.
            let _ = writeln!(std::io::stderr(), "the server of a test failed: {cause}");
            std::process::abort();
        });
        Self { running, data }
    }

    fn json(&self) -> PathBuf {
        self.data.path().join("report.json")
    }

    /// Runs the generator against this server; gives what it printed.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = loadgen();
        command.arg("run").args(arguments);
        command.arg("--quic").arg(self.running.quic.to_string());
        command.arg("--url").arg(format!("http://{}", self.running.http));
        command.arg("--token").arg(self.running.token.as_ref().unwrap());
        command.arg("--json").arg(self.json()).arg("--html").arg(self.data.path().join("report.html"));
        if !arguments.contains(&"--endpoint") {
            command.arg("--cert").arg(self.data.path().join("dev-cert.pem"));
        }
        command.output().unwrap()
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.json()).unwrap()).unwrap()
    }

    /// Runs with `--verify`, and checks what every run must show.
    fn check(&self, events: u64, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--verify"]].concat());
        let text = shown(&output);
        assert!(output.status.success() && text.contains("VERIFIED: "), "{arguments:?}: {text}");
        let report = self.report();
        let page = std::fs::read_to_string(self.data.path().join("report.html")).unwrap();
        assert!(page.contains("Verified: ") && page.ends_with("</html>\n"), "{arguments:?}");
        assert_eq!(report["measured"]["events"], events, "{arguments:?}: {text}");
        assert_eq!(report["measured"]["refused"], 0, "{text}");
        assert_eq!(report["verified"]["differences"].as_array().unwrap().len(), 0);
        report
    }
}

fn loadgen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.env_remove("TALLYMARK_TOKEN");
    command
}

fn shown(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_is_verified_to_the_last_digit() {
    let server = Server::start().await;
    let messy = ["--accounts", "20", "--subjects", "50", "--late", "100"];
    let run = |events: u64, more: &[&str]| {
        let events_text = events.to_string();
        let arguments = [&["line-rate", "--events", &events_text], &messy[..], more].concat();
        server.check(events, &arguments)
    };
    for ids in ["hex16", "uuid", "ulid", "long"] {
        run(3_000, &["--ids", ids, "--duplicates", "200", "--batch", "100", "--connections", "3"]);
    }
    run(3_000, &["--ids", "sequenced", "--duplicates", "0"]);
    run(300, &["--target", "http-single", "--connections", "5", "--duplicates", "200"]);
    run(300, &["--target", "http-binary", "--connections", "5", "--ids", "uuid"]);
    run(3_000, &["--target", "http-batch", "--batch", "70", "--connections", "3"]);
    let report =
        run(3_000, &["--target", "ndjson", "--batch", "1000", "--connections", "2", "--processes", "2"]);
    assert_eq!(report["measured"]["http_statuses"]["200"], 4, "each connection has two requests: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_sends_what_is_due_and_disturbances_lose_nothing() {
    let server = Server::start().await;
    let report = server.check(2_000, &["steady", "--seconds", "1", "--rate", "2000", "--batch", "50"]);
    assert_eq!(report["measured"]["latency_microseconds"]["count"], 40, "one of each batch");
    // Connections break off in the middle of requests: events arrive twice and count once.
    let storm = ["reconnect-storm", "--seconds", "3", "--rate", "300", "--connections", "10", "--batch", "5"];
    let storm_file = server.data.path().join("storm.toml");
    let text = shown(&loadgen().args(["scenarios", "reconnect-storm"]).output().unwrap());
    std::fs::write(&storm_file, text.replace("every_seconds = 3", "every_seconds = 1")).unwrap();
    let report = server.check(900, &[&[storm_file.to_str().unwrap()], &storm[1..]].concat());
    assert!(report["measured"]["reconnects"].as_u64().unwrap() >= 10, "{report}");
    let quic = ["--target", "quic", "--accounts", "10"];
    server.check(900, &[&[storm_file.to_str().unwrap()], &storm[1..], &quic].concat());
    server.check(
        1_000,
        &["slow-consumers", "--seconds", "1", "--rate", "1000", "--connections", "10", "--batch", "50"],
    );
    let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/demo/trace/code.csv");
    let trace =
        ["trace", "--trace", code.to_str().unwrap(), "--speed", "600", "--events", "500", "--accounts", "5"];
    server.check(500, &trace);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_endpoint_gets_the_same_load_and_a_sink_answers_all_of_it() {
    let server = Server::start().await;
    let mut sink = loadgen().args(["sink", "--http"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(sink.stdout.take().unwrap()), &mut address)
        .unwrap();
    let url = format!("http://{}/any", address.trim());
    let output =
        server.run(&["peer", "--endpoint", &url, "--seconds", "1", "--rate", "200", "--header", "X-Key: 1"]);
    sink.kill().unwrap();
    sink.wait().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(
        (server.report()["measured"]["events"].as_u64(), server.report()["verified"].clone()),
        (Some(200), Value::Null)
    );
    for target in ["quic", "http-batch"] {
        let arguments =
            ["line-rate", "--events", "2000", "--accounts", "5", "--target", target, "--compare-sink"];
        let report = server.check(2_000, &arguments);
        for sink in ["sink_before", "sink_after"] {
            assert_eq!(report[sink]["events"], 2_000, "{target}: {report}");
        }
        assert!(report["share_of_sink"].as_f64().unwrap() > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_is_counted_and_said() {
    let server = Server::start().await;
    // Nothing is at this path, so every event is refused, and the run says so.
    let url = format!("http://{}/v1/nothing", server.running.http);
    let output = server.run(&["peer", "--endpoint", &url, "--events", "20", "--rate", "0"]);
    let text = shown(&output);
    assert!(text.contains("20 events were refused; the first: 404"), "{text}");
    assert!(!output.status.success(), "a run of which nothing was taken is no success: {text}");
    assert_eq!(server.report()["measured"]["events"], 0);
}

/// An authority that the server is not of, and a name that it does not have, read as `no server answers` after a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_trusted_is_said_and_not_waited_for() {
    let server = Server::start().await;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let pem = server.data.path().join("other.pem");
    std::fs::write(&pem, other.cert.pem()).unwrap();
    let quic = server.running.quic.to_string();
    let url = format!("http://{}", server.running.http);
    let run = |more: &[&str]| {
        let mut command = loadgen();
        command.args([
            "run",
            "line-rate",
            "--events",
            "10",
            "--accounts",
            "1",
            "--quic",
            &quic,
            "--url",
            &url,
        ]);
        command.arg("--token").arg(server.running.token.as_ref().unwrap());
        let output = command.args(more).output().unwrap();
        assert!(!output.status.success(), "{}", shown(&output));
        shown(&output)
    };
    let own = server.data.path().join("dev-cert.pem");
    let (pem, own) = (pem.to_str().unwrap(), own.to_str().unwrap());
    for (more, said) in [
        (&["--cert", pem][..], "the server's certificate is not trusted: invalid peer certificate"),
        (&["--cert", own, "--server-name", "other.example"], "certificate not valid for name"),
    ] {
        let text = run(more);
        assert!(text.contains(said), "{more:?}: {text}");
    }
}

/// A server of HTTP that takes everything, and tells when the first request came.
fn take_all() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                // One write of the generator is one request, and small enough to come in one piece.
                while std::io::Read::read(&mut stream, &mut buffer).is_ok_and(|bytes| bytes > 0) {
                    let _ = tell.send(());
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, told)
}

/// Ctrl-C left nothing at all, and a client process that was killed took the whole report with it.
#[test]
fn a_run_that_is_broken_off_reports_what_it_measured() {
    for is_worker in [false, true] {
        let (url, told) = take_all();
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("report.json");
        let arguments =
            ["run", "peer", "--seconds", "600", "--rate", "100", "--connections", "1", "--endpoint"];
        let mut command = loadgen();
        command.args(arguments).arg(&url).arg("--json").arg(&json);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // More than a second's worth, so that a process has told its parent something.
        for _ in 0..250 {
            told.recv().unwrap();
        }
        let parent = child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let (pid, signal, said) = match is_worker {
            false => (parent.to_string(), "-INT", "it was interrupted"),
            true => (
                children.trim().to_string(),
                "-KILL",
                "client process 1 of 1 ended without a word (signal: 9",
            ),
        };
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let text = shown(&output);
        assert!(!output.status.success() && text.contains("WARNING: the run ended early"), "{text}");
        assert!(text.contains(said), "{text}");
        let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert!(report["measured"]["events"].as_u64().unwrap() > 0, "{report}");
        assert!(report["measured"]["ended_early"].as_str().unwrap().contains(said), "{report}");
    }
}

#[test]
fn mistakes_are_said_with_their_place_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "scenario = 1\nabout = \"x\"\n[load]\nevents = 1\n[send]\nprocesses = 9\n")
        .unwrap();
    let file = file.to_str().unwrap();
    for (arguments, said) in [
        (
            &["run", file, "--token", "x"][..],
            "mine.toml:6: every process has a connection; lower `processes`",
        ),
        (&["run", "unheard-of", "--token", "x"], "there is no scenario of that name"),
        (&["run", "steady", "--trace", "not-there.csv", "--rate", "0"], "the trace cannot be used"),
        (&["run", "peer", "--endpoint", "peer"], "write http://host:port/path"),
        (&["run", "line-rate", "--endpoint", "http://127.0.0.1:1/"], "an endpoint takes HTTP"),
        (&["run", "http-single"], "give one with --token"),
        (&["run", "http-single", "--token", "x", "--json", "/nowhere/report.json"], "cannot write /nowhere/"),
        (&["run", "http-single", "--token", "x", "--html", "/nowhere/report.html"], "cannot write /nowhere/"),
        (&["run", "line-rate", "--token", "x", "--cert", file, "--quic", "nowhere"], "write host:port"),
        (&["scenarios", "unheard-of"], "take one of line-rate"),
    ] {
        let output = loadgen().args(arguments).output().unwrap();
        let text = shown(&output);
        assert!(!output.status.success() && text.contains(said), "{arguments:?}: {text}");
    }
    let listed = shown(&loadgen().arg("scenarios").output().unwrap());
    assert!(
        listed.lines().count() >= 12 && listed.contains("http-single      HTTP, one structured"),
        "{listed}"
    );
}
