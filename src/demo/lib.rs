//! `tallymark demo`: one story, told in order, from the first event to the trial balance, and proven.
//!
//! Owns: the telling. Leaves to others: everything it tells of; it uses the product as a user would, over QUIC and HTTP.
//!
//! Invariants: exit 0 only if every proof holds; every number printed was read or measured in this run.
#![allow(clippy::print_stdout)] // the demo's output is its purpose

mod agreements;
mod api;
mod bill;
mod fold;
mod proofs;
mod story;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use billing::charges::ChargeLine;
use billing::ledger::{Journal, LedgerAccount, trial_balance};
use clap::Args;
use domain::{Currency, Exact, Period};
use serde_json::{Value, json};
use server::config::{ClockChoice, ServeArgs};
use server::directory::DataDirectory;
use server::recovery::replay;
use server::run::{Running, start};
use tallymark_client::{Client, ClientOptions};

use crate::api::Api;
use crate::fold::{Fold, METERS};
use crate::proofs::Proofs;
use crate::story::{CSV, DAYS, LATE, SOURCE, Story};
use crate::stream::{Streamed, Streamer};

/// `tallymark demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the demo's data goes; made anew each time.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Shards of the server, 1 to 64.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Write the facts and proofs to a file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leave the server up when the story is told.
    #[arg(long)]
    keep: bool,
}

/// Tells the story.
///
/// # Errors
/// If a proof does not hold, or something does not work at all.
pub fn run(args: &DemoArgs) -> Result<()> {
    server::commands::serve::runtime()?.block_on(tell(args))
}

async fn tell(args: &DemoArgs) -> Result<()> {
    let started = Instant::now();
    let data = args.data.clone().unwrap_or_else(|| std::env::temp_dir().join("tallymark-demo"));
    make_anew(&data)?;
    let story = Story::new()?;
    let mut fold = Fold::new(Story::new()?);
    let mut proofs = Proofs::default();
    let catalog = data.join("catalog.toml");
    std::fs::write(&catalog, story.catalog())?;
    let serve = serve_args(&data, args.shards);
    let running = start(&serve).await?;
    let token = running.token.clone().context("a new directory has a development token")?;
    let api = Api::new(format!("http://{}", running.http), token.clone());

    who_sells_what(&story, &catalog, &api).await?;
    let streamed = stream(&story, &api, &running, &token, &data, &mut fold).await?;
    counted(&api, &fold, &streamed, &data, &mut proofs).await?;
    let charges = pull_charges(&api).await?;
    let (agreed, lines): (Vec<_>, Vec<_>) = charges.iter().cloned().partition(agreements::is_agreed);
    control_totals(&lines, &fold, &data, &mut proofs)?;
    charged(&lines, &story, &fold, &mut proofs);
    top_accounts(&lines, &story);
    bill::explain_january(&lines, &story, &mut proofs)?;
    agreements::explain(&api, &agreed, &mut proofs).await?;
    let journals = pull_journals(&api).await?;
    posted(&api, &charges, &journals, &data, &mut proofs).await?;
    let chain = chain_of(&api).await?;
    let is_kept = args.keep;
    let addresses = (running.quic, running.http);
    running.stop().await?;
    replayed(&data, &chain, &mut proofs)?;

    let totals = totals_of(&charges);
    let unexplained = unexplained(&charges, &journals);
    let (held, all) = proofs.counts();
    for failure in proofs.failures() {
        println!("NOT PROVEN  {failure}");
    }
    let amounts: Vec<String> = totals
        .iter()
        .rev()
        .map(|(currency, minor)| format!("{currency} {}", grouped(&currency.format_minor(*minor))))
        .collect();
    let verdict = if held == all { "PROVEN" } else { "NOT PROVEN" };
    println!("\nThe whole took {:.1} s.", started.elapsed().as_secs_f64());
    println!("{verdict} {held}/{all} · {} · unexplained {unexplained}", amounts.join(" · "));
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&proofs.to_json())?)?;
    }
    if held != all {
        bail!("{} of {all} proofs do not hold", all - held);
    }
    if is_kept {
        keep(&serve, addresses, &token).await?;
    }
    Ok(())
}

