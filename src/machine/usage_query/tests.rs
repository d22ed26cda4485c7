//! Random logs and random queries against a recount that goes through all events one by one.
//!
//! Owns: a small world with a log on a simulated disk, and the recount. Leaves to others: verdicts (the tests of
//! `engine::shard`), windows (those of `domain::time`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::time::{DAY, HOUR, SECOND, WindowUnit};
use domain::{AccountId, Decimal, Exact, MeterId, Span, Subject, SubscriptionId, Timestamp, Zone};
use engine::identity::IdentityKey;
use engine::log::{LogIndex, LogKind, LogOptions, LogWriter, build_index};
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use engine::testing::disk::{Seed, SimulatedDisk};
use serde_json::json;
use wire::control::{ClockKind, ControlRecord, Genesis};
use wire::correction::{EventContent, EventRestated, EventTakenBack};
use wire::event::EventIdOwned;
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, encode_barrier};
use wire::verdict::{RefusalCode, Verdict};
use wire::{BatchBuilder, IdMode};

use super::*;
use crate::lineage::{Arrivals, Repeat};
use crate::recovery::LogPlace;
use crate::{
    Amendment, CorrectionKind, CorrectionRequest, History, KnownCorrections, KnownEvent, Machine,
    UsageHistory,
};

const SOURCES: [&str; 2] = ["edge", "shop"];
const SUBJECTS: [&str; 4] = ["k0", "k1", "k2", "k3"];
const REGIONS: [Option<&str>; 4] = [None, Some("eu"), Some("us"), Some("")];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York"];

/// The clocks of New York are set a day later; around here all events happen.
fn start() -> Timestamp {
    Timestamp::parse("2026-03-07T00:00:00Z").unwrap()
}

/// An event as it was sent or corrected, and what became of it.
struct Fact {
    /// Of its batch, or of the barrier that brought the correction.
    offset: u64,
    recorded_at: i64,
    /// Offset and stamp of the barrier that brought the next correction of it.
    until: Option<(u64, i64)>,
    control_offset: u64,
    source: &'static str,
    id: String,
    subject: &'static str,
    time: Timestamp,
    hundredths: i128,
    region: Option<&'static str>,
    counts: bool,
}

struct World {
    machine: Machine,
    shards: Vec<Shard>,
    usage: LogWriter,
    usage_place: LogPlace,
    control: LogWriter,
    control_place: LogPlace,
    facts: Vec<Fact>,
    barriers: Vec<(u64, i64, u64)>,
    control_offset: u64,
    now: i64,
    /// Nanoseconds from step to step, if most events are sent as they happen.
    pace: Option<i64>,
    verdicts: BTreeMap<EventPosition, Verdict>,
}

fn place(kind: LogKind) -> (LogWriter, LogPlace) {
    let options = LogOptions { kind, partition: 0, incarnation: 0, segment_bytes: 64 << 10 };
    let place = LogPlace { storage: Arc::new(SimulatedDisk::default()), options };
    let opened = LogWriter::recover::<engine::log::LogError>(place.storage.clone(), options, &mut |_| Ok(()));
    (opened.unwrap().0, place)
}

