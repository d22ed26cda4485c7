//! The auditor: independent and slow. It reads the logs itself, knows what producers sent and what was promised to them,
//! and says what must be true after every start, after every cut and at the end.
//!
//! Owns: promises (acks of usage and of control records), and what each audit compares. Leaves to others: recounting
//! (`recount`), pricing (`prices`), sealed content (`books`).
//!
//! What it takes from the program: reading records of a log (`engine::log`), hashing an id (`engine::identity`).

use std::collections::BTreeMap;

use domain::Timestamp;
use engine::identity::{EventName, IdentityKey, shard_of_slot, slot_of};
use engine::log::LogReader;
use engine::shard::kept::{CellValue, Kept};
use engine::shard::sequence::{Item, KeyChange};
use engine::shard::{EventStanding, SourceCounters};
use engine::testing::disk::SimulatedDisk;
use machine::{LogPlace, name_of};
use serde_json::Value;
use wire::verdict::Verdict;

use crate::books::{Books, Sealed, chains};
use crate::corrections::{Asked, event_id};
use crate::measures::Measure;
use crate::prices::Meter;
use crate::producers::{Id, Producers};
use crate::recount::{Counted, Logged, Recount, Stands, Until, UsageRecord, recount};
use crate::server::{CellKey, Said, Server, UsageSide, logs_of};

const REFUSALS_AT: usize = 4;
const HEAD_BYTES: usize = 16;

/// A finding.
pub(crate) type Audit = Result<(), String>;

/// What the logs hold.
pub(crate) struct Read {
    pub(crate) usage: Vec<UsageRecord>,
    pub(crate) control: Vec<(u64, Value)>,
    batches: Vec<Sealed>,
    journals: Vec<Sealed>,
}

/// The auditor.
pub(crate) struct Auditor {
    segment_bytes: u64,
    key: IdentityKey,
    /// Batches that a server said are durable: by offset.
    acked: BTreeMap<u64, usize>,
    /// Verdicts that servers gave.
    verdicts: BTreeMap<(u64, u16), Verdict>,
    /// Control records that a server said are durable, as a person would recognize them.
    promised: Vec<Promise>,
    /// Corrections that somebody asked for, by who did; what became of some the server could not say any more.
    pub(crate) asked: BTreeMap<String, Asked>,
    pub(crate) books: Books,
}

/// What a server promised of its control log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    Put {
        kind: String,
        id: String,
        version: u64,
    },
    Cut(u64),
    Acked(u64),
    /// A correction that an actor asked for.
    Corrected(String),
}

impl Promise {
    fn is_kept_by(&self, record: &Value) -> bool {
        match self {
            Promise::Put { kind, id, version } => {
                record["record"] == "put"
                    && record["kind"] == kind.as_str()
                    && record["id"] == id.as_str()
                    && record["version"] == *version
            }
            Promise::Corrected(actor) => {
                let is_correction = record["record"].as_str().is_some_and(|text| text.starts_with("event_"));
                is_correction && record["actor"] == actor.as_str()
            }
            Promise::Cut(number) => record["record"] == "cut" && record["number"] == *number,
            Promise::Acked(batch) => {
                record["record"] == "batch_ack"
                    && record["batch"].as_u64().is_some_and(|acked| acked >= *batch)
            }
        }
    }
}

impl Auditor {
    pub(crate) fn new(segment_bytes: u64, key: IdentityKey) -> Self {
        Self {
            segment_bytes,
            key,
            acked: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            promised: Vec::new(),
            asked: BTreeMap::new(),
            books: Books::default(),
        }
    }

    /// Notes what a server said.
    pub(crate) fn note(&mut self, said: &Said) -> Audit {
        match said {
            Said::Ack { batch, offset, .. } => {
                if self.acked.insert(*offset, *batch).is_some_and(|before| before != *batch) {
                    return Err(format!("two batches were acknowledged at offset {offset}"));
                }
            }
            Said::Verdict { offset, index, verdict } => {
                self.verdicts.insert((*offset, *index), *verdict);
            }
        }
        Ok(())
    }

    /// An event, as shards are asked for it.
    pub(crate) fn name_of(&self, source: &str, id: &Id) -> EventName {
        name_of(self.key, source, &event_id(id))
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        self.promised.push(promise);
    }