fn make_anew(data: &Path) -> Result<()> {
    if data.exists() {
        let is_ours = data.join("catalog.toml").exists() || std::fs::read_dir(data)?.next().is_none();
        if !is_ours {
            bail!("{} is not a demo's directory; it is left alone", data.display());
        }
        std::fs::remove_dir_all(data)?;
    }
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))
}

fn serve_args(data: &Path, shards: u16) -> ServeArgs {
    ServeArgs {
        data: data.to_path_buf(),
        catalog: None,
        quic: ([127, 0, 0, 1], 0).into(),
        http: ([127, 0, 0, 1], 0).into(),
        shards,
        clock: ClockChoice::Scenario,
        tls_cert: None,
        tls_key: None,
        client_ca: None,
        http_cert: None,
        http_key: None,
        cut_seconds: 86_400,
        horizon_hours: 840,
        correction_hours: 9_600,
        dedup_days: 40,
        ids_max: None,
        future_seconds: 3_600,
        grace_hours: 120,
        pending_per_slot_max: 256,
        dedup_memory: 64 << 20,
        sequence_memory: 64 << 20,
        snapshot_bytes: 0, // the demo starts once
        segment_bytes: 64 << 20,
        archive: None,
        archive_days: 90,
        sources_max: 1_000_000,
        query_bytes_max: 16 << 30,
        accept_clock: false,
        accept_epoch: false,
    }
}

async fn who_sells_what(story: &Story, catalog: &Path, api: &Api) -> Result<()> {
    println!("1 · Who sells what\n");
    let americans = story.accounts.iter().filter(|account| account.is_american).count();
    println!("  Lumen AI Inc   sells in USD from New York to {americans} accounts");
    println!("  Lumen AI GmbH  sells in EUR from Berlin   to {} accounts", story.accounts.len() - americans);
    println!("\n  per 1,000 tokens      USD                       EUR");
    println!(
        "  chat input      0.030 | 0.024 | 0.018     0.028 | 0.022 | 0.017   graduated per month: to 25 M, to 100 M, above"
    );
    println!("  chat output     0.060                     0.055");
    println!("  code input      0.010                     0.009");
    println!("  code output     0.030                     0.028");
    println!("  platform fee    499 a month               449 a month");
    println!("\n  and by agreement, in USD:");
    for agreement in agreements::AGREEMENTS {
        println!("  {:16}{}", agreement.name, agreement.terms);
    }
    let text = std::fs::read_to_string(catalog)?;
    let applied = api.post_text("/v1/catalog/apply", text).await?;
    let changed = applied["changed"].as_array().map_or(0, Vec::len);
    println!("\n  catalog {} applied: {changed} resources\n", catalog.display());
    Ok(())
}

async fn stream(
    story: &Story,
    api: &Api,
    running: &Running,
    token: &str,
    data: &Path,
    fold: &mut Fold,
) -> Result<Streamed> {
    println!(
        "2 · The first quarter of 2026, {DAYS} days of {} requests, over QUIC\n",
        grouped(&story.requests.len().to_string())
    );
    let pem = std::fs::read(data.join(server::tls::DEV_CERT_FILE))?;
    let connect =
        async |source| Client::connect(ClientOptions::new(running.quic, token, source, pem.clone())).await;
    let (client, agents) = (connect(SOURCE).await?, connect(agreements::AGENT_SOURCE).await?);
    let is_terminal = std::io::stdout().is_terminal();
    let streamer = Streamer { story, api, client, agents, fold, is_terminal };
    let streamed = streamer.run().await?;
    println!(
        "\n  {} events in {:.1} s of sending: {} events/s, durable after p50 {:.1} ms, p99 {:.1} ms",
        grouped(&streamed.events_sent.to_string()),
        streamed.sending.as_secs_f64(),
        grouped(&format!("{:.0}", streamed.events_sent as f64 / streamed.sending.as_secs_f64())),
        streamed.ack_p50.as_secs_f64() * 1e3,
        streamed.ack_p99.as_secs_f64() * 1e3
    );
    println!("  with daily cuts, window ends and journals: {:.1} s\n", streamed.whole.as_secs_f64());
    Ok(streamed)
}

