//! The HTTP API: master data, cuts, batches, journals, health and metrics.
//!
//! Owns: paths, roles, problem documents. Leaves to others: what a command does (`control`).
//!
//! Invariants: every error is `application/problem+json` with a stable `code`; nothing is answered before it is durable.

mod completeness;
mod connections;
mod corrections;
mod events;
mod lineage;
mod problem;
mod reads;
mod usage;
mod writes;

pub use self::connections::{CONNECTIONS_MAX, Connections, TlsInForce};
pub use self::events::EventBudget;
pub use self::usage::QUERIES_MAX;
pub(crate) use self::writes::put_list;

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post, put};
use crossbeam_channel::{Sender, TrySendError};
use engine::identity::IdentityKey;
use engine::shard::spill::SpillPool;
use machine::Machine;
use tokio::sync::{Semaphore, oneshot};
use tower_http::timeout::RequestBodyTimeoutLayer;

use self::problem::Problem;
use crate::archive::ArchiveState;
use crate::control::{Command, CommandError, Served};
use crate::directory::DataDirectory;
use crate::observe::Metrics;
use crate::shards::ShardTask;
use crate::shares::Shares;
use crate::snapshots::SnapshotState;
use crate::tokens::{Role, Token, Tokens};
use crate::usage_log::{UsageLogState, UsageQueue, UsageTask};

/// Bytes of a request body, a catalog file included.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Time for the next bytes of a body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// What the handlers need.
pub struct Edge {
    /// Tokens.
    pub tokens: Arc<Tokens>,
    /// Queue of the control thread.
    pub commands: Sender<Command>,
    /// Number of shards.
    pub shards: usize,
    /// Queue of the usage-log writer.
    pub usage_tasks: tokio::sync::mpsc::Sender<UsageTask>,
    /// Way of batches to the same writer.
    pub usage_queue: UsageQueue,
    /// Memory for batches over QUIC that are not answered yet.
    pub unanswered: Shares,
    /// Sealed content.
    pub served: Arc<Served>,
    /// The data directory.
    pub directory: DataDirectory,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The key of event identities.
    pub identity_key: IdentityKey,
    /// What event bodies may take.
    pub event_budget: EventBudget,
    /// What is known of snapshots.
    pub snapshots: Arc<SnapshotState>,
    /// State of the usage log.
    pub usage: Arc<UsageLogState>,
    /// The clock.
    pub clock: Arc<crate::clock::Clock>,
    /// Queues of the shards, for as long as these run.
    pub shard_queues: Weak<Vec<Sender<ShardTask>>>,
    /// Lets usage queries in.
    pub queries: Arc<Semaphore>,
    /// Bytes of the usage log that one usage query may read.
    pub query_bytes_max: u64,
    /// Ids that are remembered at most.
    pub ids_max: u64,
    /// Single events that may leave memory.
    pub pool: Arc<SpillPool>,
    /// What is known of the archive.
    pub archive: Arc<ArchiveState>,
}

type Answer = Result<Response, Problem>;

