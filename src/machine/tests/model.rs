//! The slow model: keeps every record and every event, and says what they come to, from scratch, with plain loops.
//!
//! It shares numbers, zones and spans with the program and nothing else: no timeline, no schedule, no cell, no position.
//! Quantities are whole halves of a unit and are priced half a unit at a time, in whole 10^-8ths of the currency.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use domain::time::HOUR;
use domain::{Currency, Period, Span, Timestamp, Zone};
use wire::verdict::{QuarantineReason, RefusalCode, Verdict};

use super::civil;

/// Fraction digits of the model's amounts.
pub(super) const DIGITS: u32 = 8;
/// Most minor units that a window may be worth.
const MINOR_MAX: i128 = 10i128.pow(27);
/// The dimension that meters group by.
pub(super) const DIMENSION: &str = "model";

/// What becomes of negative values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Negative {
    Reject,
    Zero,
    Signed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PerUnit,
    Graduated,
    Flat,
}

#[derive(Clone, Debug)]
pub(super) struct Tier {
    /// Last half unit of the tier; the last tier has none.
    pub(super) up_to: Option<i64>,
    /// 10^-4ths for `per` units.
    pub(super) unit: i128,
    /// 10^-2ths.
    pub(super) flat: i128,
}

/// One version of a price; a price without tiers has its amount in the first one.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) from: Option<Timestamp>,
    pub(super) tiers: Vec<Tier>,
    pub(super) per: i128,
    pub(super) flat_at_zero: Option<bool>,
}

impl Terms {
    fn is_flat_at_zero(&self) -> bool {
        self.flat_at_zero.unwrap_or(true)
    }

    /// What the half unit above `low` halves costs; `is_flat_paid`: the window's fixed part has a first flat amount.
    fn half(&self, low: i64, is_flat_paid: bool) -> i128 {
        let index = self.tiers.iter().position(|tier| tier.up_to.is_none_or(|up_to| low < up_to)).unwrap();
        let bottom = if index == 0 { 0 } else { self.tiers[index - 1].up_to.unwrap() };
        let is_owed = index > 0 || !(self.is_flat_at_zero() || is_flat_paid);
        let flat = if low == bottom && is_owed { self.tiers[index].flat * 1_000_000 } else { 0 };
        self.tiers[index].unit * 10_000 / (2 * self.per) + flat
    }
}

pub(super) struct Price {
    pub(super) id: &'static str,
    pub(super) plan: &'static str,
    pub(super) kind: Kind,
    pub(super) meter: Option<&'static str>,
    /// Its windows: day, week, month, quarter or year.
    pub(super) unit: &'static str,
    pub(super) versions: Vec<Terms>,
}

#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub(super) id: &'static str,
    /// Sums the value `tokens`; otherwise it counts.
    pub(super) is_sum: bool,
    pub(super) is_grouped: bool,
}

pub(super) struct Account {
    pub(super) id: &'static str,
    pub(super) zone: Zone,
    pub(super) entity: &'static str,
    pub(super) entity_zone: Zone,
    pub(super) subscriptions: Vec<&'static str>,
}

/// Something that holds from an instant on: a subject's subscription, or a subscription's plan.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) what: &'static str,
    pub(super) from: Timestamp,
    pub(super) until: Option<Timestamp>,
}

/// An event as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) source: &'static str,
    pub(super) id: String,
    pub(super) event_type: &'static str,
    pub(super) subject: &'static str,
    pub(super) time: Timestamp,
    pub(super) halves: Option<i64>,
    pub(super) group: Option<&'static str>,
}

struct Counted {
    sent: Sent,
    meters: Vec<&'static str>,
}

/// Source and id of an event.
pub(super) type EventKey = (&'static str, String);

/// What a person does about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Correction {
    Void,
    Discard,
    Release,
    /// The content that is to count.
    Amend(Sent),
}

