//! The data directory: where each log lies, and how sealed content is stored in parts.
//!
//! ```text
//! DATA/LOCK  tokens.json  tokens.lock  dev-cert.pem  dev-key.pem
//! DATA/control/  DATA/usage-0/  DATA/charges/  DATA/journals/   one log each
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{LogKind, LogOptions, LogReader};
use engine::prepared::PreparedBatch;
use machine::History;
use wire::AlignedBytes;
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, decode_barrier};

use crate::disk::Directory;

/// Kind of the records of the control log.
pub const KIND_CONTROL: u16 = 1;
/// Kind of the records of the charge and journal logs: a part of stored content.
pub const KIND_STORED_PART: u16 = 1;
/// Content bytes of one part.
const PART_BYTES: usize = 1 << 20;
const PART_HEAD_BYTES: usize = 16;

/// The logs of a data directory.
#[derive(Clone)]
pub struct DataDirectory {
    path: PathBuf,
    incarnation: u32,
    segment_bytes: u64,
}

impl DataDirectory {
    /// A directory of the first incarnation.
    pub fn new(path: &Path, segment_bytes: u64) -> Self {
        Self { path: path.to_path_buf(), incarnation: 0, segment_bytes }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a log; made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn log(&self, kind: LogKind) -> Result<Arc<Directory>> {
        let path = self.path.join(folder_of(kind));
        let directory = Directory::open_or_create(&path);
        Ok(Arc::new(directory.with_context(|| format!("cannot open {}", path.display()))?))
    }

    /// The folder of a log that must exist.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn existing_log(&self, kind: LogKind) -> Result<Arc<Directory>> {
        let path = self.path.join(folder_of(kind));
        if !path.is_dir() {
            bail!("{} is not a data directory: it has no {}", self.path.display(), folder_of(kind));
        }
        self.log(kind)
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
        Ok(UsageHistory { log, options, key, shards })
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

/// Earlier usage, read again from the log.
pub struct UsageHistory {
    log: Arc<Directory>,
    options: LogOptions,
    key: IdentityKey,
    shards: usize,
}

impl History for UsageHistory {
    fn for_each_batch(
        &mut self,
        until: u64,
        fold: &mut dyn FnMut(&PreparedBatch, u64),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut reader = LogReader::open(&*self.log, self.options, 0, Some(until))?;
        let mut control_offset = 0;
        while let Some(record) = reader.next()? {
            match usage_item(
                record.kind,
                record.offset,
                record.received_at,
                record.payload,
                self.key,
                self.shards,
            )? {
                UsageItem::Batch(batch) => fold(&batch, control_offset),
                UsageItem::Barrier(offset) => control_offset = offset,
            }
        }
        Ok(())
    }
}

/// A record of the usage log.
pub enum UsageItem {
    /// A batch.
    Batch(Box<PreparedBatch>),
    /// A barrier with the control-log offset that it names.
    Barrier(u64),
}

/// Reads a record of the usage log.
///
/// # Errors
/// If the record is not what belongs into a usage log.
pub fn usage_item(
    kind: u16,
    offset: u64,
    received_at: i64,
    payload: &[u8],
    key: IdentityKey,
    shards: usize,
) -> Result<UsageItem> {
    let unreadable = || format!("the usage record at offset {offset} is unreadable");
    match kind {
        KIND_USAGE_BATCH => {
            let (head, frame) = BatchRecordHead::decode(payload).with_context(unreadable)?;
            let frame = Arc::new(AlignedBytes::copy_of(frame));
            let received_at = domain::Timestamp::from_nanoseconds(received_at);
            let mut batch = PreparedBatch::prepare(frame, Some(head.refusals), received_at, key, shards)
                .with_context(unreadable)?;
            batch.offset = offset;
            Ok(UsageItem::Batch(Box::new(batch)))
        }
        KIND_BARRIER => Ok(UsageItem::Barrier(decode_barrier(payload).with_context(unreadable)?)),
        _ => bail!("the usage record at offset {offset} is of unknown kind {kind}"),
    }
}

/// Content cut into parts: `{ number u64, part u32, parts u32 }` and bytes.
pub fn encode_parts(number: u64, bytes: &[u8]) -> Vec<Vec<u8>> {
    let chunks: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(PART_BYTES).collect() };
    let parts = u32::try_from(chunks.len()).expect("content is far below 4 PiB");
    chunks
        .into_iter()
        .enumerate()
        .map(|(index, chunk)| {
            let mut part = Vec::with_capacity(PART_HEAD_BYTES + chunk.len());
            part.extend_from_slice(&number.to_le_bytes());
            part.extend_from_slice(&(index as u32).to_le_bytes());
            part.extend_from_slice(&parts.to_le_bytes());
            part.extend_from_slice(chunk);
            part
        })
        .collect()
}

/// Stored content: its number, the offset of its first part, the offset behind its last, and its bytes.
pub struct StoredContent {
    /// Number of the batch or run.
    pub number: u64,
    /// Offset of the first part.
    pub offset: u64,
    /// Offset of the last part.
    pub last_offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Puts parts together again.
#[derive(Default)]
pub struct PartJoiner {
    open: Option<(StoredContent, u32)>,
}

impl PartJoiner {
    /// Takes the next part; gives the content when it is whole. Parts of content that a crash left incomplete are
    /// dropped when the next content starts.
    ///
    /// # Errors
    /// If a part does not follow.
    pub fn push(&mut self, offset: u64, part: &[u8]) -> Result<Option<StoredContent>> {
        let head = part.first_chunk::<PART_HEAD_BYTES>().context("a stored part is too short")?;
        let number = u64::from_le_bytes(head[..8].try_into()?);
        let index = u32::from_le_bytes(head[8..12].try_into()?);
        let parts = u32::from_le_bytes(head[12..].try_into()?);
        if index == 0 {
            self.open = Some((StoredContent { number, offset, last_offset: offset, bytes: Vec::new() }, 0));
        }
        let Some((content, next)) = &mut self.open else {
            bail!("stored content does not start with its first part")
        };
        if content.number != number || *next != index || index >= parts {
            bail!("a part of stored content does not follow the one before it");
        }
        content.bytes.extend_from_slice(&part[PART_HEAD_BYTES..]);
        content.last_offset = offset;
        *next += 1;
        Ok(if *next == parts { self.open.take().map(|(content, _)| content) } else { None })
    }
}

/// Stored content in the order of its offsets; its log is read once, however many entries there are.
pub struct ContentReader<'l> {
    log: LogReader<'l>,
    joiner: PartJoiner,
}

impl<'l> ContentReader<'l> {
    /// A reader of content that starts at `from` or behind, up to `until`.
    ///
    /// # Errors
    /// If the log is damaged.
    pub fn open(log: &'l dyn Storage, options: LogOptions, from: u64, until: u64) -> Result<Self> {
        let log = LogReader::open(log, options, from, Some(until))?;
        Ok(Self { log, joiner: PartJoiner::default() })
    }

