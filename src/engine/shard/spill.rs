//! Sorted runs of items in memory or in files, and the pool that says which of them leave memory.
//!
//! Owns: where the items of a run are, the bytes of spilled ones, which runs go when there are too many in memory.
//! Leaves to others: order and merging (`super::sequence`), the thread that spills and who waits for it (the shell).
//!
//! ```text
//! file:  run, run, run …      run:  item, item, item …      item, 32 bytes:  time 8 | position 8 | value 16
//! ```
//!
//! A file belongs to the process that wrote it: nothing in it is synced, the next start takes it away, and the log gives the
//! items back. It goes when the last of its runs does. The largest runs go first: they are the fewest, and the last to be merged.
//!
//! Calling order: a shard notes runs; whoever sees [`SpillPool::is_due`] has [`SpillPool::spill`] called beside the shards, and
//! no shard takes more while [`SpillPool::must_wait`].
//!
//! Invariants: a run never changes, wherever it is; of bytes only those are believed that have the checksum with which they were
//! written; whoever folds items has read them before, so that folding cannot fail.

use std::cmp::Reverse;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use domain::{EventPosition, Timestamp};

use super::sequence::Item;
use crate::io::{Storage, StorageFile};
use crate::log::crc_of;

/// Bytes of an item, in memory and in a file.
pub const ITEM_BYTES: usize = 32;
/// Items of a run that is worth a place in a file, where memory has room for many of them: less would save nothing.
const RUN_ITEMS_MIN: usize = 64;
/// Items that are written, read and checked together.
const BLOCK_ITEMS: usize = if cfg!(test) { 4 } else { 1 << 15 };
/// Items after which a file is full.
const FILE_ITEMS: usize = if cfg!(test) { 16 } else { 1 << 23 };

const SUFFIX: &str = ".items";

/// Why spilled items are of no use.
#[derive(Debug)]
pub enum SpillFault {
    /// The disk failed.
    Io(io::Error),
    /// Bytes are not those that were written.
    MustBeWhole {
        /// Where in the file.
        position: u64,
    },
}

/// Items that cannot be spilled or read again.
#[derive(Debug)]
pub struct SpillError {
    /// The file.
    pub name: String,
    /// Why.
    pub fault: SpillFault,
}

impl SpillError {
    fn at(name: &str) -> impl Fn(io::Error) -> Self {
        move |error| Self { name: name.to_string(), fault: SpillFault::Io(error) }
    }
}

impl fmt::Display for SpillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, fault } = self;
        match fault {
            SpillFault::Io(_) => write!(f, "the file {name} of spilled items cannot be read or written"),
            SpillFault::MustBeWhole { position } => {
                write!(f, "the file {name} of spilled items is damaged at byte {position}")
            }
        }
    }
}

impl std::error::Error for SpillError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            SpillFault::Io(error) => Some(error),
            SpillFault::MustBeWhole { .. } => None,
        }
    }
}

impl From<SpillError> for io::Error {
    fn from(error: SpillError) -> Self {
        io::Error::other(error)
    }
}

/// Items of runs that a pool knows, in memory and on disk.
#[derive(Debug, Default)]
struct Counts {
    in_memory: AtomicUsize,
    on_disk: AtomicUsize,
}

/// Items in order, as many as there ever will be.
#[derive(Debug)]
pub(crate) struct ItemRun {
    len: usize,
    is_spilled: AtomicBool,
    held: Mutex<Held>,
    /// Set when a pool knows it.
    counts: OnceLock<Arc<Counts>>,
}

#[derive(Debug)]
enum Held {
    InMemory(Arc<Vec<Item>>),
    OnDisk {
        place: Place,
        /// As long as whoever read them keeps them.
        read: Weak<Vec<Item>>,
    },
}

const _: () = assert!(size_of::<ItemRun>() <= 96, "decision 22 says what a run takes that was spilled");

impl ItemRun {
    /// A run in memory.
    pub(crate) fn new(items: Vec<Item>) -> Self {
        let (len, held) = (items.len(), Mutex::new(Held::InMemory(Arc::new(items))));
        Self { len, is_spilled: AtomicBool::new(false), held, counts: OnceLock::new() }
    }