impl World {
    fn new(shards: usize) -> Self {
        let (usage, usage_place) = place(LogKind::Usage);
        let (control, control_place) = place(LogKind::Control);
        let mut world = Self {
            machine: Machine::new(shards),
            shards: (0..shards).map(Shard::new).collect(),
            usage,
            usage_place,
            control,
            control_place,
            facts: Vec::new(),
            barriers: Vec::new(),
            control_offset: 0,
            now: start().plus(5 * DAY).nanoseconds(),
            pace: None,
            verdicts: BTreeMap::new(),
        };
        world.append(&ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: "0".repeat(32),
            clock: ClockKind::Scenario,
            epoch: crate::RATING_EPOCH.to_string(),
            made_by: "a test".to_string(),
        }));
        world.put("entities", "inc", json!({ "currency": "USD", "time_zone": "UTC" }));
        let account = json!({ "name": "A", "entity": "inc", "currency": "USD", "time_zone": "UTC" });
        world.put("accounts", "acme", account);
        world.put("meters", "sum", json!({ "event_type": "use", "aggregation": "sum", "value": "v" }));
        world.put("plans", "pro", json!({ "currency": "USD" }));
        for subscription in ["s0", "s1"] {
            let until = if subscription == "s1" { json!(start().plus(3 * DAY)) } else { json!(null) };
            let body =
                json!({ "account": "acme", "plan": "pro", "from": start().plus(-3 * DAY), "until": until });
            world.put("subscriptions", subscription, body);
        }
        world
    }

    fn append(&mut self, record: &ControlRecord) {
        let offset = self.control.stage(1, self.now, &[&record.encode()]).unwrap();
        self.control.commit(self.now).unwrap();
        self.machine.apply(offset, record).unwrap();
    }

    /// Puts a resource, if the catalog takes it, and sends a barrier.
    fn put(&mut self, kind: &str, id: &str, body: serde_json::Value) {
        if let Ok(Some(record)) = self.machine.propose_put(kind, id, body, "test") {
            self.append(&record);
            self.barrier();
        }
    }

    fn barrier(&mut self) {
        self.control_offset = self.control.next_offset();
        let barrier = self.machine.new_barrier(self.control_offset, false);
        let offset =
            self.usage.stage(KIND_BARRIER, self.now, &[&encode_barrier(self.control_offset)]).unwrap();
        let recorded_at = self.usage.commit(self.now).unwrap().recorded_at;
        self.barriers.push((offset, recorded_at, self.control_offset));
        let mut history = self.history();
        for shard in &mut self.shards {
            crate::pass_barrier_through(shard, offset, &barrier, &mut history).unwrap();
        }
    }

    fn send(&mut self, random: &mut Seed) {
        let source = SOURCES[random.below(2) as usize];
        let event_type = if random.below(8) == 0 { "other" } else { "use" };
        let mut builder = BatchBuilder::new(source, event_type, IdMode::Given).without_event_checks();
        let mut facts = Vec::new();
        for _ in 0..=random.below(8) {
            let id = if random.below(60) == 0 { String::new() } else { random.below(120).to_string() };
            let subject = SUBJECTS[random.below(4) as usize];
            let days = random.below(50) as i64 - 5;
            let nanoseconds = [0, -1, 1, random.below(3_600_000_000_000) as i64][random.below(4) as usize];
            let around = if self.pace.is_some() && random.below(60) > 0 {
                Timestamp::from_nanoseconds(self.now)
            } else {
                start().plus(days * 4 * HOUR)
            };
            let time = around.plus(nanoseconds);
            let hundredths = i128::from(random.below(500)) - 5;
            let region = REGIONS[random.below(4) as usize];
            let values = [("v", hundredths, 2)];
            let values = if random.below(20) == 0 { &values[..0] } else { &values[..] };
            let dimensions: Vec<(&str, &str)> = region.iter().map(|region| ("region", *region)).collect();
            builder.push_parts(id.as_bytes(), subject, time.nanoseconds(), values, &dimensions).unwrap();
            let (recorded_at, control_offset) = (self.now, self.control_offset);
            let counts = event_type == "use";
            facts.push(Fact {
                offset: 0,
                recorded_at,
                until: None,
                control_offset,
                source,
                id,
                subject,
                time,
                hundredths,
                region,
                counts,
            });
        }
        let offset = self.take(builder, random, &mut |index, verdict| {
            facts[usize::from(index)].counts &= matches!(verdict, Verdict::Accepted | Verdict::Pending);
        });
        facts.iter_mut().for_each(|fact| fact.offset = offset);
        self.facts.extend(facts);
    }

    /// Logs and judges a batch; gives its offset.
    fn take(
        &mut self,
        mut builder: BatchBuilder,
        random: &mut Seed,
        on_verdict: &mut dyn FnMut(u16, Verdict),
    ) -> u64 {
        let frame = Arc::new(builder.finish(1, 0));
        let (key, now) = (IdentityKey::new(0), Timestamp::from_nanoseconds(self.now));
        let mut batch = PreparedBatch::prepare(frame.clone(), None, now, key, self.shards.len()).unwrap();
        let head = BatchRecordHead { producer: 1, refusals: batch.refusals().to_vec() }.encode();
        batch.offset = self.usage.stage(KIND_USAGE_BATCH, self.now, &[&head, &frame]).unwrap();
        if random.below(3) > 0 {
            self.usage.commit(self.now).unwrap();
        }
        for shard in &mut self.shards {
            let handled = shard.handle_batch(&batch, &mut |index, verdict| {
                self.verdicts.insert(batch.position(index), verdict);
                on_verdict(index, verdict);
            });
            handled.unwrap();
        }
        batch.offset
    }

    /// A batch of events that a client numbered, some of which came before, with the same content or other.
    fn send_numbered(&mut self, random: &mut Seed) {
        let ids = IdMode::Sequenced { epoch: random.below(2), first: random.below(20) };
        let mut builder = BatchBuilder::new(SOURCES[random.below(2) as usize], "use", ids);
        for _ in 0..=random.below(4) {
            let time = start().plus(random.below(2) as i64 * HOUR).nanoseconds();
            let value = [("v", i128::from(random.below(2)), 0)];
            builder.push_parts(b"", SUBJECTS[random.below(2) as usize], time, &value, &[]).unwrap();
        }
        self.take(builder, random, &mut |_, _| {});
    }

    /// Corrects an event, if it may be corrected so: takes it back, amends or releases it.
    fn correct(&mut self, random: &mut Seed) {
        let Some(fact) = self.facts.get(random.below(self.facts.len() as u64 + 1) as usize) else { return };
        let Ok(id) = fact.id.parse::<EventIdOwned>() else { return };
        let source = fact.source;
        let event = crate::name_of(IdentityKey::new(0), source, &id);
        let shard = event.shard(self.shards.len());
        let Some(found) = self.shards[shard].find_event(event).unwrap() else { return };
        let mut known = None;
        self.history()
            .read_batches(&[found.position.offset()].into(), &mut |batch| {
                let content = EventContent::of(&batch.view(), usize::from(found.position.index()));
                known = Some(KnownEvent { content, received_at: batch.received_at, found });
            })
            .unwrap();
        let kind = match random.below(4) {
            0 => CorrectionKind::Void,
            1 => CorrectionKind::Release,
            _ => CorrectionKind::Amend(amendment(random)),
        };
        let request =
            CorrectionRequest { source: source.into(), id, kind, actor: "a".into(), reason: "a".into() };
        let (end, now) = (self.control.next_offset(), Timestamp::from_nanoseconds(self.now));
        let Ok(Some(record)) = self.machine.propose_correction(request, known.as_ref(), end, now) else {
            return;
        };
        self.append(&record);
        self.barrier();
        let (offset, recorded_at, _) = *self.barriers.last().unwrap();
        let (ControlRecord::EventVoid(EventTakenBack { id, .. })
        | ControlRecord::EventAmend(EventRestated { id, .. })
        | ControlRecord::EventRelease(EventRestated { id, .. })) = &record
        else {
            unreachable!("nothing else was asked for")
        };
        let of_event = |fact: &&mut Fact| fact.source == source && fact.id == *id && fact.until.is_none();
        for fact in self.facts.iter_mut().filter(of_event) {
            fact.until = Some((offset, recorded_at));
        }
        if let ControlRecord::EventAmend(restated) | ControlRecord::EventRelease(restated) = &record {
            let content = &restated.content;
            let hundredths = content
                .values
                .get("v")
                .map(|value| value.mantissa() * 10i128.pow(2 - u32::from(value.scale())));
            let region = content.dimensions.get("region").map(String::as_str);
            self.facts.push(Fact {
                offset,
                recorded_at,
                until: None,
                control_offset: restated.meters_at,
                source,
                id: id.clone(),
                subject: SUBJECTS.into_iter().find(|subject| *subject == content.subject).unwrap(),
                time: content.time,
                hundredths: hundredths.unwrap_or(0),
                region: REGIONS.into_iter().find(|known| *known == region).unwrap(),
                counts: content.event_type == "use" && hundredths.is_some_and(|hundredths| hundredths >= 0),
            });
        }
    }

    fn step(&mut self, random: &mut Seed) {
        // A block has one stamp, so time moves between two commits.
        self.usage.commit(self.now).unwrap();
        self.now += self.pace.unwrap_or(random.below(3) as i64 * SECOND);
        match random.below(12) {
            10 | 11 => self.correct(random),
            0 => {
                let subscription = if random.below(2) == 0 { "s0" } else { "s1" };
                let from = start().plus(random.below(20) as i64 * 4 * HOUR);
                let until = from.plus((1 + random.below(20) as i64) * 4 * HOUR);
                let until = if random.below(2) == 0 { json!(until) } else { json!(null) };
                let body = json!({ "subscription": subscription, "from": from, "until": until });
                self.put("subjects", SUBJECTS[random.below(4) as usize], body);
            }
            1 => {
                let filter = json!({ "region": ["eu", "us"] });
                let body = json!({ "event_type": "use", "aggregation": "count", "filter": filter });
                self.put("meters", "late", body);
            }
            _ => (0..=random.below(3)).for_each(|_| self.send(random)),
        }
    }

    fn history(&self) -> UsageHistory {
        let LogPlace { storage, options } = &self.usage_place;
        UsageHistory::new(storage.clone(), *options, IdentityKey::new(0), self.shards.len())
    }

    fn scanned_log(&self) -> ScannedLog<'_> {
        let LogPlace { storage, options } = &self.usage_place;
        ScannedLog { storage: &**storage, options: *options, key: IdentityKey::new(0) }
    }

    /// Indexes some of the ended segments.
    fn index_some(&self, random: &mut Seed) {
        let (log, options) = (&*self.usage_place.storage, self.usage_place.options);
        let key = IdentityKey::new(0);
        for segment in LogIndex::open(log, options, key).unwrap().ended_segments() {
            if random.below(3) > 0 {
                build_index(log, &options, key, segment.start, segment.end).unwrap();
            }
        }
    }

    fn index_all(&self) {
        let (log, options) = (&*self.usage_place.storage, self.usage_place.options);
        let key = IdentityKey::new(0);
        for segment in LogIndex::open(log, options, key).unwrap().ended_segments() {
            build_index(log, &options, key, segment.start, segment.end).unwrap();
        }
    }

    /// Bytes that a query reads of the log at most.
    fn bytes_to_scan(&self, question: Question, known: Known) -> u64 {
        let query = UsageQuery::new(question).unwrap();
        let terms = UsageTerms::of(self.machine.control().catalog(), &query).unwrap();
        bytes_to_scan(self.scanned_log(), known, &UsageFold::new(query, terms)).unwrap()
    }

    fn answer(&self, question: Question, known: Option<Known>) -> Result<(UsageAnswer, AsOf), QueryStatus> {
        let query = UsageQuery::new(question)?;
        let known = known.unwrap_or(Known { before: self.usage.next_offset(), recorded_by: None });
        let control_offset = known_control_offset(self.scanned_log(), known, &|| true).unwrap();
        let state = control_state_before(&self.control_place, control_offset).unwrap();
        let mut fold = UsageFold::new(query.clone(), UsageTerms::of(state.catalog(), &query)?);
        let mut judge = self.shards.as_slice();
        let corrected = KnownCorrections::of(&state, plan_of(&state));
        let log = self.scanned_log();
        let as_of = scan(log, known, &corrected, &mut fold, &mut judge, &|| true).unwrap();
        assert_eq!(as_of.control_offset, control_offset);
        Ok((fold.finish()?, as_of))
    }

    /// The rows, event by event: sum in hundredths and count.
    fn recount(&self, question: &Question, known: Option<Known>) -> Option<BTreeMap<String, (i128, u64)>> {
        let is_known = |offset: u64, recorded_at: i64| {
            known.is_none_or(|known| {
                let by = known.recorded_by.is_none_or(|by| recorded_at <= by.nanoseconds());
                offset < known.before && by
            })
        };
        let mut known_barriers = self.barriers.iter().filter(|(offset, at, _)| is_known(*offset, *at));
        let control_offset = known_barriers.next_back().map_or(0, |(_, _, control_offset)| *control_offset);
        let state = control_state_before(&self.control_place, control_offset).unwrap();
        let catalog = state.catalog();
        let (created, meter) = catalog.meters().find(|(_, meter)| meter.id == question.meter)?;
        match &question.scope {
            UsageScope::Subscription(subscription) => drop(catalog.subscription(subscription)?),
            UsageScope::Account(account) => drop(catalog.account(account)?),
            _ => {}
        }
        let is_owned = |fact: &Fact, of: &dyn Fn(&SubscriptionId) -> bool| {
            let binding = catalog.subject(fact.subject).and_then(|timeline| timeline.at(fact.time));
            binding.is_some_and(|binding| {
                let timeline = catalog.subscription(&binding.subscription);
                of(&binding.subscription) && timeline.is_some_and(|timeline| timeline.at(fact.time).is_some())
            })
        };
        let mut rows = BTreeMap::new();
        let counts = |fact: &&Fact| {
            let is_past = fact.until.is_some_and(|(offset, recorded_at)| is_known(offset, recorded_at));
            fact.counts && is_known(fact.offset, fact.recorded_at) && !is_past
        };
        for fact in self.facts.iter().filter(counts) {
            let is_in_scope = match &question.scope {
                UsageScope::All => true,
                UsageScope::Subjects(subjects) => subjects.contains(fact.subject),
                UsageScope::Subscription(subscription) => is_owned(fact, &|owner| owner == subscription),
                UsageScope::Account(_) => is_owned(fact, &|_| true),
            };
            let of_meter = meter.filter.is_empty() || matches!(fact.region, Some("eu" | "us"));
            let wanted = question.filter.get("region");
            let is_wanted = wanted.is_none_or(|texts| fact.region.is_some_and(|text| texts.contains(text)));
            let is_in = is_in_scope && question.span.contains(fact.time) && of_meter && is_wanted;
            if !is_in || created > fact.control_offset {
                continue;
            }
            let window =
                question.window.map_or(question.span, |unit| question.zone.window_of(unit, fact.time));
            let from = window.from.max(question.span.from);
            let until = window.until.min(question.span.until);
            let texts: Vec<Option<&str>> = question
                .group_by
                .iter()
                .map(|key| match key {
                    GroupKey::Subject => Some(fact.subject),
                    GroupKey::Source => Some(fact.source),
                    GroupKey::Dimension(name) if &**name == "region" => fact.region,
                    GroupKey::Dimension(_) => None,
                })
                .collect();
            let row = rows.entry(format!("{from} {until} {texts:?}")).or_insert((0, 0));
            row.0 += if meter.id.as_str() == "sum" { fact.hundredths } else { 100 };
            row.1 += 1;
        }
        Some(rows)
    }
}

