//! The load generator: a client like any other that knows to the last digit what it sent.
//!
//! Owns: scenarios, synthetic load and trace replay, pacing, latencies, raw sinks for comparison, the oracle, reports.
//! Leaves to others: QUIC (`tallymark-client`), counting (a running server).
//!
//! Invariants: the load is a function of its scenario and seed; latencies are from the intended send time; what is
//! verified is what was acknowledged.
#![allow(clippy::print_stdout)] // its output is its purpose

mod api;
mod catalog;
mod cpu;
mod disk;
mod generator;
mod interrupt;
mod oracle;
mod pace;
mod random;
mod recorder;
mod report;
mod run;
mod scenario;
mod sink;
mod target;
mod timer;
mod verify;
mod worker;
mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

pub use self::report::Report;
use self::scenario::{BUILT_IN, Scenario};
pub use self::scenario::{IdShape, ScenarioError, ScenarioStatus, Target};

/// Throws load at a server and says what happened.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send load to a running `tallymark serve`, or to any endpoint that takes CloudEvents.
    Run(Box<LoadArgs>),
    /// List the scenarios that are built in, or show one as the file that it is.
    Scenarios {
        /// The scenario to show.
        name: Option<String>,
    },
    /// Be a raw sink: read the same bytes, answer that all is well, do nothing else.
    Sink(SinkArgs),
    /// Be a client process of a run.
    #[command(hide = true)]
    Worker,
}

#[derive(Debug, Args)]
struct SinkArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Speak HTTP instead of QUIC.
    #[arg(long, conflicts_with = "cert")]
    http: bool,
    /// Where the certificate goes (QUIC).
    #[arg(long, required_unless_present = "http")]
    cert: Option<PathBuf>,
}

/// Settings of a run.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Name of a scenario (see `loadgen scenarios`), or path of a TOML file.
    #[arg(default_value = "line-rate")]
    scenario: String,
    /// QUIC address of the server, host:port.
    #[arg(long, default_value = "127.0.0.1:7411")]
    quic: String,
    /// Name in the server's certificate, over QUIC [default: the host of --quic].
    #[arg(long)]
    server_name: Option<String>,
    /// HTTP address of the server.
    #[arg(long, default_value = "http://127.0.0.1:7410")]
    url: String,
    /// A token with the role admin and all sources.
    #[arg(long, env = "TALLYMARK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificates of authorities and servers that are trusted (PEM) [default with QUIC: tallymark-data/dev-cert.pem].
    #[arg(long, alias = "ca")]
    cert: Option<PathBuf>,
    /// Over QUIC, show this certificate (PEM, the client's own first) instead of the token.
    #[arg(long, requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// Send to this URL instead of Tallymark: no catalog is made, and nothing can be verified.
    #[arg(long, conflicts_with = "verify")]
    endpoint: Option<String>,
    /// A header of every HTTP request, `Name: value`; may be said again.
    #[arg(long)]
    header: Vec<String>,
    /// Send the same load to a raw sink before and after, for the ratio.
    #[arg(long)]
    compare_sink: bool,
    /// Afterwards cut, pull the charges, and compare them with what was sent, to the last digit.
    #[arg(long)]
    verify: bool,
    /// Run even if the server's disk seems too small.
    #[arg(long)]
    ignore_disk: bool,
    /// Write the report to a file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the report to a file, as one page with plots.
    #[arg(long)]
    html: Option<PathBuf>,
    #[command(flatten)]
    flags: scenario::flags::ScenarioFlags,
}

/// Runs a command; `false` says that a run ended early, that everything was refused, or that verification failed.
///
/// # Errors
/// Whatever keeps the load from being sent.
pub fn run(cli: Cli) -> Result<bool> {
    match cli.command {
        Command::Worker => worker::run().map(|()| true),
        Command::Scenarios { name } => show_scenarios(name.as_deref()).map(|()| true),
        Command::Sink(args) => {
            let runtime = runtime()?;
            match &args.cert {
                Some(cert) => runtime.block_on(sink::quic::serve(args.listen, cert))?,
                None => runtime.block_on(sink::http::serve(args.listen))?,
            }
            Ok(true)
        }
        Command::Run(args) => {
            for path in args.json.iter().chain(&args.html) {
                check_writable(path)?;
            }
            let report = run::run(&args, &runtime()?)?;
            print!("{report}");
            if let Some(path) = &args.json {
                write(path, &serde_json::to_vec_pretty(&report.to_json())?)?;
            }
            if let Some(path) = &args.html {
                write(path, report.to_html().as_bytes())?;
            }
            Ok(report.is_good())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// A report that cannot be written is said before the run, not after it. What the file holds stays until then.
fn check_writable(path: &Path) -> Result<()> {
    let is_new = !path.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))?;
    if is_new {
        std::fs::remove_file(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn show_scenarios(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        for built_in in BUILT_IN {
            let scenario = Scenario::parse(built_in.name, built_in.text)?;
            println!("{:16} {}", built_in.name, scenario.about);
        }
        return Ok(());
    };
    let found = BUILT_IN.iter().find(|built_in| built_in.name == name);
    let status = ScenarioStatus::NameMustBeKnown;
    let found = found.ok_or_else(|| ScenarioError { scenario: name.to_string(), line: None, status })?;
    print!("{}", found.text);
    Ok(())
}
