//! From a charge line back to the events of the log that it counts.
//!
//! A line counts what a cut knew: the usage before the barrier of its batch's cut, under the catalog and the corrections of
//! that moment. So the log is read again as of that barrier, like a usage query, and the events are those whose subject
//! belonged to the line's subscription in the line's slice and whose group counts in the line's.
//!
//! Owns: which events are under a line, and whether they are all. Leaves to others: reading the log
//! (`usage_query::scan`), which events count (shards).
//!
//! Invariants: the digest of the events is that which a charge line says of the slice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use billing::catalog::{Catalog, PriceTimeline, PricingModel};
use billing::charges::{ChargeLine, Component};
use domain::{EventPosition, GroupTexts, Span, Subject, Timestamp};
use engine::identity::IdentityKey;
use engine::shard::cell::Group;
use engine::shard::recount::{Place, Recount};
use serde_json::{Value, json};
use wire::correction::EventContent;

use super::{place_json, shown};
use crate::control::ControlState;
use crate::corrections::restated_of;
use crate::groups::{counted_texts, texts_of_group};
use crate::metering_plan::program_of;
use crate::owners::{Schedules, active_spans, slice_of};
use crate::usage_query::{AsOf, Candidate, Counting, LoggedBatch, QUERY_ROWS_MAX, QueryStatus, identity_of};

/// What a line rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestsOn {
    /// Usage of its slice, which it counts.
    Usage,
    /// The charge of usage in its slice: a discount, a credit or covered units.
    ChargeOfUsage,
    /// Time: a recurring amount.
    Time,
    /// The lines of a window or an account: a bound, a commitment or a grant.
    Terms,
}

impl RestsOn {
    /// What a line of a catalog rests on.
    pub fn of(catalog: &Catalog, line: &ChargeLine) -> Self {
        let price = line.price.as_ref().and_then(|price| catalog.price(price));
        match price {
            None => RestsOn::Terms,
            Some(price) if price.model() == PricingModel::Flat => RestsOn::Time,
            Some(_) if line.component == Component::Charge => RestsOn::Usage,
            Some(_) => RestsOn::ChargeOfUsage,
        }
    }

    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            RestsOn::Usage => "usage",
            RestsOn::ChargeOfUsage => "charge_of_usage",
            RestsOn::Time => "time",
            RestsOn::Terms => "terms",
        }
    }
}

/// Counts the events under a line.
pub struct LineEvents<'a> {
    price: &'a PriceTimeline,
    group: GroupTexts,
    slice: Span,
    /// When which subject belongs to the line's subscription, inside the slice; sorted and disjoint.
    spans: BTreeMap<Subject, Vec<Span>>,
    meters: Vec<CountedMeter>,
    after: Option<EventPosition>,
    limit: usize,
    page: BTreeSet<EventPosition>,
    has_more: bool,
    count: u64,
    digest: u128,
}

struct CountedMeter {
    recount: Recount,
    /// Whether a group counts in the line's.
    is_its: BTreeMap<Group, bool>,
}

impl<'a> LineEvents<'a> {
    /// Counts the events under a line in a catalog as it was at the cut; of these, `limit` behind `after` are kept. `None`
    /// if the line rests on no usage.
    pub fn new(
        catalog: &'a Catalog,
        line: &ChargeLine,
        after: Option<EventPosition>,
        limit: usize,
    ) -> Option<Self> {
        if !matches!(RestsOn::of(catalog, line), RestsOn::Usage | RestsOn::ChargeOfUsage) {
            return None;
        }
        let (price, subscription) = (line.price.as_ref()?, line.subscription.as_ref()?);
        let price = catalog.price(price)?;
        let mut events = Self {
            price,
            group: line.group.clone(),
            slice: Span::new(line.slice.from, line.slice.from),
            spans: BTreeMap::new(),
            meters: Vec::new(),
            after,
            limit,
            page: BTreeSet::new(),
            has_more: false,
            count: 0,
            digest: 0,
        };
        let active = active_spans(catalog, subscription).into_iter();
        let active = active.filter(|active| !active.is_trial && active.plan == *price.plan());
        let from = line.slice.from;
        let Some(active) = active.into_iter().find(|active| active.span.contains(from)) else {
            return Some(events);
        };
        let slice = slice_of(catalog, &mut Schedules::default(), &line.account, &active, from);
        let is_of_version = price.version_at(from).is_some_and(|found| found.version == line.price_version);
        if slice.from != from || !is_of_version {
            // Slices are others by now: nothing counts in this key any more.
            return Some(events);
        }
        events.slice = slice;
        for subject in catalog.subjects_of_subscription(subscription) {
            let timeline = catalog.subject(subject.as_str()).expect("the catalog names its own subjects");
            for (bound, binding) in timeline.spans() {
                if binding.subscription == *subscription && bound.overlaps(slice) {
                    let span = Span::new(bound.from.max(slice.from), bound.until.min(slice.until));
                    events.spans.entry(subject.clone()).or_default().push(span);
                }
            }
        }
        let meters = catalog.meters().filter(|(_, meter)| price.meters().any(|priced| *priced == meter.id));
        let counted = meters.map(|(created, meter)| CountedMeter {
            recount: Recount::new(program_of(created, meter)),
            is_its: BTreeMap::new(),
        });
        events.meters = counted.collect();
        Some(events)
    }

