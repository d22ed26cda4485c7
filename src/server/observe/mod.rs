//! What a running server says of itself: counters, the ack latency histogram, the metrics page.
//!
//! Owns: the registry of numbers and their names. Leaves to others: counting.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::shard::SourceCounters;
use hdrhistogram::Histogram;
use wire::verdict::QuarantineReason;

use crate::shards::ShardSnapshot;

/// Sources that the metrics page lists; the others are summed.
pub const SOURCES_LISTED_MAX: usize = 1_000;
/// What the others are called, and a source that has this name.
const OTHER_SOURCES: &str = "other";

/// Numbers of a running server.
pub struct Metrics {
    /// Batches taken from producers into the queue of the log writer.
    pub batches_queued: AtomicU64,
    /// Batches that left that queue: the difference is its length.
    pub batches_durable: AtomicU64,
    /// Connections accepted since start.
    pub connections_opened: AtomicU64,
    /// Connections ended since start.
    pub connections_closed: AtomicU64,
    /// Handshakes whose address had to show itself, since start.
    pub handshakes_retried: AtomicU64,
    /// Handshakes refused for want of room since start.
    pub handshakes_refused: AtomicU64,
    /// Frames refused since start.
    pub frames_refused: AtomicU64,
    /// HTTP connections taken since start.
    pub http_connections_opened: AtomicU64,
    /// HTTP connections ended since start.
    pub http_connections_closed: AtomicU64,
    /// HTTP connections refused for want of room since start.
    pub http_connections_refused: AtomicU64,
    /// Events refused over HTTP before they reached the log, since start.
    pub http_events_refused: AtomicU64,
    /// Last sealed charge batch.
    pub batches: AtomicU64,
    /// Charge lines sealed since start.
    pub charge_lines: AtomicU64,
    /// Journals sealed since start.
    pub journals: AtomicU64,
    /// Cuts since start.
    pub cuts: AtomicU64,
    /// Duration of all cuts since start, in microseconds.
    pub cut_microseconds: AtomicU64,
    /// Times for which a shard was held by a step of a snapshot.
    pub snapshot_steps: Durations,
    acks: Mutex<Histogram<u64>>,
    /// Sources that were listed: they are for as long as the server runs, so that no sum falls.
    sources_listed: Mutex<BTreeSet<Arc<str>>>,
}

/// Durations in buckets, as a histogram of the metrics page.
#[derive(Default)]
pub struct Durations {
    /// As many as were at most as long as the bound, and longer than the one before; the last has no bound.
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// Bounds of the buckets of durations, in microseconds, and as the page writes them in seconds.
const DURATION_BOUNDS: [(u64, &str); 8] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (25_000, "0.025"),
    (100_000, "0.1"),
];

