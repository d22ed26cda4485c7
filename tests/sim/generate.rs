//! A plan from a seed: only here are actions chosen.

use domain::time::HOUR;
use domain::{Period, Timestamp, Zone};

use crate::actions::{
    Action, Again, Amend, Ask, Damage, Death, ENTITIES, Flaw, GROUPS, Limits, Negative, NewEvent, Plan,
    Resource, SOURCES, SUBJECTS, SUBSCRIPTIONS, Setup, Target, Terms, Tier, Way, When, ZONES,
};
use crate::prices::{PRICES, hour};
use crate::random::Random;

/// Hours from the first instant of terms to the last.
const HOURS: i64 = 100 * 24;
const SHAPES: [&str; 5] = ["none", "roll_forward", "cumulative", "year_end", "prepaid_drawdown"];

pub(crate) fn plan_of(seed: u64) -> Plan {
    let mut random = Random::new(seed);
    let setup = setup(&mut random, seed % 5 == 3);
    let mut actions = vec![first_terms(&mut random)];
    let length = 20 + random.below(90);
    let faults = random.pick(&[0, 4, 10, 20]);
    // A snapshot is of so many shards: with others the logs are read.
    let steady = random.chance(60).then_some(setup.shards);
    for _ in 0..length {
        let action = action(&mut random, faults, steady);
        // In every other world nothing happens to derived files: there what was saved must be used.
        let is_left = matches!(action, Action::Damage { .. }) && seed % 2 == 1;
        actions.push(if is_left { Action::Snapshot } else { action });
    }
    Plan { seed, setup, actions }
}

fn setup(random: &mut Random, is_crowded: bool) -> Setup {
    Setup {
        shards: shards(random),
        segment_bytes: random.pick(&[24 << 10, 64 << 10, 256 << 10]),
        is_crowded,
        id_bytes: random.pick(&[1, 1, 250]),
        table_entries: random.pick(&[3, 3, 6, 6, 20, 1_000]),
        limits: limits(random),
        currency: random.pick(&["USD", "JPY", "KWD"]),
        negative: random.pick(&[Negative::Reject, Negative::Zero, Negative::Signed, Negative::Signed]),
        entity_zones: [random.pick(&ZONES), random.pick(&ZONES)],
        accounts: [(); 4].map(|()| (random.below(2) as usize, random.pick(&ZONES))),
        sum_is_grouped: random.chance(50),
        cut_hours: random.pick(&[1, 24, 24 * 7]),
    }
}

fn shards(random: &mut Random) -> usize {
    random.pick(&[1, 1, 2, 2, 3, 4, 5, 8])
}

fn limits(random: &mut Random) -> Limits {
    Limits {
        horizon: random.pick(&[35 * 24, 35 * 24, 120 * 24]),
        future_max: random.pick(&[1, 72, 40 * 24]),
        pending_per_slot_max: random.pick(&[1, 2, 1_000, 1_000]),
        correction: random.pick(&[120 * 24, 400 * 24, 400 * 24]),
        grace: random.pick(&[0, 2 * 24, 5 * 24, 40 * 24]),
    }
}

/// Prices, two subscriptions and their subjects, so that most worlds have something to charge.
fn first_terms(random: &mut Random) -> Action {
    let mut resources = Vec::new();
    for price in 0..PRICES.len() {
        if random.chance(90) {
            let mut terms = terms(random);
            if random.chance(80) {
                terms.from = None;
            }
            resources.push(Resource::Price(price, terms));
        }
    }
    if random.chance(50) {
        resources.push(Resource::CountMeter);
    }
    for number in 0..2 {
        let from = moment(random);
        resources.push(Resource::Subscribe(SUBSCRIPTIONS[number], plan(random), from, None));
        resources.push(Resource::Bind(SUBJECTS[number], SUBSCRIPTIONS[number], from, None));
    }
    Action::Put(resources)
}

fn plan(random: &mut Random) -> &'static str {
    random.pick(&["p0", "p1"])
}

/// Any hour, or the first or last instant of a month in one of the zones.
fn moment(random: &mut Random) -> Timestamp {
    if random.chance(67) {
        return hour(random.range(0, HOURS));
    }
    let period = Period::parse(&format!("2026-{:02}", random.range(1, 5))).expect("a month");
    let zone = Zone::new(random.pick(&ZONES)).expect("a zone");
    zone.month(period).from.plus(random.range(-1, 1))
}

