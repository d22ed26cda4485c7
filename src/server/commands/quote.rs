//! `tallymark quote`: the bill of a price, a plan or a subscription with its explanation, without a server.
//!
//! Owns: arguments, and how a bill looks. Leaves to others: what is in it (`billing::quote`).

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use billing::catalog::{Catalog, CatalogFile, Meter, PricingModel};
use billing::quote::{
    Bill, GroupBill, Metered, Note, PriceBill, QuoteTerms, Selection, ThresholdStanding, Use, group_text,
    meter, notes, quote, quote_at, quote_months, read_usage, uses_of, window_notes,
};
use billing::rating::account::BillLine;
use billing::rating::{grouped, money_text, total_text};
use clap::{ArgGroup, Args};
use domain::{Decimal, Exact, Period, Span, Timestamp, Zone};
use serde_json::{Value, json};

/// `tallymark quote`
///
/// Prices, meters and plans are those of a catalog file; neither a server nor a data directory is needed. Amounts come
/// from the functions that rate a cut, so a bill of the same usage says the same.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("what").required(true).args(["price", "plan", "subscription"]))]
pub struct QuoteArgs {
    /// Catalog file (TOML).
    #[arg(long, value_name = "FILE", env = "TALLYMARK_CATALOG")]
    catalog: PathBuf,
    /// A price; may be given several times.
    #[arg(long, value_name = "ID")]
    price: Vec<String>,
    /// All prices of a plan.
    #[arg(long, value_name = "ID")]
    plan: Option<String>,
    /// A subscription of the file: its plans, seats and time zone, its bounds, and what its account agreed to (discounts,
    /// commitments, credit grants, thresholds), as if nothing else had been used.
    #[arg(long, value_name = "ID", conflicts_with_all = ["seats", "from", "until", "zone"])]
    subscription: Option<String>,
    /// What was used: N, METER=N, or METER=N@DIMENSION=TEXT for a group; may be given several times. 0,100,1000 gives a
    /// table; thousands have no commas, and a table of such numbers has spaces: '100, 200'.
    #[arg(long, value_name = "[METER=]N", allow_hyphen_values = true)]
    quantity: Vec<String>,
    /// Usage events instead, as CSV with a header, or one JSON object a line: a CloudEvent as POST /v1/events takes it, or
    /// {"time": …, "type": …, "values": {…}, "dimensions": {…}}; - reads them from the input.
    #[arg(long, value_name = "FILE", conflicts_with = "quantity")]
    usage: Option<PathBuf>,
    /// Type of the usage file's events that name none.
    #[arg(long = "type", value_name = "TYPE", requires = "usage")]
    event_type: Option<String>,
    /// Seats of the subscription: recurring amounts are multiplied by them.
    #[arg(long, value_name = "N", value_parser = decimal, allow_hyphen_values = true)]
    seats: Option<Decimal>,
    /// The month, as YYYY-MM: the windows that start in it, of a quantity only the first of each price, or the one in which the month lies if
    /// none does; every month of the file, otherwise the present one, if left out.
    #[arg(long, value_name = "MONTH", value_parser = Period::parse)]
    period: Option<Period>,
    /// When a quantity is used, as an instant: decides which version of a price holds; from the start of the month on, if
    /// left out.
    #[arg(long, value_name = "INSTANT", value_parser = Timestamp::parse, conflicts_with_all = ["usage", "period"])]
    at: Option<Timestamp>,
    /// First instant at which the subscription is active.
    #[arg(long, value_name = "INSTANT", value_parser = Timestamp::parse)]
    from: Option<Timestamp>,
    /// First instant at which it is not any more.
    #[arg(long, value_name = "INSTANT", value_parser = Timestamp::parse)]
    until: Option<Timestamp>,
    /// The account's time zone: its days make the windows that are billed.
    #[arg(long, default_value = "UTC", value_parser = Zone::new)]
    zone: Zone,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tallymark quote --catalog catalog.toml --price tokens --quantity 1200000
  tallymark quote --catalog catalog.toml --price storage --quantity 0,100,1000,5000
  tallymark quote --catalog catalog.toml --plan pro --seats 5 --quantity tokens=1200000
  tallymark quote --catalog catalog.toml --price calls --quantity 10@model=large@region=eu
  tallymark quote --catalog catalog.toml --plan pro --usage events.csv --period 2026-02
  tallymark quote --catalog catalog.toml --subscription globex-pro --usage events.csv";

fn decimal(text: &str) -> Result<Decimal, String> {
    Decimal::parse(text).map_err(|status| status.to_string())
}

/// Runs the command.
///
/// # Errors
/// If the catalog or the usage cannot be read, or there is nothing to quote.
pub fn run(args: &QuoteArgs) -> Result<()> {
    let catalog = read_catalog(&args.catalog)?;
    let selection = match (&args.plan, &args.subscription) {
        (_, Some(subscription)) => {
            return run_quote(args, &catalog, &QuoteTerms::of_subscription(&catalog, subscription)?);
        }
        (Some(plan), None) => Selection::of_plan(&catalog, plan)?,
        (None, None) => Selection::of_prices(&catalog, &args.price)?,
    };
    if args.seats.is_some_and(Decimal::is_negative) {
        bail!("seats must be zero or more");
    }
    let active = Span::new(args.from.unwrap_or(Timestamp::MIN), args.until.unwrap_or(Timestamp::END));
    if active.from >= active.until {
        bail!("--until must be after --from");
    }
    let (seats, zone) = (args.seats.map(Exact::from), args.zone.clone());
    run_quote(args, &catalog, &QuoteTerms { selection, zone, seats, active, agreed: None })
}

fn run_quote(args: &QuoteArgs, catalog: &Catalog, terms: &QuoteTerms<'_>) -> Result<()> {
    let text = match &args.usage {
        Some(path) => of_usage(args, catalog, terms, path)?,
        None => of_quantities(args, catalog, terms)?,
    };
    // A reader that went away, such as `head`, has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn read_catalog(path: &Path) -> Result<Catalog> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = || {
        format!(
            "{name} is not a catalog; `tallymark catalog check {name}` shows what is wrong",
            name = path.display()
        )
    };
    let file = CatalogFile::parse(&text).with_context(wrong)?;
    let mut catalog = Catalog::default();
    for (offset, resource) in file.resources().into_iter().enumerate() {
        catalog.apply(resource, offset as u64).with_context(wrong)?;
    }
    Ok(catalog)
}