fn amendment(random: &mut Seed) -> Amendment {
    let subject = SUBJECTS[random.below(4) as usize].to_string();
    let value = Decimal::new(i128::from(random.below(500)) - 5, 2).unwrap();
    // An amendment keeps the rules of events, and so its texts are not empty.
    let region = REGIONS[random.below(3) as usize].map(|text| ("region".to_string(), text.to_string()));
    Amendment {
        subject: (random.below(2) == 0).then_some(subject),
        time: (random.below(2) == 0).then(|| start().plus(random.below(45) as i64 * 4 * HOUR)),
        values: (random.below(2) == 0).then(|| [("v".to_string(), value)].into()),
        dimensions: (random.below(2) == 0).then(|| region.into_iter().collect()),
    }
}

fn question(random: &mut Seed) -> Question {
    let subject = |random: &mut Seed| Subject::new(SUBJECTS[random.below(4) as usize]).unwrap();
    let scope = match random.below(5) {
        0 => UsageScope::All,
        1 => UsageScope::Subjects([subject(random), subject(random)].into()),
        2 => UsageScope::Subscription(SubscriptionId::new(["s0", "s1"][random.below(2) as usize]).unwrap()),
        _ => UsageScope::Account(AccountId::new("acme").unwrap()),
    };
    let from = start().plus((random.below(30) as i64 - 6) * 4 * HOUR + random.below(2) as i64);
    let window = [None].into_iter().chain(WindowUnit::ALL.map(Some)).nth(random.below(6) as usize).unwrap();
    let span = match random.below(4) {
        _ if window == Some(WindowUnit::Minute) => Span::new(from, from.plus(12 * HOUR + 1)),
        0 => Span::new(start().plus(-30 * DAY), start().plus(60 * DAY)),
        _ => Span::new(from, from.plus(1 + random.below(60) as i64 * 4 * HOUR)),
    };
    let keys = [
        GroupKey::Subject,
        GroupKey::Source,
        GroupKey::Dimension("region".into()),
        GroupKey::Dimension("nothing".into()),
    ];
    let mut filter = BTreeMap::new();
    if random.below(3) == 0 {
        let texts: BTreeSet<String> =
            ["eu", ""].into_iter().take(random.below(3) as usize).map(String::from).collect();
        filter.insert("region".to_string(), texts);
    }
    Question {
        meter: MeterId::new(["sum", "sum", "late"][random.below(3) as usize]).unwrap(),
        scope,
        span,
        window,
        zone: Zone::new(ZONES[random.below(4) as usize]).unwrap(),
        group_by: keys.into_iter().filter(|_| random.below(3) == 0).collect(),
        filter,
        shows_empty: false,
    }
}

