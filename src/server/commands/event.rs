//! `tallymark event show|void|amend|release|discard|list-quarantine`
//!
//! Owns: asking a server. Leaves to others: the rules of corrections (`machine::corrections`).

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::remote::Remote;

/// `tallymark event`
#[derive(Debug, Args)]
pub struct EventArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show an event: what it says, where it stands, how it was corrected.
    Show {
        #[command(flatten)]
        event: EventName,
    },
    /// Take an event back: it counts no more, and its id stays taken.
    Void {
        #[command(flatten)]
        event: EventName,
        #[command(flatten)]
        why: Why,
    },
    /// Let other content count in the place of an event's; what is not named stays.
    Amend {
        #[command(flatten)]
        event: EventName,
        #[command(flatten)]
        why: Why,
        /// Another subject.
        #[arg(long)]
        subject: Option<String>,
        /// Another time, such as 2026-02-01T06:00:00Z.
        #[arg(long)]
        time: Option<String>,
        /// A value, such as tokens=12.5; those that are named are all that count. Repeat for more.
        #[arg(long = "value", value_name = "NAME=NUMBER")]
        values: Vec<String>,
        /// A dimension, such as model=large; those that are named are all. Repeat for more.
        #[arg(long = "dimension", value_name = "NAME=TEXT")]
        dimensions: Vec<String>,
    },
    /// Judge an event that was set aside again, but not by its age.
    Release {
        #[command(flatten)]
        event: EventName,
        #[command(flatten)]
        why: Why,
    },
    /// Set an event aside for good.
    Discard {
        #[command(flatten)]
        event: EventName,
        #[command(flatten)]
        why: Why,
    },
    /// List the events that were set aside, one JSON object a line.
    ListQuarantine {
        /// Offset and index of the last event of the page before, such as 4096.3.
        #[arg(long)]
        after: Option<String>,
        /// At most so many.
        #[arg(long)]
        limit: Option<usize>,
        /// Only those with this verdict or reason.
        #[arg(long = "only")]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
struct EventName {
    /// Source of the event.
    source: String,
    /// Its id; one that a client minted is written seq:, epoch as 16 hex digits, / and sequence.
    id: String,
}

#[derive(Debug, Args)]
struct Why {
    /// Why; written to the log with the name of the token.
    #[arg(long)]
    reason: String,
}

/// Runs the command; prints what the server answers. The token needs the role admin.
///
/// # Errors
/// If the server does not answer or refuses.
pub fn run(args: &EventArgs) -> Result<()> {
    let (path, body) = match &args.action {
        Action::Show { event } => (path_of(event, None), None),
        Action::Void { event, why } => (path_of(event, Some("void")), Some(json!({ "reason": why.reason }))),
        Action::Amend { event, why, subject, time, values, dimensions } => {
            let mut body = json!({ "reason": why.reason });
            let texts = [("subject", subject), ("time", time)];
            for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
                body[name] = text.as_str().into();
            }
            for (name, pairs) in [("values", values), ("dimensions", dimensions)] {
                if !pairs.is_empty() {
                    body[name] = object_of(pairs)?;
                }
            }
            (path_of(event, Some("amend")), Some(body))
        }
        Action::Release { event, why } => {
            (path_of(event, Some("release")), Some(json!({ "reason": why.reason })))
        }
        Action::Discard { event, why } => {
            (path_of(event, Some("discard")), Some(json!({ "reason": why.reason })))
        }
        Action::ListQuarantine { .. } => (vec!["quarantine".to_string()], None),
    };
    let mut url = args.remote.address(path)?;
    if let Action::ListQuarantine { after, limit, reason } = &args.action {
        let limit = limit.map(|limit| limit.to_string());
        let pairs = [("after", after), ("limit", &limit), ("reason", reason)];
        for (name, text) in pairs.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            url.query_pairs_mut().append_pair(name, text);
        }
    }
    let answer = args.remote.ask(url, body.map(|body| body.to_string()))?.done()?;
    std::io::stdout().write_all(answer.as_bytes()).context("writing the answer")
}

fn path_of(event: &EventName, verb: Option<&str>) -> Vec<String> {
    // A path cannot have segments of dots alone.
    let is_dots = event.id == "." || event.id == "..";
    let id = if is_dots { format!("id:{}", event.id) } else { event.id.clone() };
    let segments = ["events".to_string(), event.source.clone(), id];
    segments.into_iter().chain(verb.map(str::to_string)).collect()
}

fn object_of(pairs: &[String]) -> Result<Value> {
    let mut object = Map::new();
    for pair in pairs {
        let (name, text) = pair.split_once('=').with_context(|| format!("{pair:?} has no ="))?;
        if object.insert(name.to_string(), text.into()).is_some() {
            bail!("{name:?} is named twice");
        }
    }
    Ok(object.into())
}
