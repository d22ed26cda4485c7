//! Crashes, faults and flipped bits against the log.

use std::sync::Arc;

use super::*;
use crate::io::Storage;
use crate::testing::disk::{Faults, Seed, SimulatedDisk};

const OPTIONS: LogOptions =
    LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 24 << 10 };

type Read = Vec<(u64, u16, Vec<u8>)>;

fn read(disk: &SimulatedDisk) -> Result<Read, LogError> {
    let mut records = Vec::new();
    let mut reader = LogReader::open(disk, OPTIONS, 0, None)?;
    while let Some(record) = reader.next()? {
        assert_eq!(record.payload.as_ptr() as usize % 16, 0, "payloads are 16-aligned");
        records.push((record.offset, record.kind, record.payload.to_vec()));
    }
    Ok(records)
}

fn open(disk: &SimulatedDisk) -> Result<(LogWriter, Recovery), LogError> {
    LogWriter::recover::<LogError>(Arc::new(disk.clone()), OPTIONS, &mut |_| Ok(()))
}

fn cases() -> u64 {
    std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn what_was_committed_survives_any_crash_and_only_a_prefix_of_the_rest() {
    for seed in 0..cases() {
        let mut random = Seed::new(seed);
        let disk = SimulatedDisk::default();
        let (mut writer, _) = open(&disk).unwrap();
        let mut committed: Read = Vec::new();
        let mut recorded_at = 0;
        for _ in 0..random.below(60) {
            let mut staged = Vec::new();
            for _ in 0..=random.below(3) {
                let payload = vec![random.below(256) as u8; random.below(3_000) as usize];
                let kind = random.below(3) as u16;
                staged.push((
                    writer
                        .stage(kind, 7, &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]])
                        .unwrap(),
                    kind,
                    payload,
                ));
            }
            if random.below(3) == 0 && writer.needs_room() {
                // Making room may fail, and be given up half made; the log goes on without.
                if random.below(4) == 0 {
                    disk.set_faults(any_fault(&mut random));
                }
                let chunks = std::cell::Cell::new(random.below(4));
                let is_wanted = || chunks.replace(chunks.get().saturating_sub(1)) > 0;
                if let Ok(Some(room)) = SegmentRoom::make(&disk, &OPTIONS, &is_wanted) {
                    writer.take_room(room);
                }
                disk.set_faults(Faults::default());
            }
            match random.below(12) {
                0 => {
                    // A write or sync fails on the way and power is lost: the block may be torn, whole or not there.
                    // Opening may fail on the way too, and power be lost again.
                    disk.set_faults(any_fault(&mut random));
                    let failed = writer.commit(recorded_at).is_err();
                    disk.crash(random.below(u64::MAX >> 12));
                    disk.set_faults(any_fault(&mut random));
                    if random.below(2) == 0 && open(&disk).is_err() {
                        disk.crash(random.below(u64::MAX >> 12));
                    }
                    disk.set_faults(Faults::default());
                    (writer, _) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    let found = read(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    assert!(found.starts_with(&committed), "seed {seed}: committed records are there");
                    if !failed || found.len() > committed.len() {
                        committed.extend(staged);
                    }
                    assert_eq!(found, committed, "seed {seed}: a commit is whole or not there");
                }
                1 => {
                    // Power is lost while the log is closed: it may be marked as clean or not, and lost nothing.
                    writer.commit(recorded_at).unwrap();
                    committed.extend(staged);
                    disk.set_faults(any_fault(&mut random));
                    let _ = writer.close_cleanly();
                    disk.crash(random.below(u64::MAX >> 12));
                    let (opened, recovery) =
                        open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    assert_eq!(recovery.records as usize, committed.len(), "seed {seed}");
                    writer = opened;
                }
                2 => {
                    writer.commit(recorded_at).unwrap();
                    committed.extend(staged);
                    writer.close_cleanly().unwrap();
                    disk.crash(random.below(u64::MAX >> 12));
                    let (opened, recovery) =
                        open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    assert!(recovery.was_clean && recovery.torn_bytes == 0, "seed {seed}");
                    writer = opened;
                }
                _ => {
                    recorded_at += 5;
                    writer.commit(recorded_at - 10).unwrap();
                    committed.extend(staged);
                }
            }
        }
        disk.crash(seed);
        let (_, recovery) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(recovery.records as usize, committed.len(), "seed {seed}");
        assert_eq!(read(&disk).unwrap(), committed, "seed {seed}");
    }
}

