//! Matrix: the price of a unit depends on its dimensions.
//!
//! Each row names texts of some dimensions and has a price of its own; usage takes the most specific row that fits (most
//! dimensions named; of equals, the first). What fits no row is rejected, costs nothing, or waits in quarantine, as the
//! price says. Each row is a line and counts its own tiers.
//!
//! Source: Lago's charge filters with a default, Meteroid's matrix, Kill Bill's several units in one usage.

use domain::{Exact, GroupTexts};
use serde::{Deserialize, Serialize};

use super::graduated::Graduated;
use super::per_unit::PerUnit;
use super::portion::Portion;
use crate::rating::status::{RatingStatus, TermsStatus};

/// What becomes of usage that fits no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// Its account cannot be rated, and the failure names the price.
    #[default]
    Reject,
    /// It costs nothing, and its line says so.
    Zero,
    /// It is not charged, and every cut that rates its window says so, until a version of the price has a row for it.
    Quarantine,
}

/// What usage with some dimensions takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMatch {
    /// The row with this index.
    Row(usize),
    /// Nothing: it costs nothing.
    Free,
    /// Nothing: it waits.
    SetAside,
}

/// What a row's units cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowPrice {
    /// The same for each.
    PerUnit(PerUnit),
    /// By tier, counted for the row alone.
    Graduated(Graduated),
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Texts that usage must have, by dimension; a row without any is the default.
    pub dimensions: GroupTexts,
    /// What its units cost.
    pub price: RowPrice,
}

impl Row {
    fn fits(&self, dimensions: &GroupTexts) -> bool {
        self.dimensions.iter().all(|(name, text)| dimensions.get(name) == Some(text))
    }

    /// What so many units of the row cost.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub fn amount(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
        match &self.price {
            RowPrice::PerUnit(price) => price.amount(quantity),
            RowPrice::Graduated(price) => price.amount(quantity, is_owed_at_zero),
        }
    }

    /// How that comes about.
    ///
    /// # Errors
    /// As [`Row::amount`].
    pub fn portions(&self, quantity: Exact, is_owed_at_zero: bool) -> Result<Vec<Portion>, RatingStatus> {
        match &self.price {
            RowPrice::PerUnit(price) => price.portions(quantity),
            RowPrice::Graduated(price) => price.portions(quantity, is_owed_at_zero),
        }
    }
}

/// Rows that were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    rows: Vec<Row>,
    unmatched: Unmatched,
}

impl Matrix {
    /// Takes rows; the most specific one that fits is chosen, of equals the first.
    ///
    /// # Errors
    /// [`TermsStatus::RowsMustDiffer`]: two rows name the same texts, or there is none.
    pub fn new(rows: Vec<Row>, unmatched: Unmatched) -> Result<Self, TermsStatus> {
        let mut matrix = Self::in_listed_order(rows, unmatched)?;
        // Stable: rows that name equally many dimensions keep their order.
        matrix.rows.sort_by_key(|row| std::cmp::Reverse(row.dimensions.len()));
        Ok(matrix)
    }

    /// Takes rows; the first one that fits is chosen, as imported price lists may want it.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub fn in_listed_order(rows: Vec<Row>, unmatched: Unmatched) -> Result<Self, TermsStatus> {
        let repeats =
            |(index, row): (usize, &Row)| rows[..index].iter().any(|r| r.dimensions == row.dimensions);
        if rows.is_empty() || rows.iter().enumerate().any(repeats) {
            return Err(TermsStatus::RowsMustDiffer);
        }
        Ok(Self { rows, unmatched })
    }

    /// The rows, in the order in which they are tried.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What usage with these dimensions takes.
    ///
    /// # Errors
    /// [`RatingStatus::RowMustMatch`].
    pub fn row_of(&self, dimensions: &GroupTexts) -> Result<RowMatch, RatingStatus> {
        match (self.rows.iter().position(|row| row.fits(dimensions)), self.unmatched) {
            (Some(row), _) => Ok(RowMatch::Row(row)),
            (None, Unmatched::Zero) => Ok(RowMatch::Free),
            (None, Unmatched::Quarantine) => Ok(RowMatch::SetAside),
            (None, Unmatched::Reject) => Err(RatingStatus::RowMustMatch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::exact;
    use super::*;

    fn row(dimensions: &[(&str, &str)], unit: &str) -> Row {
        let dimensions = dimensions.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        Row { dimensions, price: RowPrice::PerUnit(PerUnit { unit_amount: exact(unit) }) }
    }

    #[test]
    fn the_most_specific_row_that_fits_prices_a_unit() {
        let rows = || {
            vec![
                row(&[("cloud", "aws")], "0.08"),
                row(&[("cloud", "aws"), ("region", "eu")], "0.09"),
                row(&[("region", "eu")], "0.07"),
            ]
        };
        let dimensions = |texts: &[(&str, &str)]| -> GroupTexts {
            texts.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
        };
        let matrix = Matrix::new(rows(), Unmatched::Zero).unwrap();
        for (texts, unit) in [
            (&[("cloud", "aws"), ("region", "eu")][..], Some("0.09")),
            (&[("cloud", "aws"), ("region", "us")], Some("0.08")),
            (&[("cloud", "gcp"), ("region", "eu")], Some("0.07")),
            (&[("cloud", "gcp")], None),
            (&[], None),
        ] {
            let amount = match matrix.row_of(&dimensions(texts)).unwrap() {
                RowMatch::Row(row) => Some(matrix.rows()[row].amount(Exact::ONE, true).unwrap()),
                _ => None,
            };
            assert_eq!(amount, unit.map(exact), "{texts:?}");
        }
        let strict = Matrix::new(rows(), Unmatched::Reject).unwrap();
        assert_eq!(strict.row_of(&dimensions(&[])), Err(RatingStatus::RowMustMatch));
        let patient = Matrix::new(rows(), Unmatched::Quarantine).unwrap();
        assert_eq!(patient.row_of(&dimensions(&[])), Ok(RowMatch::SetAside));
        let listed = Matrix::in_listed_order(rows(), Unmatched::Zero).unwrap();
        assert_eq!(listed.row_of(&dimensions(&[("cloud", "aws"), ("region", "eu")])), Ok(RowMatch::Row(0)));
    }

    #[test]
    fn two_rows_never_name_the_same_texts() {
        let twice = vec![row(&[("cloud", "aws")], "1"), row(&[("cloud", "aws")], "2")];
        assert_eq!(Matrix::new(twice, Unmatched::Zero), Err(TermsStatus::RowsMustDiffer));
        assert_eq!(Matrix::new(Vec::new(), Unmatched::Zero), Err(TermsStatus::RowsMustDiffer));
    }
}
