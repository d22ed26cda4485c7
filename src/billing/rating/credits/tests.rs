//! Credits as tables, and against a model that pays unit by unit.

use std::collections::BTreeSet;

use domain::time::DAY;
use domain::{Exact, Timestamp, Zone};
use proptest::prelude::*;

use super::*;

mod hard_cases;
mod histories;
mod vectors;

fn day(day: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus((day - 1) * DAY)
}

fn exact(text: &str) -> Exact {
    Exact::parse(text).unwrap()
}

fn grant(id: &str, amount: &str, priority: u32, from: i64, until: Option<i64>) -> Grant {
    Grant {
        id: id.to_string(),
        priority,
        created: 0,
        amount: exact(amount),
        from: day(from),
        until: until.map(day),
        recurrence: None,
        rollover_max: Exact::ZERO,
        voided_at: None,
    }
}

fn due(at: i64, amount: &str) -> Due {
    Due { at: day(at), amount: exact(amount), grants: None, frozen: Vec::new(), pieces: Vec::new() }
}

/// Draws as `due:grant#lot amount`, and what nobody paid.
fn shown(grants: &[Grant], drawn: &Drawn) -> (Vec<String>, Vec<String>) {
    let draws =
        drawn.draws.iter().map(|d| format!("{}:{}#{} {}", d.due, grants[d.grant].id, d.lot, d.amount));
    (draws.collect(), drawn.unpaid.iter().map(Exact::to_string).collect())
}

fn check(grants: &[Grant], dues: &[Due], as_of: i64, draws: &[&str], unpaid: &[&str]) {
    let drawn = draw(grants, dues, &Zone::utc(), day(as_of)).unwrap();
    let (found, left) = shown(grants, &drawn);
    assert_eq!(
        (found, left.iter().map(String::as_str).collect::<Vec<_>>()),
        (draws.iter().map(|d| d.to_string()).collect(), unpaid.to_vec())
    );
}

#[test]
fn lots_burn_by_priority_then_expiry_then_start_then_name() {
    let grants = [
        grant("later", "10", 1, 1, Some(40)),
        grant("sooner", "10", 1, 1, Some(30)),
        grant("never", "10", 1, 1, None),
        grant("first", "10", 0, 1, None),
        grant("b", "10", 2, 1, None),
        grant("a", "10", 2, 1, None),
        grant("older", "10", 2, -5, None),
    ];
    let draws = [
        "0:first#0 10",
        "0:sooner#0 10",
        "0:later#0 10",
        "0:never#0 10",
        "0:older#0 10",
        "0:a#0 10",
        "0:b#0 5",
    ];
    check(&grants, &[due(2, "65")], 2, &draws, &["0"]);
}

#[test]
fn a_grant_pays_from_its_start_until_just_before_its_end_and_never_back() {
    let grants = [grant("g", "100", 0, 10, Some(20))];
    let dues = [due(9, "1"), due(10, "2"), due(19, "3"), due(20, "4")];
    check(&grants, &dues, 30, &["1:g#0 2", "2:g#0 3"], &["1", "0", "0", "4"]);
}

#[test]
fn a_void_ends_a_grant_and_keeps_its_draws() {
    let mut grants = [grant("g", "100", 0, 1, None)];
    grants[0].voided_at = Some(day(5));
    let drawn = draw(&grants, &[due(2, "30"), due(6, "30")], &Zone::utc(), day(9)).unwrap();
    assert_eq!(shown(&grants, &drawn).0, ["0:g#0 30"]);
    assert_eq!((drawn.lots[0].voided, drawn.lots[0].balance), (exact("70"), Exact::ZERO));
}