    /// Reads all logs.
    pub(crate) fn read(&self, disk: &SimulatedDisk, producers: &Producers) -> Result<Read, String> {
        let logs = logs_of(disk, self.segment_bytes);
        let mut usage = Vec::new();
        for_each_record(&logs.usage, &mut |offset, kind, received_at, payload| {
            usage.push(match kind {
                1 => {
                    let frame = frame_in(payload);
                    let batch = producers.batch_of(frame);
                    let batch =
                        batch.ok_or(format!("the usage log has a batch at {offset} that nobody sent"))?;
                    let received_at = Timestamp::from_nanoseconds(received_at);
                    UsageRecord::Batch { offset, received_at, batch }
                }
                _ => {
                    let named = payload[8..16].try_into().expect("a barrier has sixteen bytes");
                    UsageRecord::Barrier { offset, control_offset: u64::from_le_bytes(named) }
                }
            });
            Ok(())
        })?;
        let mut control: Vec<(u64, Value)> = Vec::new();
        for_each_record(&logs.control, &mut |offset, _, _, payload| {
            let record = serde_json::from_slice(payload);
            control.push((offset, record.map_err(|error| format!("control record at {offset}: {error}"))?));
            Ok(())
        })?;
        let seals = |wanted: &str| -> Vec<String> {
            let seals = control.iter().filter(|(_, record)| record["record"] == wanted);
            seals.map(|(_, record)| record["digest"].as_str().unwrap_or_default().to_string()).collect()
        };
        let batches = sealed_in(&logs.charges, &seals("seal"))?;
        let journals = sealed_in(&logs.journals, &seals("journal_seal"))?;
        Ok(Read { usage, control, batches, journals })
    }

    /// What became of every event.
    pub(crate) fn recount(
        &self,
        disk: &SimulatedDisk,
        producers: &Producers,
        until: Until,
    ) -> Result<Recount, String> {
        Ok(recount(self.logged(&self.read(disk, producers)?, producers), self.key, until))
    }

    fn logged<'a>(&'a self, read: &'a Read, producers: &'a Producers) -> Logged<'a> {
        Logged { usage: &read.usage, control: &read.control, batches: &producers.batches, asked: &self.asked }
    }

    /// After a start, and whenever a server is at rest: nothing that was promised is lost, nothing counts twice, and
    /// what was sealed is what it was.
    pub(crate) fn check_state(
        &mut self,
        disk: &SimulatedDisk,
        producers: &Producers,
        usage: &mut UsageSide,
    ) -> Audit {
        let read = self.read(disk, producers)?;
        self.check_promises(&read)?;
        self.books.take(&read.batches, &read.journals)?;
        let recount = recount(self.logged(&read, producers), self.key, Until::End);
        self.check_counters(&recount, &usage.counters())?;
        self.check_verdicts(&recount)?;
        let is: Vec<_> =
            usage.set_aside().iter().map(|a| (a.position.offset(), a.position.index(), a.verdict)).collect();
        if is != recount.set_aside() {
            return Err(format!("set aside is {is:?}, by the log {:?}", recount.set_aside()));
        }
        self.check_events(&recount, usage)
    }

    /// Shards know every event where it arrived, and where it stands.
    fn check_events(&self, recount: &Recount, usage: &mut UsageSide) -> Audit {
        recount.assert_nothing_counts_twice();
        for ((source, id), event) in &recount.events {
            let found = usage.find(self.name_of(source, id));
            let found = found.map_err(|error| format!("{source} {id:?} cannot be found: {error}"))?;
            let is_counted = found.is_some_and(|found| found.counted_before.is_some());
            if is_counted != recount.has_counted_before(event) {
                return Err(format!("{source} {id:?}: an earlier one counts: {is_counted}"));
            }
            let is = found.map(|found| (found.position.offset(), found.position.index(), found.standing));
            let standing = match event.stands {
                Stands::Counts { .. } if recount.is_waiting(&event.sent) => EventStanding::Pending,
                Stands::Counts { .. } => EventStanding::Metered,
                Stands::Unmetered => EventStanding::Unmetered,
                Stands::SetAside(reason) => EventStanding::Quarantined(reason),
                Stands::TakenBack => EventStanding::Voided,
            };
            let should = (event.place.0, event.place.1, standing);
            if is != Some(should) {
                return Err(format!("{source} {id:?} is known as {is:?}, by the log it is {should:?}"));
            }
        }
        Ok(())
    }

    fn check_promises(&self, read: &Read) -> Audit {
        let mut found: BTreeMap<u64, usize> = BTreeMap::new();
        for record in &read.usage {
            if let UsageRecord::Batch { offset, batch, .. } = record {
                found.insert(*offset, *batch);
            }
        }
        for (offset, batch) in &self.acked {
            if found.get(offset) != Some(batch) {
                return Err(format!(
                    "batch {} was acknowledged at offset {offset} and is lost: there is {:?}",
                    batch + 1,
                    found.get(offset)
                ));
            }
        }
        for promise in &self.promised {
            if !read.control.iter().any(|(_, record)| promise.is_kept_by(record)) {
                return Err(format!("{promise:?} was promised and is lost"));
            }
        }
        Ok(())
    }

    fn check_counters(
        &self,
        recount: &Recount,
        counters: &BTreeMap<std::sync::Arc<str>, SourceCounters>,
    ) -> Audit {
        let expected = recount.counters();
        for source in crate::actions::SOURCES {
            let nothing = SourceCounters::default();
            let (is, should) =
                (counters.get(source).unwrap_or(&nothing), expected.get(source).unwrap_or(&nothing));
            if is != should {
                return Err(format!("{source}: the shards counted {is:?}, the log has {should:?}"));
            }
        }
        Ok(())
    }

    fn check_verdicts(&self, recount: &Recount) -> Audit {
        for (place, verdict) in &self.verdicts {
            let expected = recount.verdicts.get(place);
            if expected != Some(verdict) {
                return Err(format!("event {place:?} was told {verdict:?}; by the log it is {expected:?}"));
            }
        }
        Ok(())
    }

    /// After a cut: what was charged is what the events and terms come to, and cells are the folds of their events.
    pub(crate) fn check_cut(
        &mut self,
        disk: &SimulatedDisk,
        producers: &Producers,
        server: &Server,
        at: Timestamp,
        barrier: u64,
        shards: usize,
    ) -> Audit {
        let read = self.read(disk, producers)?;
        self.books.take(&read.batches, &read.journals)?;
        let machine = server.control.machine();
        if let Some(failure) = machine.failures().next() {
            return Err(format!("amounts of this world fit, but {failure}"));
        }
        let recount = recount(self.logged(&read, producers), self.key, Until::Barrier(barrier));
        let expected = recount.known.worths(&recount.counted(), at);
        let issued = &self.books.issued;
        for key in issued.keys().chain(expected.keys()) {
            let (is, should) = (issued.get(key), expected.get(key));
            if is != should {
                return Err(format!("at {at}, {key:?}: charged {is:?}, worth {should:?}"));
            }
        }
        if server.usage.last_barrier == barrier {
            check_cells(&recount, &server.usage.cells, shards)?;
        }
        Ok(())
    }
}

