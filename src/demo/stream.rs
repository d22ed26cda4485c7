//! Sends the story: ninety days of events over QUIC, with trouble on purpose, and moves the scenario clock.
//!
//! Owns: the order of things. Leaves to others: what is expected of them (`fold`), proving it (`proofs`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::{Period, Timestamp};
use serde_json::json;
use tallymark_client::{BatchBuilder, BuilderStatus, Client, IdMode};

use crate::agreements;
use crate::api::Api;
use crate::fold::Fold;
use crate::story::{
    BOUND_LATER, CONFLICTS, DAYS, EVENT_TYPE, EXTRA_TOKENS, FUTURE, LATE, NEGATIVES, RESENT_EVERY, SOURCE,
    Story, UNKNOWN,
};

/// What streaming measured.
pub(crate) struct Streamed {
    pub(crate) events_sent: u64,
    pub(crate) sending: Duration,
    pub(crate) whole: Duration,
    pub(crate) ack_p50: Duration,
    pub(crate) ack_p99: Duration,
}

/// An event as the story has it.
#[derive(Clone)]
struct Told {
    id: String,
    account: Option<usize>,
    subject: String,
    time: Timestamp,
    is_chat: bool,
    input: i64,
    output: i64,
}

pub(crate) struct Streamer<'a> {
    pub(crate) story: &'a Story,
    pub(crate) api: &'a Api,
    pub(crate) client: Client,
    /// Of the accounts with agreements.
    pub(crate) agents: Client,
    pub(crate) fold: &'a mut Fold,
    pub(crate) is_terminal: bool,
}