    /// The content that starts at `offset`, which lies behind the one read before. What lies between, a crash left.
    ///
    /// # Errors
    /// If the log is damaged or holds no such content.
    pub fn read(&mut self, offset: u64) -> Result<Vec<u8>> {
        while let Some(record) = self.log.next()? {
            if let Some(content) = self.joiner.push(record.offset, record.payload)?
                && content.offset == offset
            {
                return Ok(content.bytes);
            }
        }
        bail!("stored content at offset {offset} is not whole")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::io::StorageFile;
    use engine::log::LogWriter;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn content_is_joined_from_parts_and_an_incomplete_one_is_dropped() {
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES - 1] {
            let content: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
            let parts = encode_parts(9, &content);
            let mut joiner = PartJoiner::default();
            if parts.len() > 1 {
                assert!(joiner.push(0, &parts[0]).unwrap().is_none(), "a crash left this behind");
            }
            let mut whole = None;
            for (index, part) in parts.iter().enumerate() {
                whole = joiner.push(index as u64, part).unwrap();
            }
            let whole = whole.unwrap();
            assert_eq!((whole.number, whole.bytes == content), (9, true));
        }
        let parts = encode_parts(1, &vec![0; 2 * PART_BYTES]);
        assert!(PartJoiner::default().push(0, &parts[1]).is_err());
    }

    /// A disk that counts the bytes that are read from it.
    struct Counted<T>(T, Arc<AtomicU64>);

    impl Storage for Counted<Arc<Directory>> {
        fn list(&self) -> io::Result<Vec<String>> {
            self.0.list()
        }
        fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
            self.0.create(name)
        }
        fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
            Ok(Box::new(Counted(self.0.open(name, is_writable)?, self.1.clone())))
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
        fn sync_directory(&self) -> io::Result<()> {
            self.0.sync_directory()
        }
    }

    impl StorageFile for Counted<Box<dyn StorageFile>> {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.0.read_at(offset, buffer)
        }
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, bytes)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }
        fn truncate(&self, bytes: u64) -> io::Result<()> {
            self.0.truncate(bytes)
        }
        fn preallocate(&self, bytes: u64) -> io::Result<()> {
            self.0.preallocate(bytes)
        }
    }

    /// Every entry was read with a reader of its own, from the start of its segment: a thousand small batches read half
    /// a million.
    #[test]
    fn content_is_read_once_however_many_entries_there_are() {
        let data = tempfile::tempdir().unwrap();
        let directory = DataDirectory::new(data.path(), 16 << 20);
        let (log, options) = (directory.log(LogKind::Charges).unwrap(), directory.options(LogKind::Charges));
        let (mut writer, _) =
            LogWriter::recover::<anyhow::Error>(log.clone(), options, &mut |_| Ok(())).unwrap();
        let mut store = |number: u64, parts: &[Vec<u8>]| {
            let offsets: Vec<u64> =
                parts.iter().map(|part| writer.stage(KIND_STORED_PART, 0, &[part]).unwrap()).collect();
            writer.commit(0).unwrap();
            (number, offsets[0], offsets[offsets.len() - 1] + 1)
        };
        let content = |number: u64| vec![number as u8; if number == 7 { 2 * PART_BYTES } else { 100 }];
        let mut entries = Vec::new();
        for number in 1..=100 {
            if number == 9 {
                // A crash left content that no seal names, and the start of some.
                store(number, &encode_parts(number, b"of another run"));
                store(number, &encode_parts(number, &content(7))[..1]);
            }
            entries.push(store(number, &encode_parts(number, &content(number))));
        }
        let read = Arc::new(AtomicU64::new(0));
        let disk = Counted(log, read.clone());
        let read_all = |entries: &[(u64, u64, u64)]| {
            let (_, from, _) = entries[0];
            let (_, _, until) = entries[entries.len() - 1];
            let mut reader = ContentReader::open(&disk, options, from, until).unwrap();
            for (number, offset, _) in entries {
                assert_eq!(reader.read(*offset).unwrap(), content(*number), "entry {number}");
            }
            read.swap(0, Ordering::Relaxed)
        };
        let whole = read_all(&entries);
        let last = read_all(&entries[99..]);
        let half = read_all(&entries[..50]);
        assert!(whole <= last + 8_192, "{whole} bytes for all, {last} for one that lies behind them");
        assert!(half < whole);
        assert!(ContentReader::open(&disk, options, 0, 10).unwrap().read(entries[3].1).is_err());
    }
}
