//! `tallymark catalog plan|apply FILE`

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use billing::catalog::CatalogFile;
use clap::{Args, Subcommand};
use serde_json::Value;

/// `tallymark catalog`
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what applying a file would change, without changing anything.
    Plan(Target),
    /// Show the difference, then apply it.
    Apply(Target),
}

#[derive(Debug, Args)]
struct Target {
    /// Catalog file (TOML).
    file: PathBuf,
    /// The server.
    #[arg(long, env = "TALLYMARK_URL", default_value = "http://127.0.0.1:7410")]
    url: String,
    /// A token with the role admin.
    #[arg(long, env = "TALLYMARK_TOKEN")]
    token: String,
}

/// Runs the command.
///
/// # Errors
/// If the file is not a catalog, or the server refuses it.
pub fn run(args: CatalogArgs) -> Result<()> {
    let (target, is_apply) = match args.action {
        Action::Plan(target) => (target, false),
        Action::Apply(target) => (target, true),
    };
    let text = std::fs::read_to_string(&target.file)
        .with_context(|| format!("cannot read {}", target.file.display()))?;
    CatalogFile::parse(&text).with_context(|| format!("{}", target.file.display()))?;
    super::serve::runtime()?.block_on(async {
        let plan = post(&target, "plan", &text).await?;
        let changes = plan["changes"].as_array().cloned().unwrap_or_default();
        for change in &changes {
            print_change(change);
        }
        if changes.is_empty() {
            println!("no changes");
            return Ok(());
        }
        if is_apply {
            let applied = post(&target, "apply", &text).await?;
            println!("applied {} changes", applied["changed"].as_array().map_or(0, Vec::len));
        } else {
            println!("{} changes; `tallymark catalog apply` makes them", changes.len());
        }
        Ok(())
    })
}

async fn post(target: &Target, action: &str, text: &str) -> Result<Value> {
    let url = format!("{}/v1/catalog/{action}", target.url);
    let request = reqwest::Client::new().post(&url).bearer_auth(&target.token).body(text.to_string());
    let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
    let is_ok = response.status().is_success();
    let body: Value = response.json().await.context("the server's answer is not JSON")?;
    if !is_ok {
        bail!(
            "{}: {}",
            body["code"].as_str().unwrap_or("refused"),
            body["detail"].as_str().unwrap_or("no detail")
        );
    }
    Ok(body)
}

/// Prints a change as the fields that differ.
fn print_change(change: &Value) {
    let text = |field: &str| change[field].as_str().unwrap_or_default().to_string();
    let is_new = change["before"].is_null();
    println!(
        "{} {} {} (version {})",
        if is_new { "+" } else { "~" },
        text("kind"),
        text("id"),
        change["version"]
    );
    let empty = serde_json::Map::new();
    let before = change["before"].as_object().unwrap_or(&empty);
    let after = change["after"].as_object().unwrap_or(&empty);
    for (field, value) in after.iter().filter(|(field, _)| *field != "id") {
        match before.get(field) {
            Some(old) if old == value => {}
            Some(old) => println!("    {field}: {old} -> {value}"),
            None => println!("    {field}: {value}"),
        }
    }
    for (field, old) in before.iter().filter(|(field, _)| !after.contains_key(*field)) {
        println!("    {field}: {old} -> none");
    }
}