    /// What is under the line.
    pub fn finish(self, line: ChargeLine, rests_on: RestsOn) -> UnderLine {
        let (event_count, event_digest) = (self.count, self.digest);
        let events = self.page.into_iter().map(|position| CountedEvent { position, told: None }).collect();
        UnderLine { line, rests_on, event_count, event_digest, events, has_more: self.has_more }
    }
}

impl CountedMeter {
    fn counts_in(&mut self, price: &PriceTimeline, slice: Span, wanted: &GroupTexts, group: &Group) -> bool {
        if let Some(known) = self.is_its.get(group) {
            return *known;
        }
        let names = self.recount.group_names();
        let counted = counted_texts(price, slice, || texts_of_group(names, group));
        let is_its = counted.is_ok_and(|counted| counted.as_ref() == Some(wanted));
        self.is_its.insert(group.clone(), is_its);
        is_its
    }
}

impl Counting for LineEvents<'_> {
    fn subjects(&self) -> Option<Vec<&str>> {
        Some(self.spans.keys().map(Subject::as_str).collect())
    }

    fn times(&self) -> Option<Span> {
        Some(self.slice)
    }

    fn select(
        &mut self,
        batch: LoggedBatch<'_>,
        key: IdentityKey,
        out: &mut Vec<Candidate>,
    ) -> Result<(), QueryStatus> {
        let view = batch.view;
        let spans: Vec<Option<&Vec<Span>>> =
            (0..view.subject_count()).map(|entry| self.spans.get(view.subject(entry))).collect();
        if spans.iter().all(Option::is_none) {
            return Ok(());
        }
        let source = key.of_source(view.source());
        for (number, meter) in self.meters.iter_mut().enumerate() {
            let Some(mut open) = meter.recount.open(view, batch.control_offset) else { continue };
            for index in batch.accepted() {
                let time = Timestamp::from_nanoseconds(view.time(index));
                let Some(spans) = spans[view.subject_index(index)] else { continue };
                if !spans.iter().any(|span| span.contains(time)) {
                    continue;
                }
                let Some(share) = meter.recount.share_of(&mut open, view, index) else { continue };
                let group = meter.recount.group_of(share).clone();
                if !meter.counts_in(self.price, self.slice, &self.group, &group) {
                    continue;
                }
                out.push(Candidate {
                    identity: identity_of(view, index, &source),
                    position: batch.position(index),
                    place: Place { label: 0, slice_from: self.slice.from, time },
                    share,
                    meter: number,
                    source: None,
                });
            }
            if meter.recount.group_count() > QUERY_ROWS_MAX {
                return Err(QueryStatus::RowsMustFit);
            }
        }
        Ok(())
    }

    fn add(&mut self, candidate: &Candidate) -> Result<(), QueryStatus> {
        self.count += 1;
        self.digest = self.digest.wrapping_add(candidate.identity);
        if self.after.is_none_or(|after| candidate.position > after) {
            self.page.insert(candidate.position);
            if self.page.len() > self.limit {
                self.page.pop_last();
                self.has_more = true;
            }
        }
        Ok(())
    }
}

/// An event under a line.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedEvent {
    /// Where it arrived.
    pub position: EventPosition,
    /// What it says; read afterwards.
    pub told: Option<ToldEvent>,
}

/// What an event under a line says.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldEvent {
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
    /// When it arrived.
    pub received_at: Timestamp,
    /// What counted as of the cut.
    pub content: EventContent,
    /// Whether that is a correction's.
    pub is_corrected: bool,
}

/// What is under a charge line.
#[derive(Clone, Debug)]
pub struct UnderLine {
    /// The line.
    pub line: ChargeLine,
    /// What it rests on.
    pub rests_on: RestsOn,
    /// Events in its slice and group; one of several meters of the price counts once for each.
    pub event_count: u64,
    /// Digest of their set.
    pub event_digest: u128,
    /// Some of them, in log order.
    pub events: Vec<CountedEvent>,
    /// Whether there are more behind these.
    pub has_more: bool,
}