/// An event whose id was not known when it came.
struct Seen {
    arrived: Sent,
    received_at: Timestamp,
    /// The batch that it came with.
    batch: usize,
    was_accepted: bool,
    /// As of the last barrier.
    is_corrected: bool,
    /// Meters that it met when it arrived or was released.
    meters: usize,
    /// What counts by the last record about it.
    content: Sent,
    last: Option<Correction>,
    /// As of the last barrier; `None` if it is counted.
    verdict: Option<Verdict>,
    is_voided: bool,
}

/// What a charge line is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) account: String,
    pub(super) subscription: String,
    pub(super) price: String,
    pub(super) window: Span,
    pub(super) group: Option<String>,
    pub(super) slice_from: Timestamp,
    pub(super) version: u32,
}

/// What it is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Worth {
    pub(super) halves: i64,
    pub(super) events: i64,
    /// 10^-8ths.
    pub(super) exact: i128,
    pub(super) minor: i128,
}

/// Worths that are not nothing.
pub(super) type Worths = BTreeMap<Key, Worth>;

/// Zone, unit and anchor of windows that were found once.
type Windows = (String, &'static str, Option<Timestamp>);

pub(super) struct Model {
    pub(super) currency: Currency,
    pub(super) negative: Negative,
    pub(super) horizon: i64,
    pub(super) future_max: i64,
    pub(super) grace: i64,
    pub(super) accounts: Vec<Account>,
    pub(super) prices: Vec<Price>,
    pub(super) meters: Vec<Meter>,
    /// Meters that the last barrier knew.
    known_meters: usize,
    pub(super) subscriptions: BTreeMap<&'static str, Vec<Holding>>,
    pub(super) bindings: BTreeMap<&'static str, Vec<Holding>>,
    /// What windows are counted from, by subscription.
    pub(super) anchors: BTreeMap<&'static str, Timestamp>,
    windows: RefCell<BTreeMap<Windows, Rc<Vec<Span>>>>,
    pub(super) correction_horizon: i64,
    seen: Vec<Seen>,
    /// By their place among those that were seen.
    counted: BTreeMap<usize, Counted>,
    /// For the next barrier.
    corrections: Vec<(usize, Correction)>,
    batches: usize,
    /// Batches before this are forgotten, and what was accepted of them is earlier than this; also for the next barrier.
    forgotten: (usize, Timestamp),
    forgetting: Option<(usize, Timestamp)>,
    pub(super) voided: u64,
    /// Events by verdict; counted ones that meters take are not among them.
    verdicts: BTreeMap<Verdict, u64>,
}

fn holds(holdings: Option<&Vec<Holding>>, t: Timestamp) -> Option<&'static str> {
    let started = holdings?.iter().filter(|holding| holding.from <= t).max_by_key(|holding| holding.from)?;
    started.until.is_none_or(|until| t < until).then_some(started.what)
}

impl Model {
    pub(super) fn new(
        currency: Currency,
        negative: Negative,
        (horizon, future_max, grace): (i64, i64, i64),
        accounts: Vec<Account>,
        prices: Vec<Price>,
    ) -> Self {
        Self {
            currency,
            negative,
            horizon,
            future_max,
            grace,
            accounts,
            prices,
            meters: Vec::new(),
            known_meters: 0,
            subscriptions: BTreeMap::new(),
            bindings: BTreeMap::new(),
            anchors: BTreeMap::new(),
            windows: RefCell::default(),
            correction_horizon: horizon,
            seen: Vec::new(),
            batches: 0,
            forgotten: (0, Timestamp::MIN),
            forgetting: None,
            counted: BTreeMap::new(),
            corrections: Vec::new(),
            voided: 0,
            verdicts: BTreeMap::new(),
        }
    }

    /// Decides about an event. A counted one may be accepted or pending: its owner decides later.
    pub(super) fn take(&mut self, sent: &Sent, received_at: Timestamp) -> Option<Verdict> {
        let verdict = self.decide(sent, received_at);
        self.count(verdict);
        verdict
    }

    fn count(&mut self, verdict: Option<Verdict>) {
        if let Some(verdict) = verdict {
            *self.verdicts.entry(verdict).or_default() += 1;
        }
    }

