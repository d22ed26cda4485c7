//! The families: one list of names, and how a case becomes an answer.
//!
//! Owns: which function computes which family, and the line that is printed. Leaves to others: the families, one file for
//! each group of them.

use serde_json::{Map, Value, json};

use crate::case::{Case, Stop};
use crate::json::{Fields, plain_text};
use crate::values::Values;
use crate::{
    burndown, credits, documents, events, imported, levels, measures, metering, models, proration, runs,
    terms, usage, windows,
};

/// Computes one family.
type Family = fn(&Case<'_>) -> Result<Values, Stop>;

/// The families of rating, by the `check` of a case.
const RATING: &[(&str, Family)] = &[
    ("per_unit", models::per_unit),
    ("grouped_per_unit", models::grouped_per_unit),
    ("flat", models::flat),
    ("graduated", models::graduated),
    ("graduated_delta", models::graduated_delta),
    ("volume", models::volume),
    ("not_progressive", models::not_progressive),
    ("package", models::package),
    ("package_delta", models::package_delta),
    ("bucketed", models::bucketed),
    ("convert", models::convert),
    ("converted_unit", models::converted_unit),
    ("converted_unit_delta", models::converted_unit_delta),
    ("allowance", models::allowance),
    ("capacity", models::capacity),
    ("graduated_percentage", models::graduated_percentage),
    ("converted_price", models::converted_price),
    ("grouped_converted", models::grouped_converted),
    ("percentage", events::percentage),
    ("dynamic", events::dynamic),
    ("dynamic_grouped", events::dynamic_grouped),
    ("matrix", events::matrix),
    ("prorated_graduated", events::prorated_graduated),
    ("weighted_sum", levels::weighted_sum),
    ("granule_fold", levels::granule_fold),
    ("unique_count", measures::unique_count),
    ("ratio_units", measures::ratio_units),
    ("prorated_sum", measures::prorated_sum),
    ("increment_up", measures::increment_up),
    ("killbill", imported::killbill),
    ("killbill_multi", imported::killbill_multi),
    ("duration", imported::duration),
    ("reservation", imported::reservation),
    ("minmax", terms::minmax),
    ("minmax_gross", terms::minmax_gross),
    ("minmax_inner", terms::minmax_inner),
    ("cap_discount", terms::cap_discount),
    ("cap_simple", terms::cap_simple),
    ("clamp_cost", terms::clamp_cost),
    ("true_up", terms::true_up),
    ("commit_ratio", terms::commit_ratio),
    ("cumulative_commit", terms::cumulative_commit),
    ("cumulative_commit_alloc", terms::cumulative_commit_alloc),
    ("credits_inner", terms::credits_inner),
    ("window_commit", windows::window_commit),
    ("window_commit_each", windows::window_commit_each),
    ("burn", credits::burn),
    ("burn_phases", credits::burn_phases),
    ("rollover", credits::rollover),
    ("wallets_in_order", credits::wallets_in_order),
    ("wallet_taxed", credits::wallet_taxed),
    ("per_unit_rate", credits::per_unit_rate),
    ("void_round", credits::void_round),
    ("cascade", credits::cascade),
    ("delta_runs", runs::delta_runs),
    ("period_preserving", runs::period_preserving),
    ("threshold", runs::threshold),
    ("pb_term", runs::pb_term),
    ("usage_discount", runs::usage_discount),
    ("prorate", proration::prorate),
    ("prorate_periods", proration::prorate_periods),
    ("prorate_parts", proration::prorate_parts),
    ("prorate_seconds", proration::prorate_seconds),
    ("swap", proration::swap),
    ("swap_charge", proration::swap),
    ("cap_credit", proration::cap_credit),
    ("units_ratio", proration::units_ratio),
    ("allocate", documents::allocate),
    ("distribute", documents::distribute),
    ("discounts", documents::discounts),
    ("coupon_tax", documents::coupon_tax),
    ("taxes", documents::taxes),
    ("round", documents::round),
    ("sum_rounded", documents::sum_rounded),
    ("drift", documents::drift),
    ("last_absorbs", documents::last_absorbs),
];

/// The kinds of metering, by the `kind` of a case.
const METERING: &[(&str, Family)] = &[
    ("parse_value", metering::parse_value),
    ("parse_group", metering::parse_group),
    ("parse_time", metering::parse_time),
    ("rounding", metering::rounding),
    ("expression", metering::expression),
    ("entitlement", metering::entitlement),
    ("boundary", usage::boundary),
    ("aggregate", usage::aggregate),
    ("aggregate_empty", usage::aggregate_empty),
    ("running", usage::running),
    ("dedup", usage::dedup),
    ("dedup_filtered", usage::dedup),
    ("aggregate_asof", usage::aggregate_asof),
    ("windowed", usage::windowed),
    ("grouped", usage::grouped),
    ("grouped_unique", usage::grouped_unique),
    ("filtered", usage::filtered),
    ("unique_set", measures::unique_set),
    ("prorated_unique", measures::prorated_unique),
    ("prorated_sum", measures::prorated_sum_of_events),
    ("prorated_flat", measures::prorated_flat),
    ("prorated_sum_recurring", measures::prorated_sum_recurring),
    ("prorated_in_advance", measures::prorated_in_advance),
    ("weighted_sum", levels::weighted_sum_of_events),
    ("credit_burndown", burndown::credit_burndown),
    ("credit_burndown_scale", credits::credit_burndown_scale),
    ("window_commitment", windows::window_commitment),
    ("commitment", windows::commitment),
    ("bucketed_tier", windows::bucketed_tier),
    ("unit_rounding", windows::unit_rounding),
];

/// What is printed for a case.
pub(crate) fn answer(fields: &Fields) -> Map<String, Value> {
    let id = fields.get("id").and_then(plain_text).unwrap_or_default();
    // An assertion that fails in one case must not hide the answers to the others.
    let outcome = std::panic::catch_unwind(|| computed(fields));
    let outcome = outcome.unwrap_or_else(|_| Err(Stop::Broken("an assertion failed".to_string())));
    let (status, values, reason) = match outcome {
        Ok(values) => ("computed", values.into_fields(), None),
        Err(Stop::Refused) => ("computed", Values::new().with("error", true).into_fields(), None),
        Err(Stop::Unsupported(reason)) => ("unsupported", Map::new(), Some(reason)),
        Err(Stop::Broken(reason)) => ("error", Map::new(), Some(reason)),
    };
    let mut line = Map::new();
    line.insert("id".to_string(), json!(id));
    line.insert("status".to_string(), json!(status));
    line.insert("values".to_string(), Value::Object(values));
    if let Some(reason) = reason {
        line.insert("reason".to_string(), json!(reason));
    }
    line
}

fn computed(fields: &Fields) -> Result<Values, Stop> {
    let case = Case::new(fields);
    let named = |key: &str| fields.get(key).and_then(plain_text);
    let (families, name) = match (named("check"), named("kind")) {
        (Some(check), _) => (RATING, check),
        (None, Some(kind)) => (METERING, kind),
        (None, None) => return Err(Stop::Unsupported("a case without `check` or `kind`".to_string())),
    };
    let family = families.iter().find(|(family, _)| *family == name);
    let Some((_, family)) = family else { return Err(Stop::Unsupported(format!("the family {name}"))) };
    let mut values = family(&case)?;
    if let Some(unit) = case.text("amounts_in") {
        values.set("unit", unit);
    }
    Ok(values)
}
