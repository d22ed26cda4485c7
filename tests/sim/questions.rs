//! Usage queries: what people ask of usage, and what they must be answered.
//!
//! Owns: the question of an action, and its answer by a recount. Leaves to others: which events count as of a position
//! (`recount`), what they come to (`measures`), whose they are (`prices`), asking the server (`server`).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::rc::Rc;

use domain::time::{HOUR, WindowUnit};
use domain::{AccountId, MeterId, Span, Subject, SubscriptionId, Zone};
use machine::usage_query::{GroupKey, Question as Asked, UsageAnswer, UsageScope};

use crate::actions::{DIMENSION, KEY, OPERATION, Question, Scope};
use crate::measures::Used;
use crate::prices::windows;
use crate::recount::{Counted, Recount};

/// A row: first instant and end of its window, group, value, events.
type Row = (Span, Vec<Option<String>>, Option<String>, usize);

/// An answer in words: rows and events, or the name of the broken rule.
pub(crate) type Answer = Result<String, &'static str>;

impl Question {
    fn span(&self) -> Span {
        Span::new(self.from, self.from.plus(self.hours * HOUR))
    }

    /// The question as the program takes it.
    pub(crate) fn asked(&self) -> Asked {
        let scope = match self.scope {
            Scope::All => UsageScope::All,
            Scope::Subject(subject) => {
                UsageScope::Subjects(BTreeSet::from([Subject::new(subject).expect("a subject")]))
            }
            Scope::Subscription(id) => UsageScope::Subscription(SubscriptionId::new(id).expect("an id")),
            Scope::Account(id) => UsageScope::Account(AccountId::new(id).expect("an id")),
        };
        let texts = |(name, text): (&str, &str)| (name.to_string(), BTreeSet::from([text.to_string()]));
        Asked {
            meter: MeterId::new(self.meter).expect("an id"),
            scope,
            span: self.span(),
            window: self.window.map(|unit| match unit {
                "day" => WindowUnit::Day,
                "week" => WindowUnit::Week,
                _ => WindowUnit::Month,
            }),
            zone: Zone::new(self.zone).expect("a zone"),
            group_by: self.group_by.iter().map(|name| GroupKey::parse(name)).collect(),
            filter: self.filter.map(texts).into_iter().collect(),
            shows_empty: self.shows_empty,
        }
    }

    /// The answer, from single events.
    pub(crate) fn answer(&self, recount: &Recount) -> Answer {
        let known = &recount.known;
        let meter = known.meter(self.meter).ok_or("meter_must_exist")?;
        if meter.measure.is_level() {
            return Err("meter_must_not_be_level");
        }
        known.check_scope(self.scope)?;
        let span = self.span();
        let is_meant = |event: &Counted<'_>| {
            let sent = event.sent;
            let owner = || known.owner_at(sent.subject, sent.time).map(|(subscription, _)| subscription);
            let is_theirs = match self.scope {
                Scope::All => true,
                Scope::Subject(subject) => sent.subject == subject,
                Scope::Subscription(subscription) => owner() == Some(subscription),
                Scope::Account(account) => owner().is_some_and(|owner| known.account_of(owner) == account),
            };
            let passes = self.filter.is_none_or(|(name, text)| text_of(event, name) == Some(text));
            is_theirs && passes && span.contains(sent.time) && event.meters.contains(&meter.id)
        };
        let mut events: Vec<Counted<'_>> = recount.counted().into_iter().filter(is_meant).collect();
        events.sort_by_key(|event| (event.sent.time, event.place));
        let groups: BTreeSet<Vec<Option<&str>>> = match self.group_by {
            [] => BTreeSet::from([Vec::new()]),
            _ => events.iter().map(|event| self.group_of(event)).collect(),
        };
        let mut rows = Vec::new();
        for window in self.windows().iter().filter(|window| window.overlaps(span)) {
            let window = Span::new(window.from.max(span.from), window.until.min(span.until));
            for group in &groups {
                let inside: Vec<Used> = events
                    .iter()
                    .filter(|event| window.contains(event.sent.time) && self.group_of(event) == *group)
                    .map(|event| event.used_of(meter))
                    .collect();
                let is_whole = self.group_by.is_empty() && self.window.is_none();
                if inside.is_empty() && !self.shows_empty && !is_whole {
                    continue;
                }
                let value = meter.measure.of_events(&inside, window.from).map(|value| value.to_string());
                let group = group.iter().map(|text| text.map(str::to_string)).collect();
                rows.push((window, group, value, inside.len()));
            }
        }
        let digest = events.iter().fold(0u128, |digest, event| digest.wrapping_add(event.identity));
        Ok(written(&rows, events.len() as u64, digest))
    }

    fn windows(&self) -> Rc<Vec<Span>> {
        match self.window {
            None => Rc::new(vec![self.span()]),
            Some(unit) => windows(&Zone::new(self.zone).expect("a zone"), unit, None),
        }
    }

    fn group_of<'e>(&self, event: &Counted<'e>) -> Vec<Option<&'e str>> {
        self.group_by.iter().map(|name| text_of(event, name)).collect()
    }
}

fn text_of<'e>(event: &Counted<'e>, name: &str) -> Option<&'e str> {
    let sent = event.sent;
    match name {
        "subject" => Some(sent.subject),
        "source" => Some(sent.source),
        DIMENSION => sent.labels.group,
        KEY => sent.labels.key,
        OPERATION => sent.labels.operation,
        other => panic!("no event has {other}"),
    }
}

/// An answer of the program in the same words.
pub(crate) fn written_answer(answer: &UsageAnswer) -> String {
    let row = |row: &machine::usage_query::UsageRow| -> Row {
        let group = row.group.iter().map(|text| text.as_deref().map(str::to_string)).collect();
        (row.window, group, row.value.map(|value| value.to_string()), row.event_count as usize)
    };
    let rows: Vec<Row> = answer.rows.iter().map(row).collect();
    written(&rows, answer.event_count, answer.event_digest)
}

fn written(rows: &[Row], events: u64, digest: u128) -> String {
    let mut text = format!("{events} events {digest:032x}");
    for (window, group, value, count) in rows {
        let value = value.as_deref().unwrap_or("nothing");
        let _ = write!(text, "; {} to {} {group:?}: {value} of {count}", window.from, window.until);
    }
    text
}

/// A question that was asked of a position, and what was answered.
pub(crate) struct Answered {
    pub(crate) question: Question,
    pub(crate) before: u64,
    pub(crate) answer: Answer,
}

impl Answered {
    /// The same question again must have the same answer.
    pub(crate) fn check(&self, again: &Answer) -> Result<(), String> {
        if *again == self.answer {
            return Ok(());
        }
        let Self { question, before, answer } = self;
        Err(format!("{question:?} of position {before} was answered {answer:?}, and is {again:?} now"))
    }
}
