//! Commitments as tables, one for each shape, and as random terms against a slow model.
//!
//! The model walks through a term one minor unit of usage at a time, with a purse of what is paid ahead: no difference of
//! cumulative amounts, and none of the exact arithmetic that rating uses.

use super::*;
use crate::testing::cases;
use proptest::prelude::*;

const SHAPES: [(&str, Shape); 5] = [
    ("none", Shape::None),
    ("roll_forward", Shape::RollForward),
    ("cumulative", Shape::Cumulative),
    ("year_end", Shape::YearEnd),
    ("prepaid_drawdown", Shape::PrepaidDrawdown),
];

/// A case is `SHAPE AMOUNT[@WINDOW] … [x FACTOR] [without true-up] | BASES | ENDED | WINDOWS`, where a window is
/// `utilized[+surcharge][^true-up][-draw]=charged[~unused]`.
fn check_settle(cases: &str) {
    for case in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let parts: Vec<&str> = case.split('|').map(str::trim).collect();
        let [terms, bases, ended, expected] = parts[..] else { panic!("four parts: {case}") };
        let (terms, has_true_up) = match terms.strip_suffix("without true-up") {
            Some(terms) => (terms, false),
            None => (terms, true),
        };
        let (terms, factor) = terms.split_once(" x ").unwrap_or((terms, "1"));
        let mut words = terms.split_whitespace();
        let name = words.next().unwrap();
        let (_, shape) = SHAPES.into_iter().find(|(known, _)| *known == name).expect(case);
        let version = |word: &str| {
            let (amount, window) = word.split_once('@').unwrap_or((word, "0"));
            CommitmentVersion { effective_window: window.parse().unwrap(), amount: amount.parse().unwrap() }
        };
        let versions: Vec<CommitmentVersion> = words.map(version).collect();
        let overage_factor = Exact::parse(factor.trim()).unwrap();
        let bases: Vec<i128> = bases.split_whitespace().map(|base| base.parse().unwrap()).collect();
        let window_count = bases.len();
        let commitment = Commitment { shape, versions: &versions, window_count, overage_factor, has_true_up };
        let found = settle(&commitment, &bases, &bases, ended.parse().unwrap()).unwrap();
        let found: Vec<String> = found.iter().map(shown).collect();
        assert_eq!(found.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "), "{case}");
    }
}

fn shown(window: &Settlement) -> String {
    let mut text = window.utilized.to_string();
    for (sign, amount) in [("+", window.overage_surcharge), ("^", window.true_up), ("-", window.draw)] {
        if amount != 0 {
            text += &format!("{sign}{amount}");
        }
    }
    text += &format!("={}", window.charged);
    if window.unused != 0 {
        text += &format!("~{}", window.unused);
    }
    text
}

#[test]
fn every_broken_rule_says_another_one() {
    let all = [
        CommitmentStatus::VersionsMustStartAtFirstWindow,
        CommitmentStatus::VersionsMustRise,
        CommitmentStatus::AmountMustNotBeNegative,
        CommitmentStatus::FactorMustBeAtLeastOne,
    ];
    assert_eq!(std::collections::BTreeSet::from(all.map(|status| status.to_string())).len(), all.len());
}

#[test]
fn without_a_shape_each_window_stands_alone() {
    check_settle(
        "
        none 2000                     | 1400 600 | 2 | 1000=1400 600^400=1000
        none 2000 x 1.5               | 1400 600 | 2 | 1000+200=1600 600^400=1000
        none 2000 x 1.5 without true-up | 1400 600 | 2 | 1000+200=1600 600=600
        none 2000                     | 0 0      | 1 | 0^1000=1000 0=0
        none 2000                     | 1000 999 | 2 | 1000=1000 999^1=1000
        none 2000                     | -50 0    | 1 | -50^1050=1000 0=0
        none 1000                     | 0 0 0    | 3 | 0^333=333 0^334=334 0^333=333
        none 300 x 1.15               | 103 103 103 | 3 | 100=103 100=103 100=103
    ",
    );
}

