//! What is said of an event: where it came, what it counts as, and which lines and journals it landed in.
//!
//! Owns: JSON and text of the answer. Leaves to others: what is in it (`super::story`).
//!
//! Invariants: whatever is not charged, sealed or posted has a word that says so and why.

use std::fmt;

use billing::charges::ChargeLine;
use domain::{EventPosition, Timestamp};
use engine::shard::{ArrivedAs, EventStanding, FoundEvent};
use serde_json::{Value, json};
use wire::control::{ControlRecord, RatingFailure};
use wire::correction::EventContent;
use wire::event::EventIdOwned;
use wire::verdict::QuarantineReason;

use super::arrivals::{EventArrival, Repeat};
use super::places::{EventPlace, Landing};
use super::{JournalEntry, place_json, shown};
use crate::corrections::RecordedCorrection;
use crate::usage_query::AsOf;

/// Where an event stands at a price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PriceState {
    /// Sealed lines count it.
    Charged,
    /// No cut has seen it, or all that changed about it, yet.
    WaitsForCut,
    /// The last cut could not rate its account.
    Unrated(RatingFailure),
    /// Its subscription is in its trial.
    Trial,
    /// No version of the price is in force in its slice: what is used is free.
    NotAgreed,
    /// No row of the price fits it, and it waits for one.
    SetAside,
    /// No row of the price fits it, and the account is not charged without one.
    RowMustMatch,
}

impl PriceState {
    /// The word in answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            PriceState::Charged => "charged",
            PriceState::WaitsForCut => "waits_for_cut",
            PriceState::Unrated(_) => "unrated",
            PriceState::Trial => "trial",
            PriceState::NotAgreed => "not_agreed",
            PriceState::SetAside => "set_aside",
            PriceState::RowMustMatch => "row_must_match",
        }
    }
}

impl fmt::Display for PriceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PriceState::Charged => f.write_str("charged"),
            PriceState::WaitsForCut => f.write_str("waits for the next cut"),
            PriceState::Unrated(failure) => write!(f, "not charged: the last cut could not rate {failure}"),
            PriceState::Trial => f.write_str("not charged: the subscription is in its trial"),
            PriceState::NotAgreed => {
                f.write_str("not charged: no version of the price is in force in its slice")
            }
            PriceState::SetAside => f.write_str("not charged: it fits no row of the price and waits for one"),
            PriceState::RowMustMatch => {
                f.write_str("not charged, with its account: it fits no row of the price")
            }
        }
    }
}

/// Where a charge line went in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posting {
    /// No journal run covers its batch yet.
    Waits,
    /// The run that covers it has no journal of its period and currency: nothing moved there.
    NothingMoved {
        /// Number of the first journal of the run.
        first_run: u64,
    },
    /// This journal sums it up.
    Journal(JournalEntry),
}

/// A sealed line that counts the event, or takes it back.
#[derive(Clone, Debug)]
pub struct LandedLine {
    /// Digest of its batch.
    pub digest: String,
    /// The cut that it came from.
    pub cut: u64,
    /// The instant of the cut.
    pub at: Timestamp,
    /// Whether the slice counts the event from this line on; otherwise no more.
    pub counts_event: bool,
    /// Where it went in the books.
    pub posting: Posting,
    /// The line.
    pub line: ChargeLine,
}

/// What became of an event.
#[derive(Clone, Debug)]
pub struct EventLineage {
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
    /// What it said when it first arrived.
    pub arrived: EventContent,
    /// What counts now; nothing if it was taken back.
    pub content: Option<EventContent>,
    /// Every time that it came, in log order.
    pub arrivals: Vec<EventArrival>,
    /// Arrivals beyond those that are listed.
    pub arrivals_left_out: u64,
    /// Its corrections, in order.
    pub corrections: Vec<RecordedCorrection>,
    /// Where it counts now.
    pub place: EventPlace,
    /// Where it stands, for every meter and price of `place`.
    pub states: Vec<Vec<PriceState>>,
    /// The sealed lines that count it or take it back, in order.
    pub lines: Vec<LandedLine>,
    /// The last of these lines, if there are more behind it.
    pub next: Option<(u64, u32)>,
}

