//! A shard that remembers more ids than can be fed to it: its runs are written from ids that are made up in the order of
//! their keys, by the product's own writer, and opened as a start from a snapshot opens them.
//!
//! Goal: what a new event costs beside a billion remembered ids, and what memory that takes. Not a goal: what feeding and
//! merging them costs, since that is what is left out.
//!
//! Every identity in a run is that of an event that the producer would send, with its position and time. Digests of contents
//! are true for those that the producer repeats; the others are never asked for. Runs are as many and as large as the policy
//! leaves them, and ids that do not fill a table are fed.

use std::sync::Arc;

use domain::EventPosition;
use domain::time::DAY;
use engine::identity::{IdentityKey, SourceKey};
use engine::shard::synthesized::{Synthesized, SynthesizedRun, bytes_of_run, order_of, runs_of_tables};
use engine::shard::{RunStore, Shard, ShardLoader};
use engine::snapshot::SectionKind;
use wire::{BatchBuilder, IdMode};

use super::{BATCH_EVENTS, Ids, KEY, Path, Producer, Runs, SUBJECTS, hex, mix, numbers, plan, subjects};

/// Days over which the ids are spread.
const HORIZON_DAYS: i64 = 40;
/// Bytes of a batch in the log.
const BATCH_BYTES: u64 = 64 * BATCH_EVENTS;
/// One in so many is repeated, as the producer does it.
const REPEATED: u64 = 1_000;
/// Entries of 24 bytes that are sorted together.
const SORTED_ENTRIES: u64 = 100_000_000;
/// What is left of the disk, for the log and the runs of measured events.
const SPARE_BYTES: u64 = 3 << 30;

/// A path over so many ids, with this memory for them.
pub(super) fn path(resident: u64, memory: u64) -> Option<Path> {
    let table = memory / 4 / 128;
    let mut producer = Producer::new(Ids::Given, subjects(SUBJECTS));
    producer.repeats = true;
    producer.events.time_step = HORIZON_DAYS * DAY / resident as i64;
    let sizes = runs_of_tables(resident / table, table);
    let runs = Runs::start();
    let needed: u64 = sizes
        .iter()
        .map(|entries| bytes_of_run(*entries, positions(0, resident), times(&producer, 0, resident)))
        .sum();
    let needed = needed + SPARE_BYTES;
    let stat = rustix::fs::statvfs(runs.directory.path()).expect("the disk says how full it is");
    let free = stat.f_bavail * stat.f_frsize;
    if free < needed && !sizes.is_empty() {
        println!("  left out: the disk has {} MiB free and {} MiB are needed", free >> 20, needed >> 20);
        return None;
    }
    let (mut lines, mut first) = (Vec::new(), 0);
    for entries in sizes {
        lines.extend(write_run(&runs.store, &producer, first, entries));
        first += entries;
    }
    let opened = std::time::Instant::now();
    let shard = shard_over(&runs.store, &producer, &lines);
    println!("  runs of {first} ids were opened in {} ms", opened.elapsed().as_millis());
    producer.next = first;
    let offset = first.div_ceil(BATCH_EVENTS) * BATCH_BYTES;
    let mut path = Path { producer, shard, offset, runs: Some(runs) };
    path.shard.set_table_entries_max(table as usize);
    path.fill(resident);
    Some(path)
}

fn positions(first: u64, until: u64) -> (EventPosition, EventPosition) {
    (position(first), position(until - 1))
}

fn position(number: u64) -> EventPosition {
    EventPosition::new(number / BATCH_EVENTS * BATCH_BYTES, (number % BATCH_EVENTS) as u16)
}

fn times(producer: &Producer, first: u64, until: u64) -> (i64, i64) {
    (producer.events.time_of(first), producer.events.time_of(until - 1))
}

