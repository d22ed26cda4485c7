//! How a bill came about: every price of a window step by step, and every term around them.
//!
//! Owns: the structure that a person or a program reads, and its text. Leaves to others: the steps (`billing::rating`).
//!
//! Invariants: usage that is not charged is said; the amounts of a window's prices and terms add up to its total, which is its position.

use std::fmt;

use billing::charges::Component;
use billing::rating::WindowExplanation;
use billing::rating::account::BillLine;
use domain::{Currency, GroupTexts, PriceId, Span, SubscriptionId};
use serde_json::json;

use crate::cut::SetAside;

/// One price of a window.
#[derive(Clone, Debug)]
pub struct ExplainedPrice {
    /// For which subscription.
    pub subscription: SubscriptionId,
    /// The price.
    pub price: PriceId,
    /// Texts of the group-by dimensions.
    pub group: GroupTexts,
    /// How its amount came about.
    pub explanation: WindowExplanation,
}

/// One window of an account.
#[derive(Clone, Debug)]
pub struct ExplainedWindow {
    /// The tier window.
    pub window: Span,
    /// Currency of all amounts.
    pub currency: Currency,
    /// What prices make of usage.
    pub prices: Vec<ExplainedPrice>,
    /// What terms take off or add, in the order in which they were applied.
    pub terms: Vec<BillLine>,
    /// Usage that fits no row of its price and is not charged; one entry of each price and subscription.
    pub set_aside: Vec<SetAside>,
    /// What the window costs, in minor units.
    pub total: i128,
    charges: i128,
}

impl ExplainedWindow {
    pub(crate) fn new(window: Span, currency: Currency) -> Self {
        Self {
            window,
            currency,
            prices: Vec::new(),
            terms: Vec::new(),
            set_aside: Vec::new(),
            total: 0,
            charges: 0,
        }
    }

    /// Takes a line of the window's position.
    pub(crate) fn add(&mut self, line: BillLine) {
        self.total += line.rounded;
        if line.key.component == Component::Charge {
            self.charges += line.rounded;
        } else {
            self.terms.push(line);
        }
    }

    /// Puts the terms into the order in which they were applied, and asserts that what is explained is what is charged.
    pub(crate) fn complete(&mut self) {
        self.terms.sort_by(BillLine::compare_applied);
        let explained: i128 = self.prices.iter().map(|price| price.explanation.rounded).sum();
        assert_eq!(explained, self.charges, "what is explained is what is charged");
    }

    /// Whether nothing was used and nothing is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty()
            && self.set_aside.is_empty()
            && self.prices.iter().all(|price| price.explanation.portions.is_empty())
    }
}

impl fmt::Display for ExplainedWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for price in self.prices.iter().filter(|price| !price.explanation.portions.is_empty()) {
            write!(f, "{} · {}", price.subscription, price.price)?;
            for (name, text) in price.group.iter() {
                write!(f, " · {name} {text}")?;
            }
            writeln!(f)?;
            for line in price.explanation.to_string().lines() {
                writeln!(f, "    {line}")?;
            }
        }
        for line in &self.terms {
            match (&line.key.subscription, &line.key.price) {
                (Some(subscription), Some(price)) => writeln!(f, "{subscription} · {price}")?,
                (Some(subscription), None) => writeln!(f, "{subscription}")?,
                _ => writeln!(f, "the whole account")?,
            }
            writeln!(f, "    {}", line.explanation(self.currency))?;
        }
        for waiting in &self.set_aside {
            writeln!(f, "{} · {}", waiting.subscription, waiting.price)?;
            writeln!(
                f,
                "    not charged: {} of the usage fits no row of the price",
                events(waiting.event_count)
            )?;
        }
        write!(f, "total {} {}", self.currency.format_minor(self.total), self.currency)
    }
}

impl ExplainedWindow {
    /// The window as JSON: amounts are texts, exact ones as decimals or fractions.
    pub fn to_json(&self) -> serde_json::Value {
        let money = |minor: i128| self.currency.format_minor(minor);
        let prices: Vec<serde_json::Value> =
            self.prices.iter().map(|price| price.to_json(self.currency)).collect();
        let terms: Vec<serde_json::Value> = self
            .terms
            .iter()
            .map(|line| {
                json!({
                    "subscription": line.key.subscription, "price": line.key.price,
                    "component": line.key.component, "term": line.key.term,
                    "amount": money(line.rounded), "reason": line.reason_to_json(self.currency),
                    "text": line.explanation(self.currency),
                })
            })
            .collect();
        let set_aside: Vec<serde_json::Value> = self
            .set_aside
            .iter()
            .map(|waiting| {
                json!({
                    "subscription": waiting.subscription, "price": waiting.price,
                    "event_count": waiting.event_count,
                })
            })
            .collect();
        json!({
            "window": self.window, "currency": self.currency, "prices": prices, "terms": terms,
            "set_aside": set_aside,
            "total": money(self.total),
        })
    }
}

impl ExplainedPrice {
    fn to_json(&self, currency: Currency) -> serde_json::Value {
        let explanation = &self.explanation;
        json!({
            "subscription": self.subscription, "price": self.price, "group": self.group,
            "quantity": explanation.quantity, "steps": explanation.steps_to_json(), "precise": explanation.precise,
            "rounded": currency.format_minor(explanation.rounded),
            "text": explanation.to_string().lines().collect::<Vec<_>>(),
        })
    }
}

fn events(count: u64) -> String {
    if count == 1 { "1 event".to_string() } else { format!("{count} events") }
}
