//! The load generator: a client like any other that knows to the last digit what it sent.
//!
//! Owns: synthetic load and trace replay, pacing, latencies, the raw sink for comparison, the oracle.
//! Leaves to others: sending (`tallymark-client`), counting (a running server).
//!
//! Invariants: the load is a function of its settings and seed; latencies are from the intended send time; what is
//! verified is what was acknowledged.
#![allow(clippy::print_stdout)] // its output is its purpose

mod api;
mod generator;
mod load;
mod oracle;
mod report;
mod sink;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::report::Report;

/// Throws load at a server and says what happened.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send load to a running `tallymark serve`.
    Run(Box<LoadArgs>),
    /// Be a raw QUIC sink: reads the same frames, answers with the same acks, does nothing else.
    Sink {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Where the certificate goes.
        #[arg(long)]
        cert: PathBuf,
    },
}

/// How events get their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ids {
    /// 16 characters each.
    Given,
    /// Counted by the client.
    Sequenced,
}

/// Settings of a run.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// QUIC address of the server.
    #[arg(long, default_value = "127.0.0.1:7411")]
    pub quic: SocketAddr,
    /// HTTP address of the server.
    #[arg(long, default_value = "http://127.0.0.1:7410")]
    pub url: String,
    /// A token with the role admin and all sources.
    #[arg(long, env = "TALLYMARK_TOKEN")]
    pub token: String,
    /// Certificate that is trusted (PEM).
    #[arg(long, default_value = "tallymark-data/dev-cert.pem")]
    pub cert: PathBuf,
    /// Events to send, duplicates included.
    #[arg(long, default_value_t = 1_000_000)]
    pub events: u64,
    /// Accounts, each with one subject.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub accounts: u32,
    /// Zipf exponent of the accounts' shares, in hundredths; 0 is even.
    #[arg(long, default_value_t = 100)]
    pub skew: u32,
    /// Duplicates in 1,000 events.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=900))]
    pub duplicates: u32,
    /// Events in 1,000 that are up to two days late.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub late: u32,
    /// Events in 1,000 that are up to a minute out of order.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub disorder: u32,
    /// How events get their ids.
    #[arg(long, value_enum, default_value = "given")]
    pub ids: Ids,
    /// Events of a batch.
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub batch: u32,
    /// Unacknowledged batches of a connection.
    #[arg(long, default_value_t = 16)]
    pub in_flight: usize,
    /// Connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub connections: u32,
    /// Events per second, open loop; 0 is as fast as acks allow.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Replay a CSV trace (`TIMESTAMP,COLUMN,…`): its pace and its first column's values, over and over.
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// How much faster than the trace.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub speed: u64,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// First send the same bytes to a raw sink, for the ratio.
    #[arg(long)]
    pub sink: bool,
    /// Afterwards cut, pull the charges, and compare them with what was acknowledged, to the last digit.
    #[arg(long)]
    pub verify: bool,
    /// Write the report to a file, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Runs a command; `false` says that verification failed.
///
/// # Errors
/// Whatever keeps the load from being sent.
pub fn run(cli: Cli) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match cli.command {
        Command::Sink { listen, cert } => runtime.block_on(sink::serve(listen, &cert)).map(|()| true),
        Command::Run(args) => {
            let report = runtime.block_on(load::run(&args))?;
            print!("{report}");
            if let Some(path) = &args.json {
                let bytes = serde_json::to_vec_pretty(&report.to_json())?;
                std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(report.is_verified())
        }
    }
}
