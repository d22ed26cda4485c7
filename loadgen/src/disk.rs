//! Whether there is room for what a run will write, before it begins.
//!
//! Owns: the estimate, and where the receiver's log lies. A receiver on another machine, or one whose files cannot be seen, is
//! not checked.
//!
//! Invariants: a run that needs less than [`SMALL_BYTES`] is never refused.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cpu::open_files;
use crate::scenario::{Scenario, Target};

const SMALL_BYTES: u64 = 1 << 30;
/// Kept free beside what is written: segments made ahead, snapshots, other programs.
const RESERVE_BYTES: u64 = 2 << 30;
/// What a closed loop that ends by time may reach at most.
const QUIC_EVENTS_PER_SECOND_MAX: u64 = 10_000_000;
const HTTP_EVENTS_PER_SECOND_MAX: u64 = 2_000_000;

/// Bytes that a run will make the receiver write: each event once in the log and, as an id, once in a snapshot.
pub(crate) fn estimate(scenario: &Scenario, planned: Option<u64>, bytes_per_event: u64) -> u64 {
    let per_second = match scenario.send.target {
        Target::Quic => QUIC_EVENTS_PER_SECOND_MAX,
        _ => HTTP_EVENTS_PER_SECOND_MAX,
    };
    let events = planned.unwrap_or_else(|| scenario.load.seconds.unwrap_or(0) * per_second);
    const SNAPSHOT_BYTES: u64 = 48;
    events.saturating_mul(bytes_per_event + SNAPSHOT_BYTES)
}

/// Refuses a run that the receiver's disk has no room for.
pub(crate) fn check(receivers: &BTreeSet<u32>, needed: u64) -> Result<()> {
    if needed < SMALL_BYTES {
        return Ok(());
    }
    let Some(log) = receivers.iter().find_map(|pid| log_of(*pid)) else { return Ok(()) };
    let folder = log.parent().context("a file lies in a folder")?;
    let volume = rustix::fs::statvfs(folder).with_context(|| format!("{}", folder.display()))?;
    let free = volume.f_bavail * volume.f_frsize;
    if free < needed + RESERVE_BYTES {
        bail!(
            "the run would write about {} of usage log and snapshots, and {} has {} free; free some, send fewer events, \
             or say --ignore-disk",
            gigabytes(needed),
            folder.display(),
            gigabytes(free)
        );
    }
    Ok(())
}

/// A log segment that a process has open.
fn log_of(pid: u32) -> Option<PathBuf> {
    open_files(pid).find(|path| path.extension().is_some_and(|extension| extension == "seg"))
}

fn gigabytes(bytes: u64) -> String {
    format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_room_is_refused_and_a_small_one_never() {
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("0.seg")).unwrap();
        let me = BTreeSet::from([std::process::id()]);
        assert!(check(&me, SMALL_BYTES - 1).is_ok());
        let refused = check(&me, 1 << 60).unwrap_err().to_string();
        assert!(refused.contains("--ignore-disk"), "{refused}");
        drop(log);
        assert!(check(&BTreeSet::new(), 1 << 60).is_ok(), "what cannot be seen is not checked");
    }
}
