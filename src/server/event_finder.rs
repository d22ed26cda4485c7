//! Finds single events: where they stand, and what they say.
//!
//! Owns: asking shards behind everything that was acknowledged, reading events again from the log.
//! Leaves to others: decisions (`engine::shard`), bytes (`machine`).

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::bounded;
use domain::plan::MeteringPlan;
use domain::{EventPosition, Subject, Timestamp};
use engine::identity::{EventName, IdentityKey};
use engine::prepared::PreparedBatch;
use engine::shard::FoundEvent;
use machine::{History, KnownEvent};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wire::correction::EventContent;

use crate::directory::DataDirectory;
use crate::threads::PeerStopped;
use crate::usage_log::UsageTask;

/// What finding needs to know.
#[derive(Clone)]
pub struct EventFinder {
    /// The data directory.
    pub directory: DataDirectory,
    /// The key of event identities.
    pub key: IdentityKey,
}

/// An event as it stands in the log.
pub struct LoggedEvent {
    /// Its source.
    pub source: String,
    /// Its id, as text.
    pub id: String,
    /// What it says.
    pub content: EventContent,
    /// When it arrived.
    pub received_at: Timestamp,
}

impl LoggedEvent {
    /// An event of a batch.
    pub fn of(batch: &PreparedBatch, index: u16) -> Self {
        let view = batch.view();
        let event = usize::from(index);
        Self {
            source: view.source().to_string(),
            id: view.id(event).to_string(),
            content: EventContent::of(&view, event),
            received_at: batch.received_at,
        }
    }

    /// The event for people and programs.
    pub fn to_json(&self) -> Value {
        let mut event = content_json(&self.content);
        event["id"] = self.id.as_str().into();
        event["source"] = self.source.as_str().into();
        event["received_at"] = json!(self.received_at);
        event
    }
}

/// Content as JSON: instants and decimals are text.
fn content_json(content: &EventContent) -> Value {
    serde_json::to_value(content).expect("content is plain data")
}

impl EventFinder {
    /// Asks its shard for an event, behind all that was acknowledged before the call; waits for the answer.
    ///
    /// # Errors
    /// If the log writer or a shard has stopped.
    pub fn find(&self, usage: &mpsc::Sender<UsageTask>, event: EventName) -> Result<Option<FoundEvent>> {
        let (reply, answer) = bounded(1);
        usage.blocking_send(UsageTask::Find(event, reply)).map_err(|_| PeerStopped("the usage log"))?;
        Ok(answer.recv().map_err(|_| PeerStopped("a shard"))?)
    }

    /// Reads a found event again from the log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read(&self, found: FoundEvent) -> Result<KnownEvent> {
        let mut history = self.directory.history(self.key, 1)?;
        KnownEvent::read(&mut history, found).map_err(cannot_be_read_again)
    }

    /// Asks all shards which subjects a barrier with a plan would have folded again; waits for the answers.
    ///
    /// # Errors
    /// If the log writer or a shard has stopped.
    pub fn folded_again_by(
        &self,
        usage: &mpsc::Sender<UsageTask>,
        plan: &Arc<MeteringPlan>,
        shards: usize,
    ) -> Result<BTreeSet<Subject>> {
        let (reply, answers) = bounded(shards);
        let task = UsageTask::FoldedAgain(plan.clone(), reply);
        usage.blocking_send(task).map_err(|_| PeerStopped("the usage log"))?;
        let mut subjects = BTreeSet::new();
        for _ in 0..shards {
            subjects.extend(answers.recv().map_err(|_| PeerStopped("a shard"))?);
        }
        Ok(subjects)
    }

    /// Reads all usage of subjects before an offset of the log, as folding them again does.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn check_readable(&self, subjects: &BTreeSet<Subject>, until: u64) -> Result<()> {
        if subjects.is_empty() {
            return Ok(());
        }
        let mut history = self.directory.history(self.key, 1)?;
        history.for_each_batch(until, subjects, &mut |_, _| {}).map_err(cannot_be_read_again)
    }

    /// Reads events again from the log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read_all(&self, positions: &[EventPosition]) -> Result<BTreeMap<EventPosition, LoggedEvent>> {
        let mut history = self.directory.history(self.key, 1)?;
        let offsets = positions.iter().map(|position| position.offset()).collect();
        let mut events = BTreeMap::new();
        history
            .read_batches(&offsets, &mut |batch| {
                for position in positions.iter().filter(|position| position.offset() == batch.offset) {
                    events.insert(*position, LoggedEvent::of(batch, position.index()));
                }
            })
            .map_err(cannot_be_read_again)?;
        Ok(events)
    }
}

fn cannot_be_read_again(error: Box<dyn Error + Send + Sync>) -> anyhow::Error {
    anyhow::anyhow!(error).context("earlier usage cannot be read again")
}
