//! A job that loads a file of usage, may be run again, and says what became of every event.
//!
//! Owns: how a client lives in a batch job: own ids, waiting while memory is full, verdicts. A line of the file is
//! `id,subject,time,tokens`; whatever run brings a line first counts, and a line is never counted twice. The job succeeds
//! when it knows of every line that a meter counts it; where a verdict was lost with a connection, another run brings it.
//!
//! ```sh
//! echo "job-7/1,key-42,$(date -u +%FT%TZ),1200" > usage.csv
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
    let address = setting("TALLYMARK_QUIC", "127.0.0.1:7411");
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
    let tally = counting.await?;
    for (verdict, events) in &tally.counts {
        println!("{events} {verdict}");
    }
    match tally.uncounted {
        0 => Ok(()),
        uncounted => Err(format!("{uncounted} events are not known to be counted").into()),
    }
}

fn event_of(line: &str) -> Result<Event, Failure> {
    let [id, subject, time, tokens] = <[&str; 4]>::try_from(line.split(',').collect::<Vec<_>>())
        .map_err(|_| format!("not four fields: {line}"))?;
    let event = Event::new(EventIdOwned::Text(id.to_string()), subject, Timestamp::parse(time)?);
    Ok(event.value("tokens", Decimal::parse(tokens)?))
}

/// What became of all events.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<String, usize>,
    /// Events that no meter counts, or of which it is not known.
    uncounted: usize,
}

impl Tally {
    /// Adds a batch; gives which of its events do not count. Without verdicts, these were lost with a connection: the
    /// batch is durable, and another run is told what became of it.
    fn add(&mut self, events: usize, verdicts: Option<&[Verdict]>) -> Vec<(usize, Verdict)> {
        let Some(verdicts) = verdicts else {
            *self.counts.entry("durable, verdict unknown".to_string()).or_default() += events;
            self.uncounted += events;
            return Vec::new();
        };
        for verdict in verdicts {
            *self.counts.entry(verdict.to_string()).or_default() += 1;
        }
        let uncounted = verdicts.iter().copied().enumerate().filter(|(_, verdict)| !verdict.is_counted());
        let uncounted: Vec<_> = uncounted.collect();
        self.uncounted += uncounted.len();
        uncounted
    }
}

async fn count(mut acks: mpsc::UnboundedReceiver<Acked>) -> Tally {
    let mut tally = Tally::default();
    while let Some(acked) = acks.recv().await {
        for (index, verdict) in tally.add(acked.events, acked.verdicts.as_deref()) {
            println!("{}: {verdict}", acked.id(index).unwrap_or_default());
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quarantined events and lost verdicts were a success.
    #[test]
    fn only_what_is_known_to_be_counted_is_a_success() {
        for code in 1..=u8::MAX {
            let Some(verdict) = Verdict::from_code(code) else { continue };
            let mut tally = Tally::default();
            let told = tally.add(1, Some(&[verdict]));
            let is_counted = matches!(verdict.as_str(), "accepted" | "duplicate" | "duplicate_restamped");
            assert_eq!((tally.uncounted == 0, told.is_empty()), (is_counted, is_counted), "{verdict}");
        }
        let mut tally = Tally::default();
        tally.add(3, None);
        assert_eq!(tally.uncounted, 3);
    }
}
