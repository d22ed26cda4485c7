//! How long a snapshot holds a shard: each step by itself, and the batches between them.
//!
//! Goal: the longest step and the longest batch beside many events that wait, that were set aside, and many cells, in one
//! run. Not a goal: how long a snapshot takes as a whole, or its disk.
//!
//! `cargo bench -p engine --bench snapshot`; `TALLYMARK_BENCH_SET_ASIDE`, `TALLYMARK_BENCH_PENDING`, `TALLYMARK_BENCH_CELLS` and
//! `TALLYMARK_BENCH_KEYS` choose how many events there are of each kind (keys: different ones of one cell that counts them). With
//! the tests it runs once, tiny.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    clippy::print_stdout
)]

use std::sync::Arc;
use std::time::Duration;

use domain::plan::{
    Aggregation, MeterProgram, MeteringPlan, NegativeUsage, OwnedSpan, Policy, Schedule, SubjectPlan,
};
use domain::time::{DAY, HOUR};
use domain::{MeterId, Span, Subject, Timestamp, Zone};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use engine::snapshot::Section;
use rustix::time::{ClockId, clock_gettime};
use wire::verdict::Verdict;
use wire::{BatchBuilder, IdMode};

const BATCH_EVENTS: u64 = 4_096;
/// Batches that are fed without a snapshot, and those that are fed at least while one is made.
const BATCHES: u64 = 64;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let number = |name: &str, bench: u64, tiny: u64| {
        let text = std::env::var(format!("TALLYMARK_BENCH_{name}")).ok();
        text.map_or(if is_bench { bench } else { tiny }, |text| text.parse().expect("a number"))
    };
    let cells = number("CELLS", 1_000_000, 1_000);
    let mut world = World::new(cells);
    world.feed(Kind::SetAside, number("SET_ASIDE", 1_000_000, 1_000));
    world.feed(Kind::Pending, number("PENDING", 200_000, 1_000));
    world.feed(Kind::Key, number("KEYS", 1_000_000, 1_000));
    world.feed(Kind::InTurn, cells);
    let before = world.longest_of(BATCHES);
    println!("without a snapshot     {before:>9.1?} the longest batch of {BATCHES}");
    let begun = time(|| world.shard.begin_snapshot());
    println!("beginning              {begun:>9.1?}");
    let (mut steps, mut longest, mut longest_batch, mut bytes) = (0, Duration::ZERO, Duration::ZERO, 0);
    loop {
        let mut part = None;
        longest = longest.max(time(|| part = world.shard.poll_snapshot()));
        let Some(part) = part else { break };
        steps += 1;
        // What is shared becomes bytes beside the shard.
        let count = &mut |section: Section| {
            bytes += section.body.len();
            Ok(())
        };
        part.for_each_section(count).expect("nothing was spilled");
        // A batch between any two steps, as long as batches meet pages that are not saved yet.
        if steps <= BATCHES {
            longest_batch = longest_batch.max(world.longest_of(1));
        }
    }
    println!("the longest step       {longest:>9.1?} of {steps} with {bytes} bytes");
    println!("the longest batch      {longest_batch:>9.1?} between them");
}

/// Time of the thread's processor.
fn time(work: impl FnOnce()) -> Duration {
    let now = || clock_gettime(ClockId::ThreadCPUTime);
    let started = now();
    work();
    let ended = now();
    Duration::new((ended.tv_sec) as u64, ended.tv_nsec as u32)
        - Duration::new(started.tv_sec as u64, started.tv_nsec as u32)
}

#[derive(Clone, Copy)]
enum Kind {
    /// Too old.
    SetAside,
    /// Of a subject that nobody owns.
    Pending,
    /// With a new key of one subject.
    Key,
    /// Of one subject after the other.
    InTurn,
    /// Of any subject.
    Any,
}

struct World {
    shard: Shard,
    subjects: u64,
    builder: BatchBuilder,
    next: u64,
    offset: u64,
}

