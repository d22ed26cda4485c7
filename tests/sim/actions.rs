//! What may happen in a simulated world, as data: an action says all that it needs, so that any of them can be left out.
//!
//! Owns: the vocabulary, and how it reads. Leaves to others: choosing actions (`generate`), doing them (`play`).

use std::fmt;

use domain::Timestamp;

use crate::prices::PRICES;

pub(crate) const ZONES: [&str; 3] = ["America/New_York", "Europe/Berlin", "Asia/Kathmandu"];
pub(crate) const ENTITIES: [&str; 2] = ["e0", "e1"];
/// The last one has agreements (commitments, grants, discounts) and a plan with other models.
pub(crate) const ACCOUNTS: [&str; 4] = ["a0", "a1", "a2", "rich"];
pub(crate) const RICH: &str = "rich";
pub(crate) const SUBSCRIPTIONS: [&str; 5] = ["s0", "s1", "s2", "s3", "rich-s"];
pub(crate) const SUBJECTS: [&str; 6] = ["k0", "k1", "k2", "k3", "k4", "k5"];
pub(crate) const SOURCES: [&str; 3] = ["edge", "batch", "cell"];
pub(crate) const DIMENSION: &str = "model";
pub(crate) const GROUPS: [&str; 2] = ["large", "small"];
/// The dimension whose texts are keys, and the one that says whether they come or go.
pub(crate) const KEY: &str = "user";
pub(crate) const KEYS: [&str; 3] = ["ann", "bob", "cho"];
pub(crate) const OPERATION: &str = "op";
pub(crate) const OPERATIONS: [&str; 2] = ["add", "remove"];
/// Meters of any aggregation, as far as a world has them.
pub(crate) const MEASURED: [&str; 2] = ["m0", "m1"];

impl Labels {
    /// Names and texts.
    pub(crate) fn texts(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let all = [(DIMENSION, self.group), (KEY, self.key), (OPERATION, self.operation)];
        all.into_iter().filter_map(|(name, text)| Some((name, text?)))
    }
}

/// Whose subscription it is.
pub(crate) fn account_of(subscription: &str) -> &'static str {
    match subscription {
        "s0" | "s3" => "a0",
        "s1" => "a1",
        "s2" => "a2",
        _ => RICH,
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that it came from.
    pub seed: u64,
    /// How the world starts.
    pub setup: Setup,
    /// What happens in it.
    pub actions: Vec<Action>,
}

/// Limits of a directory; durations in hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Before it, events are too old.
    pub horizon: i64,
    /// Beyond it, events are in the future.
    pub future_max: i64,
    /// Waiting events of one source in one slot.
    pub pending_per_slot_max: u32,
    /// So long after they arrived events can be corrected.
    pub correction: i64,
    /// Time until a window is final.
    pub grace: i64,
}

/// What a meter makes of negative values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negative {
    /// Quarantines the event.
    Reject,
    /// Counts zero.
    Zero,
    /// Counts it.
    Signed,
}

impl Negative {
    /// As records say it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Negative::Reject => "reject",
            Negative::Zero => "zero",
            Negative::Signed => "signed",
        }
    }
}

/// A meter of any aggregation.
#[derive(Clone, Copy, Debug)]
pub struct MeasuredMeter {
    /// Fields of its record.
    pub measure: &'static str,
    /// What it lets through.
    pub filter: &'static str,
    /// Whether it groups.
    pub is_grouped: bool,
}

/// How a world starts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Number of shards.
    pub shards: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Whether given ids are of two slots only: there the limit of waiting events is reached.
    pub is_crowded: bool,
    /// Bytes that given ids have at least: with long ones a commit has more than one sector.
    pub id_bytes: usize,
    /// Ids that a shard remembers in memory.
    pub table_entries: usize,
    /// Limits.
    pub limits: Limits,
    /// Currency of all accounts.
    pub currency: &'static str,
    /// What the summing meter makes of negative values.
    pub negative: Negative,
    /// Zones of the entities.
    pub entity_zones: [&'static str; 2],
    /// Entity and zone of each account.
    pub accounts: [(usize, &'static str); 4],
    /// Whether the summing meter groups.
    pub sum_is_grouped: bool,
    /// Time between issuing cuts, in hours.
    pub cut_hours: i64,
    /// Meters of any aggregation that can be put.
    pub measured: Vec<MeasuredMeter>,
    /// Windows of the plain prices, by their place in `prices::PRICES`.
    pub units: [&'static str; PRICES.len()],
    /// What the windows of each subscription are counted from.
    pub anchors: [Option<Timestamp>; 5],
}

/// What is wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Its value has more fraction digits than the meter keeps.
    Fine,
    /// Its value does not fit the meter's range.
    Huge,
    /// Its subject is empty.
    NoSubject,
    /// The text of its dimension is too long.
    LongText,
}

/// When an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So many hours before it is sent.
    HoursAgo(i64),
    /// At an instant.
    At(Timestamp),
}

/// Dimensions of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// What meters group by.
    pub group: Option<&'static str>,
    /// Which key it is about.
    pub key: Option<&'static str>,
    /// Whether the key comes or goes.
    pub operation: Option<&'static str>,
}

