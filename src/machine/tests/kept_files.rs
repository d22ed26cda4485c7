//! Snapshots and runs against the logs: what is sound passes, and anything else is named, whatever its checksums say.

use std::error::Error;

use engine::snapshot::{Section, SectionKind, SnapshotError, SnapshotHead, SnapshotWriter, snapshot_name};
use engine::testing::disk::SimulatedDisk;
use wire::usage_record::{BatchRecordHead, KIND_USAGE_BATCH};
use wire::{BatchBuilder, IdMode};

use super::starts::{NOW, barrier, directory, logs_of, start};
use crate::{FoundSnapshots, KeptSnapshots, Recovered, ReplayMode, check_runs};

fn send(recovered: &mut Recovered, first: usize, count: usize) {
    let mut builder = BatchBuilder::new("shop", "call", IdMode::Given).without_event_checks();
    for number in first..first + count {
        // The last one is too old to count.
        let time = NOW - if number == 49 { 90 * domain::time::DAY } else { 0 };
        let id = format!("e{number}");
        builder.push_parts(id.as_bytes(), "key", time, &[("tokens", 1, 0)], &[]).unwrap();
    }
    let head = BatchRecordHead { producer: 7, refusals: Vec::new() }.encode();
    let frame = builder.finish(1, 0);
    recovered.usage.stage(KIND_USAGE_BATCH, NOW, &[&head, frame.as_slice()]).unwrap();
    recovered.usage.commit(NOW).unwrap();
}

/// A snapshot of the shards as a start found them, behind a new barrier; what `change` says is left out or changed.
fn save(
    disk: &SimulatedDisk,
    recovered: &mut Recovered,
    head_of: impl FnOnce(SnapshotHead) -> SnapshotHead,
    change: &mut dyn FnMut(&mut Section),
) -> String {
    let head = head_of(SnapshotHead {
        incarnation: 0,
        partition: 0,
        shards: 1,
        usage_offset: barrier(recovered),
        control_offset: recovered.control.next_offset(),
        history: recovered.replayer.machine.control().history(),
    });
    let folder = disk.folder("snapshots");
    let mut writer = SnapshotWriter::create(&folder, &head).unwrap();
    let shard = &mut recovered.replayer.shards[0];
    shard.begin_snapshot();
    while let Some(part) = shard.poll_snapshot() {
        part.for_each_section(&mut |mut section| {
            change(&mut section);
            writer.write(0, &section)
        })
        .unwrap();
    }
    writer.finish(&folder).unwrap();
    snapshot_name(head.usage_offset)
}

/// A directory with 50 events, of which 48 are in runs; gives what a start finds.
fn directory_with_runs() -> (SimulatedDisk, Recovered) {
    let disk = directory();
    let mut recovered = start(&disk).unwrap();
    (0..10).for_each(|batch| send(&mut recovered, batch * 5, 5));
    drop(recovered);
    let recovered = start(&disk).unwrap();
    (disk, recovered)
}

fn compare(disk: &SimulatedDisk) -> FoundSnapshots {
    let logs = logs_of(disk);
    let mut kept = KeptSnapshots::of(&logs).unwrap();
    for shards in kept.shards() {
        kept.replay(shards, ReplayMode::Derive).unwrap();
    }
    kept.finish()
}

fn said(found: &FoundSnapshots) -> String {
    let said = |error: &SnapshotError| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    found.wrong.iter().map(|(name, error)| format!("{name}: {}", said(error))).collect()
}

#[test]
fn what_a_server_saved_is_what_the_logs_say() {
    let (disk, mut recovered) = directory_with_runs();
    save(&disk, &mut recovered, |head| head, &mut |_| {});
    save(&disk, &mut recovered, |head| head, &mut |_| {});
    drop(recovered);
    let found = compare(&disk);
    assert_eq!((found.sound, found.unfinished, said(&found).as_str()), (2, 0, ""));
    let runs = check_runs(&logs_of(&disk)).unwrap();
    assert!(runs.sound > 0 && runs.wrong.is_empty());
    let empty = SimulatedDisk::default();
    drop(start(&empty).unwrap());
    assert_eq!((compare(&empty).sound, check_runs(&logs_of(&empty)).unwrap().sound), (0, 0));
}

