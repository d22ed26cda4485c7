//! `tallymark bill ACCOUNT`
//!
//! Owns: asking a server. Leaves to others: the bill and its text (`machine::ExplainedWindow`).

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use clap::Args;
use domain::{AccountId, Period};

/// `tallymark bill`
#[derive(Debug, Args)]
pub struct BillArgs {
    /// The account.
    account: String,
    /// A month in the account's time zone, such as 2026-02; all months, if left out.
    #[arg(long)]
    period: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The server.
    #[arg(long, env = "TALLYMARK_URL", default_value = "http://127.0.0.1:7410")]
    url: String,
    /// A token with the role billing or admin.
    #[arg(long, env = "TALLYMARK_TOKEN")]
    token: String,
}

/// Runs the command.
///
/// # Errors
/// If the server does not answer, does not know the account, or refuses.
pub fn run(args: &BillArgs) -> Result<()> {
    let account = AccountId::new(&args.account).with_context(|| format!("account {:?}", args.account))?;
    let format = if args.json { "json" } else { "text" };
    let mut url = format!("{}/v1/accounts/{account}/bill?format={format}", args.url.trim_end_matches('/'));
    if let Some(text) = &args.period {
        let period = Period::parse(text).with_context(|| format!("--period {text:?}"))?;
        url.push_str(&format!("&period={period}"));
    }
    super::serve::runtime()?.block_on(async {
        let request = reqwest::Client::new().get(&url).bearer_auth(&args.token);
        let response = request.send().await.with_context(|| format!("asking {}", args.url))?;
        let status = response.status();
        let text = response.text().await.with_context(|| format!("reading the answer of {}", args.url))?;
        if !status.is_success() {
            let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            bail!("{}", problem["detail"].as_str().unwrap_or(&text));
        }
        std::io::stdout().write_all(text.as_bytes()).context("writing the bill")
    })
}
