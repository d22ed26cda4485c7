//! Rules of what is new: those that came after records which break them could be written.
//!
//! Owns: these rules. Leaves to others: the rules that every record keeps (`super`).
//!
//! Invariants: replay never asks for them, so a log from before them is read as it was written; what a catalog has already is put
//! again without them.

use domain::{Currency, Decimal, Exact, Timestamp};

use super::{Catalog, Change, Resource};
use crate::catalog::agreement::Commitment;
use crate::catalog::price::{Price, PricingModel, Tier};
use crate::catalog::status::{CatalogStatus, Rule};
use crate::catalog::timeline::{PriceTimeline, PriceVersion};
use crate::rating::AMOUNT_MINOR_MAX;
use crate::rating::models::{Matrix, Model, RowMatch};

impl Catalog {
    /// What taking a resource that somebody puts would change.
    ///
    /// # Errors
    /// As [`Catalog::check`]; then, if it changes anything, the rules of what is new.
    pub fn admit(&self, resource: &Resource) -> Result<Change, CatalogStatus> {
        let change = self.check(resource)?;
        if change == Change::Unchanged {
            return Ok(change);
        }
        let held = match resource {
            Resource::Price(price) => self.check_new_price(price),
            Resource::Commitment(commitment) => self.check_quantity(commitment),
            _ => Ok(()),
        };
        held.map(|()| change).map_err(|rule| CatalogStatus {
            kind: resource.kind(),
            id: resource.id().to_string(),
            rule,
        })
    }

    fn check_new_price(&self, price: &Price) -> Result<(), Rule> {
        if let Some(plan) = self.plan(&price.plan) {
            check_amounts(price, plan.currency)?;
        }
        let terms = price.terms()?;
        if prices_all(&terms.model) {
            return Ok(());
        }
        let from = price.effective_from.unwrap_or(Timestamp::MIN);
        let commits = |commitment: &&Commitment| {
            commitment.quantity.is_some() && commitment.prices.contains(&price.id) && from < commitment.until
        };
        let committed = self.commitments.values().map(|timeline| timeline.first()).find(commits);
        committed.map_or(Ok(()), |commitment| Err(unpriced(commitment, price)))
    }

    /// Whether the price of a quantity that is committed to prices it, in every version that holds in the term.
    fn check_quantity(&self, commitment: &Commitment) -> Result<(), Rule> {
        if commitment.quantity.is_none() {
            return Ok(());
        }
        let Some(price) = commitment.prices.first().and_then(|id| self.price(id)) else { return Ok(()) };
        let inside = |at: &Timestamp| commitment.from < *at && *at < commitment.until;
        let starts = [commitment.from].into_iter().chain(price.changes().into_iter().filter(inside));
        let version_at = |at| PriceTimeline::version_at(price, at);
        let prices = |version: &&PriceVersion| prices_all(&version.terms.model);
        match starts.filter_map(version_at).find(|version| !prices(version)) {
            Some(version) => Err(unpriced(commitment, &version.price)),
            None => Ok(()),
        }
    }
}

/// Whether a model prices units of no group: a matrix does with a row for all.
fn prices_all(model: &Model) -> bool {
    match model {
        Model::Matrix(matrix) => matches!(Matrix::row_of(matrix, &Default::default()), Ok(RowMatch::Row(_))),
        _ => true,
    }
}

fn unpriced(commitment: &Commitment, price: &Price) -> Rule {
    Rule::QuantityMustBePriced(format!(
        "commitment {} commits to a quantity of price {}, a matrix that",
        commitment.id, price.id
    ))
}

/// The bounds of a price's amounts, each with its place in the price.
fn check_amounts(price: &Price, currency: Currency) -> Result<(), Rule> {
    let most = Exact::new(AMOUNT_MINOR_MAX, currency.exponent().into());
    for (place, name, amount) in amounts_of(price) {
        let exact = Exact::from(amount);
        if exact.abs() > most {
            let what = "is more than the 10^27 minor units that a window may be worth";
            return Err(Rule::PriceAmountMustHold(format!("{place} {what}")));
        }
        if amount.is_negative() && matches!(name, "flat_cap" | "free_amount") {
            return Err(Rule::PriceAmountMustHold(format!("{place} must be zero or more")));
        }
    }
    Ok(())
}

