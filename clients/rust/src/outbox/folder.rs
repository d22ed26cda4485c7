//! What an outbox needs of a disk.
//!
//! Owns: the seam between the outbox and real files, and the lock of its folder. Leaves to others: faulty disks of tests.
//!
//! Contract: a write may be lost until `sync` returns; a made, renamed or removed name may be lost until `sync_names`
//! returns. After a failed sync the file is not synced again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A folder of files.
pub(crate) trait Folder: Send {
    fn list(&self) -> io::Result<Vec<String>>;
    /// An error if the name is taken.
    fn create(&self, name: &str) -> io::Result<Box<dyn OutboxFile>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn OutboxFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_names(&self) -> io::Result<()>;
}

/// One of its files.
pub(crate) trait OutboxFile: Send {
    fn bytes(&self) -> io::Result<u64>;
    /// Fills the buffer; an error if the file ends before.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn cut(&self, bytes: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// A folder on a real disk, locked for this process.
pub(crate) struct DiskFolder {
    path: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

impl DiskFolder {
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("{} is in use by another client", path.display());
                Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Folder for DiskFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OutboxFile>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OutboxFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl OutboxFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