fn rows_of(answer: &UsageAnswer) -> BTreeMap<String, (i128, u64)> {
    let row_of = |row: &UsageRow| {
        let texts: Vec<Option<&str>> = row.group.iter().map(|text| text.as_deref()).collect();
        let hundredths = row.value.unwrap().multiply(Exact::from_integer(100)).unwrap();
        let name = format!("{} {} {texts:?}", row.window.from, row.window.until);
        (name, (hundredths.round_to(0).unwrap(), row.event_count))
    };
    let rows: BTreeMap<_, _> = answer.rows.iter().map(row_of).collect();
    assert_eq!(rows.len(), answer.rows.len(), "a window and a group have one row");
    rows
}

fn cases() -> u64 {
    std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(24)
}

/// Whatever was sent, in whatever order, twice or in conflict, quarantined, bound and bound again: a query is the recount
/// of what was known at its position, with any number of shards.
#[test]
fn a_query_is_a_recount_of_what_was_known() {
    for seed in 0..cases() {
        let mut random = Seed::new(seed);
        let mut world = World::new(1 + random.below(4) as usize);
        (0..10 + random.below(60)).for_each(|_| world.step(&mut random));
        world.usage.commit(world.now).unwrap();
        world.index_some(&mut random);
        for _ in 0..12 {
            let asked = question(&mut random);
            let end = world.usage.next_offset();
            let known = match random.below(4) {
                0 => Some(Known { before: random.below(end + 1), recorded_by: None }),
                1 => {
                    let past = random.below(120) as i64 * SECOND;
                    let by = Timestamp::from_nanoseconds(world.now).plus(-past);
                    Some(Known { before: end, recorded_by: Some(by) })
                }
                _ => None,
            };
            let Some(mut expected) = world.recount(&asked, known) else {
                let refused = world.answer(asked, known).map(|_| ()).unwrap_err();
                assert!(refused.name().ends_with("_must_exist"), "seed {seed}: {refused}");
                continue;
            };
            let (answer, as_of) = world.answer(asked.clone(), known).unwrap();
            let counted: u64 = expected.values().map(|(_, count)| count).sum();
            if asked.group_by.is_empty() && asked.window.is_none() {
                expected.entry(format!("{} {} []", asked.span.from, asked.span.until)).or_insert((0, 0));
            }
            assert_eq!(rows_of(&answer), expected, "seed {seed}, {known:?}, {asked:?}");
            assert_eq!(answer.event_count, counted, "seed {seed}");
            // The position that an answer names gives it again.
            let again = Known { before: as_of.usage_offset, recorded_by: None };
            let (again, _) = world.answer(asked.clone(), Some(again)).unwrap();
            assert_eq!((again.rows, again.event_digest), (answer.rows.clone(), answer.event_digest));
            check_empty_rows(&world, asked, known, &answer);
        }
    }
}

