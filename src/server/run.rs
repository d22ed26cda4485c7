//! `tallymark serve`: how the world is tied on.
//!
//! Owns: start, stop, and what happens when a thread fails. Leaves to others: everything that the threads do.
//!
//! Stop, on SIGTERM or SIGINT: no new connections or requests; queued batches become durable and are acknowledged; all
//! logs are closed cleanly; exit 0. A failed disk: no more acks; exit 1 with the cause.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use billing::catalog::CatalogFile;
use domain::Timestamp;
use domain::limits::SHARDS_MAX;
use domain::time::{DAY, HOUR, SECOND};
use engine::log::{LogKind, LogReader};
use machine::{ControlWriter, History, LeftAside, Recovered, ShardMemory};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use wire::control::{Accepted, ClockKind, ControlRecord, EpochAccepted, Genesis, PolicyRecord};

use crate::archive::{ArchiveState, Archiving, age_of_days};
use crate::clock::{CLOCK_STEP_MAX, Clock, real_now};
use crate::config::{ClockChoice, ServeArgs};
use crate::control::{CONTROL_QUEUE_MAX, CUT_INTERVAL_MAX, Command, Control, ControlSurroundings, Served};
use crate::directory::DataDirectory;
use crate::disk::DataDirectoryLock;
use crate::edge::{CONNECTIONS_MAX, Connections, Edge, EventBudget, QUERIES_MAX, router};
use crate::event_finder::EventFinder;
use crate::forgetting::Forgetting;
use crate::ingest::{Ingest, SOURCE_BYTES_MAX, UNANSWERED_BYTES_MAX, accept, endpoint};
use crate::observe::Metrics;
use crate::patience::has_ended;
use crate::peers::PeerLimits;
use crate::runs::{RunTask, Runs};
use crate::segments::Segments;
use crate::shards::{IdCounts, Shards};
use crate::shares::Shares;
use crate::snapshots::{SnapshotState, Snapshots};
use crate::sources::Sources;
use crate::threads::{OnFailure, spawn};
use crate::tls::{TlsFiles, follow};
use crate::tokens::{self, Role, Tokens};
use crate::usage_log::{USAGE_QUEUE_MAX, UsageLog, UsageLogState, UsageQueue, UsageTask};

/// A server that is up.
pub struct Running {
    /// Where QUIC listens.
    pub quic: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Whether HTTP speaks TLS.
    pub is_https: bool,
    /// The development token, if this start made one.
    pub token: Option<String>,
    stop: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
    commands: crossbeam_channel::Sender<Command>,
    usage: mpsc::Sender<UsageTask>,
    threads: Vec<std::thread::JoinHandle<()>>,
    shards: Shards,
    runs_thread: std::thread::JoinHandle<()>,
    archiving: Option<ArchiveThread>,
    http_task: tokio::task::JoinHandle<()>,
    quic_task: tokio::task::JoinHandle<()>,
    endpoint: quinn::Endpoint,
    lock: DataDirectoryLock,
}

/// The thread that archives.
struct ArchiveThread {
    /// Dropped when the server stops.
    stop: crossbeam_channel::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    state: Arc<ArchiveState>,
}

/// Time for a step of archiving to end when the server stops.
const ARCHIVING_PATIENCE: Duration = Duration::from_secs(5);
/// Time for everything else to end, before the archive is asked whether it answers: usage may be read there.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Ends when the archive does not answer, long after a stop began.
async fn until_silent(archive: Option<Arc<ArchiveState>>) {
    let Some(archive) = archive else { return std::future::pending().await };
    loop {
        tokio::time::sleep(STOP_PATIENCE).await;
        let asked = archive.clone();
        if !tokio::task::spawn_blocking(move || asked.answers()).await.unwrap_or(true) {
            return;
        }
    }
}

/// Tasks that wait for the thread of runs: more than all shards have under way together.
const RUN_TASKS_MAX: usize = 8 * SHARDS_MAX;

/// Ids that a shard remembers in memory before it writes a run: a quarter of what there is for all shards, at 128 bytes
/// for an id, since a full table is written while the next one fills.
fn dedup_table_entries(memory: u64, shards: usize) -> usize {
    (memory / 4 / 128) as usize / shards
}

/// Ids that the filters have room for: three quarters of the memory, at four bytes for an id, since all of them may be
/// merged.
fn ids_max_of(memory: u64) -> u64 {
    memory / 4 * 3 / 4
}