#[test]
fn what_is_left_rolls_over_up_to_the_maximum_and_the_rest_expires() {
    let mut grants = [grant("g", "100", 0, 1, None)];
    grants[0].recurrence = Some(Recurrence::Monthly);
    grants[0].rollover_max = exact("50");
    let dues = [due(3, "30"), due(33, "140"), due(61, "1")];
    let drawn = draw(&grants, &dues, &Zone::utc(), day(62)).unwrap();
    let (draws, unpaid) = shown(&grants, &drawn);
    assert_eq!(
        (draws, unpaid),
        (
            vec!["0:g#0 30".into(), "1:g#1 140".into(), "2:g#2 1".into()],
            vec!["0".into(), "0".into(), "0".to_string()]
        )
    );
    let lots: Vec<_> = drawn
        .lots
        .iter()
        .map(|lot| (lot.given.to_string(), lot.rolled.to_string(), lot.expired.to_string()))
        .collect();
    let expected = [("100", "50", "20"), ("150", "10", "0"), ("110", "0", "0")];
    assert_eq!(lots, expected.map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())));
}

#[test]
fn nothing_rolls_from_one_grant_into_another_that_starts_where_it_ends() {
    let mut first = grant("first", "100", 0, 1, Some(11));
    first.recurrence = Some(Recurrence::Days(5));
    first.rollover_max = exact("100");
    let grants = [first, grant("second", "10", 0, 11, None)];
    check(&grants, &[due(12, "50")], 20, &["0:second#0 10"], &["40"]);
}

#[test]
fn a_monthly_grant_of_the_31st_comes_back_to_the_31st() {
    let mut monthly = grant("g", "1", 0, 31, None);
    monthly.recurrence = Some(Recurrence::Monthly);
    let berlin = Zone::new("Europe/Berlin").unwrap();
    monthly.from = Timestamp::parse("2026-01-30T23:00:00Z").unwrap();
    let (starts, next) = monthly.starts(&berlin, Timestamp::parse("2026-05-01T00:00:00Z").unwrap(), 0);
    let dates: Vec<String> = starts.iter().map(|start| berlin.date_of(*start)).collect();
    assert_eq!(dates, ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]);
    assert_eq!(next.map(|next| berlin.date_of(next)).as_deref(), Some("2026-05-31"));
}

#[test]
fn draws_of_a_closed_period_stay_are_given_back_in_reverse_and_grow_only_into_what_is_left() {
    let grants = [grant("a", "10", 0, 1, None), grant("b", "10", 1, 1, None)];
    let frozen = |amounts: [&str; 2]| {
        let of = |(grant, amount): (usize, &&str)| FrozenDraw { grant, lot: 0, amount: exact(amount) };
        amounts.iter().enumerate().map(of).collect::<Vec<_>>()
    };
    let closed = |amount: &str| Due { frozen: frozen(["10", "5"]), ..due(2, amount) };
    // As it was.
    check(&grants, &[closed("15"), due(40, "9")], 40, &["0:a#0 10", "0:b#0 5", "1:b#0 5"], &["0", "4"]);
    // Shrunk by 7: b gives back first, then a; what is due later draws on it.
    check(&grants, &[closed("8"), due(40, "9")], 40, &["0:a#0 8", "1:a#0 2", "1:b#0 7"], &["0", "0"]);
    // Grown: it draws on what is left after every closed draw.
    check(&grants, &[closed("22"), due(40, "9")], 40, &["0:a#0 10", "0:b#0 10"], &["2", "9"]);
    // A closed draw of later usage is not displaced by usage that came late.
    let earlier = due(1, "12");
    check(&grants, &[earlier, closed("15")], 40, &["0:b#0 5", "1:a#0 10", "1:b#0 5"], &["7", "0"]);
}

#[test]
fn what_closed_draws_need_of_a_rollover_is_not_drawn_before_it() {
    let mut grants = [grant("g", "100", 0, 1, None)];
    grants[0].recurrence = Some(Recurrence::Monthly);
    grants[0].rollover_max = exact("100");
    let february = FrozenDraw { grant: 0, lot: 1, amount: exact("180") };
    let dues = [due(5, "60"), Due { frozen: vec![february], ..due(40, "180") }];
    check(&grants, &dues, 45, &["0:g#0 20", "1:g#1 180"], &["40", "0"]);
}

