//! How the changes of accounts are distributed: a histogram of percentages.
//!
//! Owns: percentages and bins. Leaves to others: drawing them (`terminal`, `svg`).
//!
//! Invariants: an account is in the bar of the percentage that is shown of it, and in one only.

use domain::limits::DECIMAL_DIGITS_MAX;

/// Bins without those that take what lies far outside.
const BINS_MAX: i128 = 12;
const BINS_MIN: usize = 5;
/// The largest change is at most so many bins from zero: finer ones would show how single amounts were rounded.
const FINENESS: i128 = 20;
/// One in so many accounts at either end may lie outside.
const OUTSIDE_SHARE: usize = 50;
/// Minus a hundred percent, in tenths: nothing is left.
const NOTHING_LEFT: i128 = -1_000;

/// How many accounts change by how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    /// In order; all of one width, but the first and the last may be open.
    pub(super) bins: Vec<Bin>,
    /// Accounts that are charged the same.
    pub(super) unchanged: u64,
    /// Accounts that were charged nothing and are now: no percentage says how much more that is.
    pub(super) from_nothing: u64,
}

/// Accounts whose change lies in `from..until`, in tenths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bin {
    /// The least change; none if the bin is open.
    pub(super) from: Option<i128>,
    /// The change that is too much; none if the bin is open.
    pub(super) until: Option<i128>,
    pub(super) accounts: u64,
}

impl Distribution {
    /// Of what accounts are charged before, and what is added to it.
    pub(super) fn of(amounts: impl Iterator<Item = (i128, i128)>) -> Self {
        let mut distribution = Self::default();
        let mut changes = Vec::new();
        for (before, difference) in amounts {
            match tenths(before, difference) {
                _ if difference == 0 => distribution.unchanged += 1,
                // Less is below zero, however little it is.
                Some(0) if difference < 0 => changes.push(-1),
                Some(change) => changes.push(change),
                None => distribution.from_nothing += 1,
            }
        }
        changes.sort_unstable();
        distribution.bins = bins_of(&changes);
        distribution
    }

    /// Accounts in the largest bar.
    pub(super) fn accounts_max(&self) -> u64 {
        let bins = self.bins.iter().map(|bin| bin.accounts);
        bins.chain([self.unchanged, self.from_nothing]).max().unwrap_or(0)
    }
}

/// Bins of sorted changes.
fn bins_of(changes: &[i128]) -> Vec<Bin> {
    let outside = changes.len() / OUTSIDE_SHARE;
    let [least, most] = match changes {
        [] => return Vec::new(),
        _ => [changes[outside], changes[changes.len() - 1 - outside]],
    };
    let mut widths =
        (0..DECIMAL_DIGITS_MAX).flat_map(|exponent| [1, 2, 5].map(|digit| digit * 10i128.pow(exponent)));
    let least_width = least.abs().max(most.abs()) / FINENESS;
    let is_wide_enough =
        |width: &i128| *width >= least_width && most.div_euclid(*width) - least.div_euclid(*width) < BINS_MAX;
    let width = widths.find(is_wide_enough).expect("percentages of 128 bits fit a few bins of 5 * 10^37");
    let (mut first, mut last) = (least.div_euclid(width), most.div_euclid(width));
    // A single bar says little: empty ones beside it say that there is nothing else.
    while ((last - first) as usize) + 1 < BINS_MIN {
        last += 1;
        if ((last - first) as usize) + 1 < BINS_MIN && first * width > NOTHING_LEFT {
            first -= 1;
        }
    }
    let mut bins: Vec<Bin> = (first..=last)
        .map(|bin| Bin { from: Some(bin * width), until: Some((bin + 1) * width), accounts: 0 })
        .collect();
    let [below, above] = [first * width, (last + 1) * width];
    let count = |is_in: &dyn Fn(i128) -> bool| changes.iter().filter(|change| is_in(**change)).count() as u64;
    for bin in &mut bins {
        bin.accounts = count(&|change| bin.from <= Some(change) && Some(change) < bin.until);
    }
    let (under, over) = (count(&|change| change < below), count(&|change| change >= above));
    if under > 0 {
        bins.insert(0, Bin { from: None, until: Some(below), accounts: under });
    }
    if over > 0 {
        bins.push(Bin { from: Some(above), until: None, accounts: over });
    }
    bins
}

/// A difference in tenths of a percent of what it is added to, half away from zero; none of nothing.
fn tenths(before: i128, difference: i128) -> Option<i128> {
    let (mut whole, mut part) = (before.unsigned_abs(), difference.unsigned_abs());
    // Amounts of more than 34 digits lose their last ones, which no percentage shows.
    while part.checked_mul(4_000).is_none() {
        (whole, part) = (whole / 1_000, part / 1_000);
    }
    let tenths = (part * 1_000 + whole / 2).checked_div(whole)?;
    let tenths = i128::try_from(tenths).expect("a thousandth of 128 bits fits 127");
    Some(if difference < 0 { -tenths } else { tenths })
}

