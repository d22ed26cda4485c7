//! What may be asked of usage: whose, when, in which windows and groups.
//!
//! Owns: the question, its limits, and the names of broken rules. Leaves to others: what the catalog says about it
//! (`super::terms`), how it is written in a URL or on a command line (`server`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use domain::limits::METER_GROUP_BY_MAX;
use domain::time::{WindowGrid, WindowStatus, WindowUnit};
use domain::{AccountId, MeterId, Span, Subject, SubscriptionId, Zone};

/// Rows of an answer.
pub const QUERY_ROWS_MAX: usize = 50_000;
/// Bytes of the group-by texts of an answer.
pub const QUERY_TEXT_BYTES_MAX: usize = 16 << 20;
/// Windows in the span of a query, with usage or without.
pub const QUERY_WINDOWS_MAX: usize = 600_000;
/// Subjects that a query names.
pub const QUERY_SUBJECTS_MAX: usize = 1_000;
/// Texts that the filters of a query name.
pub const QUERY_FILTER_TEXTS_MAX: usize = 1_000;

/// Whose usage is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageScope {
    /// All usage of the meter, owned or not.
    All,
    /// That of subjects, owned or not.
    Subjects(BTreeSet<Subject>),
    /// What belongs to a subscription: the usage of its subjects while they are its own and it is active.
    Subscription(SubscriptionId),
    /// What belongs to the subscriptions of an account.
    Account(AccountId),
}

/// What splits an answer into groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKey {
    /// The subject of the event.
    Subject,
    /// The source of the event.
    Source,
    /// A dimension of the event.
    Dimension(Arc<str>),
}

impl GroupKey {
    /// The key of a name: `subject` and `source` are the event's own, anything else is a dimension. `dimension.` before
    /// the name always makes it one.
    pub fn parse(text: &str) -> Self {
        match text {
            "subject" => GroupKey::Subject,
            "source" => GroupKey::Source,
            name => GroupKey::Dimension(name.strip_prefix("dimension.").unwrap_or(name).into()),
        }
    }

    /// The name as an answer shows it; [`GroupKey::parse`] reads it again.
    pub fn name(&self) -> String {
        match self {
            GroupKey::Subject => "subject".to_string(),
            GroupKey::Source => "source".to_string(),
            GroupKey::Dimension(name) if GroupKey::parse(name) == *self => name.to_string(),
            GroupKey::Dimension(name) => format!("dimension.{name}"),
        }
    }
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryStatus {
    /// The meter is not in the catalog.
    MeterMustExist,
    /// A level goes on from what was before the span, which a query does not read.
    MeterMustNotBeLevel,
    /// The account is not in the catalog.
    AccountMustExist,
    /// The subscription is not in the catalog.
    SubscriptionMustExist,
    /// The span ends before it starts, or has too many windows.
    Window(WindowStatus),
    /// Too many dimensions to group by.
    GroupByMustFit,
    /// A dimension is named twice.
    GroupByMustDiffer,
    /// Too many subjects.
    SubjectsMustFit,
    /// Too many texts in the filters.
    FiltersMustFit,
    /// The answer has too many rows, groups or bytes of texts.
    RowsMustFit,
    /// A sum is beyond what a quantity can be.
    ValueMustFit,
}

impl QueryStatus {
    /// Its name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            QueryStatus::MeterMustExist => "meter_must_exist",
            QueryStatus::MeterMustNotBeLevel => "meter_must_not_be_level",
            QueryStatus::AccountMustExist => "account_must_exist",
            QueryStatus::SubscriptionMustExist => "subscription_must_exist",
            QueryStatus::Window(WindowStatus::WindowMustBeKnown) => "window_must_be_known",
            QueryStatus::Window(WindowStatus::SpanMustNotBeEmpty) => "span_must_not_be_empty",
            QueryStatus::Window(WindowStatus::WindowsMustFit) => "windows_must_fit",
            QueryStatus::GroupByMustFit => "group_by_must_fit",
            QueryStatus::GroupByMustDiffer => "group_by_must_differ",
            QueryStatus::SubjectsMustFit => "subjects_must_fit",
            QueryStatus::FiltersMustFit => "filters_must_fit",
            QueryStatus::RowsMustFit => "rows_must_fit",
            QueryStatus::ValueMustFit => "value_must_fit",
        }
    }
}

