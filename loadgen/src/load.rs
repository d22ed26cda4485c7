//! A run: set the catalog up, send, measure, verify.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use domain::{Decimal, Timestamp};
use hdrhistogram::Histogram;
use serde_json::Value;
use tallymark_client::{Acked, BatchBuilder, BuilderStatus, Client, ClientOptions, IdMode};
use tokio::sync::mpsc;

use crate::api::Api;
use crate::generator::{Generator, Plan};
use crate::oracle::Oracle;
use crate::report::{Measured, Report, Verified};
use crate::{Ids, LoadArgs};

pub(crate) async fn run(args: &LoadArgs) -> Result<Report> {
    let now = now();
    let run = format!("lg{:x}", now.nanoseconds() / 1_000_000);
    let plan = Arc::new(Plan::new(args, &run, now)?);
    let sink = if args.sink { Some(measure_sink(args, &plan, &run).await?) } else { None };
    let api = Api::new(&args.url, &args.token);
    let first_batch = last_batch(&api).await?;
    api.post("/v1/catalog/apply", catalog_of(args, &plan, &run)).await?;
    let pem = std::fs::read(&args.cert).with_context(|| format!("cannot read {}", args.cert.display()))?;
    let options = options_of(args, args.quic, &args.token, &run, pem);
    let cpu = Cpu::now();
    let sent = send_all(args, &plan, options).await?;
    let foreign_cpu = cpu.and_then(|before| before.foreign_since());
    let verified =
        if args.verify { Some(verify(&api, &run, first_batch, &sent.oracle).await?) } else { None };
    Ok(Report {
        server: sent.measured,
        sink,
        refused: sent.refused,
        reconnects: sent.reconnects,
        foreign_cpu,
        verified,
    })
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanoseconds(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn options_of(
    args: &LoadArgs,
    address: std::net::SocketAddr,
    token: &str,
    run: &str,
    pem: Vec<u8>,
) -> ClientOptions {
    let mut options = ClientOptions::new(address, token, run, pem);
    options.mints_ids = args.ids == Ids::Sequenced;
    options.in_flight_max = args.in_flight;
    options
}

/// One legal entity, one meter, one price; an account, a subscription and a subject for each account of the load.
fn catalog_of(args: &LoadArgs, plan: &Plan, run: &str) -> String {
    let mut text = format!(
        r#"catalog = 1
[[entity]]
id = "{run}"
currency = "USD"
time_zone = "UTC"
[[meter]]
id = "{run}-units"
event_type = "{run}.usage"
aggregation = "sum"
value = "units"
[[plan]]
id = "{run}"
currency = "USD"
[[price]]
id = "{run}-units"
plan = "{run}"
meter = "{run}-units"
model = "per_unit"
unit_amount = "0.0125"
window = "month"
"#
    );
    for (account, subject) in (0..args.accounts).zip(&plan.subjects) {
        let id = format!("{run}-{account:06}");
        text.push_str(&format!(
            "[[account]]\nid = \"{id}\"\nname = \"{id}\"\nentity = \"{run}\"\ncurrency = \"USD\"\ntime_zone = \"UTC\"\n\
             [[subscription]]\nid = \"{id}\"\naccount = \"{id}\"\nplan = \"{run}\"\nfrom = \"2020-01-01T00:00:00Z\"\n\
             [[subject]]\nid = \"{subject}\"\nsubscription = \"{id}\"\nfrom = \"2020-01-01T00:00:00Z\"\n"
        ));
    }
    text
}

struct Sent {
    measured: Measured,
    oracle: Oracle,
    refused: u64,
    reconnects: u64,
}

async fn send_all(args: &LoadArgs, plan: &Arc<Plan>, options: ClientOptions) -> Result<Sent> {
    let connections = u64::from(args.connections);
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut options = options.clone();
        let (acks_to, acks) = mpsc::unbounded_channel();
        options.acks = Some(acks_to);
        clients.push((Client::connect(options).await?, acks));
    }
    let started = Instant::now();
    let mut tasks = Vec::new();
    for (connection, (client, acks)) in clients.into_iter().enumerate() {
        let events = args.events / connections + u64::from((connection as u64) < args.events % connections);
        let generator = Generator::new(plan.clone(), args, connection as u64);
        let (args, source) = (args.clone(), options.source.clone());
        tasks.push(tokio::spawn(send(args, source, generator, client, acks, events, started)));
    }
    let mut latencies = histogram();
    let (mut oracle, mut bytes, mut refused, mut reconnects) = (Oracle::default(), 0, 0, 0);
    for task in tasks {
        let part = task.await??;
        latencies.add(&part.latencies)?;
        oracle.merge(part.oracle);
        bytes += part.bytes;
        refused += part.refused;
        reconnects += part.reconnects;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Sent {
        measured: Measured { events: args.events, bytes, seconds, latencies },
        oracle,
        refused,
        reconnects,
    })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants")
}

struct Part {
    latencies: Histogram<u64>,
    oracle: Oracle,
    bytes: u64,
    refused: u64,
    reconnects: u64,
}

async fn send(
    args: LoadArgs,
    source: String,
    mut generator: Generator,
    client: Client,
    mut acks: mpsc::UnboundedReceiver<Acked>,
    events: u64,
    started: Instant,
) -> Result<Part> {
    let ids = match args.ids {
        Ids::Given => IdMode::Given,
        Ids::Sequenced => {
            let mut epoch = [0; 8];
            getrandom::fill(&mut epoch).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
            IdMode::Sequenced { epoch: u64::from_le_bytes(epoch), first: 0 }
        }
    };
    let mut builder = BatchBuilder::new(&source, &format!("{source}.usage"), ids);
    let mut latencies = histogram();
    // When each batch should have left, by its sequence.
    let mut intended: BTreeMap<u64, Instant> = BTreeMap::new();
    let rate = args.rate / u64::from(args.connections).max(1);
    let mut record = |acked: Acked, intended: &mut BTreeMap<u64, Instant>| {
        let since = intended.remove(&acked.sequence).unwrap_or(acked.queued_at);
        let microseconds = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        latencies.saturating_record(microseconds);
    };
    let mut made = 0;
    while made < events {
        let mut due = started;
        while made < events && builder.len() < args.batch as usize {
            let generated = generator.next();
            let id = generator.id_of(&generated);
            let id: &[u8] = if args.ids == Ids::Given { &id } else { b"" };
            let model = if generated.hundredths % 3 == 0 { "large" } else { "small" };
            let values = [("units", i128::from(generated.hundredths), 2)];
            let dimensions = [("model", model), ("region", "eu")];
            let subject = generator.subject(generated.account);
            match builder.push_parts(id, subject, generated.time, &values, &dimensions) {
                Ok(()) => made += 1,
                Err(BuilderStatus::BatchMustHaveRoom) => {
                    // The event goes into the next batch: sent twice it would count once anyway.
                    client.send(&mut builder).await?;
                    builder.push_parts(id, subject, generated.time, &values, &dimensions)?;
                    made += 1;
                }
                Err(status) => return Err(status.into()),
            }
            due = due.max(started + Duration::from_nanos(generated.due as u64));
        }
        if rate > 0 {
            due = due.max(started + Duration::from_secs_f64(made as f64 / rate as f64));
        }
        let is_paced = rate > 0 || args.trace.is_some();
        if is_paced {
            // Events of the batch wait for the last of them; acks are taken meanwhile.
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                tokio::select! {
                    acked = acks.recv() => if let Some(acked) = acked { record(acked, &mut intended) },
                    () = tokio::time::sleep(left) => {}
                }
            }
        }
        let sequence = client.send(&mut builder).await?;
        if is_paced {
            intended.insert(sequence, due);
        }
        while let Ok(acked) = acks.try_recv() {
            record(acked, &mut intended);
        }
    }
    client.flush().await?;
    let stats = client.stats();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (bytes, refused, reconnects) = (load(&stats.bytes), load(&stats.refused), load(&stats.reconnects));
    while let Ok(acked) = acks.try_recv() {
        record(acked, &mut intended);
    }
    client.close().await?;
    Ok(Part { latencies, oracle: generator.oracle, bytes, refused, reconnects })
}