/// An event to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent {
    /// Its subject.
    pub subject: &'static str,
    /// When it happened.
    pub when: When,
    /// Its value in halves of a unit, if it has one.
    pub halves: Option<i64>,
    /// Its dimensions.
    pub labels: Labels,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What the network does with a batch and its ack.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Copies that arrive; none if it is lost.
    pub copies: u8,
    /// Actions until it arrives.
    pub delay: u8,
    /// Whether the ack is lost.
    pub loses_ack: bool,
}

/// How an event is sent again.
#[derive(Clone, Copy, Debug)]
pub enum Again {
    /// As it was.
    Same,
    /// Its value written with more zeros.
    Rescaled,
    /// With a later time.
    HoursLater(i64),
    /// With another value.
    OtherValue,
}

/// Which event somebody means.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// One of all that were made.
    Made(u64),
    /// One of those that stand in quarantine.
    SetAside(u64),
    /// One of those that were corrected.
    Corrected(u64),
    /// One that nobody made.
    Nobodys,
}

/// What somebody wants to become of an event.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// It counts no more.
    Void,
    /// It counts with other content.
    Amend(Amend),
    /// It leaves quarantine.
    Release,
    /// It stays in quarantine.
    Discard,
}

/// What is to be different.
#[derive(Clone, Copy, Debug)]
pub struct Amend {
    /// Its subject; empty for one that no event may have.
    pub subject: Option<&'static str>,
    /// When it happened.
    pub when: Option<When>,
    /// Its value in halves of a unit, if it is to have one, and what is wrong with it.
    pub halves: Option<(Option<i64>, Flaw)>,
    /// Its dimensions.
    pub labels: Option<Labels>,
}

/// Whose usage is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// All.
    All,
    /// That of a subject.
    Subject(&'static str),
    /// That of a subscription's subjects while they are its own.
    Subscription(&'static str),
    /// That of an account's subscriptions.
    Account(&'static str),
}

/// What somebody asks of usage.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The meter.
    pub meter: &'static str,
    /// Whose usage.
    pub scope: Scope,
    /// From when on.
    pub from: Timestamp,
    /// For how many hours.
    pub hours: i64,
    /// Windows; the whole span is one if there is no unit.
    pub window: Option<&'static str>,
    /// Zone of the windows.
    pub zone: &'static str,
    /// What splits the answer.
    pub group_by: &'static [&'static str],
    /// A dimension and the text that it must have.
    pub filter: Option<(&'static str, &'static str)>,
    /// Whether windows without usage have rows.
    pub shows_empty: bool,
}

/// How a server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Power is lost.
    Power,
    /// The process is killed; the kernel keeps what was written.
    Kill,
    /// A write fails; then power is lost or not.
    WriteError(bool),
    /// A sync fails; then power is lost or not.
    SyncError(bool),
    /// The disk is full but for so many bytes.
    Full(u64),
}

/// What happens to a derived file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit of it flips.
    Flipped,
    /// It is cut off.
    Cut,
    /// It is gone.
    Missing,
    /// It holds what another one of its kind holds.
    Mistaken,
    /// Beside it comes one of a server that went on with a copy of the directory.
    Foreign,
    /// All that were ever put aside come back where they are missing; now all are put aside.
    Restored,
}

/// A tier of a price.
#[derive(Clone, Copy, Debug)]
pub struct Tier {
    /// Last half unit of the tier; the last tier has none.
    pub up_to: Option<i64>,
    /// 10^-4ths for `per` units.
    pub unit: i64,
    /// 10^-2ths.
    pub flat: i64,
}

/// One version of a price.
#[derive(Clone, Debug)]
pub struct Terms {
    /// When they take effect.
    pub from: Option<Timestamp>,
    /// A price without tiers has its amount in the first one.
    pub tiers: Vec<Tier>,
    /// Units that an amount is for.
    pub per: i64,
    /// Whether the first flat amount is owed without usage.
    pub flat_at_zero: Option<bool>,
}

