//! Archiving against every stop of the machine, every failed write and sync, a full disk, and damage on both sides.

use std::sync::Arc;

use super::*;
use crate::log::{FoundLog, LogKind, LogReader, LogWriter, PlaceFinder};
use crate::testing::disk::{Faults, Seed, SimulatedDisk};

const OPTIONS: LogOptions =
    LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 24 << 10 };

type Read = Vec<(u64, i64, Vec<u8>)>;

fn storage(disk: &SimulatedDisk) -> WithArchive {
    let (log, archive) = (Arc::new(disk.folder("log")), Arc::new(disk.folder("archive")));
    WithArchive::new(log, Some(archive), OPTIONS)
}

fn read_by(storage: &dyn Storage) -> Result<Read, LogError> {
    let mut records = Vec::new();
    let mut reader = LogReader::open(storage, OPTIONS, 0, None)?;
    while let Some(record) = reader.next()? {
        records.push((record.offset, record.recorded_at, record.payload.to_vec()));
    }
    Ok(records)
}

fn read(disk: &SimulatedDisk) -> Read {
    read_by(&storage(disk)).unwrap()
}

/// A log of some segments, which some have an index, or what looks like one.
fn a_log() -> (SimulatedDisk, Read) {
    let disk = SimulatedDisk::default();
    let log = disk.folder("log");
    let (mut writer, _) =
        LogWriter::recover::<LogError>(Arc::new(log.clone()), OPTIONS, &mut |_| Ok(())).unwrap();
    for stamp in 0..30_u8 {
        writer.stage(1, 0, &[&vec![stamp; 100 * usize::from(stamp)]]).unwrap();
        writer.commit(i64::from(stamp)).unwrap();
    }
    let segments = ended_segments(&disk);
    assert!(segments.len() > 4);
    for segment in segments.iter().step_by(2) {
        disk.replace(&format!("log/{}", index_name(segment.start)), &[7; 700_000]);
    }
    let oldest = oldest_segment(&log, &OPTIONS).unwrap().unwrap();
    assert_eq!((oldest.offsets, oldest.has_index), (segments[0].clone(), true));
    let records = read(&disk);
    (disk, records)
}

