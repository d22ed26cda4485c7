//! Snapshots as they are made: a thread that writes what the shards hand over.
//!
//! Owns: when a snapshot is due, the thread, what is said of it. Leaves to others: the file (`engine::snapshot`), the parts
//! (`shards`), which one a start uses (`machine`).
//!
//! Invariants: one snapshot is made at a time; nothing waits for its disk; one that fails is said and given up, and the
//! logs are as complete as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use engine::log::LogOptions;
use engine::snapshot::{SnapshotHead, SnapshotPart, SnapshotWork};

use crate::disk::Directory;
use crate::handoff::Busy;

/// Parts of a snapshot that wait for the disk, of all shards.
pub const SNAPSHOT_PARTS_MAX: usize = 16;

/// A snapshot to be written.
pub struct SnapshotJob {
    /// What it is of.
    pub head: SnapshotHead,
    /// Its parts.
    pub parts: Receiver<SnapshotPart>,
}

/// What is known of snapshots.
#[derive(Default)]
pub struct SnapshotState {
    /// Whether one is being made.
    pub making: Busy,
    /// Usage offset of the barrier of the last whole one.
    pub usage_offset: AtomicU64,
}

/// Where the control thread asks for snapshots.
pub struct Snapshots {
    /// Queue of the thread.
    pub jobs: Sender<SnapshotJob>,
    /// What is known of them.
    pub state: Arc<SnapshotState>,
    /// Bytes of the usage log after which the next one is due; 0 for never.
    pub every_bytes: u64,
    /// What the usage log is.
    pub log: LogOptions,
}

impl Snapshots {
    /// Whether a snapshot is due when the usage log ends there; at a stop, anything behind the last one is enough.
    pub fn is_due(&self, usage_end: u64, is_stop: bool) -> bool {
        let behind = usage_end.saturating_sub(self.state.usage_offset.load(Ordering::Relaxed));
        let bytes = if is_stop { STOP_BYTES } else { self.every_bytes };
        self.every_bytes > 0 && behind >= bytes && !self.state.making.is_now()
    }
}

/// Bytes of the usage log for which a stop makes a snapshot: more than its barriers alone.
const STOP_BYTES: u64 = 64 << 10;

/// Writes snapshots until nobody can ask for one any more; calls `on_end` behind each.
///
/// # Errors
/// None: a snapshot that fails is given up.
pub fn run(
    storage: &Directory,
    jobs: &Receiver<SnapshotJob>,
    state: &SnapshotState,
    on_end: &dyn Fn(),
) -> Result<()> {
    for job in jobs {
        let usage_offset = job.head.usage_offset;
        let started = Instant::now();
        match save(storage, job) {
            Ok(bytes) => {
                state.usage_offset.store(usage_offset, Ordering::Relaxed);
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!("snapshot at usage offset {usage_offset}: {bytes} bytes in {seconds:.1} s");
            }
            Err(error) => {
                tracing::warn!("the snapshot at usage offset {usage_offset} is given up: {error:#}")
            }
        }
        state.making.end();
        on_end();
    }
    Ok(())
}

fn save(storage: &Directory, job: SnapshotJob) -> Result<u64> {
    let mut work = SnapshotWork::begin(storage, &job.head).context("its file cannot be made")?;
    match save_parts(&mut work, &job) {
        Ok(()) => work.finish(storage).context("it cannot be made durable"),
        Err(error) => {
            work.give_up(storage).context("its unfinished file cannot be taken away")?;
            Err(error)
        }
    }
}

fn save_parts(work: &mut SnapshotWork, job: &SnapshotJob) -> Result<()> {
    while work.take(job.parts.recv().context("a shard has stopped")?).context("it cannot be written")? {}
    Ok(())
}
