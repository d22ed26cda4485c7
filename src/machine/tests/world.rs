//! A machine and its shards over logs in memory, driven as the server drives them.
//!
//! Owns: the order of records, barriers, refolds, cuts and seals, and both logs, so that a world can be started again
//! from them. Leaves to others: what must come out (`model`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::catalog::Resource;
use billing::charges::ChargeLine;
use billing::ledger::Journal;
use domain::{AccountId, EntityId, EventPosition, Period, Subject, Timestamp};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::spill::SpillPool;
use engine::shard::{ArrivedAs, EventStanding, FoundEvent, Shard, SourceCounters};
use engine::testing::disk::SimulatedDisk;
use wire::AlignedBytes;
use wire::EventIdOwned;
use wire::control::{ClockKind, ControlRecord, ForgottenBecause, Genesis, IdsForgotten, PolicyRecord};
use wire::correction::EventContent;
use wire::verdict::Verdict;

use crate::completeness::{Charged, Completeness, CompletenessTerms, Statement};
use crate::forgetting::latest_forgettable_of;
use crate::lineage::{Arrivals, ArrivedEvent, EventLineage, LineEvents, LinePage, RestsOn, Trail, UnderLine};
use crate::usage_query::{Arrival, Counting, Judge, LoggedBatch, add_restated, pass_over, plan_of};
use crate::{
    Batch, ControlState, CorrectionRequest, CorrectionStatus, Effect, History, JournalBatch,
    KnownCorrections, KnownEvent, Machine, RATING_EPOCH, ReplayError, ReplayMode, ReplaySummary, Replayer,
    Stored, WhatIf, name_of, pass_barrier_through,
};

/// Bytes that stand before the first record of a commit, and that a record takes: like the logs on disk, an offset is
/// never that of the end of the log before it.
const COMMIT_BYTES: u64 = 64;
const RECORD_BYTES: u64 = 32;

fn key() -> IdentityKey {
    IdentityKey::new(7)
}

/// A record of the usage log.
#[derive(Clone)]
enum UsageRecord {
    Batch { offset: u64, received_at: Timestamp, frame: Arc<AlignedBytes> },
    Barrier { offset: u64, control_offset: u64 },
}

impl UsageRecord {
    fn offset(&self) -> u64 {
        match self {
            UsageRecord::Batch { offset, .. } | UsageRecord::Barrier { offset, .. } => *offset,
        }
    }
}

/// What is on disk.
#[derive(Clone, Default)]
struct Logs {
    control: Vec<(u64, ControlRecord)>,
    control_end: u64,
    usage: Vec<UsageRecord>,
    usage_end: u64,
    /// Bytes by digest.
    batches: BTreeMap<String, Vec<u8>>,
    journals: BTreeMap<String, Vec<u8>>,
    /// Wire codes that shards gave, by batch.
    verdicts: BTreeMap<u64, Vec<u8>>,
}

/// A usage log, prepared for so many shards.
struct Past<'a> {
    usage: &'a [UsageRecord],
    shards: usize,
}

impl History for Past<'_> {
    fn for_each_batch(
        &mut self,
        until: u64,
        _subjects: &BTreeSet<Subject>,
        fold: &mut dyn FnMut(&PreparedBatch, u64),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut before = 0;
        for record in self.usage {
            match record {
                UsageRecord::Batch { offset, .. } | UsageRecord::Barrier { offset, .. }
                    if *offset >= until =>
                {
                    break;
                }
                UsageRecord::Barrier { control_offset, .. } => before = *control_offset,
                UsageRecord::Batch { offset, received_at, frame } => {
                    fold(&prepared(frame, *offset, *received_at, self.shards), before);
                }
            }
        }
        Ok(())
    }

    fn read_batches(
        &mut self,
        offsets: &BTreeSet<u64>,
        read: &mut dyn FnMut(&PreparedBatch),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.for_each_batch(u64::MAX, &BTreeSet::new(), &mut |batch, _| {
            if offsets.contains(&batch.offset) {
                read(batch);
            }
        })
    }
}