/// Sends the same load to a raw sink in a process of its own.
async fn measure_sink(args: &LoadArgs, plan: &Arc<Plan>, run: &str) -> Result<Measured> {
    let cert = std::env::temp_dir().join(format!("{run}-sink.pem"));
    let mut child = Reaped(
        Command::new(std::env::current_exe()?)
            .args(["sink", "--cert"])
            .arg(&cert)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the sink")?,
    );
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("the sink has an output")?).read_line(&mut line)?;
    let address = line.trim().parse().context("the sink did not say where it listens")?;
    let pem = read_and_remove(&cert)?;
    let sent = send_all(args, plan, options_of(args, address, "none", run, pem)).await?;
    Ok(sent.measured)
}

fn read_and_remove(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    std::fs::remove_file(path)?;
    Ok(bytes)
}

/// A child that does not outlive its owner.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn last_batch(api: &Api) -> Result<u64> {
    let ready: Value = serde_json::from_str(&api.get("/readyz").await?)?;
    ready["sealed_batches"].as_u64().context("the server says how many batches it sealed")
}

/// Cuts, pulls the charges of this run, and compares.
async fn verify(api: &Api, run: &str, first_batch: u64, oracle: &Oracle) -> Result<Verified> {
    let cut = api.post("/v1/cuts", String::new()).await?;
    if cut["failures"].as_array().is_some_and(|failures| !failures.is_empty()) {
        bail!("charges could not be computed: {}", cut["failures"]);
    }
    let mut found: BTreeMap<(u32, String), (i128, i128)> = BTreeMap::new();
    for text in api.get(&format!("/v1/charge-batches?after={first_batch}")).await?.lines() {
        let line: Value = serde_json::from_str(text)?;
        let Some(charge) = line.get("charge") else { continue };
        let text = |field: &str| charge[field].as_str().unwrap_or_default().to_string();
        let Some(account) = text("account").strip_prefix(&format!("{run}-")).map(str::to_string) else {
            continue;
        };
        let month =
            charge["window"]["from"].as_str().unwrap_or_default().get(..7).unwrap_or_default().to_string();
        let hundredths = |field: &str| -> Result<i128> {
            Decimal::parse(&text(field))?
                .mantissa_at(2)
                .context("a quantity has more than two fraction digits")
        };
        let sum = found.entry((account.parse()?, month)).or_default();
        sum.0 += hundredths("quantity_after")? - hundredths("quantity_before")?;
        sum.1 +=
            Decimal::parse(&text("rounded"))?.mantissa_at(2).context("an amount has more than two digits")?;
    }
    let expected = oracle.expected();
    let mut differences = Vec::new();
    for key in expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key))) {
        let (told, charged) =
            (expected.get(key).copied().unwrap_or_default(), found.get(key).copied().unwrap_or_default());
        if told != charged {
            differences.push(format!(
                "account {} month {}: sent {told:?}, charged {charged:?} (hundredths, cents)",
                key.0, key.1
            ));
        }
    }
    let cents: i128 = found.values().map(|(_, cents)| cents).sum();
    let charged = format!("USD {}", Decimal::new(cents, 2)?);
    Ok(Verified { rows: expected.len(), differences, charged })
}

