//! The data directory: where each log lies.
//!
//! ```text
//! DATA/LOCK  tokens.json  tokens.lock  dev-cert.pem  dev-key.pem
//! DATA/control/  DATA/usage-0/  DATA/charges/  DATA/journals/   one log each
//! DATA/snapshots/   what the shards knew at a barrier; may be deleted
//! DATA/runs/        remembered ids; may be deleted while no server runs
//! DATA/spilled/     single events that memory has no room for; of the running server
//! ARCHIVE/usage-0/  segments of the usage log that left DATA/usage-0/, if there is an archive
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{LogKind, LogOptions, WithArchive};
use machine::{LogPlace, Logs, UsageHistory};

use crate::disk::Directory;

/// The logs of a data directory.
#[derive(Clone)]
pub struct DataDirectory {
    path: PathBuf,
    incarnation: u32,
    segment_bytes: u64,
    archive: Option<PathBuf>,
}

impl DataDirectory {
    /// A directory of the first incarnation.
    pub fn new(path: &Path, segment_bytes: u64) -> Self {
        Self { path: path.to_path_buf(), incarnation: 0, segment_bytes, archive: None }
    }

    /// The same directory, with the folder of its archive.
    pub fn with_archive(self, archive: Option<&Path>) -> Self {
        Self { archive: archive.map(Path::to_path_buf), ..self }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of its archive.
    pub fn archive(&self) -> Option<&Path> {
        self.archive.as_deref()
    }

    /// Where the archive has segments of the usage log, if there is one.
    pub fn archived_usage(&self) -> Option<PathBuf> {
        self.archive.as_ref().map(|archive| archive.join(folder_of(LogKind::Usage)))
    }

    /// The folder of a log, made if it does not exist; that of the usage log together with its archive.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn log(&self, kind: LogKind) -> Result<Arc<dyn Storage>> {
        let folder = self.folder(folder_of(kind))?;
        if kind != LogKind::Usage {
            return Ok(folder);
        }
        Ok(Arc::new(self.with_archived(folder)))
    }

    /// The usage log, which must exist, with its archive.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn existing_usage(&self) -> Result<WithArchive> {
        self.check_folder(LogKind::Usage)?;
        Ok(self.with_archived(self.usage_folder()?))
    }

    /// The folder of the usage log alone.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn usage_folder(&self) -> Result<Arc<Directory>> {
        self.folder(folder_of(LogKind::Usage))
    }

    fn with_archived(&self, folder: Arc<Directory>) -> WithArchive {
        let archive = self.archived_usage();
        let archive = archive.map(|path| Arc::new(Directory::at(&path)) as Arc<dyn Storage>);
        WithArchive::new(folder, archive, self.options(LogKind::Usage))
    }

    /// The folder of a log that must exist.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn existing_log(&self, kind: LogKind) -> Result<Arc<dyn Storage>> {
        self.check_folder(kind)?;
        self.log(kind)
    }

    fn check_folder(&self, kind: LogKind) -> Result<()> {
        if !self.path.join(folder_of(kind)).is_dir() {
            bail!("{} is not a data directory: it has no {}", self.path.display(), folder_of(kind));
        }
        Ok(())
    }

    /// What a log of this directory is.
    pub fn options(&self, kind: LogKind) -> LogOptions {
        LogOptions { kind, partition: 0, incarnation: self.incarnation, segment_bytes: self.segment_bytes }
    }

    /// Opens earlier usage for a refold.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn history(&self, key: IdentityKey, shards: usize) -> Result<UsageHistory> {
        let (log, options) = (self.log(LogKind::Usage)?, self.options(LogKind::Usage));
        Ok(UsageHistory::new(log, options, key, shards))
    }

    /// All logs; made if they do not exist.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn logs(&self) -> Result<Logs> {
        let place = |kind| Ok(LogPlace { storage: self.log(kind)?, options: self.options(kind) });
        self.logs_by(&place, &|name| self.folder(name))
    }

    /// All logs, which must exist. Nothing is made: whoever only reads may not be able to, and needs nothing that is derived.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn existing_logs(&self) -> Result<Logs> {
        let place = |kind| Ok(LogPlace { storage: self.existing_log(kind)?, options: self.options(kind) });
        self.logs_by(&place, &|name| Ok(Arc::new(Directory::at(&self.path.join(name)))))
    }

    fn logs_by(
        &self,
        place: &dyn Fn(LogKind) -> Result<LogPlace>,
        derived: &dyn Fn(&str) -> Result<Arc<Directory>>,
    ) -> Result<Logs> {
        Ok(Logs {
            control: place(LogKind::Control)?,
            usage: place(LogKind::Usage)?,
            charges: place(LogKind::Charges)?,
            journals: place(LogKind::Journals)?,
            snapshots: derived("snapshots")?,
            runs: derived("runs")?,
            spilled: derived("spilled")?,
        })
    }

    /// The folder of snapshots; made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn snapshots(&self) -> Result<Arc<Directory>> {
        self.folder("snapshots")
    }

    fn folder(&self, name: &str) -> Result<Arc<Directory>> {
        let path = self.path.join(name);
        let directory = Directory::open_or_create(&path);
        Ok(Arc::new(directory.with_context(|| format!("cannot open {}", path.display()))?))
    }
}

fn folder_of(kind: LogKind) -> &'static str {
    match kind {
        LogKind::Usage => "usage-0",
        LogKind::Control => "control",
        LogKind::Charges => "charges",
        LogKind::Journals => "journals",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `replay`, `verify` and `what-if` made the folders of what is derived, and failed where they could not.
    #[test]
    fn who_only_reads_makes_no_folder() {
        let data = tempfile::tempdir().unwrap();
        let directory = DataDirectory::new(data.path(), 64 << 20);
        assert!(directory.existing_logs().is_err());
        for kind in [LogKind::Usage, LogKind::Control, LogKind::Charges, LogKind::Journals] {
            directory.log(kind).unwrap();
        }
        directory.existing_logs().unwrap();
        assert!(!data.path().join("snapshots").exists() && !data.path().join("runs").exists());
        directory.logs().unwrap();
        assert!(data.path().join("snapshots").exists() && data.path().join("runs").exists());
    }
}
