//! The event path at a given number of remembered ids, beside a bare loop that does the same work on the same bytes.
//!
//! Goal: show what exact dedup costs as it grows, and how near the path is to what the machine can do, as a ratio of one
//! run. Not a goal: sockets (`loadgen`), what a cut costs (`cuts`).
//!
//! `cells` asks the same of many cells: the path with 10 thousand of them and with 10 million, beside as many ids.
//!
//! The bare loop: CRC of the batch, copy to a log buffer, subject lookup, payload digest, 128-byte buckets of eight
//! 16-byte identities, i128 add. The path: check, hash, decide, fold, and append to a log on disk through `LogWriter`,
//! past the page cache as the product does.
//! Times are those of the thread's processor, so that other work on the machine counts less; the wall is printed beside.
//!
//! `cargo bench -p engine --bench dedup`; `TALLYMARK_BENCH_IDS=1000000,16000000,128000000` chooses the remembered ids,
//! `TALLYMARK_BENCH_EVENTS` the measured events, `TALLYMARK_BENCH_CELLS=10000,10000000` the cells. With the tests it runs once, tiny.
//!
//! `TALLYMARK_BENCH_DEDUP_MEMORY=1073741824` bounds the memory as
//! `--dedup-memory` does: ids go to runs on disk, which a second thread writes and merges, and one event in a thousand repeats
//! any earlier one. `TALLYMARK_BENCH_DIR` says where. With `TALLYMARK_BENCH_SYNTHESIZED=1`, ids that fill runs are not fed but
//! written as runs (`dedup/synthesized.rs`), so that a billion of them need no more disk than they take in the end.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    clippy::print_stdout
)]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use domain::plan::{
    Aggregation, MeterProgram, MeteringPlan, NegativeUsage, OwnedSpan, Schedule, SubjectPlan,
};
use domain::time::HOUR;
use domain::{MeterId, Span, Subject, Timestamp, Zone};
use engine::identity::IdentityKey;
use engine::io::{Storage, StorageFile};
use engine::log::{LogError, LogKind, LogOptions, LogWriter};
use engine::prepared::PreparedBatch;
use engine::shard::{RunDone, RunJob, RunLog, RunStore, Shard};
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};
use wire::frame::FRAME_HEADER_BYTES;
use wire::usage::{EventId, UsageBatch};
use wire::verdict::Verdict;
use wire::{AlignedBytes, BatchBuilder, IdMode};

#[path = "dedup/synthesized.rs"]
mod synthesized;

const BATCH_EVENTS: u64 = 4_096;
/// Events whose frames are made together, beside the clock.
const FRAMES_TOGETHER: u64 = 1 << 20;
const SUBJECTS: usize = 5_000;
const LOG_BUFFER_BYTES: usize = 4 << 20;
const KEY: u128 = 0x5eed;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let number_of = |name: &str| std::env::var(name).ok().map(|text| numbers(&text));
    let resident = number_of("TALLYMARK_BENCH_IDS")
        .unwrap_or_else(|| if is_bench { vec![1_000_000, 16_000_000] } else { vec![10_000] });
    let measured = number_of("TALLYMARK_BENCH_EVENTS")
        .map_or(if is_bench { 2_000_000 } else { 10_000 }, |numbers| numbers[0]);
    let memory = number_of("TALLYMARK_BENCH_DEDUP_MEMORY").map(|numbers| numbers[0]);
    let is_synthesized = std::env::var_os("TALLYMARK_BENCH_SYNTHESIZED").is_some();
    if is_synthesized || !is_bench {
        let memory = memory.unwrap_or(1 << 20);
        for resident in &resident {
            println!("{resident} remembered in {memory} bytes, in runs that were not fed");
            if let Some(path) = synthesized::path(*resident, memory) {
                let path = path.measure(measured);
                synthesized::print_memory();
                drop(path);
            }
        }
        if is_bench {
            return;
        }
    }
    if let Some(memory) = memory.or((!is_bench).then_some(1 << 20)) {
        for resident in &resident {
            let mut producer = Producer::new(Ids::Given, subjects(SUBJECTS));
            producer.repeats = true;
            println!("{resident} remembered in {memory} bytes");
            Path::filled(producer, *resident, Some(memory)).measure(measured);
        }
    }
    let in_memory: &[Ids] = if is_bench && memory.is_some() { &[] } else { &[Ids::Given, Ids::Sequenced] };
    for &ids in in_memory {
        for resident in &resident {
            let path = Path::filled(Producer::new(ids, subjects(SUBJECTS)), *resident, None);
            println!("{ids:?} ids, {resident} remembered");
            path.measure(measured);
            if matches!(ids, Ids::Given) {
                bare(*resident, measured);
            }
        }
    }
    let cells = number_of("TALLYMARK_BENCH_CELLS")
        .unwrap_or_else(|| if is_bench { vec![10_000, 10_000_000] } else { vec![1_000, 10_000] });
    let resident = cells.iter().copied().max().unwrap_or_default();
    for cells in cells {
        let mut producer = Producer::new(Ids::Given, subjects(cells as usize / 2));
        producer.events.is_in_turn = true;
        let mut path = Path::filled(producer, resident, memory);
        path.producer.events.is_in_turn = false;
        println!("{cells} cells, {resident} remembered");
        path.measure(measured);
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(',').map(|number| number.trim().parse().expect("a number")).collect()
}