#[test]
fn a_grant_pays_only_what_it_may() {
    let grants = [grant("calls", "10", 0, 1, None), grant("all", "10", 1, 1, None)];
    let other = Due { grants: Some(BTreeSet::from([1])), ..due(2, "4") };
    check(&grants, &[other, due(3, "12")], 9, &["0:all#0 4", "1:calls#0 10", "1:all#0 2"], &["0", "0"]);
}

/// A grant of the random worlds: amount, priority, start, length, recurrence in days, rollover, void.
type Given = (u8, u32, i64, Option<i64>, Option<u32>, u8, Option<i64>);

fn given() -> impl Strategy<Value = Given> {
    (
        0u8..40,
        0u32..3,
        0i64..30,
        prop::option::of(1i64..40),
        prop::option::weighted(0.4, 1u32..15),
        0u8..30,
        prop::option::weighted(0.2, 0i64..40),
    )
}

fn grants_of(given: &[Given]) -> Vec<Grant> {
    let of = |(index, (amount, priority, from, length, every, rollover, voided)): (usize, &Given)| Grant {
        id: format!("g{index}"),
        priority: *priority,
        created: 0,
        amount: Exact::from_integer((*amount).into()),
        from: day(*from),
        until: length.map(|length| day(from + length)),
        recurrence: every.map(Recurrence::Days),
        rollover_max: Exact::from_integer((*rollover).into()),
        voided_at: voided.map(day),
    };
    given.iter().enumerate().map(of).collect()
}

/// Pays unit by unit, hour by hour, with balances in whole numbers: (paid by due and grant, unpaid by due).
fn modelled(given: &[Given], dues: &[(i64, u8)], until: i64) -> (Vec<Vec<i64>>, Vec<i64>) {
    let mut balances = vec![0i64; given.len()];
    let mut paid = vec![vec![0; given.len()]; dues.len()];
    let mut unpaid: Vec<i64> = dues.iter().map(|(_, amount)| (*amount).into()).collect();
    for today in 0..=until {
        for (balance, (amount, _, from, length, every, rollover, voided)) in balances.iter_mut().zip(given) {
            let ends =
                length.is_some_and(|length| today >= from + length) || voided.is_some_and(|at| today >= at);
            let begins = today == *from;
            let again = every.is_some_and(|every| today > *from && (today - from) % i64::from(every) == 0);
            if ends {
                *balance = 0;
            } else if begins {
                *balance = (*amount).into();
            } else if again {
                *balance = (*balance).min((*rollover).into()) + i64::from(*amount);
            }
        }
        for (index, (at, _)) in dues.iter().enumerate().filter(|(_, (at, _))| *at == today) {
            while unpaid[index] > 0 {
                let usable = (0..given.len()).filter(|grant| balances[*grant] > 0);
                let best = usable.min_by_key(|grant| {
                    let (_, priority, from, length, every, _, _) = &given[*grant];
                    let end = length.map_or(i64::MAX, |length| from + length);
                    let lot = every.map_or(0, |every| (at - from) / i64::from(every));
                    let start = every.map_or(*from, |every| from + lot * i64::from(every));
                    let lot_end = every.map_or(end, |every| (start + i64::from(every)).min(end));
                    (*priority, lot_end, start, *grant)
                });
                let Some(best) = best else { break };
                balances[best] -= 1;
                unpaid[index] -= 1;
                paid[index][best] += 1;
            }
        }
    }
    (paid, unpaid)
}

