//! The story: who sells what to whom, and which events happen when, trouble included.
//!
//! Owns: the catalog text, the trace, which account an event belongs to, and what is expected of all of it.
//! Leaves to others: sending (`stream`), proving (`proofs`).
//!
//! Invariants: everything is derived from the trace and constants; two runs send the same events.

use domain::time::{DAY, SECOND};
use domain::{Timestamp, Zone};

use crate::agreements;

/// Days of the first quarter of 2026.
pub(crate) const DAYS: usize = 90;
/// Source of all events.
pub(crate) const SOURCE: &str = "llm-gateway";
/// Type of all events.
pub(crate) const EVENT_TYPE: &str = "llm.request";
/// Every so many events, one is sent twice.
pub(crate) const RESENT_EVERY: usize = 10;
/// Events of 30 January that arrive on 3 and on 12 February.
pub(crate) const LATE: [usize; 2] = [200, 40];
/// Events with a known id and other tokens.
pub(crate) const CONFLICTS: usize = 25;
/// Events with negative tokens.
pub(crate) const NEGATIVES: usize = 12;
/// Events of subjects that nobody knows; the first two are bound later.
pub(crate) const UNKNOWN: usize = 7;
/// Of those, bound later.
pub(crate) const BOUND_LATER: usize = 2;
/// Events dated 2027.
pub(crate) const FUTURE: usize = 3;
/// Tokens of each event that is not from the trace: input and output.
pub(crate) const EXTRA_TOKENS: [i64; 2] = [1_000, 100];

/// The accounts in order of their share: name, and whether the American company sells to it.
const ACCOUNTS: [(&str, bool); 24] = [
    ("Northwind Robotics", true),
    ("Alpenglow Systeme", false),
    ("Harbor Analytics", true),
    ("Cedar Health", true),
    ("Rheinwerk Logistik", false),
    ("Bluestem Bank", true),
    ("Copperline Media", true),
    ("Nordlicht Energie", false),
    ("Juniper Retail", true),
    ("Tidewater Legal", true),
    ("Falkenstein Auto", false),
    ("Granite Insurance", true),
    ("Mesa Learning", true),
    ("Hanse Kontor", false),
    ("Osprey Travel", true),
    ("Prairie Foods", true),
    ("Isar Biotech", false),
    ("Quarry Games", true),
    ("Redwood Telecom", true),
    ("Spree Digital", false),
    ("Summit Outdoor", true),
    ("Taunus Pharma", false),
    ("Willow Housing", true),
    ("Zugspitze Druck", false),
];

/// An account of the story.
pub(crate) struct StoryAccount {
    pub(crate) id: String,
    pub(crate) name: &'static str,
    pub(crate) is_american: bool,
    pub(crate) subject: String,
}

/// One request of the trace.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// Time since the first request, in nanoseconds, stretched from an hour to a day.
    pub(crate) offset: i64,
    pub(crate) is_chat: bool,
    pub(crate) input: i64,
    pub(crate) output: i64,
}

/// The story.
pub(crate) struct Story {
    pub(crate) accounts: Vec<StoryAccount>,
    pub(crate) requests: Vec<Request>,
    /// Zipf: cumulative shares of the accounts, in parts of 2^32.
    shares: Vec<u64>,
    pub(crate) new_york: Zone,
    pub(crate) berlin: Zone,
    /// The first request of 31 January of each seller.
    pub(crate) boundary_rows: Vec<usize>,
}

/// The trace as it was published.
pub(crate) const CSV: [(&str, &str); 2] =
    [("conv.csv", include_str!("trace/conv.csv")), ("code.csv", include_str!("trace/code.csv"))];

impl Story {
    /// The story, from the embedded trace.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let accounts: Vec<StoryAccount> = ACCOUNTS
            .iter()
            .map(|(name, is_american)| {
                let id = name.to_lowercase().replace(' ', "-");
                StoryAccount { subject: format!("key-{id}"), id, name, is_american: *is_american }
            })
            .collect();
        // Zipf 1.0 in integers: rank k has a share of 1/k.
        let weights: Vec<u64> = (1..=accounts.len() as u64).map(|rank| 720_720_000 / rank).collect();
        let total: u64 = weights.iter().sum();
        let mut below = 0;
        let shares = weights
            .iter()
            .map(|weight| {
                below += weight;
                below * (1 << 32) / total
            })
            .collect();
        let requests = read_trace()?;
        let (new_york, berlin) = (Zone::new("America/New_York")?, Zone::new("Europe/Berlin")?);
        let mut story = Self { accounts, requests, shares, new_york, berlin, boundary_rows: Vec::new() };
        for is_american in [true, false] {
            let mut rows = 0..story.requests.len();
            let row = rows.find(|row| story.accounts[story.account_of(30, *row)].is_american == is_american);
            story.boundary_rows.extend(row);
        }
        Ok(story)
    }

    /// The account that a request of a day belongs to.
    pub(crate) fn account_of(&self, day: usize, row: usize) -> usize {
        let mut mixed = (day as u64) << 32 | row as u64;
        mixed = (mixed ^ mixed >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x81da_def4_bc2d_d44d);
        let point = (mixed ^ mixed >> 33) & 0xffff_ffff;
        self.shares.partition_point(|share| *share <= point).min(self.accounts.len() - 1)
    }

    /// Midnight of a day of the quarter in the seller's zone.
    pub(crate) fn midnight(&self, day: usize, is_american: bool) -> Timestamp {
        let noon = quarter_start().plus(day as i64 * DAY + DAY / 2);
        if is_american { self.new_york.start_of_day(noon) } else { self.berlin.start_of_day(noon) }
    }

    /// The scenario's present while a day's events arrive: the next morning.
    pub(crate) fn morning_after(day: usize) -> Timestamp {
        quarter_start().plus((day as i64 + 1) * DAY + 6 * 3_600 * SECOND)
    }

    /// The catalog file.
    pub(crate) fn catalog(&self) -> String {
        let mut text = String::from(CATALOG_HEAD);
        for account in &self.accounts {
            let (entity, currency, zone, plan) = if account.is_american {
                ("lumen-inc", "USD", "America/New_York", "llm-usd")
            } else {
                ("lumen-gmbh", "EUR", "Europe/Berlin", "llm-eur")
            };
            let StoryAccount { id, name, subject, .. } = account;
            text.push_str(&format!(
                "\n[[account]]\nid = \"{id}\"\nname = \"{name}\"\nentity = \"{entity}\"\ncurrency = \"{currency}\"\ntime_zone = \"{zone}\"\n\
                 \n[[subscription]]\nid = \"{id}\"\naccount = \"{id}\"\nplan = \"{plan}\"\nfrom = \"2025-12-31T23:00:00Z\"\n\
                 \n[[subject]]\nid = \"{subject}\"\nsubscription = \"{id}\"\nfrom = \"2025-12-31T23:00:00Z\"\n"
            ).replace(
                // The American year starts five hours after UTC's.
                if account.is_american { "2025-12-31T23:00:00Z" } else { "\u{0}" },
                "2026-01-01T05:00:00Z",
            ));
        }
        text.push_str(agreements::CATALOG);
        text
    }
}

