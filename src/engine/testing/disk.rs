//! A disk in memory that loses what was not synced, tears writes, fails on request, and flips bits.
//!
//! Owns: faults, all derived from a seed. Invariants: what was synced before a crash is there after it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::io::{Storage, StorageFile};

const SECTOR: usize = 4_096;

/// The disk; clones share it.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Faults,
    writes: u64,
    syncs: u64,
}

impl Disk {
    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        match self.faults.fail_sync == Some(self.syncs) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The write with this number, from 1, fails.
    pub fail_write: Option<u64>,
    /// The sync with this number, from 1, fails; directories count too.
    pub fail_sync: Option<u64>,
    /// Bytes that all files together may have.
    pub bytes_max: Option<u64>,
}

/// A small generator of reproducible numbers.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u64);

impl Seed {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
    }
}

impl SimulatedDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    /// Sets what goes wrong from now on; counts writes and syncs from now on.
    pub fn set_faults(&self, faults: Faults) {
        let mut disk = self.disk();
        (disk.faults, disk.writes, disk.syncs) = (faults, 0, 0);
    }

    /// Power is lost: of what was not synced, each sector stays or goes as the seed says.
    pub fn crash(&self, seed: u64) {
        let mut seed = Seed::new(seed);
        let mut disk = self.disk();
        disk.faults = Faults::default();
        // A name that was made or removed without a sync of the directory may have become durable all the same.
        let mut names = disk.durable_names.clone();
        let now = disk.files.clone();
        names.retain(|name, _| now.contains_key(name) || seed.below(2) == 0);
        for (name, content) in now {
            if !names.contains_key(&name) && seed.below(2) == 0 {
                names.insert(name, content);
            }
        }
        (disk.files, disk.durable_names) = (names.clone(), names);
        for content in disk.files.values() {
            let mut content = content.lock().expect("no test panics while it holds a file");
            let bytes = if seed.below(2) == 0 { content.now.len() } else { content.durable.len() };
            let mut after = content.durable.clone();
            after.resize(bytes, 0);
            for start in (0..bytes).step_by(SECTOR) {
                let end = (start + SECTOR).min(bytes).min(content.now.len());
                if start < end && seed.below(2) == 0 {
                    after[start..end].copy_from_slice(&content.now[start..end]);
                }
            }
            content.now.clone_from(&after);
            content.durable = after;
        }
    }

    /// Names and sizes of all files.
    pub fn files(&self) -> Vec<(String, usize)> {
        let disk = self.disk();
        disk.files
            .iter()
            .map(|(name, content)| (name.clone(), content.lock().expect("unpoisoned").now.len()))
            .collect()
    }

    /// Flips one bit, durably.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        let disk = self.disk();
        let mut content = disk.files[name].lock().expect("unpoisoned");
        content.now[byte] ^= 1 << bit;
        content.durable[byte] ^= 1 << bit;
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    content: Arc<Mutex<Content>>,
    is_writable: bool,
}

impl Storage for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        if self.disk().files.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        self.disk().files.insert(name.to_string(), content.clone());
        Ok(Box::new(SimulatedFile { disk: self.clone(), content, is_writable: true }))
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        let content = self.disk().files.get(name).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), content, is_writable }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk().files.remove(name).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count_sync()?;
        disk.durable_names = disk.files.clone();
        Ok(())
    }
}

impl SimulatedFile {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test panics while it holds a file")
    }

    fn count_write(&self, grows_by: u64) -> io::Result<()> {
        assert!(self.is_writable, "a file that was opened to read is not written");
        let mut disk = self.disk.disk();
        disk.writes += 1;
        if disk.faults.fail_write == Some(disk.writes) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let used: u64 = disk.files.values().map(|c| c.try_lock().map_or(0, |c| c.now.len() as u64)).sum();
        if disk.faults.bytes_max.is_some_and(|max| used + grows_by > max) {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageFile for SimulatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = self.content();
        let from = offset as usize;
        let bytes = content.now.get(from..from + buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        self.count_write((end as u64).saturating_sub(self.size()?))?;
        let mut content = self.content();
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.disk().count_sync()?;
        let mut content = self.content();
        content.durable = content.now.clone();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content().now.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.content().now.truncate(bytes as usize);
        Ok(())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.count_write(bytes.saturating_sub(self.size()?))?;
        let mut content = self.content();
        if content.now.len() < bytes as usize {
            content.now.resize(bytes as usize, 0);
        }
        Ok(())
    }
}
