//! Feeds both logs to the machine and its shards, in the order in which they happened.
//!
//! Owns: the interleaving of control records and usage records, and what recovery and `replay` do at sealed cuts.
//! Leaves to others: reading the logs (`recovery`).
//!
//! The interleaving: a barrier names a control-log offset; the control records before that offset apply, then the
//! barrier, then the usage behind it. After the last barrier, the rest of the control log applies.
//!
//! | at a cut | `Load` (recovery) | `Derive` (`replay`) |
//! |---|---|---|
//! | sealed | the stored batch is loaded; its digest must be the sealed one | derived again; must equal the sealed digest |
//! | not sealed, a later record exists | it was empty: closed | derived; must be empty |
//! | not sealed, nothing later | left open: the server rates and seals it | derived and reported, not sealed |
//!
//! Nothing is recorded between a cut and its seal but what could not be rated (`unrated`). So a cut with another record
//! behind it was closed, and rating it once more, under terms that came later, would charge what it did not. Accounts
//! that could not be rated must be those that the log names; of a cut that was left open it may name a part.
//!
//! Invariants: replay never writes; the same logs give the same digests whatever the number of shards.

use std::collections::{BTreeMap, BTreeSet};

use domain::{AccountId, Subject, Timestamp};
use engine::prepared::PreparedBatch;
use engine::shard::spill::SpillError;
use engine::shard::{RunError, Shard};
use engine::snapshot::{SnapshotError, SnapshotHead};
use wire::control::{ControlRecord, IdsForgotten, JournalSeal, Seal};
use wire::verdict::Verdict;

use crate::batch::Batch;
use crate::control::ApplyError;
use crate::forgetting::latest_forgettable_of;
use crate::journals::JournalBatch;
use crate::machine::Machine;
use crate::snapshots::FoundSnapshot;
use crate::usage_log::pass_barrier_through_all;

/// What happens at sealed cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayMode {
    /// Sealed batches are loaded.
    Load,
    /// Everything is derived again and compared with the seals.
    Derive,
}