/// All routes.
pub fn router(edge: Arc<Edge>) -> Router {
    let open = Router::new()
        .route("/healthz", get(reads::healthz))
        .route("/readyz", get(reads::readyz))
        .route("/metrics", get(reads::metrics));
    // The path of every event has no layers: each costs a single event as much as reading it.
    let ingest = Router::new()
        .route("/v1/events", post(events::post_events))
        .method_not_allowed_fallback(method_not_allowed);
    let billing = Router::new()
        .route("/v1/charge-batches", get(reads::charge_batches))
        .route("/v1/charge-batches/{number}/ack", post(writes::ack_batch))
        .route("/v1/accounts/{account}/bill", get(reads::bill))
        .route("/v1/accounts/{account}/completeness", get(completeness::completeness))
        .route("/v1/meters/{meter}/usage", get(usage::usage))
        .layer(middleware::from_fn_with_state((edge.clone(), Role::Billing), require));
    let finance = Router::new()
        .route("/v1/journals", get(reads::journals))
        .route("/v1/journals.hledger", get(reads::journals_hledger))
        .route("/v1/journals/{external_id}/charges", get(lineage::journal_charges))
        .layer(middleware::from_fn_with_state((edge.clone(), Role::Finance), require));
    let admin = Router::new()
        .route("/v1/{kind}/{id}", put(writes::put_resource))
        .route("/v1/catalog/plan", post(writes::plan_catalog))
        .route("/v1/catalog/apply", post(writes::apply_catalog))
        .route("/v1/cuts", post(writes::cut))
        .route("/v1/journal-runs", post(writes::journal_runs))
        .route("/v1/scenario-clock", post(writes::advance_clock))
        .route("/v1/counters", get(reads::counters))
        .route("/v1/archive", get(reads::archive))
        .route("/v1/quarantine", get(corrections::quarantine))
        .route("/v1/where", get(lineage::whereabouts))
        .route("/v1/charge-batches/{number}/lines/{line}/events", get(lineage::line_events))
        .route("/v1/events/{source}/{id}", get(corrections::event))
        .route("/v1/events/{source}/{id}/void", post(corrections::void))
        .route("/v1/events/{source}/{id}/amend", post(corrections::amend))
        .route("/v1/events/{source}/{id}/release", post(corrections::release))
        .route("/v1/events/{source}/{id}/discard", post(corrections::discard))
        .layer(middleware::from_fn_with_state((edge.clone(), Role::Admin), require));
    Router::new()
        .merge(open)
        .merge(billing)
        .merge(finance)
        .merge(admin)
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
        })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(RequestBodyTimeoutLayer::new(BODY_PATIENCE))
        .layer(middleware::map_response(problem::as_problem))
        .merge(ingest)
        .with_state(edge)
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take that method")
}

/// Lets a request through if its bearer token has the role.
async fn require(
    State((edge, role)): State<(Arc<Edge>, Role)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let token = edge.authorize(request.headers(), role)?;
    request.extensions_mut().insert(token);
    Ok(next.run(request).await)
}

/// The token of a request that was let through.
type Caller = axum::Extension<Arc<Token>>;

impl Edge {
    /// The token of a request, if it has the role.
    fn authorize(&self, headers: &HeaderMap, role: Role) -> Result<Arc<Token>, Problem> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let secret = bearer.and_then(secret_of);
        let token = secret.and_then(|secret| self.tokens.authenticate(secret)).ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send a known token as `Authorization: Bearer tm_…`",
            )
        })?;
        must_have(token, role)
    }

    /// The token of a request that goes on, as it is now, if it has the role still.
    fn authorize_again(&self, token: &Arc<Token>, role: Role) -> Result<Arc<Token>, Problem> {
        let now = self.tokens.renew(token).ok_or_else(|| {
            let detail = format!(
                "the token {} was revoked; what came before may be durable, and sending all again counts nothing twice",
                token.name
            );
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", &detail)
        })?;
        must_have(now, role)
    }

    fn send(&self, command: Command) -> Result<(), Problem> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many commands wait; try again")
            }
            TrySendError::Disconnected(_) => stopping(),
        })
    }

    /// Sends a command and waits for its outcome.
    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Command,
    ) -> Result<T, Problem> {
        let (reply, outcome) = oneshot::channel();
        self.send(make(reply))?;
        outcome.await.map_err(|_| stopping())?.map_err(Problem::from)
    }

    /// Reads the machine between two commands.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, outcome) = oneshot::channel();
        self.send(Command::Read(Box::new(move |machine| {
            let _ = reply.send(read(machine));
        })))?;
        outcome.await.map_err(|_| stopping())
    }
}

/// The secret in a header. The scheme is a word without case (RFC 9110).
fn secret_of(authorization: &str) -> Option<&str> {
    let (scheme, secret) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| secret.trim_ascii_start())
}

fn must_have(token: Arc<Token>, role: Role) -> Result<Arc<Token>, Problem> {
    if token.may(role) {
        return Ok(token);
    }
    let detail = format!("the token {} does not have the role {}", token.name, role.as_str());
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", &detail))
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server is stopping or its storage failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_of_a_token_is_a_word_without_case() {
        for (header, secret) in [
            ("Bearer tm_1", Some("tm_1")),
            ("bearer tm_1", Some("tm_1")),
            ("BEARER  tm_1", Some("tm_1")),
            ("Basic tm_1", None),
            ("Bearertm_1", None),
            ("tm_1", None),
        ] {
            assert_eq!(secret_of(header), secret, "{header}");
        }
    }
}
