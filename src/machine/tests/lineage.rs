//! Both ways of lineage over a whole history: every event forward, every line and journal back, and each way against the
//! other.

use std::collections::{BTreeMap, BTreeSet};

use billing::charges::Component;
use billing::ledger::Journal;
use domain::EventPosition;
use engine::shard::EventStanding;
use wire::event::EventIdOwned;
use wire::verdict::Verdict;

use super::world::World;
use crate::Batch;
use crate::lineage::{JournalCharges, LinePage, Posting, PriceState, Repeat, UnderLine};

/// A line by its batch and number.
type LineName = (u64, u32);

/// Every accepted event that a meter takes is named by lines under which it is found again, and by no others; lines count
/// the sets that they say; journals have the lines that name them. `is_settled`: everything was cut and posted.
pub(super) fn check(world: &mut World, is_settled: bool) {
    let batches: Vec<Batch> = world.sealed_batches();
    let under = events_under(world, &batches);
    let mut forward: BTreeMap<LineName, BTreeSet<EventPosition>> = BTreeMap::new();
    let mut posted: BTreeMap<LineName, String> = BTreeMap::new();
    let mut followed: BTreeSet<EventPosition> = BTreeSet::new();
    for (source, id) in world.event_names() {
        let id: EventIdOwned = id.parse().unwrap();
        let Some((found, lineage)) = world.lineage(&source, &id, LinePage::default()) else { continue };
        followed.insert(found.position);
        let is_metered = found.standing == EventStanding::Metered;
        let states: Vec<&PriceState> = lineage.states.iter().flatten().collect();
        assert_eq!(is_metered || found.standing == EventStanding::Pending, !lineage.states.is_empty());
        if is_settled && is_metered {
            let waits = states.iter().find(|state| ***state == PriceState::WaitsForCut);
            assert_eq!(waits, None, "{source} {id}: all was cut");
        }
        for arrival in &lineage.arrivals {
            let code = world.verdict_code(arrival.position);
            match arrival.repeat {
                Repeat::First => assert_eq!(arrival.position, found.position),
                Repeat::Not(verdict) => {
                    // A repeat of what was set aside is told so.
                    let told = Verdict::from_code(code).expect("an event has a verdict");
                    let is_told_why = matches!(told, Verdict::Quarantined(_)) && verdict != Verdict::Conflict;
                    assert!(told == verdict || is_told_why, "{source} {id}: {told}, not {verdict}");
                }
                Repeat::Forgotten => assert!(arrival.position < found.position),
            }
        }
        for landed in &lineage.lines {
            let name = (landed.line.batch, landed.line.line);
            let is_under = under[&name].contains(&found.position);
            assert_eq!(landed.counts_event, is_under, "{source} {id} and line {name:?}");
            if landed.counts_event {
                forward.entry(name).or_default().insert(found.position);
            }
            match &landed.posting {
                Posting::Journal(entry) => drop(posted.insert(name, entry.external_id.clone())),
                Posting::NothingMoved { .. } => {}
                Posting::Waits => assert!(!is_settled, "line {name:?}: all was posted"),
            }
        }
        check_pages(world, &source, &id, lineage.lines.len());
    }
    for (name, events) in &under {
        let named = forward.get(name).cloned().unwrap_or_default();
        // Of events with one id, which was forgotten between them, the last is followed.
        let events: BTreeSet<EventPosition> = events.intersection(&followed).copied().collect();
        assert_eq!(named, events, "the events under line {name:?} name it");
    }
    check_journals(world, &batches, &posted);
}

/// The events that charge lines of usage count, each set against what its line says.
fn events_under(world: &World, batches: &[Batch]) -> BTreeMap<LineName, BTreeSet<EventPosition>> {
    let mut under = BTreeMap::new();
    for batch in batches {
        for line in batch.lines.iter().filter(|line| line.component == Component::Charge) {
            let found: UnderLine = world.under(batch, line, None, usize::MAX);
            assert_eq!(found.is_whole(), Some(true), "{line:?}");
            let positions: BTreeSet<EventPosition> =
                found.events.iter().map(|event| event.position).collect();
            assert_eq!(positions.len() as u64, found.event_count, "prices of these histories have one meter");
            if positions.len() > 1 {
                let first = world.under(batch, line, None, 1);
                let after = first.events.last().map(|event| event.position);
                let rest = world.under(batch, line, after, positions.len() - 1);
                let pages = first.events.iter().chain(&rest.events).map(|event| event.position);
                assert_eq!(pages.collect::<BTreeSet<_>>(), positions);
                assert_eq!((first.has_more, rest.has_more), (true, false));
            }
            under.insert((line.batch, line.line), positions);
        }
    }
    under
}

fn check_pages(world: &mut World, source: &str, id: &EventIdOwned, lines: usize) {
    if lines < 2 {
        return;
    }
    let (_, first) = world.lineage(source, id, LinePage { after: None, limit: 1 }).unwrap();
    let rest = LinePage { after: first.next, limit: lines - 1 };
    let (_, rest) = world.lineage(source, id, rest).unwrap();
    assert_eq!((first.lines.len(), rest.lines.len(), rest.next), (1, lines - 1, None), "{source} {id}");
}

fn check_journals(world: &World, batches: &[Batch], posted: &BTreeMap<LineName, String>) {
    let mut back: BTreeMap<LineName, String> = BTreeMap::new();
    let journals: Vec<Journal> = world.sealed_journals();
    for journal in &journals {
        let accounts = journal.lines.iter().map(|line| Some(line.ledger_account));
        for account in accounts.chain([None]) {
            let mut charges = JournalCharges::new(journal.clone(), account, LinePage::default());
            let [first, last] = charges.batches();
            for batch in batches.iter().filter(|batch| (first..=last).contains(&batch.head.number)) {
                charges.take_batch(&batch.encode()).unwrap();
            }
            assert!(charges.is_whole(), "{journal:?} by {account:?}");
            let names = charges.lines().iter().map(|line| (line.batch, line.line));
            back.extend(names.map(|name| (name, journal.external_id.clone())));
        }
    }
    for (name, journal) in posted {
        assert_eq!(back.get(name), Some(journal), "line {name:?} is under the journal that it names");
    }
}