/// Holds the horizons against each other: an id is remembered as long as an event with it may come, and what is remembered
/// can be corrected.
fn check_horizons(args: &ServeArgs) -> Result<()> {
    if args.correction_hours < args.horizon_hours {
        bail!("--correction-hours is not less than --horizon-hours");
    }
    let dedup_hours = args.dedup_days * 24;
    if dedup_hours < args.horizon_hours {
        bail!("--dedup-days is not less than --horizon-hours");
    }
    if args.correction_hours < dedup_hours {
        bail!("--correction-hours is not less than --dedup-days");
    }
    Ok(())
}

/// Rating semantics and time-zone data of this program.
pub fn epoch() -> String {
    format!("{}/tz-{}", machine::RATING_EPOCH, domain::time::zone_database_version())
}

/// Opens the directory and starts everything.
///
/// # Errors
/// Whatever keeps the server from starting, with its context.
pub async fn start(args: &ServeArgs) -> Result<Running> {
    let cut_interval = i64::from(args.cut_seconds) * SECOND;
    if cut_interval > CUT_INTERVAL_MAX {
        bail!("--cut-seconds is at most 31 days");
    }
    check_horizons(args)?;
    // The identity key and the tokens' hashes are nobody else's business.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&args.data);
    made.with_context(|| format!("cannot make {}", args.data.display()))?;
    let lock = DataDirectoryLock::take(&args.data)?;
    let client_ca = args.client_ca.as_deref();
    let tls_files = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => TlsFiles::new(cert, key, client_ca),
        _ => TlsFiles::development(&args.data, client_ca)?,
    };
    let tls = tls_files.quic_config()?;
    let http_tls = match (&args.http_cert, &args.http_key) {
        (Some(cert), Some(key)) => {
            let files = TlsFiles::new(cert, key, None);
            let config = Arc::new(ArcSwap::from_pointee(files.http_config()?));
            Some((files, config))
        }
        _ => None,
    };
    let tokens = Arc::new(Tokens::open(&args.data)?);
    let directory = DataDirectory::new(&args.data, args.segment_bytes).with_archive(args.archive.as_deref());
    let archive_state = ArchiveState::open(&directory)?;
    check_clock_kind(args, &directory)?;
    let shards = usize::from(args.shards);
    let memory = ShardMemory {
        table_entries_max: dedup_table_entries(args.dedup_memory, shards),
        sequence_bytes: args.sequence_memory,
    };
    let mut recovered = machine::recover(&directory.logs()?, shards, memory, || Ok(first_records(args)?))?;
    if recovered.torn_bytes > 0 {
        tracing::warn!("{} bytes of torn, unacknowledged commits were cut off", recovered.torn_bytes);
    }
    for LeftAside { usage_offset, error } in recovered.left_aside.drain(..) {
        let cause = anyhow::Error::new(error);
        tracing::warn!("the snapshot at usage offset {usage_offset} is left aside: {cause:#}");
    }
    match recovered.snapshot {
        Some(barrier) => tracing::info!("started from the snapshot at usage offset {barrier}"),
        None => tracing::info!("started from the logs alone"),
    }
    let (clock, start_records) = check_directory(args, &recovered)?;
    let genesis_key =
        recovered.replayer.machine.control().genesis().map_or(String::new(), |g| g.identity_key.clone());

    let metrics = Arc::new(Metrics::default());
    let served = Arc::new(Served::default());
    *served.batches.write().expect("nobody else has it yet") = recovered.batch_entries;
    *served.journals.write().expect("nobody else has it yet") = recovered.journal_entries;
    metrics.batches.store(recovered.replayer.machine.control().seals().len() as u64, Ordering::Relaxed);
    let (failure, failed) = watch::channel(None::<String>);
    let failure = Arc::new(failure);
    let on_failure: OnFailure = {
        let failure = failure.clone();
        Arc::new(move |error| {
            tracing::error!("{error:#}");
            failure.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| format!("{error:#}"));
                is_first
            });
        })
    };
    let key = recovered.key;
    let history: Arc<dyn Fn() -> Result<Box<dyn History>> + Send + Sync> = {
        let directory = directory.clone();
        Arc::new(move || Ok(Box::new(directory.history(key, shards)?) as Box<dyn History>))
    };
    let (run_tasks, run_queue) = crossbeam_channel::bounded(RUN_TASKS_MAX);
    let pool = recovered.pool;
    let places = (&recovered.runs, &pool, &run_tasks);
    let ids = Arc::new(IdCounts::new(shards));
    let ids_max = args.ids_max.unwrap_or_else(|| ids_max_of(args.dedup_memory));
    let known = recovered.replayer.shards.iter().flat_map(|shard| shard.counters().keys());
    let sources = Sources::new(args.sources_max as usize, known.map(|source| &**source));
    let shard_threads =
        Shards::start(recovered.replayer.shards, history, places, &ids, &metrics, on_failure.clone())?;
    let (usage, usage_tasks) = mpsc::channel(USAGE_QUEUE_MAX);
    let usage_state = Arc::new(UsageLogState::default());
    let usage_place = directory.log(LogKind::Usage)?;
    let segments = Segments::start(usage_place, directory.options(LogKind::Usage), key, on_failure.clone())?;
    let usage_log = UsageLog {
        writer: recovered.usage,
        segments,
        clock: clock.clone(),
        shards: shard_threads.queues(),
        state: usage_state.clone(),
        metrics: metrics.clone(),
    };
    let snapshot_state = Arc::new(SnapshotState::default());
    snapshot_state.usage_offset.store(recovered.snapshot.unwrap_or(0), Ordering::Relaxed);
    let (snapshot_jobs, snapshot_queue) = crossbeam_channel::bounded(1);
    let snapshots = directory.snapshots()?;
    let runs = Runs {
        store: recovered.runs,
        pool: pool.clone(),
        snapshots: snapshots.clone(),
        snapshot_state: snapshot_state.clone(),
    };
    let usage_options = directory.options(LogKind::Usage);
    let (commands, command_queue) = crossbeam_channel::bounded(CONTROL_QUEUE_MAX);
    let control = Control {
        writer: ControlWriter::new(
            recovered.replayer.machine,
            recovered.control,
            recovered.charges,
            recovered.journals,
        ),
        surroundings: ControlSurroundings {
            usage: usage.clone(),
            clock: clock.clone(),
            shards,
            snapshots: Snapshots {
                jobs: snapshot_jobs,
                state: snapshot_state.clone(),
                every_bytes: args.snapshot_bytes,
                log: usage_options,
            },
            usage_state: usage_state.clone(),
        },
        events: EventFinder { directory: directory.clone(), key },
        archive: archive_state.clone(),
        forgetting: Forgetting::new(i64::from(args.dedup_days) * DAY, ids_max, ids.clone()),
        cut_interval,
        start_records,
        served: served.clone(),
        metrics: metrics.clone(),
    };
    let threads = vec![
        spawn("usage-log", on_failure.clone(), move || usage_log.run(usage_tasks))?,
        spawn("control", on_failure.clone(), move || control.run(&command_queue))?,
        spawn("snapshots", on_failure.clone(), {
            let state = snapshot_state.clone();
            move || {
                // A thread that has stopped said why.
                let on_end = || _ = run_tasks.send(RunTask::SnapshotEnded);
                crate::snapshots::run(&snapshots, &snapshot_queue, &state, &on_end)
            }
        })?,
    ];
    // It ends when the shards have.
    let runs_thread = spawn("runs", on_failure.clone(), move || runs.run(&run_queue))?;
    let archiving = match args.archive {
        None => None,
        Some(_) => {
            let (stop, stopped) = crossbeam_channel::bounded(0);
            let archiving = Archiving {
                directory: directory.clone(),
                age: age_of_days(args.archive_days),
                clock: clock.clone(),
                state: archive_state.clone(),
                stop: stopped,
            };
            let thread = spawn("archive", on_failure, move || archiving.run())?;
            Some(ArchiveThread { stop, thread, state: archive_state.clone() })
        }
    };

    apply_catalog(args.catalog.as_deref(), &commands).await?;
    let (stop, stopping) = watch::channel(false);
    let endpoint = endpoint(args.quic, tls, transport_secret(&genesis_key))?;
    let quic = endpoint.local_addr()?;
    let usage_queue = UsageQueue::new(usage.clone(), sources, metrics.clone());
    let unanswered = Shares::new(UNANSWERED_BYTES_MAX, SOURCE_BYTES_MAX);
    let ingest = Ingest {
        tokens: tokens.clone(),
        clock: clock.clone(),
        key,
        shards,
        usage: usage_queue.clone(),
        memory: unanswered.clone(),
        metrics: metrics.clone(),
        authenticated: AtomicUsize::new(0),
    };
    let quic_task = tokio::spawn(accept(endpoint.clone(), Arc::new(ingest), stopping.clone()));
    let edge = Edge {
        tokens,
        commands: commands.clone(),
        shards,
        usage_tasks: usage.clone(),
        usage_queue,
        unanswered,
        served,
        directory,
        metrics,
        identity_key: key,
        event_budget: EventBudget::default(),
        snapshots: snapshot_state.clone(),
        usage: usage_state,
        clock,
        shard_queues: shard_threads.weak_queues(),
        queries: Arc::new(Semaphore::new(QUERIES_MAX)),
        query_bytes_max: args.query_bytes_max,
        ids_max,
        pool,
        archive: archive_state,
    };
    let listener = tokio::net::TcpListener::bind(args.http)
        .await
        .with_context(|| format!("cannot bind TCP {}", args.http))?;
    let http = listener.local_addr()?;
    let is_https = http_tls.is_some();
    tokio::spawn(follow(tls_files, endpoint.clone(), http_tls.clone(), stopping.clone()));
    let connections_max = crate::descriptors::for_connections(CONNECTIONS_MAX);
    let connections = Connections {
        limits: PeerLimits { all: connections_max, of_network: connections_max.div_ceil(2) },
        metrics: edge.metrics.clone(),
        tls: http_tls.map(|(_, tls)| tls),
        routes: router(Arc::new(edge)),
    };
    let http_task = tokio::spawn(connections.serve(listener, stopping));
    // Last, so that a start that fails does not use up the one showing.
    let token = development_token(&args.data)?;
    Ok(Running {
        quic,
        http,
        is_https,
        token,
        stop,
        failed,
        commands,
        usage,
        threads,
        shards: shard_threads,
        runs_thread,
        archiving,
        http_task,
        quic_task,
        endpoint,
        lock,
    })
}

