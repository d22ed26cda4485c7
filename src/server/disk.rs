//! Real disks: directories of files for logs, the lock of a data directory, files replaced atomically.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use engine::io::{Storage, StorageFile};
use rustix::fs::{FallocateFlags, fallocate};

/// A directory of files.
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory; made, with durable names for all that was made for it, if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        let made: Vec<&Path> = path.ancestors().take_while(|ancestor| !is_present(ancestor)).collect();
        if !made.is_empty() {
            std::fs::create_dir_all(path)?;
        }
        for directory in made {
            sync_directory(parent_of(directory))?;
        }
        Ok(Self { path: path.to_path_buf() })
    }
}

/// Whether a directory exists; the empty path is the present one.
fn is_present(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

struct RealFile(File);

impl Storage for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(is_writable).open(self.path.join(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.path)?;
        // The process that made the directory may have died before it synced the directory's own name.
        sync_directory(parent_of(&self.path))
    }
}

impl StorageFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        if self.size()? >= bytes {
            return Ok(());
        }
        match fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // A file system without fallocate still gives zeros; its syncs cost a little more.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(bytes),
            Err(error) => Err(error.into()),
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file so that either the old or the new content is there, and the new one is durable.
///
/// # Errors
/// If it cannot be written.
pub fn write_atomically(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
    // Another process of this number may have died over it, and a file that exists keeps its mode.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Secrets live in such files.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

/// Keeps other processes off a data directory for as long as it lives.
pub struct DataDirectoryLock {
    _file: File,
}

/// The data directory is in use.
#[derive(Debug, thiserror::Error)]
#[error("data directory {} is in use by another process", path.display())]
pub struct DirectoryInUse {
    path: PathBuf,
}

impl DataDirectoryLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`DirectoryInUse`], or the disk's error.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DirectoryInUse { path: path.to_path_buf() }.into()),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_locked_once_and_files_are_replaced_whole() {
        let data = tempfile::tempdir().unwrap();
        let lock = DataDirectoryLock::take(data.path()).unwrap();
        let error = DataDirectoryLock::take(data.path()).err().unwrap();
        assert!(error.downcast_ref::<DirectoryInUse>().is_some());
        drop(lock);
        DataDirectoryLock::take(data.path()).unwrap();
        write_atomically(data.path(), "f", b"one").unwrap();
        write_atomically(data.path(), "f", b"two").unwrap();
        assert_eq!(std::fs::read(data.path().join("f")).unwrap(), b"two");
        let readable = data.path().join(format!(".f.{}.new", std::process::id()));
        std::fs::write(readable, "a process that died left this").unwrap();
        write_atomically(data.path(), "f", b"three").unwrap();
        let mode = std::fs::metadata(data.path().join("f")).unwrap().permissions().mode();
        assert_eq!((std::fs::read(data.path().join("f")).unwrap(), mode & 0o777), (b"three".to_vec(), 0o600));
    }

    #[test]
    fn a_real_directory_keeps_the_contract_of_storage() {
        let data = tempfile::tempdir().unwrap();
        let directory = Directory::open_or_create(&data.path().join("deep/log")).unwrap();
        let file = directory.create("a").unwrap();
        assert!(directory.create("a").is_err(), "a file is never made over another");
        file.preallocate(8_192).unwrap();
        file.write_at(4_000, b"hello").unwrap();
        file.sync_data().unwrap();
        let mut buffer = [1; 6];
        directory.open("a", false).unwrap().read_at(4_000, &mut buffer).unwrap();
        assert_eq!(&buffer, b"hello\0");
        file.truncate(10).unwrap();
        assert_eq!((file.size().unwrap(), directory.list().unwrap()), (10, vec!["a".to_string()]));
        assert!(file.read_at(8, &mut buffer).is_err());
    }
}
