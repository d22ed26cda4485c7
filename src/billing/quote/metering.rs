//! What an event measures: the catalog's meters, without an engine.
//!
//! Owns: filters, groups and values of single events. Leaves to others: counting them for good (`engine::shard`).
//!
//! Invariants: the same rules as the engine's, which a test of `machine` holds against each other. An event is atomic: if
//! one meter cannot take it, none does.

use std::collections::BTreeMap;
use std::fmt;

use domain::plan::Test;
use domain::{Decimal, Exact, GroupTexts, MeterId, Timestamp};

use super::usage::UsageEvent;
use crate::catalog::{Aggregation, FilterTest, Meter, NegativeUsage};

/// What one event adds to one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The meter.
    pub meter: MeterId,
    /// Texts of the dimensions that it groups by.
    pub group: GroupTexts,
    /// When it happened.
    pub time: Timestamp,
    /// How much.
    pub value: Exact,
}

/// Why an event does not count, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetAside {
    /// The meter does not add its events up one by one.
    MeasureMustBeQuoted,
    /// It has no value that the meter sums.
    MissingValue,
    /// The value is not a decimal.
    ValueMustBeDecimal,
    /// The value has more fraction digits than the meter keeps.
    ValueScale,
    /// The value has more digits than the meter counts with.
    ValueRange,
    /// The value is negative, and the meter refuses that.
    NegativeUsage,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SetAside::MeasureMustBeQuoted => {
                "its events are not added up one by one, as sum, count and each are; quote the quantity that it measures"
            }
            SetAside::MissingValue => "the value that it sums is missing",
            SetAside::ValueMustBeDecimal => "the value is not a decimal",
            SetAside::ValueScale => "more fraction digits than its scale; a count has none",
            SetAside::ValueRange => "more digits than it counts with; lower its scale",
            SetAside::NegativeUsage => "a negative value, and its negative_usage is reject",
        })
    }
}

/// What a usage file measures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    /// What counts, in order of time.
    pub uses: Vec<Use>,
    /// Events in the file.
    pub events: usize,
    /// Events whose id came before.
    pub duplicates: usize,
    /// Events that no meter takes.
    pub unmetered: usize,
    /// Lines of events that do not count, by reason.
    pub set_aside: BTreeMap<SetAside, Vec<usize>>,
}

/// Meters events. An event with an id counts once for each source, as in a server.
pub fn meter(meters: &[&Meter], events: &[UsageEvent]) -> Metered {
    let mut metered = Metered { events: events.len(), ..Metered::default() };
    let mut known = std::collections::BTreeSet::new();
    for event in events {
        if event.id.is_some() && !known.insert((event.source.as_deref(), event.id.as_deref())) {
            metered.duplicates += 1;
            continue;
        }
        match uses_of(meters, event) {
            Ok(uses) if uses.is_empty() => metered.unmetered += 1,
            Ok(uses) => metered.uses.extend(uses),
            Err(reason) => metered.set_aside.entry(reason).or_default().push(event.line),
        }
    }
    // Stable: events of one instant keep their order.
    metered.uses.sort_by_key(|one| one.time);
    metered
}

/// What one event adds to the meters.
///
/// # Errors
/// The reason for which the first meter, in order, cannot take the event.
fn uses_of(meters: &[&Meter], event: &UsageEvent) -> Result<Vec<Use>, SetAside> {
    let takes = |meter: &&&Meter| {
        let lets_through = |(name, test): (&String, &FilterTest)| {
            let passes = |test: &Test| {
                let value = event.values.get(name).filter(|_| test.is_of_values());
                match (event.dimensions.get(name), value.map(|text| Decimal::parse(text))) {
                    (None, Some(Ok(value))) => test.admits(value),
                    (text, _) => test.passes(text.map(String::as_str)),
                }
            };
            test.tests().iter().all(passes)
        };
        meter.event_type == event.event_type && meter.filter.iter().all(lets_through)
    };
    let use_of = |meter: &&Meter| {
        if !matches!(meter.aggregation, Aggregation::Sum | Aggregation::Count | Aggregation::Each) {
            return Err(SetAside::MeasureMustBeQuoted);
        }
        let value = match &meter.value {
            None => Decimal::ONE,
            Some(name) => {
                let text = event.values.get(name).ok_or(SetAside::MissingValue)?;
                Decimal::parse(text).map_err(|_| SetAside::ValueMustBeDecimal)?
            }
        };
        let texts = meter.group_by.iter();
        let group = texts.filter_map(|name| Some((name.clone(), event.dimensions.get(name)?.clone())));
        let (group, value) = (group.collect(), admitted(meter, value)?);
        Ok(Use { meter: meter.id.clone(), group, time: event.time, value })
    };
    meters.iter().filter(takes).map(use_of).collect()
}

