//! The archive as a server serves it: a thread that moves old segments of the usage log there, and what is said of them.
//!
//! Owns: when to look, trying again, the state of the archive. Leaves to others: which segment goes (`machine`), how
//! (`engine::log`), reading it (`directory`).
//!
//! Invariants: nothing waits for this thread; a failure is said, counted and tried again, and never ends the process. The folder
//! of the archive is not made: where it is not there, its disk is not mounted. Whoever asks what lies there waits for
//! [`ANSWER_MAX`] at most, and is told that the archive does not answer.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use domain::Timestamp;
use domain::time::DAY;
use engine::io::Storage;
use engine::log::{ArchiveFault, ArchivedSegment, LogKind, archived_segments, missing_segments};
use machine::{move_to_archive, segment_to_archive};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::directory::DataDirectory;
use crate::disk::Directory;
use crate::patience::Patient;

/// Between two looks at the log.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait behind a failure.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Time in which the archive says what lies there. A disk of another machine that is gone may take for ever.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Missing segments that an answer names.
const MISSING_NAMED_MAX: usize = 100;

/// What is known of the archive.
pub struct ArchiveState {
    /// Segments that lie there.
    pub segments: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Failures since start.
    pub failures: AtomicU64,
    last_failure: Mutex<Option<(Timestamp, String)>>,
    /// What lies there.
    listing: Patient<io::Result<Vec<String>>>,
}

impl ArchiveState {
    /// Reads what is archived, and says loudly what cannot be reached.
    ///
    /// # Errors
    /// A stub that cannot be read.
    pub fn open(directory: &DataDirectory) -> Result<Arc<Self>> {
        let asked = directory.clone();
        let state = Self::with_listing(ANSWER_MAX, move || list_archive(&asked))?;
        let archived = Archived::of(directory, &|| state.list())?;
        for segment in &archived.segments {
            state.add(segment);
        }
        match &archived.missing {
            Ok(missing) if missing.is_empty() => {}
            _ => tracing::warn!("{archived}; what needs them is refused until they are there"),
        }
        Ok(Arc::new(state))
    }

    fn with_listing(
        patience: Duration,
        list: impl Fn() -> io::Result<Vec<String>> + Send + 'static,
    ) -> Result<Self> {
        let listing = Patient::start("archive-listing", patience, list)?;
        let (segments, bytes, failures) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { segments, bytes, failures, last_failure: Mutex::new(None), listing })
    }

    /// Names of the files that lie there.
    fn list(&self) -> io::Result<Vec<String>> {
        self.listing
            .ask()
            .unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "the archive does not answer")))
    }

    /// Whether it answers, if only with an error.
    pub fn answers(&self) -> bool {
        self.listing.ask().is_some()
    }

    /// Refuses what may have to read usage again, as long as some of it is out of reach: a barrier behind a change of the
    /// catalog or a correction folds subjects again, and has to come to its end.
    ///
    /// # Errors
    /// What is out of reach, in words; or a folder of the data directory that cannot be read.
    pub fn check_reach(&self, directory: &DataDirectory) -> Result<Result<(), String>> {
        let log = directory.usage_folder()?;
        let said = match missing_segments(&*log, &|| self.list()) {
            Ok(missing) if missing.is_empty() => return Ok(Ok(())),
            _ => Archived::of(directory, &|| self.list())?.to_string(),
        };
        Ok(Err(format!("{said}; this may need them")))
    }

    fn add(&self, segment: &ArchivedSegment) {
        self.segments.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(segment.bytes(), Ordering::Relaxed);
    }

    fn fail(&self, now: Timestamp, failure: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock().expect("nothing panics while it holds a text") = Some((now, failure));
    }

    /// What a server says of its archive.
    ///
    /// # Errors
    /// A stub that cannot be read.
    pub fn to_json(&self, directory: &DataDirectory) -> Result<Value> {
        let mut said = Archived::of(directory, &|| self.list())?.to_json();
        let failure = self.last_failure.lock().expect("nothing panics while it holds a text");
        said["failures"] = self.failures.load(Ordering::Relaxed).into();
        said["last_failure"] =
            failure.as_ref().map_or(Value::Null, |(at, what)| json!({ "at": at, "what": what }));
        Ok(said)
    }
}

