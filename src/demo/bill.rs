//! One January bill, explained tier by tier, and what the late events changed.
//!
//! Owns: the telling of one bill. Leaves to others: the explanation itself (`billing::rating`).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use billing::catalog::{Catalog, CatalogFile};
use billing::charges::ChargeLine;
use billing::rating::{Measure, SliceMeasure, WindowTerms, explain};
use domain::{Exact, Period, PriceId};

use crate::proofs::Proofs;
use crate::story::Story;
use crate::{grouped, late_events};

/// 7: the January bill of the account with the largest share.
pub(crate) fn explain_january(lines: &[ChargeLine], story: &Story, proofs: &mut Proofs) -> Result<()> {
    let account = &story.accounts[0];
    println!("7 · The January bill of {}, explained\n", account.name);
    let mut catalog = Catalog::default();
    for (offset, resource) in CatalogFile::parse(&story.catalog())?.resources().into_iter().enumerate() {
        catalog.apply(resource, offset as u64)?;
    }
    let window = story.new_york.month(Period::parse("2026-01")?);
    let january: Vec<&ChargeLine> =
        lines.iter().filter(|line| line.account.as_str() == account.id && line.window == window).collect();
    let mut quantities: BTreeMap<&PriceId, (Exact, i128)> = BTreeMap::new();
    for line in &january {
        let price = line.price.as_ref().context("the demo charges prices only")?;
        let sum = quantities.entry(price).or_insert((Exact::ZERO, 0));
        sum.0 = sum.0.add(line.quantity_after.subtract(line.quantity_before)?)?;
        sum.1 += line.rounded_minor();
    }
    let mut total = 0;
    for (price, (quantity, charged)) in quantities {
        let timeline = catalog.price(price).context("a charge names a price of the catalog")?;
        let currency = january.first().context("the account was charged")?.currency;
        let terms = WindowTerms {
            price: timeline,
            window,
            active: &[window.into()],
            group: &domain::GroupTexts::NONE,
            zone: &story.new_york,
            currency,
            as_of: window.until,
            is_continued: false,
            elsewhere: None,
        };
        let measure = Measure::Scalar(quantity);
        let measure =
            SliceMeasure { slice: window, measure, covered: Exact::ZERO, event_count: 1, event_digest: 0 };
        let slices = if quantity.is_zero() { Vec::new() } else { vec![measure] };
        let explanation = explain(&terms, &slices)?;
        println!("  {price}");
        for line in explanation.to_string().lines() {
            println!("    {line}");
        }
        proofs.equal(&format!("{price}: charged = explained"), charged, explanation.rounded);
        total += charged;
    }
    let currency = january.first().context("the account was charged")?.currency;
    println!("  total {} {currency}\n", grouped(&currency.format_minor(total)));

    let corrections: Vec<&&ChargeLine> = january.iter().filter(|line| line.corrects.is_some()).collect();
    let sum: i128 = corrections.iter().map(|line| line.rounded_minor()).sum();
    let events: i64 = corrections
        .iter()
        .filter(|line| line.price.as_ref().is_some_and(|price| price.as_str().ends_with("-output")))
        .map(|l| l.event_count)
        .sum();
    println!(
        "  {} events of 30 January came late, to all accounts. Those of 3 February changed the next provisional lines;",
        late_events()
    );
    println!(
        "  those of 12 February came after January was final: for {} {events} events, {} corrections,",
        account.name,
        corrections.len()
    );
    println!(
        "  {} {currency}, posted to February and naming January\n",
        grouped(&currency.format_minor(sum))
    );
    let is_february = corrections.iter().all(|line| line.period.to_string() == "2026-02");
    proofs.hold("corrections post to the first open period", is_february, "a correction posts elsewhere");
    Ok(())
}
