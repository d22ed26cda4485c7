//! A reader beside a writer: what it reads is a beginning of the log, whatever the writer does between two of its looks.
//!
//! A writer's changes to its disk are recorded, and made again one by one while another one reads: between any two of its
//! calls, any number of them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::io::StorageFile;

/// A change to a disk.
enum Change {
    Create(String),
    Write(String, u64, Vec<u8>),
    Truncate(String, u64),
    Preallocate(String, u64),
    Remove(String),
}

/// A disk that records its changes.
#[derive(Clone)]
struct Recorded(SimulatedDisk, Arc<Mutex<VecDeque<Change>>>);

struct RecordedFile {
    file: Box<dyn StorageFile>,
    name: String,
    changes: Arc<Mutex<VecDeque<Change>>>,
}

impl Recorded {
    fn note(&self, change: Change) {
        self.1.lock().unwrap().push_back(change);
    }

    fn file(&self, file: Box<dyn StorageFile>, name: &str) -> Box<dyn StorageFile> {
        Box::new(RecordedFile { file, name: name.to_string(), changes: self.1.clone() })
    }
}

impl Storage for Recorded {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.note(Change::Create(name.to_string()));
        Ok(self.file(self.0.create(name)?, name))
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(self.file(self.0.open(name, is_writable)?, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.note(Change::Remove(name.to_string()));
        self.0.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }
}

impl RecordedFile {
    fn note(&self, change: impl FnOnce(String) -> Change) {
        self.changes.lock().unwrap().push_back(change(self.name.clone()));
    }
}

impl StorageFile for RecordedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // A reader may see the sectors of a write one by one.
        for (number, sector) in bytes.chunks(4_096).enumerate() {
            let at = offset + 4_096 * number as u64;
            self.note(|name| Change::Write(name, at, sector.to_vec()));
        }
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.note(|name| Change::Truncate(name, bytes));
        self.file.truncate(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.note(|name| Change::Preallocate(name, bytes));
        self.file.preallocate(bytes)
    }
}

/// A disk that changes while it is read.
#[derive(Clone)]
struct Changing(Arc<Mutex<State>>);

struct State {
    disk: SimulatedDisk,
    left: VecDeque<Change>,
    random: Seed,
    /// Changes between two calls, at most.
    most: u64,
}

struct ChangingFile(Box<dyn StorageFile>, Changing);

impl Changing {
    /// Makes some of the changes that are left; gives the disk.
    fn disk(&self) -> SimulatedDisk {
        let mut state = self.0.lock().unwrap();
        let State { disk, left, random, most } = &mut *state;
        for _ in 0..random.below(*most + 1) {
            let open = |name: &str| disk.open(name, true).unwrap();
            match left.pop_front() {
                Some(Change::Create(name)) => drop(disk.create(&name).unwrap()),
                Some(Change::Write(name, at, bytes)) => open(&name).write_at(at, &bytes).unwrap(),
                Some(Change::Truncate(name, bytes)) => open(&name).truncate(bytes).unwrap(),
                Some(Change::Preallocate(name, bytes)) => open(&name).preallocate(bytes).unwrap(),
                Some(Change::Remove(name)) => disk.remove(&name).unwrap(),
                None => {}
            }
        }
        disk.clone()
    }
}

impl Storage for Changing {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk().list()
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn StorageFile>> {
        unreachable!("a reader writes nothing")
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(ChangingFile(self.disk().open(name, is_writable)?, self.clone())))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn sync_directory(&self) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }
}

impl StorageFile for ChangingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.1.disk();
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn size(&self) -> io::Result<u64> {
        self.1.disk();
        self.0.size()
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        unreachable!("a reader writes nothing")
    }
}

/// Some commits of a log, which may be closed and opened again in between; gives its records.
fn write(log: &Recorded, options: LogOptions, random: &mut Seed) {
    let open = || LogWriter::recover::<LogError>(Arc::new(log.clone()), options, &mut |_| Ok(())).unwrap().0;
    let mut writer = open();
    for recorded_at in 0..1 + random.below(12) as i64 {
        for _ in 0..=random.below(3) {
            let bytes = [100, 3_000, 9_000][random.below(3) as usize];
            writer.stage(1, 7, &[&vec![recorded_at as u8; bytes]]).unwrap();
        }
        writer.commit(recorded_at).unwrap();
        if random.below(8) == 0 {
            writer.close_cleanly().unwrap();
            writer = open();
        }
    }
    if random.below(3) == 0 {
        writer.close_cleanly().unwrap();
    }
}

/// A block that was read as torn, and whole ones that were written behind it meanwhile, were taken for damage; so was a
/// segment that was ended or made meanwhile.
#[test]
fn a_reader_beside_a_writer_reads_a_beginning_of_the_log() {
    for seed in 0..cases() {
        let mut random = Seed::new(seed);
        let options =
            LogOptions { segment_bytes: [24 << 10, 200 << 10][random.below(2) as usize], ..OPTIONS };
        let log = Recorded(SimulatedDisk::default(), Arc::default());
        write(&log, options, &mut random);
        let before = log.0.copy();
        log.1.lock().unwrap().clear();
        write(&log, options, &mut random);
        let read = |disk: &dyn Storage| -> Result<Vec<(u64, usize)>, LogError> {
            let (mut records, mut reader) = (Vec::new(), LogReader::open(disk, options, 0, None)?);
            while let Some(record) = reader.next()? {
                records.push((record.offset, record.payload.len()));
            }
            Ok(records)
        };
        let (known, all) = (read(&before).unwrap(), read(&log.0).unwrap());
        let left = std::mem::take(&mut *log.1.lock().unwrap());
        let most = [1, 4, 30][random.below(3) as usize];
        let changing = Changing(Arc::new(Mutex::new(State { disk: before, left, random, most })));
        let found = read(&changing).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(found.starts_with(&known) && all.starts_with(&found), "seed {seed}");
    }
}