fn terms(random: &mut Random) -> Terms {
    let count = random.range(1, 4);
    let mut low = 0;
    let mut tiers = Vec::new();
    for index in 0..count {
        low += random.range(1, 60);
        let unit = if random.chance(25) { 0 } else { random.range(1, 2_000) };
        let flat = if random.chance(50) { 0 } else { random.range(1, 900) };
        tiers.push(Tier { up_to: (index + 1 < count).then_some(low), unit, flat });
    }
    let from = random.chance(70).then(|| moment(random));
    let flat_at_zero = random.chance(50).then(|| random.chance(50));
    Terms { from, tiers, per: random.pick(&[1, 10, 100, 1_000]), flat_at_zero }
}

fn way(random: &mut Random) -> Way {
    Way {
        copies: random.pick(&[1, 1, 1, 1, 1, 1, 0, 2]),
        delay: if random.chance(70) { 0 } else { random.below(6) as u8 },
        loses_ack: random.chance(10),
    }
}

fn when(random: &mut Random) -> When {
    match random.below(12) {
        0 => When::HoursAgo(random.range(-50 * 24, 130 * 24)),
        1 | 2 => When::At(moment(random)),
        // Before the years that events may have.
        3 if random.chance(20) => When::HoursAgo(24 * 366 * 30),
        _ => When::HoursAgo(random.range(-2, 34 * 24)),
    }
}

fn halves(random: &mut Random) -> Option<i64> {
    match random.below(15) {
        0 => None,
        1 | 2 => Some(random.range(-30, 0)),
        _ => Some(random.range(0, 80)),
    }
}

fn group(random: &mut Random) -> Option<&'static str> {
    random.chance(66).then(|| random.pick(&GROUPS))
}

fn event(random: &mut Random) -> NewEvent {
    let (when, halves) = (when(random), halves(random));
    let flaw = match random.below(60) {
        0 => Flaw::Fine,
        1 => Flaw::Huge,
        2 => Flaw::NoSubject,
        3 => Flaw::LongText,
        _ => Flaw::None,
    };
    let group = group(random);
    NewEvent { subject: random.pick(&SUBJECTS), when, halves, group, flaw }
}

fn amend(random: &mut Random) -> Amend {
    let subject = random.chance(40).then(|| if random.chance(5) { "" } else { random.pick(&SUBJECTS) });
    let flaw = match random.below(20) {
        0 => Flaw::Fine,
        1 => Flaw::Huge,
        _ => Flaw::None,
    };
    Amend {
        subject,
        when: random.chance(30).then(|| when(random)),
        halves: random.chance(50).then(|| (halves(random), flaw)),
        group: random.chance(30).then(|| group(random)),
    }
}

fn correct(random: &mut Random) -> Action {
    let nth = random.below(1 << 20);
    let target = match random.below(20) {
        0 => Target::Nobodys,
        1..=4 => Target::SetAside(nth),
        5..=9 => Target::Corrected(nth),
        _ => Target::Made(nth),
    };
    let ask = match (random.below(10), target) {
        (0..=5, Target::SetAside(_)) | (0, _) => random.pick(&[Ask::Release, Ask::Release, Ask::Discard]),
        (1..=3, _) => Ask::Void,
        _ => Ask::Amend(amend(random)),
    };
    Action::Correct { target, ask, reason: random.below(3) as u8, is_twice: random.chance(15) }
}

fn produce(random: &mut Random) -> Action {
    let source = random.pick(&SOURCES);
    let count = random.range(1, 8);
    Action::Produce {
        source,
        event_type: if random.chance(90) { "call" } else { "login" },
        sequenced: (source == "cell").then(|| random.chance(15)),
        events: (0..count).map(|_| event(random)).collect(),
        is_first_twice: random.chance(20),
        way: way(random),
    }
}

