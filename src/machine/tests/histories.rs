//! Random histories: a small world of two entities, three accounts, four subscriptions and two plans, and what happens
//! in it over some months.
//!
//! A history prints as what it is: instants in UTC, names, terms.

use domain::time::HOUR;
use domain::{Period, Timestamp, Zone};
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::model::{Negative, Terms, Tier, hour};
use super::play::play;

pub(super) const ZONES: [&str; 3] = ["America/New_York", "Europe/Berlin", "Asia/Kathmandu"];
pub(super) const SUBJECTS: [&str; 5] = ["k0", "k1", "k2", "k3", "k4"];
pub(super) const SUBSCRIPTIONS: [&str; 4] = ["s0", "s1", "s2", "s3"];
pub(super) const PLANS: [&str; 2] = ["p0", "p1"];
pub(super) const PRICES: usize = 6;
/// Hours from the first instant of terms to the last.
const HOURS: i64 = 100 * 24;

/// How a world starts.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) currency: &'static str,
    pub(super) negative: Negative,
    pub(super) horizon_hours: i64,
    pub(super) future_max_hours: i64,
    pub(super) grace_hours: i64,
    /// Of `e0`, `e1`.
    pub(super) entity_zones: [&'static str; 2],
    /// Entity and zone of `a0`, `a1`, `a2`; `s3` is a second subscription of `a0`.
    pub(super) accounts: [(usize, &'static str); 3],
    pub(super) sum_is_grouped: bool,
    pub(super) has_count_meter: bool,
    /// Windows of the prices.
    pub(super) units: [&'static str; PRICES],
    /// What the windows of the subscriptions are counted from.
    pub(super) anchors: [Option<Timestamp>; 4],
    /// First versions of the prices.
    pub(super) prices: Vec<Option<Terms>>,
    /// Plan and start of `s0`, `s1`; `k0` and `k1` are theirs from the same instants on.
    pub(super) subscriptions: [(&'static str, Timestamp); 2],
}

/// When an event happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    HoursAgo(i64),
    At(Timestamp),
}

#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub(super) subject: &'static str,
    pub(super) when: When,
    pub(super) halves: Option<i64>,
    pub(super) group: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Again {
    Same,
    HoursLater(i64),
    OtherValue,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Void,
    Discard,
    Release,
    Amend {
        subject: Option<&'static str>,
        time: Option<Timestamp>,
        halves: Option<Option<i64>>,
        group: Option<Option<&'static str>>,
    },
}

/// What happens next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    PassHours(i64),
    Usage {
        source: &'static str,
        event_type: &'static str,
        events: Vec<Usage>,
        is_first_twice: bool,
    },
    Resend {
        nth: usize,
        again: Again,
    },
    Bind {
        subject: &'static str,
        subscription: &'static str,
        from: Timestamp,
        hours: Option<i64>,
    },
    Subscribe {
        subscription: &'static str,
        plan: &'static str,
        from: Timestamp,
        hours: Option<i64>,
    },
    /// Puts the newest record of the subscription again, with an end.
    End {
        subscription: &'static str,
        until: Timestamp,
    },
    Price {
        price: usize,
        terms: Terms,
    },
    CountMeter,
    /// Of an event that was sent; what is `None` is kept.
    Correct {
        nth: usize,
        what: What,
    },
    /// Lets a share of the batches so far be forgotten, in 256ths.
    Forget {
        share: u8,
    },
    Barrier,
    /// `crashes`: one of the worlds starts again between the record and the seal.
    Cut {
        crashes: bool,
    },
    Journals {
        entity: &'static str,
        crashes: bool,
    },
    Restart,
}

fn one_of<T: Clone + std::fmt::Debug + 'static>(list: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(list)
}

/// Any hour, or the first or last instant of a month in one of the zones.
fn moment() -> impl Strategy<Value = Timestamp> {
    let edge = (1..=4, one_of(&ZONES), -1..=0i64).prop_map(|(month, zone, nanoseconds)| {
        let period = Period::parse(&format!("2026-{month:02}")).unwrap();
        Zone::new(zone).unwrap().month(period).from.plus(nanoseconds)
    });
    prop_oneof![4 => (0..HOURS).prop_map(hour), 2 => edge]
}

fn terms() -> impl Strategy<Value = Terms> {
    let tier =
        (1i64..60, prop_oneof![1 => Just(0i128), 3 => 1i128..2_000], prop_oneof![Just(0i128), 1i128..900]);
    let tiers = prop::collection::vec(tier, 1..4);
    let from = prop::option::weighted(0.7, moment());
    // Some hundred units, or some, are worth more than a window may be.
    let too_much = prop_oneof![2 * 10i128.pow(27)..3 * 10i128.pow(27), Just(5 * 10i128.pow(28))];
    let too_much = prop::option::weighted(0.04, too_much);
    let rest = (0u32..4, prop::option::of(any::<bool>()));
    (tiers, from, too_much, rest).prop_map(|(mut tiers, from, too_much, (per, flat_at_zero))| {
        tiers[0].1 = too_much.unwrap_or(tiers[0].1);
        let last = tiers.len() - 1;
        let mut low = 0;
        let tiers = tiers.into_iter().enumerate().map(|(index, (width, unit, flat))| {
            low += width;
            Tier { up_to: (index < last).then_some(low), unit, flat }
        });
        Terms { from, tiers: tiers.collect(), per: 10i128.pow(per), flat_at_zero }
    })
}

fn unit() -> impl Strategy<Value = &'static str> {
    prop_oneof![24 => Just("month"), 1 => Just("day"), 4 => Just("week"), 6 => Just("quarter"), 3 => Just("year")]
}

/// Days that not every month has, the days on which clocks are set, and any other.
fn anchor() -> impl Strategy<Value = Timestamp> {
    let days =
        ["2026-01-31T12:00:00Z", "2025-11-30T12:00:00Z", "2024-02-29T12:00:00Z", "2025-03-29T23:30:00Z"];
    let day = prop::sample::select(days.to_vec()).prop_map(|day| Timestamp::parse(day).unwrap());
    prop_oneof![2 => day, 1 => moment()]
}

fn setup() -> impl Strategy<Value = Setup> {
    let limits = (
        prop_oneof![Just("USD"), Just("JPY"), Just("KWD")],
        prop_oneof![1 => Just(Negative::Reject), 1 => Just(Negative::Zero), 2 => Just(Negative::Signed)],
        prop_oneof![Just(35 * 24), Just(120 * 24)],
        prop_oneof![Just(1), Just(72), Just(40 * 24)],
        prop_oneof![Just(0), Just(2 * 24), Just(5 * 24), Just(40 * 24)],
    );
    let zones = (
        [one_of(&ZONES), one_of(&ZONES)],
        [(0..2usize, one_of(&ZONES)), (0..2, one_of(&ZONES)), (0..2, one_of(&ZONES))],
    );
    let first = terms().prop_map(|terms| Terms { from: None, ..terms });
    let price = prop::option::weighted(0.9, prop_oneof![4 => first, 1 => terms()]);
    let start = || (one_of(&PLANS), moment());
    let meters = (any::<bool>(), any::<bool>());
    let windows = (prop::array::uniform6(unit()), prop::array::uniform4(prop::option::of(anchor())));
    let subscriptions = [start(), start()];
    (limits, zones, meters, windows, prop::collection::vec(price, PRICES), subscriptions).prop_map(
        |(limits, zones, meters, windows, prices, subscriptions)| Setup {
            currency: limits.0,
            negative: limits.1,
            horizon_hours: limits.2,
            future_max_hours: limits.3,
            grace_hours: limits.4,
            entity_zones: zones.0,
            accounts: zones.1,
            sum_is_grouped: meters.0,
            has_count_meter: meters.1,
            units: windows.0,
            anchors: windows.1,
            prices,
            subscriptions,
        },
    )
}

fn usage() -> impl Strategy<Value = Step> {
    let when = prop_oneof![
        8 => (-2i64..34 * 24).prop_map(When::HoursAgo),
        1 => (-50i64 * 24..130 * 24).prop_map(When::HoursAgo),
        2 => moment().prop_map(When::At),
        // Before the years that events may have.
        1 => Just(When::HoursAgo(24 * 366 * 30)),
    ];
    let halves =
        prop_oneof![12 => (0i64..80).prop_map(Some), 2 => (-30i64..0).prop_map(Some), 1 => Just(None)];
    let group = prop_oneof![Just(None), Just(Some("large")), Just(Some("small"))];
    let event = (one_of(&SUBJECTS), when, halves, group).prop_map(|(subject, when, halves, group)| Usage {
        subject,
        when,
        halves,
        group,
    });
    let source = prop_oneof![Just("edge"), Just("batch")];
    let event_type = prop_oneof![9 => Just("call"), 1 => Just("login")];
    (source, event_type, prop::collection::vec(event, 1..8), prop::bool::weighted(0.2)).prop_map(
        |(source, event_type, events, is_first_twice)| Step::Usage {
            source,
            event_type,
            events,
            is_first_twice,
        },
    )
}

fn what() -> impl Strategy<Value = What> {
    let halves = prop_oneof![4 => (-30i64..80).prop_map(Some), 1 => Just(None)];
    let group = prop_oneof![Just(None), Just(Some("large")), Just(Some("small"))];
    let amend = (
        prop::option::weighted(0.3, one_of(&SUBJECTS)),
        prop::option::weighted(0.3, moment()),
        prop::option::of(halves),
        prop::option::weighted(0.3, group),
    );
    let amend = amend.prop_map(|(subject, time, halves, group)| What::Amend { subject, time, halves, group });
    prop_oneof![2 => Just(What::Void), 1 => Just(What::Discard), 2 => Just(What::Release), 3 => amend]
}

fn step() -> impl Strategy<Value = Step> {
    let pass = prop_oneof![6 => 1i64..48, 3 => 48i64..300, 1 => 300i64..1_500];
    let again =
        prop_oneof![Just(Again::Same), (1i64..900).prop_map(Again::HoursLater), Just(Again::OtherValue)];
    let hours = || prop::option::weighted(0.3, 1i64..1_000);
    prop_oneof![
        8 => pass.prop_map(Step::PassHours),
        12 => usage(),
        4 => (any::<prop::sample::Index>(), again)
            .prop_map(|(nth, again)| Step::Resend { nth: nth.index(1 << 20), again }),
        4 => (one_of(&SUBJECTS[..4]), one_of(&SUBSCRIPTIONS), moment(), hours())
            .prop_map(|(subject, subscription, from, hours)| Step::Bind { subject, subscription, from, hours }),
        3 => (one_of(&SUBSCRIPTIONS), one_of(&PLANS), moment(), hours())
            .prop_map(|(subscription, plan, from, hours)| Step::Subscribe { subscription, plan, from, hours }),
        2 => (one_of(&SUBSCRIPTIONS), moment())
            .prop_map(|(subscription, until)| Step::End { subscription, until }),
        3 => (0..PRICES, terms()).prop_map(|(price, terms)| Step::Price { price, terms }),
        1 => Just(Step::CountMeter),
        4 => (any::<prop::sample::Index>(), what())
            .prop_map(|(nth, what)| Step::Correct { nth: nth.index(1 << 20), what }),
        1 => any::<u8>().prop_map(|share| Step::Forget { share }),
        5 => Just(Step::Barrier),
        6 => prop::bool::weighted(0.2).prop_map(|crashes| Step::Cut { crashes }),
        2 => (prop_oneof![Just("e0"), Just("e1")], prop::bool::weighted(0.2))
            .prop_map(|(entity, crashes)| Step::Journals { entity, crashes }),
        1 => Just(Step::Restart),
    ]
}

/// `TALLYMARK_CASES` histories, 48 where it is not set.
fn cases() -> Config {
    let cases = std::env::var("TALLYMARK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    Config { cases, failure_persistence: None, max_shrink_iters: 1_000, ..Config::default() }
}

/// An end, some hours after a start.
pub(super) fn end_of(from: Timestamp, hours: Option<i64>) -> Option<Timestamp> {
    hours.map(|hours| from.plus(hours * HOUR))
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever happens in whatever order: what was issued is what the events and terms come to, in every slice; with
    /// any number of shards, after crashes, and when the logs are replayed.
    #[test]
    fn what_was_issued_is_what_the_events_and_terms_come_to(
        setup in setup(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        play(&setup, &steps);
    }
}
