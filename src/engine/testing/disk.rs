//! A disk in memory that loses what was not synced, tears writes, fails on request, and flips bits.
//!
//! Owns: faults, all derived from a seed. Invariants: what was synced before a crash is there after it.
//!
//! A file has two contents: `now` is what a process reads, `durable` is what power leaves. A write changes the first and
//! marks its sectors dirty; a sync copies dirty sectors. A sync that fails marks them clean without copying, as kernels
//! do: they read well until power is lost, and no later sync makes them durable unless they are written again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::io::{Storage, StorageFile};

const SECTOR: usize = 4_096;

/// The disk; clones share it. As a [`Storage`] it is its own top folder.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<Disk>>);

/// One folder of a disk.
#[derive(Clone)]
pub struct SimulatedFolder {
    disk: SimulatedDisk,
    /// What the names of its files start with on the disk.
    prefix: String,
}

#[derive(Default)]
struct Disk {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Faults,
    writes: u64,
    syncs: u64,
    operations: u64,
    syncs_ever: u64,
}

impl Disk {
    /// Counts what changes the disk; an error once power is gone.
    fn count_operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.faults.stop_at.is_some_and(|stop| self.operations >= stop) {
            true => Err(io::Error::other("the machine has stopped")),
            false => Ok(()),
        }
    }

    /// Whether the last operation was the one at which the machine stopped.
    fn is_at_its_stop(&self) -> bool {
        self.faults.stop_at == Some(self.operations)
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        self.syncs_ever += 1;
        match self.faults.fail_sync == Some(self.syncs) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that a sync makes durable.
    dirty: BTreeSet<usize>,
}

