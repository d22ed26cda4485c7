//! `tallymark inspect`: shows what lies in a data directory, without a server.

use std::io::Write;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use domain::Timestamp;
use engine::log::{LogKind, LogReader};
use machine::{PartJoiner, ReplayMode, UsageItem, usage_item};
use serde_json::json;
use wire::control::ControlRecord;
use wire::verdict::Verdict;

use crate::config::DirectoryArgs;
use crate::directory::DataDirectory;
use crate::event_finder::LoggedEvent;
use crate::recovery::{read_all, replay};

/// What to show.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Records of the usage log.
    Log,
    /// Records of the control log.
    Control,
    /// Events that did not count: quarantined, in conflict, rejected.
    Quarantine,
    /// Charge batches.
    Batches,
    /// Journals.
    Journals,
}

/// `tallymark inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// What to show.
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    directory: DirectoryArgs,
    /// Only quarantined events with this verdict or reason.
    #[arg(long)]
    reason: Option<String>,
    /// At most so many lines.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
}

/// Runs the command: one JSON object a line.
///
/// # Errors
/// If the directory is damaged.
pub fn run(args: &InspectArgs) -> Result<()> {
    let directory = args.directory.open();
    let mut printer = Printer { left: args.limit };
    match args.what {
        What::Log => log(&directory, &mut printer),
        What::Control => {
            let options = directory.options(LogKind::Control);
            read_all(&*directory.existing_log(LogKind::Control)?, options, &mut |record| {
                let mut read = serde_json::to_value(ControlRecord::decode(record.payload)?)?;
                if let Some(key) = read.get_mut("identity_key") {
                    *key = "(secret)".into();
                }
                printer.print(&json!({
                    "offset": record.offset, "recorded_at": Timestamp::from_nanoseconds(record.recorded_at), "record": read,
                }));
                Ok(())
            })
        }
        What::Quarantine => quarantine(&directory, args.reason.as_deref(), &mut printer),
        What::Batches => stored(&directory, LogKind::Charges, &mut printer),
        What::Journals => stored(&directory, LogKind::Journals, &mut printer),
    }
}

struct Printer {
    left: usize,
}

impl Printer {
    fn print(&mut self, line: &dyn std::fmt::Display) {
        // A reader that went away, such as `head`, has seen enough.
        if self.left > 0 && writeln!(std::io::stdout(), "{line}").is_err() {
            self.left = 0;
        }
        self.left = self.left.saturating_sub(1);
    }
}

fn log(directory: &DataDirectory, printer: &mut Printer) -> Result<()> {
    let (_, key) = genesis(directory)?;
    let options = directory.options(LogKind::Usage);
    read_all(&*directory.existing_log(LogKind::Usage)?, options, &mut |record| {
        let recorded_at = Timestamp::from_nanoseconds(record.recorded_at);
        match usage_item(record.kind, record.offset, record.received_at, record.payload, key, 1)? {
            UsageItem::Batch(batch) => {
                let view = batch.view();
                printer.print(&json!({
                    "offset": record.offset, "recorded_at": recorded_at, "received_at": batch.received_at,
                    "source": view.source(), "type": view.event_type(), "events": view.len(),
                    "refused": batch.refusals().len(),
                }));
            }
            UsageItem::Barrier(control_offset) => printer.print(&json!({
                "offset": record.offset, "recorded_at": recorded_at, "barrier_at_control_offset": control_offset,
            })),
        }
        Ok(())
    })
}

fn genesis(directory: &DataDirectory) -> Result<(u64, engine::identity::IdentityKey)> {
    let log = directory.existing_log(LogKind::Control)?;
    let mut reader = LogReader::open(&*log, directory.options(LogKind::Control), 0, None)?;
    let record = reader.next()?.context("the control log is empty")?;
    let first = vec![(record.offset, ControlRecord::decode(record.payload)?)];
    let (_, key) = machine::genesis_of(&first)?;
    Ok((record.offset, key))
}

fn quarantine(directory: &DataDirectory, wanted: Option<&str>, printer: &mut Printer) -> Result<()> {
    let replayed = replay(directory, 1, ReplayMode::Load)?;
    let mut aside: std::collections::BTreeMap<(u64, u16), Verdict> = std::collections::BTreeMap::new();
    for shard in &replayed.replayer.shards {
        for event in shard.set_aside() {
            let verdict = Verdict::from_code(event.verdict).context("a verdict has an unknown code")?;
            aside.insert((event.position.offset(), event.position.index()), verdict);
        }
    }
    let options = directory.options(LogKind::Usage);
    read_all(&*directory.existing_log(LogKind::Usage)?, options, &mut |record| {
        let item =
            usage_item(record.kind, record.offset, record.received_at, record.payload, replayed.key, 1)?;
        let UsageItem::Batch(batch) = item else { return Ok(()) };
        let mut verdicts: Vec<(u16, Verdict)> = aside
            .range((record.offset, 0)..=(record.offset, u16::MAX))
            .map(|((_, index), verdict)| (*index, *verdict))
            .collect();
        verdicts
            .extend(batch.refusals().iter().map(|refusal| (refusal.index, Verdict::Rejected(refusal.code))));
        verdicts.sort_by_key(|(index, _)| *index);
        for (index, verdict) in verdicts {
            let is_wanted = wanted.is_none_or(|w| w == verdict.as_str() || Some(w) == verdict.reason());
            if is_wanted {
                printer.print(&event_json(record.offset, &batch, index, verdict));
            }
        }
        Ok(())
    })
}

fn event_json(
    offset: u64,
    batch: &engine::prepared::PreparedBatch,
    index: u16,
    verdict: Verdict,
) -> serde_json::Value {
    let mut event = LoggedEvent::of(batch, index).to_json();
    event["verdict"] = verdict.as_str().into();
    event["reason"] = verdict.reason().into();
    event["offset"] = offset.into();
    event["index"] = index.into();
    event
}

fn stored(directory: &DataDirectory, kind: LogKind, printer: &mut Printer) -> Result<()> {
    // Replaying checks every stored entry against its seal before anything is shown.
    replay(directory, 1, ReplayMode::Load)?;
    let mut joiner = PartJoiner::default();
    read_all(&*directory.existing_log(kind)?, directory.options(kind), &mut |record| {
        if let Some(content) = joiner.push(record.offset, record.payload)? {
            for line in String::from_utf8_lossy(&content.bytes).lines() {
                printer.print(&line);
            }
        }
        Ok(())
    })
}