    /// Items of it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether its items left memory.
    pub(crate) fn is_spilled(&self) -> bool {
        self.is_spilled.load(Ordering::Acquire)
    }

    /// Whether a pool knows it.
    pub(crate) fn is_noted(&self) -> bool {
        self.counts.get().is_some()
    }

    /// Its items, if they are in memory: always before they are spilled, and as long as whoever read them keeps them.
    pub(crate) fn in_memory(&self) -> Option<Arc<Vec<Item>>> {
        match &*lock(&self.held) {
            Held::InMemory(items) => Some(items.clone()),
            Held::OnDisk { read, .. } => read.upgrade(),
        }
    }

    /// Its items, wherever they are.
    ///
    /// # Errors
    /// [`SpillError`].
    pub(crate) fn read(&self) -> Result<Arc<Vec<Item>>, SpillError> {
        match &mut *lock(&self.held) {
            Held::InMemory(items) => Ok(items.clone()),
            Held::OnDisk { place, read } => {
                if let Some(items) = read.upgrade() {
                    return Ok(items);
                }
                let items = Arc::new(place.read(self.len)?);
                *read = Arc::downgrade(&items);
                Ok(items)
            }
        }
    }

    fn move_to(&self, place: Place) {
        let counts = self.counts.get().expect("a pool spills what it knows");
        counts.in_memory.fetch_sub(self.len, Ordering::Relaxed);
        counts.on_disk.fetch_add(self.len, Ordering::Relaxed);
        *lock(&self.held) = Held::OnDisk { place, read: Weak::new() };
        self.is_spilled.store(true, Ordering::Release);
    }
}

impl Drop for ItemRun {
    fn drop(&mut self) {
        if let Some(counts) = self.counts.get() {
            let count = if self.is_spilled() { &counts.on_disk } else { &counts.in_memory };
            count.fetch_sub(self.len, Ordering::Relaxed);
        }
    }
}

/// Where the items of a run are in a file.
#[derive(Debug)]
struct Place {
    file: Arc<SpillFile>,
    position: u64,
    /// Checksum of each block.
    crcs: Box<[u32]>,
}

impl Place {
    fn read(&self, len: usize) -> Result<Vec<Item>, SpillError> {
        let mut items = Vec::with_capacity(len);
        let mut bytes = vec![0; BLOCK_ITEMS.min(len) * ITEM_BYTES];
        let mut position = self.position;
        for crc in &self.crcs {
            let block = &mut bytes[..BLOCK_ITEMS.min(len - items.len()) * ITEM_BYTES];
            let name = &self.file.name;
            lock(&self.file.file).read_at(position, block).map_err(SpillError::at(name))?;
            if crc_of(&[block]) != *crc {
                return Err(SpillError { name: name.clone(), fault: SpillFault::MustBeWhole { position } });
            }
            let (of_items, _) = block.as_chunks();
            items.extend(of_items.iter().map(decode));
            position += block.len() as u64;
        }
        Ok(items)
    }
}

fn encode(item: &Item, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&item.time.nanoseconds().to_le_bytes());
    bytes.extend_from_slice(&item.position.to_bits().to_le_bytes());
    bytes.extend_from_slice(&item.value.to_le_bytes());
}

fn decode(bytes: &[u8; ITEM_BYTES]) -> Item {
    let (words, _) = bytes.as_chunks::<8>();
    let [time, position, low, high] = std::array::from_fn(|word| u64::from_le_bytes(words[word]));
    Item {
        time: Timestamp::from_nanoseconds(time.cast_signed()),
        position: EventPosition::from_bits(position),
        value: (u128::from(low) | u128::from(high) << 64).cast_signed(),
    }
}

/// A file of spilled items; goes with the last of its runs.
struct SpillFile {
    file: Mutex<Box<dyn StorageFile>>,
    name: String,
    storage: Arc<dyn Storage>,
}

impl fmt::Debug for SpillFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        // One that stays is taken away by the next start.
        let _ = self.storage.remove(&self.name);
    }
}

/// The runs of all shards of a process that may leave memory.
pub struct SpillPool {
    storage: Arc<dyn Storage>,
    in_memory_max: usize,
    run_items_min: usize,
    counts: Arc<Counts>,
    noted: Mutex<Vec<Weak<ItemRun>>>,
    next: AtomicU64,
    /// Somebody was told that it is due.
    is_asked: AtomicBool,
}