#[test]
fn room_made_ahead_becomes_the_next_segment_and_unused_room_goes() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    let names = || disk.files().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let fill = |writer: &mut LogWriter| {
        writer.stage(1, 0, &[&[7; 7_000]]).unwrap();
        writer.commit(0).unwrap().ended_segment
    };
    assert_eq!((fill(&mut writer), writer.needs_room()), (None, true), "a segment holds two such blocks");
    writer.take_room(SegmentRoom::make(&disk, &OPTIONS, &|| true).unwrap().unwrap());
    assert_eq!(fill(&mut writer), None);
    assert_eq!(names(), ["00000000000000000000.seg", "next.room"]);
    assert_eq!(fill(&mut writer), Some(0), "the first segment was ended");
    assert_eq!(names(), ["00000000000000000000.seg", "00000000000000016384.seg"]);
    writer.take_room(SegmentRoom::make(&disk, &OPTIONS, &|| true).unwrap().unwrap());
    assert!(SegmentRoom::make(&disk, &OPTIONS, &|| true).is_err(), "a log has one at a time");
    // A reader beside the writer, a crash, and a clean end pass over it.
    assert_eq!(read(&disk).unwrap().len(), 3);
    disk.copy().crash(1);
    let (_, recovery) = open(&disk.copy()).unwrap();
    assert_eq!((recovery.records, recovery.torn_bytes), (3, 0));
    writer.close_cleanly().unwrap();
    assert_eq!(names(), ["00000000000000000000.seg", "00000000000000016384.seg", "CLEAN"]);
}

/// One write or one sync fails, as early as the first and as late as the last of a commit that makes a segment.
fn any_fault(random: &mut Seed) -> Faults {
    let number = Some(1 + random.below(4));
    match random.below(2) {
        0 => Faults { fail_sync: number, ..Faults::default() },
        _ => Faults { fail_write: number, ..Faults::default() },
    }
}

fn closed_log() -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    for number in 0..8u8 {
        writer.stage(1, 3, &[&vec![number; 5_000]]).unwrap();
        writer.commit(number.into()).unwrap();
    }
    writer.close_cleanly().unwrap();
    disk
}

#[test]
fn every_flipped_bit_of_a_closed_log_is_found_and_named() {
    let disk = closed_log();
    let files = disk.files();
    assert!(files.len() > 3, "several segments and the marker");
    for (name, bytes) in files {
        for byte in 0..bytes {
            let bit = (byte % 8) as u8;
            disk.flip(&name, byte, bit);
            match read(&disk) {
                Err(LogError::Damaged { file, .. }) => assert_eq!(file, name, "byte {byte}"),
                other => panic!("byte {byte} of {name}: {other:?}"),
            }
            disk.flip(&name, byte, bit);
        }
    }
    assert_eq!(read(&disk).unwrap().len(), 8);
}

#[test]
fn damage_before_the_last_block_is_refused_and_not_cut_off() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    for number in 0..2u8 {
        writer.stage(1, 3, &[&[number; 100]]).unwrap();
        writer.commit(1).unwrap();
    }
    let name = disk.files()[0].0.clone();
    disk.flip(&name, 4_096 + 100, 0);
    let error = open(&disk).err().unwrap().to_string();
    assert_eq!(error, format!("segment {name} is damaged at byte 4096: a block's checksum differs"));
    disk.flip(&name, 4_096 + 100, 0);
    disk.flip(&name, 8_192 + 100, 0);
    let (_, recovery) = open(&disk).unwrap();
    assert_eq!((recovery.records, recovery.torn_bytes), (1, 4_096));
}

#[test]
fn a_missing_or_foreign_segment_is_refused() {
    let disk = closed_log();
    let second = disk.files()[1].0.clone();
    disk.remove(&second).unwrap();
    assert!(matches!(read(&disk), Err(LogError::Damaged { .. })));
    let disk = closed_log();
    let first = disk.files()[0].0.clone();
    disk.remove(&first).unwrap();
    assert!(read(&disk).err().unwrap().to_string().contains("missing"));
    let disk = closed_log();
    let other = LogOptions { partition: 1, ..OPTIONS };
    assert!(matches!(LogReader::open(&disk, other, 0, None).map(|_| ()), Err(LogError::Damaged { .. })));
}

#[test]
fn a_segment_that_is_not_read_is_missed_all_the_same() {
    let disk = closed_log();
    let mut bases: Vec<u64> = disk.files().iter().filter_map(|(name, _)| format::base_of(name)).collect();
    bases.sort_unstable();
    let last = *bases.last().unwrap();
    assert!(bases.len() >= 4, "{bases:?}");
    let found = |disk: &SimulatedDisk| {
        FoundLog::read::<LogError>(Arc::new(disk.clone()), OPTIONS, last, &mut |_| Ok(())).err()
    };
    assert!(found(&disk).is_none());
    for base in &bases[1..bases.len() - 1] {
        let name = format::segment_name(*base);
        let missing = disk.copy();
        missing.lose(&name);
        let error = found(&missing);
        assert!(matches!(&error, Some(LogError::Damaged { file, .. }) if *file == name), "{error:?}");
        let cut = disk.copy();
        let bytes = cut.content(&name);
        cut.replace(&name, &bytes[..bytes.len() - 4_096]);
        assert!(matches!(found(&cut), Some(LogError::Damaged { .. })));
        let foreign = disk.copy();
        foreign.flip(&name, 24, 1);
        assert!(matches!(found(&foreign), Some(LogError::Damaged { .. })));
    }
}