impl Running {
    /// Waits until a thread fails; gives the cause.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let cause = failed.wait_for(Option::is_some).await.map(|cause| cause.clone().unwrap_or_default());
        match cause {
            Ok(cause) => cause,
            Err(_) => std::future::pending().await,
        }
    }

    /// Drains, syncs, closes all logs. Waits for everything but an archive that does not answer.
    ///
    /// # Errors
    /// The cause, if a thread failed before or while stopping, or waits for the archive.
    pub async fn stop(self) -> Result<()> {
        let _ = self.stop.send(true);
        let (stop_archiving, archiving, archive) = match self.archiving {
            Some(ArchiveThread { stop, thread, state }) => (Some(stop), Some(thread), Some(state)),
            None => (None, None, None),
        };
        drop(stop_archiving);
        // Connections say goodbye and answer what is in flight.
        let _ = self.quic_task.await;
        let _ = tokio::time::timeout(Duration::from_secs(5), self.http_task).await;
        let stopping = async {
            let commands = self.commands;
            let _ = tokio::task::spawn_blocking(move || commands.send(Command::Stop)).await;
            // The control thread ends first: it needs the usage log for its last barrier.
            let mut threads = self.threads.into_iter();
            let usage_thread = threads.next();
            for thread in threads {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
            let _ = self.usage.send(UsageTask::Stop).await;
            if let Some(thread) = usage_thread {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
            let _ = tokio::task::spawn_blocking(move || self.shards.join()).await;
            let _ = tokio::task::spawn_blocking(move || self.runs_thread.join()).await;
        };
        let is_closed = match self.failed.borrow().is_some() {
            true => true,
            false => tokio::select! {
                () = stopping => true,
                () = until_silent(archive) => false,
            },
        };
        let is_archiving = match &archiving {
            Some(thread) => !has_ended(thread, ARCHIVING_PATIENCE).await,
            None => false,
        };
        if is_archiving {
            tracing::warn!(
                "the archive does not answer: what is on its way there is left as a crash would leave it"
            );
        }
        if is_archiving || !is_closed {
            // A thread may still write when the archive answers: the directory is in use until the process ends.
            std::mem::forget(self.lock);
        }
        self.endpoint.close(quinn::VarInt::from_u32(4), b"the server is stopping");
        let _ = tokio::time::timeout(Duration::from_secs(2), self.endpoint.wait_idle()).await;
        let cause = self.failed.borrow().clone();
        match cause {
            Some(cause) => bail!("{cause}"),
            None if !is_closed => {
                bail!("the archive does not answer: the logs are left as a crash would leave them")
            }
            None => Ok(()),
        }
    }
}

/// Makes a token named `development` in a directory without tokens.
fn development_token(data: &Path) -> Result<Option<String>> {
    if !tokens::list(data)?.is_empty() {
        return Ok(None);
    }
    let roles = BTreeSet::from([Role::Admin]);
    Ok(Some(tokens::create(data, "development", roles, BTreeSet::from(["*".to_string()]))?))
}

fn kind_of(choice: ClockChoice) -> ClockKind {
    match choice {
        ClockChoice::Real => ClockKind::Real,
        ClockChoice::Scenario => ClockKind::Scenario,
    }
}

/// The secret of the QUIC transport: derived from the directory's, and of no use to learn that one.
fn transport_secret(identity_key: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(format!("tallymark quic transport {identity_key}").as_bytes()).into()
}

/// Where a scenario starts.
fn scenario_start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").expect("a constant instant")
}

