//! Directories whose logs do not belong together: no start changes them, and none goes on from them.

use std::error::Error;
use std::sync::Arc;

use engine::log::{LogKind, LogOptions};
use engine::snapshot::{SnapshotHead, SnapshotWriter, snapshots};
use engine::testing::disk::SimulatedDisk;
use wire::control::{ClockKind, ControlRecord, Cut, Genesis, PolicyRecord};
use wire::correction::EventTakenBack;
use wire::usage_record::{KIND_BARRIER, encode_barrier};

use crate::snapshots::{NO_HISTORY, history_after};
use crate::{
    KIND_CONTROL, LogPlace, Logs, Recovered, RecoveryError, ReplayMode, ShardMemory, recover, replay,
};

pub(super) const NOW: i64 = 1_767_225_600_000_000_000;

pub(super) fn logs_of(disk: &SimulatedDisk) -> Logs {
    let place = |kind, folder: &str| LogPlace {
        storage: Arc::new(disk.folder(folder)),
        options: LogOptions { kind, partition: 0, incarnation: 0, segment_bytes: 24 << 10 },
    };
    Logs {
        control: place(LogKind::Control, "control"),
        usage: place(LogKind::Usage, "usage-0"),
        charges: place(LogKind::Charges, "charges"),
        journals: place(LogKind::Journals, "journals"),
        snapshots: Arc::new(disk.folder("snapshots")),
        runs: Arc::new(disk.folder("runs")),
        spilled: Arc::new(disk.folder("spilled")),
    }
}

fn policy() -> ControlRecord {
    ControlRecord::Policy(PolicyRecord {
        horizon: 35 * domain::time::DAY,
        future_max: domain::time::HOUR,
        pending_per_slot_max: 256,
        grace: 0,
        correction_horizon: 400 * domain::time::DAY,
    })
}

fn first_records() -> Vec<ControlRecord> {
    let genesis = Genesis {
        tenant: 0,
        incarnation: 0,
        identity_key: format!("{:032x}", 7),
        clock: ClockKind::Scenario,
        epoch: crate::RATING_EPOCH.to_string(),
        made_by: "a test".to_string(),
    };
    vec![ControlRecord::Genesis(genesis), policy()]
}

pub(super) fn start(disk: &SimulatedDisk) -> Result<Recovered, RecoveryError> {
    let memory = ShardMemory { table_entries_max: 16, sequence_bytes: 1 << 20 };
    recover(&logs_of(disk), 1, memory, || Ok((NOW, first_records())))
}

fn append(recovered: &mut Recovered, record: &ControlRecord) -> u64 {
    let offset = recovered.control.stage(KIND_CONTROL, NOW, &[&record.encode()]).unwrap();
    recovered.control.commit(NOW).unwrap();
    offset
}

pub(super) fn barrier(recovered: &mut Recovered) -> u64 {
    let named = encode_barrier(recovered.control.next_offset());
    let offset = recovered.usage.stage(KIND_BARRIER, NOW, &[&named]).unwrap();
    recovered.usage.commit(NOW).unwrap();
    offset
}

/// A directory with a control record and a barrier behind those of its beginning.
pub(super) fn directory() -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    let mut recovered = start(&disk).unwrap();
    barrier(&mut recovered);
    append(&mut recovered, &policy());
    barrier(&mut recovered);
    disk
}

fn said(error: &RecoveryError) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        said = format!("{said}: {error}");
        source = error.source();
    }
    said
}

/// What a start and a replay say of a directory, the same in both; the logs are as they were.
fn refusal(disk: &SimulatedDisk) -> String {
    let logs = ["control/", "usage-0/", "charges/", "journals/"];
    let content = || -> Vec<(String, Vec<u8>)> {
        let files = disk.files().into_iter().map(|(name, _)| name);
        let of_logs = files.filter(|name| logs.iter().any(|log| name.starts_with(log)));
        of_logs.map(|name| (name.clone(), disk.content(&name))).collect()
    };
    let before = content();
    let started = said(&start(disk).err().expect("a start is refused"));
    assert!(content() == before, "a refused start changes no log: {started}");
    for mode in [ReplayMode::Derive, ReplayMode::Load] {
        let replayed = replay(&logs_of(disk), 1, mode).err().expect("a replay is refused");
        assert!(started.starts_with(&said(&replayed)), "{started}; {}", said(&replayed));
    }
    started
}

fn lose_folder(disk: &SimulatedDisk, folder: &str) {
    let files = disk.files().into_iter().filter(|(name, _)| name.starts_with(folder));
    files.for_each(|(name, _)| disk.lose(&name));
}

/// Cuts the last block of a log off, as an older backup does not have it.
fn lose_last_block(disk: &SimulatedDisk, folder: &str) {
    let name = format!("{folder}/{:020}.seg", 0);
    let mut bytes = disk.content(&name);
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(end / 4_096 * 4_096);
    disk.replace(&name, &bytes);
}

#[test]
fn no_genesis_is_made_where_anything_is_left() {
    let disk = directory();
    let whole = disk.copy();
    lose_folder(&disk, "control/");
    assert!(refusal(&disk).starts_with("the control log does not start with a genesis record"));

    let disk = SimulatedDisk::default();
    disk.replace("snapshots/0000000000000064.snap", b"whatever");
    let error = start(&disk).err().expect("a start is refused");
    assert!(matches!(error, RecoveryError::ControlMustNotBeEmpty { what: "snapshots" }), "{error}");
    assert!(start(&SimulatedDisk::default()).is_ok() && start(&whole).is_ok());
}

