//! Settings of `tallymark serve`: flags, each with an environment variable, all with a default.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::directory::DataDirectory;

/// Which clock a data directory runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockChoice {
    /// The machine's clock.
    Real,
    /// A clock that only moves when asked to, for demonstrations and tests.
    Scenario,
}

/// A data directory that a command reads.
#[derive(Clone, Debug, Args)]
pub struct DirectoryArgs {
    /// Data directory; only read.
    #[arg(long, env = "TALLYMARK_DATA", default_value = "tallymark-data")]
    pub data: PathBuf,
    /// Folder of its archive, if usage went there.
    #[arg(long, env = "TALLYMARK_ARCHIVE")]
    pub archive: Option<PathBuf>,
}

impl DirectoryArgs {
    /// The directory.
    pub fn open(&self) -> DataDirectory {
        DataDirectory::new(&self.data, 64 << 20).with_archive(self.archive.as_deref())
    }
}

/// `tallymark serve`
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Data directory; made if it does not exist.
    #[arg(long, env = "TALLYMARK_DATA", default_value = "tallymark-data")]
    pub data: PathBuf,
    /// Catalog file, applied at start where it differs from what the log knows.
    #[arg(long, env = "TALLYMARK_CATALOG")]
    pub catalog: Option<PathBuf>,
    /// Address for QUIC (UDP).
    #[arg(long, env = "TALLYMARK_QUIC", default_value = "127.0.0.1:7411")]
    pub quic: SocketAddr,
    /// Address for HTTP (TCP).
    #[arg(long, env = "TALLYMARK_HTTP", default_value = "127.0.0.1:7410")]
    pub http: SocketAddr,
    /// Shards, 1 to 64. The result does not depend on it.
    #[arg(long, env = "TALLYMARK_SHARDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Clock of a new data directory.
    #[arg(long, env = "TALLYMARK_CLOCK", value_enum, default_value = "real")]
    pub clock: ClockChoice,
    /// Certificate chain (PEM). Without it a development certificate is made in the data directory.
    #[arg(long, env = "TALLYMARK_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM).
    #[arg(long, env = "TALLYMARK_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authorities (PEM) whose client certificates show tokens over QUIC.
    #[arg(long, env = "TALLYMARK_CLIENT_CA")]
    pub client_ca: Option<PathBuf>,
    /// Certificate chain (PEM) for HTTP. Without it HTTP is plain.
    #[arg(long, env = "TALLYMARK_HTTP_CERT", requires = "http_key")]
    pub http_cert: Option<PathBuf>,
    /// Private key (PEM) for HTTP.
    #[arg(long, env = "TALLYMARK_HTTP_KEY", requires = "http_cert")]
    pub http_key: Option<PathBuf>,
    /// Seconds between issuing cuts.
    #[arg(long, env = "TALLYMARK_CUT_SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u32).range(1..))]
    pub cut_seconds: u32,
    /// Hours that an event may be late before it is quarantined as too_old. Written to the log when it changes.
    #[arg(long, env = "TALLYMARK_HORIZON_HOURS", default_value_t = 840, value_parser = clap::value_parser!(u32).range(1..=87_600))]
    pub horizon_hours: u32,
    /// Hours after its arrival in which an event may be corrected; not less than the horizon. Written to the log when it
    /// changes.
    #[arg(long, env = "TALLYMARK_CORRECTION_HOURS", default_value_t = 9_600, value_parser = clap::value_parser!(u32).range(1..=876_000))]
    pub correction_hours: u32,
    /// Days for which ids are remembered at least; from the horizon to the hours of corrections. An id that a client
    /// numbered is remembered for ever.
    #[arg(long, env = "TALLYMARK_DEDUP_DAYS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub dedup_days: u32,
    /// Ids that are remembered at most: beyond, the oldest are forgotten before their days are over, with a warning, and
    /// events as old as they are set aside. Without it, as many as the filters of --dedup-memory have room for.
    #[arg(long, env = "TALLYMARK_IDS_MAX", value_parser = clap::value_parser!(u64).range(1..))]
    pub ids_max: Option<u64>,
    /// Seconds that an event may be ahead of its arrival before it is quarantined as future.
    #[arg(long, env = "TALLYMARK_FUTURE_SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub future_seconds: u32,
    /// Hours after the end of a window or period in which late usage still belongs to it.
    #[arg(long, env = "TALLYMARK_GRACE_HOURS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(0..=8_760))]
    pub grace_hours: u32,
    /// Pending events that one source may have in one of the 1,024 slots.
    #[arg(long, env = "TALLYMARK_PENDING_PER_SLOT_MAX", default_value_t = 256)]
    pub pending_per_slot_max: u32,
    /// Bytes of one log segment.
    #[arg(long, env = "TALLYMARK_SEGMENT_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range((16 << 20)..=(4 << 30)))]
    pub segment_bytes: u64,
    /// Bytes of the usage log between two snapshots, which make the next start short; 0 makes none.
    #[arg(long, env = "TALLYMARK_SNAPSHOT_BYTES", default_value_t = 1 << 30)]
    pub snapshot_bytes: u64,
    /// Bytes of memory for remembered ids, 512 KiB to 1 TiB. A quarter has new ids until they are written to `runs`; the
    /// rest has filters, two bytes an id and twice that while all of them are merged.
    #[arg(long, env = "TALLYMARK_DEDUP_MEMORY", default_value_t = 2 << 30, value_parser = clap::value_parser!(u64).range((1 << 19)..=(1 << 40)))]
    pub dedup_memory: u64,
    /// Bytes of memory for what sequence meters (unique, percentile, peak, weighted_sum, each priced one by one) keep of single
    /// events, 1 MiB to 1 TiB; the rest goes to `spilled`.
    #[arg(long, env = "TALLYMARK_SEQUENCE_MEMORY", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 40)))]
    pub sequence_memory: u64,
    /// Folder of the archive, which must exist: old segments of usage go there, and are read there. Without it, all usage stays
    /// in the data directory.
    #[arg(long, env = "TALLYMARK_ARCHIVE")]
    pub archive: Option<PathBuf>,
    /// Days after which usage goes to the archive.
    #[arg(long, env = "TALLYMARK_ARCHIVE_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub archive_days: u32,
    /// Sources that there may be: each is counted by itself, and remembered for ever.
    #[arg(long, env = "TALLYMARK_SOURCES_MAX", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sources_max: u32,
    /// Bytes of the usage log that one usage query may read.
    #[arg(long, env = "TALLYMARK_QUERY_BYTES_MAX", default_value_t = 16 << 30)]
    pub query_bytes_max: u64,
    /// Accept a step of the machine's clock; recorded in the control log.
    #[arg(long)]
    pub accept_clock: bool,
    /// Accept that this program has other rating semantics or time-zone data than the directory; recorded.
    #[arg(long)]
    pub accept_epoch: bool,
}
