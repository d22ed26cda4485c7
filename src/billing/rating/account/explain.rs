//! How the lines of an account's terms came about, as a structure and as text for a person.
//!
//! Owns: their wording. Leaves to others: how a charge came about (`rating::explain`).

use std::cmp::Ordering;

use domain::{Currency, Exact};
use serde_json::{Value, json};

use super::BillLine;
use crate::charges::Component;
use crate::rating::explain::grouped;
use crate::rating::proration::Ratio;

/// How a line came about; amounts are minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A price and usage: see the explanation of the window.
    Charge,
    /// A discount, or the part of it that this line bears.
    Discount {
        /// In percent; without it an amount.
        percent: Option<Exact>,
        /// Of this amount, over all that it is of.
        of: i128,
        /// What it takes in all.
        taken: i128,
        /// Its place among the discounts of its price, subscription or account, in the order in which they apply.
        order: usize,
    },
    /// What lies above a maximum.
    Maximum {
        /// The maximum.
        maximum: i128,
        /// What there was.
        of: i128,
    },
    /// What is missing to a minimum.
    Minimum {
        /// For a whole window.
        minimum: i128,
        /// The part of the window that it holds for.
        share: Ratio,
        /// What counted towards it.
        billed: i128,
    },
    /// What overage costs beyond its base amount.
    Overage {
        /// The base amount of the overage.
        overage: i128,
        /// What it is multiplied by.
        factor: Exact,
    },
    /// The shortfall of a commitment.
    TrueUp {
        /// What counted in the window.
        used: i128,
        /// What is missing.
        missing: i128,
    },
    /// Usage that a commitment paid for before.
    Drawdown {
        /// What counted in the window.
        used: i128,
        /// What is left of what was paid ahead.
        unused: i128,
    },
    /// A credit grant.
    Credit {
        /// The grant.
        grant: String,
        /// What was due.
        due: i128,
        /// What is left of the grant after all draws, in minor units.
        balance: i128,
        /// Its place among all draws, in the order in which they were made.
        order: usize,
    },
    /// A credit grant in units.
    Covered {
        /// The grant.
        grant: String,
        /// Its meter.
        meter: String,
        /// What was used in the slice.
        used: Exact,
        /// What is left of the grant after all draws.
        balance: Exact,
        /// Its place among all draws, in the order in which they were made.
        order: usize,
    },
}

/// What a line's term is agreed for, in the order in which they apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Units,
    Price,
    Subscription,
    Account,
    Commitment,
    Credit,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Price => "price",
            Level::Subscription => "subscription",
            Level::Units | Level::Account | Level::Commitment | Level::Credit => "account",
        }
    }
}

/// How the terms of discounts of a subscription start.
const OF_SUBSCRIPTION: &str = "subscription/";

impl BillLine {
    /// The line as a customer reads it: `discount: 10% of 120.00 = -12.00`.
    pub fn explanation(&self, currency: Currency) -> String {
        let money = |minor: i128| grouped(&currency.format_minor(minor));
        let units = |units: &Exact| grouped(&units.to_string());
        let what = match &self.reason {
            Reason::Charge => "charge".to_string(),
            Reason::Discount { percent, of, taken, .. } => {
                let off = percent.map_or("off ".to_string(), |percent| format!("{percent}% of "));
                let what = match self.key.term.as_str() {
                    term if term.starts_with(OF_SUBSCRIPTION) => "discount of the subscription: ".to_string(),
                    term if term.parse::<usize>().is_err() => format!("discount {term}: "),
                    _ if percent.is_none() => "discount ".to_string(),
                    _ => "discount: ".to_string(),
                };
                format!("{what}{off}{}{}", money(*of), self.part_of(*taken, money))
            }
            Reason::Maximum { maximum, of } => {
                let whose = if self.key.term.is_empty() { "" } else { "the subscription: " };
                let part = self.part_of(of - maximum, money);
                format!("{whose}at most {}, of {}{part}", money(*maximum), money(*of))
            }
            Reason::Minimum { minimum, share, billed } if share.numerator == share.denominator => {
                format!("at least {}, of which {} was used", money(*minimum), money(*billed))
            }
            Reason::Minimum { minimum, share, billed } => format!(
                "at least {} for {} of {} days, of which {} was used",
                money(*minimum),
                share.numerator,
                share.denominator,
                money(*billed)
            ),
            Reason::Overage { overage, factor } => format!(
                "commitment {}: {} beyond it cost {factor} times as much",
                self.key.term,
                money(*overage)
            ),
            Reason::TrueUp { used, .. } => {
                format!("commitment {}: shortfall after {} of usage", self.key.term, money(*used))
            }
            Reason::Drawdown { unused, .. } => {
                format!("commitment {}: paid before; {} of it is left", self.key.term, money(*unused))
            }
            Reason::Credit { grant, due, balance, .. } => format!(
                "credit {grant} pays {} of {}; the grant has {} left after all draws",
                money(-self.rounded),
                money(*due),
                money(*balance)
            ),
            Reason::Covered { grant, meter, used, balance, .. } => {
                return format!(
                    "grant {grant} covers {} of {} {meter}; the grant has {} left after all draws",
                    units(&self.quantity),
                    units(used),
                    units(balance)
                );
            }
        };
        format!("{what} = {}", money(self.rounded))
    }

