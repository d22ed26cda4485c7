//! A plan from a seed: only here are actions chosen.

use domain::time::HOUR;
use domain::{Period, Timestamp, Zone};

use crate::actions::{
    ACCOUNTS, Action, Again, Amend, Ask, Damage, Death, ENTITIES, Flaw, GROUPS, KEYS, Labels, Limits,
    MEASURED, MeasuredMeter, Negative, NewEvent, OPERATIONS, Plan, Question, Resource, SOURCES, SUBJECTS,
    SUBSCRIPTIONS, Scope, Setup, Target, Terms, Tier, Way, When, ZONES,
};
use crate::prices::{Kind, PRICES, hour};
use crate::random::Random;

/// Hours from the first instant of terms to the last.
const HOURS: i64 = 100 * 24;
/// Aggregations as records of meters say them.
const MEASURES: [&str; 14] = [
    r#"{"aggregation": "average", "value": "tokens"}"#,
    r#"{"aggregation": "min", "value": "tokens"}"#,
    r#"{"aggregation": "max", "value": "tokens"}"#,
    r#"{"aggregation": "latest", "value": "tokens"}"#,
    r#"{"aggregation": "unique", "key": "user"}"#,
    r#"{"aggregation": "unique", "key": "user", "operation": "op"}"#,
    r#"{"aggregation": "weighted_sum", "value": "tokens"}"#,
    r#"{"aggregation": "weighted_sum", "gauge": "levels", "value": "tokens"}"#,
    r#"{"aggregation": "weighted_sum", "key": "user", "operation": "op"}"#,
    r#"{"aggregation": "percentile", "percent": "95", "value": "tokens"}"#,
    r#"{"aggregation": "peak", "granule_seconds": 3600, "value": "tokens"}"#,
    r#"{"aggregation": "peak", "granule_seconds": 86400, "value": "tokens"}"#,
    r#"{"aggregation": "each", "value": "tokens"}"#,
    r#"{"aggregation": "sum", "value": "tokens"}"#,
];
/// Filters, the first of which lets everything through.
const FILTERS: [&str; 8] = [
    "{}",
    r#"{"model": ["large", "small"]}"#,
    r#"{"model": {"ne": "large"}}"#,
    r#"{"model": {"exists": true}, "op": {"exists": false}}"#,
    r#"{"user": {"prefix": "a"}}"#,
    r#"{"user": {"not_in": ["bob", "cho"]}, "model": "small"}"#,
    r#"{"tokens": {"gte": "3", "lt": "30"}}"#,
    r#"{"tokens": {"exists": true}}"#,
];
const SHAPES: [&str; 5] = ["none", "roll_forward", "cumulative", "year_end", "prepaid_drawdown"];

pub(crate) fn plan_of(seed: u64) -> Plan {
    let mut random = Random::new(seed);
    let setup = setup(&mut random, seed % 5 == 3);
    let mut actions = vec![first_terms(&mut random, &setup)];
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
        measured: measured(random),
        units: units(random),
        anchors: anchors(random),
    }
}

/// In most worlds all windows are months. In the others most prices of a meter have the same, so that one counts on from another;
/// days are rare, since a plan with them has the most slices.
fn units(random: &mut Random) -> [&'static str; PRICES.len()] {
    let mut units = ["month"; PRICES.len()];
    let all: &[&'static str] = match random.below(20) {
        0..=11 => return units,
        12 => &["day", "week", "month"],
        13 | 14 => &["week", "month", "quarter"],
        _ => &["month", "quarter", "quarter", "year"],
    };
    for meter in [Some("tokens"), Some("calls"), Some("m0"), Some("m1"), None] {
        let usual = random.pick(all);
        for (unit, (_, _, kind, of)) in units.iter_mut().zip(PRICES) {
            if of == meter {
                *unit = if random.chance(75) { usual } else { random.pick(all) };
                // A fee of each day is many lines and nothing new.
                if kind == Kind::Flat && *unit == "day" {
                    *unit = "month";
                }
            }
        }
    }
    units
}

/// The last one is that of the rich account, whose months are those of the calendar.
fn anchors(random: &mut Random) -> [Option<Timestamp>; 5] {
    let mut anchors = [None; 5];
    if random.chance(40) {
        for anchor in &mut anchors[..4] {
            // Days that not every month has.
            let day = hour(random.range(28, 31) * 24 + 12);
            let any = if random.chance(30) { day } else { moment(random) };
            *anchor = random.chance(60).then_some(any);
        }
    }
    anchors
}

