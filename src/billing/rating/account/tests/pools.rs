//! Pools of accounts: what the parent agreed to holds for all, what another account did for itself.

use super::*;

/// Ten calls of each of three accounts, at a dollar.
fn pool(agreed: &str) -> World {
    let accounts = r#"account = [
        { id = "acme", name = "Acme", entity = "inc", currency = "USD", time_zone = "UTC" },
        { id = "north", name = "North", entity = "inc", currency = "USD", time_zone = "UTC", parent = "acme" },
        { id = "south", name = "South", entity = "inc", currency = "USD", time_zone = "UTC", parent = "acme" },
    ]"#;
    let subscriptions = r#"subscription = [
        { id = "s1", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z" },
        { id = "s2", account = "north", plan = "pro", from = "2026-01-01T00:00:00Z" },
        { id = "s3", account = "south", plan = "pro", from = "2026-01-01T00:00:00Z" },
    ]"#;
    World::with_accounts(accounts, &[CALLS, subscriptions, agreed]).used(&[("calls", "01-03", 10)])
}

#[test]
fn what_the_parent_agreed_to_holds_for_all_and_what_another_account_did_for_itself() {
    for (agreed, expected) in [
        // The grant of north is first, and pays nothing of acme and south; what is left of the month is of the other.
        (
            r#"grant = [
                { id = "all", account = "acme", kind = "paid", amount = "15", priority = 2, from = "2026-01-01T00:00:00Z" },
                { id = "own", account = "north", kind = "paid", amount = "25", priority = 1, from = "2026-01-01T00:00:00Z" },
            ]"#,
            &["acme credit all -1000", "north credit own -1000", "south credit all -500"][..],
        ),
        // A tenth of 30, and a half of what is left of north.
        (
            r#"discount = [
                { id = "all", account = "acme", percent = "10", priority = 1, from = "2026-01-01T00:00:00Z" },
                { id = "own", account = "north", percent = "50", priority = 2, from = "2026-01-01T00:00:00Z" },
            ]"#,
            &[
                "acme discount all -100",
                "north discount all -100",
                "north discount own -450",
                "south discount all -100",
            ],
        ),
        // 30 count for the one, 10 for the other.
        (
            r#"commitment = [
                { id = "all", account = "acme", shape = "none", amount = "31", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z" },
                { id = "own", account = "north", shape = "none", amount = "12", from = "2026-01-01T00:00:00Z", until = "2026-02-01T00:00:00Z" },
            ]"#,
            &["acme true_up all 100", "north true_up own 200"],
        ),
    ] {
        let lines = pool(agreed).bill(instant("02-01")).into_iter();
        let lines = lines.filter(|line| line.key.component != Component::Charge);
        let mut shown: Vec<String> = lines
            .map(|line| {
                let component = serde_json::to_value(line.key.component).unwrap();
                let component = component.as_str().unwrap();
                format!("{} {component} {} {}", line.key.account, line.key.term, line.rounded)
            })
            .collect();
        shown.sort();
        assert_eq!(shown, expected, "{agreed}");
    }
}
