//! Prices as files and APIs write them, and the narrow terms that they are read into.
//!
//! Owns: the fields of a price, which of them each pricing model needs and knows, their reading into [`PriceTerms`].
//! Leaves to others: what the terms make of usage (`rating`).
//!
//! Invariants: terms exist only of a price that was checked; what contradicts itself is refused here, not when a bill
//! runs.

use std::collections::BTreeMap;

use domain::limits::{PRICE_PER_MAX, PRICE_ROWS_MAX};
use domain::time::BillingUnit;
use domain::{Decimal, Exact, MeterId, PlanId, PriceId, Rounding, Timestamp};
use serde::{Deserialize, Serialize};

use super::status::Rule;
use super::text;
use super::windows::check_proration;
use crate::rating::models::{
    self, Capacity, CapacityTier, Dynamic, Flat, Graduated, GraduatedPercentage, Matrix, Model, Package,
    Payment, PerUnit, Percentage, Row, RowPrice, Stairstep, Tiers, Unmatched, Volume,
};
use crate::rating::quantity::{Conversion, QuantityTerms};

/// How a price turns a quantity into an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PricingModel {
    /// Quantity times amount.
    PerUnit,
    /// A recurring amount, whatever was used.
    Flat,
    /// Each unit at the amount of the tier that it falls into.
    Graduated,
    /// All units at the amount of the tier that the total lies in.
    Volume,
    /// Started packages.
    Package,
    /// One amount for the step that the total lies in.
    Stairstep,
    /// One amount for the first tier in which every meter fits.
    Capacity,
    /// A share of each event's amount.
    Percentage,
    /// Shares of an amount, by tier.
    GraduatedPercentage,
    /// By dimensions.
    Matrix,
    /// The amounts that events name.
    Dynamic,
}

impl PricingModel {
    /// All models, in the order of the registry.
    pub const ALL: [PricingModel; 11] = [
        PricingModel::PerUnit,
        PricingModel::Flat,
        PricingModel::Graduated,
        PricingModel::Volume,
        PricingModel::Package,
        PricingModel::Stairstep,
        PricingModel::Capacity,
        PricingModel::Percentage,
        PricingModel::GraduatedPercentage,
        PricingModel::Matrix,
        PricingModel::Dynamic,
    ];

    /// The word in catalogs.
    pub fn as_str(self) -> &'static str {
        match self {
            PricingModel::PerUnit => "per_unit",
            PricingModel::Flat => "flat",
            PricingModel::Graduated => "graduated",
            PricingModel::Volume => "volume",
            PricingModel::Package => "package",
            PricingModel::Stairstep => "stairstep",
            PricingModel::Capacity => "capacity",
            PricingModel::Percentage => "percentage",
            PricingModel::GraduatedPercentage => "graduated_percentage",
            PricingModel::Matrix => "matrix",
            PricingModel::Dynamic => "dynamic",
        }
    }

    /// Fields that the model needs, and fields that it knows besides; every model knows the terms around a price.
    fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            PricingModel::PerUnit => (&["meter", "unit_amount"], &["per"]),
            PricingModel::Flat => (&["unit_amount"], &["payment", "proration"]),
            PricingModel::Graduated | PricingModel::Volume => {
                (&["meter", "tiers"], &["per", "tier_scope", "flat_at_zero"])
            }
            PricingModel::Package => (&["meter", "unit_amount", "package_size"], &["package_round"]),
            PricingModel::Stairstep => (&["meter", "tiers"], &["flat_at_zero"]),
            PricingModel::Capacity => (&["meters", "steps"], &[]),
            PricingModel::Percentage => (
                &["meter", "rate_percent"],
                &["fixed_amount", "free_events", "free_amount", "event_min", "event_max"],
            ),
            PricingModel::GraduatedPercentage => (&["meter", "tiers"], &["tier_scope", "flat_at_zero"]),
            PricingModel::Matrix => (&["meter", "rows"], &["per", "tier_scope", "unmatched", "flat_at_zero"]),
            PricingModel::Dynamic => (&["meter"], &["multiplier"]),
        }
    }
}

/// A tier of a price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Last unit of the tier, inclusive; the last tier has none.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub up_to: Option<Decimal>,
    /// Amount for `per` units, or for a package.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub unit_amount: Option<Decimal>,
    /// Share in percent, of a graduated percentage.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub rate_percent: Option<Decimal>,
    /// Amount owed once the tier is entered.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub flat_amount: Option<Decimal>,
    /// The most that the tier may cost.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub flat_cap: Option<Decimal>,
    /// Units in a package, if the tier's units are sold in started packages.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub package_size: Option<Decimal>,
}

