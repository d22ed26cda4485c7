//! Quantities as a person writes them: `1234.5`, `tokens=1000`, `tokens=1000@model=chat@region=eu`, `0,100,1000`; a row of `100, 200` has spaces
//! where its commas could separate thousands.
//!
//! Owns: reading them, and which meter and group they are of. Leaves to others: what they cost.
//!
//! Invariants: a quantity is one that its meter can measure. Zero is silence: nothing was used.

use std::collections::BTreeMap;

use domain::{Decimal, GroupTexts, Timestamp};

use super::Selection;
use super::metering::{Use, admitted};
use super::status::QuoteStatus;
use crate::catalog::{Catalog, Meter};

/// What a person wrote, in parts.
struct Written<'a> {
    meter: Option<&'a str>,
    quantities: Vec<Decimal>,
    dimensions: GroupTexts,
}

/// What was used at an instant, by the quantities that a person wrote: one list for each bill. Several quantities in a
/// row are bills of their own; several texts are one bill together.
///
/// # Errors
/// The first broken rule of the first text that breaks one.
pub fn uses_of(
    catalog: &Catalog,
    selection: &Selection<'_>,
    texts: &[String],
    at: Timestamp,
) -> Result<Vec<Vec<Use>>, QuoteStatus> {
    let mut bill: Vec<Use> = Vec::new();
    for text in texts {
        let written = read(text)?;
        let meter = meter_of(catalog, selection, written.meter)?;
        let foreign = written
            .dimensions
            .iter()
            .map(|(name, _)| name)
            .find(|name| !meter.group_by.iter().any(|known| known == name));
        if let Some(foreign) = foreign {
            let (id, known) = (meter.id.to_string(), meter.group_by.clone());
            return Err(QuoteStatus::DimensionMustBeGroupedBy(id, foreign.to_string(), known));
        }
        let mut row = Vec::new();
        for quantity in written.quantities {
            let value = admitted(meter, quantity);
            let value =
                value.map_err(|reason| QuoteStatus::QuantityMustFitMeter(meter.id.to_string(), reason))?;
            let (meter, group) = (meter.id.clone(), written.dimensions.clone());
            row.push(Use { meter, group, time: at, value });
        }
        let used = |row: Vec<Use>| row.into_iter().filter(|one| !one.value.is_zero());
        if row.len() > 1 {
            if texts.len() > 1 {
                return Err(QuoteStatus::RowOfQuantitiesMustBeAlone);
            }
            return Ok(row.into_iter().map(|one| used(vec![one]).collect()).collect());
        }
        for one in used(row) {
            if bill.iter().any(|other| other.meter == one.meter && other.group == one.group) {
                return Err(QuoteStatus::QuantityMustBeNamedOnce(one.meter.to_string()));
            }
            bill.push(one);
        }
    }
    Ok(vec![bill])
}

/// Reads `[METER=]N[,N…][@DIMENSION=TEXT…]`.
fn read(text: &str) -> Result<Written<'_>, QuoteStatus> {
    let mut parts = text.split('@');
    let head = parts.next().unwrap_or_default();
    let (meter, numbers) = head.split_once('=').map_or((None, head), |(meter, rest)| (Some(meter), rest));
    let number = |text: &str| {
        let unreadable = |status| QuoteStatus::QuantityMustBeDecimal(text.to_string(), status);
        Decimal::parse(text.trim()).map_err(unreadable)
    };
    if has_thousands(numbers) {
        return Err(QuoteStatus::QuantityMustHaveNoThousands(numbers.to_string()));
    }
    let quantities = numbers.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
    let mut dimensions: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<&str> = None;
    for part in parts {
        match (part.split_once('='), last) {
            (Some((name, text)), _) => {
                dimensions.insert(name.to_string(), text.to_string());
                last = Some(name);
            }
            // An `@` inside a text.
            (None, Some(name)) => {
                let text: &mut String = dimensions.entry(name.to_string()).or_default();
                text.push('@');
                text.push_str(part);
            }
            (None, None) => return Err(QuoteStatus::DimensionMustHaveText(part.to_string())),
        }
    }
    Ok(Written { meter, quantities, dimensions: dimensions.into_iter().collect() })
}

/// Whether all commas stand where they separate thousands: in `1,000`, and neither in `0,100` nor in `1, 000`.
fn has_thousands(numbers: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = numbers.split_once('.').map_or((numbers, None), |(w, f)| (w, Some(f)));
    let mut groups = whole.trim_start_matches('-').split(',');
    let first = groups.next().unwrap_or_default();
    let starts = is_digits(first) && first.len() <= 3 && !first.starts_with('0');
    let groups: Vec<&str> = groups.collect();
    let are_thousands = groups.iter().all(|group| is_digits(group) && group.len() == 3);
    starts && !groups.is_empty() && are_thousands && fraction.is_none_or(is_digits)
}

/// The meter that a quantity is of: the one that is named, or the only one.
fn meter_of<'a>(
    catalog: &'a Catalog,
    selection: &Selection<'_>,
    name: Option<&str>,
) -> Result<&'a Meter, QuoteStatus> {
    let meters = selection.meters();
    let names = || meters.iter().map(|meter| meter.to_string()).collect::<Vec<String>>();
    let id = match (name, meters.as_slice()) {
        (Some(name), _) => meters.iter().find(|meter| meter.as_str() == name),
        (None, [only]) => Some(only),
        (None, []) => None,
        (None, _) => return Err(QuoteStatus::QuantityMustNameMeter(names())),
    };
    let unpriced = || QuoteStatus::MeterMustBePriced(name.unwrap_or("any meter").to_string(), names());
    id.and_then(|id| catalog.meter(id)).ok_or_else(unpriced)
}