/// A value as the meter counts it.
///
/// # Errors
/// The first broken rule, in the order in which [`SetAside`] declares them.
pub(super) fn admitted(meter: &Meter, value: Decimal) -> Result<Exact, SetAside> {
    let scale = meter.measured_scale();
    let value = value.normalize();
    if value.scale() > scale {
        return Err(SetAside::ValueScale);
    }
    if value.mantissa().checked_mul(10i128.pow(u32::from(scale - value.scale()))).is_none() {
        return Err(SetAside::ValueRange);
    }
    match meter.negative_usage {
        NegativeUsage::Reject if value.is_negative() => Err(SetAside::NegativeUsage),
        NegativeUsage::Zero if value.is_negative() => Ok(Exact::ZERO),
        _ => Ok(value.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogFile;
    use crate::catalog::Resource;

    fn meters(text: &str) -> Vec<Meter> {
        let file = CatalogFile::parse(&format!("catalog = 1\n{text}")).unwrap();
        file.resources()
            .into_iter()
            .filter_map(|resource| match resource {
                Resource::Meter(meter) => Some(meter),
                _ => None,
            })
            .collect()
    }

    const METERS: &str = r#"
        [[meter]]
        id = "calls"
        event_type = "call"
        aggregation = "count"
        [[meter]]
        id = "seconds"
        event_type = "call"
        aggregation = "sum"
        value = "seconds"
        scale = 1
        group_by = ["region", "tier"]
        filter = { kind = ["chat", "voice"] }
        [[meter]]
        id = "refunds"
        event_type = "refund"
        aggregation = "sum"
        value = "amount"
        negative_usage = "signed"
        [[meter]]
        id = "kept"
        event_type = "kept"
        aggregation = "sum"
        value = "amount"
        negative_usage = "zero"
    "#;

    #[test]
    fn each_event_counts_as_its_meters_say_or_is_set_aside_whole() {
        let meters = meters(METERS);
        let meters: Vec<&Meter> = meters.iter().collect();
        for (event, expected) in [
            ("call,,,,", Ok("calls{}=1")),
            ("call,1.5,,chat,", Ok("calls{}=1 seconds{}=1.5")),
            ("call,1.50,eu,voice,", Ok("calls{}=1 seconds{region=eu}=1.5")),
            ("call,1.5,eu,text,", Ok("calls{}=1")),
            ("call,,eu,chat,", Err(SetAside::MissingValue)),
            ("call,soon,eu,chat,", Err(SetAside::ValueMustBeDecimal)),
            ("call,1.55,eu,chat,", Err(SetAside::ValueScale)),
            ("call,-1,eu,chat,", Err(SetAside::NegativeUsage)),
            ("call,99999999999999999999999999999999999999,eu,chat,", Err(SetAside::ValueRange)),
            ("refund,,,,-2.5", Ok("refunds{}=-2.5")),
            ("kept,,,,-2.5", Ok("kept{}=0")),
            ("other,1,eu,chat,1", Ok("")),
        ] {
            let file = format!("time,type,seconds,region,kind,amount\n2026-01-01T00:00:00Z,{event}");
            let events = crate::quote::usage::read(&file, None).unwrap();
            let text = |one: &Use| {
                let group: Vec<String> = one.group.iter().map(|(n, t)| format!("{n}={t}")).collect();
                format!("{}{{{}}}={}", one.meter, group.join(","), one.value)
            };
            let uses = uses_of(&meters, &events[0]);
            let found = uses.map(|uses| uses.iter().map(text).collect::<Vec<_>>().join(" "));
            assert_eq!(found, expected.map(str::to_string), "{event}");
        }
    }

    #[test]
    fn an_id_counts_once_for_each_source_and_nothing_vanishes() {
        let meters = meters(METERS);
        let meters: Vec<&Meter> = meters.iter().collect();
        let file = "id,source,time,type,seconds,kind\n\
                    a,s,2026-01-02T00:00:00Z,call,1,chat\n\
                    a,s,2026-01-02T00:00:00Z,call,1,chat\n\
                    a,t,2026-01-01T00:00:00Z,call,2,chat\n\
                    ,,2026-01-01T00:00:00Z,call,,chat\n\
                    ,,2026-01-01T00:00:00Z,mail,,\n";
        let metered = meter(&meters, &crate::quote::usage::read(file, None).unwrap());
        assert_eq!((metered.events, metered.duplicates, metered.unmetered), (5, 1, 1));
        assert_eq!(metered.set_aside, BTreeMap::from([(SetAside::MissingValue, vec![5])]));
        let seconds: Vec<String> = metered.uses.iter().map(|one| one.value.to_string()).collect();
        assert_eq!(seconds, ["1", "2", "1", "1"], "in order of time");
    }
}
