//! Random histories of grants. Owns: what holds for every lot and due whatever is closed, voided and changed in between,
//! stated over the result alone. Leaves to others: what each draw is (the model in `tests`).

use domain::Period;

use super::*;

/// A step of a history: dues that change (index, amount), dues that come late (day, amount, payers), a void of a grant
/// (index, day, or none again), the day before which periods are closed.
type Step = (Vec<(usize, u8)>, Vec<(i64, u8, u8)>, Option<(usize, Option<i64>)>, i64);

fn step() -> impl Strategy<Value = Step> {
    (
        prop::collection::vec((0usize..8, 0u8..30), 0..4),
        prop::collection::vec((0i64..75, 0u8..30, any::<u8>()), 0..4),
        prop::option::weighted(0.4, (0usize..4, prop::option::weighted(0.8, 0i64..75))),
        0i64..75,
    )
}

/// Grants that recur by month, by days or not at all.
fn worlds() -> impl Strategy<Value = Vec<Grant>> {
    prop::collection::vec((given(), any::<bool>()), 1..5).prop_map(|given| {
        let (given, monthly): (Vec<Given>, Vec<bool>) = given.into_iter().unzip();
        let mut grants = grants_of(&given);
        for (grant, monthly) in grants.iter_mut().zip(monthly) {
            if monthly && grant.recurrence.is_some() {
                grant.recurrence = Some(Recurrence::Monthly);
                grant.until = grant.until.map(|until| until.plus(60 * DAY));
            }
        }
        grants
    })
}

fn payers(mask: u8, count: usize) -> Option<BTreeSet<usize>> {
    let payers: BTreeSet<usize> = (0..count).filter(|grant| mask >> (grant % 8) & 1 == 1).collect();
    (payers.len() < count).then_some(payers)
}

fn total(numbers: impl IntoIterator<Item = Exact>) -> Exact {
    sum_of(numbers).unwrap()
}

/// Everything that has to hold of a result, computed from it alone.
fn check_result(grants: &[Grant], dues: &[Due], drawn: &Drawn) {
    let lot_of = |draw: &Draw| drawn.lots.iter().find(|lot| (lot.grant, lot.lot) == (draw.grant, draw.lot));
    for (index, due) in dues.iter().enumerate() {
        let draws: Vec<&Draw> = drawn.draws.iter().filter(|draw| draw.due == index).collect();
        let paid = total(draws.iter().map(|draw| draw.amount));
        assert_eq!(paid.add(drawn.unpaid[index]), Ok(due.amount), "a due is paid or left");
        assert!(!drawn.unpaid[index].is_negative(), "nobody pays more than what is due");
        let lots: BTreeSet<_> = draws.iter().map(|draw| (draw.grant, draw.lot)).collect();
        assert_eq!(lots.len(), draws.len(), "a due and a lot have at most one draw");
        for draw in &draws {
            let closed =
                due.frozen.iter().filter(|frozen| (frozen.grant, frozen.lot) == (draw.grant, draw.lot));
            let closed = total(closed.map(|frozen| frozen.amount));
            let lot = lot_of(draw).expect("a draw names a lot of the result");
            let is_usable = lot.from <= due.at
                && due.at < lot.until
                && grants[lot.grant].voided_at.is_none_or(|voided| due.at < voided)
                && due.grants.as_ref().is_none_or(|grants| grants.contains(&lot.grant));
            assert!(draw.amount.is_positive(), "a draw pays something");
            assert!(is_usable || draw.amount <= closed, "only a lot that may pays, but for closed draws");
        }
        check_closed(due, &draws, paid);
        // Nothing is left unpaid while a lot that might have paid loses or keeps something.
        if drawn.unpaid[index].is_positive() {
            for lot in drawn.lots.iter().filter(|lot| lot.from <= due.at && due.at < lot.until) {
                let may_pay = grants[lot.grant].voided_at.is_none_or(|voided| due.at < voided)
                    && due.grants.as_ref().is_none_or(|grants| grants.contains(&lot.grant));
                let unused = total([lot.expired, lot.voided, lot.balance]);
                assert!(!may_pay || unused.is_zero(), "{} is unused: {lot:?}", unused);
            }
        }
    }
    check_lots(grants, drawn);
}

/// Closed draws stay as far as they are due.
fn check_closed(due: &Due, draws: &[&Draw], paid: Exact) {
    let closed = total(due.frozen.iter().map(|frozen| frozen.amount));
    if due.amount <= closed {
        assert_eq!(paid, due.amount, "what is given back is the surplus");
    }
    let kept_of = |frozen: &FrozenDraw| {
        let kept = draws.iter().find(|draw| (draw.grant, draw.lot) == (frozen.grant, frozen.lot));
        kept.map_or(Exact::ZERO, |draw| draw.amount)
    };
    let partly =
        due.frozen.iter().filter(|frozen| kept_of(frozen) < frozen.amount && kept_of(frozen).is_positive());
    assert!(partly.count() <= 1, "one lot after the other gives back");
    if due.amount >= closed {
        assert!(due.frozen.iter().all(|frozen| kept_of(frozen) >= frozen.amount), "closed draws stay");
    }
}