fn of_quantities(args: &QuoteArgs, catalog: &Catalog, terms: &QuoteTerms<'_>) -> Result<String> {
    let at = args.at.unwrap_or_else(|| {
        let now = crate::clock::Clock::new(wire::control::ClockKind::Real, Timestamp::MIN).now();
        let period = args.period.unwrap_or_else(|| terms.zone.period_of(terms.active.from.max(now)));
        // Inside the window, if the subscription is active in it at all.
        let window = terms.zone.month(period);
        let start = if args.period.is_some() { terms.start_in(period) } else { window.from };
        Some(start.max(terms.active.from)).filter(|at| *at < window.until).unwrap_or(start)
    });
    if let (Some(period), []) = (args.period, args.quantity.as_slice()) {
        // Nothing was used at any instant: the month has all its windows.
        let bill = quote(terms, period, &[])?;
        let notes = notes(catalog, terms, bill.window.from);
        return Ok(match args.json {
            true => json_text(&[bill], None, &notes),
            false => bill_text(args, terms, &bill) + &notes_text(&notes),
        });
    }
    let rows = uses_of(catalog, &terms.selection, &args.quantity, at)?;
    let bill_of = |uses: &Vec<Use>| quote_at(terms, at, uses);
    let bills = rows.iter().map(bill_of).collect::<Result<Vec<Bill>, _>>()?;
    let mut notes = notes(catalog, terms, terms.zone.month(terms.zone.period_of(at)).from);
    if let Some(bill) = bills.first() {
        notes.extend(window_notes(terms, bill));
    }
    Ok(match bills.as_slice() {
        _ if args.json => json_text(&bills, None, &notes),
        [bill] => bill_text(args, terms, bill) + &notes_text(&notes),
        bills => table_text(args, terms, &rows, bills) + &notes_text(&notes),
    })
}

/// What a quote leaves out or takes for granted, below its bills.
fn notes_text(notes: &[Note]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let lines: String = notes.iter().map(|note| format!("  {note}\n")).collect();
    format!("\nnote\n{lines}")
}

