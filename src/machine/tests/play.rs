//! Plays one history in worlds of different numbers of shards and in the model, and compares after every cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::charges::{ChargeLine, Corrects};
use billing::ledger::LedgerAccount;
use domain::time::HOUR;
use domain::{AccountId, Currency, Decimal, EntityId, Exact, Span, Timestamp, Zone};
use serde_json::{Value, json};
use wire::control::PolicyRecord;
use wire::verdict::Verdict;
use wire::{AlignedBytes, BatchBuilder, EventIdOwned, IdMode};

use super::histories::{Again, SUBSCRIPTIONS, Setup, Step, Usage, What, When, ZONES, end_of};
use super::lineage;
use super::model::{
    Account, Correction, DIGITS, DIMENSION, Holding, Key, Kind, Meter, Model, Negative, Price, Sent, Terms,
    Worth, Worths, hour,
};
use super::what_if;
use super::world::World;
use crate::{Amendment, Batch, CorrectionKind, CorrectionRequest, JournalBatch, ReplayMode};

/// Shards of the worlds; the second one crashes and restarts.
const SHARDS: [usize; 3] = [1, 2, 8];
const RESTARTING: usize = 1;
/// Histories start three weeks into January and end within the model's months.
const START: i64 = 20 * 24;
const END: i64 = 200 * 24;

/// Plays a history; panics at the first difference.
pub(super) fn play(setup: &Setup, steps: &[Step]) {
    let mut play = Play::new(setup);
    for step in steps {
        play.step(step);
    }
    play.finish();
}

struct Play {
    worlds: Vec<World>,
    model: Model,
    now: Timestamp,
    /// The cut before the one that is checked, and the last one.
    cuts: [Timestamp; 2],
    sent: Vec<Sent>,
    ids: BTreeMap<&'static str, usize>,
    /// Sum of all lines, and the number of the batch in which each window became final.
    issued: Worths,
    finals: BTreeMap<(String, Span), u64>,
    batches: u64,
    /// Rounded amounts by entity and period: of charges that no journal covers yet.
    unposted: BTreeMap<(String, String), i128>,
    journal_ids: BTreeSet<String>,
}

impl Play {
    fn new(setup: &Setup) -> Self {
        let policy = PolicyRecord {
            horizon: setup.horizon_hours * HOUR,
            future_max: setup.future_max_hours * HOUR,
            pending_per_slot_max: 1_000,
            grace: setup.grace_hours * HOUR,
            correction_horizon: setup.horizon_hours * HOUR,
        };
        let zone = |name: &str| Zone::new(name).unwrap();
        let account = |index: usize, id, subscriptions: &[&'static str]| {
            let (entity, account_zone) = setup.accounts[index];
            Account {
                id,
                zone: zone(account_zone),
                entity: ["e0", "e1"][entity],
                entity_zone: zone(setup.entity_zones[entity]),
                subscriptions: subscriptions.to_vec(),
            }
        };
        let accounts =
            vec![account(0, "a0", &["s0", "s3"]), account(1, "a1", &["s1"]), account(2, "a2", &["s2"])];
        let mut units = setup.units.iter();
        let mut price = |id, plan, kind, meter| {
            let unit = units.next().unwrap();
            Price { id, plan, kind, meter, unit, versions: Vec::new() }
        };
        let prices = vec![
            price("p0-tokens", "p0", Kind::Graduated, Some("tokens")),
            price("p0-calls", "p0", Kind::PerUnit, Some("calls")),
            price("p0-fee", "p0", Kind::Flat, None),
            price("p1-tokens", "p1", Kind::Graduated, Some("tokens")),
            price("p1-calls", "p1", Kind::Graduated, Some("calls")),
            price("p1-fee", "p1", Kind::Flat, None),
        ];
        let currency = Currency::from_code(setup.currency).unwrap();
        let limits = (policy.horizon, policy.future_max, policy.grace);
        let mut play = Self {
            worlds: SHARDS.iter().map(|shards| World::new(*shards, &policy)).collect(),
            model: Model::new(currency, setup.negative, limits, accounts, prices),
            now: hour(START),
            cuts: [Timestamp::MIN; 2],
            sent: Vec::new(),
            ids: BTreeMap::new(),
            issued: Worths::new(),
            finals: BTreeMap::new(),
            batches: 0,
            unposted: BTreeMap::new(),
            journal_ids: BTreeSet::new(),
        };
        for (subscription, anchor) in SUBSCRIPTIONS.into_iter().zip(setup.anchors) {
            play.model.anchors.extend(anchor.map(|anchor| (subscription, anchor)));
        }
        play.start(setup);
        play
    }

