//! What a log needs of a disk: one directory of files.
//!
//! Owns: the seam between logs and disks. Leaves to others: real disks (`server::disk`), simulated ones (`testing`).
//!
//! Contract: `write_at` and `preallocate` may be lost until `sync_data` returns; a created, renamed or removed name may
//! be lost until `sync_directory` returns. After a failed write or sync the file is not used again.

use std::io;

/// One directory of files.
pub trait Storage: Send + Sync {
    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file that can be written; an error if the name is taken, since nothing is ever written over.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// An existing file; written only if `is_writable`.
    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>>;
    /// An existing file that is read once from front to back, past the caches of the machine where that is possible.
    fn open_bulk(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.open(name, false)
    }
    /// Gives a file another name, which must be free.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A file.
pub trait StorageFile: Send {
    /// Fills the buffer from an offset; an error if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Says that some bytes will be read soon, so that many may be on their way at once.
    fn read_soon(&self, _offset: u64, _bytes: u64) {}
    /// Writes all bytes at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file off.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes room up to so many bytes; new bytes read as zero.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;
}