/// A span read the whole log before the position: yesterday cost as much as all of time.
#[test]
fn a_query_of_a_span_reads_where_its_events_can_be_and_is_the_recount_still() {
    let (mut read, mut whole, mut late) = (0, 0, 0);
    for seed in 0..cases() {
        let mut random = Seed::new(seed);
        let mut world = World::new(1 + random.below(2) as usize);
        world.now = start().nanoseconds();
        world.pace = Some(HOUR);
        (0..150).for_each(|_| world.step(&mut random));
        world.usage.commit(world.now).unwrap();
        if seed % 2 == 0 {
            world.index_some(&mut random)
        } else {
            world.index_all()
        }
        for _ in 0..12 {
            let from = start().plus(random.below(150) as i64 * HOUR + random.below(2) as i64);
            let span = Span::new(from, from.plus(1 + random.below(12) as i64 * HOUR));
            let asked = Question { span, window: None, group_by: Vec::new(), ..question(&mut random) };
            let end = world.usage.next_offset();
            let before = if random.below(3) == 0 { random.below(end + 1) } else { end };
            let known = Known { before, recorded_by: None };
            let Some(mut expected) = world.recount(&asked, Some(known)) else { continue };
            expected.entry(format!("{} {} []", span.from, span.until)).or_insert((0, 0));
            let (answer, _) = world.answer(asked.clone(), Some(known)).unwrap();
            assert_eq!(rows_of(&answer), expected, "seed {seed}, {known:?}, {asked:?}");
            let all = Question { scope: UsageScope::All, ..asked };
            read += world.bytes_to_scan(all, known);
            whole += known.before;
        }
        let is_late = |fact: &&Fact| fact.counts && fact.time.nanoseconds() < fact.recorded_at - 12 * HOUR;
        late += world.facts.iter().filter(is_late).count();
    }
    assert!(late > 0, "late and amended events are among them");
    // A third of the segments has no index in half of the worlds, and the newest one never has.
    assert!(read < whole / 3 * 2, "{read} of {whole} bytes");
}

