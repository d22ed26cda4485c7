//! Runs as files: what is found of one that is missing, torn, damaged or another's.
//!
//! Invariants: a flipped bit anywhere in a file is found, or changes nothing that is asked for.

use std::sync::Arc;

use domain::EventPosition;
use domain::limits::EVENT_TIME_MIN;

use super::super::super::{Shard, ShardLoader};
use super::super::memtable::Memtable;
use super::super::{Seen, Standing};
use super::format::{Bounds, HEADER_BYTES, RunEntry, RunLog, RunName, key_of, run_name};
use super::run::{Kept, Run, RunError, RunFault};
use super::store::RunStore;
use super::work::{Inputs, RunJob};
use crate::io::Storage;
use crate::snapshot::SnapshotError;
use crate::testing::disk::SimulatedDisk;

const LOG: RunLog = RunLog { incarnation: 3, partition: 1, key_check: 99 };

fn identity(number: u64) -> u128 {
    u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn seen(number: u64) -> Seen {
    let (payload_digest, time) = (number * 31, EVENT_TIME_MIN + 5);
    Seen { payload_digest, position: EventPosition::new(number, 0), time, standing: Standing::Metered }
}

/// A disk with run 1 of shard 0, of so many entries; and what the run is called.
fn disk_and_name(entries: u64) -> (SimulatedDisk, RunName) {
    let disk = SimulatedDisk::default();
    let mut table = Memtable::default();
    for number in 0..entries {
        let vacant = table.look_up(identity(number), |_| true).unwrap_err();
        table.insert(vacant, seen(number));
    }
    let inputs = Inputs::Table(Arc::new(table));
    let job = RunJob { shard: 0, inputs, remembered_from: EventPosition::from_bits(0) };
    let run = store(&disk, LOG).work_off(job).unwrap().run.unwrap();
    (disk, run.name())
}

fn store(disk: &SimulatedDisk, log: RunLog) -> RunStore {
    RunStore::open(Arc::new(disk.folder("runs")), log).unwrap()
}

fn open(disk: &SimulatedDisk, name: RunName) -> Result<Run, RunError> {
    store(disk, LOG).open_run(0, name, Kept::All)
}

fn fault_of(opened: Result<Run, RunError>) -> RunFault {
    opened.err().expect("the run is of no use").fault
}

fn find(run: &Run, number: u64) -> Result<Option<Seen>, RunError> {
    run.find(key_of(identity(number)), &mut Vec::new(), |_| true)
}

#[test]
fn a_run_that_is_not_there_is_missing() {
    let (disk, name) = disk_and_name(10);
    disk.folder("runs").remove(&run_name(1)).unwrap();
    assert!(matches!(fault_of(open(&disk, name)), RunFault::MustBeThere));
    store(&disk, LOG).remove(1).unwrap();
}

#[test]
fn a_run_of_another_log_shard_or_number_is_not_believed() {
    let (disk, name) = disk_and_name(10);
    for log in
        [RunLog { incarnation: 4, ..LOG }, RunLog { partition: 0, ..LOG }, RunLog { key_check: 98, ..LOG }]
    {
        let opened = store(&disk, log).open_run(0, name, Kept::All);
        assert!(matches!(fault_of(opened), RunFault::MustBeOfThisLog));
    }
    let opened = store(&disk, LOG).open_run(1, name, Kept::All);
    assert!(matches!(fault_of(opened), RunFault::MustBeOfThisLog));
    disk.folder("runs").rename(&run_name(1), &run_name(2)).unwrap();
    let opened = store(&disk, LOG).open_run(0, RunName { number: 2, ..name }, Kept::All);
    assert!(matches!(fault_of(opened), RunFault::MustBeOfThisLog));
}

/// A run that a snapshot named was gone, and after a restart another run got its number: the snapshot found that one in its
/// place.
#[test]
fn a_number_that_is_named_is_not_given_to_another_run() {
    let (disk, name) = disk_and_name(10);
    let left = std::collections::BTreeSet::from([7, 4]);
    let store = store(&disk, LOG);
    store.avoid(&left);
    let job =
        RunJob { shard: 0, inputs: Inputs::Runs(vec![name]), remembered_from: EventPosition::from_bits(0) };
    assert_eq!(store.work_off(job).unwrap().run.map(|run| run.number()), Some(8));
}

/// A snapshot named its runs by their numbers alone. A folder of runs that was put back from a copy may have another run of
/// a number: the snapshot took it, and knew other ids than it had saved.
#[test]
fn a_snapshot_finds_no_other_run_of_a_number() {
    let (disk, name) = disk_and_name(10);
    let mut shard = Shard::new(0);
    shard.dedup.add_run(open(&disk, name).unwrap()).unwrap();
    shard.begin_snapshot();
    let mut sections = Vec::new();
    while let Some(part) = shard.poll_snapshot() {
        let push = &mut |section| {
            sections.push(section);
            Ok(())
        };
        part.for_each_section(push).unwrap();
    }
    let open_runs = |disk: &SimulatedDisk| {
        let mut loader = ShardLoader::new(0);
        sections.iter().for_each(|section| loader.take(section.kind, &section.body).unwrap());
        loader.open_runs(&store(disk, LOG))
    };
    for entries in [9, 11] {
        let opened = open_runs(&disk_and_name(entries).0);
        let Err(SnapshotError::RunMustBeReadable(error)) = opened else { panic!("{entries} ids are taken") };
        let said = "run 0000000000000001.run of remembered ids is another one than was named";
        assert_eq!(error.to_string(), said);
    }
    open_runs(&disk).unwrap();
}

#[test]
fn a_run_that_is_cut_off_or_too_long_is_torn() {
    let (disk, name) = disk_and_name(300);
    let file = disk.folder("runs").open(&run_name(1), true).unwrap();
    let size = file.size().unwrap();
    file.preallocate(size + 1).unwrap();
    assert!(matches!(fault_of(open(&disk, name)), RunFault::MustBeWhole { .. }));
    for bytes in [size - 1, size - 1_000, HEADER_BYTES as u64, 100, 0] {
        file.truncate(bytes).unwrap();
        assert!(matches!(fault_of(open(&disk, name)), RunFault::MustBeWhole { .. }), "{bytes} bytes");
    }
}

#[test]
fn any_flipped_bit_is_found_when_it_is_read() {
    let entries = 200;
    let (whole, name) = disk_and_name(entries);
    let bytes = whole.files()[0].1;
    for byte in (0..bytes).step_by(7) {
        let disk = whole.copy();
        disk.flip(&format!("runs/{}", run_name(1)), byte, (byte % 8) as u8);
        let Ok(run) = open(&disk, name) else { continue };
        assert!((HEADER_BYTES..run.header().index_at() as usize).contains(&byte), "byte {byte} is checked");
        let found = (0..entries).filter(|number| match find(&run, *number) {
            Ok(found) => {
                assert_eq!(found, Some(seen(*number)), "byte {byte} misleads");
                false
            }
            Err(error) => matches!(error.fault, RunFault::MustBeWhole { .. }),
        });
        assert!(found.count() > 0, "byte {byte} is of an entry");
    }
}

#[test]
fn an_index_that_is_not_kept_gives_what_a_kept_one_gives() {
    let (disk, name) = disk_and_name(1_000);
    let kept = open(&disk, name).unwrap();
    let past = store(&disk, LOG).open_run(0, name, Kept::Nothing).unwrap();
    assert!(kept.has_filter() && !past.has_filter());
    for number in 0..1_500 {
        let expected = (number < 1_000).then(|| seen(number));
        assert_eq!(find(&kept, number).unwrap(), expected);
        assert_eq!(find(&past, number).unwrap(), expected);
    }
}

/// Such an index is not checked as a whole: an end that a flipped bit moved far behind the last entry asked for 70 GB.
#[test]
fn a_flipped_bit_of_an_index_that_is_not_kept_is_found_when_it_is_read() {
    let entries = 200;
    let (whole, name) = disk_and_name(entries);
    let bytes = whole.files()[0].1;
    let index_at = open(&whole, name).unwrap().header().index_at() as usize;
    for (byte, bit) in (index_at..bytes).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
        let disk = whole.copy();
        disk.flip(&format!("runs/{}", run_name(1)), byte, bit);
        let Ok(past) = store(&disk, LOG).open_run(0, name, Kept::Nothing) else { continue };
        for number in 0..entries {
            match find(&past, number) {
                Ok(found) => assert_eq!(found, Some(seen(number)), "bit {bit} of byte {byte} misleads"),
                Err(error) => assert!(matches!(error.fault, RunFault::MustBeWhole { .. })),
            }
        }
    }
}

