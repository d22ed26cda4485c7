//! A comparison as text.
//!
//! Owns: the order and the columns of what a person reads. Leaves to others: what there is to say (`comparison`).

use std::fmt::Write as _;

use billing::rating::grouped;
use domain::Currency;
use machine::RatingFailure;

use super::super::catalog::change_text;
use super::comparison::{Amounts, Comparison};
use super::distribution::{Bin, bound_text, has_fraction, percent_text};

/// Accounts that are shown of each currency.
const ACCOUNTS_SHOWN: usize = 20;
/// Changes, prices and failures that are shown.
const ROWS_SHOWN: usize = 20;
const NAME_CHARS_MAX: usize = 28;
const BAR_CHARS: u64 = 40;

pub(super) fn write(comparison: &Comparison<'_>) -> String {
    let mut out = String::new();
    let question = &comparison.question;
    let _ = writeln!(
        out,
        "what if {} held, for {} in {}",
        question.catalog.display(),
        comparison.scope(),
        question.data.display()
    );
    let _ =
        writeln!(out, "  {} events, charges as of {}", grouped(&question.events.to_string()), question.at);
    if let Some(instant) = question.as_if_from {
        let _ = writeln!(
            out,
            "  prices of the file that hold from later on taken as if they held from {instant}"
        );
    }
    write_changes(&mut out, comparison);
    if comparison.changes.is_empty() {
        return out;
    }
    if comparison.accounts.is_empty() {
        write_nothing(&mut out, comparison);
    } else {
        write_affected(&mut out, comparison);
        write_totals(&mut out, comparison);
        if comparison.changed_accounts() > 0 || comparison.drawn_accounts() > 0 {
            write_prices(&mut out, comparison);
            write_accounts(&mut out, comparison);
            write_distribution(&mut out, comparison);
        }
    }
    for note in &comparison.notes {
        let _ = writeln!(out, "\nnote: {note}");
    }
    let effect = &comparison.effect;
    write_failures(&mut out, "cannot be rated under the new terms, counted as unchanged", &effect.failures);
    write_failures(&mut out, "cannot be rated under the present terms", &effect.failures_before);
    out
}

fn write_changes(out: &mut String, comparison: &Comparison<'_>) {
    let changes = &comparison.changes;
    if changes.is_empty() {
        let _ = writeln!(out, "\nno changes: the catalog says already what the file says");
        return;
    }
    let _ = writeln!(out, "\n{}", count(changes.len(), "change"));
    for change in changes.iter().take(ROWS_SHOWN) {
        let version = change.version.into();
        let text =
            change_text(change.kind.as_str(), &change.id, version, change.before.as_ref(), &change.after);
        out.extend(text.lines().map(|line| format!("  {line}\n")));
    }
    write_rest(out, changes.len(), ROWS_SHOWN);
}

fn write_nothing(out: &mut String, comparison: &Comparison<'_>) {
    let periods = &comparison.effect.periods;
    let _ = match (periods.first(), periods.last()) {
        (Some(first), Some(last)) => writeln!(
            out,
            "\nno charges for {}, before or after; there are charges for {first} to {last}",
            comparison.scope()
        ),
        _ => writeln!(out, "\nno charges at all, before or after: no usage belongs to a price yet"),
    };
}

fn write_affected(out: &mut String, comparison: &Comparison<'_>) {
    let (accounts, subscriptions) = comparison.affected;
    if accounts == 0 {
        let is_known = comparison.effect.failures.is_empty();
        let what = if is_known { "nothing" } else { "nothing that can be rated" };
        let _ = writeln!(out, "\n{what} would be charged differently");
        return;
    }
    let (accounts, subscriptions) = (count(accounts, "account"), count(subscriptions, "subscription"));
    let lines = count(comparison.effect.lines.len(), "charge line");
    let _ = writeln!(out, "\naffected: {accounts}, {subscriptions}, {lines}");
    let changed = comparison.changed_accounts();
    let all = comparison.accounts.len();
    let changed = grouped(&changed.to_string());
    let _ = writeln!(out, "another amount: {changed} of {}", count(all, "account"));
    let drawn = comparison.drawn_accounts();
    if drawn > 0 {
        let _ = writeln!(
            out,
            "credits pay another amount: {} of {}",
            grouped(&drawn.to_string()),
            count(all, "account")
        );
    }
    for ((currency, period), minor) in &comparison.late {
        let amount = signed(*currency, *minor);
        let _ =
            writeln!(out, "of which {amount} {currency} correct closed periods and would post to {period}");
    }
}

fn write_totals(out: &mut String, comparison: &Comparison<'_>) {
    let mut rows = Vec::new();
    for (currency, amounts) in &comparison.totals {
        rows.push(row([currency.to_string(), String::new()], *currency, *amounts));
        if let Some(drawn) = comparison.drawn.get(currency) {
            rows.extend(credit_rows(*currency, *amounts, *drawn));
        }
    }
    write_table(out, ["total", ""], rows);
}

fn write_prices(out: &mut String, comparison: &Comparison<'_>) {
    if comparison.prices.len() < 2 {
        return;
    }
    let mut prices: Vec<_> = comparison.prices.iter().collect();
    prices.sort_by_key(|((currency, _), minor)| (*currency, std::cmp::Reverse(minor.unsigned_abs())));
    let cells: Vec<[String; 2]> = prices
        .iter()
        .take(ROWS_SHOWN)
        .map(|((currency, price), minor)| {
            let price = price.as_ref().map_or("(around prices)", |price| price.as_str());
            [price.to_string(), format!("{} {currency}", signed(*currency, **minor))]
        })
        .collect();
    let widths = [0, 1].map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let _ = writeln!(out, "\nby price");
    for [price, amount] in cells {
        let _ = writeln!(out, "  {price:<0$}  {amount:>1$}", widths[0], widths[1]);
    }
    write_rest(out, prices.len(), ROWS_SHOWN);
}

