//! Indexes against a plain scan, against crashes while they are made, and against every flipped bit.

use std::collections::BTreeSet;
use std::sync::Arc;

use wire::usage_record::{KIND_BARRIER, encode_barrier};
use wire::{BatchBuilder, IdMode};

use super::*;
use crate::log::{LogKind, LogWriter};
use crate::testing::disk::{Faults, Seed, SimulatedDisk};

const OPTIONS: LogOptions =
    LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 1 << 20 };
const SUBJECTS: u64 = 40;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000_000_000;

fn key() -> IdentityKey {
    IdentityKey::new(11)
}

/// An event as the model remembers it.
type Seen = (EventPosition, u64, u128, u64);

/// A log of random batches and barriers, and what is in it: position, subject, identity, control offset in force.
struct World {
    disk: SimulatedDisk,
    writer: LogWriter,
    events: Vec<Seen>,
    control_offset: u64,
    builder: BatchBuilder,
}

impl World {
    fn new() -> Self {
        let disk = SimulatedDisk::default();
        let writer = Self::open(&disk);
        let builder = BatchBuilder::new("s", "t", IdMode::Given);
        Self { disk, writer, events: Vec::new(), control_offset: 0, builder }
    }

    fn open(disk: &SimulatedDisk) -> LogWriter {
        LogWriter::recover::<LogError>(Arc::new(disk.clone()), OPTIONS, &mut |_| Ok(())).unwrap().0
    }

    fn commit(&mut self, random: &mut Seed) {
        for _ in 0..=random.below(2) {
            if random.below(5) == 0 {
                self.control_offset += 1 + random.below(9);
                let barrier = encode_barrier(self.control_offset);
                self.writer.stage(KIND_BARRIER, 0, &[&barrier]).unwrap();
                continue;
            }
            let first_subject = random.below(SUBJECTS);
            let mut events = Vec::new();
            for number in 0..=random.below(1_500) {
                // Some ids come again.
                let id = format!("{:x}", random.below(1 << 16));
                let subject = format!("subject-{}", first_subject + number % 3);
                let value = [("v", 1, 0)];
                self.builder.push_parts(id.as_bytes(), &subject, START + number as i64, &value, &[]).unwrap();
                let identity = key().of_source("s").identity_of_bytes(id.as_bytes());
                events.push((key().digest_of_subject(&subject), identity));
            }
            let frame = self.builder.finish(1, 0);
            let head = BatchRecordHead { producer: 1, refusals: Vec::new() }.encode();
            let offset = self.writer.stage(KIND_USAGE_BATCH, 0, &[&head, &frame]).unwrap();
            self.events.extend((0_u16..).zip(events).map(|(index, (subject, identity))| {
                (EventPosition::new(offset, index), subject, identity, self.control_offset)
            }));
        }
        self.writer.commit(0).unwrap();
    }

    fn index(&self) -> LogIndex<'_> {
        LogIndex::open(&self.disk, OPTIONS, key()).unwrap()
    }

    fn build_all(&self) {
        for segment in self.index().unindexed() {
            build_index(&self.disk, &OPTIONS, key(), segment.start, segment.end).unwrap();
        }
    }

    /// Everything of a subject before `until`, read by the parts that the index names, and the records read for it.
    fn read(&self, subject: u64, until: u64) -> (Vec<(EventPosition, u64)>, usize) {
        let (mut found, mut records, mut control_offset) = (Vec::new(), 0, 0);
        let mut reader = LogReader::open(&self.disk, OPTIONS, 0, Some(0)).unwrap();
        for part in self.index().parts(Wanted::Subjects(&[subject]), until) {
            let range = match part {
                Part::Barrier(offset) => {
                    control_offset = offset;
                    continue;
                }
                Part::Read(range) => range,
            };
            reader.seek(range);
            while let Some(record) = reader.next().unwrap() {
                records += 1;
                if record.kind == KIND_BARRIER {
                    control_offset = wire::usage_record::decode_barrier(record.payload).unwrap();
                    continue;
                }
                let offset = record.offset;
                let of_batch = self.events.iter().filter(|event| event.0.offset() == offset);
                found.extend(of_batch.filter(|event| event.1 == subject).map(|e| (e.0, control_offset)));
            }
        }
        (found, records)
    }

    fn check(&self, random: &mut Seed, seed: u64) {
        let ends = [self.writer.next_offset(), random.below(self.writer.next_offset() + 1)];
        for until in ends {
            let before = |event: &&Seen| event.0.offset() < until;
            let subject = key().digest_of_subject(&format!("subject-{}", random.below(SUBJECTS + 4)));
            let of_subject = self.events.iter().filter(before).filter(|event| event.1 == subject);
            let expected: Vec<_> = of_subject.map(|event| (event.0, event.3)).collect();
            assert_eq!(self.read(subject, until).0, expected, "seed {seed}: a subject before {until}");
            let identity = match self.events.get(random.below(self.events.len() as u64 + 1) as usize) {
                Some(event) => event.2,
                None => 7,
            };
            let of_identity = self.events.iter().filter(before).filter(|event| event.2 == identity);
            let expected: Vec<_> = of_identity.map(|event| event.0).collect();
            let found = self.index().positions_of(identity, until).unwrap();
            assert_eq!(found, expected, "seed {seed}: an identity before {until}");
        }
    }
}

