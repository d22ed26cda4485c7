//! `tallymark serve`

use std::io::Write;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::ServeArgs;
use crate::run::start;
use crate::tls::DEV_CERT_FILE;

/// Prints a line; whoever started the server may have stopped listening, which must not stop the server.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, or ended it.
pub fn run(args: &ServeArgs) -> Result<()> {
    init_tracing();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let running = start(args).await?;
        // Before it says that it is up: from then on it stops cleanly.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        say!("tallymark {} is up", env!("CARGO_PKG_VERSION"));
        say!("  data   {}", args.data.display());
        say!("  quic   {}  (ALPN tallymark/1)", running.quic);
        say!("  http   {}://{}", if running.is_https { "https" } else { "http" }, running.http);
        if args.tls_cert.is_none() {
            say!(
                "  cert   {}  (development; clients trust exactly this one)",
                args.data.join(DEV_CERT_FILE).display()
            );
        }
        if let Some(token) = &running.token {
            say!("  token  {token}  (development, all roles; shown once)");
        }
        let failure = tokio::select! {
            _ = term.recv() => None,
            _ = int.recv() => None,
            cause = running.failed() => Some(cause),
        };
        match failure {
            None => {
                say!("stopping");
                running.stop().await?;
                say!("stopped cleanly");
                Ok(())
            }
            Some(cause) => bail!("{cause}"),
        }
    });
    // A request may still read an archive that does not answer.
    runtime.shutdown_background();
    ended
}

/// Logs to standard error; `RUST_LOG` chooses what.
pub fn init_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// The runtime of a server: two workers serve sockets; everything else has threads of its own.
///
/// # Errors
/// If threads cannot be started.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