fn write_accounts(out: &mut String, comparison: &Comparison<'_>) {
    for currency in comparison.totals.keys() {
        let changed = comparison.accounts.iter().filter(|a| {
            let is_other = a.amounts.difference != 0 || a.drawn.difference != 0;
            a.currency == *currency && is_other
        });
        let changed: Vec<_> = changed.collect();
        if changed.is_empty() {
            continue;
        }
        let shown = changed.iter().take(ACCOUNTS_SHOWN);
        let rows = shown.flat_map(|account| {
            let is_named = account.name != account.id.as_str();
            let name = if is_named { shortened(&account.name) } else { String::new() };
            let own = row([account.id.to_string(), name], *currency, account.amounts);
            let has_credits = account.drawn != Amounts::default();
            let of_credits = has_credits.then(|| credit_rows(*currency, account.amounts, account.drawn));
            std::iter::once(own).chain(of_credits.into_iter().flatten())
        });
        write_table(out, [&format!("account, {currency}"), ""], rows.collect());
        write_rest(out, changed.len(), ACCOUNTS_SHOWN);
    }
}

fn write_distribution(out: &mut String, comparison: &Comparison<'_>) {
    let distribution = &comparison.distribution;
    let fraction = has_fraction(&distribution.bins);
    let mut bars: Vec<(String, u64)> = vec![("same".to_string(), distribution.unchanged)];
    bars.extend(distribution.bins.iter().map(|bin| (bin_text(bin, fraction), bin.accounts)));
    bars.push(("from nothing".to_string(), distribution.from_nothing));
    bars.retain(|(label, accounts)| *accounts > 0 || label.contains('%'));
    let width = bars.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let most = distribution.accounts_max().max(1);
    let _ = writeln!(out, "\naccounts by change of their {}", comparison.charge_text());
    for (label, accounts) in bars {
        // A bar of one account among thousands is still a bar.
        let chars = ((accounts * BAR_CHARS + most / 2) / most).max(1) as usize;
        let bar = format!("{} {}", "█".repeat(chars), grouped(&accounts.to_string()));
        let _ = writeln!(out, "  {label:>width$}  {}", if accounts == 0 { "" } else { &bar });
    }
}

/// `-20 to -10 %`, `under -20 %`, `50 % and more`.
pub(super) fn bin_text(bin: &Bin, fraction: bool) -> String {
    let text = |bound| bound_text(bound, fraction);
    match (bin.from, bin.until) {
        (Some(from), Some(until)) => format!("{} to {} %", text(from), text(until)),
        (None, Some(until)) => format!("under {} %", text(until)),
        (Some(from), None) => format!("{} % and more", text(from)),
        (None, None) => "any %".to_string(),
    }
}

fn write_failures(out: &mut String, what: &str, failures: &[RatingFailure]) {
    if failures.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{what}:");
    for failure in failures.iter().take(ROWS_SHOWN) {
        let _ = writeln!(out, "  {failure}");
    }
    write_rest(out, failures.len(), ROWS_SHOWN);
}

fn write_rest(out: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(out, "  ... and {} more; --json shows all", grouped(&(all - shown).to_string()));
    }
}

/// Name, second name, before, after, difference, percent.
type Row = [String; 6];

fn row([name, second]: [String; 2], currency: Currency, amounts: Amounts) -> Row {
    let text = |minor| grouped(&currency.format_minor(minor));
    let after = amounts.before.checked_add(amounts.difference);
    let after = after.expect("an account's position fits 128 bits of minor units");
    let percent = percent_text(amounts.before, amounts.difference);
    let percent = percent.map_or_else(String::new, |percent| format!("{percent} %"));
    let difference = signed(currency, amounts.difference);
    [name, second, text(amounts.before), text(after), difference, percent]
}

/// What an amount is made of, where credits pay some of it.
fn credit_rows(currency: Currency, net: Amounts, drawn: Amounts) -> [Row; 2] {
    let named = |name: &str, amounts| row([format!("  {name}"), String::new()], currency, amounts);
    [named("before credits", net.with(drawn)), named("paid by credits", drawn)]
}

fn write_table(out: &mut String, [name, second]: [&str; 2], rows: Vec<Row>) {
    let header = [name, second, "before", "after", "difference", ""].map(str::to_string);
    let mut widths = [0; 6];
    for row in std::iter::once(&header).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    out.push('\n');
    for (index, row) in std::iter::once(&header).chain(&rows).enumerate() {
        let [w0, w1, w2, w3, w4, w5] = widths;
        let [name, second, before, after, difference, percent] = row;
        let indent = if index == 0 { "" } else { "  " };
        let name_width = if index == 0 { w0 + 2 } else { w0 };
        let second = if w1 == 0 { String::new() } else { format!("  {second:<w1$}") };
        let line = format!(
            "{indent}{name:<name_width$}{second}  {before:>w2$}  {after:>w3$}  {difference:>w4$}  {percent:>w5$}"
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn signed(currency: Currency, minor: i128) -> String {
    format!("{}{}", if minor > 0 { "+" } else { "" }, grouped(&currency.format_minor(minor)))
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS_MAX {
        return name.to_string();
    }
    name.chars().take(NAME_CHARS_MAX - 1).chain(['…']).collect()
}

fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(&number.to_string()), if number == 1 { "" } else { "s" })
}
