//! A client process: opens its connections, waits for the word, sends, and tells the parent every second.
//!
//! Owns: the lines between parent and worker. Leaves to others: connections (`target`), what it all means (`run`).
//!
//! The parent writes the job as one line of JSON, reads [`Said::Ready`], writes when to begin, reads a [`Said::Tick`] a
//! second and one [`Said::Done`] or [`Said::Failed`], and ends the worker by closing its input.
//!
//! Invariants: connections are open before the run begins; ticks together are everything that was measured.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use domain::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::generator::Plan;
use crate::oracle::Told;
use crate::recorder::{Recorder, Tick};
use crate::scenario::{Scenario, Target};
use crate::target::endpoint::{Dialer, Endpoint};
use crate::target::quic::QuicTarget;
use crate::target::{Lane, http_lane, quic, slow};

/// What a worker does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) scenario: Scenario,
    pub(crate) run: String,
    /// Time of the first events, in nanoseconds since 1970.
    pub(crate) start: i64,
    /// Which of the processes this is, from 0.
    pub(crate) process: u32,
    pub(crate) quic: Option<QuicTarget>,
    pub(crate) endpoint: Option<Endpoint>,
    /// Certificates that TLS of the endpoint must lead to (PEM).
    pub(crate) trusted_pem: String,
}

/// What a worker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    Ready,
    Tick(Tick),
    Done(Told),
    Failed(String),
    /// Nothing more: it ended. Heard, never said.
    Gone,
}

/// Runs a worker on standard input and output.
pub(crate) fn run() -> Result<()> {
    raise_file_limit();
    let mut lines = std::io::stdin().lines();
    let mut line = || -> Result<String> { Ok(lines.next().context("the parent said nothing")??) };
    let job: Job = serde_json::from_str(&line()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(job.scenario.send.threads as usize)
        .enable_all()
        .build()?;
    let work = Arc::new(Work::new(&job)?);
    let said = runtime.block_on(async {
        let lanes = work.clone().open_all().await?;
        say(&Said::Ready)?;
        // Blocking is right: nothing is to be done before the parent says when.
        let begin: i64 = tokio::task::block_in_place(&mut line)?.trim().parse()?;
        work.send_all(lanes, begin).await
    });
    match said {
        Ok(told) => say(&Said::Done(told))?,
        Err(error) => say(&Said::Failed(format!("{error:#}")))?,
    }
    // The parent reads what this process used before it lets it go.
    let _ = line();
    Ok(())
}

/// A connection takes two descriptors or three, and the usual limit is made for programs with fewer.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it cannot be raised, opening a connection says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn say(said: &Said) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

struct Work {
    scenario: Arc<Scenario>,
    plan: Arc<Plan>,
    recorder: Arc<Recorder>,
    process: u32,
    quic: Option<QuicTarget>,
    http: Option<(Endpoint, Arc<Dialer>)>,
}

/// A connection that is open.
enum Open {
    Quic(quic::Connected),
    Slow(slow::Connected),
    Http(crate::target::HttpConnection),
}

impl Work {
    fn new(job: &Job) -> Result<Self> {
        let start = Timestamp::from_nanoseconds(job.start);
        let http = match &job.endpoint {
            None => None,
            Some(endpoint) => {
                let dialer = Dialer::new(endpoint.clone(), job.trusted_pem.as_bytes())?;
                Some((endpoint.clone(), Arc::new(dialer)))
            }
        };
        Ok(Self {
            plan: Arc::new(Plan::new(&job.scenario, &job.run, start)?),
            scenario: Arc::new(job.scenario.clone()),
            recorder: Arc::new(Recorder::new()),
            process: job.process,
            quic: job.quic.clone(),
            http,
        })
    }

    fn lane(&self, connection: u32, start: Instant) -> Result<Lane> {
        let recorder = self.recorder.clone();
        Lane::new(self.scenario.clone(), self.plan.clone(), recorder, connection, start)
    }

    fn quic(&self) -> Result<&QuicTarget> {
        self.quic.as_ref().context("the job has no QUIC address")
    }

    fn http(&self) -> Result<&(Endpoint, Arc<Dialer>)> {
        self.http.as_ref().context("the job has no endpoint")
    }

    async fn open(&self, connection: u32) -> Result<Open> {
        if self.scenario.send.target != Target::Quic {
            let (endpoint, dialer) = self.http()?;
            return Ok(Open::Http(http_lane::open(dialer.clone(), endpoint).await?));
        }
        let is_slow = self.lane(connection, Instant::now())?.slowness.is_some();
        if is_slow {
            return Ok(Open::Slow(slow::open(self.quic()?).await?));
        }
        Ok(Open::Quic(quic::open(self.quic()?, &self.scenario, &self.plan.run).await?))
    }

    /// Opens the connections of this process, some at a time.
    async fn open_all(self: Arc<Self>) -> Result<Vec<(u32, Open)>> {
        const AT_ONCE: usize = 64;
        let send = &self.scenario.send;
        let mine: Vec<u32> = (self.process..send.connections).step_by(send.processes as usize).collect();
        let mut open = Vec::new();
        for some in mine.chunks(AT_ONCE) {
            let opening: Vec<_> = some
                .iter()
                .map(|connection| {
                    let (work, connection) = (self.clone(), *connection);
                    tokio::spawn(async move { work.open(connection).await })
                })
                .collect();
            for (connection, opening) in some.iter().zip(opening) {
                open.push((*connection, opening.await??));
            }
        }
        Ok(open)
    }

    /// Sends everything, beginning at a time of the wall clock.
    async fn send_all(self: Arc<Self>, lanes: Vec<(u32, Open)>, begin: i64) -> Result<Told> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
        let start = Instant::now() + Duration::from_nanos(u64::try_from(begin - now).unwrap_or(0));
        tokio::time::sleep_until(start.into()).await;
        let mut sending = tokio::task::JoinSet::new();
        for (connection, open) in lanes {
            let (work, lane) = (self.clone(), self.lane(connection, start)?);
            sending.spawn(async move {
                match open {
                    Open::Quic(connected) => quic::send(lane, connected, work.quic()?).await,
                    Open::Slow(connected) => slow::send(lane, connected).await,
                    Open::Http(connected) => http_lane::send(lane, connected, &work.http()?.0).await,
                }
            });
        }
        let mut events = 0;
        let mut tick_at = start + Duration::from_secs(1);
        loop {
            tokio::select! {
                sent = sending.join_next() => match sent {
                    Some(sent) => events += sent??,
                    None => break,
                },
                () = tokio::time::sleep_until(tick_at.into()) => {
                    say(&Said::Tick(self.recorder.take(start)))?;
                    tick_at += Duration::from_secs(1);
                }
            }
        }
        say(&Said::Tick(self.recorder.take(start)))?;
        Ok(self.plan.oracle.told(events))
    }
}

/// Lines of a worker, read by its parent.
pub(crate) fn read_said(lines: &mut impl BufRead) -> Result<Said> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Ok(Said::Gone);
    }
    Ok(serde_json::from_str(&line)?)
}