    fn start(&mut self, setup: &Setup) {
        assert!(setup.entity_zones.iter().all(|zone| ZONES.contains(zone)));
        for (id, zone) in ["e0", "e1"].iter().zip(setup.entity_zones) {
            self.put("entities", id, json!({"currency": "USD", "time_zone": zone})).unwrap();
        }
        for (index, id) in ["a0", "a1", "a2"].iter().enumerate() {
            let (entity, zone) = setup.accounts[index];
            let entity = ["e0", "e1"][entity];
            let body = json!({"name": id, "entity": entity, "currency": setup.currency, "time_zone": zone});
            self.put("accounts", id, body).unwrap();
        }
        for plan in ["p0", "p1"] {
            self.put("plans", plan, json!({"currency": setup.currency})).unwrap();
        }
        self.put_meter(Meter { id: "tokens", is_sum: true, is_grouped: setup.sum_is_grouped });
        if setup.has_count_meter {
            self.step(&Step::CountMeter);
        }
        for (price, terms) in setup.prices.iter().enumerate() {
            if let Some(terms) = terms {
                self.put_price(price, terms);
            }
        }
        for (index, (plan, from)) in setup.subscriptions.into_iter().enumerate() {
            let (subscription, subject) = (["s0", "s1"][index], ["k0", "k1"][index]);
            self.step(&Step::Subscribe { subscription, plan, from, hours: None });
            self.step(&Step::Bind { subject, subscription, from, hours: None });
        }
        self.barrier();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::PassHours(hours) => self.now = self.now.plus(hours * HOUR).min(hour(END)),
            Step::Usage { source, event_type, events, is_first_twice } => {
                self.take_usage(source, event_type, events, *is_first_twice);
            }
            Step::Resend { nth, again } => self.resend(*nth, *again),
            Step::Bind { subject, subscription, from, hours } => {
                let holding = Holding { what: subscription, from: *from, until: end_of(*from, *hours) };
                let mut body = json!({"subscription": subscription, "from": from});
                put_until(&mut body, holding.until);
                if self.put("subjects", subject, body).is_some() {
                    self.model.bindings.entry(subject).or_default().push(holding);
                }
            }
            Step::Subscribe { subscription, plan, from, hours } => {
                let holding = Holding { what: plan, from: *from, until: end_of(*from, *hours) };
                self.put_subscription(subscription, holding);
            }
            Step::End { subscription, until } => {
                let newest = self.model.subscriptions.get(subscription).and_then(|known| known.last());
                if let Some(newest) = newest.cloned() {
                    self.put_subscription(subscription, Holding { until: Some(*until), ..newest });
                }
            }
            Step::Price { price, terms } => self.put_price(*price, terms),
            Step::Correct { nth, what } => self.correct(*nth, what),
            Step::Forget { share } => {
                if let Some((batches, proven_from)) = self.in_all(|world| world.forget(*share)) {
                    self.model.forget(batches, proven_from);
                }
            }
            Step::CountMeter => self.put_meter(Meter { id: "calls", is_sum: false, is_grouped: true }),
            Step::Barrier => self.barrier(),
            Step::Cut { crashes } => drop(self.cut(*crashes)),
            Step::Journals { entity, crashes } => self.journals(entity, *crashes),
            Step::Restart => {
                self.restart();
                self.barrier();
            }
        }
    }

    /// Puts a resource into every world.
    fn put(&mut self, kind: &str, id: &str, body: Value) -> Option<u32> {
        self.in_all(|world| world.put(kind, id, &body))
    }

    /// Does something in all worlds, with the same result.
    fn in_all<T: PartialEq + std::fmt::Debug>(&mut self, mut act: impl FnMut(&mut World) -> T) -> T {
        let mut results = self.worlds.iter_mut().map(&mut act);
        let first = results.next().unwrap();
        for (result, shards) in results.zip(&SHARDS[1..]) {
            assert_eq!(result, first, "{shards} shards do as one does");
        }
        first
    }

    fn put_subscription(&mut self, subscription: &'static str, holding: Holding) {
        let account = self
            .model
            .accounts
            .iter()
            .find(|account| account.subscriptions.contains(&subscription))
            .unwrap()
            .id;
        let mut body = json!({"account": account, "plan": holding.what, "from": holding.from});
        put_until(&mut body, holding.until);
        if let Some(anchor) = self.model.anchors.get(subscription) {
            body["anchor"] = anchor.to_string().into();
        }
        if self.put("subscriptions", subscription, body).is_some() {
            self.model.subscriptions.entry(subscription).or_default().push(holding);
        }
    }

    fn put_meter(&mut self, meter: Meter) {
        let mut body =
            json!({"event_type": "call", "aggregation": if meter.is_sum { "sum" } else { "count" }});
        if meter.is_sum {
            body["value"] = "tokens".into();
            body["negative_usage"] = match self.model.negative {
                Negative::Reject => "reject".into(),
                Negative::Zero => "zero".into(),
                Negative::Signed => "signed".into(),
            };
        }
        if meter.is_grouped {
            body["group_by"] = json!([DIMENSION]);
        }
        if self.put("meters", meter.id, body).is_some() {
            self.model.meters.push(meter);
        }
    }

    fn put_price(&mut self, index: usize, terms: &Terms) {
        let price = &self.model.prices[index];
        let id = price.id;
        let mut terms = terms.clone();
        if price.kind != Kind::Graduated {
            terms.tiers.truncate(1);
            (terms.tiers[0].up_to, terms.tiers[0].flat) = (None, 0);
        }
        let mut body = json!({"plan": price.plan, "window": price.unit});
        let unit = |unit: i128| Decimal::new(unit, 4).unwrap().to_string();
        match price.kind {
            Kind::Flat => body["model"] = "flat".into(),
            Kind::PerUnit => body["model"] = "per_unit".into(),
            Kind::Graduated => {
                body["model"] = "graduated".into();
                let tiers = terms.tiers.iter().map(|tier| {
                    let flat = Decimal::new(tier.flat, 2).unwrap().to_string();
                    let mut body = json!({"unit_amount": unit(tier.unit), "flat_amount": flat});
                    if let Some(halves) = tier.up_to {
                        body["up_to"] = Decimal::new(i128::from(halves) * 5, 1).unwrap().to_string().into();
                    }
                    body
                });
                body["tiers"] = tiers.collect();
            }
        }
        if price.kind != Kind::Graduated {
            body["unit_amount"] = unit(terms.tiers[0].unit).into();
        }
        if let Some(meter) = price.meter {
            body["meter"] = meter.into();
            body["per"] = (terms.per as u64).into();
        }
        if let Some(from) = terms.from {
            body["effective_from"] = from.to_string().into();
        }
        if let Some(flat_at_zero) = terms.flat_at_zero {
            body["flat_at_zero"] = flat_at_zero.into();
        }
        if let Some(version) = self.put("prices", id, body) {
            self.model.prices[index].versions.push(terms);
            assert_eq!(version as usize, self.model.prices[index].versions.len());
        }
    }

    fn take_usage(&mut self, source: &'static str, event_type: &'static str, events: &[Usage], twice: bool) {
        let mut batch: Vec<Sent> = Vec::new();
        for usage in events {
            let number = self.ids.entry(source).or_default();
            *number += 1;
            batch.push(Sent {
                source,
                id: format!("{number}"),
                event_type,
                subject: usage.subject,
                time: match usage.when {
                    When::HoursAgo(hours) => self.now.plus(-hours * HOUR),
                    When::At(time) => time,
                },
                halves: usage.halves,
                group: usage.group,
            });
        }
        self.sent.extend(batch.iter().cloned());
        if twice {
            batch.push(batch[0].clone());
        }
        self.send(&batch);
    }

    fn resend(&mut self, nth: usize, again: Again) {
        let Some(sent) = nth.checked_rem(self.sent.len()).map(|nth| &self.sent[nth]) else { return };
        let mut sent = sent.clone();
        match again {
            Again::Same => {}
            Again::HoursLater(hours) => sent.time = sent.time.plus(hours * HOUR),
            Again::OtherValue => sent.halves = Some(sent.halves.unwrap_or(0) + 1),
        }
        self.send(&[sent]);
    }

    fn correct(&mut self, nth: usize, what: &What) {
        let Some(sent) = nth.checked_rem(self.sent.len()).map(|nth| &self.sent[nth]) else { return };
        let key = (sent.source, sent.id.clone());
        let before = self.model.content(&key).unwrap_or(sent).clone();
        let (correction, kind) = match what {
            What::Void => (Correction::Void, CorrectionKind::Void),
            What::Discard => (Correction::Discard, CorrectionKind::Discard),
            What::Release => (Correction::Release, CorrectionKind::Release),
            What::Amend { subject, time, halves, group } => {
                let amended = Sent {
                    subject: subject.unwrap_or(before.subject),
                    time: time.unwrap_or(before.time),
                    halves: halves.unwrap_or(before.halves),
                    group: group.unwrap_or(before.group),
                    ..before
                };
                let value =
                    |halves: i64| ("tokens".to_string(), Decimal::new(i128::from(halves) * 5, 1).unwrap());
                let dimension = |text: &str| (DIMENSION.to_string(), text.to_string());
                let amendment = Amendment {
                    subject: subject.map(str::to_string),
                    time: *time,
                    values: halves.map(|halves| halves.map(value).into_iter().collect()),
                    dimensions: group.map(|group| group.map(dimension).into_iter().collect()),
                };
                (Correction::Amend(amended), CorrectionKind::Amend(amendment))
            }
        };
        let request = CorrectionRequest {
            source: key.0.to_string(),
            id: EventIdOwned::Text(key.1.clone()),
            kind,
            actor: "test".to_string(),
            reason: "it was wrong".to_string(),
        };
        let now = self.now;
        let recorded = self.in_all(|world| world.correct(request.clone(), now));
        assert_eq!(recorded, self.model.correct(&key, &correction, now), "{correction:?} of {key:?}");
    }

    fn send(&mut self, batch: &[Sent]) {
        let (frame, now) = (frame_of(batch), self.now);
        let codes = self.in_all(|world| world.take_usage(&frame, now));
        for (sent, code) in batch.iter().zip(codes) {
            let mut expected = self.model.take(sent, now);
            if let Some(Verdict::Duplicate | Verdict::DuplicateRestamped) = expected {
                // Its sender is told why the first one is set aside, if that is.
                expected = self.in_all(|world| world.quarantined(sent.source, &sent.id)).or(expected);
            }
            let counted = [Verdict::Accepted.code(), Verdict::Pending.code()];
            let fits = expected.map_or(counted.contains(&code), |verdict| verdict.code() == code);
            assert!(fits, "the verdict of {sent:?} is {expected:?}, not code {code}");
        }
        self.model.end_batch();
    }

    fn barrier(&mut self) {
        self.in_all(|world| world.barrier(false));
        self.model.barrier();
    }

    /// One of the worlds starts again from its logs, with what a crash left open.
    fn crash(&mut self) {
        let world = &mut self.worlds[RESTARTING];
        *world = world.replay(ReplayMode::Load, SHARDS[RESTARTING]);
    }

    /// The same when nothing was open, though the logs cannot say so of a last cut that found nothing.
    fn restart(&mut self) {
        self.crash();
        let world = &mut self.worlds[RESTARTING];
        if world.machine.has_open_cut() {
            let records = world.machine.control().records();
            assert_eq!(world.rate_and_seal(), None, "a cut that found nothing finds nothing again");
            assert_eq!(world.machine.control().records(), records, "and has nothing to say again");
        }
    }

    fn cut(&mut self, crashes: bool) -> Option<Batch> {
        let now = self.now;
        self.cuts = [self.cuts[1], now];
        self.in_all(|world| world.start_cut(now));
        self.model.barrier();
        if crashes {
            self.crash();
            self.worlds[RESTARTING].rate_without_seal();
            self.crash();
        }
        let batch = self.in_all(World::rate_and_seal);
        self.in_all(|world| world.machine.control().chain_head().to_string());
        let (mut expected, unrated) = self.model.worths(now);
        assert_eq!(self.in_all(|world| world.unrated()), unrated, "what is too much is not charged at {now}");
        // An account that cannot be rated keeps what it was charged before.
        expected.extend(
            self.issued
                .iter()
                .filter(|(key, worth)| unrated.contains(&key.account) && **worth != Worth::default())
                .map(|(key, worth)| (key.clone(), *worth)),
        );
        if let Some(batch) = &batch {
            self.check_batch(batch);
        }
        let issued: Worths = self
            .issued
            .iter()
            .filter(|(_, w)| **w != Worth::default())
            .map(|(k, w)| (k.clone(), *w))
            .collect();
        for key in issued.keys().chain(expected.keys()) {
            assert_eq!(
                issued.get(key),
                expected.get(key),
                "issued (left) is what the model says at {now} of {key:?}"
            );
        }
        self.check_finals(now, &unrated);
        self.check_counters();
        self.model.assert_nothing_counts_twice();
        batch
    }

    /// The log, counted again, has the events that the lines count, price by price.
    fn check_statements(&self) {
        let unrated = self.worlds[0].unrated();
        for account in self.model.accounts.iter().filter(|account| !unrated.contains(account.id)) {
            for statement in self.worlds[0].statements(&AccountId::new(account.id).unwrap()) {
                for (price, found) in statement.prices() {
                    assert_eq!(found.counted, found.charged, "{price:?} of {}", account.id);
                }
            }
        }
    }

    fn check_batch(&mut self, batch: &Batch) {
        self.batches += 1;
        assert_eq!(batch.head.number, self.batches, "batches are numbered without gaps");
        let keys: Vec<Key> = batch.lines.iter().map(key_of).collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "a batch has one line of a key");
        for line in &batch.lines {
            self.check_line(batch, line);
            let units = line.quantity_after.subtract(line.quantity_before).unwrap();
            let worth = self.issued.entry(key_of(line)).or_default();
            assert_eq!(
                line.quantity_before,
                Exact::new(i128::from(worth.halves) * 5, 1),
                "what was charged before"
            );
            worth.halves += whole(units, 2) as i64;
            worth.events += line.event_count;
            worth.exact += whole(line.precise, 10i128.pow(DIGITS));
            worth.minor += line.rounded_minor();
            let posted = (line.entity.to_string(), line.period.to_string());
            *self.unposted.entry(posted).or_default() += line.rounded_minor();
        }
        for window in &batch.window_finals {
            let key = (window.account.to_string(), window.window);
            assert!(window.window.until.plus(self.model.grace) <= batch.head.at, "{window:?} is over");
            let of_window =
                |key: &&Key| key.account == window.account.as_str() && key.window == window.window;
            let events: i64 = self.issued.keys().filter(of_window).map(|key| self.issued[key].events).sum();
            assert_eq!(window.event_count as i64, events, "a final window says how many events it charged");
            assert_eq!(self.finals.insert(key, self.batches), None, "{window:?} becomes final once");
        }
    }

    fn check_line(&self, batch: &Batch, line: &ChargeLine) {
        let account = self.model.accounts.iter().find(|account| account.id == line.account.as_str()).unwrap();
        assert_eq!(line.entity.as_str(), account.entity);
        // A recurring amount in arrears belongs to the month of the account that its window's last day is in, usage to that of
        // the legal entity in which its slice lies.
        let original = match line.meter {
            None => account.zone.period_of(line.window.until.plus(-1)),
            Some(_) => account.entity_zone.period_of(line.slice.from),
        };
        let (original, open) = self.model.periods(account, original, self.cuts[0]);
        assert_eq!(line.period, open, "a line posts to its period, or the first open one after it: {line:?}");
        let final_batch = self.finals.get(&(line.account.to_string(), line.window)).copied();
        let corrects = (final_batch.is_some() || open != original)
            .then_some(Corrects { period: original, window_final_batch: final_batch });
        assert_eq!(line.corrects, corrects, "{line:?}");
        let is_over = line.window.until.plus(self.model.grace) <= batch.head.at;
        assert_eq!(line.is_final, is_over, "a line is final when its window is over: {line:?}");
    }

    /// Every window that is over, grace included, is final; not of an account that cannot be rated.
    fn check_finals(&self, at: Timestamp, unrated: &BTreeSet<String>) {
        for account in &self.model.accounts {
            for window in self.model.active_windows(account) {
                let is_over = window.until.plus(self.model.grace) <= at;
                let is_final = self.finals.contains_key(&(account.id.to_string(), window));
                let may_wait = !is_over || unrated.contains(account.id);
                assert!(is_final || may_wait, "{window:?} of {} is over at {at}, but not final", account.id);
            }
        }
    }

    fn check_counters(&mut self) {
        let counters = self.in_all(|world| world.counters());
        let model = &self.model;
        assert_eq!((counters.metered, counters.pending), model.metered_and_pending());
        assert_eq!(counters.unmetered, model.count_of(|verdict| verdict == Verdict::Unmetered));
        assert_eq!(counters.duplicate, model.count_of(|verdict| verdict == Verdict::Duplicate));
        assert_eq!(counters.duplicate_restamped, model.count_of(|v| v == Verdict::DuplicateRestamped));
        assert_eq!(counters.conflict, model.count_of(|verdict| verdict == Verdict::Conflict));
        let quarantined = model.count_of(|verdict| matches!(verdict, Verdict::Quarantined(_)));
        assert_eq!(counters.quarantined_total(), quarantined);
        assert_eq!(counters.rejected, model.count_of(|verdict| matches!(verdict, Verdict::Rejected(_))));
        let (metered, pending) = model.metered_and_pending();
        assert_eq!(counters.voided, model.voided);
        assert_eq!(counters.received(), metered + pending + model.count_of(|_| true) + model.voided);
    }

    fn journals(&mut self, entity: &str, crashes: bool) {
        let (id, now) = (EntityId::new(entity).unwrap(), self.now);
        if !self.in_all(|world| world.start_journals(&id, now)) {
            return;
        }
        if crashes {
            self.restart();
        }
        let made = self.in_all(World::finish_journals);
        self.check_journals(entity, &made);
    }

    fn check_journals(&mut self, entity: &str, made: &JournalBatch) {
        let mut posted: BTreeMap<(String, String), i128> = BTreeMap::new();
        for journal in &made.journals {
            assert!(self.journal_ids.insert(journal.external_id.clone()), "{} is new", journal.external_id);
            assert!(journal.posted_on.starts_with(&journal.period.to_string()), "posted inside the period");
            let (mut balance, mut receivable) = (0, 0);
            for line in &journal.lines {
                let parse = |text: &str| journal.currency.parse_minor(text).unwrap();
                let minor = parse(&line.debit) - parse(&line.credit);
                balance += minor;
                if line.ledger_account == LedgerAccount::UnbilledReceivable {
                    receivable += minor;
                }
            }
            assert_eq!(balance, 0, "debits equal credits: {journal:?}");
            *posted.entry((journal.entity.to_string(), journal.period.to_string())).or_default() +=
                receivable;
        }
        let mut charged = self.unposted.clone();
        charged.retain(|(owner, _), minor| owner == entity && *minor != 0);
        posted.retain(|_, minor| *minor != 0);
        assert_eq!(posted, charged, "journals carry what was charged since the last run");
        self.unposted.retain(|(owner, _), _| owner != entity);
    }

    fn finish(mut self) {
        what_if::check_trials(&self.worlds[0], self.now);
        self.barrier();
        lineage::check(&mut self.worlds[RESTARTING], false);
        self.cut(false);
        // Silence: months end, then their grace.
        self.step(&Step::PassHours(45 * 24));
        self.cut(false);
        assert_eq!(self.cut(false), None, "cutting again changes nothing");
        self.check_statements();
        for entity in ["e0", "e1"] {
            self.journals(entity, false);
        }
        assert!(self.unposted.is_empty());
        lineage::check(&mut self.worlds[RESTARTING], true);
        for shards in [1, 2, 8] {
            let replayed = self.worlds[0].replay(ReplayMode::Derive, shards);
            assert_eq!(replayed.counters(), self.worlds[0].counters());
        }
        self.restart();
        assert_eq!(self.cut(false), None, "a started world has nothing to charge again");
    }
}

