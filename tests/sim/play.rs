//! Plays a plan: drives a server through it, kills it, starts it again, and asks the auditor.
//!
//! Owns: doing actions, dying and starting, the trace of a run. Leaves to others: what is right (`auditor`).

mod asking;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use domain::time::{HOUR, SECOND};
use domain::{EntityId, Timestamp};
use engine::identity::IdentityKey;
use engine::testing::disk::{Faults, SimulatedDisk};
use machine::{DoneCut, ReplayMode, Surroundings, read_moment, replay, take_damaged_run_away};
use serde_json::{Value, json};
use wire::control::{ClockKind, ControlRecord, Genesis, PolicyRecord};

use crate::actions::{
    ACCOUNTS, Action, Amend, Ask, DIMENSION, Damage, Death, ENTITIES, Limits, Plan, RICH, SOURCES, Target,
};
use crate::auditor::{Auditor, Promise};
use crate::corrections::{Amended, Answer, Asked, What};
use crate::prices::hour;
use crate::producers::{Id, Producers, value_of};
use crate::questions::Answered;
use crate::random::Random;
use crate::recount::{Event, Recount, Stands, Until};
use crate::resources::{MEDIAN, account, body_of, rich_price};
use crate::server::{Clock, Reached, Said, Server, Stopped, in_shard, logs_of};

/// Worlds start three weeks into January and end within the auditor's months.
const START: i64 = 20 * 24;
const END: i64 = 200 * 24;
const IDENTITY_KEY: &str = "00000000000000000000000000000007";

/// Why a run is not right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Number of the action, from 1; none at the end.
    pub action: Option<usize>,
    /// What was found.
    pub what: String,
}

/// What a run did: a digest that is equal for equal runs, and numbers that say what was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Over everything that the server and the auditor said.
    pub digest: u64,
    /// Starts after the first.
    pub starts: u64,
    /// Starts after a death.
    pub deaths: u64,
    /// Events that producers made.
    pub events: u64,
    /// Sealed charge batches.
    pub batches: u64,
    /// Corrections that were recorded.
    pub corrections: u64,
    /// Times that ids were forgotten.
    pub forgotten: u64,
    /// Segments that went to the archive.
    pub archived: u64,
    /// Snapshots that were finished.
    pub snapshots: u64,
    /// Starts from a snapshot.
    pub from_snapshots: u64,
    /// Snapshots that a start left aside.
    pub left_aside: u64,
    /// Runs of remembered ids that were written or merged beside running shards.
    pub runs: u64,
    /// Times that single events left memory beside running shards.
    pub spills: u64,
    /// Flipped bits that were refused.
    pub refused_flips: u64,
    /// Usage queries that were answered.
    pub answers: u64,
}

impl Outcome {
    /// Adds another run; the digests in any order.
    pub fn add(&mut self, other: &Outcome) {
        self.digest ^= other.digest;
        for (mine, theirs) in [
            (&mut self.starts, other.starts),
            (&mut self.deaths, other.deaths),
            (&mut self.events, other.events),
            (&mut self.batches, other.batches),
            (&mut self.corrections, other.corrections),
            (&mut self.forgotten, other.forgotten),
            (&mut self.archived, other.archived),
            (&mut self.snapshots, other.snapshots),
            (&mut self.from_snapshots, other.from_snapshots),
            (&mut self.left_aside, other.left_aside),
            (&mut self.runs, other.runs),
            (&mut self.spills, other.spills),
            (&mut self.refused_flips, other.refused_flips),
            (&mut self.answers, other.answers),
        ] {
            *mine += theirs;
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { digest, starts, deaths, events, batches, corrections, runs, spills, .. } = self;
        let Outcome {
            forgotten,
            archived,
            snapshots,
            from_snapshots,
            left_aside,
            refused_flips,
            answers,
            ..
        } = self;
        write!(
            f,
            "{starts} starts ({deaths} after a death, {from_snapshots} from a snapshot), {events} events, {corrections} \
             corrections, {forgotten} times ids forgotten, {archived} segments archived, {batches} charge batches, {snapshots} snapshots ({left_aside} left aside), {runs} runs of ids, {spills} spills, \
             {refused_flips} flipped bits refused, {answers} usage queries; digest {digest:016x}"
        )
    }
}

/// What happened, in words; kept only where somebody will read it.
#[derive(Default)]
pub struct Trace {
    digest: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its lines.
    pub fn kept() -> Self {
        Self { digest: 0, lines: Some(Vec::new()) }
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    fn say(&mut self, line: &str) {
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line.to_string());
        }
    }
}