#[test]
fn a_shortfall_that_was_paid_rolls_forward_and_never_back() {
    check_settle(
        "
        roll_forward 2000             | 1400 600 | 2 | 1000=1400 600^400=1000~400
        roll_forward 2000             | 600 1400 | 2 | 600^400=1000~400 1400-400=1000
        roll_forward 3000 x 2         | 600 1200 1300 | 3 | 600^400=1000~400 1200-200=1000~200 1200+100-200=1200
        roll_forward 3000             | 600 1200 1300 | 1 | 600^400=1000~400 1200-200=1000~200 1200-200=1100
        roll_forward 2000 without true-up | 600 1400 | 2 | 600=600 1000=1400
    ",
    );
}

#[test]
fn cumulative_bills_the_greater_of_usage_and_commitment_so_far() {
    check_settle(
        "
        cumulative 12000 | 1400 600 0 0 0 0 0 0 0 0 0 0 | 2 | 1400=1400 600=600 0=0 0=0 0=0 0=0 0=0 0=0 0=0 0=0 0=0 0=0
        cumulative 2000               | 600 1400 | 2 | 600^400=1000~400 1400-400=1000
        cumulative 2000               | 600 300  | 1 | 600^400=1000~400 300-300=0~100
        cumulative 2000               | 600 300  | 2 | 600^400=1000~400 300^700=1000~1100
        cumulative 2000 x 1.5         | 1400 900 | 2 | 1400=1400 600+150=1050
        cumulative 2000 without true-up | 600 300 | 2 | 600=600 300=300
        cumulative 1000               | 0 0 0    | 3 | 0^333=333~333 0^334=334~667 0^333=333~1000
        cumulative 2000               | 2500 -200 | 2 | 2000=2500 0=-200
    ",
    );
}

#[test]
fn year_end_bills_usage_as_it_comes_and_a_shortfall_once() {
    check_settle(
        "
        year_end 3000                 | 600 300 0 | 2 | 600=600 300=300 0=0
        year_end 3000                 | 600 300 0 | 3 | 600=600 300=300 0^2100=2100
        year_end 3000 x 1.5           | 2000 2000 100 | 3 | 2000=2000 1000+500=2500 0+50=150
        year_end 3000 x 1.5           | 3000 0 0 | 3 | 3000=3000 0=0 0=0
        year_end 3000 without true-up | 600 0 0  | 3 | 600=600 0=0 0=0
        year_end 0                    | 600 0 0  | 3 | 0=600 0=0 0=0
        year_end 300 x 1.1            | 304 4 4  | 3 | 300=304 0+1=5 0=4
    ",
    );
}

#[test]
fn usage_draws_from_what_was_prepaid_and_the_rest_is_breakage() {
    check_settle(
        "
        prepaid_drawdown 3000         | 600 300 0 | 3 | 600-600=0~2400 300-300=0~2100 0=0~2100
        prepaid_drawdown 1000 x 1.5   | 600 600 100 | 3 | 600-600=0~400 400+100-400=300 0+50=150
        prepaid_drawdown 1000 x 1.5   | 600 600 -300 | 3 | 600-600=0~400 400+100-400=300 -100+-100--100=-300~100
    ",
    );
}

#[test]
fn a_new_amount_holds_from_its_window_on() {
    check_settle(
        "
        none 4000 6000@2              | 0 0 0 0 | 4 | 0^1000=1000 0^1000=1000 0^1500=1500 0^1500=1500
        cumulative 4000 6000@2        | 0 0 0 3500 | 4 | 0^1000=1000~1000 0^1000=1000~2000 0^1500=1500~3500 3500-2000=1500~1500
        year_end 4000 6000@2          | 0 0 0 0 | 4 | 0=0 0=0 0=0 0^5000=5000
        year_end 4000 2000@2 x 2      | 0 3500 0 0 | 4 | 0=0 3500=3500 0=0 0=0
        year_end 4000 2000@2 x 2      | 0 2900 200 0 | 4 | 0=0 2900=2900 100+100=300 0=0
        prepaid_drawdown 1000 2000@1 x 2 | 1500 600 500 | 3 | 1000+500-1000=1000 600-600=0~400 400+100-400=200
        prepaid_drawdown 1000 500@1 x 2 | 800 100 | 2 | 800-800=0~200 0+100=200
    ",
    );
}

