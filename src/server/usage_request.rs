//! Usage queries as they are written: names and texts, from a URL or a command line.
//!
//! Owns: the names, what each text means, what is left out. Leaves to others: what may be asked
//! (`machine::usage_query`), HTTP (`edge::usage`), arguments (`commands::usage`).
//!
//! Invariants: a name that is not known is refused, and so is one that is given twice and means one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use domain::time::WindowUnit;
use domain::{AccountId, MeterId, Span, Subject, SubscriptionId, Timestamp, Zone};
use machine::usage_query::{GroupKey, QueryStatus, Question, UsageQuery, UsageScope};

/// A usage query as it was asked.
#[derive(Clone, Debug)]
pub struct UsageRequest {
    /// The query.
    pub query: UsageQuery,
    /// The state of knowledge that is asked for; the present one if it is left out.
    pub as_of: Option<AsOfText>,
    /// How the answer is to be written, if it is said.
    pub format: Option<UsageFormat>,
}

/// A state of knowledge, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOfText {
    /// Records of the usage log before this offset.
    Offset(u64),
    /// Records that were stamped by this instant.
    Instant(Timestamp),
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageFormat {
    /// One object.
    Json,
    /// One line for each row, and one of names.
    Csv,
}

/// Why a request is no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// There is no parameter of this name.
    ParameterMustBeKnown(String),
    /// The parameter is given more than once.
    ParameterMustBeSingle(String),
    /// The text of a parameter is not what it must be.
    ParameterMustBeReadable(String, String),
    /// Subjects, a subscription and an account are asked for together.
    ScopeMustBeOne,
    /// The query breaks a rule.
    Query(QueryStatus),
}

impl RequestStatus {
    /// Its name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            RequestStatus::ParameterMustBeKnown(_) => "parameter_must_be_known",
            RequestStatus::ParameterMustBeSingle(_) => "parameter_must_be_single",
            RequestStatus::ParameterMustBeReadable(..) => "parameter_must_be_readable",
            RequestStatus::ScopeMustBeOne => "scope_must_be_one",
            RequestStatus::Query(status) => status.name(),
        }
    }
}

impl fmt::Display for RequestStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestStatus::ParameterMustBeKnown(name) => write!(f, "there is no parameter {name:?}"),
            RequestStatus::ParameterMustBeSingle(name) => write!(f, "{name} is given once"),
            RequestStatus::ParameterMustBeReadable(name, why) => write!(f, "{name}: {why}"),
            RequestStatus::ScopeMustBeOne => f.write_str(
                "ask for subjects, for a subscription or for an account, not for several of these",
            ),
            RequestStatus::Query(status) => status.fmt(f),
        }
    }
}

impl std::error::Error for RequestStatus {}

impl UsageRequest {
    /// Reads the parameters of a query of a meter.
    ///
    /// # Errors
    /// [`RequestStatus`].
    pub fn parse(meter: &str, parameters: &[(String, String)]) -> Result<Self, RequestStatus> {
        let meter = MeterId::new(meter).map_err(|_| RequestStatus::Query(QueryStatus::MeterMustExist))?;
        let parameters = Parameters::of(parameters)?;
        let zone = parameters.read("tz", Zone::new)?.unwrap_or_else(Zone::utc);
        let bound =
            |text: &str| Timestamp::parse(text).or_else(|status| zone.parse_day(text).map_err(|_| status));
        let from = parameters.read("from", bound)?.unwrap_or(Timestamp::MIN);
        let until = parameters.read("to", bound)?.unwrap_or(Timestamp::END);
        let question = Question {
            meter,
            scope: parameters.scope()?,
            span: Span::new(from, until),
            window: parameters.read("window", WindowUnit::parse)?,
            group_by: parameters.group_by.iter().map(|name| GroupKey::parse(name)).collect(),
            filter: parameters.filter.clone(),
            shows_empty: parameters.read("empty", empty_of)?.unwrap_or(false),
            zone,
        };
        let as_of = parameters.read("as_of", as_of_of)?;
        let format = parameters.read("format", format_of)?;
        Ok(Self { query: UsageQuery::new(question).map_err(RequestStatus::Query)?, as_of, format })
    }
}