#[derive(Clone, Copy, Debug)]
enum Ids {
    /// 16 characters that look random.
    Given,
    /// Minted by one client.
    Sequenced,
}

/// Which "64-byte event" (a 16-byte id, a subject, a time, one value, two dimensions) has a number.
struct Events {
    start: i64,
    /// Between an event and the next one, in nanoseconds.
    time_step: i64,
    subjects: Vec<String>,
    /// Whether every subject comes once before the first comes again; otherwise any may be the next.
    is_in_turn: bool,
}

impl Events {
    fn time_of(&self, number: u64) -> i64 {
        self.start + number as i64 * self.time_step
    }

    fn push(&self, builder: &mut BatchBuilder, number: u64) {
        let mixed = mix(number);
        let id = hex(mixed);
        let id = if builder.next_sequence().is_some() { &[][..] } else { &id };
        let count = self.subjects.len() as u64;
        let place = if self.is_in_turn { number } else { mixed >> 32 } % count;
        let subject = &self.subjects[place as usize];
        let turn = if self.is_in_turn { number / count % 2 } else { mixed % 3 };
        let value = [("units", i128::from(number % 99_999), 2)];
        let dimensions = [("model", if turn == 0 { "large" } else { "small" }), ("region", "eu")];
        builder
            .push_parts(id, subject, self.time_of(number), &value, &dimensions)
            .expect("the batch has room");
    }
}

/// Frames of events, one after the other.
struct Producer {
    builder: BatchBuilder,
    events: Events,
    next: u64,
    /// One event in a thousand is an earlier one again.
    repeats: bool,
    repeated: u64,
}

impl Producer {
    fn new(ids: Ids, subjects: Vec<String>) -> Self {
        let mode = match ids {
            Ids::Given => IdMode::Given,
            Ids::Sequenced => IdMode::Sequenced { epoch: 1, first: 0 },
        };
        Self {
            builder: BatchBuilder::new("bench", "usage", mode),
            events: Events { start: start().nanoseconds(), time_step: 1, subjects, is_in_turn: false },
            next: 0,
            repeats: false,
            repeated: 0,
        }
    }

    fn frame(&mut self) -> AlignedBytes {
        for number in self.next..self.next + BATCH_EVENTS {
            let is_repeat = self.is_repeat(number);
            self.repeated += u64::from(is_repeat);
            let number = if is_repeat { mix(number) % (number - 900) / 1_000 * 1_000 } else { number };
            self.events.push(&mut self.builder, number);
        }
        self.next += BATCH_EVENTS;
        self.builder.finish(self.next, 0)
    }