fn of_usage(args: &QuoteArgs, catalog: &Catalog, terms: &QuoteTerms<'_>, path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read the input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let events = read_usage(&text, args.event_type.as_deref())?;
    let mut meters: Vec<(u64, &Meter)> = catalog.meters().collect();
    meters.sort_by_key(|(created, _)| *created);
    let meters: Vec<&Meter> = meters.into_iter().map(|(_, meter)| meter).collect();
    let metered = meter(&meters, &events);
    let bills = quote_months(terms, &periods_of(args, terms, &meters, &metered)?, &metered.uses)?;
    let first = bills.first().map_or(Timestamp::MIN, |bill| bill.window.from);
    let notes = notes(catalog, terms, first);
    if args.json {
        return Ok(json_text(&bills, Some(&metered), &notes));
    }
    let mut out = metered_text(&meters, &metered);
    for bill in &bills {
        out.push('\n');
        out.push_str(&bill_text(args, terms, bill));
    }
    Ok(out + &notes_text(&notes))
}

/// The months that are billed: the one that was asked for, or all from that in which the first use's first window starts to that
/// of the last use.
fn periods_of(
    args: &QuoteArgs,
    terms: &QuoteTerms<'_>,
    meters: &[&Meter],
    metered: &Metered,
) -> Result<Vec<Period>> {
    if let Some(period) = args.period {
        return Ok(vec![period]);
    }
    let (Some(first), Some(last)) = (metered.uses.first(), metered.uses.last()) else {
        bail!(
            "no event counts, so there is no month to bill; say one with --period\n{}",
            metered_text(meters, metered)
        );
    };
    let (mut period, last) = (terms.first_period(first.time), terms.zone.period_of(last.time));
    let mut periods = vec![period];
    while period < last {
        period = period.next();
        periods.push(period);
    }
    Ok(periods)
}

/// What became of a usage file's events.
fn metered_text(meters: &[&Meter], metered: &Metered) -> String {
    let count =
        |number: usize, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
    let mut out = count(metered.events, "event", "events");
    let set_aside: usize = metered.set_aside.values().map(Vec::len).sum();
    let parts = [
        (metered.duplicates, "with an id that came before"),
        (metered.unmetered, "that no meter of the catalog takes"),
        (set_aside, if set_aside == 1 { "that does not count" } else { "that do not count" }),
    ];
    for (number, what) in parts.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(out, ", {number} {what}");
    }
    out.push('\n');
    if metered.unmetered > 0 {
        let mut types: Vec<&str> = meters.iter().map(|meter| meter.event_type.as_str()).collect();
        types.sort_unstable();
        types.dedup();
        let _ =
            writeln!(out, "  meters take events of the types {}; see their filters, too", types.join(", "));
    }
    for (reason, lines) in &metered.set_aside {
        let shown: Vec<String> = lines.iter().take(5).map(usize::to_string).collect();
        let more = if lines.len() > shown.len() { ", …" } else { "" };
        let word = if lines.len() == 1 { "line" } else { "lines" };
        let _ = writeln!(out, "  {word} {}{more}: {reason}", shown.join(", "));
    }
    out
}

/// What a quote is of: `plan pro in 2026-02 (UTC), 5 seats`.
fn title(args: &QuoteArgs, terms: &QuoteTerms<'_>, bill: &Bill) -> String {
    let what = match (&args.plan, &terms.agreed) {
        (_, Some(agreed)) => format!("subscription {} of {}", agreed.subscription.id(), agreed.account.id),
        (Some(plan), None) => format!("plan {plan}"),
        (None, None) => format!("price {}", args.price.join(", ")),
    };
    let seats = args.seats.map_or_else(String::new, |seats| format!(", {seats} seats"));
    let active = match bill.active {
        Some(active) if active != bill.window => {
            format!(", active from {} until {}", active.from, active.until)
        }
        _ => String::new(),
    };
    format!("{what} in {} ({}){seats}{active}\n", bill.period, terms.zone.name())
}

fn bill_text(args: &QuoteArgs, terms: &QuoteTerms<'_>, bill: &Bill) -> String {
    let mut out = title(args, terms, bill);
    if bill.prices.is_empty() && bill.active.is_some() {
        out.push_str("\n  no window of a price starts in this month\n");
    }
    if bill.prices.is_empty() && bill.active.is_none() {
        out.push_str("\n  the subscription is not active in this month: nothing is owed\n");
        return out;
    }
    for price in &bill.prices {
        out.push('\n');
        write_price(&mut out, terms, bill, price);
    }
    if !bill.agreed.is_empty() {
        out.push_str("\n  agreed besides the prices\n");
    }
    for line in &bill.agreed {
        let group = if line.key.group.is_empty() {
            String::new()
        } else {
            format!("{}: ", group_text(&line.key.group))
        };
        let _ = writeln!(out, "    {group}{}", line.explanation(bill.currency));
    }
    if bill.prices.len() > 1 || !bill.agreed.is_empty() {
        let _ = writeln!(out, "\ntotal {}", total_text(bill.currency, bill.precise, bill.rounded));
    }
    if let Some(standing) = bill.thresholds {
        let _ = writeln!(out, "\n  {}", threshold_text(bill, standing));
    }
    out
}