/// The amounts of a price: the place, as `tiers[1].flat_cap`, its last name, and the amount.
fn amounts_of(price: &Price) -> Vec<(String, &'static str, Decimal)> {
    let is_share = price.model == PricingModel::GraduatedPercentage;
    let mut amounts = Vec::new();
    let mut add = |place: String, name, amount: Option<Decimal>| {
        amounts.extend(amount.map(|amount| (format!("{place}{name}"), name, amount)));
    };
    for (name, amount) in [
        ("unit_amount", price.unit_amount),
        ("fixed_amount", price.fixed_amount),
        ("free_amount", price.free_amount),
        ("event_min", price.event_min),
        ("event_max", price.event_max),
    ] {
        add(String::new(), name, amount);
    }
    let mut tiers = |place: &str, tiers: &[Tier]| {
        for (index, tier) in tiers.iter().enumerate() {
            let place = format!("{place}tiers[{index}].");
            add(place.clone(), "unit_amount", tier.unit_amount.filter(|_| !is_share));
            add(place.clone(), "flat_amount", tier.flat_amount);
            add(place, "flat_cap", tier.flat_cap);
        }
    };
    tiers("", price.tiers.as_deref().unwrap_or_default());
    for (index, row) in price.rows.iter().flatten().enumerate() {
        tiers(&format!("rows[{index}]."), row.tiers.as_deref().unwrap_or_default());
    }
    for (index, row) in price.rows.iter().flatten().enumerate() {
        add(format!("rows[{index}]."), "unit_amount", row.unit_amount);
    }
    for (index, step) in price.steps.iter().flatten().enumerate() {
        add(format!("steps[{index}]."), "amount", Some(step.amount));
    }
    amounts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::catalog::CatalogFile;
    use crate::catalog::resource::ResourceKind;

    const FILE: &str = r#"catalog = 1
        entity = [{ id = "inc", currency = "USD", time_zone = "UTC" }]
        account = [{ id = "acme", name = "Acme", entity = "inc", currency = "USD", time_zone = "UTC" }]
        meter = [{ id = "calls", event_type = "call", aggregation = "count", group_by = ["model"] }]
        plan = [{ id = "pro", currency = "USD" }]
        [[price]]
        id = "bare"
        plan = "pro"
        meter = "calls"
        window = "month"
        model = "matrix"
        rows = [{ when = { model = "large" }, unit_amount = "2" }]
    "#;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (offset, resource) in CatalogFile::parse(FILE).unwrap().resources().into_iter().enumerate() {
            catalog.apply(resource, offset as u64).unwrap();
        }
        catalog
    }

    fn resource(kind: ResourceKind, id: &str, body: Value) -> Resource {
        Resource::from_json(kind, id, body).unwrap()
    }

    fn committed(price: &str) -> Resource {
        resource(
            ResourceKind::Commitments,
            "units",
            json!({ "account": "acme", "shape": "none", "quantity": "100", "prices": [price],
                "from": "2026-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z" }),
        )
    }

    fn price(id: &str, fields: Value) -> Resource {
        let mut body = json!({ "plan": "pro", "window": "month" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        resource(ResourceKind::Prices, id, body)
    }

    fn matrix(from: &str, rows: Value) -> Resource {
        let fields = json!({ "meter": "calls", "model": "matrix", "effective_from": from, "rows": rows });
        price("bare", fields)
    }

    fn refused(catalog: &Catalog, resource: &Resource) -> String {
        assert!(catalog.check(resource).is_ok(), "a log may have it");
        let status = catalog.admit(resource).unwrap_err();
        format!("{} {status}", status.rule.name())
    }

    #[test]
    fn a_quantity_that_no_row_prices_is_refused_whichever_comes_last() {
        // Every cut of the account failed: the quantity is of no group, and the matrix had no row for it.
        let mut catalog = catalog();
        let expected = "quantity_must_be_priced commitment units: commitment units commits to a quantity of price bare, a matrix that \
                        has no row for it; add a row without dimensions, or commit to an amount";
        assert_eq!(refused(&catalog, &committed("bare")), expected);
        let rows = json!([{ "when": { "model": "large" }, "unit_amount": "2" }, { "unit_amount": "1" }]);
        let bare = json!([{ "when": { "model": "large" }, "unit_amount": "3" }]);
        // A row for all from the middle of the term on mends only that part of it.
        catalog.apply(matrix("2026-07-01T00:00:00Z", rows.clone()), 20).unwrap();
        assert_eq!(refused(&catalog, &committed("bare")), expected);
        catalog.apply(matrix("2026-01-01T00:00:00Z", rows), 21).unwrap();
        assert_eq!(catalog.admit(&committed("bare")), Ok(Change::Create));
        catalog.apply(committed("bare"), 22).unwrap();
        let later = refused(&catalog, &matrix("2026-09-01T00:00:00Z", bare.clone()));
        assert!(later.starts_with("quantity_must_be_priced price bare: "), "{later}");
        let after_the_term = matrix("2027-01-01T00:00:00Z", bare);
        assert!(catalog.admit(&after_the_term).is_ok());
        // What is there already is no change.
        assert_eq!(catalog.admit(&committed("bare")), Ok(Change::Unchanged));
    }

    #[test]
    fn amounts_that_no_bill_can_have_are_refused_where_they_stand() {
        let catalog = catalog();
        let huge = "10000000000000000000000000.01";
        let tier = |fields: Value| {
            json!({ "meter": "calls", "model": "graduated", "tiers": [
            { "up_to": "5", "unit_amount": "1" }, fields] })
        };
        for (fields, expected) in [
            (
                json!({ "model": "flat", "unit_amount": huge }),
                "unit_amount is more than the 10^27 minor units",
            ),
            (tier(json!({ "unit_amount": huge })), "tiers[1].unit_amount is more than"),
            (tier(json!({ "unit_amount": "1", "flat_cap": "-1" })), "tiers[1].flat_cap must be zero or more"),
            (
                json!({ "meter": "calls", "model": "matrix", "rows": [{ "tiers": [{ "unit_amount": "1", "flat_cap": "-1" }] }] }),
                "rows[0].tiers[0].flat_cap must be zero or more",
            ),
            (
                json!({ "meters": ["calls"], "model": "capacity", "steps": [{ "amount": huge }] }),
                "steps[0].amount is more than",
            ),
        ] {
            let said = refused(&catalog, &price("new", fields.clone()));
            assert!(said.starts_with(&format!("price_amount_must_hold price new: {expected}")), "{said}");
        }
        let most = json!({ "model": "flat", "unit_amount": "10000000000000000000000000" });
        assert_eq!(catalog.admit(&price("new", most)), Ok(Change::Create));
    }
}