    fn is_repeat(&self, number: u64) -> bool {
        self.repeats && number % 1_000 == 999
    }

    /// When a batch from an event on is received.
    fn received_at(&self, first: u64) -> Timestamp {
        Timestamp::from_nanoseconds(self.events.time_of(first + BATCH_EVENTS)).plus(HOUR)
    }

    fn frames(&mut self, events: u64) -> Vec<Arc<AlignedBytes>> {
        (0..events.div_ceil(BATCH_EVENTS)).map(|_| Arc::new(self.frame())).collect()
    }
}

/// A bijection, so that ids are distinct.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

fn hex(number: u64) -> [u8; 16] {
    std::array::from_fn(|digit| b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15])
}

fn start() -> Timestamp {
    Timestamp::parse("2026-01-15T00:00:00Z").expect("a constant instant")
}

fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number:06}")).collect()
}

fn plan(subjects: &[String]) -> Arc<MeteringPlan> {
    let schedule = Arc::new(Schedule::new(Zone::utc().month_starts()));
    let owned = OwnedSpan { span: Span::new(Timestamp::MIN, Timestamp::END), schedule };
    let subject_plan = || Arc::new(SubjectPlan { spans: vec![owned.clone()] });
    let subjects = subjects
        .iter()
        .map(|subject| (Subject::new(subject).expect("a short subject"), subject_plan()))
        .collect();
    let program = MeterProgram {
        meter: MeterId::new("units").expect("an id"),
        event_type: "usage".into(),
        aggregation: Aggregation::Sum,
        value: Some("units".into()),
        key: None,
        operation: None,
        group_by: vec!["model".into()],
        filter: Vec::new(),
        scale: 18,
        negative_usage: NegativeUsage::Reject,
        since_control_offset: 0,
    };
    Arc::new(MeteringPlan { programs: vec![program], subjects, ..MeteringPlan::default() })
}

/// Time of one part: of the thread's processor, and on the wall.
#[derive(Clone, Copy, Default)]
struct Spent {
    cpu: Duration,
    wall: Duration,
}

impl Spent {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (cpu, wall) = (cpu_now(), Instant::now());
        let out = work();
        self.cpu += cpu_now() - cpu;
        self.wall += wall.elapsed();
        out
    }

    fn print(&self, name: &str, events: u64) {
        let each = |time: Duration| time.as_nanos() as u64 * 10 / events;
        let (cpu, wall) = (each(self.cpu), each(self.wall));
        let rate = events * 1_000 / (self.cpu.as_micros() as u64).max(1);
        println!(
            "  {name:<24} {:>5}.{} ns of processor, {:>5}.{} ns of wall an event: {:>6} thousand a second",
            cpu / 10,
            cpu % 10,
            wall / 10,
            wall % 10,
            rate
        );
    }
}

fn cpu_now() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The product's path, with ids in memory.
struct Path {
    producer: Producer,
    shard: Shard,
    offset: u64,
    runs: Option<Runs>,
}

/// Who writes and merges runs, and where.
struct Runs {
    directory: tempfile::TempDir,
    jobs: Option<mpsc::Sender<RunJob>>,
    thread: Option<std::thread::JoinHandle<()>>,
    outcomes: mpsc::Receiver<RunDone>,
    store: Arc<RunStore>,
}