    /// Records a correction for the next barrier; whether it says anything new, or the rule that it breaks.
    pub(super) fn correct(
        &mut self,
        key: &EventKey,
        correction: &Correction,
        now: Timestamp,
    ) -> Result<bool, &'static str> {
        let Some(named) = self.named(key) else { return Err("event_must_be_known") };
        let has_counted = self.has_counted_before(named);
        let seen = &mut self.seen[named];
        let reason = match seen.verdict {
            Some(Verdict::Quarantined(reason)) if !seen.is_voided => Some(reason),
            _ => None,
        };
        let is_again = seen.last.as_ref() == Some(correction);
        match correction {
            Correction::Void | Correction::Discard if is_again => return Ok(false),
            Correction::Release if is_again && reason.is_none() => return Ok(false),
            _ => {}
        }
        if matches!(seen.last, Some(Correction::Void | Correction::Discard)) {
            return Err("event_must_not_be_voided");
        }
        if seen.received_at.plus(self.correction_horizon) < now {
            return Err("event_must_be_within_correction_horizon");
        }
        if has_counted && matches!(correction, Correction::Amend(_) | Correction::Release) {
            return Err("event_must_not_count_already");
        }
        match (correction, reason) {
            (Correction::Amend(content), _) if *content == seen.content => return Ok(false),
            (Correction::Amend(content), _) => seen.content = content.clone(),
            (Correction::Release | Correction::Discard, None) => return Err("event_must_be_in_quarantine"),
            (Correction::Release, Some(QuarantineReason::MissingValue | QuarantineReason::NegativeUsage)) => {
                return Err("event_must_be_amended");
            }
            _ => {}
        }
        seen.last = Some(correction.clone());
        self.corrections.push((named, correction.clone()));
        Ok(true)
    }

    /// What counts of an event that was sent, if it is known.
    pub(super) fn content(&self, key: &EventKey) -> Option<&Sent> {
        self.named(key).map(|named| &self.seen[named].content)
    }

    /// Lets ids of so many batches be forgotten from the next barrier on: events of them that were accepted happened before an
    /// instant.
    pub(super) fn forget(&mut self, batches: usize, proven_from: Timestamp) {
        for seen in self.seen.iter().filter(|seen| seen.batch < batches && seen.was_accepted) {
            assert!(
                seen.is_corrected || seen.arrived.time < proven_from,
                "what is forgotten happened before"
            );
        }
        self.forgetting = Some((batches, proven_from));
    }

    /// The next batch.
    pub(super) fn end_batch(&mut self) {
        self.batches += 1;
    }

    /// The last event with an id that is known: not forgotten, or such that it may yet count otherwise.
    fn known(&self, key: &EventKey) -> Option<usize> {
        let is_known = |seen: &Seen| {
            let is_forgotten = seen.batch < self.forgotten.0 && seen.was_accepted && !seen.is_corrected;
            !is_forgotten && (seen.arrived.source, &seen.arrived.id) == (key.0, &key.1)
        };
        self.seen.iter().rposition(is_known)
    }

    /// The event that a person means by an id.
    fn named(&self, key: &EventKey) -> Option<usize> {
        let last =
            || self.seen.iter().rposition(|seen| (seen.arrived.source, &seen.arrived.id) == (key.0, &key.1));
        self.known(key).or_else(last)
    }

    /// Whether an event was set aside of whose id an earlier one counts, which was forgotten when it came.
    fn has_counted_before(&self, named: usize) -> bool {
        let Seen { arrived: Sent { source, id, .. }, verdict, is_voided, .. } = &self.seen[named];
        let counts = |seen: &Seen| !seen.is_voided && matches!(seen.verdict, None | Some(Verdict::Unmetered));
        let is_earlier =
            |seen: &Seen| (seen.arrived.source, &seen.arrived.id) == (*source, id) && counts(seen);
        let is_set_aside = matches!(verdict, Some(Verdict::Quarantined(_))) && !is_voided;
        is_set_aside && self.seen[..named].iter().any(is_earlier)
    }

    /// However often an event came, it counts once.
    pub(super) fn assert_nothing_counts_twice(&self) {
        let mut found = BTreeSet::new();
        for sent in self.counted.keys().map(|seen| &self.seen[*seen].arrived) {
            assert!(found.insert((sent.source, &sent.id, sent.time)), "{sent:?} counts twice");
        }
    }

    /// From here on the meters are known, and corrections count.
    pub(super) fn barrier(&mut self) {
        self.known_meters = self.meters.len();
        for (key, correction) in std::mem::take(&mut self.corrections) {
            let seen = &mut self.seen[key];
            seen.is_corrected = true;
            if let Some(verdict) = seen.verdict {
                *self.verdicts.get_mut(&verdict).unwrap() -= 1;
            }
            self.counted.remove(&key);
            seen.is_voided = matches!(correction, Correction::Void | Correction::Discard);
            if seen.is_voided {
                self.voided += 1;
                seen.verdict = None;
                continue;
            }
            if correction == Correction::Release {
                seen.meters = self.known_meters;
            }
            // Behind the last record of the event this is what counts; before it, nobody looks.
            let (content, meters) = (seen.content.clone(), seen.meters);
            let verdict = self.judge(key, &content, meters);
            self.count(verdict);
            self.seen[key].verdict = verdict;
        }
        self.forgotten = self.forgetting.take().unwrap_or(self.forgotten);
    }

    fn decide(&mut self, sent: &Sent, received_at: Timestamp) -> Option<Verdict> {
        if sent.time < Timestamp::MIN {
            return Some(Verdict::Rejected(RefusalCode::TimeMustBeInRange));
        }
        let key = (sent.source, sent.id.clone());
        if let Some(first) = self.known(&key).map(|known| &self.seen[known].arrived) {
            let content = |sent: &Sent| (sent.event_type, sent.subject, sent.halves, sent.group);
            return Some(match (content(first) == content(sent), first.time == sent.time) {
                (false, _) => Verdict::Conflict,
                (true, false) => Verdict::DuplicateRestamped,
                (true, true) => Verdict::Duplicate,
            });
        }
        let verdict = self.decide_new(sent, received_at);
        let seen = Seen {
            arrived: sent.clone(),
            received_at,
            batch: self.batches,
            was_accepted: matches!(verdict, None | Some(Verdict::Unmetered)),
            is_corrected: false,
            meters: self.known_meters,
            content: sent.clone(),
            last: None,
            verdict,
            is_voided: false,
        };
        self.seen.push(seen);
        verdict
    }

    fn decide_new(&mut self, sent: &Sent, received_at: Timestamp) -> Option<Verdict> {
        if sent.time < received_at.plus(-self.horizon).max(self.forgotten.1) {
            return Some(Verdict::Quarantined(QuarantineReason::TooOld));
        }
        if sent.time > received_at.plus(self.future_max) {
            return Some(Verdict::Quarantined(QuarantineReason::Future));
        }
        self.judge(self.seen.len(), sent, self.known_meters)
    }

    /// Decides by content and the first meters.
    fn judge(&mut self, key: usize, sent: &Sent, known_meters: usize) -> Option<Verdict> {
        if sent.event_type != "call" || known_meters == 0 {
            return Some(Verdict::Unmetered);
        }
        let meters = &self.meters[..known_meters];
        let mut sent = sent.clone();
        if meters.iter().any(|meter| meter.is_sum) {
            match sent.halves {
                None => return Some(Verdict::Quarantined(QuarantineReason::MissingValue)),
                Some(halves) if halves < 0 => match self.negative {
                    Negative::Reject => return Some(Verdict::Quarantined(QuarantineReason::NegativeUsage)),
                    Negative::Zero => sent.halves = Some(0),
                    Negative::Signed => {}
                },
                Some(_) => {}
            }
        }
        let meters = meters.iter().map(|meter| meter.id).collect();
        self.counted.insert(key, Counted { sent, meters });
        None
    }

    /// Who owns a subject at an instant: its subscription, and the plan of that.
    fn owner_at(&self, subject: &str, t: Timestamp) -> Option<(&'static str, &'static str)> {
        let subscription = holds(self.bindings.get(subject), t)?;
        Some((subscription, holds(self.subscriptions.get(subscription), t)?))
    }

    /// Counted events that have an owner, and those that wait for one.
    pub(super) fn metered_and_pending(&self) -> (u64, u64) {
        let owned = self.counted.values().filter(|event| {
            let sent = &event.sent;
            self.owner_at(sent.subject, sent.time).is_some()
        });
        let metered = owned.count() as u64;
        (metered, self.counted.len() as u64 - metered)
    }

    /// Events with a verdict.
    pub(super) fn count_of(&self, is_meant: impl Fn(Verdict) -> bool) -> u64 {
        self.verdicts.iter().filter(|(verdict, _)| is_meant(**verdict)).map(|(_, count)| count).sum()
    }

    /// Instants at which the plan of a subscription may change.
    fn bounds_of(&self, subscription: &str) -> BTreeSet<Timestamp> {
        let holdings = self.subscriptions.get(subscription).into_iter().flatten();
        holdings.flat_map(|holding| [Some(holding.from), holding.until]).flatten().collect()
    }

    /// Pieces of a span in which a subscription has a plan.
    fn pieces_in(&self, subscription: &str, plan: &str, span: Span) -> Vec<Span> {
        let mut bounds = self.bounds_of(subscription);
        bounds.extend([span.from, span.until]);
        let inside: Vec<Timestamp> = bounds.range(span.from..=span.until).copied().collect();
        let has_plan =
            |t: Timestamp| holds(self.subscriptions.get(subscription), t).is_some_and(|found| found == plan);
        let pieces = inside.windows(2).filter(|pair| has_plan(pair[0]));
        pieces.map(|pair| Span::new(pair[0], pair[1])).collect()
    }

    /// Where in a span a subscription has a plan: first instant of the first piece, end of the last.
    fn active_in(&self, subscription: &str, plan: &str, span: Span) -> Option<Span> {
        let pieces = self.pieces_in(subscription, plan, span);
        Some(Span::new(pieces.first()?.from, pieces.last()?.until))
    }

    /// Whether a price goes on counting what another one counted in a window.
    fn counts_alike(price: &Price, other: &Price) -> bool {
        let counted = |price: &Price| (price.kind, price.meter, price.unit);
        price.kind != Kind::Flat && counted(price) == counted(other)
    }

    /// The first instant of pieces at which a price has a version, and that version.
    fn start_in(price: &Price, pieces: &[Span]) -> Option<(Timestamp, usize)> {
        let mut starts: Vec<Timestamp> = price.versions.iter().filter_map(|terms| terms.from).collect();
        starts.retain(|at| pieces.iter().any(|piece| piece.contains(*at)));
        starts.extend(pieces.iter().map(|piece| piece.from));
        starts.sort();
        starts.into_iter().find_map(|at| version_at(price, at).map(|version| (at, version)))
    }

    /// The windows of a unit that a subscription has.
    fn windows_of(&self, account: &Account, subscription: &str, unit: &'static str) -> Rc<Vec<Span>> {
        let anchor = self.anchors.get(subscription).copied();
        let key = (account.zone.name().to_string(), unit, anchor);
        let find = || Rc::new(civil::windows(&account.zone, unit, anchor));
        self.windows.borrow_mut().entry(key).or_insert_with(find).clone()
    }

    /// Windows in which a subscription of the account has any plan: those of the prices of all its plans.
    pub(super) fn active_windows(&self, account: &Account) -> BTreeSet<Span> {
        let mut active = BTreeSet::new();
        for subscription in &account.subscriptions {
            let holdings = self.subscriptions.get(subscription).into_iter().flatten();
            let plans: BTreeSet<&str> = holdings.map(|holding| holding.what).collect();
            let is_priced = |price: &&Price| plans.contains(price.plan) && !price.versions.is_empty();
            let mut units: BTreeSet<&'static str> =
                self.prices.iter().filter(is_priced).map(|price| price.unit).collect();
            if units.is_empty() {
                units.insert("month");
            }
            let is_active = |window: &Span| {
                plans.iter().any(|plan| self.active_in(subscription, plan, *window).is_some())
            };
            for unit in units {
                active.extend(self.windows_of(account, subscription, unit).iter().copied().filter(is_active));
            }
        }
        active
    }

    /// First instant of the slice of an event of a subscription: nothing that rating sees changes after it.
    fn slice_from(&self, account: &Account, subscription: &str, plan: &str, t: Timestamp) -> Timestamp {
        let mut from = Timestamp::MIN;
        for zone in [&account.zone, &account.entity_zone] {
            from = from.max(zone.month(zone.period_of(t)).from);
        }
        for price in self.prices.iter().filter(|price| price.plan == plan) {
            if !price.versions.is_empty() {
                let windows = self.windows_of(account, subscription, price.unit);
                let window = windows.iter().find(|window| window.contains(t));
                from = from.max(window.map_or(from, |window| window.from));
            }
            for start in price.versions.iter().filter_map(|terms| terms.from).filter(|start| *start <= t) {
                from = from.max(start);
            }
        }
        let plan_at = |t: Timestamp| holds(self.subscriptions.get(subscription), t);
        for bound in self.bounds_of(subscription).into_iter().filter(|bound| *bound <= t) {
            if plan_at(bound.plus(-1)) != plan_at(bound) {
                from = from.max(bound);
            }
        }
        from
    }

    /// Everything that is worth something as of an instant, and accounts of which a window is worth too much.
    pub(super) fn worths(&self, as_of: Timestamp) -> (Worths, BTreeSet<String>) {
        let (mut worths, mut unrated) = (Worths::new(), BTreeSet::new());
        let last =
            self.counted.values().map(|event| event.sent.time).max().map_or(as_of, |time| time.max(as_of));
        for account in &self.accounts {
            let mut fits = true;
            for subscription in &account.subscriptions {
                for price in &self.prices {
                    // What has not begun and has no events is worth nothing.
                    let windows = self.windows_of(account, subscription, price.unit);
                    for window in windows.iter().copied().filter(|window| window.from <= last) {
                        fits &= self.add_window(&mut worths, account, subscription, price, window, as_of);
                    }
                }
            }
            if !fits {
                worths.retain(|key, _| key.account != account.id);
                unrated.insert(account.id.to_string());
            }
        }
        worths.retain(|_, worth| *worth != Worth::default());
        (worths, unrated)
    }

    /// Whether the window is worth no more than an amount may be, after each of its slices.
    fn add_window(
        &self,
        worths: &mut Worths,
        account: &Account,
        subscription: &'static str,
        price: &Price,
        window: Span,
        as_of: Timestamp,
    ) -> bool {
        let Some(active) = self.active_in(subscription, price.plan, window) else { return true };
        let start = Self::start_in(price, &self.pieces_in(subscription, price.plan, window));
        let has_ended = active.until <= as_of;
        let key = |group: Option<&str>, slice_from, version: usize| Key {
            account: account.id.to_string(),
            subscription: subscription.to_string(),
            price: price.id.to_string(),
            window,
            group: group.map(str::to_string),
            slice_from,
            version: version as u32 + 1,
        };
        let Some(meter) = price.meter else {
            if let Some((_, version)) = start.filter(|_| has_ended) {
                let exact = price.versions[version].tiers[0].unit * 10_000;
                let minor = self.round(exact);
                worths.insert(key(None, window.from, version), Worth { exact, minor, ..Worth::default() });
                return minor.abs() <= MINOR_MAX;
            }
            return true;
        };
        let meter = self.meters.iter().find(|known| known.id == meter);
        // What other plans charged of the same counts on.
        let alike =
            self.prices.iter().filter(|other| other.plan != price.plan && Self::counts_alike(price, other));
        let alike: Vec<&Price> = alike.collect();
        let begin = |other: &&Price| Self::start_in(other, &self.pieces_in(subscription, other.plan, window));
        let is_continued = alike.iter().filter_map(begin).any(|(at, _)| at < active.from);
        let mut groups: BTreeMap<Option<&str>, Vec<(Timestamp, i64, bool)>> = BTreeMap::new();
        for event in self.counted.values() {
            let sent = &event.sent;
            let owner = self.owner_at(sent.subject, sent.time).filter(|(owner, _)| *owner == subscription);
            let Some((_, plan)) = owner.filter(|_| window.contains(sent.time)) else { continue };
            let counts = |other: &&Price| other.plan == plan && version_at(other, sent.time).is_some();
            if plan != price.plan && !alike.iter().any(counts) {
                continue;
            }
            let Some(meter) = meter.filter(|meter| event.meters.contains(&meter.id)) else { continue };
            let halves = if meter.is_sum { sent.halves.unwrap() } else { 2 };
            let group = groups.entry(sent.group.filter(|_| meter.is_grouped)).or_default();
            group.push((sent.time, halves, plan == price.plan));
        }
        if groups.is_empty() {
            groups.insert(None, Vec::new());
        }
        let mut fits = true;
        for (group, mut events) in groups {
            events.sort();
            let fixed = start.filter(|(_, version)| {
                let terms = &price.versions[*version];
                let has_flat = terms.is_flat_at_zero() && terms.tiers[0].flat != 0;
                has_flat && !is_continued && (has_ended || !events.is_empty())
            });
            // In order of time: what each slice adds.
            let mut slices: BTreeMap<(Timestamp, usize), Worth> = BTreeMap::new();
            if let Some((at, version)) = fixed {
                let flat = price.versions[version].tiers[0].flat * 1_000_000;
                slices.entry((at, version)).or_default().exact += flat;
            }
            let mut used = 0i64;
            for (time, halves, is_charged) in events {
                let Some(version) = version_at(price, time).filter(|_| is_charged) else {
                    used += halves;
                    continue;
                };
                let slice_from = self.slice_from(account, subscription, price.plan, time);
                let worth = slices.entry((slice_from, version)).or_default();
                worth.events += 1;
                worth.halves += halves;
                for _ in 0..halves.abs() {
                    // A half unit from `low` up, or back down to `low`.
                    let low = if halves > 0 { used } else { used - 1 };
                    let cost = price.versions[version].half(low, fixed.is_some() || is_continued);
                    worth.exact += i128::from(halves.signum()) * cost;
                    used += halves.signum();
                }
            }
            let (mut exact, mut minor) = (0, 0);
            for ((slice_from, version), mut worth) in slices {
                exact += worth.exact;
                worth.minor = self.round(exact) - minor;
                minor += worth.minor;
                fits &= minor.abs() <= MINOR_MAX;
                worths.insert(key(group, slice_from, version), worth);
            }
        }
        fits
    }

    /// Minor units, half away from zero.
    fn round(&self, exact: i128) -> i128 {
        let unit = 10i128.pow(DIGITS - u32::from(self.currency.exponent()));
        let (whole, rest) = (exact / unit, exact % unit);
        if rest.abs() * 2 >= unit { whole + rest.signum() } else { whole }
    }

    /// The accounting period that a line belongs to, and the one that it posts to at a cut: the cut before closed those
    /// whose grace was over.
    pub(super) fn periods(
        &self,
        account: &Account,
        original: Period,
        previous_at: Timestamp,
    ) -> (Period, Period) {
        let zone = &account.entity_zone;
        let mut open = original;
        while zone.month(open).until.plus(self.grace) <= previous_at {
            open = open.next();
        }
        (original, open)
    }
}

/// The version of a price in force: the latest to take effect, and of equals the newest.
fn version_at(price: &Price, t: Timestamp) -> Option<usize> {
    let mut found: Option<(Timestamp, usize)> = None;
    for (index, terms) in price.versions.iter().enumerate() {
        let from = terms.from.unwrap_or(Timestamp::MIN);
        if from <= t && found.is_none_or(|(best, _)| from >= best) {
            found = Some((from, index));
        }
    }
    found.map(|(_, index)| index)
}

/// Hour zero of histories is the first of January in UTC.
pub(super) fn hour(hours: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hours * HOUR)
}