#[test]
fn a_crash_while_a_run_is_written_leaves_nothing_that_counts() {
    let (whole, name) = disk_and_name(100);
    let job = || {
        let inputs = Inputs::Runs(vec![name]);
        RunJob { shard: 0, inputs, remembered_from: EventPosition::from_bits(0) }
    };
    let merged = store(&whole.copy(), LOG).work_off(job()).unwrap().run.unwrap().name();
    for seed in 0..20 {
        let disk = whole.copy();
        let store = store(&disk, LOG);
        let mut work = store.begin(job()).unwrap();
        while work.step(10).unwrap() {}
        disk.set_faults(crate::testing::disk::Faults { stop_at: Some(1 + seed % 7), ..Default::default() });
        let done = work.finish(&store);
        let is_done = done.is_ok();
        disk.crash(seed);
        let names = disk.folder("runs").list().unwrap();
        if names.contains(&run_name(2)) {
            let run = self::store(&disk, LOG).open_run(0, merged, Kept::All).unwrap();
            assert!((0..100).all(|number| find(&run, number).unwrap() == Some(seen(number))));
        }
        assert!(!is_done || names.contains(&run_name(2)), "a finished run is durable");
        let again = self::store(&disk, LOG);
        again.keep_only(&std::collections::BTreeSet::from([1])).unwrap();
        assert_eq!(disk.folder("runs").list().unwrap(), [run_name(1)]);
    }
}

/// Found by fuzzing: a header that ends before its entries do left a merge without an output for them.
#[test]
fn an_entry_beyond_the_bounds_of_its_run_is_damage() {
    let positions = |last| (EventPosition::new(3, 0), EventPosition::new(last, 0));
    let bounds = Bounds::new(1, positions(9), (EVENT_TIME_MIN, EVENT_TIME_MIN + 5));
    let (layout, mut bytes) = (bounds.layout(), Vec::new());
    layout.encode(&bounds, &RunEntry { key: 1, seen: seen(9) }, &mut bytes);
    assert_eq!(layout.seen(&bounds, &bytes), Some(seen(9)));
    assert_eq!(layout.seen(&Bounds { positions: positions(8), ..bounds }, &bytes), None);
}
