//! `tallymark bill ACCOUNT`
//!
//! Owns: asking a server. Leaves to others: the bill and its text (`machine::ExplainedWindow`).

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::Args;
use domain::{AccountId, Period};

use super::remote::Remote;

/// `tallymark bill`
#[derive(Debug, Args)]
pub struct BillArgs {
    /// The account.
    account: String,
    /// Windows that start in a month in the account's time zone, such as 2026-02; all windows, if left out.
    #[arg(long)]
    period: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Runs the command; the token needs the role billing or admin.
///
/// # Errors
/// If the server does not answer, does not know the account, or refuses.
pub fn run(args: &BillArgs) -> Result<()> {
    let account = AccountId::new(&args.account).with_context(|| format!("account {:?}", args.account))?;
    let mut url = args.remote.address(["accounts", account.as_str(), "bill"])?;
    url.query_pairs_mut().append_pair("format", if args.json { "json" } else { "text" });
    if let Some(text) = &args.period {
        let period = Period::parse(text).with_context(|| format!("--period {text:?}"))?;
        url.query_pairs_mut().append_pair("period", &period.to_string());
    }
    let bill = args.remote.ask(url, None)?.done()?;
    std::io::stdout().write_all(bill.as_bytes()).context("writing the bill")
}