fn policy_of(args: &ServeArgs) -> PolicyRecord {
    PolicyRecord {
        horizon: i64::from(args.horizon_hours) * HOUR,
        future_max: i64::from(args.future_seconds) * SECOND,
        pending_per_slot_max: args.pending_per_slot_max,
        grace: i64::from(args.grace_hours) * HOUR,
        correction_horizon: i64::from(args.correction_hours) * HOUR,
    }
}

/// The first records of a new directory.
fn first_records(args: &ServeArgs) -> Result<(i64, Vec<ControlRecord>)> {
    let mut secret = [0u8; 16];
    getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let clock = kind_of(args.clock);
    let genesis = Genesis {
        tenant: 0,
        incarnation: 0,
        identity_key: format!("{:032x}", u128::from_le_bytes(secret)),
        clock,
        epoch: epoch(),
        made_by: concat!("tallymark ", env!("CARGO_PKG_VERSION")).to_string(),
    };
    let now = if clock == ClockKind::Real { real_now() } else { scenario_start() };
    Ok((now.nanoseconds(), vec![ControlRecord::Genesis(genesis), ControlRecord::Policy(policy_of(args))]))
}

/// Refuses the other clock before anything in the directory is touched.
fn check_clock_kind(args: &ServeArgs, directory: &DataDirectory) -> Result<()> {
    let log = directory.log(LogKind::Control)?;
    let mut reader = LogReader::open(&*log, directory.options(LogKind::Control), 0, None)?;
    let Some(first) = reader.next()? else { return Ok(()) };
    let ControlRecord::Genesis(genesis) = ControlRecord::decode(first.payload)? else { return Ok(()) };
    if genesis.clock != kind_of(args.clock) {
        let (is, asked) = match genesis.clock {
            ClockKind::Real => ("the real clock", "scenario"),
            ClockKind::Scenario => ("a scenario clock", "real"),
        };
        bail!("{} runs on {is}; --clock {asked} is refused on it", args.data.display());
    }
    Ok(())
}

