//! The dedup index against a map: with identities made to collide, tables that become runs, merges under way, forgetting
//! and crashes.
//!
//! Invariants: whatever tags and buckets are shared, an identity is known after its first insert and not before, it
//! is found with what was remembered of it, and where it lies makes no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::EventPosition;
use domain::limits::EVENT_TIME_MIN;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::memtable::Memtable;
use super::runs::{Kept, RunLog, RunName, RunStore, RunWork};
use super::{Dedup, Lookup, Seen, Standing};
use crate::testing::disk::SimulatedDisk;

const STANDINGS: [Standing; 4] =
    [Standing::Metered, Standing::Pending, Standing::Unmetered, Standing::Quarantined];
const LOG: RunLog = RunLog { incarnation: 3, partition: 1, key_check: 99 };
const SHARD: u32 = 2;

fn seen(number: u64) -> Seen {
    Seen {
        payload_digest: number.wrapping_mul(31),
        position: EventPosition::new(number * 16, number as u16),
        time: EVENT_TIME_MIN + (number * 7 % 1_000) as i64,
        standing: STANDINGS[number as usize % 4],
    }
}

fn check(identities: impl Iterator<Item = u128>) {
    let (mut table, mut model) = (Memtable::default(), BTreeMap::new());
    for (number, identity) in identities.enumerate() {
        table.touch([identity].into_iter());
        match (table.look_up(identity, |_| true), model.get(&identity)) {
            (Ok(known), Some(expected)) => assert_eq!(known, *expected),
            (Err(vacant), None) => {
                table.insert(vacant, seen(number as u64));
                model.insert(identity, seen(number as u64));
            }
            (lookup, expected) => panic!("{identity:x}: {lookup:?}, but expected {expected:?}"),
        }
    }
    assert_eq!(table.len(), model.len());
    assert_eq!((0..table.len()).map(|number| table.at(number)).collect::<BTreeMap<_, _>>(), model);
    for (identity, expected) in &model {
        assert_eq!(table.find(*identity, |_| true), Some(*expected));
    }
}

#[test]
fn identities_that_differ_in_any_one_bit_are_different_events() {
    check((0..128).map(|bit| 1 << bit).chain(std::iter::once(0)).cycle().take(400));
}

#[test]
fn identities_of_one_tag_are_told_apart_however_many() {
    check((0..5_000u128).map(|number| ((number % 3_000) << 32) | 0xffff_ffff));
}

fn spread(number: u128) -> u128 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

#[test]
fn an_index_grows_through_many_sizes_and_loses_nothing() {
    check((0..100_000).map(|number| spread(number % 60_000)));
    check((0..30_000).map(|number| spread(number) >> 10)); // all in one slot
}

#[test]
fn a_forgotten_event_gives_way_to_another_and_is_found_where_it_stands() {
    let mut table = Memtable::default();
    let old = table.look_up(7, |_| true).unwrap_err();
    table.insert(old, seen(1));
    let from = seen(2).position;
    let new = table.look_up(7, |position| position >= from).unwrap_err();
    table.insert(new, seen(2));
    assert_eq!(table.look_up(7, |position| position >= from), Ok(seen(2)));
    assert_eq!(table.find(7, |position| position == seen(1).position), Some(seen(1)));
}

#[derive(Clone, Debug)]
enum Step {
    /// Events with these identities come.
    Come(Vec<u128>),
    /// Jobs that are wanted begin, and each job under way does so many entries.
    Work(usize),
    /// Jobs that have no more to do are finished.
    Finish,
    /// What stands before a share of the log, in 256ths, is forgotten.
    Forget(u8),
    /// A snapshot is taken.
    Save,
    /// Power is lost, and the last snapshot is loaded.
    Crash(u64),
}