/// Damage outside of the span is not met: it is not read.
#[test]
fn a_query_of_a_span_reads_nothing_else() {
    let mut world = World::new(1);
    for day in 0..40 {
        world.now = start().plus(day * DAY).nanoseconds();
        for number in 0..10 {
            let mut builder = BatchBuilder::new("edge", "use", IdMode::Given);
            let (id, time) = (format!("{day}-{number}"), world.now);
            builder.push_parts(id.as_bytes(), "k0", time, &[("v", 1, 0)], &[]).unwrap();
            world.take(builder, &mut Seed::new(2), &mut |_, _| {});
            world.usage.commit(world.now).unwrap();
        }
        // What the last barrier names is asked of the newest segments.
        world.barrier();
    }
    world.index_all();
    let asked = |day: i64| Question {
        span: Span::new(start().plus(day * DAY), start().plus((day + 1) * DAY)),
        ..everything()
    };
    let end = Known { before: world.usage.next_offset(), recorded_by: None };
    let whole = world.bytes_to_scan(everything(), end);
    assert!(world.bytes_to_scan(asked(3), end) * 5 < whole, "of {whole} bytes");
    let segment = world.usage_place.storage.open(&format!("{:020}.seg", 0), true).unwrap();
    segment.write_at((20 << 10) + 100, &[0xff; 8]).unwrap();
    let query = UsageQuery::new(everything()).unwrap();
    let terms = UsageTerms::of(world.machine.control().catalog(), &query).unwrap();
    let (nothing, mut judge) = (KnownCorrections::default(), world.shards.as_slice());
    let mut fold = UsageFold::new(query, terms);
    let all = scan(world.scanned_log(), end, &nothing, &mut fold, &mut judge, &|| true);
    assert!(matches!(all, Err(ScanError::Log(_))), "all of it is read");
    for day in 20..40 {
        assert_eq!(world.answer(asked(day), None).unwrap().0.event_count, 10, "day {day}");
    }
}