impl Runs {
    fn start() -> Self {
        let place = std::env::var("TALLYMARK_BENCH_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
        let directory = tempfile::tempdir_in(place).expect("a place for runs");
        let log = RunLog { incarnation: 0, partition: 0, key_check: 0 };
        let storage = Arc::new(Directory(directory.path().to_owned()));
        let store = Arc::new(RunStore::open(storage, log).expect("an empty folder"));
        let (jobs, queue) = mpsc::channel();
        let (done, outcomes) = mpsc::channel();
        let thread = std::thread::spawn({
            let store = store.clone();
            move || work_off(&store, &queue, &done)
        });
        Self { directory, jobs: Some(jobs), thread: Some(thread), outcomes, store }
    }

    /// As a shard's thread does; gives the time that it waited.
    fn serve(&self, shard: &mut Shard, is_waiting: bool) -> Duration {
        let started = Instant::now();
        loop {
            while let Ok(done) = self.outcomes.try_recv() {
                self.take(shard, done);
            }
            while let Some(job) = shard.poll_run_job() {
                self.jobs.as_ref().expect("not ended").send(job).expect("somebody writes runs");
            }
            if !is_waiting && !shard.must_wait_for_runs() {
                return started.elapsed();
            }
            match self.outcomes.recv_timeout(Duration::from_millis(200)) {
                Ok(done) => self.take(shard, done),
                Err(_) if is_waiting => return started.elapsed(),
                Err(_) => {}
            }
        }
    }

    fn take(&self, shard: &mut Shard, done: RunDone) {
        let retired = shard.handle_run_done(done);
        let numbers: Vec<u64> = retired.numbers().collect();
        drop(retired);
        numbers.into_iter().for_each(|number| self.store.remove(number).expect("the disk takes it"));
    }

    fn bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.directory.path()).expect("the folder of runs");
        files.map(|file| file.expect("a run").metadata().expect("a run").len()).sum()
    }
}

impl Drop for Runs {
    /// The folder goes when nobody writes into it any more.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("whoever writes runs does not panic");
        }
    }
}

/// Full tables come first, as in the server.
fn work_off(store: &RunStore, jobs: &mpsc::Receiver<RunJob>, done: &mpsc::Sender<RunDone>) {
    let mut works = Vec::new();
    loop {
        let job = if works.is_empty() { jobs.recv().ok() } else { jobs.try_recv().ok() };
        if let Some(job) = job {
            works.push((job.is_urgent(), store.begin(job).expect("runs can be read")));
            continue;
        }
        if works.is_empty() {
            return;
        }
        let index = works.iter().position(|(is_urgent, _)| *is_urgent).unwrap_or(0);
        if !works[index].1.step(1 << 16).expect("runs can be read and written") {
            let (_, work) = works.remove(index);
            // Nobody may wait for it any more.
            let _ = done.send(work.finish(store).expect("runs can be written"));
        }
    }
}

impl Path {
    fn filled(producer: Producer, resident: u64, memory: Option<u64>) -> Self {
        let mut shard = Shard::new(0);
        let _ = shard.handle_barrier(0, &plan(&producer.events.subjects));
        if let Some(memory) = memory {
            shard.set_table_entries_max((memory / 4 / 128) as usize);
        }
        let runs = memory.map(|_| Runs::start());
        let mut path = Self { producer, shard, offset: 0, runs };
        let started = Instant::now();
        path.fill(resident);
        if let Some(runs) = &path.runs {
            let rate = resident * 1_000 / (started.elapsed().as_millis() as u64).max(1);
            runs.serve(&mut path.shard, true);
            let (count, bytes) = (path.shard.runs(), runs.bytes());
            println!("filled with {rate} events a second of wall, {count} runs, {bytes} bytes of them");
        }
        path
    }

    fn wait(&mut self) -> Duration {
        self.runs.as_ref().map_or(Duration::ZERO, |runs| runs.serve(&mut self.shard, false))
    }

    /// Feeds events until there were so many.
    fn fill(&mut self, resident: u64) {
        while self.producer.next < resident {
            let first = self.producer.next;
            let frame = Arc::new(self.producer.frame());
            let batch = prepare(frame, self.producer.received_at(first));
            self.wait();
            let verdicts = self.handle(batch);
            self.check(first, &verdicts);
        }
    }

    /// Gives the verdicts of the events that are not new.
    fn handle(&mut self, mut batch: PreparedBatch) -> Vec<(u16, Verdict)> {
        batch.offset = self.offset;
        self.offset += batch.frame().len() as u64;
        let mut verdicts = Vec::new();
        let handled = self.shard.handle_batch(&batch, &mut |index, verdict| {
            if verdict != Verdict::Accepted {
                verdicts.push((index, verdict));
            }
        });
        handled.expect("runs can be read");
        verdicts
    }