/// A row of a matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceRow {
    /// Texts that usage must have, by dimension; a row without any is the default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, String>,
    /// Amount for `per` units.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub unit_amount: Option<Decimal>,
    /// Tiers, graduated and counted for the row alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers: Option<Vec<Tier>>,
}

/// A step of a capacity price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapacityStep {
    /// The most that fits, by meter; a meter that is left out is unlimited.
    #[serde(default, deserialize_with = "text::decimals_by_meter")]
    pub up_to: BTreeMap<MeterId, Decimal>,
    /// What the step costs.
    #[serde(deserialize_with = "text::decimal")]
    pub amount: Decimal,
}

/// A change of unit before the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convert {
    /// Times a factor.
    Multiply(#[serde(deserialize_with = "text::decimal")] Decimal),
    /// Divided by a factor.
    Divide(#[serde(deserialize_with = "text::decimal")] Decimal),
}

/// A rounding of the quantity before the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundQuantity {
    /// How.
    pub mode: Rounding,
    /// Fraction digits that are kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub digits: u8,
}

fn is_zero(digits: &u8) -> bool {
    *digits == 0
}

/// Whether started packages count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageRound {
    /// A started package is owed whole.
    #[default]
    Up,
    /// Only whole packages are owed.
    Down,
}

/// Which part of a recurring amount is owed when it holds for a part of its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proration {
    /// All of it.
    #[default]
    None,
    /// By civil days of the account's zone.
    Days,
    /// By seconds.
    Seconds,
    /// By civil days over thirty, whatever the length of the window; together at most thirty.
    ThirtyDays,
}

/// What counts together on the way through the tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierScope {
    /// Each group, each row of a matrix, by itself.
    #[default]
    Group,
    /// All groups and rows of the price.
    Price,
}

/// A reduction of what a price costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceDiscount {
    /// A share in percent of what is left.
    Percent(#[serde(deserialize_with = "text::decimal")] Decimal),
    /// An amount in each window, at most what is left.
    Amount(#[serde(deserialize_with = "text::decimal")] Decimal),
}

/// A price: a pricing model over one meter, effective-dated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Id.
    pub id: PriceId,
    /// The plan that it belongs to.
    pub plan: PlanId,
    /// The meter whose measure it prices; none for a recurring amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<MeterId>,
    /// The meters of a capacity price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meters: Option<Vec<MeterId>>,
    /// How.
    pub model: PricingModel,
    /// Amount for `per` units or for a package, or the recurring amount.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub unit_amount: Option<Decimal>,
    /// Tiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers: Option<Vec<Tier>>,
    /// What counts together on the way through tiers; each group by itself if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_scope: Option<TierScope>,
    /// Units that an amount is for: a power of ten, 1 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<u64>,
    /// Units in a package.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub package_size: Option<Decimal>,
    /// Whether started packages count; up if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_round: Option<PackageRound>,
    /// Steps of a capacity price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<CapacityStep>>,
    /// Share of each event's amount, in percent.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub rate_percent: Option<Decimal>,
    /// Owed by every event that is not free.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub fixed_amount: Option<Decimal>,
    /// Events of a window that may be free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_events: Option<u64>,
    /// Amount of a window that may be free.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub free_amount: Option<Decimal>,
    /// The least that an event owes which is not free.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub event_min: Option<Decimal>,
    /// The most that an event owes.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub event_max: Option<Decimal>,
    /// Rows of a matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<PriceRow>>,
    /// What becomes of usage that fits no row; reject if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmatched: Option<Unmatched>,
    /// What amounts that events name are multiplied by; 1 if left out.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<Decimal>,
    /// When a recurring amount is owed; in arrears if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// Which part of a recurring amount is owed for a part of a window; all of it if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proration: Option<Proration>,
    /// Change of unit before the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convert: Option<Convert>,
    /// Rounding of the quantity before the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_quantity: Option<RoundQuantity>,
    /// Units of each window that cost nothing: an allowance, whose overage the price is.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub included: Option<Decimal>,
    /// Reductions, in the order in which they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discounts: Vec<PriceDiscount>,
    /// The least that a window costs; the shortfall is charged when it is final.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Decimal>,
    /// The most that a window costs.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Decimal>,
    /// How the amount of a line is rounded to the currency; half away from zero if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// The span over which tiers accumulate: of the calendar in the account's zone, or from the subscription's anchor.
    pub window: BillingUnit,
    /// From when on this version holds; always, if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Timestamp>,
    /// Whether the first tier's flat amount is owed without usage; true if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat_at_zero: Option<bool>,
}