/// 1,200 for a year that ends after its first quarter: 300 for 50, 150 and 20.
#[test]
fn a_term_that_ends_early_is_worth_what_it_was_committed_to_until_then() {
    for (shape, expected) in [
        (Shape::None, "50^50=100 100=150 20^80=100"),
        (Shape::RollForward, "50^50=100~50 150-50=100 20^80=100~80"),
        (Shape::Cumulative, "50^50=100~50 150-50=100 20^80=100~80"),
        (Shape::YearEnd, "50=50 150=150 20^80=100"),
        (Shape::PrepaidDrawdown, "50-50=0~1150 150-150=0~1000 20-20=0~980"),
    ] {
        let versions = [CommitmentVersion { effective_window: 0, amount: 1_200 }];
        let terms = Commitment {
            shape,
            versions: &versions,
            window_count: 12,
            overage_factor: Exact::ONE,
            has_true_up: true,
        };
        let settled = settle(&terms, &[50, 150, 20], &[50, 150, 20], 3).unwrap();
        assert_eq!(settled.iter().map(shown).collect::<Vec<_>>().join(" "), expected, "{shape:?}");
        assert_eq!(settle(&terms, &[], &[], 0), Ok(Vec::new()), "it ended before it began");
    }
}

#[test]
fn terms_that_cannot_be_agreed_name_the_rule() {
    let check = |versions: &[(usize, i128)], factor: &str| {
        let version = |(effective_window, amount)| CommitmentVersion { effective_window, amount };
        let versions: Vec<CommitmentVersion> = versions.iter().copied().map(version).collect();
        let overage_factor = Exact::parse(factor).unwrap();
        let shape = Shape::None;
        Commitment { shape, versions: &versions, window_count: 9, overage_factor, has_true_up: true }.check()
    };
    assert_eq!(check(&[(0, 0), (3, 5)], "1"), Ok(()));
    for (versions, factor, status) in [
        (&[][..], "0", CommitmentStatus::VersionsMustStartAtFirstWindow),
        (&[(1, -5)], "0", CommitmentStatus::VersionsMustStartAtFirstWindow),
        (&[(0, -5), (0, 5)], "0", CommitmentStatus::VersionsMustRise),
        (&[(0, -5)], "0", CommitmentStatus::AmountMustNotBeNegative),
        (&[(0, 5)], "0.99", CommitmentStatus::FactorMustBeAtLeastOne),
    ] {
        assert_eq!(check(versions, factor), Err(status), "{versions:?} {factor}");
    }
}

#[test]
fn amounts_that_do_not_fit_are_a_status() {
    for (_, shape) in SHAPES {
        for (amount, bases) in [(i128::MAX, [0, 0]), (0, [i128::MAX, 1]), (1, [i128::MIN, 0])] {
            let versions = [CommitmentVersion { effective_window: 0, amount }];
            let overage_factor = Exact::from_integer(2);
            let terms =
                Commitment { shape, versions: &versions, window_count: 2, overage_factor, has_true_up: true };
            assert_eq!(
                settle(&terms, &bases, &bases, 2),
                Err(RatingStatus::AmountMustFit),
                "{shape:?} {bases:?}"
            );
        }
    }
}

/// A commitment, and the same as plain numbers.
#[derive(Clone, Debug)]
struct Case {
    shape: Shape,
    amount: i128,
    /// Hundredths that overage costs beyond its base amount.
    percent_beyond_base: i128,
    has_true_up: bool,
    bases: Vec<i128>,
    /// What of each window others have paid for.
    paid_by_others: Vec<i128>,
    ended_count: usize,
}