#[test]
fn a_failed_sync_ends_the_writer() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    writer.stage(1, 0, &[b"a"]).unwrap();
    writer.commit(0).unwrap();
    disk.set_faults(Faults { fail_sync: Some(1), ..Faults::default() });
    writer.stage(1, 0, &[b"b"]).unwrap();
    assert!(matches!(writer.commit(0), Err(LogError::Io { doing: "sync", .. })));
    assert!(matches!(writer.commit(0), Err(LogError::WriterPoisoned { .. })));
    assert!(matches!(writer.stage(1, 0, &[b"c"]), Err(LogError::WriterPoisoned { .. })));
}

#[test]
fn a_full_disk_ends_the_writer_and_loses_nothing_committed() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    disk.set_faults(Faults { bytes_max: Some(60 << 10), ..Faults::default() });
    let mut committed = 0;
    let failure = loop {
        writer.stage(1, 0, &[&[7; 9_000]]).unwrap();
        match writer.commit(0) {
            Ok(_) => committed += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(failure, LogError::Io { .. }), "{failure:?}");
    disk.crash(3);
    let (_, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.records, committed);
}

#[test]
fn a_reader_with_a_bound_does_not_look_at_what_is_being_written() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    let mut offsets = Vec::new();
    for number in 0..20u8 {
        offsets.push(writer.stage(1, 0, &[&vec![number; 2_000]]).unwrap());
        writer.commit(0).unwrap();
    }
    let mut reader = LogReader::open(&disk, OPTIONS, offsets[4], Some(offsets[9])).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.push(record.offset);
    }
    assert_eq!(found, offsets[4..9]);
}

#[test]
fn a_segment_with_records_is_refused_and_kept_when_its_header_was_zeroed() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    writer.stage(1, 0, &[b"acknowledged"]).unwrap();
    writer.commit(0).unwrap();
    let name = disk.files()[0].0.clone();
    let file = disk.open(&name, true).unwrap();
    file.write_at(0, &[0; 4_096]).unwrap();
    file.sync_data().unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    assert_eq!(disk.files()[0].0, name, "the segment is still there");
}

/// Blocks of two logs, and of two places of one log, are equally whole; each belongs where it was written.
#[test]
fn a_block_validates_only_where_it_was_written() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    for number in 0..3u8 {
        writer.stage(1, 3, &[&[number; 100]]).unwrap();
        writer.commit(1).unwrap();
    }
    writer.close_cleanly().unwrap();
    let name = disk.files()[0].0.clone();
    let file = disk.open(&name, true).unwrap();
    let mut block = vec![0; 4_096];
    file.read_at(4_096, &mut block).unwrap();
    file.write_at(8_192, &block).unwrap();
    let error = read(&disk).err().unwrap().to_string();
    assert_eq!(
        error,
        format!("segment {name} is damaged at byte 8192: a block belongs to another log or offset")
    );
    let other = SimulatedDisk::default();
    let options = LogOptions { kind: LogKind::Control, ..OPTIONS };
    let (mut writer, _) =
        LogWriter::recover::<LogError>(Arc::new(other.clone()), options, &mut |_| Ok(())).unwrap();
    writer.stage(1, 3, &[&[0; 100]]).unwrap();
    writer.commit(1).unwrap();
    other.open(&name, false).unwrap().read_at(4_096, &mut block).unwrap();
    file.write_at(4_096, &block).unwrap();
    let error = read(&disk).err().unwrap().to_string();
    assert!(error.contains("byte 4096: a block belongs to another log or offset"), "{error}");
}

#[test]
fn a_torn_block_ends_where_its_header_says_and_what_lies_behind_is_damage() {
    let disk = SimulatedDisk::default();
    let (mut writer, _) = open(&disk).unwrap();
    for number in 0..3u8 {
        writer.stage(1, 3, &[&[number; 100]]).unwrap();
        writer.commit(1).unwrap();
    }
    let name = disk.files()[0].0.clone();
    disk.flip(&name, 8_192 + 100, 0);
    disk.flip(&name, 12_288 + 20, 0);
    let error = open(&disk).err().unwrap().to_string();
    assert_eq!(error, format!("segment {name} is damaged at byte 8192: a block's checksum differs"));
}