/// Holds the directory against the settings; gives the clock, and records of what a person accepted or changed.
fn check_directory(args: &ServeArgs, recovered: &Recovered) -> Result<(Arc<Clock>, Vec<ControlRecord>)> {
    let control = recovered.replayer.machine.control();
    let genesis = control.genesis().context("the control log has no genesis")?;
    let kind = genesis.clock;
    let scenario_now = control.scenario_now().unwrap_or_else(scenario_start);
    let clock = Arc::new(Clock::new(kind, scenario_now));
    let mut records = Vec::new();
    let behind = recovered.last_recorded_at.map_or(0, |last| last.nanoseconds() - clock.now().nanoseconds());
    if kind == ClockKind::Real && behind > CLOCK_STEP_MAX {
        if !args.accept_clock {
            bail!(
                "the machine's clock is {} seconds behind the log; start with --accept-clock once it is right",
                behind / SECOND
            );
        }
        let reason = format!("{} seconds behind the log", behind / SECOND);
        records.push(ControlRecord::ClockAccepted(Accepted { actor: "operator".to_string(), reason }));
    }
    if control.epoch() != epoch() {
        if !args.accept_epoch {
            bail!(
                "{} was rated with epoch {}, this program has {}; start with --accept-epoch to go on",
                args.data.display(),
                control.epoch(),
                epoch()
            );
        }
        records.push(ControlRecord::EpochAccepted(EpochAccepted {
            epoch: epoch(),
            actor: "operator".to_string(),
        }));
    }
    if control.policy() != policy_of(args) {
        tracing::warn!("the policy changes from {:?} to {:?}", control.policy(), policy_of(args));
        records.push(ControlRecord::Policy(policy_of(args)));
    }
    Ok((clock, records))
}