impl EventLineage {
    /// The answer as JSON; `found` is what its shard says.
    pub fn to_json(&self, found: &FoundEvent, as_of: AsOf) -> Value {
        let FoundEvent { standing, arrived_as, counted_before, .. } = *found;
        let arrivals: Vec<Value> = self.arrivals.iter().map(|arrival| arrival.to_json(arrived_as)).collect();
        let counted_before =
            counted_before.map(|before| json!({ "offset": before.offset(), "index": before.index() }));
        let owner = self.place.owner.as_ref().map(|owner| {
            json!({
                "account": owner.account, "subscription": owner.subscription, "plan": owner.plan,
                "trial": owner.is_trial, "slice": owner.slice,
            })
        });
        let meters = self.place.meters.iter().zip(&self.states).map(|(meter, states)| {
            let prices = meter.prices.iter().zip(states).map(|((price, landing), state)| {
                let window = match landing {
                    Landing::Counts(key) => Some(key.window),
                    _ => None,
                };
                json!({
                    "price": price, "window": window, "state": state.as_str(), "detail": state.to_string(),
                })
            });
            json!({ "meter": meter.meter, "group": meter.group, "prices": prices.collect::<Vec<_>>() })
        });
        json!({
            "source": self.source, "id": self.id,
            "standing": standing.as_str(), "quarantined": reason_of(standing).map(QuarantineReason::as_str),
            "as_of": { "usage_offset": as_of.usage_offset, "control_offset": as_of.control_offset },
            "counted_before": counted_before, "arrived": self.arrived, "content": self.content,
            "arrivals": arrivals, "arrivals_left_out": self.arrivals_left_out,
            "corrections": self.corrections.iter().map(RecordedCorrection::to_json).collect::<Vec<_>>(),
            "owner": owner, "meters": meters.collect::<Vec<_>>(),
            "lines": self.lines.iter().map(LandedLine::to_json).collect::<Vec<_>>(),
            "next": place_json(self.next),
        })
    }

    /// The answer for a person.
    pub fn to_text(&self, found: &FoundEvent) -> String {
        let FoundEvent { standing, arrived_as, counted_before, .. } = *found;
        Told { lineage: self, standing, arrived_as, counted_before }.to_string()
    }
}

fn reason_of(standing: EventStanding) -> Option<QuarantineReason> {
    match standing {
        EventStanding::Quarantined(reason) => Some(reason),
        _ => None,
    }
}

impl EventArrival {
    /// The arrival as JSON.
    pub fn to_json(&self, arrived_as: ArrivedAs) -> Value {
        let (verdict, reason) = self.verdict(arrived_as);
        json!({
            "offset": self.position.offset(), "index": self.position.index(), "received_at": self.received_at,
            "recorded_at": self.recorded_at, "verdict": verdict, "reason": reason,
            "first": self.repeat == Repeat::First,
        })
    }

    fn verdict(&self, arrived_as: ArrivedAs) -> (&'static str, Option<&'static str>) {
        match self.repeat {
            Repeat::Not(verdict) => (verdict.as_str(), verdict.reason()),
            Repeat::Forgotten => ("forgotten", None),
            Repeat::First => match arrived_as {
                ArrivedAs::Accepted => ("accepted", None),
                ArrivedAs::Unmetered => ("unmetered", None),
                ArrivedAs::Quarantined => ("quarantined", None),
            },
        }
    }
}

impl LandedLine {
    fn to_json(&self) -> Value {
        let (state, journal) = match &self.posting {
            Posting::Waits => ("waits_for_journals", None),
            Posting::NothingMoved { .. } => ("nothing_moved", None),
            Posting::Journal(entry) => ("posted", Some(entry.to_json())),
        };
        json!({
            "digest": self.digest, "cut": self.cut, "at": self.at, "counts_event": self.counts_event,
            "charge": self.line, "posting": state, "journal": journal,
        })
    }
}