/// 3: what became of every event.
async fn counted(
    api: &Api,
    fold: &Fold,
    streamed: &Streamed,
    data: &Path,
    proofs: &mut Proofs,
) -> Result<()> {
    println!("3 · What became of every event\n");
    let counters = api.get_json("/v1/counters").await?;
    let source = &counters["sources"][SOURCE];
    let count = |path: &str| source.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let quarantined: u64 =
        source["quarantined"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let rows = [
        ("accepted", count("/accepted"), "inspect batches"),
        ("  of which metered", count("/metered"), "inspect batches"),
        ("  of which pending", count("/pending"), "inspect log"),
        ("duplicate", count("/duplicate"), "inspect log"),
        ("conflict", count("/conflict"), "inspect quarantine --reason conflict"),
        (
            "quarantined: negative_usage",
            count("/quarantined/negative_usage"),
            "inspect quarantine --reason negative_usage",
        ),
        ("quarantined: future", count("/quarantined/future"), "inspect quarantine --reason future"),
        ("rejected", count("/rejected"), "inspect quarantine --reason rejected"),
    ];
    println!("  {:30} {:>12}", "received", grouped(&count("/received").to_string()));
    for (name, number, command) in rows {
        println!(
            "  {name:30} {:>12}   tallymark {command} --data {}",
            grouped(&number.to_string()),
            data.display()
        );
    }
    let sum = count("/accepted")
        + count("/duplicate")
        + count("/duplicate_restamped")
        + count("/conflict")
        + quarantined
        + count("/rejected")
        + count("/voided");
    proofs.equal(
        "received = accepted + duplicate + conflict + quarantined + rejected + voided",
        count("/received"),
        sum,
    );
    proofs.equal(
        "accepted = metered + unmetered + pending",
        count("/accepted"),
        count("/metered") + count("/unmetered") + count("/pending"),
    );
    proofs.equal("received = sent", count("/received"), streamed.events_sent);
    proofs.equal("metered = trace + bound later", count("/metered"), fold.trace_events + fold.bound);
    proofs.equal("duplicates", count("/duplicate"), fold.duplicates);
    proofs.equal("conflicts", count("/conflict"), fold.conflicts);
    proofs.equal("negative usage quarantined", count("/quarantined/negative_usage"), fold.negatives);
    proofs.equal("future events quarantined", count("/quarantined/future"), fold.future);
    proofs.equal("pending of unknown subjects", count("/pending"), fold.unknown - fold.bound);
    proofs.facts.insert("counters".to_string(), source.clone());
    proofs.facts.insert(
        "events_per_second".to_string(),
        json!((streamed.events_sent as f64 / streamed.sending.as_secs_f64()).round()),
    );
    proofs.facts.insert("ack_p99_microseconds".to_string(), json!(streamed.ack_p99.as_micros() as u64));
    println!(
        "\n  received = accepted + duplicate + conflict + quarantined + rejected + voided: {}\n",
        grouped(&sum.to_string())
    );
    Ok(())
}

async fn pull_charges(api: &Api) -> Result<Vec<ChargeLine>> {
    let mut lines = Vec::new();
    let mut last = (0, String::new());
    for text in api.get("/v1/charge-batches?after=0").await?.lines() {
        let line: Value = serde_json::from_str(text)?;
        if let Some(charge) = line.get("charge") {
            lines.push(serde_json::from_value(charge.clone())?);
        }
        if let Some(seal) = line.get("seal") {
            last = (
                seal["batch"].as_u64().unwrap_or(0),
                seal["digest"].as_str().unwrap_or_default().to_string(),
            );
        }
    }
    api.post(&format!("/v1/charge-batches/{}/ack", last.0), &json!({ "digest": last.1 })).await?;
    Ok(lines)
}

async fn chain_of(api: &Api) -> Result<String> {
    let text = api.get("/v1/charge-batches?after=0").await?;
    let last = text.lines().last().context("there are batches")?;
    let seal: Value = serde_json::from_str(last)?;
    Ok(seal["seal"]["digest"].as_str().unwrap_or_default().to_string())
}

fn metered(lines: &[ChargeLine], meter: &str) -> Result<Exact> {
    let mut sum = Exact::ZERO;
    for line in lines.iter().filter(|line| line.meter.as_ref().is_some_and(|m| m.as_str() == meter)) {
        sum = sum.add(line.quantity_after.subtract(line.quantity_before)?)?;
    }
    Ok(sum)
}

/// 4: control totals per meter.
fn control_totals(lines: &[ChargeLine], fold: &Fold, data: &Path, proofs: &mut Proofs) -> Result<()> {
    println!("4 · Control totals: tokens per meter\n");
    let python = python_totals(data)?;
    if python.is_none() {
        println!("  (python3 is not installed: its column is skipped)");
    }
    println!(
        "  {:12} {:>16} {:>16} {:>12} {:>16} {:>10}",
        "meter", "CSV × 90, Python", "Rust fold", "bound later", "metered", "difference"
    );
    for (number, meter) in METERS.iter().enumerate() {
        let found = metered(lines, meter)?;
        let expected = fold.trace[number] + fold.extra[number];
        let difference = found.subtract(Exact::new(expected.into(), 0))?;
        let by_python = python.as_ref().and_then(|totals| totals.get(*meter)).copied();
        println!(
            "  {meter:12} {:>16} {:>16} {:>12} {:>16} {:>10}",
            by_python.map_or("-".to_string(), |total| grouped(&total.to_string())),
            grouped(&fold.trace[number].to_string()),
            grouped(&fold.extra[number].to_string()),
            grouped(&found.to_string()),
            difference.to_string()
        );
        proofs.equal(&format!("metered {meter} = told {meter}"), found.to_string(), expected.to_string());
        if let Some(total) = by_python {
            proofs.equal(&format!("{meter}: Python = Rust"), total, fold.trace[number]);
        }
    }
    println!();
    Ok(())
}

fn python_totals(data: &Path) -> Result<Option<BTreeMap<String, i64>>> {
    let directory = data.join("trace");
    std::fs::create_dir_all(&directory)?;
    for (name, text) in CSV {
        std::fs::write(directory.join(name), text)?;
    }
    let script = directory.join("control_totals.py");
    std::fs::write(&script, include_str!("control_totals.py"))?;
    let Ok(output) = Command::new("python3").arg(&script).arg(&directory).arg(DAYS.to_string()).output()
    else {
        return Ok(None);
    };
    if !output.status.success() {
        bail!("control_totals.py failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let totals = text.lines().filter_map(|line| {
        let (meter, total) = line.split_once(' ')?;
        Some((meter.to_string(), total.parse().ok()?))
    });
    Ok(Some(totals.collect()))
}

/// 5: entity and month of usage: quantity, rated, of which corrections.
fn charged(lines: &[ChargeLine], story: &Story, fold: &Fold, proofs: &mut Proofs) {
    println!("5 · Charged, by company and month of usage\n");
    println!(
        "  {:12} {:8} {:>16} {:>18} {:>22}",
        "entity", "month", "tokens", "charged", "of which corrections"
    );
    let mut rows: BTreeMap<(String, Period), (Exact, i128, i128, Currency)> = BTreeMap::new();
    let mut by_account: BTreeMap<(String, Period), i128> = BTreeMap::new();
    for line in lines {
        let zone = if line.entity.as_str() == "lumen-inc" { &story.new_york } else { &story.berlin };
        let month = zone.period_of(line.window.from);
        let row = rows.entry((line.entity.to_string(), month)).or_insert((Exact::ZERO, 0, 0, line.currency));
        let used = line.quantity_after.subtract(line.quantity_before).and_then(|used| row.0.add(used));
        row.0 = used.unwrap_or(row.0);
        row.1 += line.rounded_minor();
        if line.corrects.is_some() {
            row.2 += line.rounded_minor();
        }
        *by_account.entry((line.account.to_string(), month)).or_default() += line.rounded_minor();
    }
    for ((entity, month), (tokens, minor, corrections, currency)) in &rows {
        println!(
            "  {entity:12} {month:8} {:>16} {:>14} {currency} {:>18} {currency}",
            grouped(&tokens.to_string()),
            grouped(&currency.format_minor(*minor)),
            grouped(&currency.format_minor(*corrections)),
            month = month.to_string()
        );
    }
    let mut differences = 0;
    for ((account, month), tokens) in &fold.months {
        let expected = i128::from(fold.expected_cents(*account, tokens));
        let found = by_account.remove(&(story.accounts[*account].id.clone(), *month)).unwrap_or(0);
        if expected != found {
            differences += 1;
            println!("  {} {month}: charged {found} cents, expected {expected}", story.accounts[*account].id);
        }
    }
    let bills = fold.months.len();
    println!("\n  {bills} monthly bills against schoolbook arithmetic on the trace: {differences} differ");
    proofs.equal("every monthly bill equals an independent computation", differences, 0);
    proofs.equal("no charge outside the expected bills", by_account.len(), 0);
    let boundary: BTreeSet<String> = lines
        .iter()
        .filter(|line| line.corrects.is_some())
        .map(|line| line.corrects.as_ref().map_or(String::new(), |c| c.period.to_string()))
        .collect();
    proofs.hold(
        "corrections name January, and they exist",
        boundary == BTreeSet::from(["2026-01".to_string()]),
        &format!("{boundary:?}"),
    );
    println!(
        "  an event at 2026-01-31T23:30Z belongs to {} in New York and to {} in Berlin\n",
        story.new_york.period_of(boundary_instant()),
        story.berlin.period_of(boundary_instant())
    );
}

fn boundary_instant() -> domain::Timestamp {
    domain::Timestamp::parse("2026-01-31T23:30:00Z").expect("a constant instant")
}

/// 6: who pays most.
fn top_accounts(lines: &[ChargeLine], story: &Story) {
    println!("6 · Top accounts of the quarter\n");
    let mut sums: BTreeMap<&str, (i128, Currency)> = BTreeMap::new();
    for line in lines {
        sums.entry(line.account.as_str()).or_insert((0, line.currency)).0 += line.rounded_minor();
    }
    let mut order: Vec<_> = sums.into_iter().collect();
    order.sort_by_key(|(_, (minor, _))| -minor);
    for (id, (minor, currency)) in order.into_iter().take(5) {
        let name = story.accounts.iter().find(|account| account.id == id).map_or(id, |account| account.name);
        println!("  {name:24} {:>14} {currency}", grouped(&currency.format_minor(minor)));
    }
    println!();
}

async fn pull_journals(api: &Api) -> Result<Vec<Journal>> {
    let text = api.get("/v1/journals").await?;
    text.lines().map(|line| serde_json::from_str(line).context("a journal is unreadable")).collect()
}

/// 9: the books.
async fn posted(
    api: &Api,
    lines: &[ChargeLine],
    journals: &[Journal],
    data: &Path,
    proofs: &mut Proofs,
) -> Result<()> {
    println!("9 · The books\n");
    let mut months: BTreeMap<(String, Period, Currency), (usize, i128)> = BTreeMap::new();
    for journal in journals {
        let month = months.entry((journal.entity.to_string(), journal.period, journal.currency)).or_default();
        month.0 += 1;
        for line in
            journal.lines.iter().filter(|line| line.ledger_account == LedgerAccount::UnbilledReceivable)
        {
            let parse = |text: &str| journal.currency.parse_minor(text).unwrap_or(0);
            month.1 += parse(&line.debit) - parse(&line.credit);
        }
    }
    println!("  {:12} {:8} {:>9} {:>18}", "entity", "period", "journals", "accrued");
    for ((entity, period, currency), (count, minor)) in &months {
        println!(
            "  {entity:12} {:8} {count:>9} {:>14} {currency}",
            period.to_string(),
            grouped(&currency.format_minor(*minor))
        );
    }
    println!("\n  trial balance");
    let balance = trial_balance(journals);
    let mut sums: BTreeMap<Currency, i128> = BTreeMap::new();
    for line in &balance {
        *sums.entry(line.currency).or_default() += line.minor;
        println!(
            "  {:12} {:24} {:>14} {}",
            line.entity,
            line.ledger_account,
            grouped(&line.currency.format_minor(line.minor)),
            line.currency
        );
    }
    proofs.equal("the trial balance is zero", sums.values().sum::<i128>(), 0);
    let ids: BTreeSet<_> = journals.iter().map(|journal| &journal.external_id).collect();
    proofs.equal("journal ids are unique", ids.len(), journals.len());
    let unexplained = unexplained(lines, journals);
    println!("  charges − journals = {unexplained}");
    proofs.equal("charges − journals", unexplained, "0.00".to_string());
    let export = api.get("/v1/journals.hledger").await?;
    let path = data.join("journals.hledger");
    std::fs::write(&path, export)?;
    match Command::new("hledger").arg("-f").arg(&path).args(["check", "--strict"]).output() {
        Ok(output) => {
            let holds = output.status.success();
            println!("  hledger check --strict: {}\n", if holds { "ok" } else { "refused" });
            proofs.hold(
                "hledger accepts the journals",
                holds,
                String::from_utf8_lossy(&output.stderr).trim(),
            );
        }
        Err(_) => println!(
            "  hledger is not installed: its verdict is skipped; the journals are in {}\n",
            path.display()
        ),
    }
    Ok(())
}

/// Charges minus journals per currency, in one text; zero is `0.00`.
fn unexplained(lines: &[ChargeLine], journals: &[Journal]) -> String {
    let mut totals = totals_of(lines);
    for line in trial_balance(journals) {
        if line.ledger_account == LedgerAccount::UnbilledReceivable {
            *totals.entry(line.currency).or_default() -= line.minor;
        }
    }
    let rest: Vec<String> = totals
        .iter()
        .filter(|(_, minor)| **minor != 0)
        .map(|(currency, minor)| format!("{} {currency}", currency.format_minor(*minor)))
        .collect();
    if rest.is_empty() { "0.00".to_string() } else { rest.join(", ") }
}

fn totals_of(lines: &[ChargeLine]) -> BTreeMap<Currency, i128> {
    let mut totals: BTreeMap<Currency, i128> = BTreeMap::new();
    for line in lines {
        *totals.entry(line.currency).or_default() += line.rounded_minor();
    }
    totals
}

/// 10: the logs, replayed.
fn replayed(data: &Path, chain: &str, proofs: &mut Proofs) -> Result<()> {
    println!("10 · The logs, replayed: every batch and journal derived again and compared with its seal\n");
    for shards in [1, 2, 8] {
        let started = Instant::now();
        let directory = DataDirectory::new(data, 64 << 20);
        let replayed = replay(&directory, shards, machine::ReplayMode::Derive)?;
        println!(
            "  {shards} shards: {} events, {} batches, chain {}…  {:.1} s",
            grouped(&replayed.events.to_string()),
            replayed.summary.batches,
            &replayed.summary.chain[..16.min(replayed.summary.chain.len())],
            started.elapsed().as_secs_f64()
        );
        proofs.equal(&format!("chain digest with {shards} shards"), replayed.summary.chain.as_str(), chain);
    }
    println!("\n  tallymark replay --data {} --shards 4", data.display());
    Ok(())
}

/// `--keep`: the same directory, served until interrupted.
async fn keep(
    serve: &ServeArgs,
    (quic, http): (std::net::SocketAddr, std::net::SocketAddr),
    token: &str,
) -> Result<()> {
    let serve = ServeArgs { quic, http, ..serve.clone() };
    let running = start(&serve).await?;
    println!("\nThe server is up: http://{http}, QUIC {quic}, token {token}");
    println!("  curl -H 'Authorization: Bearer {token}' 'http://{http}/v1/charge-batches?after=0&limit=1'");
    println!("Interrupt to stop.");
    tokio::signal::ctrl_c().await?;
    running.stop().await
}

/// Digits in groups of three.
pub(crate) fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) =
        digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// Events of 30 January that arrived late.
pub(crate) fn late_events() -> usize {
    LATE.iter().sum()
}