/// A price read into narrow types: what rating computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTerms {
    /// The model.
    pub model: Model,
    /// What is done to a quantity before it is priced.
    pub quantity: QuantityTerms,
    /// How a line's amount is rounded to the currency.
    pub rounding: Rounding,
    /// Whether a first flat amount is owed without usage.
    pub flat_at_zero: bool,
    /// Which part of a recurring amount is owed for a part of a window.
    pub proration: Proration,
}

impl Price {
    /// A price without any terms yet: what its model needs must be added.
    pub fn new(id: PriceId, plan: PlanId, model: PricingModel) -> Self {
        Self {
            id,
            plan,
            meter: None,
            meters: None,
            model,
            unit_amount: None,
            tiers: None,
            tier_scope: None,
            per: None,
            package_size: None,
            package_round: None,
            steps: None,
            rate_percent: None,
            fixed_amount: None,
            free_events: None,
            free_amount: None,
            event_min: None,
            event_max: None,
            rows: None,
            unmatched: None,
            multiplier: None,
            payment: None,
            proration: None,
            convert: None,
            round_quantity: None,
            included: None,
            discounts: Vec::new(),
            minimum: None,
            maximum: None,
            rounding: None,
            window: BillingUnit::Month,
            effective_from: None,
            flat_at_zero: None,
        }
    }

    /// Whether all groups of its meter count together.
    pub(super) fn counts_groups_together(&self) -> bool {
        self.tier_scope == Some(TierScope::Price)
    }

    /// Whether both count the same usage the same way: by meters, model, unit, package size, window and scope of tiers.
    pub(super) fn counts_like(&self, other: &Price) -> bool {
        let counted = |price: &Price| {
            let unit = (price.convert, price.round_quantity, price.package_size);
            (price.model, price.window, unit, price.counts_groups_together())
        };
        counted(self) == counted(other) && (&self.meter, &self.meters) == (&other.meter, &other.meters)
    }

    /// The meters that it prices.
    pub fn all_meters(&self) -> impl Iterator<Item = &MeterId> {
        self.meter.iter().chain(self.meters.iter().flatten())
    }

