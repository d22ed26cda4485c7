//! Percentage: a share of each event's amount, with free events, a free amount, a fixed fee, and bounds per event.
//!
//! Events are priced in order of time. An event has *room* if some limit is set and none is used up: fewer free events
//! than `free_events` so far, less than `free_amount` taken so far. With room, `taken` is the event's amount, or what is
//! left of the free amount. With room and nothing left to pay the event is free, also at amount zero. Every other event
//! owes `clamp(rate × (amount − taken) + fixed, min, max)`. No event is rounded alone.
//!
//! A late event changes what later ones owe: a sequence is priced as a whole, and what leaves is the difference.
//!
//! Source: Lago's percentage charge. Where its two paths differ (a per-event minimum keeps an event free while *either*
//! limit has room; an event that uses up the free amount exactly still pays the fixed fee) there is one rule here.

use domain::Exact;

use super::portion::{Basis, Portion};
use crate::rating::status::{RatingStatus, TermsStatus};

/// A share of each event's amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentage {
    /// The share: 0.013 for 1.3 percent.
    pub rate: Exact,
    /// Owed by every event that is not free.
    pub fixed_amount: Exact,
    /// Events that may be free.
    pub free_events: Option<u64>,
    /// Amount that may be free.
    pub free_amount: Option<Exact>,
    /// The least that an event owes which is not free.
    pub event_min: Option<Exact>,
    /// The most that an event owes.
    pub event_max: Option<Exact>,
}

/// How far a sequence has come, and what it owes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentageState {
    /// Events that were free.
    pub free_events: u64,
    /// Events that were not.
    pub paid_events: u64,
    /// Amount that was free.
    pub free_units: Exact,
    /// Amount that was not.
    pub paid_units: Exact,
    /// Fixed fees, before the bounds per event.
    pub fixed: Exact,
    /// Shares, before the bounds per event.
    pub percentage: Exact,
    /// All that is owed.
    pub amount: Exact,
}

impl Percentage {
    /// Checks that the bounds do not contradict each other.
    ///
    /// # Errors
    /// [`TermsStatus::MinimumMustNotExceedMaximum`].
    pub fn check(&self) -> Result<(), TermsStatus> {
        match (self.event_min, self.event_max) {
            (Some(min), Some(max)) if min > max => Err(TermsStatus::MinimumMustNotExceedMaximum),
            _ => Ok(()),
        }
    }