fn prepared(frame: &Arc<AlignedBytes>, offset: u64, received_at: Timestamp, shards: usize) -> PreparedBatch {
    let mut batch = PreparedBatch::prepare(frame.clone(), None, received_at, key(), shards).unwrap();
    batch.offset = offset;
    batch
}

/// A server without threads, disks and sockets.
pub(super) struct World {
    pub(super) machine: Machine,
    shards: Vec<Shard>,
    pool: Arc<SpillPool>,
    logs: Logs,
}

/// Bytes of single events that stay in memory: those of four.
const SPILL_BYTES: u64 = 4 * 32;

impl World {
    /// A new directory with its first two records.
    pub(super) fn new(shards: usize, policy: &PolicyRecord) -> Self {
        let pool = Arc::new(SpillPool::open(Arc::new(SimulatedDisk::default()), SPILL_BYTES).unwrap());
        let mut shards_of: Vec<Shard> = (0..shards).map(Shard::new).collect();
        shards_of.iter_mut().for_each(|shard| shard.set_spill_pool(pool.clone()));
        let mut world =
            Self { machine: Machine::new(shards), shards: shards_of, pool, logs: Logs::default() };
        world.append(ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: format!("{:032x}", 7),
            clock: ClockKind::Scenario,
            epoch: RATING_EPOCH.to_string(),
            made_by: "a test".to_string(),
        }));
        world.append(ControlRecord::Policy(policy.clone()));
        world.barrier(false);
        world
    }

    fn append(&mut self, record: ControlRecord) {
        // Through its bytes, as a log gives it back.
        let record = ControlRecord::decode(&record.encode()).unwrap();
        let offset = self.logs.control_end + COMMIT_BYTES;
        self.logs.control_end = offset + RECORD_BYTES;
        self.machine.apply(offset, &record).unwrap();
        self.logs.control.push((offset, record));
    }

    /// Other settings from now on.
    pub(super) fn set_policy(&mut self, policy: &PolicyRecord) {
        self.append(ControlRecord::Policy(policy.clone()));
        self.barrier(false);
    }

    /// Lets the ids of a share of all batches be forgotten, in 256ths, from the next barrier on: how many batches that are,
    /// and the instant before which they happened. Nothing if they are forgotten already. Of every other share the record says
    /// how late they happened.
    pub(super) fn forget(&mut self, share: u8) -> Option<(usize, Timestamp)> {
        let batches = self.logs.usage.iter().filter_map(|record| match record {
            UsageRecord::Batch { offset, received_at, .. } => Some((*offset, *received_at)),
            UsageRecord::Barrier { .. } => None,
        });
        let batches: Vec<(u64, Timestamp)> = batches.collect();
        let number = batches.len() * usize::from(share) / 256;
        let before = batches.get(number)?.0;
        let arrived_until = batches[..number].iter().map(|(_, received_at)| *received_at).max()?;
        if before <= self.machine.control().forgotten_ids().before {
            return None;
        }
        let because = ForgottenBecause::IdsMax;
        let ids = self.shards.iter().map(Shard::ids).sum();
        let last = self.machine.control().forgotten_ids().before;
        let future_max = self.machine.control().future_max_ever();
        let forgotten = self.logs.usage.iter().filter_map(|record| match record {
            UsageRecord::Batch { offset, received_at, frame } if (last..before).contains(offset) => {
                let batch = prepared(frame, *offset, *received_at, 1);
                latest_forgettable_of(&batch.view(), *received_at, future_max)
            }
            _ => None,
        });
        let happened_until = forgotten.max().filter(|_| share.is_multiple_of(2));
        let record = IdsForgotten { before, arrived_until, because, ids, happened_until };
        self.append(ControlRecord::IdsForgotten(record));
        Some((number, self.machine.control().forgotten_ids().proven_from))
    }

    /// Lets the last record that forgets ids name another place, or another instant.
    pub(super) fn misstate_forgotten(&mut self, change: impl Fn(&mut IdsForgotten)) {
        let forgotten = self.logs.control.iter_mut().rev().filter_map(|(_, record)| match record {
            ControlRecord::IdsForgotten(forgotten) => Some(forgotten),
            _ => None,
        });
        change(forgotten.into_iter().next().unwrap());
    }

    /// Puts a resource; the version that it becomes, if the catalog takes it and did not have it.
    pub(super) fn put(&mut self, kind: &str, id: &str, body: &serde_json::Value) -> Option<u32> {
        let record = self.machine.propose_put(kind, id, body.clone(), "test").ok()??;
        let ControlRecord::Put(put) = &record else { panic!("a put is proposed as a put") };
        let version = put.version;
        self.append(record);
        Some(version)
    }

    fn next_usage_offset(&mut self) -> u64 {
        let offset = self.logs.usage_end + COMMIT_BYTES;
        self.logs.usage_end = offset + RECORD_BYTES;
        offset
    }

    /// Takes a frame of usage; the wire code of each event's verdict.
    pub(super) fn take_usage(&mut self, frame: &Arc<AlignedBytes>, received_at: Timestamp) -> Vec<u8> {
        let offset = self.next_usage_offset();
        let batch = prepared(frame, offset, received_at, self.shards.len());
        let mut codes = vec![0; batch.event_count()];
        for shard in &mut self.shards {
            let mut on_verdict = |index: u16, verdict: Verdict| codes[usize::from(index)] = verdict.code();
            shard.handle_batch(&batch, &mut on_verdict).unwrap();
        }
        self.spill();
        self.logs.usage.push(UsageRecord::Batch { offset, received_at, frame: frame.clone() });
        self.logs.verdicts.insert(offset, codes.clone());
        codes
    }

    /// Records a correction of an event, for the next barrier; whether it made a record, or the rule that it breaks.
    pub(super) fn correct(
        &mut self,
        request: CorrectionRequest,
        now: Timestamp,
    ) -> Result<bool, &'static str> {
        let known = self.known_event(&request.source, &request.id);
        let record = self.machine.propose_correction(request, known.as_ref(), self.logs.control_end, now);
        let record = record.map_err(CorrectionStatus::name)?;
        Ok(record.map(|record| self.append(record)).is_some())
    }

    /// Why the event that an id names is set aside, if it is.
    pub(super) fn quarantined(&mut self, source: &str, id: &str) -> Option<Verdict> {
        let event = name_of(key(), source, &EventIdOwned::Text(id.to_string()));
        let shard = event.shard(self.shards.len());
        match self.shards[shard].find_event(event).unwrap()?.standing {
            EventStanding::Quarantined(reason) => Some(Verdict::Quarantined(reason)),
            _ => None,
        }
    }

    fn known_event(&mut self, source: &str, id: &EventIdOwned) -> Option<KnownEvent> {
        let event = name_of(key(), source, id);
        let shard = event.shard(self.shards.len());
        let found = self.shards[shard].find_event(event).unwrap()?;
        let mut known = None;
        let mut past = Past { usage: &self.logs.usage, shards: 1 };
        past.read_batches(&[found.position.offset()].into(), &mut |batch| {
            let content = EventContent::of(&batch.view(), usize::from(found.position.index()));
            known = Some(KnownEvent { content, received_at: batch.received_at, found });
        })
        .unwrap();
        known
    }

    /// A barrier through all shards; gives its offset.
    pub(super) fn barrier(&mut self, is_cut: bool) -> u64 {
        let control_offset = self.logs.control_end;
        let barrier = self.machine.new_barrier(control_offset, is_cut);
        let offset = self.next_usage_offset();
        let mut past = Past { usage: &self.logs.usage, shards: self.shards.len() };
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let reports = pass_barrier_through(shard, offset, &barrier, &mut past).unwrap();
            if is_cut {
                self.machine.handle_reports(index, reports);
            }
        }
        self.logs.usage.push(UsageRecord::Barrier { offset, control_offset });
        self.spill();
        offset
    }

    fn spill(&self) {
        if self.pool.is_due() {
            self.pool.spill().unwrap();
        }
    }

    /// The first half of a cut: after a crash here, the second one follows at the next start.
    pub(super) fn start_cut(&mut self, at: Timestamp) {
        let barrier = self.barrier(true);
        self.append(self.machine.propose_cut(barrier, at, "test"));
    }

    /// The second half of a cut: rates, stores and seals. Every account can be rated.
    pub(super) fn finish_cut(&mut self) -> Option<Batch> {
        let batch = self.rate_and_seal();
        assert_eq!(self.machine.failures().next(), None, "amounts of these histories fit");
        batch
    }

    /// The second half of a cut, where accounts may fail.
    pub(super) fn rate_and_seal(&mut self) -> Option<Batch> {
        let rated = self.machine.rate_open_cut().unwrap();
        self.machine.propose_unrated().into_iter().for_each(|record| self.append(record));
        if let Some(rated) = &rated {
            self.logs.batches.insert(rated.seal.digest.clone(), rated.bytes.clone());
            self.append(ControlRecord::Seal(rated.seal.clone()));
        }
        self.machine.close_cut();
        rated.map(|rated| Batch::clone(&rated.batch))
    }

    /// What a crash before the seal leaves: the batch is stored, and the log says one of the accounts that failed.
    pub(super) fn rate_without_seal(&mut self) {
        if let Some(rated) = self.machine.rate_open_cut().unwrap() {
            self.logs.batches.insert(rated.seal.digest, rated.bytes);
        }
        if let Some(ControlRecord::Unrated(mut unrated)) = self.machine.propose_unrated().pop() {
            unrated.failures.truncate(1);
            self.append(ControlRecord::Unrated(unrated));
        }
    }

    /// Accounts that the last cut could not rate.
    pub(super) fn unrated(&self) -> BTreeSet<String> {
        self.machine.failures().map(|failure| failure.account.to_string()).collect()
    }

    /// Asks for journals of an entity; whether there is anything to post.
    pub(super) fn start_journals(&mut self, entity: &EntityId, at: Timestamp) -> bool {
        let record = self.machine.propose_journal_run(entity, at, "test");
        record.map(|record| self.append(record)).is_some()
    }

    /// Derives, stores and seals the journals that were asked for.
    pub(super) fn finish_journals(&mut self) -> JournalBatch {
        let (journals, seal) = self.machine.derive_open_journals().unwrap();
        self.logs.journals.insert(seal.digest.clone(), journals.encode());
        self.append(ControlRecord::JournalSeal(seal));
        journals
    }

    /// What is known of the months of an account that were charged, as of the last barrier.
    pub(super) fn statements(&self, account: &AccountId) -> Vec<Statement> {
        let catalog = self.machine.control().catalog();
        let zone = &catalog.account(account).unwrap().time_zone;
        let issued = self.machine.issued().of_account(account);
        let months: BTreeSet<Period> = issued.map(|(key, _)| zone.period_of(key.window.from)).collect();
        let statement = |month: &Period| {
            let plan = self.machine.plan().clone();
            let terms = CompletenessTerms::of(catalog, plan, account, *month).unwrap();
            let mut completeness = Completeness::new(terms);
            self.count(&mut completeness);
            completeness.finish(Charged::of(&self.machine, account, zone.month(*month)))
        };
        months.iter().map(statement).collect()
    }

    /// Counts all usage before the last barrier.
    fn count(&self, counting: &mut dyn Counting) {
        let last = self.logs.usage.iter().rfind(|record| matches!(record, UsageRecord::Barrier { .. }));
        self.count_before(last.map_or(0, UsageRecord::offset), &self.machine.known_corrections(), counting);
    }

    /// Counts all usage before an offset, with what was corrected by then.
    fn count_before(&self, until: u64, corrections: &KnownCorrections, counting: &mut dyn Counting) {
        let (mut control_offset, mut candidates) = (0, Vec::new());
        for record in self.logs.usage.iter().take_while(|record| record.offset() < until) {
            match record {
                UsageRecord::Barrier { control_offset: named, .. } => control_offset = *named,
                UsageRecord::Batch { offset, received_at, frame } => {
                    let batch = prepared(frame, *offset, *received_at, self.shards.len());
                    let (view, refusals) = (&batch.view(), batch.refusals());
                    let arrival = Arrival { received_at: *received_at, recorded_at: *received_at };
                    let logged = LoggedBatch {
                        view,
                        refusals,
                        offset: *offset,
                        first_index: 0,
                        control_offset,
                        arrival: Some(arrival),
                    };
                    let first = candidates.len();
                    counting.select(logged, key(), &mut candidates).unwrap();
                    pass_over(corrections, first, &mut candidates);
                }
            }
        }
        let mut judge = self.shards.as_slice();
        judge.judge(candidates, &mut |event| counting.add(event)).unwrap();
        add_restated(corrections, key(), counting).unwrap();
    }

    /// All sealed batches.
    pub(super) fn sealed_batches(&self) -> Vec<Batch> {
        let seals = self.machine.control().seals().iter();
        seals.map(|seal| Batch::decode(&self.logs.batches[&seal.digest]).unwrap()).collect()
    }

    /// The journals of a sealed run.
    fn journals_of(&self, index: usize) -> Vec<Journal> {
        let seals = self.logs.control.iter().filter_map(|(_, record)| match record {
            ControlRecord::JournalSeal(seal) => Some(&self.logs.journals[&seal.digest]),
            _ => None,
        });
        let bytes = seals.into_iter().nth(index).unwrap();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// All sealed journals.
    pub(super) fn sealed_journals(&self) -> Vec<Journal> {
        (0..self.machine.control().journal_seals() as usize).flat_map(|run| self.journals_of(run)).collect()
    }

    /// Sources and ids of all events that arrived and have one, each once.
    pub(super) fn event_names(&self) -> BTreeSet<(String, String)> {
        let mut names = BTreeSet::new();
        for record in &self.logs.usage {
            let UsageRecord::Batch { offset, received_at, frame } = record else { continue };
            let batch = prepared(frame, *offset, *received_at, 1);
            let view = batch.view();
            names
                .extend((0..view.len()).map(|index| (view.source().to_string(), view.id(index).to_string())));
        }
        names
    }

    /// The wire code of the verdict of an event.
    pub(super) fn verdict_code(&self, position: EventPosition) -> u8 {
        self.logs.verdicts[&position.offset()][usize::from(position.index())]
    }

    /// What became of an event, by the logs; none if no shard knows it.
    pub(super) fn lineage(
        &mut self,
        source: &str,
        id: &EventIdOwned,
        page: LinePage,
    ) -> Option<(FoundEvent, EventLineage)> {
        let event = name_of(key(), source, id);
        let shard = event.shard(self.shards.len());
        let found = self.shards[shard].find_event(event).unwrap()?;
        let mut arrivals = Arrivals::new(source, id, Some(found.position));
        for record in &self.logs.usage {
            if let UsageRecord::Batch { offset, received_at, frame } = record {
                arrivals.take(&prepared(frame, *offset, *received_at, 1), *received_at);
            }
        }
        let mut trail = Trail::new(ArrivedEvent {
            source: source.to_string(),
            id: id.clone(),
            position: found.position,
            content: arrivals.content().unwrap(),
            is_accepted: found.arrived_as == ArrivedAs::Accepted,
            meters_at: found.meters_at,
        });
        for (offset, record) in &self.logs.control {
            trail.take(*offset, record).unwrap();
        }
        let mut story = trail.finish().with_page(page);
        for number in story.batches() {
            let seal = &self.machine.control().seals()[number as usize - 1];
            story.take_batch(&self.logs.batches[&seal.digest]).unwrap();
        }
        for run in story.runs() {
            story.take_run(&run, &self.journals_of(run.index));
        }
        let (arrivals, left_out) = arrivals.finish();
        Some((found, story.finish(arrivals, left_out)))
    }

    /// What is under a line of a sealed batch, of the log as the batch's cut knew it.
    pub(super) fn under(
        &self,
        batch: &Batch,
        line: &ChargeLine,
        after: Option<EventPosition>,
        limit: usize,
    ) -> UnderLine {
        let barrier = batch.head.barrier;
        let named = self.logs.usage.iter().find(|record| record.offset() == barrier);
        let Some(UsageRecord::Barrier { control_offset, .. }) = named else {
            panic!("a cut names a barrier")
        };
        let mut state = ControlState::default();
        for (offset, record) in self.logs.control.iter().filter(|(offset, _)| offset < control_offset) {
            state.apply(*offset, record).unwrap();
        }
        let rests_on = RestsOn::of(state.catalog(), line);
        let Some(mut events) = LineEvents::new(state.catalog(), line, after, limit) else {
            return UnderLine::nothing(line.clone(), rests_on);
        };
        let corrections = KnownCorrections::of(&state, plan_of(&state));
        self.count_before(barrier, &corrections, &mut events);
        events.finish(line.clone(), rests_on)
    }

    /// Counters of all sources and shards together.
    pub(super) fn counters(&self) -> SourceCounters {
        let mut whole = SourceCounters::default();
        for counters in self.shards.iter().flat_map(|shard| shard.counters().values()) {
            whole.merge(counters);
        }
        whole
    }

    /// A machine and shards made from the logs alone.
    pub(super) fn replay(&self, mode: ReplayMode, shards: usize) -> Self {
        let replayer = self.replayer(mode, shards);
        let Replayer { machine, mut shards, .. } = replayer;
        shards.iter_mut().for_each(|shard| shard.set_spill_pool(self.pool.clone()));
        Self { machine, shards, pool: self.pool.clone(), logs: self.logs.clone() }
    }

    /// What resources would change, tried on the logs alone; those that the catalog refuses are left out.
    pub(super) fn try_out(
        &self,
        shards: usize,
        at: Timestamp,
        resources: &[Resource],
        period: Option<Period>,
    ) -> Effect {
        let mut past = Past { usage: &self.logs.usage, shards };
        let replayer = self.replayer(ReplayMode::Load, shards);
        let mut what_if = WhatIf::new(replayer, self.logs.usage_end, at, &mut past).unwrap();
        for resource in resources {
            let _ = what_if.put(resource);
        }
        what_if.effect(period).unwrap()
    }

    fn replayer(&self, mode: ReplayMode, shards: usize) -> Replayer {
        let (replayer, summary) = self.try_replayer(mode, shards).unwrap();
        let control = self.machine.control();
        assert_eq!(summary.chain, control.chain_head(), "{mode:?} with {shards} shards");
        assert_eq!(summary.journals, control.journal_digest(), "{mode:?} with {shards} shards");
        replayer
    }

    /// Replays logs that may be damaged.
    pub(super) fn try_replay(&self, shards: usize) -> Result<ReplaySummary, ReplayError> {
        self.try_replayer(ReplayMode::Derive, shards).map(|(_, summary)| summary)
    }

    /// Lets the last correction in the log name another place in the usage log.
    pub(super) fn misplace_last_correction(&mut self) {
        let corrections = self.logs.control.iter_mut().rev().filter_map(|(_, record)| match record {
            ControlRecord::EventVoid(taken) => Some(&mut taken.index),
            _ => None,
        });
        *corrections.into_iter().next().unwrap() += 1;
    }

    fn try_replayer(
        &self,
        mode: ReplayMode,
        shards: usize,
    ) -> Result<(Replayer, ReplaySummary), ReplayError> {
        let logs = &self.logs;
        let batches =
            logs.batches.iter().map(|(digest, bytes)| (digest.clone(), Batch::decode(bytes).unwrap()));
        let stored = Stored { batches: batches.collect(), journals: logs.journals.clone() };
        let mut replayer = Replayer::new(mode, shards, logs.control.clone(), logs.control_end, stored);
        let mut past = Past { usage: &logs.usage, shards };
        for record in &logs.usage {
            match record {
                UsageRecord::Batch { offset, received_at, frame } => {
                    replayer.handle_batch(&prepared(frame, *offset, *received_at, shards)).unwrap();
                }
                UsageRecord::Barrier { offset, control_offset } => {
                    replayer.handle_barrier(*offset, *control_offset, &mut past)?;
                }
            }
        }
        let summary = replayer.finish()?;
        Ok((replayer, summary))
    }
}