    /// Every repeat is a duplicate, and nothing else is.
    fn check(&self, first: u64, verdicts: &[(u16, Verdict)]) {
        let repeats = (0..BATCH_EVENTS).filter(|index| self.producer.is_repeat(first + index));
        let duplicates = repeats.map(|index| (index as u16, Verdict::Duplicate));
        let are_right = duplicates.eq(verdicts.iter().copied());
        assert!(
            are_right,
            "of the events from {first} on: {:?}",
            verdicts.iter().take(8).collect::<Vec<_>>()
        );
    }

    fn measure(mut self, measured: u64) -> Self {
        let directory = tempfile::tempdir().expect("a place for a log");
        let storage = Arc::new(Directory(directory.path().to_owned()));
        let options =
            LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 64 << 20 };
        let (mut log, _) =
            LogWriter::recover::<LogError>(storage, options, &mut |_| Ok(())).expect("a new log");
        let (mut prepared, mut append, mut handle) = (Spent::default(), Spent::default(), Spent::default());
        let mut waited = Duration::ZERO;
        let until = self.producer.next + measured;
        let mut events = 0;
        while self.producer.next < until {
            let first = self.producer.next;
            let frames = self.producer.frames(FRAMES_TOGETHER.min(until - first));
            events += frames.len() as u64 * BATCH_EVENTS;
            for (first, frame) in (first..).step_by(BATCH_EVENTS as usize).zip(frames) {
                let received_at = self.producer.received_at(first);
                let batch = prepared.time(|| prepare(frame, received_at));
                append.time(|| {
                    if log.staged_bytes() + batch.frame().len() > LOG_BUFFER_BYTES {
                        log.commit(0).expect("the disk takes it");
                    }
                    log.stage(1, 0, &[&batch.frame()[..]]).expect("the record fits")
                });
                waited += self.wait();
                let verdicts = handle.time(|| self.handle(batch));
                self.check(first, &verdicts);
            }
        }
        append.time(|| log.commit(0).expect("the disk takes it"));
        prepared.print("check and hash", events);
        append.print("append to the log", events);
        handle.print("decide and fold", events);
        let parts = [prepared, append, handle];
        let whole =
            Spent { cpu: parts.iter().map(|p| p.cpu).sum(), wall: parts.iter().map(|p| p.wall).sum() };
        whole.print("the path", events);
        if let Some(runs) = &self.runs {
            println!("  waited for runs          {} ms in all", waited.as_millis());
            println!("  runs                     {}, {} bytes of them", self.shard.runs(), runs.bytes());
        }
        let new = self.producer.next - self.producer.repeated;
        assert_eq!(self.shard.remembered(), new, "every id is remembered once");
        self
    }
}

fn prepare(frame: Arc<AlignedBytes>, received_at: Timestamp) -> PreparedBatch {
    PreparedBatch::prepare(frame, None, received_at, IdentityKey::new(KEY), 1).expect("a valid batch")
}

/// The bare loop.
struct Bare {
    buckets: Vec<[u128; 8]>,
    subjects: foldhash::HashMap<String, u32>,
    cells: Vec<i128>,
    log: Vec<u8>,
}

fn bare(resident: u64, measured: u64) {
    let buckets = (resident + measured).div_ceil(6) as usize;
    let mut bare = Bare {
        buckets: vec![[0; 8]; buckets],
        subjects: subjects(SUBJECTS).into_iter().zip(0..).collect(),
        cells: vec![0; SUBJECTS * 2],
        log: Vec::with_capacity(LOG_BUFFER_BYTES),
    };
    let mut producer = Producer::new(Ids::Given, subjects(SUBJECTS));
    let mut new = 0;
    while producer.next < resident {
        new += bare.take(&producer.frame());
    }
    let frames = producer.frames(measured);
    let mut spent = Spent::default();
    for frame in &frames {
        new += spent.time(|| bare.take(frame));
    }
    spent.print("the bare loop", frames.len() as u64 * BATCH_EVENTS);
    assert_eq!(new, producer.next, "every id is new");
    black_box(&bare.cells);
}