fn cases() -> u64 {
    std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// Commits, indexes that are made, half made in a crash, or damaged: the answers are always those of a plain scan.
#[test]
fn what_an_index_leaves_out_holds_nothing_of_what_was_asked() {
    for seed in 0..cases().div_ceil(20) {
        let mut random = Seed::new(seed);
        let mut world = World::new();
        for _ in 0..random.below(60) {
            world.commit(&mut random);
            match random.below(12) {
                0 => world.build_all(),
                1 => {
                    // The machine stops anywhere in the making of an index.
                    let stop_at = Some(1 + random.below(12));
                    let todo = world.index().unindexed();
                    world.disk.set_faults(Faults { stop_at, ..Faults::default() });
                    for segment in todo {
                        let _ = build_index(&world.disk, &OPTIONS, key(), segment.start, segment.end);
                    }
                    world.disk.crash(random.below(u64::MAX >> 12));
                    world.writer = World::open(&world.disk);
                }
                2 => {
                    let files = world.disk.files();
                    let mut index = files.iter().filter(|(name, bytes)| name.ends_with(".idx") && *bytes > 0);
                    if let Some((name, bytes)) = index.next_back() {
                        let byte = random.below(*bytes as u64) as usize;
                        world.disk.flip(name, byte, random.below(8) as u8);
                    }
                }
                3 => world.check(&mut random, seed),
                _ => {}
            }
        }
        world.check(&mut random, seed);
        world.build_all();
        assert_eq!(world.index().unindexed(), []);
        for segment in world.index().ended_segments() {
            // A flipped bit of a filter is not noticed when the index is opened.
            let checked = check_index(&world.disk, &OPTIONS, key(), segment.clone()).unwrap();
            if checked == Some(false) {
                build_index(&world.disk, &OPTIONS, key(), segment.start, segment.end).unwrap();
            }
            assert_eq!(check_index(&world.disk, &OPTIONS, key(), segment).unwrap(), Some(true));
        }
        world.check(&mut random, seed);
    }
}

fn long_log() -> World {
    let mut random = Seed::new(5);
    let mut world = World::new();
    while world.index().unindexed().len() < 3 {
        world.commit(&mut random);
    }
    world.build_all();
    world
}

#[test]
fn a_subject_of_a_long_log_is_found_in_few_of_its_blocks() {
    let world = long_log();
    let subject = key().digest_of_subject("subject-0");
    let (found, read) = world.read(subject, world.writer.next_offset());
    let batches: BTreeSet<u64> = world.events.iter().map(|event| event.0.offset()).collect();
    assert!(!found.is_empty());
    assert!(read * 2 < batches.len(), "{read} records of {} batches were read", batches.len());
    let nobody = key().digest_of_subject("nobody");
    let newest = world.index().segments.last().copied().unwrap();
    let reads = world.index().parts(Wanted::Subjects(&[nobody]), newest);
    assert!(reads.iter().all(|part| matches!(part, Part::Barrier(_))), "{reads:?}");
}

#[test]
fn an_index_of_another_key_of_other_blocks_or_with_a_flipped_bit_is_not_believed() {
    let world = long_log();
    let other = LogIndex::open(&world.disk, OPTIONS, IdentityKey::new(12)).unwrap();
    assert_eq!(other.unindexed().len(), 3, "an index under another key");
    let names: Vec<(String, usize)> =
        world.disk.files().into_iter().filter(|(name, _)| name.ends_with(".idx")).collect();
    let (name, _) = &names[0];
    // Header and table decide whether an index is believed; a filter only whether its stretch is read.
    for byte in 0..HEADER_BYTES {
        world.disk.flip(name, byte, (byte % 8) as u8);
        assert_eq!(world.index().unindexed().len(), 1, "byte {byte}");
        world.disk.flip(name, byte, (byte % 8) as u8);
    }
    let bytes = |name: &str| {
        let file = world.disk.open(name, false).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    let first = world.index().ended_segments()[0].clone();
    for byte in (0..names[0].1).step_by(97) {
        world.disk.flip(name, byte, 3);
        assert_eq!(check_index(&world.disk, &OPTIONS, key(), first.clone()).unwrap(), Some(false));
        world.disk.flip(name, byte, 3);
    }
    // The index of the second segment under the name of the first.
    let second = bytes(&names[1].0);
    world.disk.remove(name).unwrap();
    world.disk.create(name).unwrap().write_at(0, &second).unwrap();
    assert_eq!(world.index().unindexed().len(), 1);
    world.build_all();
    // The segment has another last block than the index says.
    let segment = name.replace(".idx", ".seg");
    let last = world.index().index_of(&world.index().ended().next().unwrap()).unwrap();
    let end = last.stretches.last().unwrap().end_offset;
    let file = world.disk.open(&segment, true).unwrap();
    file.truncate(position_of(0, end) - 4_096).unwrap();
    assert_eq!(world.index().unindexed().len(), 1);
}
