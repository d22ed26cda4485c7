//! What is known of a window of an account: which events it has, from which sources, and whether any are missing.
//!
//! The statement counts the log again and sets it beside the sealed charge lines: price by price, how many events and the
//! digest of their set. As of the barrier of the last cut both are the same; after it, the difference is what the next cut
//! will charge. Sources say how far they have come, and which numbers of sequenced producers have not arrived.
//!
//! Owns: the count by price, what is said of a source, how it is written. Leaves to others: which events a price charges
//! (`terms`), gaps (`sequences`), reading the log (`usage_query::scan`).
//!
//! Invariants: an event is counted once for every meter of every price that charges it, as a charge line does.

mod sequences;
mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{AccountId, Span, Timestamp};
use engine::identity::IdentityKey;
use engine::shard::recount::{Place, Recount};
use serde_json::{Value, json};
use wire::usage::IdColumn;

use self::sequences::Sequences;
pub use self::sequences::{Gap, SEQUENCE_SPANS_MAX};
pub use self::terms::CompletenessTerms;
use crate::machine::Machine;
use crate::usage_query::{AsOf, Candidate, Counting, LoggedBatch, QUERY_ROWS_MAX, QueryStatus, identity_of};

/// Gaps that a statement lists.
const GAPS_LISTED_MAX: usize = 1_000;

/// How many events, and the digest of their set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSet {
    /// How many.
    pub count: i64,
    /// Sum of their identities.
    pub digest: u128,
}

impl EventSet {
    fn add(&mut self, other: EventSet) {
        self.count += other.count;
        self.digest = self.digest.wrapping_add(other.digest);
    }

    fn to_json(self) -> Value {
        json!({ "event_count": self.count, "event_digest": format!("{:032x}", self.digest) })
    }
}

/// What sealed batches say of a window.
#[derive(Clone, Debug)]
pub struct Charged {
    /// Events that the lines of a price count, by subscription and price.
    prices: BTreeMap<(String, String), EventSet>,
    /// The batch with which the last of the windows that share an instant with the month became final.
    final_batch: Option<u64>,
    /// Barrier and instant of the last cut.
    last_cut: Option<(u64, Timestamp)>,
    /// Which ids are forgotten.
    forgotten: Value,
}

impl Charged {
    /// What a machine's sealed batches say of a month of an account: of slices that lie in it, whatever their windows.
    pub fn of(machine: &Machine, account: &AccountId, month: Span) -> Self {
        let mut prices: BTreeMap<(String, String), EventSet> = BTreeMap::new();
        for (key, worth) in machine.issued().of_account(account) {
            let (Some(subscription), Some(price)) = (&key.subscription, &key.price) else { continue };
            if month.contains(key.slice_from) {
                let set = EventSet { count: worth.event_count, digest: worth.event_digest };
                prices.entry((subscription.to_string(), price.to_string())).or_default().add(set);
            }
        }
        let control = machine.control();
        Self {
            prices,
            final_batch: machine.final_batch(account, month),
            last_cut: control.last_cut().map(|cut| (cut.barrier, cut.at)),
            forgotten: control.forgotten_json(),
        }
    }
}

/// A statement in the making.
pub struct Completeness {
    terms: CompletenessTerms,
    recounts: Vec<Recount>,
    sources: Vec<Source>,
    source_numbers: BTreeMap<Arc<str>, usize>,
    /// Spans of numbers over all sources.
    sequence_spans: isize,
}

/// What is known of a source.
#[derive(Debug, Default)]
struct Source {
    /// Events of the account's window.
    counted: u64,
    latest_counted: Option<Timestamp>,
    latest_time: Option<Timestamp>,
    latest_received_at: Option<Timestamp>,
    latest_recorded_at: Option<Timestamp>,
    sequences: Sequences,
}

impl Completeness {
    /// A statement of nothing yet.
    pub fn new(terms: CompletenessTerms) -> Self {
        let recounts = terms.meters.iter().cloned().map(Recount::new).collect();
        Self { terms, recounts, sources: Vec::new(), source_numbers: BTreeMap::new(), sequence_spans: 0 }
    }