    /// Prices the next event of a sequence; gives what it owes.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn take(&self, state: &mut PercentageState, amount: Exact) -> Result<Exact, RatingStatus> {
        let left = match self.free_amount {
            None => None,
            Some(free) => Some(free.subtract(state.free_units)?),
        };
        let has_limit = self.free_events.is_some() || self.free_amount.is_some();
        let has_count_left = self.free_events.is_none_or(|free| state.free_events < free);
        let has_amount_left = left.is_none_or(Exact::is_positive);
        let has_room = has_limit && has_count_left && has_amount_left;
        let taken = match (has_room, left) {
            (false, _) => Exact::ZERO,
            (true, None) => amount,
            (true, Some(left)) => amount.min(left)?,
        };
        let paid = amount.subtract(taken)?;
        state.free_units = state.free_units.add(taken)?;
        state.paid_units = state.paid_units.add(paid)?;
        if has_room && paid.is_zero() {
            state.free_events += 1;
            return Ok(Exact::ZERO);
        }
        let share = paid.multiply(self.rate)?;
        let mut owed = share.add(self.fixed_amount)?;
        if let Some(min) = self.event_min {
            owed = owed.max(min)?;
        }
        if let Some(max) = self.event_max {
            owed = owed.min(max)?;
        }
        state.paid_events += 1;
        state.fixed = state.fixed.add(self.fixed_amount)?;
        state.percentage = state.percentage.add(share)?;
        state.amount = state.amount.add(owed)?;
        Ok(owed)
    }

    /// Prices a sequence in order; gives its end state and what each event owes.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amounts(&self, events: &[Exact]) -> Result<(PercentageState, Vec<Exact>), RatingStatus> {
        let mut state = PercentageState::default();
        let owed = events.iter().map(|amount| self.take(&mut state, *amount)).collect::<Result<_, _>>()?;
        Ok((state, owed))
    }

    /// How the amount came about between two states of a sequence.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn portions(
        &self,
        before: &PercentageState,
        after: &PercentageState,
    ) -> Result<Vec<Portion>, RatingStatus> {
        let mut portions = Vec::new();
        let free = after.free_units.subtract(before.free_units)?;
        let paid = after.paid_units.subtract(before.paid_units)?;
        let share = after.percentage.subtract(before.percentage)?;
        let fixed = after.fixed.subtract(before.fixed)?;
        let amount = after.amount.subtract(before.amount)?;
        if !free.is_zero() {
            portions.push(Portion { quantity: free, basis: Basis::Free, ..Portion::fixed(Exact::ZERO) });
        }
        if !paid.is_zero() {
            let rate = self.rate.multiply(Exact::from_integer(100))?;
            portions.push(Portion {
                quantity: paid,
                basis: Basis::Percent { rate },
                amount: share,
                ..Portion::fixed(Exact::ZERO)
            });
        }
        if !fixed.is_zero() {
            let quantity = Exact::from_integer(i128::from(after.paid_events - before.paid_events));
            let unit_amount = self.fixed_amount;
            portions.push(Portion {
                quantity,
                unit_amount,
                amount: fixed,
                basis: Basis::Units,
                ..Portion::fixed(Exact::ZERO)
            });
        }
        // What the bounds per event added or took away.
        let bounded = amount.subtract(share)?.subtract(fixed)?;
        if !bounded.is_zero() {
            portions.push(Portion::fixed(bounded));
        }
        Ok(portions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::exact;
    use super::*;

    fn percentage(
        rate: &str,
        fixed: &str,
        events: Option<u64>,
        free: &str,
        min: &str,
        max: &str,
    ) -> Percentage {
        let optional = |text: &str| (!text.is_empty()).then(|| exact(text));
        Percentage {
            rate: exact(rate),
            fixed_amount: exact(fixed),
            free_events: events,
            free_amount: optional(free),
            event_min: optional(min),
            event_max: optional(max),
        }
    }

    fn check(terms: Percentage, events: &[&str], expected: &[&str]) {
        let events: Vec<Exact> = events.iter().map(|text| exact(text)).collect();
        let expected: Vec<Exact> = expected.iter().map(|text| exact(text)).collect();
        let (state, owed) = terms.amounts(&events).unwrap();
        assert_eq!(owed, expected, "{terms:?}");
        let sum = expected.iter().fold(Exact::ZERO, |sum, owed| sum.add(*owed).unwrap());
        assert_eq!(state.amount, sum);
        assert_eq!(state.free_events + state.paid_events, events.len() as u64);
    }

    #[test]
    fn an_event_is_free_while_every_limit_has_room() {
        let three = percentage("0.013", "2", Some(3), "250", "", "");
        check(three, &["50", "100", "250", "400"], &["0", "0", "3.95", "7.2"]);
        check(percentage("0.01", "1", Some(1), "", "", ""), &["100", "100"], &["0", "2"]);
        check(percentage("0.01", "1", None, "150", "", ""), &["100", "100", "100"], &["0", "1.5", "2"]);
        check(percentage("0.01", "1", None, "", "", ""), &["100", "0"], &["2", "1"]);
    }

    #[test]
    fn an_event_that_uses_up_the_free_amount_exactly_owes_nothing() {
        // Lago asks whether the amount is strictly below the limit, and charges the fixed fee.
        check(percentage("0.1", "5", None, "100", "", ""), &["100", "1"], &["0", "5.1"]);
    }

    #[test]
    fn an_event_of_zero_is_free_by_count_and_owes_the_fixed_fee_beyond() {
        check(percentage("0.1", "2", Some(3), "", "", ""), &["0", "0", "0", "0"], &["0", "0", "0", "2"]);
    }

    #[test]
    fn bounds_per_event_never_make_a_fee_negative() {
        // Lago-api #5560: with a minimum per event the stored fee was zero or negative.
        check(
            percentage("0.01", "0", Some(1), "", "1.75", "3"),
            &["1", "1", "100", "900"],
            &["0", "1.75", "1.75", "3"],
        );
        let crossed = percentage("0", "0", None, "", "2", "1");
        assert_eq!(crossed.check(), Err(TermsStatus::MinimumMustNotExceedMaximum));
    }

    #[test]
    fn portions_say_what_was_free_what_was_shared_and_what_each_event_owed() {
        let terms = percentage("0.013", "2", Some(3), "250", "4", "");
        let events: Vec<Exact> = ["50", "100", "250", "400"].iter().map(|text| exact(text)).collect();
        let (first, _) = terms.amounts(&events[..2]).unwrap();
        let (all, _) = terms.amounts(&events).unwrap();
        let shown =
            |before: &PercentageState, after: &PercentageState| -> Vec<(Basis, String, String, String)> {
                let portions = terms.portions(before, after).unwrap();
                let texts = |p: Portion| {
                    (p.basis, p.quantity.to_string(), p.unit_amount.to_string(), p.amount.to_string())
                };
                portions.into_iter().map(texts).collect()
            };
        let row = |basis, quantity: &str, unit: &str, amount: &str| {
            (basis, quantity.to_string(), unit.to_string(), amount.to_string())
        };
        let percent = Basis::Percent { rate: exact("1.3") };
        let none = PercentageState::default();
        assert_eq!(shown(&none, &first), [row(Basis::Free, "150", "0", "0")]);
        let both = [
            row(percent, "550", "0", "7.15"),
            row(Basis::Units, "2", "2", "4"),
            row(Basis::Fixed, "0", "0", "0.05"),
        ];
        assert_eq!(shown(&none, &all)[1..], both);
        // Two events, the first of which was partly free.
        assert_eq!(shown(&first, &all)[1..], both);
        assert_eq!(shown(&first, &all)[0], row(Basis::Free, "100", "0", "0"));
        let (third, _) = terms.amounts(&events[..3]).unwrap();
        assert_eq!(shown(&third, &all), [row(percent, "400", "0", "5.2"), row(Basis::Units, "1", "2", "2")]);
        assert_eq!(shown(&all, &all), []);
        assert_eq!(
            percentage("0", "0", None, "", "2", "2").check(),
            Ok(()),
            "an event may owe one amount only"
        );
    }

    #[test]
    fn portions_add_up_to_the_amount_between_two_states() {
        let terms = percentage("0.013", "2", Some(3), "250", "4", "7");
        let events: Vec<Exact> = ["50", "100", "250", "400", "10"].iter().map(|text| exact(text)).collect();
        for at in 0..=events.len() {
            let (before, _) = terms.amounts(&events[..at]).unwrap();
            let (after, _) = terms.amounts(&events).unwrap();
            let portions = terms.portions(&before, &after).unwrap();
            let sum = portions.iter().fold(Exact::ZERO, |sum, portion| sum.add(portion.amount).unwrap());
            assert_eq!(sum, after.amount.subtract(before.amount).unwrap(), "{at}");
        }
    }
}
