//! `tallymark catalog check|plan|apply FILE`
//!
//! Owns: how findings and changes look. Leaves to others: what is found (`billing::catalog::check_file`).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use billing::catalog::{Finding, Place, Report, Severity, check_file};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::remote::Remote;

/// `tallymark catalog`
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Find everything that is wrong with a file, without a server.
    Check {
        /// Catalog file (TOML).
        file: PathBuf,
    },
    /// Show what applying a file would change, without changing anything.
    Plan(Target),
    /// Show the difference, then apply it.
    Apply(Target),
}

#[derive(Debug, Args)]
struct Target {
    /// Catalog file (TOML).
    file: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

/// Runs the command.
///
/// # Errors
/// If the file has mistakes, or the server refuses it.
pub fn run(args: CatalogArgs) -> Result<()> {
    let (target, is_apply) = match args.action {
        Action::Check { file } => return check(&file),
        Action::Plan(target) => (target, false),
        Action::Apply(target) => (target, true),
    };
    let text = read(&target.file)?;
    refuse_mistakes(&target.file, &text)?;
    let plan = post(&target, "plan", &text)?;
    let changes = plan["changes"].as_array().cloned().unwrap_or_default();
    for change in &changes {
        print!("{}", change_of_answer(change));
    }
    if changes.is_empty() {
        println!("no changes");
        return Ok(());
    }
    if is_apply {
        let applied = post(&target, "apply", &text)?;
        println!("applied {} changes", applied["changed"].as_array().map_or(0, Vec::len));
    } else {
        println!("{} changes; `tallymark catalog apply` makes them", changes.len());
    }
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `catalog check`: mistakes and warnings, and how many there are.
fn check(path: &Path) -> Result<()> {
    let text = read(path)?;
    let report = check_file(&text);
    let mut out = report_text(path, &text, &report.findings);
    let (mistakes, warnings) = (report.count(Severity::Mistake), report.count(Severity::Warning));
    let counts = format!("{}, {}", count(mistakes, "mistake"), count(warnings, "warning"));
    let _ = writeln!(out, "{}: {} in {}", path.display(), counts, count(report.resource_count, "resource"));
    // A reader that went away, such as `head`, has seen enough.
    let _ = std::io::stdout().write_all(out.as_bytes());
    if mistakes > 0 {
        bail!("a server would refuse {}", path.display());
    }
    Ok(())
}

/// Says all mistakes that do not depend on what the server has: it may have what the file names.
fn refuse_mistakes(path: &Path, text: &str) -> Result<()> {
    let own = own_mistakes(text);
    if own.is_empty() {
        return Ok(());
    }
    print!("{}", report_text(path, text, &own));
    bail!("{} has {}; nothing was sent to the server", path.display(), count(own.len(), "mistake"));
}

/// Mistakes that a file has whatever catalog it is put to. What it names may be there, and what breaks a rule of what is new may be
/// there from before that rule.
pub(super) fn own_mistakes(text: &str) -> Vec<Finding> {
    let Report { findings, .. } = check_file(text);
    let of_server = ["reference_must_exist", "price_amount_must_hold", "quantity_must_be_priced"];
    let is_own =
        |finding: &Finding| finding.severity == Severity::Mistake && !of_server.contains(&finding.name);
    findings.into_iter().filter(is_own).collect()
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Findings with the lines that they are about, as compilers write them.
pub(super) fn report_text(path: &Path, text: &str, findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Mistake => "mistake",
            Severity::Warning => "warning",
        };
        let subject = finding.subject.as_ref().map_or_else(String::new, |subject| format!("{subject}: "));
        let place = Place::of(text, &finding.span);
        let margin = " ".repeat(place.line.to_string().len());
        let (line, column) = (place.line, place.column);
        let _ = writeln!(out, "{severity} ({}): {subject}{}", finding.name, finding.what);
        let _ = writeln!(out, "{margin}--> {}:{line}:{column}", path.display());
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{line} | {}", place.text.replace('\t', " "));
        let _ = writeln!(out, "{margin} | {}{}", " ".repeat(column - 1), "^".repeat(place.width));
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(out, "{margin} = {remedy}");
        }
        out.push('\n');
    }
    out
}

fn post(target: &Target, action: &str, text: &str) -> Result<Value> {
    let url = target.remote.address(["catalog", action])?;
    let answer = target.remote.ask(url, Some(text.to_string()))?;
    let body: Value = serde_json::from_str(&answer.text).context("the server's answer is not JSON")?;
    if !answer.is_done {
        bail!(
            "{}: {}",
            body["code"].as_str().unwrap_or("refused"),
            body["detail"].as_str().unwrap_or("no detail")
        );
    }
    Ok(body)
}

fn change_of_answer(change: &Value) -> String {
    let text = |field: &str| change[field].as_str().unwrap_or_default();
    let before = Some(&change["before"]).filter(|before| !before.is_null());
    let version = change["version"].as_u64().unwrap_or_default();
    change_text(text("kind"), text("id"), version, before, &change["after"])
}

/// Longer changes of a field, such as of tiers, take a line for each side.
const CHANGE_BYTES_OF_A_LINE: usize = 80;

/// A change as the fields that differ.
pub(super) fn change_text(
    kind: &str,
    id: &str,
    version: u64,
    before: Option<&Value>,
    after: &Value,
) -> String {
    let sign = if before.is_none() { "+" } else { "~" };
    let mut out = format!("{sign} {kind} {id} (version {version})\n");
    let empty = serde_json::Map::new();
    let before = before.and_then(Value::as_object).unwrap_or(&empty);
    let after = after.as_object().unwrap_or(&empty);
    for (field, value) in after.iter().filter(|(field, _)| *field != "id") {
        let _ = match before.get(field) {
            Some(old) if old == value => Ok(()),
            Some(old) => {
                let (old, value) = (old.to_string(), value.to_string());
                let is_long = old.len() + value.len() > CHANGE_BYTES_OF_A_LINE;
                let between = if is_long { "\n      -> " } else { " -> " };
                writeln!(out, "    {field}: {old}{between}{value}")
            }
            None => writeln!(out, "    {field}: {value}"),
        };
    }
    for (field, old) in before.iter().filter(|(field, _)| !after.contains_key(*field)) {
        let _ = writeln!(out, "    {field}: {old} -> none");
    }
    out
}