    /// Notes how far the source of a batch has come, whatever became of its events; gives its number. An event that counts
    /// with other content came as it came.
    fn note_source(&mut self, batch: LoggedBatch<'_>) -> usize {
        let view = batch.view;
        let known = self.source_numbers.get(view.source()).copied();
        let number = known.unwrap_or_else(|| {
            self.source_numbers.insert(view.source().into(), self.sources.len());
            self.sources.push(Source::default());
            self.sources.len() - 1
        });
        let Some(arrival) = batch.arrival else { return number };
        let source = &mut self.sources[number];
        let latest = (0..view.len()).map(|index| view.time(index)).max().map(Timestamp::from_nanoseconds);
        source.latest_time = source.latest_time.max(latest);
        source.latest_received_at = source.latest_received_at.max(Some(arrival.received_at));
        source.latest_recorded_at = source.latest_recorded_at.max(Some(arrival.recorded_at));
        if let IdColumn::Sequenced { epoch, first } = view.ids() {
            self.sequence_spans += source.sequences.add(epoch, first, view.len() as u64);
        }
        number
    }

    /// The statement.
    pub fn finish(self, charged: Charged) -> Statement {
        let Self { terms, recounts, sources, source_numbers, .. } = self;
        let cells: Vec<_> = recounts.into_iter().map(Recount::finish).collect();
        let mut prices: BTreeMap<(String, String), PriceStatement> = BTreeMap::new();
        let parts = terms.parts.iter().enumerate();
        let looked_at = parts.flat_map(|(part, (subscription, plan))| {
            terms.prices[plan].iter().map(move |looked_at| (part, subscription, looked_at))
        });
        for (part, subscription, looked_at) in looked_at {
            let price =
                prices.entry((subscription.to_string(), looked_at.price.id().to_string())).or_default();
            for meter in &looked_at.meters {
                let names = &terms.meters[*meter].group_by;
                for cell in cells[*meter].iter().filter(|cell| cell.label as usize == part) {
                    if looked_at.price.version_at(cell.slice_from).is_none() {
                        // The price was not agreed yet: what is used is free.
                        continue;
                    }
                    let texts = names.iter().zip(cell.group.iter());
                    let texts =
                        texts.filter_map(|(name, text)| Some((name.to_string(), text.as_ref()?.to_string())));
                    let counts_in = looked_at.price.counted_group(cell.slice_from, texts.collect());
                    let count = i64::try_from(cell.value.fold.count).expect("fewer than 2^63 events");
                    let set = EventSet { count, digest: cell.value.fold.digest };
                    match counts_in {
                        Ok(Some(_)) => price.counted.add(set),
                        // No row takes them, so that they wait or keep the account out of the batch.
                        Ok(None) | Err(_) => price.set_aside.add(set),
                    }
                }
            }
        }
        for (key, set) in &charged.prices {
            prices.entry(key.clone()).or_default().charged = *set;
        }
        let mut named: Vec<Option<Source>> = sources.into_iter().map(Some).collect();
        let mut take = |number: usize| named[number].take().expect("a source has one name");
        let sources = source_numbers.into_iter().map(|(name, number)| (name, take(number))).collect();
        Statement { account: terms.account, window: terms.window, prices, charged, sources }
    }
}

impl Counting for Completeness {
    /// Sources say how far they have come in batches of others.
    fn subjects(&self) -> Option<Vec<&str>> {
        None
    }

