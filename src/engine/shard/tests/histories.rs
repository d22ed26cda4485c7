//! Random histories of usage and barriers against a slow model, for several numbers of shards at once.
//!
//! Owns: the model, which knows no shards, cells or refolds: it keeps a list of the events that counted and counts them
//! again whenever it is asked. Leaves to others: single rules (`super`).

use std::collections::BTreeMap;

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

/// What came first with an id, whether it was metered, with which batch, and whether it counts.
type First = (Sent, bool, u64, bool);
#[derive(Clone, Debug, PartialEq)]
enum Stands {
    Counts(Sent),
    Unmetered,
    Quarantined(&'static str, Sent),
    Voided,
}

/// What the shards should say, in the plainest way.
#[derive(Default)]
struct Model {
    first: BTreeMap<Id, First>,
    /// What became of them, and of those that are forgotten.
    stands: BTreeMap<Id, Stands>,
    forgotten_stands: Vec<Stands>,
    /// For the next barrier.
    corrections: Vec<Step>,
    spans: BTreeMap<u8, Spans>,
    batches: u64,
    /// Batches before this are forgotten.
    forgotten: u64,
    /// Forgotten events that count are earlier.
    proven_from: i64,
}

impl Model {
    fn verdict(
        &mut self,
        received_at: i64,
        is_metered: bool,
        epoch: Option<u8>,
        event: &Sent,
    ) -> &'static str {
        if let Some((first, was_metered, batch, _)) = self.first.get(&(epoch, event.id)) {
            // Batches are 64 bytes of the log.
            if epoch.is_some() && (self.batches - batch) * 64 > SEQUENCED_CONTENT_BYTES {
                return "duplicate";
            }
            let is_same =
                (first.subject, first.units, *was_metered) == (event.subject, event.units, is_metered);
            return match (is_same, first.time == event.time) {
                (true, true) => "duplicate",
                (true, false) => "duplicate_restamped",
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
        let counts = matches!(stands, Stands::Counts(_));
        self.first.insert((epoch, event.id), (event.clone(), is_metered, self.batches, counts));
        self.stands.insert((epoch, event.id), stands);
        self.standing((epoch, event.id))
    }

    fn standing(&self, id: Id) -> &'static str {
        self.word(&self.stands[&id])
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

    /// Whether a person may correct an event so, and has not taken it back since the last barrier.
    fn may_correct(&self, correction: &Step) -> bool {
        let id = corrected(correction);
        let is_voided = self.stands.get(&id).is_none_or(|stands| *stands == Stands::Voided)
            || self
                .corrections
                .iter()
                .any(|earlier| corrected(earlier) == id && matches!(earlier, Step::Void(_)));
        let is_quarantined = matches!(self.stands.get(&id), Some(Stands::Quarantined(..)));
        let is_first = self.corrections.iter().all(|earlier| corrected(earlier) != id);
        !is_voided && (!matches!(correction, Step::Release(_)) || is_quarantined && is_first)
    }

    fn barrier(&mut self, spans: &BTreeMap<u8, Spans>) {
        self.spans.clone_from(spans);
        for correction in std::mem::take(&mut self.corrections) {
            let id = corrected(&correction);
            let (_, is_metered, ..) = self.first[&id];
            let stands = match (correction, &self.stands[&id]) {
                (Step::Void(_), _) => Stands::Voided,
                (Step::Amend(_, event), _) => judged(&event, is_metered),
                (Step::Release(_), Stands::Quarantined(_, event)) => judged(event, is_metered),
                (step, stands) => unreachable!("{step:?} of {stands:?}"),
            };
            self.stands.insert(id, stands);
        }
    }

    fn counted(&self) -> impl Iterator<Item = &Sent> {
        self.stands.values().chain(&self.forgotten_stands).filter_map(|stands| match stands {
            Stands::Counts(event) => Some(event),
            _ => None,
        })
    }

    fn forget(&mut self, share: u8) {
        self.forgotten = self.forgotten.max(self.batches * u64::from(share) / 256);
        let forgotten = self.forgotten;
        // Numbers of clients are known for ever.
        let gone =
            self.first.extract_if(.., |(epoch, _), (_, _, batch, _)| epoch.is_none() && *batch < forgotten);
        let gone: Vec<(Id, First)> = gone.collect();
        self.forgotten_stands.extend(gone.iter().filter_map(|(id, _)| self.stands.remove(id)));
        let times =
            gone.into_iter().filter(|(_, (.., counts))| *counts).map(|(_, (event, ..))| event.time + 1);
        self.proven_from = times.fold(self.proven_from, i64::max);
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

fn corrected(step: &Step) -> Id {
    match step {
        Step::Void(id) | Step::Release(id) => *id,
        Step::Amend(epoch, event) => (*epoch, event.id),
        Step::Batch { .. } | Step::Barrier(_) | Step::Forget(_) | Step::Snapshot => {
            unreachable!("this corrects nothing")
        }
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
    for world in &mut worlds {
        world.barrier(model.plan());
    }
    let mut snapshot: Option<Vec<Saved>> = None;
    let mut said: Vec<Said> = Vec::new();
    for step in steps {
        if let Step::Snapshot = step {
            snapshot = Some(worlds.iter_mut().map(World::begin_snapshot).collect());
            said.clear();
        }
        let correction = correction_of(step, &model);
        let verdicts = apply(step, correction.as_deref(), &mut model, &mut worlds);
        said.push(Said {
            step: step.clone(),
            plan: model.plan(),
            verdicts,
            correction,
            cells: model.cells(),
        });
        for (world, saved) in worlds.iter_mut().zip(snapshot.iter_mut().flatten()) {
            world.poll_snapshot(saved);
        }
        let all = model.stands.values().chain(&model.forgotten_stands);
        let standings: Vec<&str> = all.map(|stands| model.word(stands)).collect();
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
    model.may_correct(step).then_some(correction)
}

/// Takes a step in the model and in all worlds; gives the verdicts, which must be the same.
fn apply(step: &Step, correction: Option<&str>, model: &mut Model, worlds: &mut [World]) -> Vec<String> {
    match step {
        Step::Snapshot => Vec::new(),
        Step::Void(_) | Step::Release(_) | Step::Amend(..) => {
            if let Some(correction) = correction {
                model.corrections.push(step.clone());
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
