//! A connection of QUIC, by the client library: what a service in Rust does.
//!
//! Owns: batches of its own making, so that each has an intended send time. Leaves to others: connecting again, sending
//! again (`tallymark-client`).
//!
//! Invariants: the latency of a batch ends when its ack reaches the caller.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tallymark_client::{
    Acked, BatchBuilder, BuilderStatus, Client, ClientError, ClientIdentity, ClientOptions, ConnectionState,
    IdMode,
};
use tokio::sync::mpsc;

use super::{Lane, PATIENCE, Pushed};
use crate::generator::{Generated, Generator, Plan, Texts};
use crate::scenario::{IdShape, Scenario};

/// Where and as whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct QuicTarget {
    /// `host:port`.
    pub(crate) address: String,
    /// In the server's certificate; the host unless said.
    pub(crate) server_name: Option<String>,
    pub(crate) token: String,
    pub(crate) trusted_pem: String,
    /// A certificate of the client and its key (PEM).
    pub(crate) identity: Option<(String, String)>,
}

/// A client that is connected, and its acks.
pub(crate) struct Connected {
    client: Client,
    acks: mpsc::UnboundedReceiver<Acked>,
}

pub(crate) async fn open(target: &QuicTarget, scenario: &Scenario, run: &str) -> Result<Connected> {
    let pem = target.trusted_pem.clone().into_bytes();
    let mut options = ClientOptions::new(&target.address, &target.token, run, pem);
    options.server_name.clone_from(&target.server_name);
    options.identity = target.identity.as_ref().map(|(certificate, key)| ClientIdentity {
        cert_pem: certificate.clone().into_bytes(),
        key_pem: key.clone().into_bytes(),
    });
    options.in_flight_max = scenario.in_flight() as usize;
    options.connect_timeout = PATIENCE;
    let (acks_to, acks) = mpsc::unbounded_channel();
    options.acks = Some(acks_to);
    Ok(Connected { client: Client::connect(options).await?, acks })
}

/// How a client's batches get their ids.
pub(crate) fn id_mode(shape: IdShape) -> Result<IdMode> {
    if shape != IdShape::Sequenced {
        return Ok(IdMode::Given);
    }
    let mut epoch = [0; 8];
    getrandom::fill(&mut epoch).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(IdMode::Sequenced { epoch: u64::from_le_bytes(epoch), first: 0 })
}

/// Puts events into frames.
pub(crate) struct Packer {
    pub(crate) builder: BatchBuilder,
    texts: Texts,
    plan: std::sync::Arc<Plan>,
    /// An event that did not fit the last batch.
    left_over: Option<Generated>,
}

impl Packer {
    pub(crate) fn new(plan: std::sync::Arc<Plan>, ids: IdMode) -> Self {
        let builder = BatchBuilder::new(&plan.run, &plan.event_type, ids);
        Self { builder, texts: Texts::default(), plan, left_over: None }
    }

    /// Adds an event; one that does not fit waits for the next batch.
    pub(crate) fn push(
        &mut self,
        generator: &Generator,
        generated: &Generated,
    ) -> Result<Pushed, BuilderStatus> {
        if let Some(left_over) = self.left_over.take() {
            self.try_push(generator, &left_over)?;
        }
        match self.try_push(generator, generated) {
            Err(BuilderStatus::BatchMustHaveRoom) => {
                self.left_over = Some(*generated);
                Ok(Pushed::Last)
            }
            pushed => pushed.map(|()| Pushed::HasRoom),
        }
    }

    /// Adds what waited, when no more events come; `false` if nothing did.
    pub(crate) fn push_left_over(&mut self, generator: &Generator) -> Result<bool, BuilderStatus> {
        let Some(left_over) = self.left_over.take() else { return Ok(false) };
        self.try_push(generator, &left_over)?;
        Ok(true)
    }

    fn try_push(&mut self, generator: &Generator, generated: &Generated) -> Result<(), BuilderStatus> {
        generator.write(generated, &mut self.texts);
        let values = [("units", i128::from(generated.hundredths), 2)];
        let mut dimensions = [("", ""); domain::limits::EVENT_DIMENSIONS_MAX];
        let picked = self.plan.dimensions.iter().zip(&self.texts.picks);
        for (dimension, ((name, values), pick)) in dimensions.iter_mut().zip(picked) {
            *dimension = (name, &values[*pick]);
        }
        self.builder.push_parts(
            self.texts.id.as_bytes(),
            &self.texts.subject,
            generated.time,
            &values,
            &dimensions[..self.plan.dimensions.len()],
        )
    }
}

