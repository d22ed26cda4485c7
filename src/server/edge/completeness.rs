//! `GET /v1/accounts/{account}/completeness`: what is known of a window of an account.
//!
//! Owns: its parameters. Leaves to others: the statement (`machine::completeness`), how it is run (`super::usage`).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::IntoResponse;
use domain::{AccountId, Period};
use machine::completeness::{Charged, Completeness, CompletenessTerms};
use machine::usage_query::{QueryStatus, ScanError, plan_of};
use machine::{KnownCorrections, Machine};
use serde::Deserialize;

use super::problem::Problem;
use super::usage::{count, known, moment, permit, problem_of_request, run, state_at};
use super::{Answer, Edge};
use crate::usage_request::{RequestStatus, as_of_of};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CompletenessQuery {
    period: String,
    as_of: Option<String>,
}

/// `GET /v1/accounts/{account}/completeness?period=YYYY-MM[&as_of=P]`
pub(super) async fn completeness(
    State(edge): State<Arc<Edge>>,
    UrlPath(account): UrlPath<String>,
    Query(query): Query<CompletenessQuery>,
) -> Answer {
    let unknown = |_| problem_of_request(RequestStatus::Query(QueryStatus::AccountMustExist));
    let account = AccountId::new(&account).map_err(unknown)?;
    let period = Period::parse(&query.period)
        .map_err(|status| Problem::bad_request("period_must_be_year_month", &status.to_string()))?;
    let unreadable = |why: &str| RequestStatus::ParameterMustBeReadable("as_of".to_string(), why.to_string());
    let as_of = query.as_of.as_deref().map(as_of_of).transpose().map_err(unreadable);
    let as_of = as_of.map_err(problem_of_request)?;
    let permit = permit(&edge)?;
    let (asked, is_present) = (account.clone(), as_of.is_none());
    let terms_of = move |machine: &Machine| {
        let catalog = machine.control().catalog();
        let terms = catalog.account(&asked).ok_or(QueryStatus::AccountMustExist)?;
        let charged = Charged::of(machine, &asked, terms.time_zone.month(period));
        let terms =
            is_present.then(|| CompletenessTerms::of(catalog, machine.plan().clone(), &asked, period));
        Ok((charged, terms.transpose()?.map(|terms| (terms, machine.known_corrections()))))
    };
    let (end, (charged, terms)) = moment(&edge, terms_of).await?;
    let known = known(&edge, as_of, end)?;
    run(edge, permit, move |edge, is_awaited| {
        let (terms, corrections) = match terms {
            Some(terms) => terms,
            None => {
                let state = state_at(edge, known, is_awaited)?;
                let plan = plan_of(&state);
                let corrections = KnownCorrections::of(&state, plan.clone());
                let terms = CompletenessTerms::of(state.catalog(), plan, &account, period);
                (terms.map_err(ScanError::from)?, corrections)
            }
        };
        let mut completeness = Completeness::new(terms);
        let as_of = count(edge, known, &corrections, &mut completeness, is_awaited)?;
        Ok(Json(completeness.finish(charged).to_json(as_of)).into_response())
    })
    .await
}
