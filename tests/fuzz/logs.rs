//! Files that a start finds: segments, their indexes, snapshots, runs of ids.
//!
//! Owns: a log on a simulated disk, and what is wrong with it. Leaves to others: crashes (`engine`'s own tests, `sim`).

use std::sync::{Arc, OnceLock};

use domain::Timestamp;
use domain::plan::MeteringPlan;
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{LogError, LogIndex, LogKind, LogOptions, LogReader, LogWriter, Wanted, build_index};
use engine::shard::{RunLog, RunStore, ShardLoader};
use engine::snapshot::{Section, SectionKind, SnapshotHead, SnapshotWriter, read_snapshot, snapshot_name};
use engine::testing::disk::{SimulatedDisk, SimulatedFolder};
use engine::testing::runs::{mend_header, read_run, sound_run};
use wire::usage_record::{BatchRecordHead, KIND_USAGE_BATCH};
use wire::{BatchBuilder, IdMode};
#[cfg(test)]
use {engine::prepared::PreparedBatch, engine::shard::Shard, wire::AlignedBytes};

const OPTIONS: LogOptions =
    LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 16 << 10 };
const SEGMENT: &str = "00000000000000000000.seg";

fn folder_with(files: &[(&str, &[u8])]) -> SimulatedFolder {
    let folder = SimulatedDisk::default().folder("log");
    for (name, bytes) in files {
        let file = folder.create(name).expect("the name is free");
        file.write_at(0, bytes).expect("the disk has room");
        file.sync_data().expect("no fault is set");
    }
    folder.sync_directory().expect("no fault is set");
    folder
}

type Read = (Vec<(u64, u16, Vec<u8>)>, Option<LogError>);

fn read_all(storage: &dyn Storage) -> Read {
    let mut records = Vec::new();
    let mut reader = match LogReader::open(storage, OPTIONS, 0, None) {
        Ok(reader) => reader,
        Err(error) => return (records, Some(error)),
    };
    loop {
        match reader.next() {
            Ok(Some(record)) => records.push((record.offset, record.kind, record.payload.to_vec())),
            Ok(None) => return (records, None),
            Err(error) => return (records, Some(error)),
        }
    }
}

/// A log of one segment that is any bytes, and one that was sound until some of its bytes changed (`position, value` of
/// three bytes each). What recovery takes is there at the next start.
pub fn log(bytes: &[u8]) {
    recover(&folder_with(&[(SEGMENT, bytes)]));
    let mut segment = sound_log().0.clone();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % segment.len();
        segment[at] = change[2];
    }
    recover(&folder_with(&[(SEGMENT, &segment)]));
}

fn recover(folder: &SimulatedFolder) {
    let (before, error) = read_all(folder);
    let storage: Arc<dyn Storage> = Arc::new(folder.clone());
    let mut visited = 0;
    let recovered = LogWriter::recover(storage, OPTIONS, &mut |_| {
        visited += 1;
        Ok::<(), LogError>(())
    });
    assert_eq!(visited, before.len(), "recovery reads what a reader reads");
    assert_eq!(recovered.is_ok(), error.is_none(), "recovery refuses what a reader refuses");
    let Ok((mut writer, _)) = recovered else { return };
    let offset = writer.stage(1, 0, &[b"more"]).expect("a record fits");
    writer.commit(i64::MAX).expect("no fault is set");
    drop(writer);
    let (after, error) = read_all(folder);
    assert!(error.is_none(), "a recovered log is sound");
    assert_eq!(after[..before.len()], before[..], "nothing is lost by going on");
    assert_eq!(after[before.len()..], [(offset, 1, b"more".to_vec())]);
}

/// The files of a log: names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// The first segment of a sound log, and all its files, indexes too.
fn sound_log() -> &'static (Vec<u8>, Files) {
    static LOG: OnceLock<(Vec<u8>, Files)> = OnceLock::new();
    LOG.get_or_init(|| {
        let folder = folder_with(&[]);
        let storage: Arc<dyn Storage> = Arc::new(folder.clone());
        let (mut writer, _) =
            LogWriter::recover(storage, OPTIONS, &mut |_| Ok::<(), LogError>(())).expect("a new log");
        let head = BatchRecordHead { producer: 7, refusals: Vec::new() }.encode();
        let mut builder = BatchBuilder::new("source", "type", IdMode::Sequenced { epoch: 1, first: 0 });
        for number in 0..24i64 {
            for event in 0..20 {
                let time = Timestamp::MIN.nanoseconds() + event;
                let subject = if event % 2 == 0 { "a" } else { "b" };
                builder.push_parts(&[], subject, time, &[("n", 1, 0)], &[]).expect("the batch has room");
            }
            let frame = builder.finish(1, 0);
            writer.stage(KIND_USAGE_BATCH, 0, &[&head, &frame]).expect("a record fits");
            writer.commit(number).expect("no fault is set");
        }
        drop(writer);
        let ended =
            LogIndex::open(&folder, OPTIONS, IdentityKey::new(1)).expect("a sound log").ended_segments();
        for segment in ended {
            build_index(&folder, &OPTIONS, IdentityKey::new(1), segment.start, segment.end)
                .expect("a sound segment is indexed");
        }
        let files = folder.list().expect("no fault is set");
        let files = files.into_iter().map(|name| {
            let bytes = content_of(&folder, &name);
            (name, bytes)
        });
        let files: Files = files.collect();
        let first = files.iter().find(|(name, _)| name == SEGMENT).expect("the log's first segment");
        let segment = first.1.clone();
        (segment, files)
    })
}