impl RecordedCorrection {
    /// The correction as JSON.
    pub fn to_json(&self) -> Value {
        let (correction, actor, reason, content) = match &self.record {
            ControlRecord::EventVoid(taken) => ("void", &taken.actor, &taken.reason, None),
            ControlRecord::EventDiscard(taken) => ("discard", &taken.actor, &taken.reason, None),
            ControlRecord::EventAmend(restated) => {
                ("amend", &restated.actor, &restated.reason, Some(&restated.content))
            }
            ControlRecord::EventRelease(restated) => ("release", &restated.actor, &restated.reason, None),
            _ => unreachable!("the record corrects an event"),
        };
        json!({
            "correction": correction, "control_offset": self.control_offset, "actor": actor, "reason": reason,
            "content": content,
        })
    }
}

/// The answer on its way to a person.
struct Told<'a> {
    lineage: &'a EventLineage,
    standing: EventStanding,
    arrived_as: ArrivedAs,
    counted_before: Option<EventPosition>,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lineage = self.lineage;
        writeln!(f, "event {} of {}", shown(&lineage.id), shown(&lineage.source))?;
        writeln!(f, "    {}", self.standing_in_words())?;
        if let Some(before) = self.counted_before {
            let (offset, index) = (before.offset(), before.index());
            writeln!(
                f,
                "    an earlier event with its id counts, at {offset}.{index}: the id was forgotten between them"
            )?;
        }
        match &lineage.content {
            Some(content) => write_content(f, "    ", content)?,
            None => write_content(f, "    it said: ", &lineage.arrived)?,
        }
        self.write_arrivals(f)?;
        self.write_corrections(f)?;
        self.write_place(f)?;
        self.write_lines(f)
    }
}

impl Told<'_> {
    fn standing_in_words(&self) -> String {
        match self.standing {
            EventStanding::Metered => "metered".to_string(),
            EventStanding::Unmetered => "unmetered: accepted, but no meter takes it".to_string(),
            EventStanding::Pending => {
                "pending: accepted, and nobody owns its subject at its time yet".to_string()
            }
            EventStanding::Quarantined(reason) => format!("quarantined: {reason}; it does not count"),
            EventStanding::Voided => "voided: it does not count".to_string(),
        }
    }

    fn write_arrivals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\narrived")?;
        for arrival in &self.lineage.arrivals {
            let (verdict, reason) = arrival.verdict(self.arrived_as);
            write!(f, "    {}.{}", arrival.position.offset(), arrival.position.index())?;
            write!(f, " · received {} · recorded {} · {verdict}", arrival.received_at, arrival.recorded_at)?;
            reason.iter().try_for_each(|reason| write!(f, ": {reason}"))?;
            writeln!(f)?;
        }
        match self.lineage.arrivals_left_out {
            0 => Ok(()),
            left_out => writeln!(f, "    and {left_out} more times"),
        }
    }

    fn write_corrections(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lineage.corrections.is_empty() {
            return Ok(());
        }
        writeln!(f, "\ncorrected")?;
        for recorded in &self.lineage.corrections {
            let said = recorded.to_json();
            let text = |name: &str| shown(said[name].as_str().unwrap_or_default());
            writeln!(
                f,
                "    control record {} · {} by {}: {}",
                recorded.control_offset,
                text("correction"),
                text("actor"),
                text("reason")
            )?;
        }
        Ok(())
    }

    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.lineage.place;
        match &place.owner {
            None => writeln!(f, "\nnobody owned its subject at its time")?,
            Some(owner) => {
                let trial = if owner.is_trial { ", in its trial" } else { "" };
                writeln!(f, "\nowned by account {}, subscription {}", owner.account, owner.subscription)?;
                writeln!(f, "    plan {}{trial}", owner.plan)?;
                writeln!(f, "    slice {} to {}", owner.slice.from, owner.slice.until)?;
            }
        }
        for (meter, states) in place.meters.iter().zip(&self.lineage.states) {
            write!(f, "meter {}", meter.meter)?;
            meter
                .group
                .iter()
                .try_for_each(|(name, text)| write!(f, " · {} {}", shown(name), shown(text)))?;
            writeln!(f)?;
            for ((price, _), state) in meter.prices.iter().zip(states) {
                writeln!(f, "    price {price}: {state}")?;
            }
            if meter.prices.is_empty() && place.owner.is_some() {
                writeln!(f, "    no price of the plan charges it")?;
            }
        }
        Ok(())
    }

    fn write_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lineage.lines.is_empty() {
            return writeln!(f, "\nno sealed charge line counts it");
        }
        writeln!(f, "\ncharge lines")?;
        for landed in &self.lineage.lines {
            let line = &landed.line;
            write!(f, "    batch {} line {}", line.batch, line.line)?;
            line.price.iter().try_for_each(|price| write!(f, " · {price} v{}", line.price_version))?;
            let counts = if landed.counts_event { "counts the event" } else { "takes the event back" };
            writeln!(f, " · {} {} · {counts}", line.rounded, line.currency)?;
            writeln!(f, "        window {} to {}", line.window.from, line.window.until)?;
            writeln!(f, "        slice {} to {}", line.slice.from, line.slice.until)?;
            writeln!(f, "        batch digest {}", landed.digest)?;
            write_posting(f, &landed.posting)?;
        }
        match self.lineage.next {
            Some((batch, line)) => writeln!(f, "more: --after {batch}.{line}"),
            None => Ok(()),
        }
    }
}