/// Nobody ever read a snapshot but a start, which took for true whatever had the right checksums.
#[test]
fn a_snapshot_that_says_otherwise_is_named_though_its_checksums_are_right() {
    type Change = fn(&mut Section);
    let cases: [(Change, &str); 6] = [
        // An entry is identity, digest, position, time and standing: 41 bytes.
        (
            |section| cut(section, SectionKind::Dedup, 41),
            "Dedup of shard 0 is not what the logs say of slot ",
        ),
        (
            |section| flip(section, SectionKind::Dedup, 16),
            "Dedup of shard 0 is not what the logs say of slot ",
        ),
        (
            |section| cut(section, SectionKind::SetAside, 25),
            "SetAside of shard 0 is not what the logs say of the event at",
        ),
        (
            |section| flip(section, SectionKind::Counters, 9),
            "Counters of shard 0 is not what the logs say of source shop",
        ),
        (
            |section| cut(section, SectionKind::Counters, usize::MAX),
            "Counters of shard 0 is not what the logs say of source shop",
        ),
        (|section| cut(section, SectionKind::Runs, 13), "Dedup of shard 0 is not what the logs say of slot "),
    ];
    for (change, expected) in cases {
        let (disk, mut recovered) = directory_with_runs();
        let sound = save(&disk, &mut recovered, |head| head, &mut |_| {});
        let wrong = save(&disk, &mut recovered, |head| head, &mut |section| change(section));
        drop(recovered);
        let found = compare(&disk);
        assert_eq!(found.sound, 1, "{sound} is sound");
        let said = said(&found);
        assert!(said.starts_with(&format!("{wrong}: its section {expected}")), "{said}");
    }
}

fn cut(section: &mut Section, kind: SectionKind, bytes: usize) {
    if section.kind == kind {
        section.body.truncate(section.body.len().saturating_sub(bytes));
    }
}

fn flip(section: &mut Section, kind: SectionKind, byte: usize) {
    if section.kind == kind {
        section.body[byte] ^= 1;
    }
}

#[test]
fn a_snapshot_of_another_history_or_place_is_named() {
    let cases: [fn(SnapshotHead) -> SnapshotHead; 4] = [
        |head| SnapshotHead { history: [7; 32], ..head },
        |head| SnapshotHead { incarnation: 1, ..head },
        |head| SnapshotHead { shards: 70, ..head },
        // No barrier is there.
        |head| SnapshotHead { usage_offset: head.usage_offset + 16, ..head },
    ];
    for head_of in cases {
        let (disk, mut recovered) = directory_with_runs();
        let wrong = save(&disk, &mut recovered, head_of, &mut |_| {});
        drop(recovered);
        let said = said(&compare(&disk));
        assert_eq!(said, format!("{wrong}: it is not a snapshot of these logs and so many shards"));
    }
}

#[test]
fn every_flipped_bit_of_a_snapshot_is_named_and_one_without_its_end_is_what_a_crash_leaves() {
    let (disk, mut recovered) = directory_with_runs();
    let name = save(&disk, &mut recovered, |head| head, &mut |_| {});
    drop(recovered);
    let path = format!("snapshots/{name}");
    let bytes = disk.content(&path).len();
    for byte in (0..bytes).step_by(29).filter(|byte| !(76..80).contains(byte)) {
        let disk = disk.copy();
        disk.flip(&path, byte, 3);
        let found = compare(&disk);
        assert_eq!((found.sound, found.wrong.len()), (0, 1), "byte {byte}: {}", found.unfinished);
        assert!(said(&found).starts_with(&name), "byte {byte}: {}", said(&found));
    }
    for end in [0, 79, 80, bytes / 2, bytes - 21, bytes - 1] {
        let disk = disk.copy();
        disk.replace(&path, &disk.content(&path)[..end]);
        let found = compare(&disk);
        assert_eq!((found.sound, found.unfinished, said(&found).as_str()), (0, 1, ""), "{end} bytes");
    }
}

#[test]
fn every_flipped_bit_of_a_run_is_named() {
    let (disk, mut recovered) = directory_with_runs();
    let name = save(&disk, &mut recovered, |head| head, &mut |_| {});
    drop(recovered);
    let runs: Vec<String> = disk.files().into_iter().map(|(name, _)| name).collect();
    let run = runs.iter().rfind(|name| name.starts_with("runs/")).unwrap();
    let bytes = disk.content(run).len();
    for byte in (0..bytes).step_by(97) {
        let disk = disk.copy();
        disk.flip(run, byte, 3);
        let found = check_runs(&logs_of(&disk)).unwrap();
        assert_eq!(found.wrong.len(), 1, "byte {byte}");
        let said = found.wrong[0].to_string();
        assert!(said.contains(run.strip_prefix("runs/").unwrap()), "byte {byte}: {said}");
        assert!(compare(&disk).wrong.iter().all(|(of, _)| *of == name));
    }
    disk.lose(run);
    assert_eq!(said(&compare(&disk)), format!("{name}: run {} of remembered ids is missing", &run[5..]));
}