fn check_lots(grants: &[Grant], drawn: &Drawn) {
    let mut before: Option<&LotState> = None;
    for lot in &drawn.lots {
        let grant = &grants[lot.grant];
        let draws = drawn.draws.iter().filter(|draw| (draw.grant, draw.lot) == (lot.grant, lot.lot));
        assert_eq!(total(draws.map(|draw| draw.amount)), lot.drawn, "a lot's ledger is the sum of its draws");
        let rolled_in =
            before.filter(|before| before.grant == lot.grant).map_or(Exact::ZERO, |lot| lot.rolled);
        assert_eq!(grant.amount.add(rolled_in), Ok(lot.given), "a lot is given its amount, once");
        assert!(lot.rolled <= grant.rollover_max, "a rollover is bounded");
        let parts = [lot.drawn, lot.rolled, lot.expired, lot.voided, lot.balance];
        assert!(parts.iter().all(|part| !part.is_negative()), "{lot:?}");
        assert_eq!(total(parts), lot.given, "{lot:?}");
        before = Some(lot);
    }
}

fn close(dues: &mut [Due], drawn: &Drawn, before: Timestamp) {
    for (index, due) in dues.iter_mut().enumerate().filter(|(_, due)| due.at < before) {
        let of = drawn.draws.iter().filter(|draw| draw.due == index);
        due.frozen = of.map(|d| FrozenDraw { grant: d.grant, lot: d.lot, amount: d.amount }).collect();
    }
}

proptest! {
    #![proptest_config(crate::testing::cases())]

    /// Usage comes late and is corrected, grants are voided into the past and restored, periods close: at every cut each
    /// lot adds up, no lot is overdrawn, closed draws stay, and nothing that could be paid is left unpaid.
    #[test]
    fn every_lot_adds_up_at_every_cut(mut grants in worlds(), steps in prop::collection::vec(step(), 1..6)) {
        let mut dues: Vec<Due> = Vec::new();
        let mut closed = 0;
        for (changes, late, void, closes) in steps {
            for (at, amount, mask) in late {
                dues.push(Due { grants: payers(mask, grants.len()), ..due(at, &amount.to_string()) });
            }
            for (index, amount) in changes {
                if let Some(due) = dues.get_mut(index) {
                    due.amount = Exact::from_integer(amount.into());
                }
            }
            if let Some((index, voided)) = void && let Some(grant) = grants.get_mut(index) {
                grant.voided_at = voided.map(day);
            }
            let drawn = draw(&grants, &dues, &Zone::utc(), day(80)).unwrap();
            check_result(&grants, &dues, &drawn);
            closed = closes.max(closed);
            close(&mut dues, &drawn, day(closed));
            // What did not change gives the same, closed or not, however closed draws are listed.
            for due in &mut dues {
                due.frozen.reverse();
            }
            let again = draw(&grants, &dues, &Zone::utc(), day(80)).unwrap();
            prop_assert_eq!(&again.lots, &drawn.lots);
            prop_assert_eq!(again.unpaid, drawn.unpaid);
        }
    }

    /// Openmeter 4846: the result does not depend on what was cut before. What is later changes nothing earlier, lots are
    /// given once, and a due that arrives in parts of one instant draws what it draws as a whole.
    #[test]
    fn cuts_and_splits_change_nothing(
        grants in worlds(),
        asked in prop::collection::vec((0i64..75, 0u8..30, any::<u8>()), 0..8),
        cut in 0i64..75,
        part in 0u8..30,
    ) {
        let mut asked = asked;
        asked.sort_by_key(|(at, _, _)| *at);
        let of = |(at, amount, mask): &(i64, u8, u8)| {
            Due { grants: payers(*mask, grants.len()), ..due(*at, &amount.to_string()) }
        };
        let dues: Vec<Due> = asked.iter().map(of).collect();
        let whole = draw(&grants, &dues, &Zone::utc(), day(80)).unwrap();
        let known = asked.iter().filter(|(at, _, _)| *at <= cut).count();
        let first = draw(&grants, &dues[..known], &Zone::utc(), day(cut)).unwrap();
        let earlier: Vec<Draw> = whole.draws.iter().copied().filter(|draw| draw.due < known).collect();
        prop_assert_eq!(&first.draws, &earlier);
        let given = |drawn: &Drawn| -> Vec<_> {
            let lots = drawn.lots.iter().filter(|lot| lot.from <= day(cut));
            lots.map(|lot| (lot.grant, lot.lot, lot.from, lot.until, lot.given)).collect()
        };
        prop_assert_eq!(given(&first), given(&whole));
        let parted: Vec<Due> = asked
            .iter()
            .flat_map(|(at, amount, mask)| {
                let part = part.min(*amount);
                [(*at, part, *mask), (*at, amount - part, *mask)]
            })
            .map(|one| of(&one))
            .collect();
        let parted = draw(&grants, &parted, &Zone::utc(), day(80)).unwrap();
        prop_assert_eq!(parted.lots, whole.lots);
    }

    /// Lots of a monthly grant start on its day of the month, or on the last one of a shorter month, once each month.
    #[test]
    fn a_monthly_grant_starts_once_each_month(start in 0i64..1_500, zone in 0usize..4) {
        let zone = ["UTC", "America/New_York", "Europe/Berlin", "Pacific/Apia"][zone];
        let zone = Zone::new(zone).unwrap();
        let mut monthly = grant("g", "1", 0, 1, None);
        monthly.recurrence = Some(Recurrence::Monthly);
        monthly.from = Timestamp::parse("2023-01-01T12:00:00Z").unwrap().plus(start * DAY);
        let (starts, _) = monthly.starts(&zone, monthly.from.plus(800 * DAY), 0);
        let anchor = zone.date_of(monthly.from);
        let mut period = zone.period_of(monthly.from);
        for start in starts {
            prop_assert_eq!(zone.period_of(start), period);
            let last = Period::last_day(period);
            let date = zone.date_of(start);
            let (anchored, last) = (&anchor[8..], &last[8..]);
            prop_assert_eq!(&date[8..], anchored.min(last), "{}", &date);
            period = period.next();
        }
    }
}
