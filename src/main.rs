//! The binary `tallymark`: the commands, one match, one call each.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use server::commands::{
    archive, bill, catalog, event, inspect, lineage, quote, replay, serve, token, usage, verify, what_if,
};
use server::config::ServeArgs;

/// Usage metering and rating: every event counts once, every cent explains itself.
#[derive(Parser)]
#[command(name = "tallymark", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server.
    Serve(ServeArgs),
    /// Tell the whole story on a real trace: stream, count, rate, charge, post, prove.
    Demo(demo::DemoArgs),
    /// Derive everything again from the logs and compare it with the seals.
    Replay(replay::ReplayArgs),
    /// Derive everything again from the logs and compare it with all that is stored.
    Verify(verify::VerifyArgs),
    /// Show which usage lies in the archive, and check it.
    Archive(archive::ArchiveArgs),
    /// Show what lies in a data directory.
    Inspect(inspect::InspectArgs),
    /// Check, plan or apply a catalog file.
    Catalog(catalog::CatalogArgs),
    /// Say what usage would cost, with how it comes about, without a server.
    Quote(quote::QuoteArgs),
    /// Show what a changed catalog would do to real usage, per account and as a distribution.
    WhatIf(what_if::WhatIfArgs),
    /// Correct single events: void, amend, release or discard one, and list what was set aside.
    Event(event::EventArgs),
    /// Say where an event landed: its arrivals, its owner, the charge lines and journals that count it.
    Where(lineage::WhereArgs),
    /// Go back from a journal to its charge lines, or from a charge line to its events.
    Trace(lineage::TraceArgs),
    /// Show what an account owes, and how that comes about.
    Bill(bill::BillArgs),
    /// Count what was used, in windows and groups, from the logs of a directory.
    Usage(usage::UsageArgs),
    /// Make, list and revoke tokens.
    Token(token::TokenArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Archive(args) => archive::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Catalog(args) => catalog::run(args),
        Command::Quote(args) => quote::run(&args),
        Command::WhatIf(args) => what_if::run(&args),
        Command::Event(args) => event::run(&args),
        Command::Where(args) => lineage::run_where(&args),
        Command::Trace(args) => lineage::run_trace(&args),
        Command::Bill(args) => bill::run(&args),
        Command::Usage(args) => usage::run(&args),
        Command::Token(args) => token::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tallymark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