impl UnderLine {
    /// What is under a line that rests on no usage.
    pub fn nothing(line: ChargeLine, rests_on: RestsOn) -> Self {
        Self { line, rests_on, event_count: 0, event_digest: 0, events: Vec::new(), has_more: false }
    }

    /// Whether the events are those that the line says; nothing is said by a line that counts none.
    pub fn is_whole(&self) -> Option<bool> {
        let says = self.line.event_digest.0;
        (self.line.component == Component::Charge).then_some(says == self.event_digest)
    }

    fn next(&self) -> Option<(u64, u16)> {
        let last = self.events.last().filter(|_| self.has_more)?;
        Some((last.position.offset(), last.position.index()))
    }

    /// The answer as JSON; `as_of` is the barrier of the batch's cut.
    pub fn to_json(&self, digest: &str, as_of: AsOf) -> Value {
        let events = self.events.iter().map(CountedEvent::to_json);
        json!({
            "charge": self.line, "batch": { "number": self.line.batch, "digest": digest },
            "as_of": { "usage_offset": as_of.usage_offset, "control_offset": as_of.control_offset },
            "rests_on": self.rests_on.as_str(), "event_count": self.event_count,
            "event_digest": format!("{:032x}", self.event_digest), "is_whole": self.is_whole(),
            "events": events.collect::<Vec<_>>(), "next": place_json(self.next()),
        })
    }
}

impl CountedEvent {
    /// Tells what the event says, as it arrived, or as its last correction before the cut says.
    pub fn tell(
        &mut self,
        state: &ControlState,
        source: String,
        id: String,
        received_at: Timestamp,
        arrived: EventContent,
    ) {
        let corrections = id.parse().map(|id| state.corrections().of(&source, &id, self.position));
        let last = corrections.unwrap_or_default().last();
        let last = last.and_then(|recorded| restated_of(&recorded.record));
        let content = last.map_or(arrived, |restated| restated.content.clone());
        self.told = Some(ToldEvent { source, id, received_at, content, is_corrected: last.is_some() });
    }

    fn to_json(&self) -> Value {
        let mut event = match &self.told {
            Some(told) => {
                let mut event = serde_json::to_value(&told.content).expect("content is plain data");
                event["source"] = told.source.as_str().into();
                event["id"] = told.id.as_str().into();
                event["received_at"] = json!(told.received_at);
                event["corrected"] = told.is_corrected.into();
                event
            }
            None => json!({}),
        };
        event["offset"] = self.position.offset().into();
        event["index"] = self.position.index().into();
        event
    }
}

impl fmt::Display for UnderLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = &self.line;
        write!(f, "batch {} line {} · {}", line.batch, line.line, line.account)?;
        line.subscription.iter().try_for_each(|subscription| write!(f, " · {subscription}"))?;
        line.price.iter().try_for_each(|price| write!(f, " · {price} v{}", line.price_version))?;
        line.group.iter().try_for_each(|(name, text)| write!(f, " · {} {}", shown(name), shown(text)))?;
        writeln!(f, " · {} {}", line.rounded, line.currency)?;
        writeln!(f, "    slice {} to {}", line.slice.from, line.slice.until)?;
        match self.rests_on {
            RestsOn::Usage => {}
            RestsOn::ChargeOfUsage => writeln!(f, "    it follows from the charge of these events")?,
            RestsOn::Time => return writeln!(f, "    a recurring amount: no usage is under it"),
            RestsOn::Terms => {
                return writeln!(
                    f,
                    "    it follows from other lines of its account: no usage of its own is under it"
                );
            }
        }
        let is_whole = match self.is_whole() {
            Some(true) => ", the set that the line says",
            Some(false) => ", NOT the set that the line says",
            None => "",
        };
        writeln!(f, "\n{} events, digest {:032x}{is_whole}", self.event_count, self.event_digest)?;
        for event in &self.events {
            write!(f, "    {}.{}", event.position.offset(), event.position.index())?;
            if let Some(told) = &event.told {
                write!(
                    f,
                    " · {} of {} · {}",
                    shown(&told.id),
                    shown(&told.source),
                    shown(&told.content.subject)
                )?;
                write!(f, " · {}", told.content.time)?;
                told.content
                    .values
                    .iter()
                    .try_for_each(|(name, value)| write!(f, " · {} {value}", shown(name)))?;
                if told.is_corrected {
                    f.write_str(" · corrected")?;
                }
            }
            writeln!(f)?;
        }
        if let Some((offset, index)) = self.next() {
            writeln!(f, "more: --after {offset}.{index}")?;
        }
        Ok(())
    }
}