/// Plays a plan.
///
/// # Errors
/// The first thing that is not right, panics included.
pub fn play(plan: &Plan, trace: &mut Trace) -> Result<Outcome, Failure> {
    let mut at = None;
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut play = Play::new(plan, trace);
        play.run(&mut at)
    }));
    let what = match played {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    Err(Failure { action: at, what })
}

struct Play<'p> {
    plan: &'p Plan,
    trace: &'p mut Trace,
    disk: SimulatedDisk,
    server: Option<Server>,
    shards: usize,
    limits: Limits,
    clock: Clock,
    step: u64,
    producers: Producers,
    auditor: Auditor,
    /// Derived files that were put aside, with their bytes.
    put_aside: BTreeMap<String, Vec<u8>>,
    /// Whether the running server may find a run damaged.
    is_damaged: bool,
    /// Whether anything ever happened to a derived file.
    was_damaged: bool,
    /// Where the last snapshot that was finished is of, and how many shards.
    finished_snapshot: Option<(u64, usize)>,
    /// Questions that were asked of a position, and must be answered the same ever after.
    answered: Vec<Answered>,
    /// How the server will die, and what follows.
    armed: Option<(Death, u64, Option<u64>, usize)>,
    outcome: Outcome,
}

type Done = Result<(), String>;

/// What keeps an action from being done.
enum Halt {
    /// The server died.
    Died(Stopped),
    /// Something is not right.
    Wrong(String),
}

impl From<String> for Halt {
    fn from(what: String) -> Self {
        Halt::Wrong(what)
    }
}

impl From<Stopped> for Halt {
    fn from(stopped: Stopped) -> Self {
        Halt::Died(stopped)
    }
}

impl From<machine::ControlError> for Halt {
    fn from(error: machine::ControlError) -> Self {
        Halt::Died(Stopped::Control(error))
    }
}

impl<'p> Play<'p> {
    fn new(plan: &'p Plan, trace: &'p mut Trace) -> Self {
        let key = IdentityKey::from_hex(IDENTITY_KEY).expect("a key");
        Self {
            plan,
            trace,
            disk: SimulatedDisk::default(),
            server: None,
            shards: plan.setup.shards,
            limits: plan.setup.limits,
            clock: Clock::new(hour(START)),
            step: 0,
            producers: Producers::new(plan.setup.id_bytes, plan.setup.is_crowded.then_some(key)),
            auditor: Auditor::new(plan.setup.segment_bytes, key),
            put_aside: BTreeMap::new(),
            is_damaged: false,
            was_damaged: false,
            finished_snapshot: None,
            answered: Vec::new(),
            armed: None,
            outcome: Outcome::default(),
        }
    }

    fn run(&mut self, at: &mut Option<usize>) -> Result<Outcome, String> {
        self.start()?;
        self.do_action(&Action::Put(Vec::new()))?;
        self.set_up()?;
        for (index, action) in self.plan.actions.iter().enumerate() {
            *at = Some(index + 1);
            self.trace.say(&format!("{:>3}  {action}", index + 1));
            self.do_action(action)?;
        }
        *at = None;
        self.finish()?;
        let reached = self.server().usage.reached;
        self.add_reached(reached);
        self.outcome.digest = self.trace.digest;
        self.outcome.batches = self.auditor.books.batch_count() as u64;
        self.outcome.events = self.producers.batches.iter().map(|batch| batch.events.len() as u64).sum();
        Ok(self.outcome)
    }

    /// Entities, accounts, plans, the meters of values and the rich account's subscription: every world has them.
    fn set_up(&mut self) -> Done {
        let setup = &self.plan.setup;
        let mut resources = Vec::new();
        let mut put = |kind: &str, id: &str, body: Value| {
            resources.push((kind.to_string(), id.to_string(), body));
        };
        for (id, zone) in ENTITIES.iter().zip(setup.entity_zones) {
            put("entities", id, json!({"currency": "USD", "time_zone": zone}));
        }
        for (id, (entity, zone)) in ACCOUNTS.iter().zip(setup.accounts) {
            let body = json!({
                "name": id, "entity": ENTITIES[entity], "currency": setup.currency, "time_zone": zone,
            });
            put("accounts", id, body);
        }
        for plan in ["p0", "p1", "p2", "p3"] {
            put("plans", plan, json!({"currency": setup.currency}));
        }
        let mut tokens = json!({"event_type": "call", "aggregation": "sum", "value": "tokens"});
        tokens["negative_usage"] = setup.negative.text().into();
        if setup.sum_is_grouped {
            tokens["group_by"] = json!([DIMENSION]);
        }
        // Takes what `tokens` takes, and keeps every event.
        let mut median = tokens.clone();
        median["aggregation"] = "percentile".into();
        median["percent"] = "50".into();
        put("meters", "tokens", tokens);
        put("meters", "median", median);
        let (price, body) = rich_price(MEDIAN, 1);
        put("prices", price, body);
        let body = json!({"account": RICH, "plan": "p2", "from": hour(0)});
        put("subscriptions", "rich-s", body);
        put("subjects", "k5", json!({"subscription": "rich-s", "from": hour(0)}));
        self.put(resources, "setup")
    }

    fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server runs between actions")
    }

    fn do_action(&mut self, action: &Action) -> Done {
        self.step += 1;
        match self.act(action) {
            Ok(()) => {
                self.take_said()?;
                if self.disk.has_failed() {
                    // It was a snapshot that failed, and nobody died of that.
                    self.armed = None;
                    self.disk.set_faults(Faults::default());
                }
            }
            Err(Halt::Wrong(what)) => return Err(what),
            Err(Halt::Died(stopped)) => {
                self.take_said()?;
                self.die(&stopped)?;
            }
        }
        self.deliver()
    }

    /// What the network brings, and what producers send again.
    fn deliver(&mut self) -> Done {
        self.producers.send_again(self.step, true);
        let mut random = Random::new(self.plan.seed ^ self.step.wrapping_mul(0x5851_f42d_4c95_7f2d));
        for (batch, loses_ack) in self.producers.arrivals(self.step, &mut random) {
            let frame = self.producers.batches[batch].frame.clone();
            self.server().usage.arrive(batch, &frame, loses_ack);
        }
        Ok(())
    }

    /// Takes note of what the server said since the last time.
    fn take_said(&mut self) -> Done {
        let Some(server) = &mut self.server else { return Ok(()) };
        self.clock = server.usage.clock;
        let said = std::mem::take(&mut server.usage.said);
        self.note(said)
    }

    fn note(&mut self, said: Vec<Said>) -> Done {
        for said in said {
            self.trace.say(&format!("     {said:?}"));
            self.auditor.note(&said)?;
            if let Said::Ack { batch, is_lost: false, .. } = said {
                self.producers.take_ack(batch);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), Halt> {
        match action {
            Action::Pass { seconds } => {
                let now = self.server().usage.present();
                let end = hour(END).max(now);
                self.server().usage.clock.now = now.plus(seconds * SECOND).min(end);
            }
            Action::SetBack { seconds } => {
                let clock = &mut self.server().usage.clock;
                clock.now = clock.now.plus(-seconds * SECOND);
            }
            Action::Produce { source, event_type, sequenced, events, is_first_twice, way } => {
                let now = self.server().usage.present();
                let batch =
                    self.producers.produce(source, event_type, *sequenced, events, *is_first_twice, now);
                self.producers.send(batch, *way, self.step);
            }
            Action::Resend { nth, again, way } => {
                if let Some(batch) = self.producers.again(*nth, *again) {
                    self.producers.send(batch, *way, self.step);
                }
            }
            Action::Work { steps, salt } => {
                let steps = *steps;
                let order = Random::new(*salt);
                let usage = &mut self.server().usage;
                usage.order = order;
                usage.work(steps)?;
            }
            Action::Put(resources) => {
                let setup = &self.plan.setup;
                let catalog = self.server().control.machine().control().catalog();
                let mut bodies = Vec::new();
                for resource in resources {
                    bodies.extend(body_of(setup, catalog, resource));
                }
                self.try_put(bodies, "somebody")?;
            }
            Action::Cut => {
                let now = self.server().usage.present();
                self.cut(now)?;
            }
            Action::Due => self.run_due()?,
            Action::Journals { entity } => self.journals(entity)?,
            Action::Ack { nth, is_forked } => self.ack(*nth, *is_forked)?,
            Action::Correct { target, ask, reason, is_twice } => {
                for time in 0..1 + u8::from(*is_twice) {
                    self.correct(*target, ask, *reason, time)?;
                }
            }
            Action::Forget { share } => self.outcome.forgotten += u64::from(self.server().forget(*share)?),
            Action::Archive { hours } => self.outcome.archived += self.server().archive(*hours),
            Action::Peek => {
                let logs = logs_of(&self.disk, self.plan.setup.segment_bytes);
                read_moment(&logs, 1 + self.step as usize % 4)
                    .map_err(|error| format!("a reader beside the server fails: {error}"))?;
            }
            Action::Ask { question, share, is_again } => {
                if *is_again {
                    self.ask_again(self.step as usize)?;
                }
                self.ask(question, *share)?;
            }
            Action::Snapshot => self.server().begin_snapshot()?,
            Action::Damage { damage, salt } => self.damage(*damage, *salt),
            Action::Restart { shards, limits, is_saved } => self.restart(*shards, *limits, *is_saved)?,
            Action::Crash { after, death, salt, again, shards } => {
                self.armed = Some((*death, *salt, *again, *shards));
                let used: u64 = self.disk.files().iter().map(|(_, bytes)| *bytes as u64).sum();
                self.disk.set_faults(faults_of(*death, *after, used));
            }
            Action::Flip { salt } => self.flip(*salt)?,
        }
        Ok(())
    }

    /// Puts without a fault in the way.
    fn put(&mut self, resources: Vec<(String, String, Value)>, actor: &str) -> Done {
        match self.try_put(resources, actor) {
            Ok(()) => self.take_said(),
            Err(Halt::Wrong(what)) => Err(what),
            Err(Halt::Died(stopped)) => Err(format!("the server stops by itself: {stopped}")),
        }
    }

    fn try_put(&mut self, resources: Vec<(String, String, Value)>, actor: &str) -> Result<(), Halt> {
        if resources.is_empty() {
            return Ok(());
        }
        let server = self.server();
        let outcomes = server.control.put(&mut server.usage, resources, actor)?;
        match outcomes {
            Ok(outcomes) => {
                for outcome in outcomes {
                    self.trace.say(&format!("     {outcome:?}"));
                    if let Some(version) = outcome.version {
                        let (kind, id, version) = (outcome.kind, outcome.id, u64::from(version));
                        self.auditor.promise(Promise::Put { kind, id, version });
                    }
                }
            }
            Err(refused) => {
                self.trace.say(&format!("     refused: {refused}"));
                assert_ne!(actor, "setup", "{refused}");
            }
        }
        Ok(())
    }

    fn cut(&mut self, at: Timestamp) -> Result<(), Halt> {
        let server = self.server();
        let done = server.control.cut(&mut server.usage, at, "somebody")?;
        self.after_cut(&done)?;
        Ok(())
    }

    fn after_cut(&mut self, done: &DoneCut) -> Done {
        let sealed = done.sealed.as_ref().map(|(batch, entry)| (batch.head.number, entry.digest.clone()));
        self.trace.say(&format!("     cut {} at {}: {sealed:?}", done.cut.number, done.cut.at));
        self.auditor.promise(Promise::Cut(done.cut.number));
        let server = self.server.as_ref().expect("a server made the cut");
        let (at, barrier) = (done.cut.at, done.cut.barrier);
        self.auditor.check_cut(&self.disk, &self.producers, server, at, barrier, self.shards)
    }

    fn run_due(&mut self) -> Result<(), Halt> {
        let interval = self.plan.setup.cut_hours * HOUR;
        let now = self.server().usage.present();
        if self.server().control.is_cut_due(now, interval) {
            self.cut(now)?;
        }
        for entity in self.server().control.journals_due(now) {
            self.journals(entity.as_str())?;
        }
        Ok(())
    }

    fn journals(&mut self, entity: &str) -> Result<(), Halt> {
        let server = self.server();
        let entity = EntityId::new(entity).expect("an id");
        let now = server.usage.now();
        let done = server.control.journal_run(&mut server.usage, &entity, now, "somebody")?;
        let made = done.map(|done| (done.journals.journals.len(), done.entry.digest));
        self.trace.say(&format!("     journals: {made:?}"));
        Ok(())
    }

    fn ack(&mut self, nth: u64, is_forked: bool) -> Result<(), Halt> {
        let server = self.server();
        let seals = server.control.machine().control().seals();
        // One in so many acks is of a batch that does not exist yet.
        let batch = 1 + nth % (seals.len() as u64 + 1);
        let digest = seals.get(batch as usize - 1).map(|seal| seal.digest.clone());
        let given = if is_forked { Some("f".repeat(64)) } else { digest.clone() };
        let status = server.control.ack_batch(&mut server.usage, batch, given.as_deref(), "billing")?;
        let should_fit = digest.is_some() && !is_forked;
        if status.is_ok() != should_fit {
            return Err(format!("an ack of batch {batch} is answered {status:?}").into());
        }
        if should_fit {
            self.auditor.promise(Promise::Acked(batch));
        }
        Ok(())
    }

    /// Somebody asks for a correction; the answer must be that of the auditor, who recounts the log for it.
    fn correct(&mut self, target: Target, ask: &Ask, reason: u8, time: u8) -> Result<(), Halt> {
        let recount = self.auditor.recount(&self.disk, &self.producers, Until::End)?;
        let Some((source, id)) = self.event_of(target, &recount) else { return Ok(()) };
        let now = self.server().usage.present();
        let reason = format!("reason {reason}");
        let asked = Asked { source, id: id.clone(), what: what_of(ask, now), reason };
        let expected = asked.answer(&recount, now);
        let actor = format!("person {}.{time}", self.step);
        let request = asked.request(actor.clone());
        self.trace.say(&format!("     {request:?}"));
        self.auditor.asked.insert(actor.clone(), asked);
        let answer = match self.server().correct(request)? {
            Ok(Some(_)) => Answer::Recorded,
            Ok(None) => Answer::Known,
            Err(status) => Answer::Refused(status.name()),
        };
        self.trace.say(&format!("     {answer:?}"));
        if expected.is_some_and(|expected| expected != answer) {
            return Err(format!("a correction is answered {answer:?}, and not as the log says").into());
        }
        if answer == Answer::Recorded {
            self.outcome.corrections += 1;
            self.auditor.promise(Promise::Corrected(actor));
        }
        Ok(())
    }

    fn event_of(&self, target: Target, recount: &Recount) -> Option<(&'static str, Id)> {
        let nth_of = |nth: u64, of: &dyn Fn(&Event) -> bool| {
            let matching: Vec<_> = recount.events.iter().filter(|(_, event)| of(event)).collect();
            let at = nth.checked_rem(matching.len() as u64)?;
            Some(matching[at as usize].0.clone())
        };
        match target {
            Target::Made(nth) => self.producers.nth_made(nth),
            Target::SetAside(nth) => nth_of(nth, &|event| matches!(event.stands, Stands::SetAside(_))),
            Target::Corrected(nth) => nth_of(nth, &|event| event.corrected.is_some()),
            Target::Nobodys => Some((SOURCES[0], Id::Given("nobody's".to_string()))),
        }
    }

    /// Something happens to a snapshot or a run. The logs are whole, so nothing may come of it but a start that takes longer.
    fn damage(&mut self, damage: Damage, salt: u64) {
        let mut random = Random::new(salt);
        let files: Vec<(String, usize)> =
            self.disk.files().into_iter().filter(|(name, _)| is_derived(name)).collect();
        self.is_damaged |= !files.is_empty() || matches!(damage, Damage::Foreign | Damage::Restored);
        self.was_damaged = true;
        if damage == Damage::Restored {
            for (name, bytes) in &self.put_aside {
                if files.iter().all(|(known, _)| known != name) {
                    self.disk.replace(name, bytes);
                    self.trace.say(&format!("     {name} is back"));
                }
            }
            self.put_aside.extend(files.into_iter().map(|(name, _)| {
                let bytes = self.disk.content(&name);
                (name, bytes)
            }));
            return;
        }
        if damage == Damage::Foreign {
            self.bring_foreign(&files);
            return;
        }
        if files.is_empty() {
            return;
        }
        let mut chosen = random.below(files.len() as u64) as usize;
        if random.chance(50) {
            // The newest of its kind is what the next start begins with.
            let kind = &files[chosen].0[..4];
            chosen = files.iter().rposition(|(name, _)| name.starts_with(kind)).unwrap_or(chosen);
        }
        let (name, bytes) = files[chosen].clone();
        self.trace.say(&format!("     {name} of {bytes} bytes"));
        let at = if bytes == 0 { 0 } else { random.below(bytes as u64) as usize };
        match damage {
            Damage::Flipped => {
                let mut content = self.disk.content(&name);
                if let Some(byte) = content.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
                self.disk.replace(&name, &content);
            }
            Damage::Foreign | Damage::Restored => {}
            Damage::Cut => self.disk.replace(&name, &self.disk.content(&name)[..at]),
            Damage::Missing => self.disk.lose(&name),
            Damage::Mistaken => {
                let kind = &name[..4];
                let others: Vec<_> = files.iter().filter(|(other, _)| other.starts_with(kind)).collect();
                let other = &others[random.below(others.len() as u64) as usize].0;
                self.disk.replace(&name, &self.disk.content(other));
            }
        }
    }

    /// Somebody starts on a copy of the directory, and what is derived there comes here where it is missing.
    fn bring_foreign(&mut self, files: &[(String, usize)]) {
        let copy = self.disk.copy();
        let Ok(mut server) = self.start_on(&copy) else { return };
        if let Some(batch) = self.producers.batches.first() {
            server.usage.arrive(0, &batch.frame, true);
        }
        let name =
            vec![("accounts".to_string(), RICH.to_string(), account(&self.plan.setup, RICH, "elsewhere"))];
        let go_on = || -> Result<(), Stopped> {
            let _ = server.control.put(&mut server.usage, name, "another").map_err(Stopped::Control)?;
            server.usage.work(8)?;
            server.begin_snapshot()?;
            server.usage.settle().and_then(|()| server.usage.save_all()).map_err(in_shard)
        };
        if go_on().is_ok() {
            for (name, _) in copy.files().into_iter().filter(|(name, _)| is_derived(name)) {
                if files.iter().all(|(known, _)| *known != name) {
                    self.trace.say(&format!("     {name} came"));
                    self.disk.replace(&name, &copy.content(&name));
                }
            }
        }
    }

    fn restart(&mut self, shards: usize, limits: Option<Limits>, is_saved: bool) -> Result<(), Halt> {
        if self.armed.is_none() && !self.is_damaged {
            // What it knows is what the next start makes anew.
            self.check_state()?;
        }
        let server = self.server.take().expect("a server runs");
        let (clock, said, reached, stopped) = server.stop(is_saved);
        self.add_reached(reached);
        self.clock = clock;
        self.note(said)?;
        self.shards = shards;
        self.limits = limits.unwrap_or(self.limits);
        stopped?;
        // Nothing that was armed happened on the way down; it may on the way up.
        self.start()?;
        Ok(())
    }

    fn add_reached(&mut self, reached: Reached) {
        self.finished_snapshot = reached.last_snapshot.map(|at| (at, self.shards)).or(self.finished_snapshot);
        self.outcome.snapshots += reached.snapshots;
        self.outcome.runs += reached.runs;
        self.outcome.spills += reached.spills;
    }

    /// The server died, of what was armed, of a derived file that was damaged, or by itself.
    fn die(&mut self, stopped: &Stopped) -> Done {
        let is_of_damage = self.is_damaged && stopped.is_of_derived();
        let of_damage = is_of_damage.then_some((Death::Kill, 0, None, self.shards));
        let Some((death, salt, again, shards)) = self.armed.take().or(of_damage) else {
            return Err(format!("the server stops by itself: {stopped}"));
        };
        self.trace.say(&format!("     died: {stopped}"));
        if let Some(server) = self.server.take() {
            if let Some((run, removed)) = take_damaged_run_away(&server.usage.runs, stopped.error()) {
                self.trace.say(&format!("     {run}: {removed:?}"));
            }
            self.add_reached(server.usage.reached);
        }
        self.outcome.deaths += 1;
        let is_dark = match death {
            Death::Power => true,
            Death::Kill | Death::Full(_) => false,
            Death::WriteError(is_dark) | Death::SyncError(is_dark) => is_dark,
        };
        if is_dark {
            self.disk.crash(salt);
        }
        self.disk.set_faults(Faults::default());
        self.shards = shards;
        if let Some(again) = again {
            self.armed = Some((Death::Power, salt ^ 0x55, None, shards));
            self.disk.set_faults(faults_of(Death::Power, again, 0));
        }
        self.start()
    }

    /// Starts a server and audits it.
    fn start(&mut self) -> Done {
        // With another number of shards it reads the logs and takes all runs away, however far it comes.
        self.finished_snapshot = self.finished_snapshot.filter(|(_, shards)| *shards == self.shards);
        let started = self.start_on(&self.disk);
        match started {
            Ok(server) => {
                // Entries of a run are not read before somebody asks for them.
                self.is_damaged &= server.snapshot.is_some();
                self.server = Some(server);
            }
            Err(stopped) if self.armed.is_some() => return self.die(&stopped),
            Err(stopped) => return Err(format!("the server refuses to start: {stopped}")),
        }
        self.outcome.starts += 1;
        self.after_start()
    }

    fn start_on(&self, disk: &SimulatedDisk) -> Result<Server, Stopped> {
        let genesis = ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: IDENTITY_KEY.to_string(),
            clock: ClockKind::Real,
            epoch: machine::RATING_EPOCH.to_string(),
            made_by: "a simulation".to_string(),
        });
        let policy = policy_of(self.limits);
        let first = [genesis, ControlRecord::Policy(policy_of(self.plan.setup.limits))];
        Server::start(
            disk,
            self.plan.setup.segment_bytes,
            (self.shards, self.plan.setup.table_entries),
            self.clock,
            Random::new(self.plan.seed ^ self.step),
            &first,
            &|control| {
                let changes = control.policy() != policy;
                changes.then(|| ControlRecord::Policy(policy.clone())).into_iter().collect()
            },
        )
    }

    fn after_start(&mut self) -> Done {
        let server = self.server();
        let finished = std::mem::take(&mut server.finished);
        let (snapshot, left_aside) = (server.snapshot, std::mem::take(&mut server.left_aside));
        let control = server.control.machine().control();
        let state = format!(
            "     started: {} seals, chain {}, journals {}",
            control.seals().len(),
            control.chain_head(),
            control.journal_digest()
        );
        self.trace.say(&state);
        self.outcome.from_snapshots += u64::from(snapshot.is_some());
        self.outcome.left_aside += left_aside.len() as u64;
        if let Some(offset) = snapshot {
            self.trace.say(&format!("     from the snapshot at {offset}"));
        }
        for aside in left_aside {
            self.trace
                .say(&format!("     the snapshot at {} is left aside: {}", aside.usage_offset, aside.error));
        }
        if let Some((finished, shards)) = self.finished_snapshot
            && (shards, self.was_damaged) == (self.shards, false)
            && snapshot.is_none_or(|snapshot| snapshot < finished)
        {
            return Err(format!("the snapshot at {finished} was finished, and the start does without it"));
        }
        if snapshot.is_none() {
            // A start from the logs takes all runs away, and with them what snapshots name.
            self.finished_snapshot = None;
        }
        self.check_state()?;
        if let Some(done) = finished.cut {
            self.after_cut(&done)?;
        }
        if let Some(done) = finished.journals {
            self.trace.say(&format!("     journals finished: {}", done.entry.digest));
        }
        Ok(())
    }

    fn check_state(&mut self) -> Done {
        let server = self.server.as_mut().expect("a server runs");
        if let Err(stopped) = server.usage.settle().map_err(in_shard) {
            return self.die(&stopped);
        }
        self.take_said()?;
        if self.is_damaged
            && let Err(stopped) = self.ask_for_all()?
        {
            return self.die(&stopped);
        }
        let server = self.server.as_mut().expect("a server runs");
        self.auditor.check_state(&self.disk, &self.producers, &mut server.usage)
    }

    /// Asks shards for every event, which reads all runs.
    fn ask_for_all(&mut self) -> Result<Result<(), Stopped>, String> {
        let recount = self.auditor.recount(&self.disk, &self.producers, Until::End)?;
        let usage = &mut self.server.as_mut().expect("a server runs").usage;
        let mut names = recount.events.keys().map(|(source, id)| self.auditor.name_of(source, id));
        Ok(names.try_for_each(|name| usage.find(name).map(|_| ()).map_err(in_shard)))
    }

    /// A bit of a copy of the directory flips. Whoever starts on it is told, or finds the same state.
    fn flip(&mut self, salt: u64) -> Result<(), Halt> {
        let mut random = Random::new(salt);
        let copy = self.disk.copy();
        // A replay does without what is derived.
        let is_truth = |(name, bytes): &(String, usize)| *bytes > 0 && !is_derived(name);
        let files: Vec<(String, usize)> = copy.files().into_iter().filter(is_truth).collect();
        let (name, bytes) = files[random.below(files.len() as u64) as usize].clone();
        // Most of a file is room for more; half of all flips hit its start.
        let within = if random.chance(50) { bytes.min(16 << 10) } else { bytes };
        let (byte, bit) = (random.below(within as u64) as usize, random.below(8) as u8);
        let segment_bytes = self.plan.setup.segment_bytes;
        let digests = |disk: &SimulatedDisk| {
            let logs = logs_of(disk, segment_bytes);
            replay(&logs, 1, ReplayMode::Load).map(|replayed| {
                let shard = &replayed.replayer.shards[0];
                (replayed.events, replayed.summary, shard.counters().clone(), shard.remembered())
            })
        };
        let before = digests(&copy).map_err(|error| format!("a copy does not replay: {error}"))?;
        copy.flip(&name, byte, bit);
        match digests(&copy) {
            Err(error) => {
                self.outcome.refused_flips += 1;
                self.trace.say(&format!("     bit {bit} of byte {byte} of {name} flipped: {error}"));
                Ok(())
            }
            Ok(after) if after == before => Ok(()),
            // Of a log that was not closed, the end of the newest segment cannot be told from a torn commit.
            Ok(_) if self.is_in_last_block(&name, byte) => Ok(()),
            Ok(after) => {
                let what =
                    format!("bit {bit} of byte {byte} of {name} flipped, and nobody noticed: {after:?}");
                Err(Halt::Wrong(what))
            }
        }
    }

    /// Whether a byte lies in or behind the last block of a log.
    fn is_in_last_block(&self, name: &str, byte: usize) -> bool {
        let logs = logs_of(&self.disk, self.plan.setup.segment_bytes);
        let place = match name.split('/').next() {
            Some("control") => logs.control,
            Some("charges") => logs.charges,
            Some("journals") => logs.journals,
            _ => logs.usage,
        };
        last_block_of(&place).is_none_or(|(file, position)| name.ends_with(&file) && byte as u64 >= position)
    }

    /// Producers are satisfied, months end, everything is journaled, and all of it is audited once more.
    fn finish(&mut self) -> Done {
        self.trace.say("end");
        self.armed = None;
        self.disk.set_faults(Faults::default());
        if self.is_damaged {
            // Whatever is derived may be deleted while no server runs.
            self.server = None;
            for (name, _) in self.disk.files().iter().filter(|(name, _)| is_derived(name)) {
                self.disk.lose(name);
            }
            self.start()?;
        }
        let may_not_die = |halt: Halt| match halt {
            Halt::Wrong(what) => what,
            Halt::Died(stopped) => format!("the server stops by itself: {stopped}"),
        };
        for _ in 0..3 {
            self.step += 10;
            self.producers.send_again(self.step, false);
            self.deliver()?;
            let usage = &mut self.server().usage;
            while usage.has_incoming() {
                usage.work(8).map_err(|stopped| may_not_die(stopped.into()))?;
            }
            self.take_said()?;
        }
        if !self.producers.are_satisfied() {
            return Err("a producer waits for an ack for ever".to_string());
        }
        self.check_state()?;
        for days in [0, 45, 0] {
            let now = self.server().usage.present().plus(days * 24 * HOUR).min(hour(END + 50 * 24));
            self.server().usage.clock.now = now;
            self.cut(now).map_err(may_not_die)?;
        }
        for entity in ENTITIES {
            self.journals(entity).map_err(may_not_die)?;
        }
        self.check_state()?;
        self.auditor.books.check_posted()?;
        let logs = logs_of(&self.disk, self.plan.setup.segment_bytes);
        let control = self.server().control.machine().control();
        let (chain, journals) = (control.chain_head().to_string(), control.journal_digest().to_string());
        for shards in [1, 3, 8] {
            let replayed = replay(&logs, shards, ReplayMode::Derive);
            let summary =
                replayed.map_err(|error| format!("replay with {shards} shards: {}", all_of(&error)))?.summary;
            if (&summary.chain, &summary.journals) != (&chain, &journals) {
                return Err(format!("replay with {shards} shards gives {summary:?}"));
            }
        }
        // Once from a snapshot, once from the logs.
        self.restart(self.shards, None, true).map_err(may_not_die)?;
        let shards = 1 + self.shards % 8;
        self.restart(shards, None, false).map_err(may_not_die)?;
        for nth in 0..self.answered.len() {
            self.ask_again(nth).map_err(may_not_die)?;
        }
        self.trace.say(&format!("{chain} {journals}"));
        Ok(())
    }
}