impl Case {
    fn settled(&self) -> Vec<Settlement> {
        let versions = [CommitmentVersion { effective_window: 0, amount: self.amount }];
        let overage_factor = Exact::new(100 + self.percent_beyond_base, 2);
        let (shape, has_true_up) = (self.shape, self.has_true_up);
        let window_count = self.bases.len();
        let terms = Commitment { shape, versions: &versions, window_count, overage_factor, has_true_up };
        let unpaid: Vec<i128> =
            self.bases.iter().enumerate().map(|(index, base)| base - self.paid_by_others(index)).collect();
        settle(&terms, &self.bases, &unpaid, self.ended_count).unwrap()
    }

    /// A prepaid amount counts only what others have left.
    fn paid_by_others(&self, window: usize) -> i128 {
        let paid = self.paid_by_others.get(window).copied().unwrap_or(0);
        if self.shape == Shape::PrepaidDrawdown { 0 } else { paid.min(self.bases[window]) }
    }

    fn total(&self) -> i128 {
        self.settled().iter().map(|window| window.charged).sum()
    }

    /// What all windows up to one are committed to, of all that the term is.
    fn promised(&self, window_count: usize) -> i128 {
        let count = self.bases.len() as i128;
        (2 * window_count as i128 * self.amount + count) / (2 * count)
    }

    /// Walks through the term one minor unit of usage at a time, with a purse of what is paid ahead.
    fn modelled(&self) -> Vec<(i128, i128, i128)> {
        let mut purse = if self.shape == Shape::PrepaidDrawdown { self.amount } else { 0 };
        let (mut used, mut overage, mut surcharged) = (0, 0, 0);
        let mut windows = Vec::new();
        for (index, base) in self.bases.iter().enumerate() {
            let part = self.promised(index + 1) - self.promised(index);
            let is_owed = self.has_true_up && index < self.ended_count;
            let (mut paid, mut used_here, mut covered) = (0, 0, 0);
            let unpaid = base - self.paid_by_others(index);
            if matches!(self.shape, Shape::None | Shape::RollForward) {
                (overage, surcharged) = (0, 0);
            }
            for _ in 0..*base {
                (used, used_here) = (used + 1, used_here + 1);
                let can_cover = purse > 0 && covered < unpaid;
                let (is_covered, is_beyond) = match self.shape {
                    Shape::None => (false, used_here > part),
                    Shape::RollForward => (used_here > part && can_cover, used_here > part && !can_cover),
                    Shape::Cumulative => (can_cover, used > self.amount),
                    Shape::YearEnd => (false, used > self.amount),
                    Shape::PrepaidDrawdown => (purse > 0, purse == 0),
                };
                purse -= i128::from(is_covered);
                covered += i128::from(is_covered);
                paid += i128::from(!is_covered);
                overage += i128::from(is_beyond);
            }
            let surcharge = (overage * self.percent_beyond_base + 50) / 100 - surcharged;
            surcharged += surcharge;
            let missing = match self.shape {
                Shape::None | Shape::RollForward => part - used_here,
                Shape::Cumulative => self.promised(index + 1) - used - purse,
                Shape::YearEnd if index + 1 == self.bases.len() => self.amount - used,
                Shape::YearEnd | Shape::PrepaidDrawdown => 0,
            };
            let missing = if is_owed { missing.max(0) } else { 0 };
            if matches!(self.shape, Shape::RollForward | Shape::Cumulative) {
                purse += missing;
            }
            windows.push((paid + missing + surcharge, surcharge, purse));
        }
        windows
    }
}

