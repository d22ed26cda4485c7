//! How the lines of an account's terms came about, as a structure and as text for a person.
//!
//! Owns: their wording. Leaves to others: how a charge came about (`rating::explain`).

use domain::{Currency, Exact};

use super::BillLine;
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
        /// What is left of the grant now, in minor units.
        balance: i128,
    },
    /// A credit grant in units.
    Covered {
        /// The grant.
        grant: String,
        /// Its meter.
        meter: String,
        /// What was used in the slice.
        used: Exact,
        /// What is left of the grant now.
        balance: Exact,
    },
}

impl BillLine {
    /// The line as a customer reads it: `discount: 10% of 120.00 = -12.00`.
    pub fn explanation(&self, currency: Currency) -> String {
        let money = |minor: i128| grouped(&currency.format_minor(minor));
        let units = |units: &Exact| grouped(&units.to_string());
        let what = match &self.reason {
            Reason::Charge => "charge".to_string(),
            Reason::Discount { percent, of, taken } => {
                let off = percent.map_or("off ".to_string(), |percent| format!("{percent}% of "));
                let what = match self.key.term.as_str() {
                    term if term.starts_with("subscription/") => "discount of the subscription: ".to_string(),
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
            Reason::Credit { grant, due, balance } => format!(
                "credit {grant} pays {} of {}; {} of it is left now",
                money(-self.rounded),
                money(*due),
                money(*balance)
            ),
            Reason::Covered { grant, meter, used, balance } => {
                return format!(
                    "grant {grant} covers {} of {} {meter}; {} of it are left now",
                    units(&self.quantity),
                    units(used),
                    units(balance)
                );
            }
        };
        format!("{what} = {}", money(self.rounded))
    }

    /// Where a line bears only a part of what is taken, that it does.
    fn part_of(&self, taken: i128, money: impl Fn(i128) -> String) -> String {
        if taken == -self.rounded {
            return String::new();
        }
        format!(" is {} in all, of which for this", money(taken))
    }
}