impl World {
    fn new(subjects: u64) -> Self {
        let mut shard = Shard::new(0);
        let _ = shard.handle_barrier(0, &plan(subjects));
        let builder = BatchBuilder::new("bench", "usage", IdMode::Given);
        Self { shard, subjects, builder, next: 0, offset: 0 }
    }

    fn feed(&mut self, kind: Kind, events: u64) {
        let until = self.next + events;
        while self.next < until {
            self.batch(kind, BATCH_EVENTS.min(until - self.next));
        }
    }

    fn longest_of(&mut self, batches: u64) -> Duration {
        (0..batches).map(|_| self.batch(Kind::Any, BATCH_EVENTS)).max().unwrap_or_default()
    }

    fn batch(&mut self, kind: Kind, events: u64) -> Duration {
        let received_at = start().plus(60 * DAY);
        for number in self.next..self.next + events {
            let (subject, time) = match kind {
                Kind::SetAside => (0, received_at.plus(-36 * DAY)),
                Kind::Pending => (self.subjects + number, received_at),
                Kind::Key => (0, received_at),
                Kind::InTurn => (number % self.subjects, received_at.plus(-HOUR)),
                Kind::Any => (mix(number) % self.subjects, received_at.plus(-HOUR)),
            };
            let id = format!("{:016x}", mix(number));
            let key = if let Kind::Key = kind { id.as_str() } else { "one" };
            let value = [("units", 1, 0)];
            let dimensions = [("key", key)];
            let (subject, time) = (format!("s{subject:08}"), time.nanoseconds());
            let pushed = self.builder.push_parts(id.as_bytes(), &subject, time, &value, &dimensions);
            pushed.expect("the batch has room");
        }
        self.next += events;
        let frame = Arc::new(self.builder.finish(self.next, 0));
        let batch = PreparedBatch::prepare(frame, None, received_at, IdentityKey::new(7), 1);
        let mut batch = batch.expect("a valid batch");
        batch.offset = self.offset;
        self.offset += batch.frame().len() as u64;
        let mut accepted = 0;
        let took = time(|| {
            let handled = self.shard.handle_batch(&batch, &mut |_, verdict| {
                accepted += u64::from(verdict == Verdict::Accepted);
            });
            handled.expect("nothing is on disk");
        });
        let expected = if matches!(kind, Kind::SetAside | Kind::Pending) { 0 } else { events };
        assert_eq!(accepted, expected, "every event becomes what it was made for");
        took
    }
}

/// A bijection, so that ids are distinct.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

fn start() -> Timestamp {
    Timestamp::parse("2026-01-15T00:00:00Z").expect("a constant instant")
}

fn plan(subjects: u64) -> Arc<MeteringPlan> {
    let schedule = Arc::new(Schedule::new(Zone::utc().month_starts()));
    let owned = OwnedSpan { span: Span::new(Timestamp::MIN, Timestamp::END), schedule };
    let subject_plan = Arc::new(SubjectPlan { spans: vec![owned] });
    let subjects = (0..subjects)
        .map(|number| Subject::new(&format!("s{number:08}")).expect("a short subject"))
        .map(|subject| (subject, subject_plan.clone()))
        .collect();
    let program = |meter: &str, aggregation, value: Option<&str>, key: Option<&str>| MeterProgram {
        meter: MeterId::new(meter).expect("an id"),
        event_type: "usage".into(),
        aggregation,
        value: value.map(Into::into),
        key: key.map(Into::into),
        operation: None,
        group_by: Vec::new(),
        filter: Vec::new(),
        scale: 18,
        negative_usage: NegativeUsage::Reject,
        since_control_offset: 0,
    };
    let programs = vec![
        program("units", Aggregation::Sum, Some("units"), None),
        program("keys", Aggregation::Unique, None, Some("key")),
    ];
    let policy = Policy { pending_per_slot_max: u32::MAX, ..Policy::default() };
    Arc::new(MeteringPlan { programs, subjects, policy, ..MeteringPlan::default() })
}