fn content_of(folder: &SimulatedFolder, name: &str) -> Vec<u8> {
    let file = folder.open(name, false).expect("the file is there");
    let mut bytes = vec![0; usize::try_from(file.size().expect("no fault is set")).expect("a small file")];
    file.read_at(0, &mut bytes).expect("no fault is set");
    bytes
}

/// A log with an index that is any bytes: what it names must be parts of the log.
pub fn index(bytes: &[u8]) {
    let files = sound_log().1.iter().filter(|(name, _)| name.ends_with(".seg"));
    let mut files: Vec<(&str, &[u8])> =
        files.map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    files.push(("00000000000000000000.idx", bytes));
    let folder = folder_with(&files);
    let index = LogIndex::open(&folder, OPTIONS, IdentityKey::new(1)).expect("the log itself is sound");
    let _ = index.parts(Wanted::Subjects(&[7]), u64::MAX);
}

/// A snapshot that is any bytes, and one whose sections are any bytes behind sound checksums: a byte for the kind, two for
/// the length, then the body.
pub fn snapshot(bytes: &[u8]) {
    let head = SnapshotHead {
        incarnation: 0,
        partition: 0,
        shards: 1,
        usage_offset: 0,
        control_offset: 0,
        history: [0; 32],
    };
    load(&folder_with(&[(&snapshot_name(0), bytes)]));
    let folder = folder_with(&[]);
    let mut writer = SnapshotWriter::create(&folder, &head).expect("no fault is set");
    let mut rest = bytes;
    while let Some((&[kind, low, high], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(after.len());
        let body;
        (body, rest) = after.split_at(length);
        let section = Section {
            kind: SectionKind::ALL[usize::from(kind) % SectionKind::ALL.len()],
            body: body.to_vec(),
        };
        writer.write(0, &section).expect("no fault is set");
    }
    writer.finish(&folder).expect("no fault is set");
    load(&folder);
}

fn load(folder: &SimulatedFolder) {
    let mut loader = ShardLoader::new(0);
    let mut is_refused = false;
    let read = read_snapshot(folder, 0, |_| true, &mut |_, kind, body| {
        let taken = loader.take(kind, body);
        is_refused |= taken.is_err();
        taken
    });
    let log = RunLog { incarnation: 0, partition: 0, key_check: 0 };
    let runs = RunStore::open(Arc::new(folder_with(&[])), log).expect("no fault is set");
    if read.is_ok() && !is_refused && loader.open_runs(&runs).is_ok() {
        let _ = loader.finish(0, &Arc::new(MeteringPlan::default()));
    }
}

/// A run that is any bytes, and one that was sound until some of its bytes changed (`position, value` of three bytes each), with a
/// header that is believed if there is an odd number of bytes.
pub fn runs(bytes: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let _ = read_run(bytes);
    let mut run = SOUND.get_or_init(sound_run).clone();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % run.len();
        run[at] = change[2];
    }
    if bytes.len() % 2 == 1 {
        mend_header(&mut run);
    }
    let _ = read_run(&run);
}

/// The sections of a shard that took batches, as [`snapshot`] takes them.
#[cfg(test)]
pub(crate) fn sections_of(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut shard = Shard::new(0);
    let _ = shard.handle_barrier(0, &Arc::new(MeteringPlan::default()));
    for frame in frames {
        let frame = Arc::new(AlignedBytes::copy_of(frame));
        let batch = PreparedBatch::prepare(frame, None, Timestamp::MIN, IdentityKey::new(1), 1);
        let taken = shard.handle_batch(&batch.expect("a golden frame is sound"), &mut |_, _| {});
        taken.expect("no run is read");
    }
    shard.begin_snapshot();
    let mut bytes = Vec::new();
    let mut push = |section: Section| {
        let kind =
            SectionKind::ALL.iter().position(|kind| *kind == section.kind).expect("every kind is listed");
        bytes.push(kind as u8);
        bytes.extend_from_slice(&(section.body.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&section.body);
        Ok(())
    };
    while let Some(part) = shard.poll_snapshot() {
        part.for_each_section(&mut push).expect("nothing was spilled");
    }
    bytes
}

/// A sound segment, and its index.
#[cfg(test)]
pub(crate) fn sound_files() -> [Vec<u8>; 2] {
    let (segment, files) = sound_log();
    let index = files.iter().find(|(name, _)| name.ends_with(".idx")).expect("the first segment has ended");
    [segment.clone(), index.1.clone()]
}