proptest! {
    #![proptest_config(crate::testing::cases())]

    #[test]
    fn draws_are_what_paying_unit_by_unit_gives(
        given in prop::collection::vec(given(), 0..5),
        dues in prop::collection::vec((0i64..45, 0u8..30), 0..8),
        order in any::<prop::sample::Index>(),
    ) {
        let grants = grants_of(&given);
        let asked: Vec<Due> = dues.iter().map(|(at, amount)| due(*at, &amount.to_string())).collect();
        let drawn = draw(&grants, &asked, &Zone::utc(), day(50)).unwrap();
        let (paid, unpaid) = modelled(&given, &dues, 50);
        for (index, unpaid) in unpaid.iter().enumerate() {
            prop_assert_eq!(drawn.unpaid[index], Exact::from_integer((*unpaid).into()), "due {}", index);
            for (grant, paid) in paid[index].iter().enumerate() {
                let of = drawn.draws.iter().filter(|draw| (draw.due, draw.grant) == (index, grant));
                let sum = of.fold(Exact::ZERO, |sum, draw| sum.add(draw.amount).unwrap());
                prop_assert_eq!(sum, Exact::from_integer((*paid).into()), "due {} grant {}", index, grant);
            }
        }
        // The order in which grants are listed decides nothing.
        if !grants.is_empty() {
            let at = order.index(grants.len());
            let turned: Vec<Grant> = grants[at..].iter().chain(&grants[..at]).cloned().collect();
            let again = draw(&turned, &asked, &Zone::utc(), day(50)).unwrap();
            prop_assert_eq!(shown(&turned, &again), shown(&grants, &drawn));
        }
    }

    /// Part of the draws is closed, then usage changes: closed draws stay as far as they are due, and nothing is overdrawn.
    #[test]
    fn closed_draws_stay_whatever_comes_late(
        given in prop::collection::vec(given(), 1..5),
        dues in prop::collection::vec((0i64..45, 0u8..30), 1..8),
        late in prop::collection::vec((0i64..45, 0u8..30), 0..4),
        changes in prop::collection::vec(0u8..30, 8),
        closed_before in 0i64..45,
    ) {
        let grants = grants_of(&given);
        let asked: Vec<Due> = dues.iter().map(|(at, amount)| due(*at, &amount.to_string())).collect();
        let first = draw(&grants, &asked, &Zone::utc(), day(45)).unwrap();
        let mut changed = asked.clone();
        for (index, one) in changed.iter_mut().enumerate() {
            if one.at < day(closed_before) {
                let of = first.draws.iter().filter(|draw| draw.due == index);
                one.frozen = of.map(|d| FrozenDraw { grant: d.grant, lot: d.lot, amount: d.amount }).collect();
            }
            one.amount = Exact::from_integer(changes[index].into());
        }
        changed.extend(late.iter().map(|(at, amount)| due(*at, &amount.to_string())));
        let second = draw(&grants, &changed, &Zone::utc(), day(50)).unwrap();
        for (index, one) in changed.iter().enumerate() {
            let frozen = one.frozen.iter().fold(Exact::ZERO, |sum, draw| sum.add(draw.amount).unwrap());
            let kept = second.draws.iter().filter(|draw| draw.due == index);
            let kept = kept.fold(Exact::ZERO, |sum, draw| sum.add(draw.amount).unwrap());
            prop_assert!(kept >= frozen.min(one.amount).unwrap(), "a closed draw stays as far as it is due");
            prop_assert!(kept <= one.amount, "nobody pays more than what is due");
        }
        // What was not changed gives the same again.
        let mut same = asked.clone();
        for (index, one) in same.iter_mut().enumerate() {
            let of = first.draws.iter().filter(|draw| draw.due == index);
            one.frozen = of.map(|d| FrozenDraw { grant: d.grant, lot: d.lot, amount: d.amount }).collect();
        }
        let again = draw(&grants, &same, &Zone::utc(), day(45)).unwrap();
        prop_assert_eq!(shown(&grants, &again), shown(&grants, &first));
    }

}

#[test]
fn ten_thousand_equal_grants_burn_the_one_that_expires_first() {
    let mut grants: Vec<Grant> =
        (0..10_000).map(|n| grant(&format!("g{}", n * 7_919 % 10_000), "1", 1, 1, None)).collect();
    grants[6_000].until = Some(day(90));
    let drawn = draw(&grants, &[due(2, "1"), due(3, "500")], &Zone::utc(), day(9)).unwrap();
    assert_eq!(drawn.draws[0].grant, 6_000);
    assert_eq!(drawn.draws.len(), 501);
}