/// Cells that were reported: each is the fold of the first events of its shard from the start of its slice on.
fn check_cells(recount: &Recount, cells: &BTreeMap<(usize, CellKey), CellValue>, shards: usize) -> Audit {
    let counted = recount.counted();
    for ((shard, (subject, program, group, slice_from)), cell) in cells {
        let fold = &cell.fold;
        let meter = &recount.known.meters[*program as usize];
        let is_ours = |event: &&Counted<'_>| {
            let sent = event.sent;
            let text = meter.is_grouped.then_some(sent.labels.group).flatten();
            sent.subject == subject.as_str()
                && sent.time >= *slice_from
                && event.meters.contains(&meter.id)
                && shard_of_slot(slot_of(event.identity), shards) == *shard
                && group.first().and_then(|text| text.as_deref()) == text
                && recount.known.owner_at(sent.subject, sent.time).is_some()
        };
        let mut events: Vec<_> = counted.iter().filter(is_ours).collect();
        events.sort_by_key(|event| (event.sent.time, event.place));
        let count = fold.count as usize;
        let name = || format!("cell {subject} {} {group:?} from {slice_from} of shard {shard}", meter.id);
        if count > events.len() {
            return Err(format!("{} has {count} events, the log {} for it", name(), events.len()));
        }
        let (inside, behind) = events.split_at(count);
        let (mut sum, mut digest) = (0i128, 0u128);
        for event in inside {
            sum += value_of(event, meter);
            digest = digest.wrapping_add(event.identity);
        }
        // The sum of keys is none of anything.
        if (fold.sum.value(), fold.digest) != (Some(sum), digest) && !meter.measure.has_key()
            || fold.digest != digest
        {
            return Err(format!("{} sums {:?}, its {count} events {sum}", name(), fold.sum.value()));
        }
        if let Some((is, should)) = kept_otherwise(meter, cell, inside) {
            return Err(format!("{} keeps {is}, of its {count} events {should}", name()));
        }
        let Some(last) = inside.last() else { continue };
        let owner = |event: &Counted<'_>| {
            recount.known.owner_at(event.sent.subject, event.sent.time).expect("owned events were chosen")
        };
        let (subscription, plan) = owner(last);
        if inside.iter().any(|event| owner(event) != (subscription, plan))
            || recount.known.slice_from(subscription, plan, last.sent.time) > *slice_from
        {
            return Err(format!("{} reaches over a bound to {}", name(), last.sent.time));
        }
        if behind.first().is_some_and(|next| next.sent.time == last.sent.time) {
            return Err(format!("{} misses an event at {}", name(), last.sent.time));
        }
    }
    Ok(())
}

