//! What is easily got wrong. Owns: back-dated voids, the order of giving back, lots that are used up, as tables.

use super::*;

fn monthly(id: &str, amount: &str, from: i64, rollover_max: &str) -> Grant {
    Grant {
        recurrence: Some(Recurrence::Monthly),
        rollover_max: exact(rollover_max),
        ..grant(id, amount, 0, from, None)
    }
}

fn closed(at: i64, amount: &str, frozen: &[(usize, usize, &str)]) -> Due {
    let of = |(grant, lot, amount): &(usize, usize, &str)| FrozenDraw {
        grant: *grant,
        lot: *lot,
        amount: exact(amount),
    };
    Due { frozen: frozen.iter().map(of).collect(), ..due(at, amount) }
}

/// Lots as `grant#lot given drawn rolled expired voided balance`.
fn lots(grants: &[Grant], dues: &[Due], as_of: i64) -> Vec<String> {
    let drawn = draw(grants, dues, &Zone::utc(), day(as_of)).unwrap();
    let shown = |lot: &LotState| {
        let parts = [lot.given, lot.drawn, lot.rolled, lot.expired, lot.voided, lot.balance];
        let parts: Vec<String> = parts.iter().map(Exact::to_string).collect();
        format!("{}#{} {}", grants[lot.grant].id, lot.lot, parts.join(" "))
    };
    drawn.lots.iter().map(shown).collect()
}

#[test]
fn a_void_before_closed_draws_keeps_what_they_need_of_a_rollover() {
    let mut grants = [monthly("g", "100", 1, "100")];
    // February drew 180: its own 100, and 80 that January left.
    let dues = [due(5, "20"), closed(40, "180", &[(0, 1, "180")])];
    grants[0].voided_at = Some(day(15));
    check(&grants, &dues, 70, &["0:g#0 20", "1:g#1 180"], &["0", "0"]);
    assert_eq!(lots(&grants, &dues, 70), ["g#0 100 20 80 0 0 0", "g#1 180 180 0 0 0 0"]);
    // Whatever is due after the void finds nothing.
    let late = [due(5, "10"), closed(40, "180", &[(0, 1, "180")]), due(41, "1"), due(16, "1")];
    check(&grants, &late, 70, &["0:g#0 10", "1:g#1 180"], &["0", "0", "1", "1"]);
    assert_eq!(lots(&grants, &late, 70), ["g#0 100 10 80 0 10 0", "g#1 180 180 0 0 0 0"]);
}

#[test]
fn a_voided_grant_is_not_given_again() {
    let mut grants = [monthly("g", "100", 1, "30")];
    for voided_at in [15, 32] {
        grants[0].voided_at = Some(day(voided_at));
        assert_eq!(lots(&grants, &[due(5, "20")], 200), ["g#0 100 20 0 0 80 0"], "voided on day {voided_at}");
    }
    grants[0].voided_at = Some(day(33));
    assert_eq!(lots(&grants, &[due(5, "20")], 50), ["g#0 100 20 30 50 0 0", "g#1 130 0 0 0 130 0"]);
    // A lot from the void on is there as long as closed draws stay in it.
    let february = |amount: &str| {
        [closed(5, "20", &[]), Due { amount: exact(amount), ..closed(40, "60", &[(0, 1, "60")]) }]
    };
    grants[0].voided_at = Some(day(15));
    assert_eq!(lots(&grants, &february("9"), 200), ["g#0 100 20 0 0 80 0", "g#1 100 9 0 0 91 0"]);
    assert_eq!(lots(&grants, &february("0"), 200), ["g#0 100 20 0 0 80 0"]);
    // Voided before it starts, or just as it expires anyway.
    let never = [Grant { voided_at: Some(day(1)), ..grant("g", "9", 0, 3, None) }];
    assert_eq!(lots(&never, &[due(5, "1")], 9), ["g#0 9 0 0 0 9 0"]);
    let expired = [Grant { voided_at: Some(day(7)), ..grant("g", "9", 0, 3, Some(7)) }];
    assert_eq!(lots(&expired, &[due(5, "1")], 9), ["g#0 9 1 0 8 0 0"]);
    let in_time = [Grant { voided_at: Some(day(6)), ..grant("g", "9", 0, 3, Some(7)) }];
    assert_eq!(lots(&in_time, &[], 9), ["g#0 9 0 0 0 9 0"]);
}