/// Ticks that all programs used, and of those ours, from the kernel.
struct Cpu {
    busy: f64,
    ours: f64,
    at: Instant,
}

impl Cpu {
    fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let mut fields =
            text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse::<f64>().ok());
        let (user, nice, system) = (fields.next()?, fields.next()?, fields.next()?);
        let rest: Vec<f64> = fields.collect();
        // irq, softirq; idle and iowait are not busy, steal is another machine's.
        let busy = user + nice + system + rest.get(2).unwrap_or(&0.0) + rest.get(3).unwrap_or(&0.0);
        Some(Self { busy, ours: of_our_programs()?, at: Instant::now() })
    }

    /// Percent of a core that programs besides this one and the server used since then.
    fn foreign_since(&self) -> Option<f64> {
        let now = Self::now()?;
        let elapsed = now.at.duration_since(self.at).as_secs_f64();
        let ticks = 100.0;
        Some(((now.busy - self.busy - (now.ours - self.ours)) / ticks / elapsed * 100.0).max(0.0))
    }
}

/// Ticks that `tallymark` and `loadgen` processes used since they were started.
fn of_our_programs() -> Option<f64> {
    let mut ticks = 0.0;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        if !(head.ends_with("(tallymark") || head.ends_with("(loadgen")) {
            continue;
        }
        let fields: Vec<f64> =
            rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        ticks += fields.iter().sum::<f64>();
    }
    Some(ticks)
}
