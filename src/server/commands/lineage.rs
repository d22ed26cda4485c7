//! `tallymark where EVENT_ID` and `tallymark trace charge|journal …`
//!
//! Owns: asking a server. Leaves to others: the answers and their text (`machine::lineage`).

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::remote::Remote;

/// Who is asked, and how the answer is given.
#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    remote: Remote,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// The last line or event of the page before, as the answer names it.
    #[arg(long, global = true)]
    after: Option<String>,
    /// At most so many lines or events.
    #[arg(long, global = true)]
    limit: Option<usize>,
}

/// `tallymark where`
#[derive(Debug, Args)]
pub struct WhereArgs {
    /// Id of the event; one that a client minted is written seq:, epoch as 16 hex digits, / and sequence.
    event_id: String,
    /// Its source; may be left out if no other source has an event with the id.
    #[arg(long)]
    source: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

/// `tallymark trace`
#[derive(Debug, Args)]
pub struct TraceArgs {
    #[command(subcommand)]
    what: Traced,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Subcommand)]
enum Traced {
    /// From a charge line to the events that it counts.
    Charge {
        /// Number of the batch.
        batch: u64,
        /// Number of the line in it.
        line: u32,
    },
    /// From a journal to the charge lines that it sums up.
    Journal {
        /// Such as acme-inc-2026-01-1-v1.
        external_id: String,
        /// Only lines that went to this account of the books, such as Revenue:Usage.
        #[arg(long)]
        ledger_account: Option<String>,
    },
}

/// Says where an event landed.
///
/// # Errors
/// If the server does not answer, does not know the event, or refuses.
pub fn run_where(args: &WhereArgs) -> Result<()> {
    let id = ("id", Some(args.event_id.as_str()));
    ask(&args.asked, &["where"], &[id, ("source", args.source.as_deref())])
}

/// Goes back from a journal or a charge line.
///
/// # Errors
/// If the server does not answer, does not know what is asked for, or refuses.
pub fn run_trace(args: &TraceArgs) -> Result<()> {
    match &args.what {
        Traced::Charge { batch, line } => {
            let (batch, line) = (batch.to_string(), line.to_string());
            ask(&args.asked, &["charge-batches", &batch, "lines", &line, "events"], &[])
        }
        Traced::Journal { external_id, ledger_account } => {
            let pairs = [("ledger_account", ledger_account.as_deref())];
            ask(&args.asked, &["journals", external_id, "charges"], &pairs)
        }
    }
}

fn ask(asked: &Asked, path: &[&str], pairs: &[(&str, Option<&str>)]) -> Result<()> {
    let mut url = asked.remote.address(path)?;
    let limit = asked.limit.map(|limit| limit.to_string());
    let format = if asked.json { "json" } else { "text" };
    let own = [("after", asked.after.as_deref()), ("limit", limit.as_deref()), ("format", Some(format))];
    for (name, text) in pairs.iter().chain(&own).filter_map(|(name, text)| Some((name, (*text)?))) {
        url.query_pairs_mut().append_pair(name, text);
    }
    let answer = asked.remote.ask(url, None)?.done()?;
    std::io::stdout().write_all(answer.as_bytes()).context("writing the answer")
}
