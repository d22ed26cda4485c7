//! Errors as `application/problem+json` (RFC 9457), with a stable code for programs.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use billing::catalog::{CatalogStatus, Rule};
use machine::{CorrectionStatus, PutError};
use serde_json::{Value, json};

use crate::archive::is_of_archive;
use crate::control::CommandError;

/// An error for an HTTP caller.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    more: Value,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: &str) -> Self {
        Self { status, code, detail: detail.to_string(), more: Value::Null }
    }

    pub(super) fn bad_request(code: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The problem with more fields, those of a record.
    pub(super) fn with(mut self, more: &impl serde::Serialize) -> Self {
        self.more = serde_json::to_value(more).unwrap_or_default();
        self
    }

    /// A failure of ours, or usage in the archive that cannot be read there now.
    pub(super) fn internal(error: &anyhow::Error) -> Self {
        if is_of_archive(error) {
            return Self::out_of_reach(&format!("{error:#}"));
        }
        tracing::error!("a request failed: {error:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", &format!("{error:#}"))
    }

    fn out_of_reach(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "archive_must_be_reachable", detail)
    }

    pub(super) fn history_forked(batch: u64, digest: &str) -> Self {
        let detail =
            format!("charge batch {batch} has another digest here: the cursor belongs to another history");
        let mut problem = Self::new(StatusCode::CONFLICT, "history_forked", &detail);
        problem.more = json!({ "batch": batch, "digest": digest });
        problem
    }
}

/// Turns an error that the HTTP library answered by itself into a problem document; ends JSON with a newline.
pub(super) async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_problem = content_type == Some("application/problem+json");
    let is_error = status.is_client_error() || status.is_server_error();
    let is_plain_json = content_type == Some("application/json");
    let is_foreign_error = is_error && !is_problem;
    if !is_foreign_error && !is_plain_json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "an answer was cut off")
            .into_response();
    };
    if is_error {
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "body_must_fit",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            _ => "request_must_be_readable",
        };
        return Problem::new(status, code, &String::from_utf8_lossy(&bytes)).into_response();
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut bytes = bytes.to_vec();
    bytes.push(b'\n');
    Response::from_parts(parts, bytes.into())
}

impl From<CatalogStatus> for Problem {
    fn from(status: CatalogStatus) -> Self {
        let http = match status.rule {
            Rule::MustNotChange(_) | Rule::ReferenceMustExist(_) => StatusCode::CONFLICT,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let mut problem = Self::new(http, status.rule.name(), &status.to_string());
        problem.more = json!({ "kind": status.kind.as_str(), "id": status.id });
        problem
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Put(PutError::Catalog(status)) => status.into(),
            CommandError::Put(error @ PutError::RecordMustFit { .. }) => {
                Self::new(StatusCode::CONFLICT, "conflict", &error.to_string())
            }
            CommandError::Put(PutError::KindMustBeKnown { .. }) => {
                Self::new(StatusCode::NOT_FOUND, "kind_must_be_known", &error.to_string())
            }
            CommandError::NotFound(what) => Self::new(StatusCode::NOT_FOUND, "not_found", &what),
            CommandError::Conflict(what) => Self::new(StatusCode::CONFLICT, "conflict", &what),
            CommandError::Correction(status) => {
                let http = match status {
                    CorrectionStatus::EventMustBeKnown => StatusCode::NOT_FOUND,
                    CorrectionStatus::ReasonMustFit | CorrectionStatus::ContentMustFit(_) => {
                        StatusCode::UNPROCESSABLE_ENTITY
                    }
                    _ => StatusCode::CONFLICT,
                };
                Self::new(http, status.name(), &status.to_string())
            }
            CommandError::ArchiveMustBeReachable(what) => Self::out_of_reach(&what),
            CommandError::UsageMustBeReadable(what) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "usage_must_be_readable", &what)
            }
            CommandError::HistoryForked { batch, digest } => Self::history_forked(batch, &digest),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, self.more) {
            body.extend(more);
        }
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], format!("{body}\n"))
            .into_response()
    }
}