fn is_derived(name: &str) -> bool {
    ["snapshots/", "runs/", "spilled/"].iter().any(|folder| name.starts_with(folder))
}

fn all_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// File and position of the last block of a log.
fn last_block_of(place: &machine::LogPlace) -> Option<(String, u64)> {
    let mut reader = engine::log::LogReader::open(&*place.storage, place.options, 0, None).ok()?;
    let mut last = None;
    while let Some(record) = reader.next().ok()? {
        last = Some(record.block_offset);
    }
    let last = last?;
    let bases = place.storage.list().ok()?.into_iter().filter_map(|name| {
        let base: u64 = name.strip_suffix(".seg")?.parse().ok()?;
        (base <= last).then_some((base, name))
    });
    let (base, name) = bases.max()?;
    Some((name, SEGMENT_HEADER_BYTES + last - base))
}

/// Bytes of a segment before its first block.
const SEGMENT_HEADER_BYTES: u64 = 4_096;

fn policy_of(limits: Limits) -> PolicyRecord {
    PolicyRecord {
        horizon: limits.horizon * HOUR,
        future_max: limits.future_max * HOUR,
        pending_per_slot_max: limits.pending_per_slot_max,
        grace: limits.grace * HOUR,
        correction_horizon: limits.correction * HOUR,
    }
}

fn faults_of(death: Death, after: u64, used: u64) -> Faults {
    match death {
        Death::Power | Death::Kill => Faults { stop_at: Some(after), ..Faults::default() },
        Death::WriteError(_) => Faults { fail_write: Some(after), ..Faults::default() },
        Death::SyncError(_) => Faults { fail_sync: Some(after), ..Faults::default() },
        Death::Full(left) => Faults { bytes_max: Some(used + left), ..Faults::default() },
    }
}

fn what_of(ask: &Ask, now: Timestamp) -> What {
    match ask {
        Ask::Void => What::Void,
        Ask::Release => What::Release,
        Ask::Discard => What::Discard,
        Ask::Amend(Amend { subject, when, halves, labels }) => What::Amend(Amended {
            subject: *subject,
            time: when.map(|when| when.instant(now)),
            value: halves.map(|(halves, flaw)| (value_of(halves, flaw), flaw)),
            labels: *labels,
        }),
    }
}
