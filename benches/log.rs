//! Commits of the log beside a bare loop on the same disk, in the same run.
//!
//! Goal: what the log adds to the disk, as a ratio per size of a commit: the bare loop writes an aligned buffer with
//! O_DIRECT over a prewritten file and syncs, and does nothing else. Not a goal: the best that the disk can do with many
//! writes at once. Rounds of both alternate, and medians of rounds are printed. `cargo test --bench log` runs a little of
//! each size; `TALLYMARK_BENCH_DIR` names a directory of the disk to measure.
//!
//! Then the index of a log in which one subject is in one batch of 256: what making it takes, and what reading that subject
//! takes with it and without, as folding it again reads it.
#![allow(clippy::print_stdout)] // figures are its purpose

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{
    LogError, LogIndex, LogKind, LogOptions, LogReader, LogWriter, Part, SegmentRoom, Wanted, build_index,
};
use server::disk::Directory;
use wire::usage_record::{BatchRecordHead, KIND_USAGE_BATCH};
use wire::{BatchBuilder, IdMode};

const SEGMENT_BYTES: u64 = 64 << 20;
const SECTOR: usize = 4_096;
const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;

/// How the log is written.
#[derive(Clone, Copy)]
enum Way {
    /// Through the page cache, segments reserved when they start.
    Cached,
    /// Past the page cache, likewise.
    Direct,
    /// Past the page cache, segments written ahead, as a server does it.
    Ahead,
}

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, bytes_a_round) = if is_measured { (7, 192 << 20) } else { (1, 1 << 20) };
    let place = std::env::var_os("TALLYMARK_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!("MB/s, p50 us, p99 us of a commit, and of the bare loop");
    let heads = ["bare loop", "page cache", "O_DIRECT", "O_DIRECT, made ahead"];
    println!("{:>9}  {:>22}  {:>28}  {:>28}  {:>28}", "bytes", heads[0], heads[1], heads[2], heads[3]);
    for commit_bytes in [4 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let commits = (bytes_a_round / commit_bytes).clamp(1, 300);
        let mut taken = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            let directory = tempfile::tempdir_in(&place).expect("a directory can be made");
            let log = |way| log_commits(directory.path(), way, commit_bytes, commits);
            let bare = bare_loop(directory.path(), commit_bytes, commits);
            let round = [bare, log(Way::Cached), log(Way::Direct), log(Way::Ahead)];
            for (taken, round) in taken.iter_mut().zip(round) {
                taken.push(Round::of(commit_bytes, round));
            }
        }
        let [bare, cached, direct, ahead] = taken.map(|rounds| Round::median(&rounds));
        let beside = |round: Round| format!("{round} {:>5.2}", round.rate / bare.rate);
        let logs = [cached, direct, ahead].map(beside);
        println!("{commit_bytes:>9}  {bare:>22}  {:>28}  {:>28}  {:>28}", logs[0], logs[1], logs[2]);
    }
    let directory = tempfile::tempdir_in(&place).expect("a directory can be made");
    one_subject(&directory.path().join("log"), if is_measured { 2_048 } else { 300 });
}

/// What one round of commits took.
#[derive(Clone, Copy)]
struct Round {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

impl Round {
    fn of(commit_bytes: usize, mut took: Vec<Duration>) -> Self {
        let whole: Duration = took.iter().sum();
        took.sort_unstable();
        Self {
            rate: (commit_bytes * took.len()) as f64 / whole.as_secs_f64() / 1e6,
            p50: took[took.len() / 2],
            p99: took[took.len() * 99 / 100],
        }
    }

    fn median(rounds: &[Self]) -> Self {
        let middle = |of: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            rate: middle(&|round| round.rate),
            p50: Duration::from_secs_f64(middle(&|round| round.p50.as_secs_f64())),
            p99: Duration::from_secs_f64(middle(&|round| round.p99.as_secs_f64())),
        }
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.0} {:>7} {:>7}", self.rate, self.p50.as_micros(), self.p99.as_micros());
        f.pad(&text)
    }
}

fn bare_loop(directory: &Path, commit_bytes: usize, commits: usize) -> Vec<Duration> {
    let path = directory.join("bare");
    std::fs::write(&path, vec![0; SEGMENT_BYTES as usize]).expect("the file can be written");
    let file = OpenOptions::new().write(true).open(&path).expect("the file is there");
    file.sync_all().expect("the file can be synced");
    // A file system that refuses O_DIRECT is measured as it is.
    let direct = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(&path).unwrap_or(file);
    let room = vec![7; commit_bytes + SECTOR];
    let start = room.as_ptr().align_offset(SECTOR);
    let buffer = &room[start..start + commit_bytes];
    let slots = SEGMENT_BYTES as usize / commit_bytes;
    let commit = |number: usize| {
        let started = Instant::now();
        direct.write_all_at(buffer, ((number % slots) * commit_bytes) as u64).expect("the disk writes");
        direct.sync_data().expect("the disk syncs");
        started.elapsed()
    };
    (0..commits).map(commit).collect()
}

