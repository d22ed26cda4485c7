//! Real disks: directories of files for logs, the lock of a data directory, files replaced atomically.
//!
//! Writes that start, end and lie in memory at multiples of a sector go past the page cache (`O_DIRECT`) where the file
//! system takes that; all others, and those that it refuses, go through it. Both are durable by the same sync, and a
//! reader sees both. Reads go through it, but those of a file that was opened for reading in bulk.

use std::cell::RefCell;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use engine::io::{Storage, StorageFile};
use rustix::fs::{Advice, FallocateFlags, OFlags, RenameFlags, fadvise, fallocate, renameat_with};

/// What a write past the page cache must be a multiple of, on every disk that we know.
const SECTOR_BYTES: u64 = 4_096;

/// A directory of files.
pub struct Directory {
    path: PathBuf,
    is_direct: bool,
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
        Ok(Self::at(path))
    }

    /// The directory, whether it exists or not.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf(), is_direct: true }
    }

    /// The same directory, with all writes through the page cache.
    pub fn through_page_cache(self) -> Self {
        Self { is_direct: false, ..self }
    }

    /// The file once more, past the page cache; `None` if the file system has no such thing.
    fn direct(&self, name: &str, is_writable: bool) -> Option<File> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        let open = OpenOptions::new().read(true).write(is_writable).custom_flags(flags).clone();
        self.is_direct.then(|| open.open(self.path.join(name)).ok()).flatten()
    }
}

/// Tells one state of a file from the next. Its time alone does not: two changes may fall into one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    modified_at: (i64, i64),
    changed_at: (i64, i64),
    inode: u64,
    bytes: u64,
}

impl FileVersion {
    /// The present state; `None` if there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified_at: (metadata.mtime(), metadata.mtime_nsec()),
            changed_at: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            bytes: metadata.len(),
        })
    }
}

/// Whether a directory exists; the empty path is the present one.
fn is_present(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

struct RealFile {
    file: File,
    /// The same file past the page cache; gone once it refused something.
    direct: RefCell<Option<File>>,
    /// Whether reads go past it, too.
    is_bulk: bool,
}

impl RealFile {
    /// Does something past the page cache, if it `may`; `None` if it was not done.
    fn past_page_cache(
        &self,
        may: bool,
        work: impl FnOnce(&File) -> io::Result<()>,
    ) -> Option<io::Result<()>> {
        let mut direct = self.direct.borrow_mut();
        match work(direct.as_ref().filter(|_| may)?) {
            // It wants larger multiples, or took the flag without having such access.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                *direct = None;
                None
            }
            done => Some(done),
        }
    }
}

/// Whether bytes start, end and lie in memory at multiples of a sector.
fn is_of_sectors(offset: u64, bytes: &[u8]) -> bool {
    let places = [offset, bytes.len() as u64, bytes.as_ptr().addr() as u64];
    places.into_iter().all(|place| place.is_multiple_of(SECTOR_BYTES))
}

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
        Ok(Box::new(RealFile { file, direct: self.direct(name, true).into(), is_bulk: false }))
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(is_writable).open(self.path.join(name))?;
        let direct = if is_writable { self.direct(name, true) } else { None };
        Ok(Box::new(RealFile { file, direct: direct.into(), is_bulk: false }))
    }

    fn open_bulk(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = File::open(self.path.join(name))?;
        Ok(Box::new(RealFile { file, direct: self.direct(name, false).into(), is_bulk: true }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let here = File::open(&self.path)?;
        match renameat_with(&here, from, &here, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Not every file system can promise it; the writer of a log is alone in its directory.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if self.path.join(to).exists() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                std::fs::rename(self.path.join(from), self.path.join(to))
            }
            Err(error) => Err(error.into()),
        }
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
        let may = self.is_bulk && is_of_sectors(offset, buffer);
        let read = self.past_page_cache(may, |file| file.read_exact_at(buffer, offset));
        read.unwrap_or_else(|| self.file.read_exact_at(buffer, offset))
    }

    fn read_soon(&self, offset: u64, bytes: u64) {
        // Only advice: what is not on its way is read when it is wanted.
        let _ = fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let may = is_of_sectors(offset, bytes);
        let written = self.past_page_cache(may, |file| file.write_all_at(bytes, offset));
        written.unwrap_or_else(|| self.file.write_all_at(bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        if self.size()? >= bytes {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // A file system without fallocate still gives zeros; its syncs cost a little more.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.file.set_len(bytes),
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

    /// Says whether a process has the lock. Nothing is made, and nobody is kept off.
    ///
    /// # Errors
    /// [`DirectoryInUse`], or the disk's error.
    pub fn check_free(path: &Path) -> anyhow::Result<()> {
        let file = match File::open(path.join("LOCK")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(()),
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
    fn a_real_directory_keeps_the_contract_of_storage_past_the_page_cache_and_through_it() {
        let data = tempfile::tempdir().unwrap();
        let directory = Directory::open_or_create(&data.path().join("deep/log")).unwrap();
        check_contract(&directory);
        let cached =
            Directory::open_or_create(&data.path().join("deep/cached")).unwrap().through_page_cache();
        check_contract(&cached);
    }

    fn check_contract(directory: &Directory) {
        let file = directory.create("a").unwrap();
        assert!(directory.create("a").is_err(), "a file is never made over another");
        file.preallocate(8_192).unwrap();
        file.write_at(4_000, b"hello").unwrap();
        file.sync_data().unwrap();
        let mut buffer = [1; 6];
        directory.open("a", false).unwrap().read_at(4_000, &mut buffer).unwrap();
        assert_eq!(&buffer, b"hello\0");
        // Past the page cache and through it, in turns.
        let sectors = vec![7; 3 * 4_096];
        let start = sectors.as_ptr().align_offset(4_096);
        file.write_at(4_096, &sectors[start..start + 4_096]).unwrap();
        directory.open("a", false).unwrap().read_at(4_092, &mut buffer).unwrap();
        assert_eq!(buffer, [0, 0, 0, 0, 7, 7]);
        let mut read = vec![0; 3 * 4_096];
        let start = read.as_ptr().align_offset(4_096);
        let read = &mut read[start..start + 4_096];
        let bulk = directory.open_bulk("a").unwrap();
        bulk.read_at(4_096, read).unwrap();
        assert_eq!(*read, [7; 4_096]);
        bulk.read_at(4_092, &mut buffer).unwrap();
        assert_eq!(buffer, [0, 0, 0, 0, 7, 7]);
        assert!(bulk.read_at(8_192, read).is_err(), "the file ends before");
        bulk.read_soon(0, 8_192);
        file.write_at(4_090, b"over").unwrap();
        directory.open("a", false).unwrap().read_at(4_092, &mut buffer).unwrap();
        assert_eq!(&buffer, b"er\0\0\x07\x07");
        directory.create("b").unwrap();
        assert!(directory.rename("b", "a").is_err(), "a file is never named as another is");
        directory.rename("b", "c").unwrap();
        directory.remove("c").unwrap();
        file.truncate(10).unwrap();
        assert_eq!((file.size().unwrap(), directory.list().unwrap()), (10, vec!["a".to_string()]));
        assert!(file.read_at(8, &mut buffer).is_err());
    }
}