/// The value of an event at the scale of a meter.
fn value_of(event: &Counted<'_>, meter: &Meter) -> i128 {
    if meter.measure.has_value() { i128::from(event.halves) * 5 * 10i128.pow(17) } else { 1 }
}

/// What a cell keeps beyond sums, and what it should, of events in order of time and place; nothing if it is the same.
fn kept_otherwise(meter: &Meter, cell: &CellValue, inside: &[&Counted<'_>]) -> Option<(String, String)> {
    let kept = cell.kept.as_deref();
    let is = match kept {
        None => Vec::new(),
        Some(Kept::Least(value) | Kept::Greatest(value)) => vec![value.to_string()],
        Some(Kept::Latest(item)) => vec![text_of(meter, item)],
        Some(Kept::Sequence(sequence)) => {
            // What was spilled and damaged stops whoever folds it.
            let _items = sequence.read().ok()?;
            let mut items = sequence.items();
            items.sort_by_key(|item| (item.time, item.position));
            items.iter().map(|item| text_of(meter, item)).collect()
        }
    };
    let item_of = |event: &&Counted<'_>| {
        let used = event.used_of(meter);
        let value = if meter.measure.has_key() { used.is_removal.into() } else { value_of(event, meter) };
        format!("{} {:?} {value}", used.time, used.place)
    };
    let values = inside.iter().map(|event| value_of(event, meter));
    let should: Vec<String> = match meter.measure {
        Measure::Sum | Measure::Count | Measure::Average => Vec::new(),
        Measure::Min => values.min().iter().map(ToString::to_string).collect(),
        Measure::Max => values.max().iter().map(ToString::to_string).collect(),
        Measure::Latest => inside.last().map(item_of).into_iter().collect(),
        Measure::Unique { .. } => {
            let is_replaced = |(index, event): &(usize, &&Counted<'_>)| {
                inside[index + 1..].iter().any(|later| later.sent.labels.key == event.sent.labels.key)
            };
            let last = inside.iter().enumerate().filter(|event| !is_replaced(event));
            last.map(|(_, event)| item_of(event)).collect()
        }
        Measure::Level(_) | Measure::Percentile(_) | Measure::Peak(_) | Measure::Each => {
            inside.iter().map(item_of).collect()
        }
    };
    (is != should).then(|| (format!("{is:?}"), format!("{should:?}")))
}

fn text_of(meter: &Meter, item: &Item) -> String {
    let value =
        if meter.measure.has_key() { KeyChange::of_value(item.value).is_removal.into() } else { item.value };
    format!("{} {:?} {value}", item.time, (item.position.offset(), item.position.index()))
}

/// The frame behind the head of a batch record.
fn frame_in(payload: &[u8]) -> &[u8] {
    let refusals = u32::from_le_bytes(payload[REFUSALS_AT..REFUSALS_AT + 4].try_into().expect("four bytes"));
    &payload[(HEAD_BYTES + 4 * refusals as usize).next_multiple_of(16)..]
}

type Visit<'v> = &'v mut dyn FnMut(u64, u16, i64, &[u8]) -> Audit;

fn for_each_record(place: &LogPlace, visit: Visit<'_>) -> Audit {
    let kind = place.options.kind;
    let unreadable = |error| format!("the log of {kind:?} cannot be read: {error}");
    let mut reader = LogReader::open(&*place.storage, place.options, 0, None).map_err(unreadable)?;
    while let Some(record) = reader.next().map_err(unreadable)? {
        visit(record.offset, record.kind, record.received_at, record.payload)?;
    }
    Ok(())
}

/// Content of seals in a log of parts: of what is stored, that which hashes to them, in their order.
fn sealed_in(place: &LogPlace, seals: &[String]) -> Result<Vec<Sealed>, String> {
    let mut stored: Vec<Vec<u8>> = Vec::new();
    for_each_record(place, &mut |_, _, _, payload| {
        // Content of these worlds is far below the size of a part: every record is one.
        stored.push(payload[HEAD_BYTES..].to_vec());
        Ok(())
    })?;
    let mut sealed = Vec::new();
    let mut previous = "";
    for digest in seals {
        let content = stored.iter().find(|content| chains(previous, content, digest));
        let content = content.ok_or_else(|| format!("content of seal {digest} is not stored"))?;
        sealed.push((digest.clone(), content.clone()));
        previous = digest;
    }
    Ok(sealed)
}
