//! A run: set the catalog up, send, measure, verify.
//!
//! Owns: the order of all that. Leaves to others: client processes (`workers`), comparing (`verify`), showing (`report`).
//!
//! Invariants: what cannot work is said before anything is sent; the sink gets the same bytes as the receiver; a run that
//! ends early is reported, and not verified.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use domain::Timestamp;
use tokio::runtime::Runtime;

use crate::LoadArgs;
use crate::api::Api;
use crate::cpu::{CpuWatch, Socket, listeners};
use crate::generator::{Generator, Plan};
use crate::interrupt::Interrupt;
use crate::oracle::Told;
use crate::pace::Pace;
use crate::report::Report;
use crate::scenario::flags::ScenarioFlags;
use crate::scenario::{Scenario, ScenarioError, ScenarioStatus, Target};
use crate::target::endpoint::Endpoint;
use crate::target::quic::{Packer, QuicTarget, id_mode};
use crate::verify::{last_batch, verify};
use crate::worker::Job;
use crate::workers::{Measured, Reaped, Workers};
use crate::{catalog, disk};

/// The certificate that a server makes for development.
const DEV_CERT: &str = "tallymark-data/dev-cert.pem";

/// Where a run sends to.
struct Receiver {
    quic: Option<QuicTarget>,
    endpoint: Option<Endpoint>,
    trusted_pem: String,
    /// Its processes, if they are of this machine.
    pids: BTreeSet<u32>,
    /// For people.
    name: String,
}