fn log_commits(directory: &Path, way: Way, commit_bytes: usize, commits: usize) -> Vec<Duration> {
    let path = directory.join(format!("log-{}", way as u8));
    let mut storage = Directory::open_or_create(&path).expect("a directory can be made");
    if let Way::Cached = way {
        storage = storage.through_page_cache();
    }
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let options =
        LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: SEGMENT_BYTES };
    let opened = LogWriter::recover::<LogError>(storage.clone(), options, &mut |_| Ok(()));
    let (mut writer, _) = opened.expect("a new log opens");
    let make_room = || SegmentRoom::make(&*storage, &options, &|| true).expect("the disk writes");
    if let Way::Ahead = way {
        writer.take_room(make_room().expect("it is wanted"));
    }
    // A block's header, and the headers of its records, are part of the commit.
    let records = commit_bytes.div_ceil(1 << 20);
    let payload = vec![7; (commit_bytes - 64) / records - 32 - 16];
    let commit = |_| {
        // A server makes it on another thread.
        if writer.needs_room() && matches!(way, Way::Ahead) {
            writer.take_room(make_room().expect("it is wanted"));
        }
        let started = Instant::now();
        for _ in 0..records {
            writer.stage(1, 0, &[&payload]).expect("the record fits");
        }
        writer.commit(0).expect("the disk writes");
        started.elapsed()
    };
    (0..commits).map(commit).collect()
}

/// Batches of 2,048 events of common subjects, one of 256 with one event of a rare one.
fn one_subject(directory: &Path, batches: u64) {
    let storage = Arc::new(Directory::open_or_create(directory).expect("a directory can be made"));
    let options =
        LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: SEGMENT_BYTES / 4 };
    let opened = LogWriter::recover::<LogError>(storage.clone(), options, &mut |_| Ok(()));
    let (mut writer, _) = opened.expect("a new log opens");
    let mut builder = BatchBuilder::new("bench", "usage", IdMode::Given);
    let head = BatchRecordHead { producer: 1, refusals: Vec::new() }.encode();
    for batch in 0..batches {
        for number in 0..2_048 {
            let id = format!("{:016x}", batch * 2_048 + number);
            let is_rare = batch % 256 == 0 && number == 0;
            let subject = if is_rare { "rare".to_string() } else { format!("key-{:04}", number % 1_000) };
            let (value, time) = ([("units", 7, 0)], 1_767_225_600_000_000_000);
            builder.push_parts(id.as_bytes(), &subject, time, &value, &[]).expect("the batch has room");
        }
        writer.stage(KIND_USAGE_BATCH, 0, &[&head, &builder.finish(1, 0)]).expect("the record fits");
        writer.commit(0).expect("the disk writes");
    }
    let (key, end) = (IdentityKey::new(7), writer.next_offset());
    let index = LogIndex::open(&*storage, options, key).expect("the log is whole");
    let segments = index.unindexed();
    let indexed = segments.last().map_or(0, |segment| segment.end);
    let read = || {
        let started = Instant::now();
        let mut reader = LogReader::open(&*storage, options, 0, Some(0)).expect("the log is whole");
        let wanted = [key.digest_of_subject("rare")];
        let mut bytes = 0;
        for part in index.parts(Wanted::Subjects(&wanted), indexed) {
            let Part::Read(range) = part else { continue };
            bytes += range.end - range.start;
            reader.seek(range);
            while reader.next().expect("the log is whole").is_some() {}
        }
        (bytes >> 10, started.elapsed())
    };
    let median = || {
        let mut taken: Vec<_> = (0..5).map(|_| read()).collect();
        taken.sort_unstable();
        taken[2]
    };
    let (whole_kib, whole) = median();
    let started = Instant::now();
    for segment in segments {
        build_index(&*storage, &options, key, segment.start, segment.end).expect("the disk writes");
    }
    let building = started.elapsed();
    let (some_kib, some) = median();
    println!("log of {} MiB, {} of them indexed in {building:?}", end >> 20, indexed >> 20);
    println!("one subject: whole log {whole_kib} KiB in {whole:?}, by the index {some_kib} KiB in {some:?}");
}