/// A resource to be put.
#[derive(Clone, Debug)]
pub enum Resource {
    /// A meter that counts.
    CountMeter,
    /// A meter that counts events of one group.
    FilterMeter,
    /// A meter of any aggregation, by its place in `Setup::measured`.
    MeasuredMeter(usize),
    /// A version of a price, by its place in `prices::PRICES`.
    Price(usize, Terms),
    /// A version of a price of the rich plan.
    RichPrice(u8, i64),
    /// A subscription from an instant on, for some hours.
    Subscribe(&'static str, &'static str, Timestamp, Option<i64>),
    /// The newest record of a subscription with another end.
    End(&'static str, Timestamp),
    /// Seats, discount, minimum of the rich subscription.
    Amend(u8, bool, bool, Timestamp),
    /// A subject's subscription from an instant on, for some hours.
    Bind(&'static str, &'static str, Timestamp, Option<i64>),
    /// Another name for an account.
    Rename(&'static str, u8),
    /// A commitment of the rich account: number, amount, shape.
    Commit(u8, i64, &'static str),
    /// A grant to the rich account: number, amount, start, days, whether it was paid for.
    Grant(u8, i64, Timestamp, Option<i64>, bool),
    /// A discount of the rich account: whether it is a share, how much, in which month it starts, for how many.
    Discount(bool, i64, Timestamp, Option<u8>),
    /// Something that the catalog refuses.
    Nonsense(u8),
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum Action {
    /// Time passes.
    Pass {
        /// Seconds.
        seconds: i64,
    },
    /// The machine's clock is set back.
    SetBack {
        /// Seconds.
        seconds: i64,
    },
    /// A producer makes a batch and sends it.
    Produce {
        /// The producer.
        source: &'static str,
        /// Type of the events.
        event_type: &'static str,
        /// Whether ids are minted in sequence, by a new run of the producer or the old one.
        sequenced: Option<bool>,
        /// The events.
        events: Vec<NewEvent>,
        /// Whether the first one stands in the batch twice.
        is_first_twice: bool,
        /// What becomes of it on the network.
        way: Way,
    },
    /// A producer sends one event again, in a batch of its own.
    Resend {
        /// Which of all that were made.
        nth: u64,
        /// How.
        again: Again,
        /// What becomes of it on the network.
        way: Way,
    },
    /// The server commits what arrived, and shards do some of their work, in an order that the salt says.
    Work {
        /// Steps.
        steps: u32,
        /// Decides the order.
        salt: u64,
    },
    /// Resources are put, all or none.
    Put(Vec<Resource>),
    /// Cuts now.
    Cut,
    /// Cuts and makes journals if they are due.
    Due,
    /// Makes journals of an entity.
    Journals {
        /// The entity.
        entity: &'static str,
    },
    /// Billing acknowledges a batch.
    Ack {
        /// Which of the sealed ones.
        nth: u64,
        /// Whether with the digest of another history.
        is_forked: bool,
    },
    /// Segments of usage go to the archive.
    Archive {
        /// Hours since they were recorded, at least.
        hours: i64,
    },
    /// Ids of a share of the usage log are forgotten, in 256ths.
    Forget {
        /// How much.
        share: u8,
    },
    /// Somebody corrects an event.
    Correct {
        /// Which.
        target: Target,
        /// How.
        ask: Ask,
        /// Which of a few reasons.
        reason: u8,
        /// Whether the same is asked for again.
        is_twice: bool,
    },
    /// Somebody asks what a meter counted.
    Ask {
        /// What.
        question: Question,
        /// As of a share of the usage log, in 256ths; of all of it if there is none.
        share: Option<u8>,
        /// Asks again what was asked before of a position.
        is_again: bool,
    },
    /// The shards begin a snapshot, unless one is being made.
    Snapshot,
    /// Something happens to a file that is derived: a snapshot, or a run of remembered ids.
    Damage {
        /// What.
        damage: Damage,
        /// Decides which file, and where.
        salt: u64,
    },
    /// Somebody reads the directory beside the running server.
    Peek,
    /// The server stops cleanly and starts with other settings.
    Restart {
        /// Number of shards.
        shards: usize,
        /// Limits, if they change.
        limits: Option<Limits>,
        /// Whether a snapshot is made before it stops.
        is_saved: bool,
    },
    /// The server dies on its way, after so many operations of its disk, and starts again.
    Crash {
        /// Operations until then.
        after: u64,
        /// How.
        death: Death,
        /// Decides what was torn.
        salt: u64,
        /// The same again while it starts, after so many operations.
        again: Option<u64>,
        /// Number of shards when it starts.
        shards: usize,
    },
    /// A bit of a copy of the directory flips, and somebody starts on it.
    Flip {
        /// Decides which.
        salt: u64,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "  {:?}", self.setup)?;
        for (index, action) in self.actions.iter().enumerate() {
            writeln!(f, "  {:>3}  {action}", index + 1)?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Pass { seconds } => write!(f, "{} h pass", seconds / 3_600),
            Action::SetBack { seconds } => write!(f, "the clock is set back {seconds} s"),
            Action::Produce { source, event_type, sequenced, events, is_first_twice, way } => {
                let ids = match sequenced {
                    None => "",
                    Some(false) => " (sequenced)",
                    Some(true) => " (sequenced, new run)",
                };
                write!(f, "{source} sends {} {event_type} events{ids}{way}", events.len())?;
                if *is_first_twice {
                    f.write_str(", the first twice")?;
                }
                for event in events {
                    write!(f, "\n         {event}")?;
                }
                Ok(())
            }
            Action::Resend { nth, again, way } => write!(f, "event {nth} is sent again: {again:?}{way}"),
            Action::Work { steps, salt } => write!(f, "{steps} steps of work, order {salt:#x}"),
            Action::Put(resources) => {
                f.write_str("put")?;
                resources.iter().try_for_each(|resource| write!(f, " {resource:?}"))
            }
            Action::Cut => f.write_str("cut"),
            Action::Due => f.write_str("what is due"),
            Action::Journals { entity } => write!(f, "journals of {entity}"),
            Action::Ack { nth, is_forked } => {
                write!(f, "billing acks batch {nth}{}", if *is_forked { " of another history" } else { "" })
            }
            Action::Correct { target, ask, reason, is_twice } => {
                let twice = if *is_twice { ", twice" } else { "" };
                write!(f, "correct {target:?}: {ask:?}, for reason {reason}{twice}")
            }
            Action::Forget { share } => write!(f, "ids of {share}/256 of the usage are forgotten"),
            Action::Archive { hours } => write!(f, "usage of {hours} hours ago goes to the archive"),
            Action::Ask { question, share, is_again } => {
                write!(f, "ask {question:?}")?;
                share.map_or(Ok(()), |share| write!(f, " of {share}/256 of the usage"))?;
                if *is_again { f.write_str(", and again what was asked before") } else { Ok(()) }
            }
            Action::Snapshot => f.write_str("a snapshot begins"),
            Action::Damage { damage, salt } => write!(f, "a derived file is {damage:?}, salt {salt:#x}"),
            Action::Peek => f.write_str("somebody reads beside the server"),
            Action::Restart { shards, limits, is_saved } => {
                let saved = if *is_saved { "a snapshot and a " } else { "" };
                write!(f, "{saved}clean restart with {shards} shards")?;
                limits.map_or(Ok(()), |limits| write!(f, " and {limits:?}"))
            }
            Action::Crash { after, death, salt, again, shards } => {
                write!(f, "{death:?} after {after} operations, salt {salt:#x}")?;
                if let Some(again) = again {
                    write!(f, ", again {again} operations into the start")?;
                }
                write!(f, "; starts with {shards} shards")
            }
            Action::Flip { salt } => write!(f, "a bit flips, salt {salt:#x}"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copies {
            0 => f.write_str(", lost")?,
            1 => {}
            copies => write!(f, ", {copies} copies")?,
        }
        if self.delay > 0 {
            write!(f, ", {} actions late", self.delay)?;
        }
        if self.loses_ack { f.write_str(", ack lost") } else { Ok(()) }
    }
}

impl fmt::Display for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subject)?;
        match self.when {
            When::HoursAgo(hours) => write!(f, " {hours} h ago")?,
            When::At(time) => write!(f, " at {time}")?,
        }
        if let Some(halves) = self.halves {
            write!(f, ", {halves} halves")?;
        }
        let Labels { group, key, operation } = self.labels;
        for text in [group, key, operation].into_iter().flatten() {
            write!(f, ", {text}")?;
        }
        if self.flaw == Flaw::None { Ok(()) } else { write!(f, ", flaw {:?}", self.flaw) }
    }
}