impl Content {
    fn mark_dirty(&mut self, from: usize, until: usize) {
        self.dirty.extend(from / SECTOR..until.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.now.len()));
            if start < end {
                self.durable[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
    }

    /// Of what differs from the durable content, each sector stays or goes.
    fn lose_power(&mut self, seed: &mut Seed) {
        let bytes = if seed.below(2) == 0 { self.now.len() } else { self.durable.len() };
        let mut after = std::mem::take(&mut self.durable);
        after.resize(bytes, 0);
        for start in (0..bytes).step_by(SECTOR) {
            let end = (start + SECTOR).min(bytes).min(self.now.len());
            if start < end && seed.below(2) == 0 && after[start..end] != self.now[start..end] {
                after[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        self.now.clone_from(&after);
        self.durable = after;
        self.dirty.clear();
    }
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
    /// The machine stops at the operation with this number, from 1: it and all later ones fail. Operations are what
    /// changes files or names, and syncs.
    pub stop_at: Option<u64>,
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

    /// A folder; its files are named `{name}/…` on the disk.
    pub fn folder(&self, name: &str) -> SimulatedFolder {
        SimulatedFolder { disk: self.clone(), prefix: format!("{name}/") }
    }

    fn top(&self) -> SimulatedFolder {
        SimulatedFolder { disk: self.clone(), prefix: String::new() }
    }

    /// Sets what goes wrong from now on; counts writes, syncs and operations from now on.
    pub fn set_faults(&self, faults: Faults) {
        let mut disk = self.disk();
        disk.faults = faults;
        (disk.writes, disk.syncs, disk.operations) = (0, 0, 0);
    }

    /// Whether the write or sync that was to fail has failed.
    pub fn has_failed(&self) -> bool {
        let disk = self.disk();
        let is_passed = |number: Option<u64>, count: u64| number.is_some_and(|number| number <= count);
        is_passed(disk.faults.fail_write, disk.writes) || is_passed(disk.faults.fail_sync, disk.syncs)
    }

    /// Syncs since the disk was made.
    pub fn syncs_ever(&self) -> u64 {
        self.disk().syncs_ever
    }

    /// Another disk with the same files, durable as they are.
    pub fn copy(&self) -> SimulatedDisk {
        let disk = self.disk();
        let copy_of = |content: &Arc<Mutex<Content>>| {
            let now = content.lock().expect("unpoisoned").now.clone();
            Arc::new(Mutex::new(Content { durable: now.clone(), now, dirty: BTreeSet::new() }))
        };
        let files: BTreeMap<_, _> =
            disk.files.iter().map(|(name, content)| (name.clone(), copy_of(content))).collect();
        let durable_names = files.clone();
        SimulatedDisk(Arc::new(Mutex::new(Disk { files, durable_names, ..Disk::default() })))
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
            content.lock().expect("no test panics while it holds a file").lose_power(&mut seed);
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

    /// What a file holds.
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.disk().files[name].lock().expect("unpoisoned").now.clone()
    }

    /// Gives a file other content, durably; makes it if there is none.
    pub fn replace(&self, name: &str, bytes: &[u8]) {
        let mut disk = self.disk();
        let content = disk.files.entry(name.to_string()).or_default().clone();
        disk.durable_names.insert(name.to_string(), content.clone());
        *content.lock().expect("unpoisoned") =
            Content { now: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() };
    }

    /// Takes a file away, durably.
    pub fn lose(&self, name: &str) {
        let mut disk = self.disk();
        disk.files.remove(name);
        disk.durable_names.remove(name);
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
        self.top().list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.top().create(name)
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        self.top().open(name, is_writable)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.top().rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.top().remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.top().sync_directory()
    }
}

impl SimulatedFolder {
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Storage for SimulatedFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.disk();
        let names = disk.files.keys().filter_map(|name| name.strip_prefix(&self.prefix));
        Ok(names.map(str::to_string).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.path(name);
        let mut disk = self.disk.disk();
        disk.count_operation()?;
        if disk.files.contains_key(&path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        disk.files.insert(path, content.clone());
        Ok(Box::new(SimulatedFile { disk: self.disk.clone(), content, is_writable: true }))
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        let content = self.disk.disk().files.get(&self.path(name)).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { disk: self.disk.clone(), content, is_writable }))
    }

    /// Until the directory is synced a crash may leave the file under either name, both or none.
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.count_operation()?;
        if disk.files.contains_key(&self.path(to)) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let content = disk.files.remove(&self.path(from)).ok_or(ErrorKind::NotFound)?;
        disk.files.insert(self.path(to), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.count_operation()?;
        disk.files.remove(&self.path(name)).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.count_operation()?;
        disk.count_sync()?;
        let prefix = &self.prefix;
        let mut names = std::mem::take(&mut disk.durable_names);
        names.retain(|name, _| !name.starts_with(prefix));
        names.extend(
            disk.files
                .iter()
                .filter(|(name, _)| name.starts_with(prefix))
                .map(|(name, content)| (name.clone(), content.clone())),
        );
        disk.durable_names = names;
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
        disk.count_operation()?;
        disk.writes += 1;
        if disk.faults.fail_write == Some(disk.writes) {
            return Err(io::Error::from_raw_os_error(5));
        }
        if let Some(max) = disk.faults.bytes_max {
            let used: u64 = disk.files.values().map(|c| c.try_lock().map_or(0, |c| c.now.len() as u64)).sum();
            if used + grows_by > max {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let mut content = self.content();
        let before = content.now.len();
        if before < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(bytes);
        content.mark_dirty(start.min(before), end);
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
        let end = offset + bytes.len() as u64;
        let counted = self.count_write(end.saturating_sub(self.size()?));
        // A write that was under way when the machine stopped may have reached the disk: power decides.
        if counted.is_ok() || self.disk.disk().is_at_its_stop() {
            self.put(offset, bytes);
        }
        counted
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut disk = self.disk.disk();
            disk.count_operation()?;
            if let Err(error) = disk.count_sync() {
                self.content().dirty.clear();
                return Err(error);
            }
        }
        self.content().sync();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content().now.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.disk().count_operation()?;
        let mut content = self.content();
        content.now.truncate(bytes as usize);
        // Only a sector that is cut in the middle is written again.
        if !bytes.is_multiple_of(SECTOR as u64) {
            content.mark_dirty(bytes as usize - 1, bytes as usize);
        }
        Ok(())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.count_write(bytes.saturating_sub(self.size()?))?;
        let mut content = self.content();
        let before = content.now.len();
        if before < bytes as usize {
            content.now.resize(bytes as usize, 0);
            content.mark_dirty(before, bytes as usize);
        }
        Ok(())
    }
}