/// Writes the run of these events; gives its line in a snapshot.
fn write_run(store: &RunStore, producer: &Producer, first: u64, entries: u64) -> Vec<u8> {
    let until = first + entries;
    let digests = digests(producer, first, until);
    let key = IdentityKey::new(KEY).of_source("bench");
    let run = SynthesizedRun::begin(store, entries, positions(first, until), times(producer, first, until));
    let mut run = run.expect("the disk takes a run");
    let parts = entries.div_ceil(SORTED_ENTRIES) as u128;
    let mut sorted: Vec<(u64, u64, u64)> = Vec::new();
    for part in 0..parts {
        // Keys are even, so a part of their span has a part of the entries.
        let bound = |part: u128| ((part << 64) / parts) as u64;
        let is_in = |high: u64| high >= bound(part) && (part + 1 == parts || high < bound(part + 1));
        sorted.clear();
        sorted.reserve((entries as u128 / parts) as usize / 64 * 65);
        for number in first..until {
            let order = order_of(identity(&key, number));
            if is_in((order >> 64) as u64) {
                sorted.push(((order >> 64) as u64, order as u64, number));
            }
        }
        sorted.sort_unstable();
        for (_, _, number) in &sorted {
            let is_repeated = number.is_multiple_of(REPEATED);
            let digest = || digests[(number.div_ceil(REPEATED) - first.div_ceil(REPEATED)) as usize];
            let entry = Synthesized {
                identity: identity(&key, *number),
                payload_digest: if is_repeated { digest() } else { mix(*number) },
                position: position(*number),
                time: producer.events.time_of(*number),
            };
            run.push(&entry).expect("the disk takes a run");
        }
    }
    run.finish().expect("the disk takes a run")
}

fn identity(key: &SourceKey, number: u64) -> u128 {
    key.name_of_bytes(&hex(mix(number))).identity
}

/// Digests of the contents that are sent again, of the numbers from `first` on.
fn digests(producer: &Producer, first: u64, until: u64) -> Vec<u64> {
    let mut digests = Vec::new();
    let mut builder = BatchBuilder::new("bench", "usage", IdMode::Given);
    let numbers: Vec<u64> =
        (first.div_ceil(REPEATED)..until.div_ceil(REPEATED)).map(|one| one * REPEATED).collect();
    for numbers in numbers.chunks(BATCH_EVENTS as usize) {
        numbers.iter().for_each(|number| producer.events.push(&mut builder, *number));
        let frame = Arc::new(builder.finish(1, 0));
        let batch = super::prepare(frame, producer.received_at(first));
        digests.extend((0..numbers.len()).map(|index| batch.payload_digest(index as u16)));
    }
    digests
}

fn shard_over(store: &RunStore, producer: &Producer, lines: &[u8]) -> Shard {
    let mut loader = ShardLoader::new(0);
    loader.take(SectionKind::Runs, lines).expect("a list of runs");
    loader.open_runs(store).expect("runs that were just written");
    loader.finish(0, &plan(&producer.events.subjects)).expect("a shard without cells")
}

/// Prints what memory the process has now, and at most, and what its group has with the files that it read.
pub(super) fn print_memory() {
    let kibibytes = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default()
    };
    println!(
        "  resident                 {} MiB, at most {} MiB",
        kibibytes("VmRSS:") >> 10,
        kibibytes("VmHWM:") >> 10
    );
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = group.lines().find_map(|line| line.split_once(":memory:")) else { return };
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/memory{}/{name}", path.1));
    let number = |name: &str| read(name).ok().map_or(0, |text| numbers(&text)[0]);
    let limit = number("memory.limit_in_bytes");
    if limit < 1 << 50 {
        let stat = read("memory.stat").unwrap_or_default();
        let cache =
            stat.lines().find_map(|line| line.strip_prefix("cache ")).map_or(0, |text| numbers(text)[0]);
        println!(
            "  with files that it read  {} MiB of a limit of {} MiB, {} of them page cache; at most {}",
            number("memory.usage_in_bytes") >> 20,
            limit >> 20,
            cache >> 20,
            number("memory.max_usage_in_bytes") >> 20
        );
    }
}
