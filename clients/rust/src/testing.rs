//! An outbox on files in memory, for those who throw bytes at it.
//!
//! Owns: what a process does with an outbox, in one call. Leaves to others: the outbox itself (`outbox`).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use wire::AlignedBytes;

use crate::outbox::{Folder, Outbox, OutboxFile, Position, format, name_of};
use crate::{OutboxOptions, Recovered, SyncPolicy};

type Names = BTreeMap<String, Arc<Mutex<Vec<u8>>>>;

/// The files of an outbox.
#[derive(Clone, Default)]
pub struct OutboxFiles(Arc<Mutex<Names>>);

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the files")
}

impl OutboxFiles {
    /// Adds a file of a number.
    pub fn add(&self, file: u64, bytes: Vec<u8>) {
        held(&self.0).insert(name_of(file), Arc::new(Mutex::new(bytes)));
    }

    /// Adds a record with a sound checksum to the end of a file: a batch, or a mark.
    pub fn add_record(&self, file: u64, kind: u32, body: &[u8]) {
        let mut files = held(&self.0);
        let mut bytes = held(files.entry(name_of(file)).or_default());
        let end = bytes.len().next_multiple_of(format::ALIGNMENT);
        bytes.resize(end, 0);
        let at = Position { file, offset: end as u64 };
        format::encode(at, kind, body, &mut bytes);
    }

    /// The bytes of a file.
    pub fn bytes_of(&self, file: u64) -> Vec<u8> {
        held(&self.0).get(&name_of(file)).map(|bytes| held(bytes).clone()).unwrap_or_default()
    }

    /// What a process finds that takes the outbox, sends all of it, and leaves some more; nothing is acknowledged.
    ///
    /// # Errors
    /// If the outbox is none.
    pub fn visit(&self, more: &[&[u8]]) -> io::Result<(Recovered, Vec<AlignedBytes>)> {
        let options = OutboxOptions { segment_bytes: 4_096, ..OutboxOptions::new("", SyncPolicy::EachBatch) };
        let (mut outbox, recovered) = Outbox::open_in(Box::new(self.clone()), &options)?;
        let mut batches = Vec::new();
        while let Some(stored) = outbox.read()? {
            batches.push(stored.frame);
        }
        for frame in more {
            outbox.append(frame)?;
        }
        outbox.sync()?;
        Ok((recovered, batches))
    }
}

impl Folder for OutboxFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(held(&self.0).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OutboxFile>> {
        let file = Arc::<Mutex<Vec<u8>>>::default();
        match held(&self.0).insert(name.to_string(), file.clone()) {
            None => Ok(Box::new(FileInMemory(file))),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OutboxFile>> {
        let file = held(&self.0).get(name).cloned();
        Ok(Box::new(FileInMemory(file.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = held(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_string(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        held(&self.0).remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

struct FileInMemory(Arc<Mutex<Vec<u8>>>);

impl OutboxFile for FileInMemory {
    fn bytes(&self) -> io::Result<u64> {
        Ok(held(&self.0).len() as u64)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = held(&self.0);
        let part = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = held(&self.0);
        let at = offset as usize; // files in memory are short
        let end = file.len().max(at + bytes.len());
        file.resize(end, 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        held(&self.0).truncate(bytes as usize); // files in memory are short
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