/// Usage that came before a barrier, for folding subjects again.
pub trait History {
    /// Calls `fold` for every batch before the barrier at `until` that has an event of one of the subjects, in log
    /// order, with the control offset of the barrier before the batch; other batches may come, too.
    ///
    /// # Errors
    /// Whatever reading the log gives.
    fn for_each_batch(
        &mut self,
        until: u64,
        subjects: &BTreeSet<Subject>,
        fold: &mut dyn FnMut(&PreparedBatch, u64),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Calls `read` for the batches at these offsets, in log order.
    ///
    /// # Errors
    /// Whatever reading the log gives.
    fn read_batches(
        &mut self,
        offsets: &BTreeSet<u64>,
        read: &mut dyn FnMut(&PreparedBatch),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Stored batches and journals by digest, as the sealed records name them.
#[derive(Default)]
pub struct Stored {
    /// Stored charge batches.
    pub batches: BTreeMap<String, Batch>,
    /// Bytes of stored journals.
    pub journals: BTreeMap<String, Vec<u8>>,
}

/// Why logs do not replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A control record does not follow.
    #[error("control record at offset {offset}")]
    Control {
        /// Offset of the record.
        offset: u64,
        /// The broken rule.
        #[source]
        source: ApplyError,
    },
    /// What was kept of single events cannot be read.
    #[error(transparent)]
    Items(#[from] SpillError),
    /// A cut derives another batch than the sealed one.
    #[error("cut {cut} derives charge batch {derived}, but sealed is {sealed}")]
    BatchMustMatchSeal {
        /// Number of the cut.
        cut: u64,
        /// What was derived: a digest, or `nothing`.
        derived: String,
        /// What was sealed: a digest, or `nothing`.
        sealed: String,
    },
    /// A cut cannot rate other accounts than the log says.
    #[error("cut {cut}: account {account} {}", if *.is_said { "can be rated, but the log says that it could not" } else { "cannot be rated, but the log does not say so" })]
    UnratedMustMatch {
        /// Number of the cut.
        cut: u64,
        /// The first account that differs.
        account: AccountId,
        /// Whether the log names it.
        is_said: bool,
    },
    /// A run derives other journals than the sealed ones.
    #[error("journal run {run} of {entity} derives {derived}, but sealed is {sealed}")]
    JournalsMustMatchSeal {
        /// The entity.
        entity: String,
        /// First number of the run.
        run: u64,
        /// Digest that was derived.
        derived: String,
        /// Digest that was sealed.
        sealed: String,
    },
    /// The stored content of a seal is missing or unreadable.
    #[error("{what} is sealed with digest {digest}, but its stored content is missing or unreadable")]
    SealedContentMustExist {
        /// What is missing.
        what: String,
        /// The sealed digest.
        digest: String,
    },
    /// A cut names a barrier that the usage log does not have.
    #[error("cut {cut} names a barrier at offset {barrier}, but the usage log has none there")]
    BarrierMustExist {
        /// Number of the cut.
        cut: u64,
        /// Offset of the barrier.
        barrier: u64,
    },
    /// A barrier names control records that are not there.
    #[error(
        "the barrier at usage offset {barrier} names the control log up to offset {control_offset}, but that ends at {control_end}: its end is lost, or it is another directory's"
    )]
    ControlMustReach {
        /// Offset of the barrier.
        barrier: u64,
        /// The offset that it names.
        control_offset: u64,
        /// Where the control log ends.
        control_end: u64,
    },
    /// A barrier names less of the control log than one before it.
    #[error(
        "the barrier at usage offset {barrier} names the control log up to offset {control_offset}, but one before it up to {named}"
    )]
    BarriersMustNameInOrder {
        /// Offset of the barrier.
        barrier: u64,
        /// The offset that it names.
        control_offset: u64,
        /// The one that an earlier barrier names.
        named: u64,
    },
    /// A correction names an event that the usage log does not have there.
    #[error(
        "a correction before control offset {control_offset} names an event that the usage log does not have there"
    )]
    CorrectedEventMustExist {
        /// The offset that the barrier names.
        control_offset: u64,
    },
    /// Ids are forgotten before a place that is still to come.
    #[error("ids before usage offset {before} are forgotten, but the barrier that says so is at {barrier}")]
    ForgottenMustBePast {
        /// The place.
        before: u64,
        /// Offset of the barrier.
        barrier: u64,
    },
    /// Usage before the place where remembering begins arrived later than its record says.
    #[error(
        "ids before usage offset {before} are forgotten as of {said}, but usage before it arrived at {found}"
    )]
    ForgottenMustBeProven {
        /// The place.
        before: u64,
        /// What the record says.
        said: Timestamp,
        /// When the last usage before the place arrived.
        found: Timestamp,
    },
    /// Usage before the place where remembering begins happened later than its record says.
    #[error(
        "ids before usage offset {before} are forgotten as of events before {proven_from}, but one before it may have been accepted for {found}"
    )]
    ForgottenMustBeEarlier {
        /// The place.
        before: u64,
        /// What follows from the record.
        proven_from: Timestamp,
        /// The time of the latest event before the place that may have been accepted.
        found: Timestamp,
    },
    /// Earlier usage could not be read again.
    #[error("earlier usage could not be read again for a refold")]
    History(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Remembered ids cannot be read or written.
    #[error("it cannot be said which ids are known")]
    Runs(#[from] RunError),
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaySummary {
    /// Digest of the last sealed batch.
    pub chain: String,
    /// Digest over all journals.
    pub journals: String,
    /// Sealed batches.
    pub batches: u64,
    /// Cuts.
    pub cuts: u64,
}

/// Drives a machine and its shards through both logs.
pub struct Replayer {
    /// The machine.
    pub machine: Machine,
    /// The shards.
    pub shards: Vec<Shard>,
    mode: ReplayMode,
    stored: Stored,
    cut_barriers: BTreeSet<u64>,
    seals: BTreeMap<u64, Seal>,
    /// Accounts that the log says could not be rated, by cut.
    unrated: BTreeMap<u64, BTreeSet<AccountId>>,
    /// By the offset of the run's record: a run without journals leaves its number to the next one.
    journal_seals: BTreeMap<u64, JournalSeal>,
    last_cut: u64,
    /// Control records not applied yet, in log order.
    control: std::collections::VecDeque<(u64, ControlRecord)>,
    control_end: u64,
    /// The control offset that the last barrier named.
    named: u64,
    reached: BTreeSet<u64>,
    arrivals: Arrivals,
}

/// When the usage arrived before each of some places, and when it happened; of a log that is read whole.
#[derive(Default)]
struct Arrivals {
    places: BTreeSet<u64>,
    /// Whether anybody says when it happened.
    needs_times: bool,
    latest: Latest,
    before: BTreeMap<u64, Latest>,
}

/// When the last usage before a place arrived, and the latest time of an event there whose id may be forgotten.
#[derive(Clone, Copy, Default)]
struct Latest {
    arrived: Option<Timestamp>,
    happened: Option<Timestamp>,
}

impl Arrivals {
    /// Takes the next batch, whose events are set aside if they are further ahead than `future_max`.
    fn on_batch(&mut self, batch: &PreparedBatch, future_max: i64) {
        while self.places.first().is_some_and(|place| *place <= batch.offset) {
            self.before.extend(self.places.pop_first().map(|place| (place, self.latest)));
        }
        self.latest.arrived = self.latest.arrived.max(Some(batch.received_at));
        if self.needs_times {
            let happened = latest_forgettable_of(&batch.view(), batch.received_at, future_max);
            self.latest.happened = self.latest.happened.max(happened);
        }
    }

    fn before(&self, place: u64) -> Latest {
        self.before.get(&place).copied().unwrap_or(self.latest)
    }
}

impl Replayer {
    /// A replayer over a whole control log, given as records with their offsets and the offset behind the last.
    pub fn new(
        mode: ReplayMode,
        shards: usize,
        control: Vec<(u64, ControlRecord)>,
        control_end: u64,
        stored: Stored,
    ) -> Self {
        let mut cut_barriers = BTreeSet::new();
        let (mut seals, mut journal_seals) = (BTreeMap::new(), BTreeMap::new());
        let mut unrated: BTreeMap<u64, BTreeSet<AccountId>> = BTreeMap::new();
        let mut last_cut = 0;
        let mut open_run = None;
        let mut arrivals = Arrivals::default();
        for (offset, record) in &control {
            match record {
                ControlRecord::Cut(cut) => {
                    cut_barriers.insert(cut.barrier);
                    last_cut = cut.number;
                }
                ControlRecord::Unrated(record) => {
                    let accounts = record.failures.iter().map(|failure| failure.account.clone());
                    unrated.entry(record.cut).or_default().extend(accounts);
                }
                ControlRecord::Seal(seal) => {
                    seals.insert(seal.cut, seal.clone());
                }
                ControlRecord::IdsForgotten(record) => {
                    arrivals.places.insert(record.before);
                    arrivals.needs_times |= record.happened_until.is_some() && mode == ReplayMode::Derive;
                }
                ControlRecord::JournalRun(_) => open_run = Some(*offset),
                ControlRecord::JournalSeal(seal) => {
                    journal_seals.extend(open_run.take().map(|run| (run, seal.clone())));
                }
                _ => {}
            }
        }
        Self {
            machine: Machine::new(shards),
            shards: (0..shards).map(Shard::new).collect(),
            mode,
            stored,
            cut_barriers,
            seals,
            unrated,
            journal_seals,
            last_cut,
            control: control.into(),
            control_end,
            named: 0,
            reached: BTreeSet::new(),
            arrivals,
        }
    }

    /// Starts behind the barrier of a snapshot: with the shards as they were there, and the control log as far as the
    /// barrier names it. The inner error says that the sections do not make shards; the replayer is of no use then.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub(crate) fn start_behind(
        &mut self,
        found: FoundSnapshot,
    ) -> Result<Result<(), SnapshotError>, ReplayError> {
        assert_eq!(self.mode, ReplayMode::Load, "what is derived again is derived from the logs alone");
        let SnapshotHead { usage_offset, control_offset, .. } = found.head;
        self.reached.extend(self.cut_barriers.range(..=usage_offset));
        self.named = control_offset;
        self.apply_until(control_offset)?;
        if self.machine.has_open_cut() {
            // A barrier behind a cut is sent when the cut is done: this one had nothing to seal. What the shards know at the
            // snapshot is more than it saw.
            self.machine.close_cut();
        }
        // Corrections up to there are in what the shards saved.
        let plan = self.machine.new_barrier(control_offset, false).plan;
        let shards = found.shards.into_iter().map(|loader| loader.finish(control_offset, &plan));
        match shards.collect() {
            Ok(shards) => self.shards = shards,
            Err(error) => return Ok(Err(error)),
        }
        merge_cells(&mut self.machine, &mut self.shards);
        Ok(Ok(()))
    }

    /// Takes the next usage batch.
    ///
    /// # Errors
    /// [`ReplayError::Runs`].
    pub fn handle_batch(&mut self, prepared: &PreparedBatch) -> Result<(), ReplayError> {
        self.arrivals.on_batch(prepared, self.machine.control().future_max_ever());
        for shard in &mut self.shards {
            shard.handle_batch(prepared, &mut |_, _: Verdict| {})?;
        }
        Ok(())
    }

    /// Takes the next barrier.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn handle_barrier(
        &mut self,
        offset: u64,
        control_offset: u64,
        history: &mut dyn History,
    ) -> Result<(), ReplayError> {
        let (control_end, named) = (self.control_end, self.named);
        if control_offset > control_end {
            return Err(ReplayError::ControlMustReach { barrier: offset, control_offset, control_end });
        }
        if control_offset < named {
            return Err(ReplayError::BarriersMustNameInOrder { barrier: offset, control_offset, named });
        }
        self.named = control_offset;
        self.apply_until(control_offset)?;
        let before = self.machine.control().forgotten_ids().before;
        if before > offset {
            return Err(ReplayError::ForgottenMustBePast { before, barrier: offset });
        }
        pass_barrier(&mut self.machine, &mut self.shards, offset, control_offset, history)?;
        if self.cut_barriers.contains(&offset) {
            merge_cells(&mut self.machine, &mut self.shards);
            self.reached.insert(offset);
        }
        Ok(())
    }

    /// Applies what is left of the control log after the last usage record.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn finish(&mut self) -> Result<ReplaySummary, ReplayError> {
        self.apply_until(self.control_end)?;
        let control = self.machine.control();
        Ok(ReplaySummary {
            chain: control.chain_head().to_string(),
            journals: control.journal_digest().to_string(),
            batches: control.seals().len() as u64,
            cuts: self.last_cut,
        })
    }

    fn apply_until(&mut self, until: u64) -> Result<(), ReplayError> {
        while self.control.front().is_some_and(|(offset, _)| *offset < until) {
            let (offset, record) = self.control.pop_front().expect("the front was just seen");
            self.before(&record)?;
            self.machine.apply(offset, &record).map_err(|source| ReplayError::Control { offset, source })?;
            self.after(offset, &record)?;
        }
        Ok(())
    }

    /// Stages the content that a seal needs.
    fn before(&mut self, record: &ControlRecord) -> Result<(), ReplayError> {
        let is_load = self.mode == ReplayMode::Load;
        match record {
            ControlRecord::Seal(seal) if is_load => {
                let missing = || ReplayError::SealedContentMustExist {
                    what: format!("charge batch {}", seal.batch),
                    digest: seal.digest.clone(),
                };
                let batch = self.stored.batches.remove(&seal.digest).ok_or_else(missing)?;
                self.machine.load_batch(seal.digest.clone(), batch);
            }
            ControlRecord::JournalSeal(seal) if is_load => {
                let missing = || ReplayError::SealedContentMustExist {
                    what: format!("journal run {} of {}", seal.first_run, seal.entity),
                    digest: seal.digest.clone(),
                };
                let bytes = self.stored.journals.remove(&seal.digest).ok_or_else(missing)?;
                let run = self.machine.open_journal_run().cloned().ok_or_else(missing)?;
                let journals = JournalBatch::decode(&run, &bytes).map_err(|_| missing())?;
                self.machine.load_journals(seal.digest.clone(), journals);
            }
            _ => {}
        }
        Ok(())
    }

    fn after(&mut self, offset: u64, record: &ControlRecord) -> Result<(), ReplayError> {
        match record {
            ControlRecord::Cut(cut) => {
                if !self.reached.contains(&cut.barrier) {
                    return Err(ReplayError::BarrierMustExist { cut: cut.number, barrier: cut.barrier });
                }
                self.after_cut(cut.number)
            }
            ControlRecord::Seal(_) => {
                self.machine.close_cut();
                Ok(())
            }
            ControlRecord::JournalRun(_) => self.after_journal_run(offset),
            // A start reads the log from a snapshot on.
            ControlRecord::IdsForgotten(forgotten) if self.mode == ReplayMode::Derive => {
                let IdsForgotten { before, arrived_until: said, .. } = *forgotten;
                let Latest { arrived, happened } = self.arrivals.before(before);
                let proven_from = self.machine.control().forgotten_ids().proven_from;
                match (arrived, happened) {
                    (Some(found), _) if found > said => {
                        Err(ReplayError::ForgottenMustBeProven { before, said, found })
                    }
                    (_, Some(found)) if found >= proven_from => {
                        Err(ReplayError::ForgottenMustBeEarlier { before, proven_from, found })
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn after_cut(&mut self, cut: u64) -> Result<(), ReplayError> {
        let sealed = self.seals.get(&cut).map(|seal| seal.digest.clone());
        let mut later = self.control.iter().map(|(_, record)| record);
        let is_last = later.all(|record| matches!(record, ControlRecord::Unrated(_)));
        let may_be_open = sealed.is_none() && is_last;
        if self.mode == ReplayMode::Load {
            // A sealed cut goes on at its seal; the last record may still be rated by the server.
            if sealed.is_none() && !may_be_open {
                self.machine.close_cut();
            }
            return Ok(());
        }
        let derived = self.machine.rate_open_cut()?.map(|rated| rated.seal.digest);
        if sealed != derived && !may_be_open {
            let name = |digest: Option<String>| digest.unwrap_or_else(|| "nothing".to_string());
            return Err(ReplayError::BatchMustMatchSeal {
                cut,
                derived: name(derived),
                sealed: name(sealed),
            });
        }
        self.check_unrated(cut, may_be_open)?;
        if derived.is_none() {
            self.machine.close_cut();
        }
        Ok(())
    }

    fn check_unrated(&self, cut: u64, may_be_open: bool) -> Result<(), ReplayError> {
        let found: BTreeSet<&AccountId> = self.machine.failures().map(|failure| &failure.account).collect();
        let said: BTreeSet<&AccountId> = self.unrated.get(&cut).into_iter().flatten().collect();
        let differs = |account: &&AccountId| {
            let is_said = said.contains(*account);
            if is_said { !found.contains(*account) } else { !may_be_open }
        };
        match found.union(&said).copied().find(differs) {
            Some(account) => {
                let (account, is_said) = (account.clone(), said.contains(account));
                Err(ReplayError::UnratedMustMatch { cut, account, is_said })
            }
            None => Ok(()),
        }
    }

    fn after_journal_run(&mut self, offset: u64) -> Result<(), ReplayError> {
        let Some(sealed) = self.journal_seals.get(&offset) else { return Ok(()) };
        if self.mode == ReplayMode::Load {
            return Ok(());
        }
        let derived = self.machine.derive_open_journals().map(|(_, seal)| seal.digest);
        let derived = derived.unwrap_or_else(|status| format!("nothing ({status})"));
        if derived != sealed.digest {
            let (entity, run) = (sealed.entity.to_string(), sealed.first_run);
            let sealed = sealed.digest.clone();
            return Err(ReplayError::JournalsMustMatchSeal { entity, run, derived, sealed });
        }
        Ok(())
    }

    /// The instant of the last cut.
    pub fn last_cut_at(&self) -> Option<Timestamp> {
        self.machine.control().last_cut().map(|cut| cut.at)
    }

    /// Offset behind the last control record.
    pub(crate) fn control_end(&self) -> u64 {
        self.control_end
    }
}

/// Takes a barrier through all shards.
///
/// # Errors
/// [`ReplayError::History`], [`ReplayError::Runs`], [`ReplayError::CorrectedEventMustExist`].
pub(crate) fn pass_barrier(
    machine: &mut Machine,
    shards: &mut [Shard],
    offset: u64,
    control_offset: u64,
    history: &mut dyn History,
) -> Result<(), ReplayError> {
    let barrier = machine.new_barrier(control_offset, false);
    for (shard, corrections) in shards.iter().zip(barrier.corrections.iter()) {
        for correction in corrections {
            if !shard.knows(correction.event, correction.position)? {
                return Err(ReplayError::CorrectedEventMustExist { control_offset });
            }
        }
    }
    pass_barrier_through_all(shards, offset, &barrier, history)
        .map_err(|error| error.downcast().map_or_else(ReplayError::History, |runs| ReplayError::Runs(*runs)))
}

/// Merges what the shards counted since the last cut.
pub(crate) fn merge_cells(machine: &mut Machine, shards: &mut [Shard]) {
    for (index, shard) in shards.iter_mut().enumerate() {
        machine.handle_reports(index, shard.take_reports());
    }
}
