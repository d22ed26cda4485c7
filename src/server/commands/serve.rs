//! `tallymark serve`

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::ServeArgs;
use crate::run::start;
use crate::tls::DEV_CERT_FILE;

/// Runs a server until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, or ended it.
pub fn run(args: &ServeArgs) -> Result<()> {
    init_tracing();
    runtime()?.block_on(async {
        let running = start(args).await?;
        println!("tallymark {} is up", env!("CARGO_PKG_VERSION"));
        println!("  data   {}", args.data.display());
        println!("  quic   {}  (ALPN tallymark/1)", running.quic);
        println!("  http   http://{}", running.http);
        if args.tls_cert.is_none() {
            println!(
                "  cert   {}  (development; clients trust exactly this one)",
                args.data.join(DEV_CERT_FILE).display()
            );
        }
        if let Some(token) = &running.token {
            println!("  token  {token}  (development, all roles; shown once)");
        }
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let failure = tokio::select! {
            _ = term.recv() => None,
            _ = int.recv() => None,
            cause = running.failed() => Some(cause),
        };
        match failure {
            None => {
                println!("stopping");
                running.stop().await?;
                println!("stopped cleanly");
                Ok(())
            }
            Some(cause) => bail!("{cause}"),
        }
    })
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