impl Streamer<'_> {
    /// Tells the whole story.
    pub(crate) async fn run(mut self) -> Result<Streamed> {
        let started = Instant::now();
        let mut sending = Duration::ZERO;
        let mut builder = BatchBuilder::new(SOURCE, EVENT_TYPE, IdMode::Given);
        let mut late: Vec<Told> = Vec::new();
        let mut sent = 0u64;
        for day in 0..DAYS {
            self.api.advance(Story::morning_after(day)).await?;
            let day_started = Instant::now();
            let mut resent: Vec<Told> = Vec::new();
            for row in 0..self.story.requests.len() {
                let told = self.told(day, row);
                self.fold.add_trace(&told_parts(&told));
                let number = day * self.story.requests.len() + row;
                // Requests of American accounts on 30 January arrive late.
                let is_late = day == 29
                    && late.len() < LATE.iter().sum()
                    && told.account.is_some_and(|a| self.story.accounts[a].is_american);
                if is_late {
                    late.push(told);
                    continue;
                }
                self.push(&mut builder, &told).await?;
                sent += 1;
                if number.is_multiple_of(RESENT_EVERY) {
                    resent.push(told);
                }
            }
            for told in &resent {
                self.push(&mut builder, told).await?;
                sent += 1;
                self.fold.duplicates += 1;
            }
            for told in self.trouble(day, &mut late) {
                self.push(&mut builder, &told).await?;
                sent += 1;
            }
            self.client.send(&mut builder).await?;
            self.client.flush().await?;
            sending += day_started.elapsed();
            agreements::on_day(day, Story::morning_after(day), &self.agents, self.api).await?;
            if day == 50 {
                self.bind_unknown_subjects().await?;
            }
            self.show(day, sent, sending);
        }
        // Let every window end, and its grace.
        for text in ["2026-04-02T06:00:00Z", "2026-04-07T06:00:00Z"] {
            self.api.advance(Timestamp::parse(text)?).await?;
        }
        // What is left since the last midnight.
        self.api.post("/v1/journal-runs", &json!({})).await?;
        self.fold.sent = sent;
        let counters = self.api.get_json("/v1/counters").await?;
        let latency = |name: &str| {
            let microseconds = counters["durable_after_microseconds"][name].as_u64().unwrap_or(0);
            Duration::from_micros(microseconds)
        };
        let streamed = Streamed {
            events_sent: sent,
            sending,
            whole: started.elapsed(),
            ack_p50: latency("p50"),
            ack_p99: latency("p99"),
        };
        self.client.close().await?;
        self.agents.close().await?;
        Ok(streamed)
    }

    fn told(&self, day: usize, row: usize) -> Told {
        let request = self.story.requests[row];
        let account = self.story.account_of(day, row);
        let owner = &self.story.accounts[account];
        let mut time = self.story.midnight(day, owner.is_american).plus(request.offset);
        // One request of each seller at an instant that is January in New York and February in Berlin.
        if day == 30 && self.story.boundary_rows.contains(&row) {
            time = Timestamp::parse("2026-01-31T23:30:00Z").expect("a constant instant");
        }
        Told {
            id: format!("req-{day:02}-{row:05}"),
            account: Some(account),
            subject: owner.subject.clone(),
            time,
            is_chat: request.is_chat,
            input: request.input,
            output: request.output,
        }
    }

    /// What goes wrong on a day.
    fn trouble(&mut self, day: usize, late: &mut Vec<Told>) -> Vec<Told> {
        let mut events = Vec::new();
        let [input, output] = EXTRA_TOKENS;
        let extra = |id: String, subject: String, time: Timestamp, input: i64| Told {
            id,
            account: None,
            subject,
            time,
            is_chat: true,
            input,
            output,
        };
        match day {
            // 3 and 12 February: the 34th and the 43rd day.
            33 => events.extend(late.drain(..LATE[0])),
            42 => events.append(late),
            10 => {
                for row in 0..CONFLICTS {
                    let mut told = self.told(10, row * 100);
                    told.input += 1;
                    events.push(told);
                }
                self.fold.conflicts += CONFLICTS as u64;
            }
            20 => {
                let subject = self.story.accounts[0].subject.clone();
                let time = self.story.midnight(20, true).plus(3_600_000_000_000);
                events
                    .extend((0..NEGATIVES).map(|n| extra(format!("neg-{n}"), subject.clone(), time, -input)));
                self.fold.negatives += NEGATIVES as u64;
            }
            40 => {
                let time = self.story.midnight(40, true).plus(3_600_000_000_000);
                events.extend(
                    (0..UNKNOWN).map(|n| extra(format!("unknown-{n}"), unknown_subject(n), time, input)),
                );
                self.fold.unknown += UNKNOWN as u64;
            }
            60 => {
                let subject = self.story.accounts[2].subject.clone();
                let time = Timestamp::parse("2027-01-01T00:00:00Z").expect("a constant instant");
                events
                    .extend((0..FUTURE).map(|n| extra(format!("future-{n}"), subject.clone(), time, input)));
                self.fold.future += FUTURE as u64;
            }
            _ => {}
        }
        events
    }

    /// Two of the unknown subjects turn out to be keys of an account.
    async fn bind_unknown_subjects(&mut self) -> Result<()> {
        let account = &self.story.accounts[3];
        for number in 0..BOUND_LATER {
            let path = format!("/v1/subjects/{}", unknown_subject(number));
            let body = json!({ "subscription": account.id, "from": "2026-02-01T05:00:00Z" });
            self.api.put(&path, &body).await?;
            let time = self.story.midnight(40, true);
            let [input, output] = EXTRA_TOKENS;
            self.fold.add_extra(3, time, true, input, output);
        }
        Ok(())
    }

    async fn push(&mut self, builder: &mut BatchBuilder, told: &Told) -> Result<()> {
        let values =
            [("input_tokens", i128::from(told.input), 0), ("output_tokens", i128::from(told.output), 0)];
        let dimensions = [("model", if told.is_chat { "chat" } else { "code" })];
        let time = told.time.nanoseconds();
        for _ in 0..2 {
            let pushed = builder.push_parts(told.id.as_bytes(), &told.subject, time, &values, &dimensions);
            match pushed {
                Ok(()) if builder.len() >= 4_096 => {
                    self.client.send(builder).await?;
                    return Ok(());
                }
                Ok(()) => return Ok(()),
                Err(BuilderStatus::BatchMustHaveRoom) => drop(self.client.send(builder).await?),
                Err(status) => return Err(status).context("an event of the story cannot be sent"),
            }
        }
        anyhow::bail!("an event does not fit an empty batch")
    }

    fn show(&self, day: usize, sent: u64, sending: Duration) {
        let rate = sent as f64 / sending.as_secs_f64();
        let is_month_end = matches!(day, 30 | 58 | 89);
        let line = format!("  day {:2} of {DAYS}   {sent:>9} events sent   {:>9.0} events/s", day + 1, rate);
        if self.is_terminal {
            print!("\r{line}");
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
        if is_month_end {
            if self.is_terminal {
                println!();
            } else {
                println!("{line}");
            }
        }
    }
}

/// An unknown subject, as it goes into a path.
fn unknown_subject(number: usize) -> String {
    format!("mystery-key-{number}")
}

fn told_parts(told: &Told) -> (usize, Timestamp, bool, i64, i64) {
    (told.account.unwrap_or_default(), told.time, told.is_chat, told.input, told.output)
}

/// The accounting month of an instant for a seller.
pub(crate) fn month_of(story: &Story, is_american: bool, time: Timestamp) -> Period {
    if is_american { story.new_york.period_of(time) } else { story.berlin.period_of(time) }
}
