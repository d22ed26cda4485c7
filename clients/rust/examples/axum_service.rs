//! A service that records usage in its request handlers.
//!
//! Owns: how a client lives in a web service: started before the server answers, recording without waiting for anything,
//! shown as metrics, closed with a deadline when a person or an orchestrator ends it. Leaves to others: what is sold.
//!
//! ```sh
//! TALLYMARK_TOKEN=tm_… cargo run -p tallymark-client --example axum_service
//! curl -d 'a prompt' http://127.0.0.1:8080/complete/key-42
//! curl http://127.0.0.1:8080/metrics
//! ```

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use tallymark_client::{
    Client, ClientError, ClientOptions, Decimal, Event, OutboxOptions, SyncPolicy, Timestamp,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

type Failure = Box<dyn std::error::Error>;

/// How long requests may take once the service is to end, and then the client: together less than the 10 seconds that the
/// shortest of the usual grace periods has.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(3);
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_string());
    let certificate = std::fs::read(setting("TALLYMARK_CERT", "tallymark-data/dev-cert.pem"))?;
    let address = setting("TALLYMARK_QUIC", "127.0.0.1:7411");
    let mut options =
        ClientOptions::new(address, &std::env::var("TALLYMARK_TOKEN")?, "completions", certificate);
    // Batches survive a crash of this process; one sync a second bounds what a loss of power takes.
    let folder = setting("COMPLETIONS_OUTBOX", "completions-outbox");
    options.outbox = Some(OutboxOptions::new(folder, SyncPolicy::Every(Duration::from_secs(1))));
    // Starts whether the server answers or not: usage waits in the outbox.
    let usage = Arc::new(Client::start(options)?);

    let service = Router::new()
        .route("/complete/{key}", post(complete))
        .route("/metrics", get(metrics))
        .with_state(usage.clone());
    let listener = tokio::net::TcpListener::bind(setting("COMPLETIONS_HTTP", "127.0.0.1:8080")).await?;
    let (to_end, ended) = watch::channel(false);
    let asked = asked_to_end()?;
    tokio::spawn(async move {
        asked.await;
        let _ = to_end.send(true); // nobody listens once the service is over
    });
    let until_end =
        |mut ended: watch::Receiver<bool>| async move { drop(ended.wait_for(|ended| *ended).await) };
    let serving = axum::serve(listener, service).with_graceful_shutdown(until_end(ended.clone()));
    tokio::select! {
        served = serving.into_future() => served?,
        // A connection that stays open must not keep usage from being told.
        () = async { until_end(ended).await; tokio::time::sleep(REQUESTS_PATIENCE).await } => {}
    }

    // What is not acknowledged by then is in the outbox, and the next start sends it.
    match usage.close_within(CLIENT_PATIENCE).await {
        Err(ClientError::DeadlinePassed { unacked, stored }) if unacked == stored => Ok(()),
        closed => Ok(closed?),
    }
}

/// Waits for ctrl-C or SIGTERM; both are caught from the call on.
fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn complete(
    State(usage): State<Arc<Client>>,
    Path(key): Path<String>,
    prompt: String,
) -> Result<String, StatusCode> {
    let answer = prompt.to_uppercase();
    let tokens = (prompt.len() + answer.len()) as i64;
    let event =
        Event::minted(key, now()).value("tokens", Decimal::from_integer(tokens)).dimension("model", "upper");
    match usage.try_record("completion", &event) {
        Ok(()) => Ok(answer),
        // Memory and disk are full of usage that nobody takes: better no answer than one that nobody pays for.
        Err(ClientError::Full) => Err(StatusCode::SERVICE_UNAVAILABLE),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn metrics(State(usage): State<Arc<Client>>) -> String {
    let stats = usage.stats();
    let rows = [
        ("usage_recorded_total", stats.recorded),
        ("usage_acked_total", stats.acked),
        ("usage_refused_total", stats.refused),
        ("usage_spilled_total", stats.spilled),
        ("usage_resent_total", stats.resent),
        ("usage_outbox_failures_total", stats.outbox_failures),
        ("usage_unacked", stats.unacked),
        ("usage_memory_bytes", stats.memory_bytes),
    ];
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name} {value}"); // writing to memory cannot fail
        text
    })
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanoseconds(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orchestrators end a service with SIGTERM, which ended it in the middle of everything.
    #[tokio::test]
    async fn sigterm_and_ctrl_c_are_both_heard() {
        for name in ["-TERM", "-INT"] {
            let asked = asked_to_end().expect("signals can be caught");
            let sent =
                std::process::Command::new("kill").arg(name).arg(std::process::id().to_string()).status();
            assert!(sent.is_ok_and(|sent| sent.success()), "{name}");
            tokio::time::timeout(Duration::from_secs(60), asked).await.expect("the signal is heard");
        }
    }
}