fn case() -> impl Strategy<Value = Case> {
    let terms = (0..SHAPES.len(), 0i128..400, prop_oneof![Just(0i128), 0i128..150], any::<bool>());
    let windows = (prop::collection::vec(prop_oneof![Just(0i128), 0i128..120], 1..6), 0usize..6);
    (terms, windows).prop_map(|((shape, amount, percent_beyond_base, has_true_up), (bases, ended_count))| {
        let (_, shape) = SHAPES[shape];
        let paid_by_others = Vec::new();
        Case { shape, amount, percent_beyond_base, has_true_up, bases, paid_by_others, ended_count }
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_term_is_worth_what_the_slow_way_gives(
        mut case in case(), paid_by_others in prop::collection::vec(prop_oneof![Just(0i128), 0i128..120], 0..6),
    ) {
        case.paid_by_others = paid_by_others;
        let settled = case.settled();
        let found: Vec<(i128, i128, i128)> = settled
            .iter()
            .map(|window| (window.charged, window.overage_surcharge, window.unused))
            .collect();
        prop_assert_eq!(found, case.modelled());
        for window in settled {
            let parts = window.base + window.overage_surcharge + window.true_up - window.draw;
            prop_assert_eq!(window.charged, parts);
            prop_assert!(window.utilized <= window.base && window.true_up >= 0 && window.draw >= 0);
        }
    }

    /// Parts of a commitment sum to it, so where usage stays below them, lines and true-up are the commitment.
    #[test]
    fn lines_and_true_up_are_the_commitment_below_it(mut case in case()) {
        case.has_true_up = true;
        case.ended_count = case.bases.len();
        let parts: Vec<i128> =
            (0..case.bases.len()).map(|index| case.promised(index + 1) - case.promised(index)).collect();
        for (base, part) in case.bases.iter_mut().zip(parts) {
            *base = (*base).min(part);
        }
        let expected = if case.shape == Shape::PrepaidDrawdown { 0 } else { case.amount };
        prop_assert_eq!(case.total(), expected);
    }

    #[test]
    fn more_usage_never_costs_less(case in case(), window in 0usize..5, more in 0i128..60) {
        let mut later = case.clone();
        let window = window % case.bases.len();
        later.bases[window] += more;
        prop_assert!(later.total() >= case.total(), "{later:?}");
    }

    /// Where usage counts over the whole term, it does not matter into which windows it falls.
    #[test]
    fn a_term_costs_the_same_in_any_windows(
        mut case in case(), shape in 2usize..SHAPES.len(), other in prop::collection::vec(0i128..9, 1..6),
    ) {
        (_, case.shape) = SHAPES[shape];
        case.ended_count = case.bases.len();
        let used: i128 = case.bases.iter().sum();
        let mut split = Case { ended_count: other.len(), bases: other, ..case.clone() };
        let weights: Vec<Exact> = split.bases.iter().map(|weight| Exact::from_integer(*weight)).collect();
        split.bases = super::super::allocation::allocate(used, &weights).unwrap();
        prop_assert_eq!(split.total(), case.total());
    }

    /// Usage arrives late, in any order, and windows end in between: what was issued is the result of the final state,
    /// and late usage after a true-up nets to zero until the commitment is used up.
    #[test]
    fn corrections_telescope_and_net_against_a_true_up(
        mut case in case(), late in prop::collection::vec((0usize..5, 1i128..40), 0..6),
    ) {
        let mut issued = vec![0; case.bases.len()];
        for (window, more) in late {
            let before = case.total();
            let used: i128 = case.bases.iter().sum();
            let window = window % case.bases.len();
            case.bases[window] += more;
            for (issued, now) in issued.iter_mut().zip(case.settled()) {
                *issued += now.charged - *issued;
            }
            let is_over = case.has_true_up && case.ended_count >= case.bases.len();
            let is_by_term = matches!(case.shape, Shape::Cumulative | Shape::YearEnd);
            if is_over && is_by_term && used + more <= case.amount {
                prop_assert_eq!(case.total(), before);
            }
            case.ended_count += usize::from(more % 2 == 0);
        }
        for (issued, now) in issued.iter_mut().zip(case.settled()) {
            *issued += now.charged - *issued;
        }
        prop_assert_eq!(issued.iter().sum::<i128>(), case.total());
    }
}
