//! The outbox on a faulty disk: torn writes, flipped bits, failed writes and syncs, no room, loss of power.
//!
//! Invariants: everything follows from a seed; `TALLYMARK_CASES` says how many are tried.

use std::io;

use engine::io::{Storage, StorageFile};
use engine::testing::disk::{Faults, Seed, SimulatedDisk};
use wire::{BatchBuilder, IdMode};

use super::folder::{Folder, OutboxFile};
use super::*;
use crate::Keeps;

impl Folder for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Storage::list(self)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OutboxFile>> {
        Ok(Box::new(Simulated(Storage::create(self, name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OutboxFile>> {
        Ok(Box::new(Simulated(Storage::open(self, name, true)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Storage::rename(self, from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Storage::remove(self, name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.sync_directory()
    }
}

struct Simulated(Box<dyn StorageFile>);

impl OutboxFile for Simulated {
    fn bytes(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn cases(default: u64) -> u64 {
    std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn options(sync: SyncPolicy) -> OutboxOptions {
    OutboxOptions { segment_bytes: 2_000, keeps: Keeps::Everything, ..OutboxOptions::new("unused", sync) }
}

fn open(disk: &SimulatedDisk, sync: SyncPolicy) -> (Outbox, Recovered) {
    Outbox::open_in(Box::new(disk.clone()), &options(sync)).unwrap()
}

/// A batch that tells its number.
fn frame(number: u64, events: u64) -> AlignedBytes {
    let mut builder = BatchBuilder::new("shop", "request", IdMode::Given);
    for event in 0..events {
        let id = format!("{number}-{event}");
        builder.push_parts(id.as_bytes(), "key", 1_767_225_600_000_000_000, &[], &[]).unwrap();
    }
    builder.finish(number + 1, 0)
}

fn number_of(stored: &Stored) -> u64 {
    FrameHeader::decode_slice(&stored.frame).unwrap().sequence - 1
}

/// Everything that can be read from the cursor on.
fn read_all(outbox: &mut Outbox) -> Vec<u64> {
    std::iter::from_fn(|| outbox.read().unwrap()).map(|stored| number_of(&stored)).collect()
}

#[test]
fn what_was_written_is_read_in_order_and_goes_when_it_is_acknowledged() {
    let disk = SimulatedDisk::default();
    let (mut outbox, recovered) = open(&disk, SyncPolicy::Never);
    assert_eq!(recovered, Recovered::default());
    let ends: Vec<Position> = (0..40).map(|number| outbox.append(&frame(number, 3)).unwrap()).collect();
    assert_eq!(read_all(&mut outbox), Vec::from_iter(0..40));
    assert!(disk.files().len() > 3, "files end");
    outbox.mark_acked(ends[24]).unwrap();
    outbox.remove_acked(ends[24]).unwrap();
    drop(outbox);
    let (mut outbox, recovered) = open(&disk, SyncPolicy::Never);
    assert_eq!((recovered.batches, recovered.events, recovered.torn_bytes), (15, 45, 0));
    assert_eq!(recovered.source.as_deref(), Some("shop"));
    assert_eq!(read_all(&mut outbox), Vec::from_iter(25..40));
    let last = outbox.append(&frame(40, 1)).unwrap();
    assert_eq!(read_all(&mut outbox), [40]);
    outbox.close(last).unwrap();
    assert_eq!(disk.files(), [], "nothing is left of what is acknowledged");
}

/// Such a mark made every batch of the outbox acknowledged, for ever.
#[test]
fn a_mark_says_nothing_of_what_lies_behind_it() {
    let disk = SimulatedDisk::default();
    let (mut outbox, _) = open(&disk, SyncPolicy::Never);
    outbox.append(&frame(0, 1)).unwrap();
    outbox.mark_acked(Position { file: 7, offset: 0 }).unwrap();
    drop(outbox);
    for next in 1..9 {
        let (mut outbox, recovered) = open(&disk, SyncPolicy::Never);
        assert_eq!(recovered.batches, next, "nothing was acknowledged");
        outbox.append(&frame(next, 1)).unwrap();
        assert_eq!(read_all(&mut outbox), Vec::from_iter(0..=next));
    }
}

/// It was counted as a batch, and never sent.
#[test]
fn a_record_of_a_kind_that_is_not_known_is_refused() {
    let files = crate::testing::OutboxFiles::default();
    files.add_record(0, 1, &frame(0, 1));
    assert_eq!(files.visit(&[]).unwrap().0.batches, 1);
    files.add_record(0, 3, &frame(1, 1));
    let refused = files.visit(&[]).unwrap_err();
    assert!(
        refused.to_string().ends_with("00000000000000000000.outbox: a later client wrote kind 3"),
        "{refused}"
    );
}

#[test]
fn a_full_outbox_takes_nothing_and_loses_nothing() {
    let disk = SimulatedDisk::default();
    let limited = OutboxOptions { bytes_max: 5_000, ..options(SyncPolicy::EachBatch) };
    let (mut outbox, _) = Outbox::open_in(Box::new(disk.clone()), &limited).unwrap();
    let taken = (0..100).take_while(|number| outbox.append(&frame(*number, 3)).is_ok()).count() as u64;
    assert!((10..30).contains(&taken), "{taken}");
    assert!(outbox.bytes() <= 5_000);
    assert_eq!(read_all(&mut outbox), Vec::from_iter(0..taken));
    let all = Position { file: 0, offset: u64::MAX };
    outbox.remove_acked(all).unwrap();
    outbox.append(&frame(taken, 3)).unwrap();
    assert_eq!(read_all(&mut outbox), [taken]);
}

/// Each retry on a full disk, twice a second, left one more empty file.
#[test]
fn a_disk_that_stays_full_gathers_no_empty_files() {
    for sync in [SyncPolicy::Never, SyncPolicy::EachBatch] {
        let disk = SimulatedDisk::default();
        let (mut outbox, _) = open(&disk, sync);
        outbox.append(&frame(0, 3)).unwrap();
        let bytes = disk.files().iter().map(|(_, bytes)| *bytes as u64).sum();
        disk.set_faults(Faults { bytes_max: Some(bytes), ..Faults::default() });
        for _ in 0..50 {
            assert!(outbox.append(&frame(1, 3)).is_err(), "the disk is full");
        }
        assert_eq!(disk.files().len(), 1, "{:?}", disk.files());
        disk.set_faults(Faults::default());
        outbox.append(&frame(1, 3)).unwrap();
        assert_eq!((read_all(&mut outbox), disk.files().len()), (vec![0, 1], 2));
        drop(outbox);
        assert_eq!(open(&disk, sync).1.batches, 2);
    }
}

/// Names that cannot be synced left a file of which nobody knew.
#[test]
fn a_file_whose_name_cannot_be_synced_goes_again() {
    let disk = SimulatedDisk::default();
    let (mut outbox, _) = open(&disk, SyncPolicy::EachBatch);
    disk.set_faults(Faults { fail_sync: Some(1), ..Faults::default() });
    assert!(outbox.append(&frame(0, 1)).is_err());
    assert_eq!(disk.files(), []);
    outbox.append(&frame(0, 1)).unwrap();
    assert_eq!((read_all(&mut outbox), disk.files().len()), (vec![0], 1));
}

/// Runs an outbox with a fault until it fails or is done; gives what was stored (and synced), and what was acknowledged.
fn run(disk: &SimulatedDisk, seed: &mut Seed, sync: SyncPolicy, first: u64) -> (u64, Vec<u64>, u64) {
    let (mut outbox, _) = open(disk, sync);
    let mut number = first;
    let mut synced = Vec::new();
    let mut acked_below = first;
    let mut ends: Vec<(u64, Position)> = Vec::new();
    for _ in 0..seed.below(40) {
        let mut group = Vec::new();
        for _ in 0..=seed.below(3) {
            if let Ok(end) = outbox.append(&frame(number, 1 + seed.below(5))) {
                group.push((number, end));
            }
            number += 1;
        }
        // A batch counts as stored when the sync of its group succeeded.
        if outbox.sync().is_ok() {
            synced.extend(group.iter().map(|(number, _)| *number));
            ends.extend(group);
        }
        if seed.below(4) == 0 && !ends.is_empty() {
            let (acked, end) = ends[seed.below(ends.len() as u64) as usize];
            let _ = outbox.mark_acked(end);
            let _ = outbox.remove_acked(end);
            acked_below = acked_below.max(acked + 1);
        }
    }
    (number, synced, acked_below)
}

/// A batch that was stored is there after power is lost, whatever failed before; what is there was written; order stays.
#[test]
fn a_loss_of_power_takes_nothing_that_was_synced() {
    for case in 0..cases(300) {
        let mut seed = Seed::new(case);
        let disk = SimulatedDisk::default();
        let (mut first, mut expected, mut acked_below) = (0, Vec::new(), 0);
        for round in 0..3 {
            match seed.below(5) {
                0 => disk.set_faults(Faults { fail_sync: Some(1 + seed.below(20)), ..Faults::default() }),
                1 => disk.set_faults(Faults { fail_write: Some(1 + seed.below(40)), ..Faults::default() }),
                2 => disk.set_faults(Faults { bytes_max: Some(seed.below(20_000)), ..Faults::default() }),
                3 => disk.set_faults(Faults { stop_at: Some(1 + seed.below(80)), ..Faults::default() }),
                _ => {}
            }
            let (next, synced, acked) = run(&disk, &mut seed, SyncPolicy::EachBatch, first);
            (first, acked_below) = (next, acked_below.max(acked));
            expected.extend(synced);
            disk.crash(seed.below(u64::MAX));
            let (mut outbox, recovered) = open(&disk, SyncPolicy::EachBatch);
            let found = read_all(&mut outbox);
            assert_eq!(found.len() as u64, recovered.batches, "case {case} round {round}");
            assert!(found.is_sorted_by(|a, b| a < b), "case {case} round {round}: {found:?}");
            let must: Vec<u64> = expected.iter().copied().filter(|number| *number >= acked_below).collect();
            let missing: Vec<_> = must.iter().filter(|number| !found.contains(number)).collect();
            assert!(missing.is_empty(), "case {case} round {round}: {missing:?} are missing in {found:?}");
            assert!(found.iter().all(|number| *number < first), "case {case}: only what was written");
        }
    }
}

/// A flipped bit costs at most the record that it lies in, and is told.
#[test]
fn a_flipped_bit_is_told_and_costs_its_own_batch_only() {
    for case in 0..cases(400) {
        let mut seed = Seed::new(case);
        let disk = SimulatedDisk::default();
        let (mut outbox, _) = open(&disk, SyncPolicy::EachBatch);
        let count = 1 + seed.below(60);
        for number in 0..count {
            outbox.append(&frame(number, 1 + seed.below(4))).unwrap();
        }
        outbox.sync().unwrap();
        let is_running = seed.below(2) == 0;
        let files = disk.files();
        let (name, bytes) = &files[seed.below(files.len() as u64) as usize];
        disk.flip(name, seed.below(*bytes as u64) as usize, seed.below(8) as u8);
        let told = if is_running {
            0
        } else {
            drop(outbox);
            let (again, recovered) = open(&disk, SyncPolicy::EachBatch);
            outbox = again;
            recovered.torn_bytes
        };
        let found = read_all(&mut outbox);
        let lost: Vec<u64> = (0..count).filter(|number| !found.contains(number)).collect();
        assert!(lost.len() == 1 && found.is_sorted(), "case {case}: {lost:?}");
        assert!(told + outbox.damaged_bytes() > 0, "case {case}: the loss is told");
        let is_damaged = outbox.damaged_bytes() > 0;
        outbox.close(Position { file: u64::MAX, offset: 0 }).unwrap();
        let kept: Vec<String> = disk.files().into_iter().map(|(name, _)| name).collect();
        assert_eq!(kept.len(), usize::from(is_damaged), "case {case}: the damaged file is kept: {kept:?}");
    }
}

/// Cut anywhere, as a killed process leaves its last write: the batches before are there, and the next start is clean.
#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let disk = SimulatedDisk::default();
    let (mut outbox, _) = open(&disk, SyncPolicy::Never);
    let ends: Vec<u64> = (0..4).map(|number| outbox.append(&frame(number, 2)).unwrap().offset).collect();
    drop(outbox);
    let name = disk.files()[0].0.clone();
    for cut in 0..ends[3] {
        let torn = disk.copy();
        Folder::open(&torn, &name).unwrap().cut(cut).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        let (mut outbox, recovered) = open(&torn, SyncPolicy::Never);
        let last_whole = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
        assert_eq!((recovered.batches, recovered.torn_bytes), (whole, cut - last_whole), "cut at {cut}");
        assert_eq!(recovered.damaged, [], "cut at {cut}");
        assert_eq!(read_all(&mut outbox), Vec::from_iter(0..whole));
        outbox.append(&frame(9, 1)).unwrap();
        drop(outbox);
        let (mut outbox, recovered) = open(&torn, SyncPolicy::Never);
        assert_eq!(recovered.torn_bytes, 0);
        assert_eq!(read_all(&mut outbox), Vec::from_iter((0..whole).chain([9])));
    }
}