impl SpillPool {
    /// A pool that keeps so many bytes of items in memory; takes away what an earlier process left.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(storage: Arc<dyn Storage>, memory: u64) -> io::Result<Self> {
        for name in storage.list()?.iter().filter(|name| name.ends_with(SUFFIX)) {
            storage.remove(name)?;
        }
        let in_memory_max = usize::try_from(memory).unwrap_or(usize::MAX) / ITEM_BYTES;
        Ok(Self {
            storage,
            in_memory_max,
            run_items_min: (in_memory_max / 16).clamp(1, RUN_ITEMS_MIN),
            counts: Arc::default(),
            noted: Mutex::default(),
            next: AtomicU64::new(1),
            is_asked: AtomicBool::new(false),
        })
    }

    /// Takes a run that is worth a place in a file.
    pub(crate) fn note(&self, run: &Arc<ItemRun>) {
        if run.len() >= self.run_items_min && run.counts.set(self.counts.clone()).is_ok() {
            self.counts.in_memory.fetch_add(run.len(), Ordering::Relaxed);
            lock(&self.noted).push(Arc::downgrade(run));
        }
    }

    /// Whether there is too much in memory and nobody was told so; who is has [`SpillPool::spill`] called.
    pub fn is_due(&self) -> bool {
        self.in_memory() > self.in_memory_max && !self.is_asked.swap(true, Ordering::AcqRel)
    }

    /// Whether there is so much in memory that nothing can be added before some of it is spilled.
    pub fn must_wait(&self) -> bool {
        self.in_memory() / 2 > self.in_memory_max
    }

    /// Items in memory, of runs that may leave it.
    pub fn in_memory(&self) -> usize {
        self.counts.in_memory.load(Ordering::Relaxed)
    }

    /// Items that left memory.
    pub fn on_disk(&self) -> usize {
        self.counts.on_disk.load(Ordering::Relaxed)
    }

    /// Spills the largest runs until half of what memory has room for is left there.
    ///
    /// # Errors
    /// [`SpillError`]: what was not written stays in memory.
    pub fn spill(&self) -> Result<(), SpillError> {
        let spilled = self.spill_largest();
        self.is_asked.store(false, Ordering::Release);
        spilled
    }

    fn spill_largest(&self) -> Result<(), SpillError> {
        let noted = std::mem::take(&mut *lock(&self.noted));
        let mut runs: Vec<Arc<ItemRun>> = noted.iter().filter_map(Weak::upgrade).collect();
        runs.sort_by_key(|run| Reverse(run.len()));
        let mut left: usize = runs.iter().map(|run| run.len()).sum();
        let goes = |run: &&Arc<ItemRun>| {
            let goes = left > self.in_memory_max / 2;
            left -= run.len();
            goes
        };
        let count = runs.iter().take_while(goes).count();
        let stays = runs.split_off(count);
        lock(&self.noted).extend(stays.iter().map(Arc::downgrade));
        drop(stays);
        while !runs.is_empty() {
            let mut items = 0;
            let fits = |run: &&Arc<ItemRun>| {
                let fits = items < FILE_ITEMS;
                items += run.len();
                fits
            };
            let count = runs.iter().take_while(fits).count();
            if let Err(error) = self.write(&runs[..count]) {
                lock(&self.noted).extend(runs.iter().map(Arc::downgrade));
                return Err(error);
            }
            runs.drain(..count);
        }
        Ok(())
    }

    /// A new file; what somebody else put here is left alone.
    fn create(&self) -> Result<(String, Box<dyn StorageFile>), SpillError> {
        loop {
            let name = format!("{:016x}{SUFFIX}", self.next.fetch_add(1, Ordering::Relaxed));
            match self.storage.create(&name) {
                Ok(file) => return Ok((name, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(SpillError::at(&name)(error)),
            }
        }
    }

    /// Writes a file of runs.
    fn write(&self, runs: &[Arc<ItemRun>]) -> Result<(), SpillError> {
        let (name, file) = self.create()?;
        let in_io = SpillError::at(&name);
        let file = SpillFile { file: Mutex::new(file), name: name.clone(), storage: self.storage.clone() };
        let file = Arc::new(file);
        let (mut end, mut bytes) = (0, Vec::with_capacity(BLOCK_ITEMS * ITEM_BYTES));
        let mut places = Vec::with_capacity(runs.len());
        for run in runs {
            let (position, mut crcs) = (end, Vec::new());
            let items = run.in_memory().expect("nobody else spills");
            for block in items.chunks(BLOCK_ITEMS) {
                bytes.clear();
                block.iter().for_each(|item| encode(item, &mut bytes));
                crcs.push(crc_of(&[&bytes]));
                lock(&file.file).write_at(end, &bytes).map_err(&in_io)?;
                end += bytes.len() as u64;
            }
            places.push(Place { file: file.clone(), position, crcs: crcs.into() });
        }
        runs.iter().zip(places).for_each(|(run, place)| run.move_to(place));
        Ok(())
    }
}

/// Nothing that is done under these locks leaves anything half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sequence::{Order, Sequence};
    use super::*;
    use crate::testing::disk::{Faults, SimulatedDisk};

    fn item(number: u64) -> Item {
        let time = Timestamp::MIN.plus(number.cast_signed() % 7);
        Item { time, position: EventPosition::from_bits(number), value: i128::MIN + i128::from(number) }
    }

    /// A pool with room for so many items.
    fn pool_of(disk: &SimulatedDisk, items: usize) -> SpillPool {
        SpillPool::open(Arc::new(disk.clone()), (items * ITEM_BYTES) as u64).unwrap()
    }

    /// A sequence of so many runs, the first with items from `first` on.
    fn sequence_of(pool: &SpillPool, first: u64, lens: &[u64]) -> Sequence {
        let mut sequence = Sequence::new(Order::Events);
        let mut next = first;
        for len in lens {
            (next..next + len).for_each(|number| _ = sequence.add(item(number)));
            next += len;
            sequence.seal();
            sequence.unnoted().for_each(|run| pool.note(run));
        }
        sequence
    }

    #[test]
    fn the_largest_runs_leave_memory_and_are_read_for_as_long_as_they_are_wanted() {
        let disk = SimulatedDisk::default();
        let pool = pool_of(&disk, 20);
        let small = sequence_of(&pool, 0, &[5]);
        assert!(!pool.is_due() && pool.in_memory() == 5);
        let large = sequence_of(&pool, 100, &[9, 3]);
        let huge = sequence_of(&pool, 200, &[30]);
        assert!(pool.is_due() && !pool.is_due(), "one is told");
        assert!(pool.must_wait());
        let wanted = [small.items(), large.items(), huge.items()];
        pool.spill().unwrap();
        assert_eq!((pool.in_memory(), pool.on_disk()), (8, 39), "half of the room is used");
        assert!(!pool.is_due() && !pool.must_wait());
        assert!(small.is_in_memory() && !large.is_in_memory() && !huge.is_in_memory());
        assert_eq!(disk.files().iter().map(|(_, bytes)| bytes).sum::<usize>(), 39 * ITEM_BYTES);
        for (sequence, wanted) in [&small, &large, &huge].into_iter().zip(&wanted) {
            let read = sequence.read().unwrap();
            assert_eq!(sequence.items(), *wanted);
            assert_eq!(read.len(), usize::from(!sequence.is_in_memory()), "only what was spilled is read");
        }
        let forgotten = std::panic::catch_unwind(|| huge.items());
        assert!(forgotten.is_err(), "nobody keeps what was read");
        // A clone keeps the file, and the last of its runs takes it away.
        let clone = huge.clone();
        drop(huge);
        assert_eq!(pool.on_disk(), 39);
        drop((clone, large, small));
        assert_eq!((pool.in_memory(), pool.on_disk(), disk.files().len()), (0, 0, 0));
    }

    #[test]
    fn a_pool_is_full_at_its_limit_and_not_before_it() {
        for (items, is_due, must_wait) in
            [(20, false, false), (21, true, false), (41, true, false), (42, true, true)]
        {
            let pool = pool_of(&SimulatedDisk::default(), 20);
            let _sequence = sequence_of(&pool, 0, &[items]);
            assert_eq!((pool.is_due(), pool.must_wait()), (is_due, must_wait), "{items}");
        }
    }

    #[test]
    fn what_an_earlier_process_left_is_taken_away_and_nothing_else() {
        let disk = SimulatedDisk::default();
        disk.create("0000000000000001.items").unwrap();
        disk.create("readme").unwrap();
        let pool = pool_of(&disk, 1);
        assert_eq!(disk.files(), [("readme".to_string(), 0)]);
        disk.create("0000000000000001.items").unwrap();
        let _sequence = sequence_of(&pool, 0, &[2]);
        pool.spill().unwrap();
        let names = ["0000000000000001.items", "0000000000000002.items", "readme"];
        assert!(
            disk.files().iter().map(|(name, _)| name.as_str()).eq(names),
            "what came later is not written over"
        );
    }

    #[test]
    fn a_disk_that_is_full_leaves_all_in_memory_and_nothing_behind() {
        let disk = SimulatedDisk::default();
        let pool = pool_of(&disk, 8);
        let sequence = sequence_of(&pool, 0, &[30, 9]);
        disk.set_faults(Faults { bytes_max: Some(35 * ITEM_BYTES as u64), ..Faults::default() });
        assert!(pool.is_due());
        let error = pool.spill().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the file 0000000000000002.items of spilled items cannot be read or written"
        );
        assert_eq!(
            (pool.in_memory(), pool.on_disk(), disk.files().len()),
            (9, 30, 1),
            "the first file was whole"
        );
        disk.set_faults(Faults::default());
        assert!(pool.is_due(), "it is tried again");
        pool.spill().unwrap();
        let _read = sequence.read().unwrap();
        assert_eq!(sequence.items().len(), 39);
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let disk = SimulatedDisk::default();
        let pool = pool_of(&disk, 0);
        let sequence = sequence_of(&pool, 0, &[6]);
        pool.spill().unwrap();
        let (name, _) = disk.files().remove(0);
        let sound = disk.content(&name);
        for byte in 0..sound.len() {
            for bit in 0..8 {
                let mut damaged = sound.clone();
                damaged[byte] ^= 1 << bit;
                disk.replace(&name, &damaged);
                let error = sequence.read().unwrap_err();
                let block = byte / (BLOCK_ITEMS * ITEM_BYTES) * (BLOCK_ITEMS * ITEM_BYTES);
                let said = format!("the file {name} of spilled items is damaged at byte {block}");
                assert_eq!(error.to_string(), said);
            }
        }
        disk.replace(&name, &sound);
        assert_eq!(sequence.read().unwrap().len(), 1);
        disk.lose(&name);
        assert_eq!(sequence.read().unwrap().len(), 1, "an open file is read whatever becomes of its name");
    }

    proptest! {
        /// Whenever runs are sealed, spilled and read, the items of a sequence are those that were added.
        #[test]
        fn a_sequence_is_the_same_wherever_its_runs_are(
            steps in prop::collection::vec((1u64..12, any::<bool>()), 1..20),
            memory in 0usize..30,
        ) {
            let disk = SimulatedDisk::default();
            let pool = pool_of(&disk, memory);
            let (mut sequence, mut plain) = (Sequence::new(Order::Events), Sequence::new(Order::Events));
            let mut next = 0;
            for (count, is_sealed) in steps {
                for number in next..next + count {
                    sequence.add(item(number));
                    plain.add(item(number));
                }
                next += count;
                if is_sealed {
                    sequence.seal();
                    sequence.unnoted().for_each(|run| pool.note(run));
                }
                if pool.is_due() {
                    pool.spill().unwrap();
                    prop_assert!(pool.in_memory() <= memory);
                }
            }
            let mut parts = Vec::new();
            sequence.for_each_part(3, &mut |items| {
                assert!(items.len() <= 3);
                parts.extend_from_slice(items);
                Ok(())
            }).unwrap();
            parts.sort_by_key(|item| (item.time, item.position));
            prop_assert_eq!(&parts, &plain.items());
            let _read = sequence.read().unwrap();
            prop_assert_eq!(sequence.items(), plain.items());
        }
    }
}