fn write_price(out: &mut String, terms: &QuoteTerms<'_>, bill: &Bill, price: &PriceBill) {
    let version = match price.version {
        Some(version) if price.version_count > 1 => format!(", version {version}"),
        _ => String::new(),
    };
    let _ = write!(out, "  {} ({}{version})", price.price, price.model.as_str());
    if price.window != bill.window {
        let day = |instant| terms.zone.date_of(instant);
        let _ = write!(out, " from {} until {}", day(price.window.from), day(price.window.until));
    }
    let single = match price.groups.as_slice() {
        [single] if price.version.is_some() => Some(single),
        _ => None,
    };
    let used = single.map(|group| used_text(price, group)).filter(|used| !used.is_empty());
    let _ = writeln!(out, "{}", used.map_or_else(String::new, |used| format!(": {used}")));
    write_versions(out, price);
    for group in &price.groups {
        let indent = if single.is_some() { "    " } else { "      " };
        if single.is_none() && price.groups.len() > 1 {
            let _ = writeln!(out, "    {}", used_text(price, group));
        }
        write_group(out, bill, group, indent);
    }
    for (group, units) in &price.set_aside {
        let units = grouped(&units.to_string());
        let _ = writeln!(out, "    {units} of {} wait: no row of the price fits them", group_text(group));
    }
    for line in &price.terms {
        // What is agreed for a month takes off what was charged in it, of whatever windows.
        let of_other = if line.window == price.window {
            String::new()
        } else {
            let day = |instant| terms.zone.date_of(instant);
            format!("for {} until {}: ", day(line.window.from), day(line.window.until))
        };
        let _ = writeln!(out, "    {of_other}{}", line.explanation(bill.currency));
    }
    if price.groups.len() > 1 || !price.terms.is_empty() {
        let _ = writeln!(out, "    together {}", total_text(bill.currency, price.precise, price.rounded));
    }
}

/// What is to be known of the versions of a price in the window.
fn write_versions(out: &mut String, price: &PriceBill) {
    let (next, until) = (price.next_version_at, price.window.until);
    let _ = match (price.version, next) {
        (None, Some(next)) if next < until => {
            writeln!(out, "    no version is in force before {next}: what is used earlier costs nothing")
        }
        (None, Some(next)) => writeln!(out, "    no version is in force before {next}"),
        (Some(_), Some(next)) if next < until => {
            writeln!(out, "    another version comes into force at {next}")
        }
        _ => Ok(()),
    };
}

/// What was used: `1,200 requests, model=large`.
fn used_text(price: &PriceBill, group: &GroupBill) -> String {
    let quantities = group.quantities.iter();
    let mut used: Vec<String> =
        quantities.map(|(meter, quantity)| format!("{} {meter}", grouped(&quantity.to_string()))).collect();
    if price.model == PricingModel::Percentage && group.event_count > 0 {
        let events = if group.event_count == 1 { "event" } else { "events" };
        used.push(format!("in {} {events}", group.event_count));
    }
    if !group.group.is_empty() {
        used.push(group_text(&group.group));
    } else if price.model == PricingModel::Matrix && group.event_count > 0 {
        used.push("of all other kinds".to_string());
    }
    used.join(", ")
}

fn write_group(out: &mut String, bill: &Bill, group: &GroupBill, indent: &str) {
    for line in group.explanation.to_string().lines() {
        let _ = writeln!(out, "{indent}{line}");
    }
    if let [_, _, ..] = group.lines.as_slice() {
        for line in &group.lines {
            let total = total_text(bill.currency, line.precise, line.rounded);
            let quantity = grouped(&line.quantity.to_string());
            let _ = writeln!(out, "{indent}of which from {}: {quantity} units, {total}", line.slice.from);
        }
    }
}