    /// The rules that a price keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        self.terms().map(|_| ())
    }

    /// The price in narrow types.
    ///
    /// # Errors
    /// As [`Price::check`].
    pub fn terms(&self) -> Result<PriceTerms, Rule> {
        let per = self.per.unwrap_or(1);
        if per == 0 || per > PRICE_PER_MAX || 10u64.pow(per.ilog10()) != per {
            return Err(Rule::PerMustBePowerOfTen);
        }
        self.check_fields()?;
        let model = self.read_model()?;
        let quantity = QuantityTerms {
            conversion: self.convert.map(|convert| match convert {
                Convert::Multiply(factor) => Conversion::Multiply(factor.into()),
                Convert::Divide(factor) => Conversion::Divide(factor.into()),
            }),
            rounding: self.round_quantity.map(|round| (round.mode, i32::from(round.digits))),
            free_units: exact_or_zero(self.included),
        };
        quantity.check().map_err(Rule::TermsMustHold)?;
        check_bounds(&self.discounts, self.minimum, self.maximum)?;
        check_proration(self)?;
        Ok(PriceTerms {
            model,
            quantity,
            rounding: self.rounding.unwrap_or_default(),
            flat_at_zero: self.flat_at_zero.unwrap_or(true),
            proration: self.proration.unwrap_or_default(),
        })
    }

    /// Fields of the price that belong to some models only, and whether they are given.
    fn given(&self) -> [(&'static str, bool); 23] {
        [
            ("meter", self.meter.is_some()),
            ("meters", self.meters.is_some()),
            ("unit_amount", self.unit_amount.is_some()),
            ("tiers", self.tiers.is_some()),
            ("tier_scope", self.tier_scope.is_some()),
            ("per", self.per.is_some()),
            ("package_size", self.package_size.is_some()),
            ("package_round", self.package_round.is_some()),
            ("steps", self.steps.is_some()),
            ("rate_percent", self.rate_percent.is_some()),
            ("fixed_amount", self.fixed_amount.is_some()),
            ("free_events", self.free_events.is_some()),
            ("free_amount", self.free_amount.is_some()),
            ("event_min", self.event_min.is_some()),
            ("event_max", self.event_max.is_some()),
            ("rows", self.rows.is_some()),
            ("unmatched", self.unmatched.is_some()),
            ("multiplier", self.multiplier.is_some()),
            ("payment", self.payment.is_some()),
            ("proration", self.proration.is_some()),
            ("convert", self.convert.is_some()),
            ("round_quantity", self.round_quantity.is_some()),
            ("included", self.included.is_some()),
        ]
    }

    fn check_fields(&self) -> Result<(), Rule> {
        let model = self.model.as_str();
        let (needed, known) = self.model.fields();
        // Terms of the quantity belong to every model that has one quantity.
        let has_quantity = needed.contains(&"meter") && self.model != PricingModel::Percentage;
        let of_quantity = ["convert", "round_quantity", "included"];
        for (field, is_given) in self.given() {
            if needed.contains(&field) && !is_given {
                let needs = needed.join("`, `");
                let what = format!("a price of model {model} needs `{needs}`; `{field}` is missing");
                return Err(Rule::PriceMustFitModel(what));
            }
            let is_known = needed.contains(&field)
                || known.contains(&field)
                || field == "flat_at_zero"
                || (has_quantity && of_quantity.contains(&field));
            if is_given && !is_known {
                let what = format!("`{field}` has no meaning in a price of model {model}; leave it out");
                return Err(Rule::PriceMustFitModel(what));
            }
        }
        Ok(())
    }

    fn read_model(&self) -> Result<Model, Rule> {
        let held = Rule::TermsMustHold;
        Ok(match self.model {
            PricingModel::PerUnit => {
                Model::PerUnit(PerUnit { unit_amount: self.per_amount(self.unit_amount) })
            }
            PricingModel::Flat => Model::Flat(Flat {
                amount: exact_or_zero(self.unit_amount),
                payment: self.payment.unwrap_or_default(),
            }),
            PricingModel::Graduated => Model::Graduated(Graduated { tiers: self.read_tiers()? }),
            PricingModel::Volume => Model::Volume(Volume { tiers: self.read_tiers()? }),
            PricingModel::Stairstep => Model::Stairstep(Stairstep { tiers: self.read_tiers()? }),
            PricingModel::GraduatedPercentage => {
                let tiers = self.tier_list(self.tiers.as_deref().unwrap_or_default())?;
                Model::GraduatedPercentage(GraduatedPercentage::new(tiers).map_err(held)?)
            }
            PricingModel::Package => {
                let (size, amount) = (exact_or_zero(self.package_size), exact_or_zero(self.unit_amount));
                let is_up = self.package_round.unwrap_or_default() == PackageRound::Up;
                Model::Package(Package::new(size, amount, Exact::ZERO, is_up).map_err(held)?)
            }
            PricingModel::Capacity => Model::Capacity(self.read_capacity()?),
            PricingModel::Percentage => {
                let percentage = Percentage {
                    rate: exact_or_zero(self.rate_percent).divide_by_power_of_ten(2),
                    fixed_amount: exact_or_zero(self.fixed_amount),
                    free_events: self.free_events,
                    free_amount: self.free_amount.map(Exact::from),
                    event_min: self.event_min.map(Exact::from),
                    event_max: self.event_max.map(Exact::from),
                };
                percentage.check().map_err(held)?;
                Model::Percentage(percentage)
            }
            PricingModel::Matrix => Model::Matrix(self.read_matrix()?),
            PricingModel::Dynamic => {
                Model::Dynamic(Dynamic { multiplier: self.multiplier.map_or(Exact::ONE, Exact::from) })
            }
        })
    }

    /// An amount for `per` units, as the amount for one.
    fn per_amount(&self, amount: Option<Decimal>) -> Exact {
        exact_or_zero(amount).divide_by_power_of_ten(self.per.unwrap_or(1).ilog10())
    }

    fn read_tiers(&self) -> Result<Tiers, Rule> {
        let tiers = self.tier_list(self.tiers.as_deref().unwrap_or_default())?;
        Tiers::new(tiers).map_err(Rule::TermsMustHold)
    }

    fn tier_list(&self, tiers: &[Tier]) -> Result<Vec<models::Tier>, Rule> {
        let is_share = self.model == PricingModel::GraduatedPercentage;
        let is_step = self.model == PricingModel::Stairstep;
        let misfit = |what: &str| Err(Rule::PriceMustFitModel(what.to_string()));
        for tier in tiers {
            if is_share != tier.rate_percent.is_some() {
                return misfit("tiers of a graduated_percentage, and only they, have `rate_percent`");
            }
            if (is_share || is_step) == tier.unit_amount.is_some() {
                return misfit(match is_step {
                    true => "a step has a `flat_amount` and no `unit_amount`",
                    false => "a tier needs `unit_amount`, or `rate_percent` in a graduated_percentage",
                });
            }
            if is_step && tier.flat_amount.is_none() {
                return misfit("a step needs a `flat_amount`");
            }
            let is_owed_whole =
                tier.flat_amount.is_some() || tier.flat_cap.is_some() || tier.package_size.is_some();
            if self.counts_groups_together() && is_owed_whole {
                return misfit(
                    "with `tier_scope = \"price\"` a tier has no `flat_amount`, `flat_cap` or `package_size`: of which group would it be?",
                );
            }
        }
        let tiers = tiers.iter().map(|tier| models::Tier {
            up_to: tier.up_to.map(Exact::from),
            unit_amount: match tier.rate_percent {
                Some(rate) => rate.into(),
                None => self.per_amount(tier.unit_amount),
            },
            flat_amount: exact_or_zero(tier.flat_amount),
            flat_cap: tier.flat_cap.map(Exact::from),
            package_size: tier.package_size.map(Exact::from),
        });
        Ok(tiers.collect())
    }

    fn read_capacity(&self) -> Result<Capacity, Rule> {
        let meters = self.meters.as_deref().unwrap_or_default();
        let steps = self.steps.as_deref().unwrap_or_default();
        if let Some(unknown) = steps.iter().flat_map(|step| step.up_to.keys()).find(|m| !meters.contains(m)) {
            let what = format!("a step bounds the meter {unknown}, which is not one of the price's `meters`");
            return Err(Rule::PriceMustFitModel(what));
        }
        let tier = |step: &CapacityStep| CapacityTier {
            up_to: meters.iter().map(|meter| step.up_to.get(meter).copied().map(Exact::from)).collect(),
            amount: step.amount.into(),
        };
        Capacity::new(steps.iter().map(tier).collect()).map_err(Rule::TermsMustHold)
    }

    fn read_matrix(&self) -> Result<Matrix, Rule> {
        let rows = self.rows.as_deref().unwrap_or_default();
        if rows.len() > PRICE_ROWS_MAX {
            return Err(Rule::PriceMustFitModel(format!("a matrix has at most {PRICE_ROWS_MAX} rows")));
        }
        let read = |row: &PriceRow| {
            let price = match (&row.unit_amount, &row.tiers) {
                (Some(_), None) => {
                    RowPrice::PerUnit(PerUnit { unit_amount: self.per_amount(row.unit_amount) })
                }
                (None, Some(tiers)) => {
                    let tiers = Tiers::new(self.tier_list(tiers)?).map_err(Rule::TermsMustHold)?;
                    RowPrice::Graduated(Graduated { tiers })
                }
                _ => {
                    let what = "a row needs either `unit_amount` or `tiers`";
                    return Err(Rule::PriceMustFitModel(what.to_string()));
                }
            };
            Ok(Row { dimensions: row.when.clone().into_iter().collect(), price })
        };
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, Rule>>()?;
        Matrix::new(rows, self.unmatched.unwrap_or_default()).map_err(Rule::TermsMustHold)
    }
}