fn put_until(body: &mut Value, until: Option<Timestamp>) {
    if let Some(until) = until {
        body["until"] = until.to_string().into();
    }
}

/// A number of which a multiple is whole.
fn whole(number: Exact, factor: i128) -> i128 {
    let number = number.multiply(Exact::new(factor, 0)).unwrap();
    let rounded = number.round_to(0).unwrap();
    assert_eq!(Exact::new(rounded, 0), number, "the model has enough digits");
    rounded
}

fn key_of(line: &ChargeLine) -> Key {
    assert!(line.group.iter().all(|(name, _)| name == DIMENSION));
    Key {
        account: line.account.to_string(),
        subscription: line.subscription.as_ref().unwrap().to_string(),
        price: line.price.as_ref().unwrap().to_string(),
        window: line.window,
        group: line.group.get(DIMENSION).map(str::to_string),
        slice_from: line.slice.from,
        version: line.price_version,
    }
}

fn frame_of(batch: &[Sent]) -> Arc<AlignedBytes> {
    let mut builder =
        BatchBuilder::new(batch[0].source, batch[0].event_type, IdMode::Given).without_event_checks();
    for sent in batch {
        let values: Vec<(&str, i128, u8)> =
            sent.halves.iter().map(|halves| ("tokens", i128::from(*halves) * 5, 1)).collect();
        let dimensions: Vec<(&str, &str)> = sent.group.iter().map(|group| (DIMENSION, *group)).collect();
        builder
            .push_parts(sent.id.as_bytes(), sent.subject, sent.time.nanoseconds(), &values, &dimensions)
            .unwrap();
    }
    Arc::new(builder.finish(1, 0))
}