/// With empty windows shown, every group has a row in every window, and those with usage are the same.
fn check_empty_rows(world: &World, asked: Question, known: Option<Known>, answer: &UsageAnswer) {
    let groups: BTreeSet<_> = answer.rows.iter().map(|row| row.group.clone()).collect();
    let groups = if asked.group_by.is_empty() { 1 } else { groups.len() };
    let windows = UsageQuery::new(asked.clone()).unwrap().grid.windows().len();
    let shown = world.answer(Question { shows_empty: true, ..asked }, known);
    if groups * windows > QUERY_ROWS_MAX {
        assert_eq!(shown.map(|_| ()), Err(QueryStatus::RowsMustFit));
        return;
    }
    let (shown, _) = shown.unwrap();
    assert_eq!(shown.rows.len(), groups * windows);
    let used = |rows: &[UsageRow]| rows.iter().filter(|row| row.event_count > 0).cloned().collect::<Vec<_>>();
    assert_eq!(used(&shown.rows), used(&answer.rows));
}

/// A query of some subjects reads the corrections whose content is of these, and no others.
#[test]
fn corrected_events_are_found_by_the_subject_that_counts() {
    let mut restated = 0;
    for seed in 0..cases() {
        let mut random = Seed::new(seed);
        let mut world = World::new(1);
        (0..80).for_each(|_| world.step(&mut random));
        let known = world.machine.known_corrections();
        let mut found: Vec<EventPosition> = Vec::new();
        for subject in SUBJECTS {
            let positions = known.restated_of(Some(&[subject]));
            for event in positions.iter().flat_map(|position| known.restated_at(*position)) {
                assert_eq!(event.view().subject(0), subject, "seed {seed}");
                assert!(known.has(event.position));
            }
            found.extend(positions);
        }
        found.sort_unstable();
        let mut all = known.restated_of(None);
        all.sort_unstable();
        assert_eq!(found, all, "seed {seed}: each is of one subject");
        assert_eq!(known.restated_of(Some(&["nobody"])), []);
        restated += all.len();
    }
    assert!(restated > 0, "some events were corrected");
}

/// Indexes lead to every arrival of an id, given or numbered, each with the verdict that the shards gave it.
#[test]
fn every_arrival_of_an_id_is_found_with_its_verdict() {
    // Every id of a history is asked for: a few histories are many questions.
    for seed in 0..cases().div_ceil(4) {
        let mut random = Seed::new(seed);
        let mut world = World::new(1 + random.below(4) as usize);
        for _ in 0..40 + random.below(40) {
            world.step(&mut random);
            world.send_numbered(&mut random);
        }
        world.usage.commit(world.now).unwrap();
        world.index_some(&mut random);
        let given = (0..120).map(|id| EventIdOwned::Text(id.to_string()));
        let numbered =
            (0..2).flat_map(|epoch| (0..25).map(move |sequence| EventIdOwned::Sequenced { epoch, sequence }));
        let ids: Vec<EventIdOwned> = given.chain(numbered).collect();
        let mut found = 0;
        for (source, id) in SOURCES.iter().flat_map(|source| ids.iter().map(move |id| (*source, id))) {
            let event = crate::name_of(IdentityKey::new(0), source, id);
            let shard = event.shard(world.shards.len());
            let first = world.shards[shard].find_event(event).unwrap().map(|found| found.position);
            let mut arrivals = Arrivals::new(source, id, first);
            arrivals.read(world.scanned_log(), world.usage.next_offset(), &|| true).unwrap();
            let (arrivals, left_out) = arrivals.finish();
            for arrival in &arrivals {
                let verdict = world.verdicts.get(&arrival.position).copied();
                match arrival.repeat {
                    Repeat::First => assert_eq!(Some(arrival.position), first, "seed {seed}"),
                    Repeat::Not(repeat) => assert_eq!(Some(repeat), verdict, "seed {seed}, {source} {id}"),
                    Repeat::Forgotten => panic!("nothing is forgotten here"),
                }
            }
            assert_eq!(left_out, 0);
            found += arrivals.iter().filter(|arrival| world.verdicts.contains_key(&arrival.position)).count();
        }
        let has_id = |verdict: &&Verdict| **verdict != Verdict::Rejected(RefusalCode::IdMustFit);
        let expected = world.verdicts.values().filter(has_id).count();
        assert_eq!(found, expected, "seed {seed}: every arrival is one of some id");
    }
}