impl fmt::Display for QueryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryStatus::MeterMustExist => f.write_str("there is no such meter"),
            QueryStatus::MeterMustNotBeLevel => f.write_str(
                "a weighted sum goes on from what was before the span; ask what was charged for it",
            ),
            QueryStatus::AccountMustExist => f.write_str("there is no such account"),
            QueryStatus::SubscriptionMustExist => f.write_str("there is no such subscription"),
            QueryStatus::Window(WindowStatus::WindowsMustFit) => {
                write!(
                    f,
                    "a query has at most {QUERY_WINDOWS_MAX} windows; make the span shorter or them longer"
                )
            }
            QueryStatus::Window(status) => status.fmt(f),
            QueryStatus::GroupByMustFit => {
                write!(f, "usage is grouped by at most {METER_GROUP_BY_MAX} dimensions")
            }
            QueryStatus::GroupByMustDiffer => f.write_str("a dimension is grouped by once"),
            QueryStatus::SubjectsMustFit => write!(f, "a query names at most {QUERY_SUBJECTS_MAX} subjects"),
            QueryStatus::FiltersMustFit => {
                write!(f, "the filters of a query name at most {QUERY_FILTER_TEXTS_MAX} texts")
            }
            QueryStatus::RowsMustFit => write!(
                f,
                "an answer has at most {QUERY_ROWS_MAX} rows and {} MiB of texts; group by less, or ask for a shorter \
                 span or longer windows",
                QUERY_TEXT_BYTES_MAX >> 20
            ),
            QueryStatus::ValueMustFit => f.write_str("a sum is beyond 38 digits"),
        }
    }
}

impl std::error::Error for QueryStatus {}

impl From<WindowStatus> for QueryStatus {
    fn from(status: WindowStatus) -> Self {
        QueryStatus::Window(status)
    }
}

/// What is asked, as it was written.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which meter.
    pub meter: MeterId,
    /// Whose usage.
    pub scope: UsageScope,
    /// Times of the events.
    pub span: Span,
    /// Windows; the whole span is one if there is no unit.
    pub window: Option<WindowUnit>,
    /// Zone of the windows.
    pub zone: Zone,
    /// What splits an answer into groups.
    pub group_by: Vec<GroupKey>,
    /// Every named dimension must have one of its texts.
    pub filter: BTreeMap<String, BTreeSet<String>>,
    /// Whether windows without usage have rows, for every group that has usage anywhere.
    pub shows_empty: bool,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    pub(super) question: Question,
    pub(super) grid: WindowGrid,
}

impl UsageQuery {
    /// Checks a question.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn new(question: Question) -> Result<Self, QueryStatus> {
        let group_by = &question.group_by;
        if group_by.len() > METER_GROUP_BY_MAX {
            return Err(QueryStatus::GroupByMustFit);
        }
        if group_by.iter().collect::<BTreeSet<_>>().len() != group_by.len() {
            return Err(QueryStatus::GroupByMustDiffer);
        }
        if matches!(&question.scope, UsageScope::Subjects(subjects) if subjects.len() > QUERY_SUBJECTS_MAX) {
            return Err(QueryStatus::SubjectsMustFit);
        }
        if question.filter.values().map(BTreeSet::len).sum::<usize>() > QUERY_FILTER_TEXTS_MAX {
            return Err(QueryStatus::FiltersMustFit);
        }
        let grid = match question.window {
            Some(unit) => WindowGrid::new(&question.zone, unit, question.span, QUERY_WINDOWS_MAX)?,
            None => WindowGrid::of_one(question.span)?,
        };
        Ok(Self { question, grid })
    }

    /// What is asked.
    pub fn question(&self) -> &Question {
        &self.question
    }
}