fn write_content(f: &mut fmt::Formatter<'_>, before: &str, content: &EventContent) -> fmt::Result {
    write!(
        f,
        "{before}{} · subject {} · {}",
        shown(&content.event_type),
        shown(&content.subject),
        content.time
    )?;
    content.values.iter().try_for_each(|(name, value)| write!(f, " · {} {value}", shown(name)))?;
    content.dimensions.iter().try_for_each(|(name, text)| write!(f, " · {} {}", shown(name), shown(text)))?;
    writeln!(f)
}

fn write_posting(f: &mut fmt::Formatter<'_>, posting: &Posting) -> fmt::Result {
    match posting {
        Posting::Waits => writeln!(f, "        waits for the next journals"),
        Posting::NothingMoved { first_run } => {
            writeln!(f, "        journal run {first_run}: nothing moved in its period")
        }
        Posting::Journal(entry) => {
            writeln!(f, "        journal {} · posted {}", entry.external_id, entry.posted_on)?;
            for line in &entry.lines {
                writeln!(
                    f,
                    "            {:<24} debit {} credit {}",
                    line.ledger_account, line.debit, line.credit
                )?;
            }
            Ok(())
        }
    }
}

/// What is said of an event that no shard knows: it was refused whenever it came, or its id was forgotten.
pub fn unknown_to_json(source: &str, id: &EventIdOwned, arrivals: &[EventArrival], left_out: u64) -> Value {
    let arrivals: Vec<Value> =
        arrivals.iter().map(|arrival| arrival.to_json(ArrivedAs::Quarantined)).collect();
    json!({
        "source": source, "id": id.to_string(), "standing": null, "arrivals": arrivals, "arrivals_left_out": left_out,
    })
}

/// The same for a person.
pub fn unknown_to_text(source: &str, id: &EventIdOwned, arrivals: &[EventArrival], left_out: u64) -> String {
    let mut text =
        format!("event {} of {}\n    never counted\n\narrived\n", shown(&id.to_string()), shown(source));
    for arrival in arrivals {
        let (verdict, reason) = arrival.verdict(ArrivedAs::Quarantined);
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let (offset, index) = (arrival.position.offset(), arrival.position.index());
        text.push_str(&format!(
            "    {offset}.{index} · received {} · {verdict}{reason}\n",
            arrival.received_at
        ));
    }
    if left_out > 0 {
        text.push_str(&format!("    and {left_out} more times\n"));
    }
    text
}
