//! Random histories of usage and barriers against a slow model, for several numbers of shards at once.
//!
//! Owns: the model, which knows no shards, cells or refolds: it keeps a list of the events that counted and counts them
//! again whenever it is asked. Leaves to others: single rules (`super`).

use std::collections::{BTreeMap, BTreeSet};

use domain::EventPosition;
use domain::plan::{Forgotten, MeteringPlan};
use proptest::prelude::*;
use proptest::test_runner::Config;
use wire::IdMode;
use wire::verdict::QuarantineReason;

use super::super::sequenced::SEQUENCED_CONTENT_BYTES;
use super::world::{FUTURE_MAX, HORIZON, Saved, World, at, count, owned, plan, sum};

/// Spans of ownership with the bounds that cut them.
type Spans = Vec<(i64, i64, Vec<i64>)>;

#[derive(Clone, Debug, PartialEq)]
struct Sent {
    id: u8,
    subject: u8,
    time: i64,
    units: Option<i64>,
}

/// The epoch of a client that mints ids, if one did; and the number of the id.
type Id = (Option<u8>, u8);

#[derive(Clone, Debug)]
enum Step {
    Batch {
        received_at: i64,
        is_metered: bool,
        /// Epoch and first number of a client that mints the ids.
        minted: Option<(u8, u8)>,
        events: Vec<Sent>,
    },
    Barrier(BTreeMap<u8, Spans>),
    /// A barrier that forgets a share of the batches before it, in 256ths.
    Forget(u8),
    /// A snapshot begins; one that is not finished is given up.
    Snapshot,
    /// Of the event with this id, where it may be corrected so; counts from the next barrier on.
    Void(Id),
    Release(Id),
    Amend(Option<u8>, Sent),
}

fn sent() -> impl Strategy<Value = Sent> {
    (0u8..24, 0u8..3, 0i64..200, prop::option::weighted(0.9, -1i64..5))
        .prop_map(|(id, subject, time, units)| Sent { id, subject, time, units })
}

fn spans() -> impl Strategy<Value = Spans> {
    let bounds = prop::collection::vec(0i64..200, 0..3);
    prop::collection::vec((1i64..80, 1i64..120, bounds), 0..3).prop_map(|parts| {
        let mut end = 0;
        let mut spans = Vec::new();
        for (gap, span, bounds) in parts {
            // Every other gap closes, so that owners also follow each other at once.
            let from = end + if gap % 2 == 0 { gap } else { 0 };
            end = from + span;
            spans.push((from, end, bounds));
        }
        spans
    })
}

fn id() -> impl Strategy<Value = Id> {
    (prop::option::of(0u8..2), 0u8..24)
}