/// 1 January 2026 in UTC.
pub(crate) fn quarter_start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").expect("a constant instant")
}

fn read_trace() -> anyhow::Result<Vec<Request>> {
    let mut requests = Vec::new();
    for (name, text) in CSV {
        for line in text.lines().skip(1) {
            let mut fields = line.trim().split(',');
            let mut next = || fields.next().ok_or_else(|| anyhow::anyhow!("{name}: a line is too short"));
            let (time, input, output) = (next()?, next()?, next()?);
            let time = Timestamp::parse(&format!("{}Z", time.replace(' ', "T")))?;
            requests.push(Request {
                offset: time.nanoseconds(),
                is_chat: name == "conv.csv",
                input: input.parse()?,
                output: output.parse()?,
            });
        }
    }
    requests.sort_by_key(|request| request.offset);
    let first = requests.first().map_or(0, |request| request.offset);
    for request in &mut requests {
        request.offset = (request.offset - first) * 24;
    }
    anyhow::ensure!(
        requests.last().is_none_or(|last| last.offset < DAY),
        "the trace is shorter than an hour"
    );
    Ok(requests)
}

const CATALOG_HEAD: &str = r#"# Lumen AI sells language models by the token, from two companies.
catalog = 1

[[entity]]
id = "lumen-inc"
currency = "USD"
time_zone = "America/New_York"

[[entity]]
id = "lumen-gmbh"
currency = "EUR"
time_zone = "Europe/Berlin"

[[meter]]
id = "chat-input"
event_type = "llm.request"
aggregation = "sum"
value = "input_tokens"
group_by = ["model"]
filter = { model = "chat" }

[[meter]]
id = "chat-output"
event_type = "llm.request"
aggregation = "sum"
value = "output_tokens"
group_by = ["model"]
filter = { model = "chat" }

[[meter]]
id = "code-input"
event_type = "llm.request"
aggregation = "sum"
value = "input_tokens"
group_by = ["model"]
filter = { model = "code" }

[[meter]]
id = "code-output"
event_type = "llm.request"
aggregation = "sum"
value = "output_tokens"
group_by = ["model"]
filter = { model = "code" }

[[plan]]
id = "llm-usd"
currency = "USD"

[[plan]]
id = "llm-eur"
currency = "EUR"

[[price]]
id = "usd-chat-input"
plan = "llm-usd"
meter = "chat-input"
model = "graduated"
per = 1000
window = "month"
tiers = [
    { up_to = "25000000", unit_amount = "0.030" },
    { up_to = "100000000", unit_amount = "0.024" },
    { unit_amount = "0.018" },
]

[[price]]
id = "usd-chat-output"
plan = "llm-usd"
meter = "chat-output"
model = "per_unit"
unit_amount = "0.060"
per = 1000
window = "month"

[[price]]
id = "usd-code-input"
plan = "llm-usd"
meter = "code-input"
model = "per_unit"
unit_amount = "0.010"
per = 1000
window = "month"

[[price]]
id = "usd-code-output"
plan = "llm-usd"
meter = "code-output"
model = "per_unit"
unit_amount = "0.030"
per = 1000
window = "month"

[[price]]
id = "usd-platform"
plan = "llm-usd"
model = "flat"
unit_amount = "499"
window = "month"

[[price]]
id = "eur-chat-input"
plan = "llm-eur"
meter = "chat-input"
model = "graduated"
per = 1000
window = "month"
tiers = [
    { up_to = "25000000", unit_amount = "0.028" },
    { up_to = "100000000", unit_amount = "0.022" },
    { unit_amount = "0.017" },
]

[[price]]
id = "eur-chat-output"
plan = "llm-eur"
meter = "chat-output"
model = "per_unit"
unit_amount = "0.055"
per = 1000
window = "month"

[[price]]
id = "eur-code-input"
plan = "llm-eur"
meter = "code-input"
model = "per_unit"
unit_amount = "0.009"
per = 1000
window = "month"

[[price]]
id = "eur-code-output"
plan = "llm-eur"
meter = "code-output"
model = "per_unit"
unit_amount = "0.028"
per = 1000
window = "month"

[[price]]
id = "eur-platform"
plan = "llm-eur"
model = "flat"
unit_amount = "449"
window = "month"
"#;