/// How far usage is from the next invoice: of an account with thresholds.
fn threshold_text(bill: &Bill, standing: ThresholdStanding) -> String {
    let money = |minor: i128| grouped(&bill.currency.format_minor(minor));
    let usage = money(standing.usage);
    let reached = standing.reached.map(|at| {
        format!("usage of {usage} reaches the threshold of {}: billing is asked for an invoice", money(at))
    });
    let next = standing.next.map(|at| format!("the next threshold is {}", money(at)));
    let first = reached.unwrap_or_else(|| format!("usage of {usage} reaches no threshold"));
    [Some(first), next].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A row of quantities, each with what it costs.
fn table_text(args: &QuoteArgs, terms: &QuoteTerms<'_>, rows: &[Vec<Use>], bills: &[Bill]) -> String {
    let mut out = bills.first().map(|bill| title(args, terms, bill)).unwrap_or_default();
    let mut cells = vec![["quantity".to_string(), "exactly".to_string(), "billed".to_string()]];
    for (uses, bill) in rows.iter().zip(bills) {
        let quantity = uses.first().map_or_else(|| "0".to_string(), |one| one.value.to_string());
        let billed = grouped(&bill.currency.format_minor(bill.rounded));
        cells.push([
            grouped(&quantity),
            money_text(bill.currency, bill.precise),
            format!("{billed} {}", bill.currency),
        ]);
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second, third) = (width(0), width(1), width(2));
    out.push('\n');
    for [quantity, exactly, billed] in &cells {
        let _ = writeln!(out, "  {quantity:>first$}   {exactly:>second$}   {billed:>third$}");
    }
    out
}

fn json_text(bills: &[Bill], metered: Option<&Metered>, notes: &[Note]) -> String {
    let bills: Vec<Value> = bills.iter().map(bill_json).collect();
    let notes: Vec<String> = notes.iter().map(Note::to_string).collect();
    let mut all = json!({ "bills": bills, "notes": notes });
    if let Some(metered) = metered {
        let aside: Vec<Value> = metered
            .set_aside
            .iter()
            .map(|(reason, lines)| json!({ "reason": reason.to_string(), "lines": lines }))
            .collect();
        all["usage"] = json!({
            "events": metered.events, "duplicates": metered.duplicates, "unmetered": metered.unmetered,
            "set_aside": aside,
        });
    }
    let text = serde_json::to_string_pretty(&all).expect("plain data is JSON");
    text + "\n"
}

fn bill_json(bill: &Bill) -> Value {
    let minor = |minor| bill.currency.format_minor(minor);
    let span = |span: Span| json!({ "from": span.from, "until": span.until });
    let group_json = |of: &GroupBill| {
        let quantities: serde_json::Map<String, Value> =
            of.quantities.iter().map(|(meter, quantity)| (meter.to_string(), json!(quantity))).collect();
        let lines = of.lines.iter().map(|line| {
            json!({
                "price_version": line.price_version, "slice": span(line.slice), "quantity": line.quantity,
                "precise": line.precise, "rounded": minor(line.rounded),
            })
        });
        let explanation = of.explanation.to_string();
        json!({
            "group": of.group, "quantities": quantities, "events": of.event_count,
            "explanation": explanation.lines().collect::<Vec<_>>(), "steps": of.explanation.steps_to_json(),
            "lines": lines.collect::<Vec<_>>(),
            "precise": of.explanation.precise, "rounded": minor(of.explanation.rounded),
        })
    };
    let term_json = |line: &BillLine| {
        json!({
            "subscription": line.key.subscription, "price": line.key.price, "component": line.key.component,
            "term": line.key.term, "group": line.key.group, "window": span(line.window),
            "reason": line.reason_to_json(bill.currency), "explanation": line.explanation(bill.currency),
            "quantity": line.quantity, "rounded": minor(line.rounded),
        })
    };
    let thresholds = bill.thresholds.map(|of| {
        json!({ "usage": minor(of.usage), "reached": of.reached.map(minor), "next": of.next.map(minor) })
    });
    let price_json = |price: &PriceBill| {
        let aside = price.set_aside.iter().map(|(group, units)| json!({ "group": group, "quantity": units }));
        let terms = price.terms.iter().map(term_json);
        json!({
            "price": price.price, "window": span(price.window), "model": price.model, "version": price.version,
            "next_version_at": price.next_version_at,
            "groups": price.groups.iter().map(group_json).collect::<Vec<_>>(),
            "set_aside": aside.collect::<Vec<_>>(), "terms": terms.collect::<Vec<_>>(),
            "precise": price.precise, "rounded": minor(price.rounded),
        })
    };
    json!({
        "period": bill.period, "window": span(bill.window), "active": bill.active.map(span),
        "currency": bill.currency, "prices": bill.prices.iter().map(price_json).collect::<Vec<_>>(),
        "agreed": bill.agreed.iter().map(term_json).collect::<Vec<_>>(), "thresholds": thresholds,
        "precise": bill.precise, "rounded": minor(bill.rounded),
    })
}
