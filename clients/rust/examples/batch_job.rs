//! A job that loads a file of usage, may be run again, and says what became of every event.
//!
//! Owns: how a client lives in a batch job: own ids, waiting while memory is full, verdicts. A line of the file is
//! `id,subject,time,tokens`; whatever run brings a line first counts, and a line is never counted twice.
//!
//! ```sh
//! echo 'job-7/1,key-42,2026-01-31T23:30:00Z,1200' > usage.csv
//! TALLYMARK_TOKEN=tm_… cargo run -p tallymark-client --example batch_job -- usage.csv
//! ```
#![allow(clippy::print_stdout)] // a job tells its result

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

use tallymark_client::{Acked, Client, ClientOptions, Decimal, Event, EventIdOwned, Timestamp, Verdict};
use tokio::sync::mpsc;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_string());
    let file = std::env::args().nth(1).ok_or("the job takes the name of a file")?;
    let certificate = std::fs::read(setting("TALLYMARK_CERT", "tallymark-data/dev-cert.pem"))?;
    let address = setting("TALLYMARK_QUIC", "127.0.0.1:7411").parse()?;
    let mut options =
        ClientOptions::new(address, &std::env::var("TALLYMARK_TOKEN")?, "batch-job", certificate);
    let (acks_to, acks) = mpsc::unbounded_channel();
    options.acks = Some(acks_to);
    options.verdicts = true;
    let client = Client::connect(options).await?;
    let counting = tokio::spawn(count(acks));
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        // Waits while too much is on its way: the job is as fast as the server, and needs no more memory than it was given.
        client.record("tokens.used", &event_of(&line?)?).await?;
    }
    client.close().await?;
    drop(client); // the last sender of acks
    let mut is_whole = true;
    for (verdict, events) in counting.await? {
        println!("{events} {verdict}");
        is_whole &= !verdict.starts_with("Rejected") && !verdict.starts_with("Conflict");
    }
    if is_whole { Ok(()) } else { Err("some events did not count".into()) }
}

fn event_of(line: &str) -> Result<Event, Failure> {
    let [id, subject, time, tokens] = <[&str; 4]>::try_from(line.split(',').collect::<Vec<_>>())
        .map_err(|_| format!("not four fields: {line}"))?;
    let event = Event::new(EventIdOwned::Text(id.to_string()), subject, Timestamp::parse(time)?);
    Ok(event.value("tokens", Decimal::parse(tokens)?))
}

/// How many events got which verdict. Events of a batch whose verdicts were lost with a connection are durable, too.
async fn count(mut acks: mpsc::UnboundedReceiver<Acked>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    while let Some(acked) = acks.recv().await {
        match &acked.verdicts {
            None => *counts.entry("durable, verdict unknown".to_string()).or_default() += acked.events,
            Some(verdicts) => {
                for (index, verdict) in verdicts.iter().enumerate() {
                    *counts.entry(format!("{verdict:?}")).or_default() += 1;
                    if matches!(verdict, Verdict::Rejected(_) | Verdict::Conflict) {
                        println!("{}: {verdict:?}", acked.id(index).unwrap_or_default());
                    }
                }
            }
        }
    }
    counts
}