/// Applies the catalog file where it differs from what the log knows.
async fn apply_catalog(path: Option<&Path>, commands: &crossbeam_channel::Sender<Command>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = CatalogFile::parse(&text).with_context(|| format!("{} is not a catalog", path.display()))?;
    let resources = crate::edge::put_list(file.resources());
    let (reply, outcome) = oneshot::channel();
    let command = Command::Put { resources, actor: "catalog-file".to_string(), reply };
    commands.send(command).ok().context("the control thread has stopped")?;
    let outcomes = outcome.await.context("the control thread has stopped")?;
    let outcomes = outcomes.with_context(|| format!("{} is refused", path.display()))?;
    let changed = outcomes.iter().filter(|outcome| outcome.version.is_some()).count();
    tracing::info!("catalog {}: {changed} changed, {} unchanged", path.display(), outcomes.len() - changed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use engine::log::LogWriter;
    use machine::{KIND_CONTROL, ReplayMode};
    use wire::control::Cut;
    use wire::usage_record::{KIND_BARRIER, encode_barrier};

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn args(data: &Path, more: &[&str]) -> ServeArgs {
        let fixed =
            ["test", "--quic", "127.0.0.1:0", "--http", "127.0.0.1:0", "--clock", "scenario", "--data"];
        let path = data.to_str().unwrap();
        Arguments::parse_from(fixed.iter().chain([&path]).chain(more)).serve
    }

    fn writer(directory: &DataDirectory, kind: LogKind) -> LogWriter {
        let (log, options) = (directory.log(kind).unwrap(), directory.options(kind));
        LogWriter::recover::<anyhow::Error>(log, options, &mut |_| Ok(())).unwrap().0
    }

    fn append(directory: &DataDirectory, kind: LogKind, record: u16, payload: &[u8]) -> u64 {
        let mut writer = writer(directory, kind);
        let offset = writer.stage(record, 0, &[payload]).unwrap();
        writer.commit(0).unwrap();
        writer.close_cleanly().unwrap();
        offset
    }

    /// A crash left a cut without its seal, and the next start comes with another grace: the cut is rated under the
    /// settings that were in force when it was recorded, or replay would derive another batch.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_interrupted_cut_is_finished_under_the_settings_it_was_recorded_under() {
        let data = tempfile::tempdir().unwrap();
        let catalog = data.path().join("catalog.toml");
        let text = r#"
            catalog = 1
            entity = [{ id = "inc", currency = "USD", time_zone = "UTC" }]
            account = [{ id = "acme", name = "Acme", entity = "inc", currency = "USD", time_zone = "UTC" }]
            plan = [{ id = "pro", currency = "USD" }]
            price = [{ id = "fee", plan = "pro", model = "flat", unit_amount = "49", window = "month" }]
            subscription = [{ id = "s1", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z" }]
        "#;
        std::fs::write(&catalog, text).unwrap();
        let running = start(&args(data.path(), &["--catalog", catalog.to_str().unwrap()])).await.unwrap();
        running.stop().await.unwrap();
        let directory = DataDirectory::new(data.path(), 64 << 20);
        let control = writer(&directory, LogKind::Control);
        let control_end = control.next_offset();
        control.close_cleanly().unwrap();
        let barrier = append(&directory, LogKind::Usage, KIND_BARRIER, &encode_barrier(control_end));
        // February is over, but for five days its grace is not.
        let at = Timestamp::parse("2026-03-03T00:00:00Z").unwrap();
        let cut = ControlRecord::Cut(Cut { number: 1, barrier, at, reason: "crash".to_string() });
        append(&directory, LogKind::Control, KIND_CONTROL, &cut.encode());

        let running = start(&args(data.path(), &["--grace-hours", "0"])).await.unwrap();
        running.stop().await.unwrap();
        let replayed = crate::recovery::replay(&directory, 1, ReplayMode::Derive).unwrap();
        assert_eq!((replayed.summary.cuts, replayed.summary.batches), (1, 1));
    }
}