/// Offsets of the ended segments in the log's folder.
fn ended_segments(disk: &SimulatedDisk) -> Vec<Range<u64>> {
    let mut bases: Vec<u64> =
        disk.folder("log").list().unwrap().iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    bases.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Archives the oldest segment.
fn archive_one(disk: &SimulatedDisk) -> Result<Option<ArchivedSegment>, ArchivingError> {
    let (log, archive) = (disk.folder("log"), disk.folder("archive"));
    let oldest = oldest_segment(&log, &OPTIONS).map_err(ArchivingError::Log)?.expect("there is one");
    archive_segment(&log, &archive, &OPTIONS, oldest.offsets, &|| true)
}

fn names(disk: &SimulatedDisk) -> Vec<String> {
    disk.files().into_iter().map(|(name, _)| name).collect()
}

/// Archives a segment behind one or two others, the third of which has an index, until no fault is left to meet, with one
/// fault after the other; gives how many there were. Power is lost with a seed, if there is one.
fn with_faults(before: usize, fault: impl Fn(u64) -> Faults, crash: Option<u64>) -> u64 {
    let (template, records) = a_log();
    for _ in 0..before {
        archive_one(&template).unwrap();
    }
    let finished = template.copy();
    archive_one(&finished).unwrap();
    let expected = names(&finished);
    for number in 1.. {
        let disk = template.copy();
        disk.set_faults(fault(number));
        let outcome = archive_one(&disk);
        if let Some(seed) = crash {
            disk.crash(seed * 1_000 + number);
        }
        disk.set_faults(Faults::default());
        assert_eq!(read(&disk), records, "fault {number}");
        let (_, recovery) =
            LogWriter::recover::<LogError>(Arc::new(storage(&disk)), OPTIONS, &mut |_| Ok(())).unwrap();
        assert_eq!(recovery.records, records.len() as u64);
        if outcome.is_ok() {
            assert_eq!(names(&disk), expected);
            return number;
        }
        // It goes on where it stood, unless all was done but said.
        let archived = archived_segments(&disk.folder("log"), &OPTIONS).unwrap();
        let is_here = names(&disk)
            .contains(&format!("log/{}", archived.get(before).map_or(String::new(), |s| s.file())));
        if archived.len() == before || is_here {
            archive_one(&disk).unwrap_or_else(|error| panic!("fault {number}: {error:?}"));
            assert_eq!(names(&disk), expected, "fault {number}: nothing is left behind");
        }
        assert_eq!(read(&disk), records, "fault {number}");
        for segment in archived_segments(&disk.folder("log"), &OPTIONS).unwrap() {
            check_archived(&storage(&disk), &OPTIONS, &segment).unwrap();
        }
    }
    unreachable!("some number is larger than all faults");
}

#[test]
fn a_machine_that_stops_anywhere_loses_nothing_and_archiving_goes_on() {
    for (before, stops) in [(1, 18), (2, 25)] {
        let stop = |number| Faults { stop_at: Some(number), ..Faults::default() };
        assert_eq!(with_faults(before, stop, None), stops);
        for seed in 1..6 {
            assert_eq!(with_faults(before, stop, Some(seed)), stops);
        }
    }
}

#[test]
fn a_write_or_sync_that_fails_leaves_the_log_whole() {
    for crash in [None, Some(1), Some(2)] {
        let writes = with_faults(2, |number| Faults { fail_write: Some(number), ..Faults::default() }, crash);
        let syncs = with_faults(2, |number| Faults { fail_sync: Some(number), ..Faults::default() }, crash);
        assert!(writes > 6 && syncs > 5, "{writes} writes, {syncs} syncs");
    }
}

#[test]
fn a_full_archive_is_said_and_tried_again() {
    let (disk, records) = a_log();
    let used: u64 = disk.files().iter().map(|(_, bytes)| *bytes as u64).sum();
    disk.set_faults(Faults { bytes_max: Some(used + 10_000), ..Faults::default() });
    let Err(ArchivingError::Archive(LogError::Io { source, .. })) = archive_one(&disk) else {
        panic!("the archive has no room");
    };
    assert_eq!((source.kind(), read(&disk)), (ErrorKind::StorageFull, records.clone()));
    disk.set_faults(Faults::default());
    archive_one(&disk).unwrap();
    assert_eq!(read(&disk), records);
}

#[test]
fn a_segment_goes_whole_with_its_index_and_leaves_a_stub() {
    let (disk, records) = a_log();
    let before = disk.copy();
    let ended = ended_segments(&disk);
    let archived: Vec<_> = ended.iter().map(|_| archive_one(&disk).unwrap().unwrap()).collect();
    assert_eq!(read(&disk), records);
    assert_eq!(archived_segments(&disk.folder("log"), &OPTIONS).unwrap(), archived);
    assert!(ended_segments(&disk).is_empty(), "the newest stays");
    for (segment, ended) in archived.iter().zip(&ended) {
        assert_eq!(segment.offsets(), *ended);
        for name in [segment.file(), index_name(segment.base)] {
            let had = names(&before).contains(&format!("log/{name}"));
            assert_eq!(names(&disk).contains(&format!("archive/{name}")), had);
            assert!(!names(&disk).contains(&format!("log/{name}")));
            if had {
                let (there, here) =
                    (disk.content(&format!("archive/{name}")), before.content(&format!("log/{name}")));
                assert!(there == here, "{name}");
            }
        }
    }
    assert!(missing_segments(&disk.folder("log"), &|| disk.folder("archive").list()).unwrap().is_empty());

    // Brought back, a segment counts again, whatever becomes of the archive.
    for (name, _) in disk.files().into_iter().filter(|(name, _)| name.starts_with("archive/")) {
        disk.replace(&name.replace("archive/", "log/"), &disk.content(&name));
        disk.lose(&name);
    }
    assert_eq!(read(&disk), records);
    archive_one(&disk).unwrap();
    assert_eq!(read(&disk), records, "and goes again");
}

/// What a reader is told of a segment that it cannot come by.
/// A segment that was brought back alone was taken for damage: its end was sought at the next one that is here.
#[test]
fn a_segment_that_is_brought_back_alone_counts_and_goes_again() {
    let (disk, records) = a_log();
    let whole = disk.copy();
    for _ in 0..3 {
        archive_one(&disk).unwrap();
    }
    let (log, archived) = (disk.folder("log"), names(&disk));
    let stubs = || archived_segments(&log, &OPTIONS).unwrap();
    let (all, segments) = (stubs(), ended_segments(&whole));
    assert_eq!(all.len(), 3);
    for back in 0..3 {
        let name = segment_name(segments[back].start);
        let bytes = whole.files().into_iter().find(|(file, _)| *file == format!("log/{name}")).unwrap().1;
        let file = whole.folder("log").open(&name, false).unwrap();
        let mut content = vec![0; bytes];
        file.read_at(0, &mut content).unwrap();
        disk.replace(&format!("log/{name}"), &content);
        assert_eq!(read(&disk), records);
        assert_eq!(stubs().len(), 2, "it lies here");
        let oldest = oldest_segment(&log, &OPTIONS).unwrap().unwrap();
        assert_eq!(oldest.offsets, segments[back]);
        assert!(oldest.recorded_until >= all[back].recorded_at.1, "all of it was stamped by then");
        assert_eq!(archive_one(&disk).unwrap().as_ref(), Some(&all[back]));
        assert_eq!((names(&disk), stubs()), (archived.clone(), all.clone()));
    }
    assert_eq!(read(&disk), records);
}

fn refusal(storage: &dyn Storage) -> (String, &'static str) {
    match read_by(storage) {
        Err(LogError::Archived { file, fault }) => match fault {
            ArchiveFault::MustBeGiven => (file, "must be given"),
            ArchiveFault::MustBeReachable(_) => (file, "must be reachable"),
            ArchiveFault::MustMatch => (file, "must match"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_archive_that_is_away_is_refused_by_name_and_needed_only_where_it_is_read() {
    let (disk, records) = a_log();
    let first = archive_one(&disk).unwrap().unwrap();
    let second = archive_one(&disk).unwrap().unwrap();
    let log: Arc<dyn Storage> = Arc::new(disk.folder("log"));
    assert_eq!(refusal(&*log), (first.file(), "must be given"), "a folder alone");
    let without = WithArchive::new(log.clone(), None, OPTIONS);
    assert_eq!(refusal(&without), (first.file(), "must be given"));
    let elsewhere = WithArchive::new(log.clone(), Some(Arc::new(disk.folder("elsewhere"))), OPTIONS);
    assert_eq!(refusal(&elsewhere), (first.file(), "must be reachable"));
    let missing = missing_segments(&*log, &|| disk.folder("elsewhere").list()).unwrap();
    assert_eq!(missing, [first.file(), second.file()]);

    let mut reader = LogReader::open(&*log, OPTIONS, second.end_offset, None).unwrap();
    let mut rest = 0;
    while reader.next().unwrap().is_some() {
        rest += 1;
    }
    let behind = records.iter().filter(|(offset, ..)| *offset >= second.end_offset);
    assert_eq!(rest, behind.count());
    let found = FoundLog::read::<LogError>(log.clone(), OPTIONS, second.end_offset, &mut |_| Ok(()));
    assert_eq!(found.unwrap().open().unwrap().1.records, rest as u64);

    // Places between segments are known all the same.
    let finder = PlaceFinder::new(&*log, OPTIONS, records.last().unwrap().0).unwrap();
    let place =
        |place: Option<crate::log::StampedPlace>| place.map(|place| (place.offset, place.recorded_until));
    assert_eq!(place(finder.by_stamp(first.recorded_at.1 - 1).unwrap()), None);
    for stamp in first.recorded_at.1..second.recorded_at.1 {
        let end = (first.end_offset, first.recorded_at.1);
        assert_eq!(place(finder.by_stamp(stamp).unwrap()), Some(end));
    }
    let (end, stamp) = (second.end_offset, second.recorded_at.1);
    assert_eq!(place(finder.by_stamp(stamp).unwrap()), Some((end, stamp)));
    assert_eq!(place(finder.by_offset(second.base + 1).unwrap()), Some((end, stamp)));
    assert_eq!(finder.by_offset(second.base).unwrap().unwrap().offset, second.base);
    assert!(finder.by_stamp(stamp + 1).unwrap().unwrap().offset > end);
}

#[test]
fn every_flipped_bit_of_an_archived_segment_is_refused_by_name() {
    let (disk, _) = a_log();
    let segment = archive_one(&disk).unwrap().unwrap();
    let file = format!("archive/{}", segment.file());
    let mut random = Seed::new(5);
    for _ in 0..400 {
        let (byte, bit) = (random.below(segment.bytes()) as usize, random.below(8) as u8);
        disk.flip(&file, byte, bit);
        match read_by(&storage(&disk)) {
            Err(LogError::Damaged { file, .. } | LogError::Archived { file, .. }) => {
                assert_eq!(file, segment.file());
            }
            other => panic!("byte {byte}: {other:?}"),
        }
        assert!(check_archived(&storage(&disk), &OPTIONS, &segment).is_err(), "byte {byte}");
        disk.flip(&file, byte, bit);
    }
    check_archived(&storage(&disk), &OPTIONS, &segment).unwrap();
    // A shorter or longer file is another one.
    for bytes in [segment.bytes() - 4_096, segment.bytes() + 4_096] {
        let whole = disk.content(&file);
        let mut other = whole.clone();
        other.resize(bytes as usize, 0);
        disk.replace(&file, &other);
        assert_eq!(refusal(&storage(&disk)), (segment.file(), "must match"));
        disk.replace(&file, &whole);
    }
    disk.flip(&format!("log/{}", stub_name(segment.base)), 70, 1);
    assert!(read_by(&storage(&disk)).is_err(), "a stub that does not validate says nothing");
}

#[test]
fn a_damaged_segment_and_a_foreign_file_stay_where_they_are() {
    let (disk, _) = a_log();
    let ended = ended_segments(&disk);
    let file = segment_name(ended[0].start);
    let before = names(&disk);
    disk.flip(&format!("log/{file}"), 5_000, 0);
    assert!(matches!(archive_one(&disk), Err(ArchivingError::Log(LogError::Damaged { .. }))));
    disk.flip(&format!("log/{file}"), 5_000, 0);
    let here = |disk: &SimulatedDisk| -> Vec<String> {
        names(disk).into_iter().filter(|name| name.starts_with("log/")).collect()
    };
    assert_eq!(here(&disk), before);
    disk.replace(&format!("archive/{file}"), b"somebody else's");
    let Err(ArchivingError::NameMustBeFree { file: named }) = archive_one(&disk) else {
        panic!("it is not free")
    };
    assert_eq!((named, here(&disk)), (file.clone(), before.clone()));
    assert_eq!(disk.content(&format!("archive/{file}")), b"somebody else's");
    disk.lose(&format!("archive/{file}"));
    let (log, archive) = (disk.folder("log"), disk.folder("archive"));
    let given_up = archive_segment(&log, &archive, &OPTIONS, ended[0].clone(), &|| false);
    assert_eq!((given_up.unwrap(), here(&disk)), (None, before));
    archive_one(&disk).unwrap();
}