    fn select(
        &mut self,
        batch: LoggedBatch<'_>,
        key: IdentityKey,
        out: &mut Vec<Candidate>,
    ) -> Result<(), QueryStatus> {
        let source = self.note_source(batch);
        if self.sequence_spans > SEQUENCE_SPANS_MAX as isize {
            return Err(QueryStatus::RowsMustFit);
        }
        let view = batch.view;
        let open = self.recounts.iter().map(|recount| recount.open(view, batch.control_offset));
        let mut open: Vec<_> = open.collect();
        let spans: Vec<Option<&[(Span, u32)]>> = (0..view.subject_count())
            .map(|entry| self.terms.spans.get(view.subject(entry)).map(Vec::as_slice))
            .collect();
        if spans.iter().all(Option::is_none) || open.iter().all(Option::is_none) {
            return Ok(());
        }
        let source_key = key.of_source(view.source());
        for index in batch.accepted() {
            let entry = view.subject_index(index);
            let time = Timestamp::from_nanoseconds(view.time(index));
            let Some(spans) = spans[entry] else { continue };
            let Some((part, slice_from)) = self.terms.place_of(view.subject(entry), spans, time) else {
                continue;
            };
            let (identity, position) = (identity_of(view, index, &source_key), batch.position(index));
            let place = Place { label: part, slice_from, time };
            let mut source = Some(source);
            for (meter, open) in open.iter_mut().enumerate() {
                let Some(open) = open else { continue };
                let Some(share) = self.recounts[meter].share_of(open, view, index) else { continue };
                out.push(Candidate { identity, position, place, share, meter, source: source.take() });
            }
        }
        Ok(())
    }

    fn add(&mut self, candidate: &Candidate) -> Result<(), QueryStatus> {
        let recount = &mut self.recounts[candidate.meter];
        recount.add(candidate.identity, candidate.position, candidate.place, candidate.share);
        if let Some(source) = candidate.source {
            let source = &mut self.sources[source];
            source.counted += 1;
            source.latest_counted = source.latest_counted.max(Some(candidate.place.time));
        }
        if recount.cell_count() > QUERY_ROWS_MAX { Err(QueryStatus::RowsMustFit) } else { Ok(()) }
    }
}

/// What is known of a price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PriceStatement {
    /// The log counted again.
    pub counted: EventSet,
    /// Events that fit no row of a matrix.
    pub set_aside: EventSet,
    /// What sealed lines count.
    pub charged: EventSet,
}

/// The statement.
#[derive(Debug)]
pub struct Statement {
    account: AccountId,
    window: Span,
    prices: BTreeMap<(String, String), PriceStatement>,
    charged: Charged,
    sources: BTreeMap<Arc<str>, Source>,
}

impl Statement {
    /// Every price of every subscription, by their ids.
    pub fn prices(&self) -> &BTreeMap<(String, String), PriceStatement> {
        &self.prices
    }

    /// The statement as JSON.
    pub fn to_json(&self, as_of: AsOf) -> Value {
        let prices = self.prices.iter().map(|((subscription, price), found)| {
            json!({
                "subscription": subscription, "price": price, "counted": found.counted.to_json(),
                "set_aside": found.set_aside.to_json(), "charged": found.charged.to_json(),
                "is_charged": found.counted == found.charged,
            })
        });
        let sources = self.sources.iter().map(|(name, source)| source.to_json(name));
        let cut = self.charged.last_cut.map(|(barrier, at)| json!({ "barrier": barrier, "at": at }));
        json!({
            "account": self.account, "window": self.window,
            "as_of": { "usage_offset": as_of.usage_offset, "control_offset": as_of.control_offset },
            "last_cut": cut, "final_batch": self.charged.final_batch,
            "prices": prices.collect::<Vec<_>>(), "sources": sources.collect::<Vec<_>>(),
            "forgotten": self.charged.forgotten,
        })
    }
}

impl Source {
    fn to_json(&self, name: &str) -> Value {
        let (mut gaps, mut missing, mut listed) = (0u64, 0u64, Vec::new());
        for gap in self.sequences.gaps() {
            gaps += 1;
            missing = missing.saturating_add(gap.until - gap.from);
            if listed.len() < GAPS_LISTED_MAX {
                let run = format!("{:016x}", gap.run);
                listed.push(json!({ "run": run, "from": gap.from, "until": gap.until }));
            }
        }
        json!({
            "source": name, "event_count": self.counted, "latest_counted": self.latest_counted,
            "latest_time": self.latest_time, "latest_received_at": self.latest_received_at,
            "latest_recorded_at": self.latest_recorded_at,
            "sequences": {
                "runs": self.sequences.runs(), "missing": missing, "gap_count": gaps, "gaps": listed,
            },
        })
    }
}

#[cfg(test)]
mod tests;