/// The rules that discounts, a minimum and a maximum keep by themselves.
pub(super) fn check_bounds(
    discounts: &[PriceDiscount],
    minimum: Option<Decimal>,
    maximum: Option<Decimal>,
) -> Result<(), Rule> {
    for discount in discounts {
        let (value, most) = match discount {
            PriceDiscount::Percent(percent) => (Exact::from(*percent), Some(Exact::from_integer(100))),
            PriceDiscount::Amount(amount) => (Exact::from(*amount), None),
        };
        if value.is_negative() || most.is_some_and(|most| value > most) {
            return Err(Rule::BoundsMustHold("a discount is 0 to 100 percent, or an amount of zero or more"));
        }
    }
    if [minimum, maximum].into_iter().flatten().any(Decimal::is_negative) {
        return Err(Rule::BoundsMustHold("a minimum and a maximum are zero or more"));
    }
    match (minimum, maximum) {
        (Some(minimum), Some(maximum)) if Exact::from(minimum) > Exact::from(maximum) => {
            Err(Rule::BoundsMustHold(
                "the minimum is above the maximum: no amount could keep both; lower one of them",
            ))
        }
        _ => Ok(()),
    }
}

fn exact_or_zero(number: Option<Decimal>) -> Exact {
    number.map_or(Exact::ZERO, Exact::from)
}