/// The thread.
pub struct Archiving {
    /// The data directory, with an archive.
    pub directory: DataDirectory,
    /// Age of a segment that goes.
    pub age: i64,
    /// The clock.
    pub clock: Arc<Clock>,
    /// What is known of the archive.
    pub state: Arc<ArchiveState>,
    /// Closed when the server stops.
    pub stop: Receiver<()>,
}

impl Archiving {
    /// Moves segments until the server stops.
    ///
    /// # Errors
    /// None: what fails is tried again.
    pub fn run(self) -> Result<()> {
        let mut wait = LOOK;
        while self.stop.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            wait = match self.move_all() {
                Ok(()) => LOOK,
                Err(error) => {
                    let again = (wait * 2).min(WAIT_MAX);
                    let failure = format!("{error:#}");
                    tracing::warn!(
                        "usage cannot go to the archive: {failure}; tried again in {} s",
                        again.as_secs()
                    );
                    self.state.fail(self.clock.now(), failure);
                    again
                }
            };
        }
        Ok(())
    }

    fn is_wanted(&self) -> bool {
        self.stop.try_recv() != Err(TryRecvError::Disconnected)
    }

    fn move_all(&self) -> Result<()> {
        let (log, options) = (self.directory.usage_folder()?, self.directory.options(LogKind::Usage));
        let snapshots = self.directory.snapshots()?;
        while self.is_wanted() {
            let until = self.clock.now().plus(-self.age).nanoseconds();
            let Some(segment) = segment_to_archive(&*log, &options, &*snapshots, until)? else {
                return Ok(());
            };
            let archive = self.folder_of_archive()?;
            let moved = move_to_archive(&*log, &archive, &options, segment, &|| self.is_wanted())?;
            let Some(segment) = moved else { return Ok(()) };
            self.state.add(&segment);
            tracing::info!("segment {} of usage went to the archive", segment.file());
        }
        Ok(())
    }

    fn folder_of_archive(&self) -> Result<Directory> {
        let path = self.directory.archive().context("there is no archive")?;
        if !path.is_dir() {
            bail!(
                "the folder {} is not there: it is not made, since its disk may not be mounted",
                path.display()
            );
        }
        let usage = self.directory.archived_usage().context("there is no archive")?;
        Directory::open_or_create(&usage).with_context(|| format!("cannot open {}", usage.display()))
    }
}

/// What of the usage log lies in the archive, and what of that is out of reach.
pub struct Archived {
    /// Where the archive is, if anybody said.
    pub archive: Option<String>,
    /// Segments that have a stub, in log order.
    pub segments: Vec<ArchivedSegment>,
    /// Those that the archive does not have, or why it cannot be said.
    pub missing: Result<Vec<String>, ArchiveFault>,
}

impl Archived {
    /// Looks at the folders; `list` says what the archive has.
    ///
    /// # Errors
    /// A stub that cannot be read.
    pub fn of(directory: &DataDirectory, list: &dyn Fn() -> io::Result<Vec<String>>) -> Result<Self> {
        let log = directory.usage_folder()?;
        let segments = archived_segments(&*log, &directory.options(LogKind::Usage))?;
        let missing = match directory.archived_usage() {
            _ if segments.is_empty() => Ok(Vec::new()),
            None => Err(ArchiveFault::MustBeGiven),
            Some(_) => {
                missing_segments(&*log, list).map_err(|error| ArchiveFault::MustBeReachable(Arc::new(error)))
            }
        };
        let archive = directory.archive().map(|path: &Path| path.display().to_string());
        Ok(Self { archive, segments, missing })
    }

    /// Bytes of the archived segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(ArchivedSegment::bytes).sum()
    }

    /// When the last of what is archived was recorded.
    pub fn recorded_until(&self) -> Option<Timestamp> {
        self.segments.last().map(|last| Timestamp::from_nanoseconds(last.recorded_at.1))
    }

    fn to_json(&self) -> Value {
        let (missing, fault) = match &self.missing {
            Ok(missing) => (missing.as_slice(), None),
            Err(fault) => (&[][..], Some(with_cause(fault))),
        };
        json!({
            "archive": self.archive, "segments": self.segments.len(), "bytes": self.bytes(),
            "before": self.segments.last().map_or(0, |last| last.end_offset), "recorded_until": self.recorded_until(),
            "missing": missing.len(), "missing_first": &missing[..missing.len().min(MISSING_NAMED_MAX)],
            "out_of_reach": fault,
        })
    }
}

