//! Decimals of other crates.

use domain::{Decimal, DecimalStatus};

/// A value of the `rust_decimal` crate, exactly.
///
/// # Errors
/// Never in practice: 96 bits and 28 fraction digits always fit.
pub fn from_rust_decimal(value: rust_decimal::Decimal) -> Result<Decimal, DecimalStatus> {
    let scale = u8::try_from(value.scale()).map_err(|_| DecimalStatus::DecimalScaleMustFit)?;
    Decimal::new(value.mantissa(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_decimals_are_taken_exactly() {
        for text in ["0", "-1.50", "79228162514264337593543950335", "0.0000000000000000000000000001"] {
            let value: rust_decimal::Decimal = text.parse().unwrap();
            assert_eq!(from_rust_decimal(value), Decimal::parse(text), "{text}");
        }
    }
}