#[test]
fn closed_draws_are_given_back_in_reverse_burn_order_however_they_are_listed() {
    // The lot of the monthly grant ends on 1 February, before the other grant expires: it burns first.
    let grants = [monthly("monthly", "10", 1, "0"), grant("expiring", "10", 0, 1, Some(60))];
    for frozen in [[(0, 0, "10"), (1, 0, "5")], [(1, 0, "5"), (0, 0, "10")]] {
        check(&grants, &[closed(2, "12", &frozen)], 9, &["0:monthly#0 10", "0:expiring#0 2"], &["0"]);
        check(&grants, &[closed(2, "7", &frozen)], 9, &["0:monthly#0 7"], &["0"]);
    }
}

#[test]
fn closed_draws_stay_with_the_pieces_of_what_they_paid_for_whatever_was_voided_since() {
    let mut grants = [grant("first", "60", 0, 1, None), grant("then", "100", 1, 1, None)];
    let frozen = [(1, 0, "30"), (0, 0, "60")];
    let split = |before: &str, after: &str| {
        [Due { pieces: vec![1], ..closed(2, before, &frozen) }, due(5, after), due(6, "1")]
    };
    for voided_at in [None, Some(day(5))] {
        grants[0].voided_at = voided_at;
        // What burned first is for what came first.
        check(
            &grants,
            &split("50", "40"),
            9,
            &["0:first#0 50", "1:first#0 10", "1:then#0 30", "2:then#0 1"],
            &["0", "0", "0"],
        );
        // What the pieces do not take is given back, the last to burn first; a due that grew draws on what is left.
        check(
            &grants,
            &split("50", "15"),
            9,
            &["0:first#0 50", "1:first#0 10", "1:then#0 5", "2:then#0 1"],
            &["0", "0", "0"],
        );
    }
    check(&grants, &split("0", "40"), 9, &["1:first#0 40", "2:then#0 1"], &["0", "0", "0"]);
    check(&grants, &split("50", "0"), 9, &["0:first#0 50", "2:then#0 1"], &["0", "0", "0"]);
    // Given back, and voided.
    assert_eq!(lots(&grants, &split("50", "0"), 9)[0], "first#0 60 50 0 0 10 0");
    // Draws of its own come first, and leave less room.
    let own = Due { pieces: vec![1], ..closed(2, "10", &[(0, 0, "30")]) };
    let dues = [own, closed(5, "25", &[(1, 0, "20")])];
    check(&grants, &dues, 9, &["0:first#0 10", "1:then#0 20", "1:first#0 5"], &["0", "0"]);
}

#[test]
fn lots_are_those_of_the_last_due_where_it_lies_after_the_cut() {
    let grants = [monthly("g", "100", 1, "0")];
    assert_eq!(lots(&grants, &[due(40, "60")], 20), ["g#0 100 0 0 100 0 0", "g#1 100 60 0 0 0 40"]);
}

#[test]
fn ten_thousand_used_up_grants_cost_nothing_to_pass() {
    let mut grants: Vec<Grant> = (0..10_000).map(|n| grant(&format!("g{n}"), "1", 0, 1, None)).collect();
    grants.push(grant("last", "1000000", 1, 1, None));
    let frozen: Vec<FrozenDraw> =
        (0..10_000).map(|grant| FrozenDraw { grant, lot: 0, amount: Exact::ONE }).collect();
    let mut dues = vec![Due { frozen, ..due(1, "10000") }];
    dues.extend((0..10_000).map(|n| due(2 + n % 20, "1")));
    let drawn = draw(&grants, &dues, &Zone::utc(), day(30)).unwrap();
    assert_eq!(drawn.draws.len(), 20_000);
    assert_eq!(drawn.lots[10_000].balance, exact("990000"));
}