/// None in some worlds: there events need no key.
fn measured(random: &mut Random) -> Vec<MeasuredMeter> {
    let count = random.below(MEASURED.len() as u64 + 1);
    let meter = |_| MeasuredMeter {
        measure: random.pick(&MEASURES),
        filter: if random.chance(60) { FILTERS[0] } else { random.pick(&FILTERS) },
        is_grouped: random.chance(30),
    };
    (0..count).map(meter).collect()
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
fn first_terms(random: &mut Random, setup: &Setup) -> Action {
    let mut resources = Vec::new();
    let mut meters = vec!["tokens"];
    if random.chance(50) {
        resources.push(Resource::CountMeter);
        meters.push("calls");
    }
    for (index, id) in MEASURED.into_iter().enumerate().take(setup.measured.len()) {
        if random.chance(80) {
            resources.push(Resource::MeasuredMeter(index));
            meters.push(id);
        }
    }
    for (index, (_, _, _, meter)) in PRICES.iter().enumerate() {
        // All are put or none, and a price is of a meter.
        let has_meter = meter.is_none_or(|meter| meters.contains(&meter));
        if has_meter && random.chance(90) {
            let mut terms = terms(random);
            if random.chance(80) {
                terms.from = None;
            }
            resources.push(Resource::Price(index, terms));
        }
    }
    for number in 0..2 {
        let from = moment(random);
        resources.push(Resource::Subscribe(SUBSCRIPTIONS[number], plan(random), from, None));
        resources.push(Resource::Bind(SUBJECTS[number], SUBSCRIPTIONS[number], from, None));
    }
    Action::Put(resources)
}

fn plan(random: &mut Random) -> &'static str {
    random.pick(&["p0", "p0", "p1", "p1", "p3"])
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

fn labels(random: &mut Random) -> Labels {
    Labels {
        group: random.chance(66).then(|| random.pick(&GROUPS)),
        key: random.chance(95).then(|| random.pick(&KEYS)),
        operation: random.chance(60).then(|| random.pick(&OPERATIONS)),
    }
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
    let labels = labels(random);
    NewEvent { subject: random.pick(&SUBJECTS), when, halves, labels, flaw }
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
        labels: random.chance(30).then(|| labels(random)),
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
    match random.below(25) {
        0 => Resource::CountMeter,
        1 => Resource::FilterMeter,
        24 => Resource::MeasuredMeter(random.below(MEASURED.len() as u64) as usize),
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
        19 => Resource::Rename(random.pick(&ACCOUNTS), random.below(3) as u8),
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

fn ask(random: &mut Random) -> Action {
    let groups: [&[&str]; 6] = [&[], &[], &["model"], &["subject"], &["source", "user"], &["op", "model"]];
    let scope = match random.below(5) {
        0 | 1 => Scope::All,
        2 => Scope::Subject(random.pick(&SUBJECTS)),
        3 => Scope::Subscription(random.pick(&SUBSCRIPTIONS)),
        _ => Scope::Account(random.pick(&ACCOUNTS)),
    };
    let from = if random.chance(50) { hour(0) } else { moment(random).plus(-random.range(0, 900) * HOUR) };
    let window = random.pick(&[None, Some("day"), Some("week"), Some("month")]);
    let question = Question {
        meter: random.pick(&["tokens", "tokens", "calls", "small-calls", "median", "m0", "m0", "m1"]),
        scope,
        from,
        hours: random.pick(&[1, 30 * 24, 90 * 24, 150 * 24]),
        window,
        zone: random.pick(&ZONES),
        group_by: random.pick(&groups),
        filter: random.chance(30).then(|| random.pick(&[("model", "small"), ("user", "ann"), ("op", "add")])),
        shows_empty: random.chance(20),
    };
    let share = random.chance(60).then(|| random.below(257).min(255) as u8);
    Action::Ask { question, share, is_again: random.chance(50) }
}

fn action(random: &mut Random, faults: u64, steady: Option<usize>) -> Action {
    if random.below(100) < faults {
        return crash(random, steady);
    }
    match random.below(78) {
        74..=77 => ask(random),
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