    /// The structure behind the text: what kind of term it is, whose, and the amounts that it was computed from.
    pub fn reason_to_json(&self, currency: Currency) -> Value {
        let money = |minor: i128| currency.format_minor(minor);
        let mut reason = match &self.reason {
            Reason::Charge => json!({ "kind": "charge" }),
            Reason::Discount { percent, of, taken, .. } => {
                json!({ "kind": "discount", "percent": percent, "of": money(*of), "taken": money(*taken) })
            }
            Reason::Maximum { maximum, of } => json!({
                "kind": "maximum", "maximum": money(*maximum), "of": money(*of), "taken": money(of - maximum),
            }),
            Reason::Minimum { minimum, share, billed } => json!({
                "kind": "minimum", "minimum": money(*minimum), "share": share.value(), "part": share.numerator,
                "whole": share.denominator, "billed": money(*billed),
            }),
            Reason::Overage { overage, factor } => {
                json!({ "kind": "overage", "overage": money(*overage), "factor": factor })
            }
            Reason::TrueUp { used, missing } => {
                json!({ "kind": "true_up", "used": money(*used), "missing": money(*missing) })
            }
            Reason::Drawdown { used, unused } => {
                json!({ "kind": "drawdown", "used": money(*used), "unused": money(*unused) })
            }
            Reason::Credit { grant, due, balance, .. } => json!({
                "kind": "credit", "grant": grant, "due": money(*due), "balance": money(*balance),
            }),
            Reason::Covered { grant, meter, used, balance, .. } => json!({
                "kind": "covered", "grant": grant, "meter": meter, "used": used, "covered": self.quantity,
                "balance": balance,
            }),
        };
        reason["level"] = self.level().as_str().into();
        reason
    }

    /// Compares lines by the order in which they were applied; where that is the same, by their keys.
    pub fn compare_applied(&self, other: &Self) -> Ordering {
        let place = |line: &BillLine| {
            let (step, order) = match line.reason {
                Reason::Charge => (0, 0),
                Reason::Discount { order, .. } => (1, order),
                Reason::Maximum { .. } => (2, 0),
                Reason::Minimum { .. } => (3, 0),
                Reason::Drawdown { .. } => (4, 0),
                Reason::Overage { .. } => (5, 0),
                Reason::TrueUp { .. } => (6, 0),
                Reason::Credit { order, .. } | Reason::Covered { order, .. } => (7, order),
            };
            (line.level(), step, order)
        };
        let of = |line: &BillLine| {
            let level = line.level();
            let subscription =
                (level <= Level::Subscription).then(|| line.key.subscription.clone()).flatten();
            let price = (level <= Level::Price).then(|| line.key.price.clone()).flatten();
            let commitment = (level == Level::Commitment).then(|| line.key.term.clone());
            (level, subscription, price, commitment)
        };
        (of(self), place(self), &self.key).cmp(&(of(other), place(other), &other.key))
    }

    /// Whose term a line comes from.
    fn level(&self) -> Level {
        let is_numbered = || self.key.term.parse::<usize>().is_ok();
        match self.key.component {
            Component::Covered => Level::Units,
            Component::Charge => Level::Price,
            Component::Discount if is_numbered() => Level::Price,
            Component::Discount if self.key.term.starts_with(OF_SUBSCRIPTION) => Level::Subscription,
            Component::Discount => Level::Account,
            Component::Maximum if self.key.term.is_empty() => Level::Price,
            Component::Minimum if self.key.price.is_some() => Level::Price,
            Component::Maximum | Component::Minimum => Level::Subscription,
            Component::Overage | Component::TrueUp | Component::Drawdown => Level::Commitment,
            Component::Credit => Level::Credit,
        }
    }

    /// Where a line bears only a part of what is taken, that it does.
    fn part_of(&self, taken: i128, money: impl Fn(i128) -> String) -> String {
        if taken == -self.rounded {
            return String::new();
        }
        format!(" is {} in all, of which for this", money(taken))
    }
}