pub(crate) fn run(args: &LoadArgs, runtime: &Runtime) -> Result<Report> {
    let interrupt = Interrupt::start(runtime)?;
    let scenario = args.flags.apply(&args.scenario, Scenario::find(&args.scenario)?)?;
    let now = now();
    let run = format!("lg{:x}", now.nanoseconds() / 1_000_000);
    let planned = planned_events(args, &scenario)?;
    let receiver = receiver_of(args, &scenario)?;
    if !args.ignore_disk {
        let bytes = bytes_per_event(&scenario, &run, now)?;
        disk::check(&receiver.pids, disk::estimate(&scenario, planned, bytes))?;
    }
    let sink_before =
        if args.compare_sink { Some(measure_sink(&scenario, &run, now, &interrupt)?) } else { None };
    let api = match &args.endpoint {
        Some(_) => None,
        None => {
            let token = args.token.as_deref().context("Tallymark needs a token; give one with --token")?;
            let trusted_pem = match &args.cert {
                Some(cert) => std::fs::read_to_string(cert)
                    .with_context(|| format!("cannot read {}", cert.display()))?,
                None => String::new(),
            };
            let api = Api::new(&args.url, token, &trusted_pem)?;
            let first_batch = runtime.block_on(set_up(&api, &scenario, &run))?;
            Some((api, first_batch))
        }
    };
    let (measured, told) = measure(&scenario, &run, now, &receiver, "receiver", &interrupt)?;
    let is_whole = measured.broken.is_none();
    let verified = match &api {
        Some((api, first_batch)) if args.verify && is_whole => {
            Some(runtime.block_on(verify(api, &run, *first_batch, &told))?)
        }
        _ => None,
    };
    let sink_after = if args.compare_sink && is_whole {
        Some(measure_sink(&scenario, &run, now, &interrupt)?)
    } else {
        None
    };
    Ok(Report {
        name: args.scenario.clone(),
        is_changed: args.flags != ScenarioFlags::default(),
        receiver: receiver.name,
        started_at: now,
        scenario,
        measured,
        sink_before,
        sink_after,
        verified,
    })
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanoseconds(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Events of the whole run, where they are known before.
fn planned_events(args: &LoadArgs, scenario: &Scenario) -> Result<Option<u64>, ScenarioError> {
    let pace = Pace::new(scenario).map_err(|error| ScenarioError {
        scenario: args.scenario.clone(),
        line: None,
        status: ScenarioStatus::TraceMustBeReadable(format!("{error:#}")),
    })?;
    let until = scenario.load.seconds.filter(|_| scenario.is_open_loop()).map(|s| pace.events_until(s));
    Ok(scenario.load.events.or(until))
}

/// Bytes of an event in a frame, from a batch of this very load.
fn bytes_per_event(scenario: &Scenario, run: &str, start: Timestamp) -> Result<u64> {
    let plan = Arc::new(Plan::new(scenario, run, start)?);
    let mut generator = Generator::new(plan.clone(), 0);
    let mut packer = Packer::new(plan, id_mode(scenario.ids.shape)?);
    for _ in 0..1_000 {
        let generated = generator.next();
        packer.push(&generator, &generated)?;
    }
    let events = packer.builder.len();
    Ok(packer.builder.finish(1, 0).as_slice().len().div_ceil(events) as u64)
}

fn receiver_of(args: &LoadArgs, scenario: &Scenario) -> Result<Receiver> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    if scenario.send.target == Target::Quic {
        if args.endpoint.is_some() {
            bail!("an endpoint takes HTTP; say --target http-single, http-binary, http-batch or ndjson");
        }
        let cert = args.cert.clone().unwrap_or_else(|| PathBuf::from(DEV_CERT));
        let identity = match (&args.client_cert, &args.client_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        // A certificate shows the token by its name, and a secret beside it would stand above that.
        let token = if identity.is_some() { None } else { args.token.clone() };
        let addresses: Vec<SocketAddr> = args
            .quic
            .to_socket_addrs()
            .with_context(|| format!("--quic {} leads to no address; write host:port", args.quic))?
            .collect();
        let local = addresses.iter().find(|at| at.ip().is_loopback() || at.ip().is_unspecified());
        return Ok(Receiver {
            quic: Some(QuicTarget {
                address: args.quic.clone(),
                server_name: args.server_name.clone(),
                token: token.unwrap_or_default(),
                trusted_pem: read(&cert)?,
                identity,
            }),
            endpoint: None,
            trusted_pem: String::new(),
            pids: local.map_or_else(BTreeSet::new, |at| listeners(Socket::Udp, at.port())),
            name: format!("quic://{}", args.quic),
        });
    }
    let url = match &args.endpoint {
        Some(url) => url.clone(),
        None => format!("{}/v1/events", args.url.trim_end_matches('/')),
    };
    let mut endpoint = Endpoint::parse(&url)?;
    for header in &args.header {
        endpoint.header(header)?;
    }
    if let Some(token) = args.token.as_ref().filter(|_| args.endpoint.is_none()) {
        endpoint.header(&format!("authorization: Bearer {token}"))?;
    }
    let trusted_pem = match &args.cert {
        Some(cert) if endpoint.is_tls => read(cert)?,
        _ => String::new(),
    };
    let pids = if endpoint.is_local() { listeners(Socket::Tcp, endpoint.port()) } else { BTreeSet::new() };
    Ok(Receiver { quic: None, endpoint: Some(endpoint), trusted_pem, pids, name: url })
}

/// Makes the catalog; gives the last batch that was sealed before.
async fn set_up(api: &Api, scenario: &Scenario, run: &str) -> Result<u64> {
    let first_batch = last_batch(api).await?;
    for file in catalog::files(run, scenario.load.accounts, scenario.subjects()) {
        api.post("/v1/catalog/apply", file).await?;
    }
    Ok(first_batch)
}

fn measure(
    scenario: &Scenario,
    run: &str,
    start: Timestamp,
    receiver: &Receiver,
    label: &str,
    interrupt: &Interrupt,
) -> Result<(Measured, Told)> {
    let jobs: Vec<Job> = (0..scenario.send.processes)
        .map(|process| Job {
            scenario: scenario.clone(),
            run: run.to_string(),
            start: start.nanoseconds(),
            process,
            quic: receiver.quic.clone(),
            endpoint: receiver.endpoint.clone(),
            trusted_pem: receiver.trusted_pem.clone(),
        })
        .collect();
    let workers = Workers::start(&jobs)?;
    let watch = CpuWatch::start(receiver.pids.clone(), workers.pids());
    workers.run(&watch, label, interrupt)
}

/// Sends the same load to a raw sink in a process of its own.
fn measure_sink(scenario: &Scenario, run: &str, start: Timestamp, interrupt: &Interrupt) -> Result<Measured> {
    let cert = std::env::temp_dir().join(format!("{run}-sink.pem"));
    let is_quic = scenario.send.target == Target::Quic;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sink").stdout(Stdio::piped());
    if is_quic {
        command.arg("--cert").arg(&cert);
    } else {
        command.arg("--http");
    }
    let mut child = Reaped(command.spawn().context("cannot start the sink")?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("the sink has an output")?).read_line(&mut line)?;
    let address: SocketAddr = line.trim().parse().context("the sink did not say where it listens")?;
    let quic = if is_quic {
        let trusted_pem = std::fs::read_to_string(&cert)?;
        std::fs::remove_file(&cert)?;
        Some(QuicTarget {
            address: address.to_string(),
            server_name: Some("localhost".to_string()),
            token: "none".to_string(),
            trusted_pem,
            identity: None,
        })
    } else {
        None
    };
    let endpoint =
        if is_quic { None } else { Some(Endpoint::parse(&format!("http://{address}/v1/events"))?) };
    let receiver = Receiver {
        quic,
        endpoint,
        trusted_pem: String::new(),
        pids: BTreeSet::from([child.0.id()]),
        name: String::new(),
    };
    let measured = measure(scenario, run, start, &receiver, "sink    ", interrupt)?.0;
    match &measured.broken {
        Some(why) => bail!("the run against the sink ended early: {why}"),
        None => Ok(measured),
    }
}