#[test]
fn a_barrier_that_names_lost_control_records_is_refused() {
    let disk = directory();
    lose_last_block(&disk, "control");
    let said = refusal(&disk);
    assert!(said.contains("names the control log up to offset 8192, but that ends at 4096"), "{said}");
}

#[test]
fn a_barrier_that_names_less_than_one_before_it_is_refused() {
    let disk = directory();
    let mut recovered = start(&disk).unwrap();
    recovered.usage.stage(KIND_BARRIER, NOW, &[&encode_barrier(4_096)]).unwrap();
    recovered.usage.commit(NOW).unwrap();
    let said = refusal(&disk);
    assert!(said.contains("up to offset 4096, but one before it up to 8192"), "{said}");
}

#[test]
fn a_cut_or_a_correction_behind_the_end_of_the_usage_log_is_refused() {
    let cut = |barrier| {
        ControlRecord::Cut(Cut {
            number: 1,
            barrier,
            at: domain::Timestamp::from_nanoseconds(NOW),
            reason: "a test".to_string(),
        })
    };
    let void = |offset| {
        ControlRecord::EventVoid(EventTakenBack {
            source: "shop".to_string(),
            id: "e1".to_string(),
            offset,
            index: 0,
            actor: "tester".to_string(),
            reason: "a test".to_string(),
        })
    };
    for record in [&cut as &dyn Fn(u64) -> ControlRecord, &void] {
        let disk = directory();
        let mut recovered = start(&disk).unwrap();
        let place = barrier(&mut recovered);
        append(&mut recovered, &record(place));
        drop(recovered);
        lose_last_block(&disk, "usage-0");
        let said = refusal(&disk);
        let lost = format!(
            "the usage log ends at offset 8192, but the control record at offset 8256 names offset {place}"
        );
        assert!(said.starts_with(&lost), "{said}");
    }
}

#[test]
fn a_snapshot_of_this_history_behind_the_end_of_the_usage_log_is_refused() {
    for (is_ours, is_whole) in [(true, true), (true, false), (false, true)] {
        let disk = directory();
        let mut recovered = start(&disk).unwrap();
        let place = barrier(&mut recovered);
        let control_offset = recovered.control.next_offset();
        let records = recovered.replayer.machine.control().history();
        drop(recovered);
        let foreign = history_after(NO_HISTORY, 64, &policy());
        let head = SnapshotHead {
            incarnation: 0,
            partition: 0,
            shards: 1,
            usage_offset: place,
            control_offset,
            history: if is_ours { records } else { foreign },
        };
        let folder = disk.folder("snapshots");
        SnapshotWriter::create(&folder, &head).unwrap().finish(&folder).unwrap();
        if !is_whole {
            let name = disk.files().into_iter().find(|(name, _)| name.starts_with("snapshots/")).unwrap().0;
            let bytes = disk.content(&name);
            disk.replace(&name, &bytes[..80]);
        }
        assert!(start(&disk.copy()).is_ok(), "nothing is lost yet");
        lose_last_block(&disk, "usage-0");
        if is_ours {
            let said = refusal(&disk);
            let lost = format!("the usage log ends at offset 8192, but a snapshot names offset {place}");
            assert!(said.starts_with(&lost), "{said}");
        } else {
            assert_eq!(start(&disk).unwrap().left_aside.len(), 1, "another directory's proves nothing");
        }
    }
}

/// A snapshot of the directory as it is, behind a new barrier; gives the place of the barrier.
fn snapshot(disk: &SimulatedDisk, recovered: &mut Recovered) -> u64 {
    let head = SnapshotHead {
        incarnation: 0,
        partition: 0,
        shards: 1,
        usage_offset: barrier(recovered),
        control_offset: recovered.control.next_offset(),
        history: recovered.replayer.machine.control().history(),
    };
    let folder = disk.folder("snapshots");
    SnapshotWriter::create(&folder, &head).unwrap().finish(&folder).unwrap();
    head.usage_offset
}

/// A torn one took the place of a whole one: the last two that were kept were the torn one and the next.
#[test]
fn of_snapshots_the_last_two_whole_ones_are_kept() {
    let disk = directory();
    let mut recovered = start(&disk).unwrap();
    let (good, torn) = (snapshot(&disk, &mut recovered), snapshot(&disk, &mut recovered));
    drop(recovered);
    let name = |offset| format!("snapshots/{}", engine::snapshot::snapshot_name(offset));
    let bytes = disk.content(&name(torn));
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..40], &[]] {
        let disk = disk.copy();
        disk.replace(&name(torn), damaged);
        let mut recovered = start(&disk).unwrap();
        assert_eq!(recovered.left_aside.len(), 1, "{} bytes", damaged.len());
        let next = snapshot(&disk, &mut recovered);
        assert_eq!(snapshots(&disk.folder("snapshots")).unwrap(), [good, next]);
    }
}

/// One of another directory behind the end of the log took a place for ever.
#[test]
fn a_snapshot_behind_the_end_of_the_log_has_no_place_of_those_that_are_kept() {
    let disk = directory();
    let head = SnapshotHead {
        incarnation: 0,
        partition: 0,
        shards: 1,
        usage_offset: 1 << 30,
        control_offset: 4_096,
        history: [7; 32],
    };
    let folder = disk.folder("snapshots");
    SnapshotWriter::create(&folder, &head).unwrap().finish(&folder).unwrap();
    let mut recovered = start(&disk).unwrap();
    let kept = [snapshot(&disk, &mut recovered), snapshot(&disk, &mut recovered)];
    assert_eq!(snapshots(&folder).unwrap(), kept);
}