fn empty_of(text: &str) -> Result<bool, &'static str> {
    match text {
        "show" => Ok(true),
        "hide" => Ok(false),
        _ => Err("show or hide"),
    }
}

fn format_of(text: &str) -> Result<UsageFormat, &'static str> {
    match text {
        "json" => Ok(UsageFormat::Json),
        "csv" => Ok(UsageFormat::Csv),
        _ => Err("json or csv"),
    }
}

/// The state of knowledge that a text asks for.
///
/// # Errors
/// What it must be.
pub fn as_of_of(text: &str) -> Result<AsOfText, &'static str> {
    let refused = "an offset of the usage log, or an instant such as 2026-02-01T00:00:00Z";
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(AsOfText::Offset).map_err(|_| refused);
    }
    Timestamp::parse(text).map(AsOfText::Instant).map_err(|_| refused)
}

/// Names that mean one thing.
const SINGLE: [&str; 9] =
    ["subscription", "account", "from", "to", "window", "tz", "empty", "as_of", "format"];

/// Texts by name.
#[derive(Default)]
struct Parameters<'a> {
    single: BTreeMap<&'a str, &'a str>,
    subjects: Vec<&'a str>,
    group_by: Vec<&'a str>,
    filter: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Parameters<'a> {
    fn of(parameters: &'a [(String, String)]) -> Result<Self, RequestStatus> {
        let mut read = Self::default();
        for (name, text) in parameters {
            match name.as_str() {
                "subject" => read.subjects.push(text),
                // A name that has commas is written with the prefix.
                "group_by" if text.starts_with("dimension.") => read.group_by.push(text),
                "group_by" => read.group_by.extend(text.split(',').filter(|name| !name.is_empty())),
                name if SINGLE.contains(&name) => {
                    if read.single.insert(name, text).is_some() {
                        return Err(RequestStatus::ParameterMustBeSingle(name.to_string()));
                    }
                }
                name => match name.strip_prefix("filter.") {
                    Some(dimension) => {
                        read.filter.entry(dimension.to_string()).or_default().insert(text.clone());
                    }
                    None => return Err(RequestStatus::ParameterMustBeKnown(name.to_string())),
                },
            }
        }
        Ok(read)
    }

    /// What a text means, if it is given.
    fn read<T, E: fmt::Display>(
        &self,
        name: &str,
        meaning: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, RequestStatus> {
        let unreadable = |why: E| RequestStatus::ParameterMustBeReadable(name.to_string(), why.to_string());
        self.single.get(name).map(|text| meaning(text).map_err(unreadable)).transpose()
    }

    fn scope(&self) -> Result<UsageScope, RequestStatus> {
        // An id that cannot be one does not exist.
        let subscription = self.single.get("subscription").map(|text| {
            SubscriptionId::new(text).map_err(|_| RequestStatus::Query(QueryStatus::SubscriptionMustExist))
        });
        let account = self.single.get("account").map(|text| {
            AccountId::new(text).map_err(|_| RequestStatus::Query(QueryStatus::AccountMustExist))
        });
        match (self.subjects.as_slice(), subscription, account) {
            ([], None, None) => Ok(UsageScope::All),
            ([], Some(subscription), None) => Ok(UsageScope::Subscription(subscription?)),
            ([], None, Some(account)) => Ok(UsageScope::Account(account?)),
            (subjects, None, None) => {
                let subject = |text: &&str| {
                    let why = "a subject is 1 to 256 bytes".to_string();
                    Subject::new(text)
                        .map_err(|_| RequestStatus::ParameterMustBeReadable("subject".to_string(), why))
                };
                Ok(UsageScope::Subjects(subjects.iter().map(subject).collect::<Result<_, _>>()?))
            }
            _ => Err(RequestStatus::ScopeMustBeOne),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<UsageRequest, RequestStatus> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<(String, String)> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, text)| (name.to_string(), text.to_string()))
            .collect();
        UsageRequest::parse("calls", &pairs)
    }

    #[test]
    fn every_mistake_has_the_name_of_its_rule() {
        for (query, name) in [
            ("subjects=a", "parameter_must_be_known"),
            ("filter=a", "parameter_must_be_known"),
            ("from=2026-01-01&from=2026-01-01", "parameter_must_be_single"),
            ("from=yesterday", "parameter_must_be_readable"),
            ("from=1999-01-01", "parameter_must_be_readable"),
            ("to=2026-01-01T00:00:00", "parameter_must_be_readable"),
            ("tz=Mars/Olympus", "parameter_must_be_readable"),
            ("tz=", "parameter_must_be_readable"),
            ("window=fortnight", "parameter_must_be_readable"),
            ("empty=yes", "parameter_must_be_readable"),
            ("format=xml", "parameter_must_be_readable"),
            ("as_of=99999999999999999999", "parameter_must_be_readable"),
            ("as_of=-1", "parameter_must_be_readable"),
            ("as_of=", "parameter_must_be_readable"),
            ("subject=", "parameter_must_be_readable"),
            ("subject=a&account=acme", "scope_must_be_one"),
            ("subscription=s&account=acme", "scope_must_be_one"),
            ("account=%", "account_must_exist"),
            ("from=2026-01-02&to=2026-01-02", "span_must_not_be_empty"),
            ("from=2026-01-02&to=2026-01-01", "span_must_not_be_empty"),
            ("window=minute", "windows_must_fit"),
            ("group_by=a,b,c,d,e,f,g,h,i", "group_by_must_fit"),
            ("group_by=a&group_by=a", "group_by_must_differ"),
            ("group_by=a,dimension.a", "group_by_must_differ"),
            ("group_by=dimension.a,b&group_by=dimension.a,b", "group_by_must_differ"),
        ] {
            assert_eq!(parse(query).map(|_| ()).map_err(|status| status.name()), Err(name), "{query}");
        }
        let subjects: String = (0..1_001).map(|number| format!("subject={number}&")).collect();
        assert_eq!(parse(&subjects).map(|_| ()).map_err(|status| status.name()), Err("subjects_must_fit"));
        let texts: String = (0..1_001).map(|number| format!("filter.a={number}&")).collect();
        assert_eq!(parse(&texts).map(|_| ()).map_err(|status| status.name()), Err("filters_must_fit"));
    }

    #[test]
    fn what_is_left_out_has_a_default_and_days_are_those_of_the_zone() {
        let nothing = parse("").unwrap();
        let question = nothing.query.question();
        assert_eq!(question.span, Span::new(Timestamp::MIN, Timestamp::END));
        assert_eq!((question.zone.name(), question.window, &question.scope), ("UTC", None, &UsageScope::All));
        assert_eq!((nothing.as_of, nothing.format), (None, None));
        let asked = parse(
            "subject=a&subject=b&from=2026-03-29&to=2026-03-29T12:00:00.000000001Z&tz=Europe/Berlin&window=hour&\
             group_by=region,subject&group_by=dimension.subject&filter.region=eu&filter.region=us&filter.x.y=&\
             as_of=4096&format=csv&empty=show",
        )
        .unwrap();
        let question = asked.query.question();
        let text = format!("{:?}", question.span);
        assert_eq!(text, "Span { from: 2026-03-28T23:00:00Z, until: 2026-03-29T12:00:00.000000001Z }");
        let names: Vec<String> = question.group_by.iter().map(GroupKey::name).collect();
        assert_eq!(names, ["region", "subject", "dimension.subject"]);
        assert_eq!((asked.as_of, asked.format), (Some(AsOfText::Offset(4_096)), Some(UsageFormat::Csv)));
        assert_eq!(question.filter["region"].len(), 2);
        assert_eq!(question.filter["x.y"].len(), 1);
        assert!(question.shows_empty);
        let as_of = parse("as_of=2026-01-01T00:00:00Z").unwrap().as_of;
        assert_eq!(as_of, Some(AsOfText::Instant(Timestamp::parse("2026-01-01T00:00:00Z").unwrap())));
    }
}