impl Bare {
    fn take(&mut self, frame: &AlignedBytes) -> u64 {
        let header = wire::frame::FrameHeader::decode_slice(frame).expect("a header");
        let body = &frame[FRAME_HEADER_BYTES..];
        header.check_body(body).expect("the checksum matches");
        if self.log.len() + frame.len() > LOG_BUFFER_BYTES {
            self.log.clear();
        }
        self.log.extend_from_slice(frame);
        let batch = UsageBatch::reopen(&header, body).expect("a batch");
        let subjects: Vec<u32> =
            (0..batch.subject_count()).map(|entry| self.subjects[batch.subject(entry)]).collect();
        let identity = |event: usize| match batch.id(event) {
            EventId::Bytes(id) => u128::from_le_bytes(id.try_into().expect("16 bytes")),
            EventId::Sequenced { .. } => unreachable!("the bare loop takes ids of producers"),
        };
        let (values, dimensions) = (&batch.value_columns()[0], batch.dimension_columns());
        let mut new = 0;
        let mut touched = 0;
        for from in (0..batch.len()).step_by(32) {
            let events = from..batch.len().min(from + 32);
            for event in events.clone() {
                touched |= self.buckets[self.home(identity(event))][0];
            }
            for event in events {
                let value = values.value(event).expect("a value");
                let subject = subjects[batch.subject_index(event)];
                let model = dimensions[0].index(event).expect("a model");
                let region = dimensions[1].index(event).expect("a region");
                let digest =
                    mix(value as u64 ^ u64::from(subject) << 40 ^ (model as u64) << 20 ^ region as u64);
                black_box(digest);
                let identity = identity(event);
                let mut at = self.home(identity);
                loop {
                    let bucket = &mut self.buckets[at];
                    if bucket.contains(&identity) {
                        break;
                    }
                    if let Some(free) = bucket.iter().position(|one| *one == 0) {
                        bucket[free] = identity;
                        new += 1;
                        self.cells[subject as usize * 2 + model] += value;
                        break;
                    }
                    at = if at + 1 == self.buckets.len() { 0 } else { at + 1 };
                }
            }
        }
        black_box(touched);
        new
    }

    fn home(&self, identity: u128) -> usize {
        let mixed = mix(identity as u64 ^ (identity >> 64) as u64);
        ((u128::from(mixed) * self.buckets.len() as u128) >> 64) as usize
    }
}

/// A directory on disk.
struct Directory(PathBuf);

struct OpenFile {
    file: File,
    /// The same file past the page cache, where the file system has such writes.
    direct: Option<File>,
}

impl OpenFile {
    fn boxed(file: File, path: &std::path::Path) -> Box<dyn StorageFile> {
        const O_DIRECT: i32 = 0o40_000;
        let direct = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(path).ok();
        Box::new(Self { file, direct })
    }
}

impl Storage for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.0)?
            .map(|entry| entry.map(|entry| entry.file_name().into_string().expect("a name of ours")))
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.0.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(OpenFile::boxed(file, &path))
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        let path = self.0.join(name);
        Ok(OpenFile::boxed(OpenOptions::new().read(true).write(is_writable).open(&path)?, &path))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl StorageFile for OpenFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_soon(&self, offset: u64, bytes: u64) {
        let _ = fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let of_sectors = |number: u64| number.is_multiple_of(4_096);
        let is_direct = [offset, bytes.len() as u64, bytes.as_ptr().addr() as u64].map(of_sectors);
        let direct = self.direct.as_ref().filter(|_| is_direct == [true; 3]);
        direct.unwrap_or(&self.file).write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes.max(self.size()?))
    }
}