fn step() -> impl Strategy<Value = Step> {
    let events = prop::collection::vec(sent(), 1..8);
    let minted = prop::option::of((0u8..2, 0u8..16));
    prop_oneof![
        4 => (0i64..200, prop::bool::weighted(0.8), minted, events).prop_map(
            |(received_at, is_metered, minted, mut events)| {
                let numbers = minted.map(|(_, first)| first..);
                for (event, number) in events.iter_mut().zip(numbers.into_iter().flatten()) {
                    event.id = number;
                }
                Step::Batch { received_at, is_metered, minted, events }
            },
        ),
        2 => prop::collection::btree_map(0u8..3, spans(), 0..3).prop_map(Step::Barrier),
        1 => id().prop_map(Step::Void),
        1 => id().prop_map(Step::Release),
        2 => (prop::option::of(0u8..2), sent()).prop_map(|(epoch, event)| Step::Amend(epoch, event)),
        1 => Just(Step::Snapshot),
        1 => any::<u8>().prop_map(Step::Forget),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Stands {
    Counts(Sent),
    Unmetered,
    Quarantined(&'static str, Sent),
    Voided,
}

/// An event that was not known when it came.
struct Arrived {
    id: Id,
    sent: Sent,
    is_metered: bool,
    /// The batch that it came with.
    batch: u64,
    /// Whether it was accepted then.
    was_accepted: bool,
    stands: Stands,
    is_corrected: bool,
}

/// What the shards should say, in the plainest way.
#[derive(Default)]
struct Model {
    events: Vec<Arrived>,
    /// For the next barrier: of which event.
    corrections: Vec<(usize, Step)>,
    spans: BTreeMap<u8, Spans>,
    batches: u64,
    /// Batches before this are forgotten.
    forgotten: u64,
    /// Forgotten events that were accepted are earlier.
    proven_from: i64,
}

impl Model {
    /// Numbers of clients are known for ever, and ids of events that may yet count otherwise.
    fn is_known(&self, event: &Arrived) -> bool {
        let (epoch, _) = event.id;
        epoch.is_some() || event.batch >= self.forgotten || !event.was_accepted || event.is_corrected
    }

    fn known(&self, id: Id) -> Option<usize> {
        self.events.iter().rposition(|event| event.id == id && self.is_known(event))
    }

    /// The event that a person means by an id.
    fn named(&self, id: Id) -> Option<usize> {
        self.known(id).or_else(|| self.events.iter().rposition(|event| event.id == id))
    }

    fn verdict(
        &mut self,
        received_at: i64,
        is_metered: bool,
        epoch: Option<u8>,
        event: &Sent,
    ) -> &'static str {
        let id = (epoch, event.id);
        if let Some(known) = self.known(id) {
            let first = &self.events[known];
            let quarantined = match &first.stands {
                Stands::Quarantined(reason, _) => Some(*reason),
                _ => None,
            };
            // Batches are 64 bytes of the log.
            if epoch.is_some() && (self.batches - first.batch) * 64 > SEQUENCED_CONTENT_BYTES {
                return quarantined.unwrap_or("duplicate");
            }
            let is_same = (first.sent.subject, first.sent.units, first.is_metered)
                == (event.subject, event.units, is_metered);
            return match (is_same, first.sent.time == event.time) {
                (true, true) => quarantined.unwrap_or("duplicate"),
                (true, false) => quarantined.unwrap_or("duplicate_restamped"),
                (false, _) => "conflict",
            };
        }
        let is_proven = epoch.is_some() || event.time >= self.proven_from;
        let stands = if event.time < received_at - HORIZON || !is_proven {
            Stands::Quarantined("quarantined: too_old", event.clone())
        } else if event.time > received_at + FUTURE_MAX {
            Stands::Quarantined("quarantined: future", event.clone())
        } else {
            judged(event, is_metered)
        };
        let was_accepted = matches!(stands, Stands::Counts(_) | Stands::Unmetered);
        let (sent, batch) = (event.clone(), self.batches);
        self.events.push(Arrived { id, sent, is_metered, batch, was_accepted, stands, is_corrected: false });
        self.word(&self.events.last().expect("one was just pushed").stands)
    }

    fn word(&self, stands: &Stands) -> &'static str {
        match stands {
            Stands::Counts(event) if self.slice_of(event).is_some() => "accepted",
            Stands::Counts(_) => "pending",
            Stands::Unmetered => "unmetered",
            Stands::Quarantined(reason, _) => reason,
            Stands::Voided => "voided",
        }
    }

    /// The batch of an earlier event that counts and was forgotten when this one came, if this one was set aside.
    fn counted_before(&self, event: usize) -> Option<u64> {
        let Arrived { id, stands, .. } = &self.events[event];
        let counts = |earlier: &&Arrived| {
            earlier.id == *id && matches!(earlier.stands, Stands::Counts(_) | Stands::Unmetered)
        };
        let earlier = self.events[..event].iter().rfind(counts).map(|earlier| earlier.batch);
        earlier.filter(|_| matches!(stands, Stands::Quarantined(..)))
    }

    /// The event that a person may correct so, and has not taken back since the last barrier.
    fn to_correct(&self, correction: &Step) -> Option<usize> {
        let named = self.named(corrected(correction)?)?;
        let is_void = |step: &Step| matches!(step, Step::Void(_));
        let mut waiting = self.corrections.iter().filter(|(event, _)| *event == named).map(|(_, step)| step);
        let is_first = waiting.clone().next().is_none();
        let is_voided = self.events[named].stands == Stands::Voided || waiting.any(is_void);
        let is_quarantined = matches!(self.events[named].stands, Stands::Quarantined(..));
        let may = is_void(correction) || self.counted_before(named).is_none();
        let is_release = matches!(correction, Step::Release(_));
        (!is_voided && may && (!is_release || is_quarantined && is_first)).then_some(named)
    }

    fn barrier(&mut self, spans: &BTreeMap<u8, Spans>) {
        self.spans.clone_from(spans);
        for (event, correction) in std::mem::take(&mut self.corrections) {
            let event = &mut self.events[event];
            event.stands = match (correction, &event.stands) {
                (Step::Void(_), _) => Stands::Voided,
                (Step::Amend(_, sent), _) => judged(&sent, event.is_metered),
                (Step::Release(_), Stands::Quarantined(_, sent)) => judged(sent, event.is_metered),
                (step, stands) => unreachable!("{step:?} of {stands:?}"),
            };
            event.is_corrected = true;
        }
    }

    fn counted(&self) -> impl Iterator<Item = &Sent> {
        self.events.iter().filter_map(|event| match &event.stands {
            Stands::Counts(event) => Some(event),
            _ => None,
        })
    }

    fn forget(&mut self, share: u8) {
        self.forgotten = self.forgotten.max(self.batches * u64::from(share) / 256);
        let is_gone = |event: &&Arrived| event.batch < self.forgotten && event.was_accepted;
        let times = self.events.iter().filter(is_gone).map(|event| event.sent.time + 1);
        self.proven_from = times.fold(self.proven_from, i64::max);
    }

    /// However often an event came, it counts once.
    fn assert_nothing_counts_twice(&self) {
        let mut counted = BTreeSet::new();
        for event in self.events.iter().filter(|event| matches!(event.stands, Stands::Counts(_))) {
            assert!(counted.insert((event.id, event.sent.time)), "{:?} counts twice", event.sent);
        }
    }

    /// First instant of the slice that the event lies in, if somebody owns its subject then.
    fn slice_of(&self, event: &Sent) -> Option<i64> {
        let spans = self.spans.get(&event.subject)?;
        let (from, _, bounds) =
            spans.iter().find(|(from, until, _)| (*from..*until).contains(&event.time))?;
        bounds.iter().filter(|bound| **bound <= event.time).chain([from]).max().copied()
    }

    fn cells(&self) -> Vec<String> {
        let mut cells: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        for event in self.counted() {
            let Some(from) = self.slice_of(event) else { continue };
            let units = event.units.expect("an event without units does not count");
            for (meter, value) in [("calls", 1), ("units", units)] {
                let cell = cells.entry(format!("k{} {meter} from {from}", event.subject)).or_default();
                *cell = (cell.0 + 1, cell.1 + value);
            }
        }
        cells.into_iter().map(|(name, (count, total))| format!("{name}: {count} events, {total}")).collect()
    }

    fn plan(&self) -> MeteringPlan {
        let mut plan = plan([count("calls"), sum("units")]);
        // Room for all: the limit is a matter of slots, which the model does not know.
        plan.policy.pending_per_slot_max = u32::MAX;
        for (subject, spans) in &self.spans {
            let spans: Vec<(i64, i64, &[i64])> =
                spans.iter().map(|(from, until, bounds)| (*from, *until, bounds.as_slice())).collect();
            plan = owned(plan, &format!("k{subject}"), &spans);
        }
        let before = self.forgotten.checked_sub(1).map_or(0, |last| World::batch_offset(last) + 1);
        plan.forgotten = Forgotten { before, proven_from: at(self.proven_from) };
        plan
    }
}

fn judged(event: &Sent, is_metered: bool) -> Stands {
    match event.units {
        _ if !is_metered => Stands::Unmetered,
        None => Stands::Quarantined("quarantined: missing_value", event.clone()),
        Some(units) if units < 0 => Stands::Quarantined("quarantined: negative_usage", event.clone()),
        Some(_) => Stands::Counts(event.clone()),
    }
}

/// The id that a step corrects the event of, if it corrects any.
fn corrected(step: &Step) -> Option<Id> {
    match step {
        Step::Void(id) | Step::Release(id) => Some(*id),
        Step::Amend(epoch, event) => Some((*epoch, event.id)),
        Step::Batch { .. } | Step::Barrier(_) | Step::Forget(_) | Step::Snapshot => None,
    }
}

/// Every world finds the event that an id names where the model has it, and says whether an earlier one counts.
fn check_found(id: Id, model: &Model, worlds: &mut [World]) {
    let named = model.named(id);
    let batch_of = |position: EventPosition| position.offset() / 64 - 1;
    for world in worlds {
        let found = world.find("s", &written_id(id));
        assert_eq!(
            found.map(|found| (batch_of(found.position), found.counted_before.map(batch_of))),
            named.map(|named| (model.events[named].batch, model.counted_before(named)))
        );
        let standing =
            named.map(|named| model.word(&model.events[named].stands).replace("accepted", "metered"));
        assert_eq!(world.standing("s", &written_id(id)), standing);
    }
}

fn written_id((epoch, number): Id) -> String {
    epoch.map_or_else(|| format!("e{number}"), |epoch| format!("seq:{epoch:016x}/{number}"))
}

fn written(event: &Sent) -> String {
    let units = event.units.map_or(String::new(), |units| format!(" units={units}"));
    format!("k{} {}{units}", event.subject, event.time)
}

/// Runs a history in worlds of 1, 2 and 8 shards; all must say what the model says, at every step. Then again from the
/// last snapshot on, whose sections were taken between the steps: all must say the same.
fn check(steps: &[Step]) {
    let mut model = Model::default();
    let mut worlds = [1, 2, 8].map(World::new);
    // What the logs say, for whoever compares a snapshot with that.
    let mut plain = [1, 2, 8].map(World::without_runs);
    for world in worlds.iter_mut().chain(&mut plain) {
        world.barrier(model.plan());
    }
    let mut snapshot: Option<Vec<Saved>> = None;
    let mut said: Vec<Said> = Vec::new();
    for step in steps {
        if let Step::Snapshot = step {
            for (world, plain) in worlds.iter_mut().zip(&plain) {
                let mut saved = world.begin_snapshot();
                while world.poll_snapshot(&mut saved) {}
                assert_eq!(plain.check_loaded(&saved.load()), Ok(()));
            }
            snapshot = Some(worlds.iter_mut().map(World::begin_snapshot).collect());
            said.clear();
        }
        if let Some(id) = corrected(step) {
            check_found(id, &model, &mut worlds);
        }
        let correction = correction_of(step, &model);
        let verdicts = apply(step, correction.as_deref(), &mut model, &mut worlds);
        for plain in &mut plain {
            let again = Said::new(step, model.plan(), correction.clone());
            assert_eq!(again.repeat(plain), verdicts);
        }
        said.push(Said { verdicts, cells: model.cells(), ..Said::new(step, model.plan(), correction) });
        for (world, saved) in worlds.iter_mut().zip(snapshot.iter_mut().flatten()) {
            world.poll_snapshot(saved);
        }
        model.assert_nothing_counts_twice();
        let standings: Vec<&str> = model.events.iter().map(|event| model.word(&event.stands)).collect();
        let standing = |wanted: &str| standings.iter().filter(|found| **found == wanted).count() as u64;
        let first = worlds[0].counters("s");
        assert_eq!(
            (first.metered, first.pending, first.unmetered, first.voided),
            (standing("accepted"), standing("pending"), standing("unmetered"), standing("voided"))
        );
        for reason in QuarantineReason::ALL {
            assert_eq!(first.quarantined[reason.ordinal()], standing(&format!("quarantined: {reason}")));
        }
        assert_eq!(worlds[0].set_aside() as u64, first.quarantined_total() + first.conflict);
        for world in &mut worlds {
            assert_eq!(world.cells(), model.cells());
            assert_eq!(world.counters("s"), first);
        }
    }
    for (world, mut saved) in worlds.iter_mut().zip(snapshot.into_iter().flatten()) {
        while world.poll_snapshot(&mut saved) {}
        let mut again = saved.load();
        for said in &said {
            assert_eq!(said.repeat(&mut again), said.verdicts);
            assert_eq!(again.cells(), said.cells);
        }
        assert_eq!(again.counters("s"), world.counters("s"));
        assert_eq!(again.set_aside(), world.set_aside());
        // What is forgotten goes when its run is merged, and that is not a matter of the history.
        assert!(model.forgotten > 0 || again.remembered() == world.remembered());
        // Stretches may begin before what is forgotten, and end behind it.
        let before = model.plan().forgotten.before;
        let known =
            model.events.iter().filter(|event| event.id.0.is_none() && event.batch >= model.forgotten);
        for world in [&again, &*world] {
            let (since, ids) = world.ids_since(before);
            assert!((since..=ids).contains(&(known.clone().count() as u64)), "{since} to {ids} ids");
        }
    }
}

/// What a step was, and what all worlds said of it.
struct Said {
    step: Step,
    plan: MeteringPlan,
    verdicts: Vec<String>,
    /// The correction, where the event may be corrected so.
    correction: Option<String>,
    cells: Vec<String>,
}

impl Said {
    fn new(step: &Step, plan: MeteringPlan, correction: Option<String>) -> Self {
        Self { step: step.clone(), plan, verdicts: Vec::new(), correction, cells: Vec::new() }
    }

    fn repeat(&self, world: &mut World) -> Vec<String> {
        match &self.step {
            Step::Batch { received_at, is_metered, minted, events } => {
                send(world, *received_at, *is_metered, *minted, events)
            }
            Step::Barrier(_) | Step::Forget(_) => {
                world.barrier(self.plan.clone());
                Vec::new()
            }
            Step::Snapshot => Vec::new(),
            Step::Void(_) | Step::Release(_) | Step::Amend(..) => {
                self.correction.iter().for_each(|correction| world.correct("s", correction));
                Vec::new()
            }
        }
    }
}

fn send(
    world: &mut World,
    received_at: i64,
    is_metered: bool,
    minted: Option<(u8, u8)>,
    events: &[Sent],
) -> Vec<String> {
    let ids = minted.map_or(IdMode::Given, |(epoch, first)| IdMode::Sequenced {
        epoch: epoch.into(),
        first: first.into(),
    });
    let text_of = |event: &Sent| match minted {
        Some(_) => written(event),
        None => format!("{} {}", written_id((None, event.id)), written(event)),
    };
    let texts: Vec<String> = events.iter().map(text_of).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    world.send_with(ids, received_at, "s", if is_metered { "use" } else { "other" }, &texts)
}

/// How a step corrects an event; nothing if it does not, or may not.
fn correction_of(step: &Step, model: &Model) -> Option<String> {
    let correction = match step {
        Step::Void(id) => format!("void {}", written_id(*id)),
        Step::Release(id) => format!("release {}", written_id(*id)),
        Step::Amend(epoch, event) => format!("amend {} {}", written_id((*epoch, event.id)), written(event)),
        Step::Batch { .. } | Step::Barrier(_) | Step::Forget(_) | Step::Snapshot => return None,
    };
    model.to_correct(step).map(|_| correction)
}

/// Takes a step in the model and in all worlds; gives the verdicts, which must be the same.
fn apply(step: &Step, correction: Option<&str>, model: &mut Model, worlds: &mut [World]) -> Vec<String> {
    match step {
        Step::Snapshot => Vec::new(),
        Step::Void(_) | Step::Release(_) | Step::Amend(..) => {
            if let (Some(event), Some(correction)) = (model.to_correct(step), correction) {
                model.corrections.push((event, step.clone()));
                worlds.iter_mut().for_each(|world| world.correct("s", correction));
            }
            Vec::new()
        }
        Step::Barrier(spans) => {
            model.barrier(spans);
            for world in worlds {
                world.barrier(model.plan());
            }
            Vec::new()
        }
        Step::Forget(share) => {
            model.barrier(&model.spans.clone());
            model.forget(*share);
            for world in worlds {
                world.barrier(model.plan());
            }
            Vec::new()
        }
        Step::Batch { received_at, is_metered, minted, events } => {
            let epoch = minted.map(|(epoch, _)| epoch);
            let verdicts: Vec<String> = events
                .iter()
                .map(|event| model.verdict(*received_at, *is_metered, epoch, event).to_string())
                .collect();
            for world in worlds {
                assert_eq!(send(world, *received_at, *is_metered, *minted, events), verdicts);
            }
            model.batches += 1;
            verdicts
        }
    }
}

fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_history_gives_what_a_recount_gives_whatever_the_number_of_shards(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        check(&steps);
    }
}
