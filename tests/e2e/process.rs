//! A server process, its client and its API.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tallymark_client::{Client, ClientOptions};

pub(crate) const CATALOG: &str = r#"
catalog = 1
[[entity]]
id = "inc"
currency = "USD"
time_zone = "UTC"
[[account]]
id = "acme"
name = "Acme"
entity = "inc"
currency = "USD"
time_zone = "UTC"
[[meter]]
id = "tokens"
event_type = "request"
aggregation = "sum"
value = "tokens"
[[meter]]
id = "calls"
event_type = "request"
aggregation = "count"
[[plan]]
id = "pro"
currency = "USD"
[[price]]
id = "tokens"
plan = "pro"
meter = "tokens"
model = "graduated"
window = "month"
tiers = [{ up_to = "1000", unit_amount = "0.5" }, { unit_amount = "0.25" }]
[[price]]
id = "calls"
plan = "pro"
meter = "calls"
model = "per_unit"
unit_amount = "0.01"
window = "month"
[[subscription]]
id = "s1"
account = "acme"
plan = "pro"
from = "2020-01-01T00:00:00Z"
[[subject]]
id = "key-1"
subscription = "s1"
from = "2020-01-01T00:00:00Z"
"#;

pub(crate) fn binary() -> PathBuf {
    std::env::var_os("TALLYMARK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_tallymark").into(), PathBuf::from)
}

pub(crate) fn tallymark(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the binary starts")
}

pub(crate) fn text(output: &Output) -> String {
    [output.stdout.clone(), output.stderr.clone()].concat().iter().map(|byte| char::from(*byte)).collect()
}

pub(crate) struct Server {
    child: Child,
    pub(crate) quic: String,
    pub(crate) http: String,
    pub(crate) token: Option<String>,
}

impl Server {
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        Self::start_at(data, "127.0.0.1:0", "127.0.0.1:0", arguments)
    }

    pub(crate) fn start_at(data: &Path, quic: &str, http: &str, arguments: &[&str]) -> Self {
        Self::start_command(Command::new(binary()), data, quic, http, arguments)
    }

    /// A server that may have so many open files.
    pub(crate) fn start_with_files(data: &Path, files: u32) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]).arg(binary());
        Self::start_command(shell, data, "127.0.0.1:0", "127.0.0.1:0", &[])
    }

    fn start_command(mut command: Command, data: &Path, quic: &str, http: &str, arguments: &[&str]) -> Self {
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(data)
            .args(["--quic", quic, "--http", http])
            .args(arguments)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (mut quic, mut http, mut token) = (String::new(), String::new(), None);
        for line in lines.map_while(Result::ok) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("quic"), Some(address)) => quic = address.to_string(),
                (Some("http"), Some(url)) => http = url.trim_start_matches("http://").to_string(),
                (Some("cert"), _) if was_shown(data) => break,
                (Some("token"), Some(secret)) => {
                    token = Some(secret.to_string());
                    break;
                }
                _ => {}
            }
        }
        assert!(!quic.is_empty(), "the server said where it listens");
        Self { child, quic, http, token }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.kill_in_place();
    }

    pub(crate) fn kill_in_place(&mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("the process ends");
    }

    /// SIGTERM; gives the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.child.wait().expect("the process ends").code()
    }

    /// Waits for an end that nobody asked for; gives the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("the process ends").code()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the development token of a directory was shown by an earlier start.
fn was_shown(data: &Path) -> bool {
    data.join("shown").exists()
}

/// Remembers that it was.
pub(crate) fn mark_shown(data: &Path) {
    std::fs::write(data.join("shown"), b"").expect("the directory can be written");
}

pub(crate) async fn client(server: &Server, data: &Path, token: &str, source: &str) -> Client {
    let pem = std::fs::read(data.join("dev-cert.pem")).expect("the certificate is there");
    let mut options = ClientOptions::new(&server.quic, token, source, pem);
    options.batch_events_max = 50;
    Client::connect(options).await.expect("the server takes the token")
}

pub(crate) async fn call(method: &str, url: &str, token: &str, body: &str) -> (u16, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let request = reqwest::Client::new().request(method, url).bearer_auth(token).body(body.to_string());
    let response = request.send().await.expect("the server answers");
    let status = response.status().as_u16();
    (status, response.text().await.expect("the answer is whole"))
}

pub(crate) async fn call_json(method: &str, url: &str, token: &str, body: &str) -> (u16, Value) {
    let (status, text) = call(method, url, token, body).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Quantity per meter over all charge batches, and the batches' text.
pub(crate) async fn charged(
    server: &Server,
    token: &str,
) -> (std::collections::BTreeMap<String, i64>, String) {
    let (status, text) = call("GET", &server.url("/v1/charge-batches?after=0"), token, "").await;
    assert_eq!(status, 200, "{text}");
    let mut sums = std::collections::BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        if let Some(charge) = line.get("charge") {
            let number = |field: &str| {
                charge[field].as_str().expect("a decimal").parse::<i64>().expect("a whole number")
            };
            let meter = charge["meter"].as_str().expect("a meter").to_string();
            *sums.entry(meter).or_insert(0) += number("quantity_after") - number("quantity_before");
        }
    }
    (sums, text)
}