/// What is known of batches that wait for their ack.
#[derive(Default)]
struct Waiting {
    /// When each should have left, by its sequence, in an open loop.
    intended: BTreeMap<u64, Instant>,
    /// Batches that were sent and have no ack yet.
    batches: u64,
    /// Bytes that were recorded already.
    bytes: u64,
}

/// Sends the events of a lane; gives how many were distinct.
pub(crate) async fn send(mut lane: Lane, mut connected: Connected, target: &QuicTarget) -> Result<u64> {
    let mut packer = Packer::new(lane.plan.clone(), id_mode(lane.scenario.ids.shape)?);
    let mut waiting = Waiting::default();
    loop {
        let due = lane.next_batch(|generator, generated| packer.push(generator, generated))?;
        if due.is_none() && !packer.push_left_over(&lane.generator)? {
            break;
        }
        if let Some(due) = due.as_ref().and_then(|due| due.at) {
            while Instant::now() < due {
                // Acks are taken while the batch waits for its time.
                tokio::select! {
                    acked = connected.acks.recv() => if let Some(acked) = acked {
                        waiting.record(&lane, &connected.client, &acked);
                    },
                    () = lane.timer.until(due) => {}
                }
            }
        }
        if due.as_ref().is_some_and(|due| due.breaks_off) {
            connected = reconnect(&lane, connected, target, &mut waiting).await?;
        }
        let client = &connected.client;
        let sequence = within_patience(client, client.send(&mut packer.builder)).await?;
        waiting.batches += 1;
        if let Some(due) = due.and_then(|due| due.at) {
            waiting.intended.insert(sequence, due);
        }
        while let Ok(acked) = connected.acks.try_recv() {
            waiting.record(&lane, &connected.client, &acked);
        }
    }
    finish(&lane, connected, &mut waiting).await?;
    Ok(lane.generator.distinct())
}

async fn reconnect(
    lane: &Lane,
    connected: Connected,
    target: &QuicTarget,
    waiting: &mut Waiting,
) -> Result<Connected> {
    finish(lane, connected, waiting).await?;
    lane.recorder.record(None, |counts| counts.reconnects += 1);
    *waiting = Waiting::default();
    open(target, &lane.scenario, &lane.plan.run).await
}

/// The client tries for as long as it lives; a run does not.
async fn within_patience<T>(
    client: &Client,
    doing: impl Future<Output = Result<T, ClientError>>,
) -> Result<T> {
    match tokio::time::timeout(PATIENCE, doing).await {
        Ok(done) => Ok(done?),
        Err(_) => {
            let why = match client.connection() {
                ConnectionState::Lost(cause) => format!(": no connection: {cause}"),
                _ => String::new(),
            };
            bail!("the receiver took nothing for {} seconds{why}", PATIENCE.as_secs())
        }
    }
}

/// Waits for all acks and says goodbye.
async fn finish(lane: &Lane, mut connected: Connected, waiting: &mut Waiting) -> Result<()> {
    within_patience(&connected.client, connected.client.flush()).await?;
    // The client counts a batch as done a moment before it says so.
    while waiting.batches > 0
        && let Some(acked) = connected.acks.recv().await
    {
        waiting.record(lane, &connected.client, &acked);
    }
    let reconnects = connected.client.stats().reconnects;
    lane.recorder.record(None, |counts| counts.reconnects += reconnects);
    Ok(connected.client.close().await?)
}

impl Waiting {
    fn record(&mut self, lane: &Lane, client: &Client, acked: &Acked) {
        self.batches -= 1;
        let since = self.intended.remove(&acked.sequence).unwrap_or(acked.queued_at);
        let sent = client.stats().bytes;
        let bytes = sent - std::mem::replace(&mut self.bytes, sent);
        let refused = acked.refusals.len() as u64;
        lane.recorder.record(Some(since.elapsed()), |counts| {
            counts.events += acked.events as u64 - refused;
            counts.requests += 1;
            counts.bytes += bytes;
            counts.refused += refused;
        });
    }
}