/// A difference as a percentage of what it is added to, with one digit: `+5.3`, `-0.1`.
pub(super) fn percent_text(before: i128, difference: i128) -> Option<String> {
    let tenths = tenths(before, difference)?.unsigned_abs();
    let sign = match difference {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    let digits = billing::rating::grouped(&(tenths / 10).to_string());
    Some(format!("{sign}{digits}.{}", tenths % 10))
}

/// A bound of a bin: `-12.5`, and without the fraction where no bound has one.
pub(super) fn bound_text(tenths: i128, has_fraction: bool) -> String {
    let sign = if tenths < 0 { "-" } else { "" };
    let (whole, fraction) = (tenths.unsigned_abs() / 10, tenths.unsigned_abs() % 10);
    let whole = billing::rating::grouped(&whole.to_string());
    if has_fraction { format!("{sign}{whole}.{fraction}") } else { format!("{sign}{whole}") }
}

/// Whether bounds of the bins have a fraction.
pub(super) fn has_fraction(bins: &[Bin]) -> bool {
    bins.iter().flat_map(|bin| [bin.from, bin.until]).flatten().any(|bound| bound % 10 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bars of amounts: `from..until accounts` in percent.
    fn check_bars(amounts: &[(i128, i128)], expected: &str) {
        let found = Distribution::of(amounts.iter().copied());
        let fraction = has_fraction(&found.bins);
        let text = |bound: Option<i128>| bound.map_or(String::new(), |bound| bound_text(bound, fraction));
        let bins = found.bins.iter().filter(|bin| bin.accounts > 0);
        let mut bars: Vec<String> =
            bins.map(|bin| format!("{}..{} {}", text(bin.from), text(bin.until), bin.accounts)).collect();
        bars.push(format!("same {}, new {}", found.unchanged, found.from_nothing));
        assert_eq!(bars.join(" | "), expected);
        let counted: u64 = found.bins.iter().map(|bin| bin.accounts).sum();
        assert_eq!(
            counted + found.unchanged + found.from_nothing,
            amounts.len() as u64,
            "each is in one bar"
        );
    }

    #[test]
    fn a_bound_belongs_to_the_bin_above_it_and_zero_is_a_bar_of_its_own() {
        check_bars(&[], "same 0, new 0");
        check_bars(&[(100, 0), (0, 0), (0, 5), (0, -5)], "same 2, new 2");
        check_bars(&[(1_000, 200), (1_000, 200)], "20..21 2 | same 0, new 0");
        check_bars(&[(1_000, -200)], "-20..-19 1 | same 0, new 0");
        // The same percentage of all, but for the rounding of single amounts.
        check_bars(&[(125_003, 25_001), (125_001, 25_000), (33_333, 6_666)], "20..21 3 | same 0, new 0");
        check_bars(&[(100_000, -1), (100_000, 1)], "-0.1..0.0 1 | 0.0..0.1 1 | same 0, new 0");
        check_bars(&[(1_000, -1), (1_000, 1), (10, 0)], "-0.1..0.0 1 | 0.1..0.2 1 | same 1, new 0");
        check_bars(&[(100, -100), (100, 100)], "-100..-80 1 | 100..120 1 | same 0, new 0");
        // Of a credit, less credit is more.
        check_bars(&[(-100, 50)], "50..55 1 | same 0, new 0");
    }

    #[test]
    fn what_lies_far_outside_does_not_make_the_bins_wide() {
        let mut amounts: Vec<(i128, i128)> = (0..200).map(|percent| (10_000, 100 + percent)).collect();
        amounts.push((1, 1_000_000));
        amounts.push((10_000, -9_999));
        let found = Distribution::of(amounts.into_iter());
        assert_eq!(
            found.bins.first().map(|bin| (bin.from, bin.until, bin.accounts)),
            Some((None, Some(10), 1))
        );
        assert_eq!(
            found.bins.last().map(|bin| (bin.from, bin.until, bin.accounts)),
            Some((Some(32), None, 1))
        );
        assert!(found.bins.len() <= 14, "{found:?}");
    }

    #[test]
    fn a_percentage_is_rounded_half_away_from_zero_and_says_its_direction() {
        for (before, difference, text) in [
            (10_000, 525, Some("+5.3")),
            (10_000, -525, Some("-5.3")),
            (10_000, 524, Some("+5.2")),
            (100_000, 1, Some("+0.0")),
            (3, 1, Some("+33.3")),
            (3, 2, Some("+66.7")),
            (-10_000, -1_000, Some("-10.0")),
            (1, 1_000_000, Some("+100,000,000.0")),
            (100, 0, Some("0.0")),
            (0, 1, None),
            (i128::MAX, i128::MAX, Some("+100.0")),
            (i128::MIN, i128::MIN, Some("-100.0")),
        ] {
            assert_eq!(percent_text(before, difference).as_deref(), text, "{difference} of {before}");
        }
    }

    #[test]
    fn any_amounts_have_bins() {
        let extremes = [i128::MIN, -1, 1, 1_000, i128::MAX];
        for before in extremes {
            for difference in extremes {
                let found = Distribution::of([(before, difference), (1, 1)].into_iter());
                let counted: u64 = found.bins.iter().map(|bin| bin.accounts).sum();
                assert_eq!(counted + found.from_nothing, 2, "{before} {difference}: {found:?}");
            }
        }
    }
}