fn resource(random: &mut Random) -> Resource {
    let hours = |random: &mut Random| random.chance(30).then(|| random.range(1, 1_000));
    match random.below(24) {
        0 => Resource::CountMeter,
        1 => Resource::FilterMeter,
        2..=5 => Resource::Price(random.below(PRICES.len() as u64) as usize, terms(random)),
        6 => Resource::RichPrice(random.below(4) as u8, random.range(1, 9)),
        7..=9 => {
            let subscription = random.pick(&SUBSCRIPTIONS[..4]);
            Resource::Subscribe(subscription, plan(random), moment(random), hours(random))
        }
        10 | 11 => Resource::End(random.pick(&SUBSCRIPTIONS[..4]), moment(random)),
        12 | 13 => {
            Resource::Amend(random.below(4) as u8, random.chance(50), random.chance(50), moment(random))
        }
        14..=18 => {
            let subscription = random.pick(&SUBSCRIPTIONS);
            Resource::Bind(random.pick(&SUBJECTS[..5]), subscription, moment(random), hours(random))
        }
        19 => Resource::Rename(random.pick(&crate::actions::ACCOUNTS), random.below(3) as u8),
        20 => Resource::Commit(random.below(2) as u8, random.range(0, 9_000), random.pick(&SHAPES)),
        21 | 22 => {
            let days = random.chance(60).then(|| random.range(1, 60));
            let (number, amount) = (random.below(3) as u8, random.range(0, 300));
            let (from, is_paid) = (moment(random), random.chance(50));
            match number {
                2 => Resource::Discount(is_paid, amount, from, days.map(|days| 1 + days as u8 / 30)),
                number => Resource::Grant(number, amount, from, days, is_paid),
            }
        }
        _ => Resource::Nonsense(random.below(3) as u8),
    }
}

fn crash(random: &mut Random, steady: Option<usize>) -> Action {
    let death = match random.below(10) {
        0..=3 => Death::Power,
        4 | 5 => Death::Kill,
        6 => Death::WriteError(random.chance(50)),
        7 | 8 => Death::SyncError(random.chance(50)),
        _ => Death::Full(random.below(64 << 10)),
    };
    Action::Crash {
        after: 1 + random.below(24),
        death,
        salt: random.next() >> 20,
        again: random.chance(25).then(|| 1 + random.below(14)),
        shards: steady.unwrap_or_else(|| shards(random)),
    }
}

fn action(random: &mut Random, faults: u64, steady: Option<usize>) -> Action {
    if random.below(100) < faults {
        return crash(random, steady);
    }
    match random.below(74) {
        0..=8 => Action::Pass {
            seconds: match random.below(10) {
                0 => random.range(300, 1_500) * HOUR / domain::time::SECOND,
                1..=3 => random.range(48, 300) * 3_600,
                4 => random.range(1, 900),
                _ => random.range(1, 48) * 3_600,
            },
        },
        9 => Action::SetBack { seconds: random.range(1, 500) },
        10..=23 => produce(random),
        24..=27 => Action::Resend {
            nth: random.below(1 << 20),
            again: match random.below(4) {
                0 => Again::Same,
                1 => Again::Rescaled,
                2 => Again::HoursLater(random.range(1, 900)),
                _ => Again::OtherValue,
            },
            way: way(random),
        },
        28..=35 => Action::Work { steps: random.below(30) as u32, salt: random.next() >> 40 },
        36..=43 => {
            let count = if random.chance(80) { 1 } else { random.range(2, 5) };
            Action::Put((0..count).map(|_| resource(random)).collect())
        }
        44..=48 => Action::Cut,
        49..=51 => Action::Due,
        52 | 53 => Action::Journals { entity: random.pick(&ENTITIES) },
        54 | 55 => Action::Ack { nth: random.below(1 << 20), is_forked: random.chance(20) },
        56 => Action::Peek,
        57 | 58 => Action::Restart {
            shards: steady.unwrap_or_else(|| shards(random)),
            limits: random.chance(40).then(|| limits(random)),
            is_saved: random.chance(50),
        },
        59..=63 => correct(random),
        64 | 65 => Action::Forget { share: random.below(256) as u8 },
        66..=68 => Action::Snapshot,
        69 => Action::Archive { hours: random.pick(&[0, 0, 24, 24 * 31]) },
        70..=72 => Action::Damage {
            damage: random.pick(&[
                Damage::Flipped,
                Damage::Flipped,
                Damage::Cut,
                Damage::Missing,
                Damage::Missing,
                Damage::Mistaken,
                Damage::Foreign,
                Damage::Restored,
                Damage::Restored,
            ]),
            salt: random.next() >> 20,
        },
        _ => Action::Flip { salt: random.next() >> 20 },
    }
}