fn everything() -> Question {
    Question {
        meter: MeterId::new("sum").unwrap(),
        scope: UsageScope::All,
        span: Span::new(Timestamp::MIN, Timestamp::END),
        window: None,
        zone: Zone::utc(),
        group_by: Vec::new(),
        filter: BTreeMap::new(),
        shows_empty: false,
    }
}

#[test]
fn a_query_that_nobody_awaits_ends() {
    let mut world = World::new(1);
    world.send(&mut Seed::new(1));
    world.usage.commit(world.now).unwrap();
    let query = UsageQuery::new(everything()).unwrap();
    let mut fold =
        UsageFold::new(query.clone(), UsageTerms::of(world.machine.control().catalog(), &query).unwrap());
    let known = Known { before: world.usage.next_offset(), recorded_by: None };
    let (nothing, mut judge) = (KnownCorrections::default(), world.shards.as_slice());
    let ended = scan(world.scanned_log(), known, &nothing, &mut fold, &mut judge, &|| false);
    assert!(matches!(ended, Err(ScanError::Abandoned)), "{ended:?}");
}

#[test]
fn an_answer_that_is_too_large_is_refused() {
    let mut world = World::new(1);
    // As many subjects as a row each would be too much.
    for first in (0..=QUERY_ROWS_MAX).step_by(5_000) {
        let mut builder = BatchBuilder::new("edge", "use", IdMode::Given);
        for number in first..(first + 5_000).min(QUERY_ROWS_MAX + 1) {
            let (id, time) = (number.to_string(), start().plus(4 * DAY).nanoseconds());
            builder.push_parts(id.as_bytes(), &id, time, &[("v", 1, 0)], &[]).unwrap();
        }
        let frame = Arc::new(builder.finish(1, 0));
        let now = Timestamp::from_nanoseconds(world.now);
        let mut batch = PreparedBatch::prepare(frame.clone(), None, now, IdentityKey::new(0), 1).unwrap();
        let head = BatchRecordHead { producer: 1, refusals: Vec::new() }.encode();
        batch.offset = world.usage.stage(KIND_USAGE_BATCH, world.now, &[&head, &frame]).unwrap();
        world.usage.commit(world.now).unwrap();
        world.shards[0].handle_batch(&batch, &mut |_, _| {}).unwrap();
    }
    let (whole, _) = world.answer(everything(), None).unwrap();
    assert_eq!(whole.event_count, QUERY_ROWS_MAX as u64 + 1);
    let by_subject = Question { group_by: vec![GroupKey::Subject], ..everything() };
    let query = UsageQuery::new(by_subject.clone()).unwrap();
    let mut fold =
        UsageFold::new(query.clone(), UsageTerms::of(world.machine.control().catalog(), &query).unwrap());
    let known = Known { before: world.usage.next_offset(), recorded_by: None };
    let (nothing, mut judge) = (KnownCorrections::default(), world.shards.as_slice());
    let ended = scan(world.scanned_log(), known, &nothing, &mut fold, &mut judge, &|| true);
    assert!(matches!(ended, Err(ScanError::Query(QueryStatus::RowsMustFit))), "{ended:?}");
}

#[test]
fn csv_quotes_what_it_must_and_tells_an_empty_text_from_a_missing_one() {
    let span = Span::new(start(), start().plus(HOUR));
    let group_by = vec![GroupKey::Dimension("a,b".into()), GroupKey::Subject];
    let row = |text: Option<&str>, value: i128| UsageRow {
        window: span,
        group: vec![text.map(Arc::from), Some("k".into())],
        value: Some(Exact::new(value, 2)),
        event_count: 1,
    };
    let answer = UsageAnswer {
        question: Question { group_by, span, ..everything() },
        aggregation: Aggregation::Sum,
        rows: vec![row(None, 150), row(Some(""), 0), row(Some("x\"y\nz"), -5)],
        event_count: 3,
        event_digest: 0x1f,
    };
    let window = "2026-03-07T00:00:00Z,2026-03-07T01:00:00Z";
    let expected = format!(
        "from,to,\"a,b\",subject,value,event_count\n{window},,k,1.5,1\n{window},\"\",k,0,1\n\
         {window},\"x\"\"y\nz\",k,-0.05,1\n"
    );
    assert_eq!(answer.to_csv(), expected);
    let json = answer.to_json(AsOf { usage_offset: 7, control_offset: 8 });
    assert_eq!(json["rows"][0]["group"], json!({ "a,b": null, "subject": "k" }));
    assert_eq!(json["as_of"], json!({ "usage_offset": 7, "control_offset": 8 }));
    assert_eq!(json["event_digest"], "0000000000000000000000000000001f");
}