impl Durations {
    /// Counts one.
    pub fn record(&self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS.partition_point(|(bound, _)| *bound < microseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            batches_queued: AtomicU64::new(0),
            batches_durable: AtomicU64::new(0),
            connections_opened: AtomicU64::new(0),
            connections_closed: AtomicU64::new(0),
            handshakes_retried: AtomicU64::new(0),
            handshakes_refused: AtomicU64::new(0),
            frames_refused: AtomicU64::new(0),
            http_connections_opened: AtomicU64::new(0),
            http_connections_closed: AtomicU64::new(0),
            http_connections_refused: AtomicU64::new(0),
            http_events_refused: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            charge_lines: AtomicU64::new(0),
            journals: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            cut_microseconds: AtomicU64::new(0),
            snapshot_steps: Durations::default(),
            acks: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are constants")),
            sources_listed: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a durable batch and the time from its last byte to its durability.
    pub fn record_ack(&self, latency: Duration) {
        self.batches_durable.fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.acks
            .lock()
            .expect("nothing panics while it holds the histogram")
            .saturating_record(microseconds);
    }

    /// Counts a cut.
    pub fn record_cut(&self, duration: Duration) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.cut_microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Counters as the page lists them, in order of the sources. Of too many sources the ones with the most events are listed
    /// when there are, and from then on.
    fn listed<'c>(
        &self,
        all: &'c BTreeMap<Arc<str>, SourceCounters>,
    ) -> BTreeMap<&'c str, Cow<'c, SourceCounters>> {
        let mut listed = self.sources_listed.lock().expect("nothing panics while it holds the sources");
        let mut new: Vec<_> = all
            .iter()
            .filter(|(source, _)| !listed.contains(*source) && &***source != OTHER_SOURCES)
            .collect();
        let room = SOURCES_LISTED_MAX - listed.len();
        if new.len() > room {
            new.sort_by_key(|(_, counters)| std::cmp::Reverse(counters.received()));
            new.truncate(room);
        }
        listed.extend(new.into_iter().map(|(source, _)| source.clone()));
        let mut page: BTreeMap<&str, Cow<'_, SourceCounters>> = BTreeMap::new();
        for (source, counters) in all {
            let name = if listed.contains(source) { source } else { OTHER_SOURCES };
            page.entry(name)
                .and_modify(|sum| sum.to_mut().merge(counters))
                .or_insert(Cow::Borrowed(counters));
        }
        page
    }

    /// A percentile of the time from a batch's last byte to its durability, in microseconds.
    pub fn ack_microseconds(&self, percentile: f64) -> u64 {
        self.acks.lock().expect("nothing panics while it holds the histogram").value_at_percentile(percentile)
    }
}

/// What the metrics page needs besides [`Metrics`].
pub struct MetricsInput {
    /// What became of events.
    pub shards: ShardSnapshot,
    /// Sources that are counted, and how many there may be.
    pub sources: (usize, usize),
    /// Bytes written to the usage log since start.
    pub log_bytes: u64,
    /// Commits of the usage log since start.
    pub log_commits: u64,
    /// Offset behind the last durable record of the usage log.
    pub log_end: u64,
    /// Usage offset of the last whole snapshot.
    pub snapshot_offset: u64,
    /// Unacknowledged amounts: currency, text, age of the oldest batch in seconds.
    pub unbilled: Vec<(String, String)>,
    /// Seconds since the oldest unacknowledged batch was cut.
    pub unbilled_age_seconds: i64,
    /// Cells, issued lines.
    pub sizes: (usize, usize),
    /// Charges that could not be computed at the last cut.
    pub rating_failures: usize,
    /// Bytes of batches over QUIC that are not answered yet.
    pub unanswered_bytes: usize,
    /// Ids before this usage offset are forgotten, and how often they were because there were too many.
    pub forgotten: (u64, u64),
    /// Ids that are remembered at most.
    pub ids_max: u64,
    /// Single events that sequence meters keep in memory and could spill, and those that were spilled.
    pub items: [usize; 2],
    /// Segments of usage in the archive, their bytes, and failures on the way there since start.
    pub archived: [u64; 3],
}

/// The metrics page in the Prometheus text format.
pub fn render(metrics: &Metrics, input: &MetricsInput) -> String {
    let mut page = Page(String::new());
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let sources = metrics.listed(&input.shards.counters);
    page.family("tallymark_events_total", "counter", "Events by source and what became of them.");
    for (source, c) in &sources {
        let plain = [
            ("metered", c.metered),
            ("unmetered", c.unmetered),
            ("pending", c.pending),
            ("duplicate", c.duplicate),
            ("duplicate_restamped", c.duplicate_restamped),
            ("conflict", c.conflict),
            ("rejected", c.rejected),
            ("voided", c.voided),
        ];
        for (verdict, count) in plain {
            page.sample(
                "tallymark_events_total",
                &[("source", source), ("verdict", verdict)],
                &count.to_string(),
            );
        }
        for reason in QuarantineReason::ALL {
            let labels = [("source", *source), ("verdict", "quarantined"), ("reason", reason.as_str())];
            page.sample("tallymark_events_total", &labels, &c.quarantined[reason.ordinal()].to_string());
        }
    }
    page.family("tallymark_events_received_total", "counter", "Events that reached the log, by source.");
    for (source, c) in &sources {
        page.sample("tallymark_events_received_total", &[("source", source)], &c.received().to_string());
    }
    page.family("tallymark_ack_seconds", "summary", "From a batch's last byte to its durability.");
    for (quantile, percentile) in [("0.5", 50.0), ("0.99", 99.0), ("0.999", 99.9)] {
        let seconds = metrics.ack_microseconds(percentile) as f64 / 1e6;
        page.sample("tallymark_ack_seconds", &[("quantile", quantile)], &seconds.to_string());
    }
    page.sample("tallymark_ack_seconds_count", &[], &load(&metrics.batches_durable).to_string());
    page.durations(
        "tallymark_snapshot_step_seconds",
        "Times for which a shard was held by a step of a snapshot.",
        &metrics.snapshot_steps,
    );
    let counters = [
        (
            "tallymark_ingest_queued_total",
            "Batches that entered the queue of the log writer.",
            load(&metrics.batches_queued),
        ),
        ("tallymark_ingest_durable_total", "Batches that left it durable.", load(&metrics.batches_durable)),
        (
            "tallymark_connections_opened_total",
            "QUIC connections accepted.",
            load(&metrics.connections_opened),
        ),
        ("tallymark_connections_closed_total", "QUIC connections ended.", load(&metrics.connections_closed)),
        (
            "tallymark_handshakes_retried_total",
            "QUIC handshakes whose address had to show itself first.",
            load(&metrics.handshakes_retried),
        ),
        (
            "tallymark_handshakes_refused_total",
            "QUIC handshakes refused because there were too many.",
            load(&metrics.handshakes_refused),
        ),
        ("tallymark_frames_refused_total", "Frames that broke a rule.", load(&metrics.frames_refused)),
        (
            "tallymark_http_connections_opened_total",
            "HTTP connections taken.",
            load(&metrics.http_connections_opened),
        ),
        (
            "tallymark_http_connections_closed_total",
            "HTTP connections ended.",
            load(&metrics.http_connections_closed),
        ),
        (
            "tallymark_http_connections_refused_total",
            "HTTP connections refused because there were too many.",
            load(&metrics.http_connections_refused),
        ),
        (
            "tallymark_http_events_refused_total",
            "Events refused over HTTP before they reached the log.",
            load(&metrics.http_events_refused),
        ),
        ("tallymark_log_bytes_total", "Bytes written to the usage log.", input.log_bytes),
        ("tallymark_log_commits_total", "Group commits of the usage log.", input.log_commits),
        ("tallymark_cuts_total", "Issuing cuts.", load(&metrics.cuts)),
        ("tallymark_cut_microseconds_total", "Time spent in cuts.", load(&metrics.cut_microseconds)),
        ("tallymark_charge_lines_total", "Charge lines sealed.", load(&metrics.charge_lines)),
        ("tallymark_journals_total", "Journals sealed.", load(&metrics.journals)),
        (
            "tallymark_ids_max_exceeded_total",
            "Times that ids were forgotten before their days were over, because there were too many.",
            input.forgotten.1,
        ),
        (
            "tallymark_archive_failures_total",
            "Times that usage could not go to the archive, and is tried again.",
            input.archived[2],
        ),
    ];
    for (name, help, count) in counters {
        page.family(name, "counter", help);
        page.sample(name, &[], &count.to_string());
    }
    let gauges = [
        ("tallymark_sources", "Sources that are counted.", input.sources.0 as u64),
        ("tallymark_sources_max", "Sources that there may be.", input.sources.1 as u64),
        ("tallymark_events_remembered", "Events in the dedup index.", input.shards.remembered),
        ("tallymark_ids", "Ids in the dedup index that no client numbered.", input.shards.ids),
        ("tallymark_ids_max", "Ids that are remembered at most.", input.ids_max),
        (
            "tallymark_ids_forgotten_before_offset",
            "Usage offset before which ids are forgotten; 0 if none are.",
            input.forgotten.0,
        ),
        ("tallymark_dedup_runs", "Runs on disk that the dedup index looks into.", input.shards.runs as u64),
        (
            "tallymark_sequence_items_in_memory",
            "Single events in memory that could be spilled.",
            input.items[0] as u64,
        ),
        ("tallymark_sequence_items_spilled", "Single events that left memory.", input.items[1] as u64),
        (
            "tallymark_unanswered_bytes",
            "Bytes of batches over QUIC that are not answered yet.",
            input.unanswered_bytes as u64,
        ),
        ("tallymark_cells", "Merged cells.", input.sizes.0 as u64),
        ("tallymark_issued_lines", "Issued charge lines in memory.", input.sizes.1 as u64),
        (
            "tallymark_rating_failures",
            "Charges that could not be computed at the last cut.",
            input.rating_failures as u64,
        ),
        ("tallymark_log_end_offset", "Offset behind the last record of the usage log.", input.log_end),
        (
            "tallymark_snapshot_offset",
            "Usage offset of the last snapshot; 0 if there is none.",
            input.snapshot_offset,
        ),
        ("tallymark_archived_segments", "Segments of usage that lie in the archive.", input.archived[0]),
        ("tallymark_archived_bytes", "Bytes of them.", input.archived[1]),
        ("tallymark_sealed_batch", "Number of the last sealed charge batch.", load(&metrics.batches)),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], &value.to_string());
    }
    page.family("tallymark_unbilled_amount", "gauge", "Charges that billing did not acknowledge yet.");
    for (currency, amount) in &input.unbilled {
        page.sample("tallymark_unbilled_amount", &[("currency", currency)], amount);
    }
    page.family(
        "tallymark_unbilled_age_seconds",
        "gauge",
        "Age of the oldest batch that billing did not acknowledge.",
    );
    page.sample("tallymark_unbilled_age_seconds", &[], &input.unbilled_age_seconds.to_string());
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn durations(&mut self, name: &str, help: &str, durations: &Durations) {
        self.family(name, "histogram", help);
        let counts = durations.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let bounds = DURATION_BOUNDS.iter().map(|(_, seconds)| *seconds).chain(["+Inf"]);
        let mut count = 0;
        for (bound, in_bucket) in bounds.zip(counts) {
            count += in_bucket;
            self.sample(&format!("{name}_bucket"), &[("le", bound)], &count.to_string());
        }
        let seconds = durations.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        self.sample(&format!("{name}_sum"), &[], &seconds.to_string());
        self.sample(&format!("{name}_count"), &[], &count.to_string());
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { "{" } else { "," });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token for all sources made a page of 118 MB.
    #[test]
    fn sources_beyond_a_thousand_are_summed_and_none_goes_back_among_them() {
        let counters = |metered| SourceCounters { metered, ..SourceCounters::default() };
        let source = |number: u64| -> Arc<str> { format!("s{number:04}").into() };
        let metrics = Metrics::default();
        let mut all: BTreeMap<_, _> = (0..600).map(|number| (source(number), counters(1))).collect();
        assert_eq!(metrics.listed(&all).len(), 600);
        all.extend((600..2_000).map(|number| (source(number), counters(number))));
        all.insert(OTHER_SOURCES.into(), counters(7));
        let total = |page: &BTreeMap<&str, Cow<'_, SourceCounters>>| {
            page.values().map(|counters| counters.metered).sum::<u64>()
        };
        let page = metrics.listed(&all);
        assert_eq!(page.len(), SOURCES_LISTED_MAX + 1);
        assert!(page.contains_key("s0000"), "it was listed");
        assert!(page.contains_key("s1999") && page.contains_key("s1600") && !page.contains_key("s1599"));
        assert_eq!(page[OTHER_SOURCES].metered, (600..1_600).sum::<u64>() + 7);
        assert_eq!(total(&page), all.values().map(|counters| counters.metered).sum::<u64>());
        // The busiest of all comes too late.
        all.insert("late".into(), counters(1_000_000));
        let page = metrics.listed(&all);
        assert!(!page.contains_key("late") && page.contains_key("s0000"));
        assert_eq!(page.len(), SOURCES_LISTED_MAX + 1);
    }

    #[test]
    fn labels_are_escaped_and_counters_add_up() {
        let mut shards = ShardSnapshot::default();
        let counters = SourceCounters { metered: 3, rejected: 2, ..Default::default() };
        shards.counters.insert("a\"b".into(), counters);
        let input = MetricsInput {
            shards,
            sources: (0, 0),
            log_bytes: 0,
            log_commits: 0,
            log_end: 0,
            snapshot_offset: 0,
            unbilled: vec![("USD".into(), "1.00".into())],
            unbilled_age_seconds: 5,
            sizes: (1, 2),
            rating_failures: 0,
            unanswered_bytes: 0,
            forgotten: (0, 0),
            ids_max: 1,
            items: [0, 0],
            archived: [3, 4, 5],
        };
        let metrics = Metrics::default();
        for microseconds in [80, 100, 101, 7_000_000] {
            metrics.snapshot_steps.record(Duration::from_micros(microseconds));
        }
        let page = render(&metrics, &input);
        let steps = [
            ("bucket{le=\"0.0001\"}", "2"),
            ("bucket{le=\"0.00025\"}", "3"),
            ("bucket{le=\"0.1\"}", "3"),
            ("bucket{le=\"+Inf\"}", "4"),
            ("sum", "7.000281"),
            ("count", "4"),
        ];
        for (what, value) in steps {
            assert!(page.contains(&format!("\ntallymark_snapshot_step_seconds_{what} {value}\n")), "{what}");
        }
        assert!(page.contains("tallymark_events_total{source=\"a\\\"b\",verdict=\"metered\"} 3\n"));
        for line in ["archived_segments 3", "archived_bytes 4", "archive_failures_total 5"] {
            assert!(page.contains(&format!("\ntallymark_{line}\n")));
        }
        assert!(page.contains("tallymark_events_received_total{source=\"a\\\"b\"} 5\n"));
    }
}