fn with_cause(fault: &ArchiveFault) -> String {
    format!("{:#}", anyhow::Error::from(fault.clone()))
}

impl fmt::Display for Archived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = self.segments.len();
        match &self.missing {
            Ok(missing) => match missing.first() {
                None => write!(f, "{segments} segments of usage lie in the archive"),
                Some(first) => write!(
                    f,
                    "of {segments} segments of usage in the archive, {} are not there, {first} first",
                    missing.len()
                ),
            },
            Err(fault) => {
                write!(f, "{segments} segments of usage lie in the archive: {}", with_cause(fault))
            }
        }
    }
}

/// Names of the files that lie in the archive, however long it takes.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn list_archive(directory: &DataDirectory) -> io::Result<Vec<String>> {
    let Some(path) = directory.archived_usage() else { return Err(io::ErrorKind::NotFound.into()) };
    Directory::at(&path).list()
}

/// The days of a setting as an age.
pub fn age_of_days(days: u32) -> i64 {
    i64::from(days) * DAY
}

/// Whether an error is of a segment that lies in the archive and cannot be read there.
pub fn is_of_archive(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<ArchiveFault>())
}

#[cfg(test)]
mod tests {
    use engine::log::{LogError, LogWriter};

    use super::*;

    /// A data directory whose first segment of usage lies in the archive.
    fn archived_directory(folder: &Path) -> DataDirectory {
        let archive = folder.join("archive");
        let directory = DataDirectory::new(&folder.join("data"), 24 << 10).with_archive(Some(&archive));
        let (log, options) = (directory.usage_folder().unwrap(), directory.options(LogKind::Usage));
        let (mut writer, _) = LogWriter::recover::<LogError>(log.clone(), options, &mut |_| Ok(())).unwrap();
        let ends = [1, 2].map(|stamp| {
            writer.stage(1, 0, &[&[1; 9_000]]).unwrap();
            writer.commit(stamp).unwrap().end_offset
        });
        let there = Directory::open_or_create(&directory.archived_usage().unwrap()).unwrap();
        move_to_archive(&*log, &there, &options, 0..ends[0], &|| true).unwrap().unwrap();
        directory
    }

    /// A mount that does not answer held up the control thread, and with it every change, and the answer about the archive.
    #[test]
    fn an_archive_that_does_not_answer_is_said_and_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let directory = archived_directory(folder.path());
        let (answer, wakes) = crossbeam_channel::unbounded::<()>();
        let asked = directory.clone();
        let state = ArchiveState::with_listing(Duration::from_millis(50), move || {
            let _ = wakes.recv();
            list_archive(&asked)
        })
        .unwrap();
        let refused = state.check_reach(&directory).unwrap().unwrap_err();
        assert!(refused.contains("the archive does not answer; this may need them"), "{refused}");
        let said = state.to_json(&directory).unwrap();
        assert_eq!((&said["segments"], &said["missing"]), (&1.into(), &0.into()), "{said}");
        assert!(said["out_of_reach"].as_str().unwrap().ends_with("the archive does not answer"), "{said}");
        assert!(!state.answers());
        // It comes back: the question that nobody waits for any more is answered, and then all others are.
        drop(answer);
        while state.check_reach(&directory).unwrap().is_err() {}
        while !state.to_json(&directory).unwrap()["out_of_reach"].is_null() {}
    }

    #[test]
    fn what_the_archive_has_not_is_named_and_what_asks_for_none_of_it_does_not_ask() {
        let folder = tempfile::tempdir().unwrap();
        let directory = archived_directory(folder.path());
        let state = ArchiveState::open(&directory).unwrap();
        assert_eq!(state.segments.load(Ordering::Relaxed), 1);
        assert_eq!(state.check_reach(&directory).unwrap(), Ok(()));
        std::fs::remove_dir_all(directory.archived_usage().unwrap()).unwrap();
        assert!(state.check_reach(&directory).unwrap().is_err());
        let empty = DataDirectory::new(&folder.path().join("other"), 24 << 10);
        let state = ArchiveState::with_listing(Duration::MAX, || panic!("nobody asks")).unwrap();
        assert_eq!(state.check_reach(&empty).unwrap(), Ok(()));
    }
}