#[test]
fn a_marker_that_a_crash_left_unwritten_is_no_marker() {
    for bytes in [0, 64] {
        let disk = SimulatedDisk::default();
        let (mut writer, _) = open(&disk).unwrap();
        writer.stage(1, 0, &[b"acknowledged"]).unwrap();
        writer.commit(0).unwrap();
        let marker = disk.create("CLEAN").unwrap();
        marker.preallocate(bytes).unwrap();
        disk.sync_directory().unwrap();
        let (writer, recovery) = open(&disk).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        assert_eq!((recovery.records, recovery.was_clean), (1, false));
        assert!(disk.files().iter().all(|(name, _)| name != "CLEAN"));
        writer.close_cleanly().unwrap();
    }
}

/// A process died between making a segment and syncing its name; the next one went on in it, then power was lost.
#[test]
fn a_segment_whose_name_was_never_synced_survives_once_the_log_was_opened() {
    for seed in 0..16 {
        let disk = SimulatedDisk::default();
        let (mut writer, _) = open(&disk).unwrap();
        disk.set_faults(Faults { fail_sync: Some(2), ..Faults::default() });
        writer.stage(1, 0, &[b"lost"]).unwrap();
        writer.commit(0).unwrap_err();
        disk.set_faults(Faults::default());
        let (mut writer, _) = open(&disk).unwrap();
        writer.stage(1, 0, &[b"acknowledged"]).unwrap();
        writer.commit(0).unwrap();
        disk.crash(seed);
        let (_, recovery) = open(&disk).unwrap();
        assert_eq!(recovery.records, 1, "seed {seed}");
    }
}

/// A sync failed, so the kernel took the block for written and no later sync wrote it: it read well until power was lost,
/// and then a whole block stood behind a missing one.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again_when_the_log_is_opened() {
    // Of the first commit: the sync of the new segment, its name, the block; of a later one: the block.
    for (committed, failing) in [(0, 1), (0, 2), (0, 3), (2, 1)] {
        for seed in 0..16 {
            let disk = SimulatedDisk::default();
            let (mut writer, _) = open(&disk).unwrap();
            for number in 0..committed {
                writer.stage(1, 0, &[&[number; 100]]).unwrap();
                writer.commit(0).unwrap();
            }
            disk.set_faults(Faults { fail_sync: Some(failing), ..Faults::default() });
            writer.stage(1, 0, &[&[7; 9_000]]).unwrap();
            writer.commit(0).unwrap_err();
            disk.set_faults(Faults::default());
            // The process starts again; the machine goes on.
            let (mut writer, recovery) = open(&disk).unwrap();
            writer.stage(1, 0, &[b"acknowledged"]).unwrap();
            writer.commit(0).unwrap();
            disk.crash(seed);
            let found =
                open(&disk).unwrap_or_else(|error| panic!("{committed}, {failing}, {seed}: {error}")).1;
            assert_eq!(found.records, recovery.records + 1, "{committed}, {failing}, {seed}");
        }
    }
}

#[test]
fn a_place_is_found_by_its_stamp_and_by_its_offset() {
    for seed in 0..cases().min(50) {
        let mut random = Seed::new(seed);
        let disk = SimulatedDisk::default();
        let (mut writer, _) = open(&disk).unwrap();
        let mut places: Vec<StampedPlace> = Vec::new();
        let mut recorded_at = 10;
        for _ in 0..random.below(40) {
            recorded_at += random.below(3) as i64;
            // Some arrives by a clock that goes back before it is stamped.
            let received_at = recorded_at + [-3, 0, 2][random.below(3) as usize];
            writer.stage(0, received_at, &[&vec![1; random.below(9_000) as usize]]).unwrap();
            let offset = writer.commit(recorded_at).unwrap().end_offset;
            recorded_at = recorded_at.max(received_at);
            places.push(StampedPlace { offset, recorded_until: recorded_at });
        }
        // The log goes on behind what is looked at.
        let until = places.get(random.below(40) as usize).map_or(writer.next_offset(), |place| place.offset);
        let finder = PlaceFinder::new(&disk, OPTIONS, until).unwrap();
        places.retain(|place| place.offset <= until);
        for stamp in 0..recorded_at + 3 {
            let last = places.iter().rfind(|place| place.recorded_until <= stamp);
            assert_eq!(finder.by_stamp(stamp).unwrap().as_ref(), last, "{stamp} of {places:?}");
        }
        for offset in (1..until + 5_000).step_by(1_024).chain(places.iter().map(|place| place.offset)) {
            let first = places.iter().find(|place| place.offset >= offset);
            assert_eq!(finder.by_offset(offset).unwrap().as_ref(), first, "{offset} of {places:?}");
        }
    }
}

mod beside_a_writer;