fn identity() -> impl Strategy<Value = u128> {
    prop_oneof![
        4 => (0..300u128).prop_map(spread),
        1 => 0..40u128,
        1 => (0..40u128).prop_map(|number| number << 100),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(identity(), 1..40).prop_map(Step::Come),
        6 => (1..60usize).prop_map(Step::Work),
        4 => Just(Step::Finish),
        1 => any::<u8>().prop_map(Step::Forget),
        1 => Just(Step::Save),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// Events by identity, in log order, and from where on they are remembered.
#[derive(Clone, Default)]
struct Model {
    events: BTreeMap<u128, Vec<Seen>>,
    from: u64,
    next: u64,
}

impl Model {
    fn known(&self, identity: u128) -> Option<Seen> {
        let from = EventPosition::new(self.from * 16, 0);
        self.events.get(&identity)?.iter().copied().find(|seen| seen.position >= from)
    }
}

/// What a snapshot has.
#[derive(Clone, Default)]
struct Saved {
    model: Model,
    runs: Vec<(RunName, bool)>,
    entries: Vec<(u128, Seen)>,
}

struct World {
    disk: SimulatedDisk,
    store: RunStore,
    dedup: Dedup,
    model: Model,
    works: Vec<(RunWork, bool)>,
    saved: Saved,
}

const TABLE_ENTRIES: usize = 24;

fn open(disk: &SimulatedDisk) -> RunStore {
    RunStore::open(Arc::new(disk.folder("runs")), LOG).unwrap()
}

fn new_dedup() -> Dedup {
    let mut dedup = Dedup::default();
    dedup.set_table_entries_max(TABLE_ENTRIES);
    dedup
}

impl World {
    fn new() -> Self {
        let disk = SimulatedDisk::default();
        let (store, saved) = (open(&disk), Saved::default());
        Self { disk, store, dedup: new_dedup(), model: Model::default(), works: Vec::new(), saved }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Come(identities) => identities.iter().for_each(|identity| self.come(*identity)),
            Step::Work(entries) => self.work(*entries),
            Step::Finish => self.finish(),
            Step::Forget(share) => {
                self.model.from = self.model.from.max(self.model.next * u64::from(*share) / 256);
                self.dedup.forget(EventPosition::new(self.model.from * 16, 0));
            }
            Step::Save => self.save(),
            Step::Crash(seed) => self.crash(*seed),
        }
    }

    fn come(&mut self, identity: u128) {
        while self.dedup.is_full() {
            self.work(usize::MAX);
            self.finish();
        }
        self.dedup.touch([identity].into_iter());
        let in_runs = self.dedup.ask_runs([identity].into_iter()) != 0;
        match (self.dedup.look_up(identity, in_runs).unwrap(), self.model.known(identity)) {
            (Lookup::Known(known), Some(expected)) => assert_eq!(known, expected),
            (Lookup::Unknown(vacant), None) => {
                let new = seen(self.model.next);
                self.dedup.insert(vacant, new);
                self.model.events.entry(identity).or_default().push(new);
            }
            (lookup, expected) => panic!("{identity:x}: {lookup:?}, but expected {expected:?}"),
        }
        self.model.next += 1;
    }

    fn work(&mut self, entries: usize) {
        while let Some((job, _)) = self.dedup.poll_run_job(SHARD) {
            self.works.push((self.store.begin(job).unwrap(), true));
        }
        for (work, has_more) in &mut self.works {
            *has_more = *has_more && work.step(entries).unwrap();
        }
    }

    fn finish(&mut self) {
        let (done, under_way) =
            std::mem::take(&mut self.works).into_iter().partition(|(_, has_more)| !has_more);
        self.works = under_way;
        let done: Vec<(RunWork, bool)> = done;
        for (work, _) in done {
            let done = work.finish(&self.store).unwrap();
            let retired = self.dedup.handle_run_done(done);
            let named: BTreeSet<u64> = self.saved.runs.iter().map(|(name, _)| name.number).collect();
            retired.numbers().filter(|number| !named.contains(number)).for_each(|number| {
                self.store.remove(number).unwrap();
            });
        }
    }

    fn save(&mut self) {
        let (full, table) = self.dedup.tables();
        let mut entries = Vec::new();
        entries.extend(full.iter().flat_map(|full| (0..full.len()).map(|number| full.at(number))));
        entries.extend((0..table).map(|number| self.dedup.table().at(number)));
        self.saved = Saved { model: self.model.clone(), runs: self.dedup.run_names().collect(), entries };
    }

    fn crash(&mut self, seed: u64) {
        self.works.clear();
        self.disk.crash(seed);
        self.store = open(&self.disk);
        self.dedup = new_dedup();
        for (name, is_past) in &self.saved.runs {
            let kept = if *is_past { Kept::Nothing } else { Kept::All };
            self.dedup.add_run(self.store.open_run(SHARD, *name, kept).unwrap()).unwrap();
        }
        self.store.keep_only(&self.saved.runs.iter().map(|(name, _)| name.number).collect()).unwrap();
        for (identity, seen) in &self.saved.entries {
            self.dedup.load(*identity, *seen).unwrap();
        }
        self.model = self.saved.model.clone();
        self.dedup.forget(EventPosition::new(self.model.from * 16, 0));
    }

    fn check(&mut self) {
        for (identity, events) in &self.model.events {
            match (self.dedup.look_up(*identity, true).unwrap(), self.model.known(*identity)) {
                (Lookup::Known(known), Some(expected)) => assert_eq!(known, expected),
                (Lookup::Unknown(_), None) => {}
                (lookup, expected) => panic!("{identity:x}: {lookup:?}, but expected {expected:?}"),
            }
            for event in events {
                assert_eq!(self.dedup.find_at(*identity, event.position).unwrap(), Some(*event));
            }
            let elsewhere = EventPosition::from_bits(events[0].position.to_bits() + 1);
            assert_eq!(self.dedup.find_at(*identity, elsewhere).unwrap(), None);
        }
    }
}

fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(96);
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn an_id_is_known_from_its_first_event_until_it_is_forgotten_wherever_it_lies(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.check();
        while !world.works.is_empty() || world.dedup.is_full() {
            world.take(&Step::Work(usize::MAX));
            world.take(&Step::Finish);
        }
        world.check();
    }
}
