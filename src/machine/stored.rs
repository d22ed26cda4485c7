//! Sealed content in its log: charge batches and journals, stored in parts before their seal is recorded.
//!
//! Owns: the parts, joining them again, reading entries. Leaves to others: what the content says (`batch`, `journals`),
//! which of it a seal names (`recovery`).
//!
//! ```text
//! part   0 number u64   8 part u32   12 parts u32   16 bytes of the content
//! ```

use domain::Timestamp;
use engine::io::Storage;
use engine::log::{LogError, LogOptions, LogReader, LogWriter};

/// Kind of the records of the charge and journal logs: a part of stored content.
pub const KIND_STORED_PART: u16 = 1;
/// Content bytes of one part.
const PART_BYTES: usize = 1 << 20;
const PART_HEAD_BYTES: usize = 16;
/// Bytes that one commit gathers before it is written.
const COMMIT_BYTES_MAX: usize = 4 << 20;

/// Where a sealed batch or run of journals is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Number of the batch, or the order of the run.
    pub number: u64,
    /// Chain digest.
    pub digest: String,
    /// Offset of its first part in its log.
    pub offset: u64,
    /// Offset behind its last part.
    pub end_offset: u64,
}

/// Why stored content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// A record is no part, or not the one that follows.
    #[error("a part of stored content at offset {offset} does not follow the one before it")]
    PartMustFollow {
        /// Offset of the record.
        offset: u64,
    },
    /// The log ends before the content does.
    #[error("stored content at offset {offset} is not whole")]
    ContentMustBeWhole {
        /// Offset of its first part.
        offset: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Stores content durably; it may be sealed afterwards.
pub(crate) fn store(
    log: &mut LogWriter,
    number: u64,
    digest: &str,
    bytes: &[u8],
    at: Timestamp,
) -> Result<StoredEntry, LogError> {
    let mut first = None;
    for part in encode_parts(number, bytes) {
        let offset = log.stage(KIND_STORED_PART, at.nanoseconds(), &[&part])?;
        first.get_or_insert(offset);
        if log.staged_bytes() >= COMMIT_BYTES_MAX {
            log.commit(at.nanoseconds())?;
        }
    }
    log.commit(at.nanoseconds())?;
    let offset = first.expect("content has at least one part");
    Ok(StoredEntry { number, digest: digest.to_string(), offset, end_offset: log.next_offset() })
}

/// Content cut into parts: `{ number u64, part u32, parts u32 }` and bytes.
fn encode_parts(number: u64, bytes: &[u8]) -> Vec<Vec<u8>> {
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
    pub fn push(&mut self, offset: u64, part: &[u8]) -> Result<Option<StoredContent>, StoredError> {
        let unfit = || StoredError::PartMustFollow { offset };
        let head = part.first_chunk::<PART_HEAD_BYTES>().ok_or_else(unfit)?;
        let number = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        let index = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        let parts = u32::from_le_bytes(head[12..].try_into().expect("four bytes"));
        if index == 0 {
            self.open = Some((StoredContent { number, offset, last_offset: offset, bytes: Vec::new() }, 0));
        }
        let Some((content, next)) = &mut self.open else { return Err(unfit()) };
        if content.number != number || *next != index || index >= parts {
            return Err(unfit());
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
    pub fn open(log: &'l dyn Storage, options: LogOptions, from: u64, until: u64) -> Result<Self, LogError> {
        let log = LogReader::open(log, options, from, Some(until))?;
        Ok(Self { log, joiner: PartJoiner::default() })
    }

    /// The content that starts at `offset`, which lies behind the one read before. What lies between, a crash left.
    ///
    /// # Errors
    /// If the log is damaged or holds no such content.
    pub fn read(&mut self, offset: u64) -> Result<Vec<u8>, StoredError> {
        while let Some(record) = self.log.next()? {
            if let Some(content) = self.joiner.push(record.offset, record.payload)?
                && content.offset == offset
            {
                return Ok(content.bytes);
            }
        }
        Err(StoredError::ContentMustBeWhole { offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::io::StorageFile;
    use engine::log::LogKind;
    use engine::testing::disk::SimulatedDisk;
    use std::io;
    use std::sync::Arc;
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

    impl Storage for Counted<Arc<SimulatedDisk>> {
        fn list(&self) -> io::Result<Vec<String>> {
            self.0.list()
        }
        fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
            self.0.create(name)
        }
        fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
            Ok(Box::new(Counted(self.0.open(name, is_writable)?, self.1.clone())))
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
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
        let log = Arc::new(SimulatedDisk::default());
        let options =
            LogOptions { kind: LogKind::Charges, partition: 0, incarnation: 0, segment_bytes: 16 << 20 };
        let (mut writer, _) = LogWriter::recover::<LogError>(log.clone(), options, &mut |_| Ok(())).unwrap();
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
