//! Flags that stand above what a scenario says.
//!
//! Owns: which fields have a flag. Leaves to others: rules (`check`), which are checked again afterwards.

use std::path::PathBuf;

use clap::Args;

use super::{IdShape, Scenario, ScenarioError, Target, Trace};

/// Fields of a scenario as flags.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Instead of what the scenario says")]
pub(crate) struct ScenarioFlags {
    /// Where events go, and how they are packed.
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// Events to send, duplicates included.
    #[arg(long, conflicts_with = "seconds")]
    events: Option<u64>,
    /// Seconds to send for.
    #[arg(long)]
    seconds: Option<u64>,
    /// Events a second, open loop; 0 is as fast as answers allow.
    #[arg(long)]
    rate: Option<u64>,
    /// Accounts.
    #[arg(long)]
    accounts: Option<u32>,
    /// Subjects, shared by the accounts.
    #[arg(long)]
    subjects: Option<u32>,
    /// Zipf exponent of the subjects' shares; 0 is even.
    #[arg(long)]
    skew: Option<f64>,
    /// Seed of the load.
    #[arg(long)]
    seed: Option<u64>,
    /// What ids look like.
    #[arg(long, value_enum)]
    ids: Option<IdShape>,
    /// Of 1,000 events, those that are sent again.
    #[arg(long)]
    duplicates: Option<u32>,
    /// Of 1,000 events, those that are late.
    #[arg(long)]
    late: Option<u32>,
    /// Of 1,000 events, those that are out of order.
    #[arg(long)]
    disorder: Option<u32>,
    /// Connections of all processes.
    #[arg(long)]
    connections: Option<u32>,
    /// Client processes.
    #[arg(long)]
    processes: Option<u32>,
    /// Threads of each process.
    #[arg(long)]
    threads: Option<u32>,
    /// Events of a batch or request.
    #[arg(long)]
    batch: Option<u32>,
    /// Unanswered batches of a connection (QUIC).
    #[arg(long)]
    in_flight: Option<u32>,
    /// A CSV trace (`TIMESTAMP,VALUE,…`): its pace and its first column's values, over and over.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// How much faster than the trace.
    #[arg(long)]
    speed: Option<u64>,
}

impl ScenarioFlags {
    /// Changes a scenario, and checks it again.
    pub(crate) fn apply(&self, name: &str, mut scenario: Scenario) -> Result<Scenario, ScenarioError> {
        let load = &mut scenario.load;
        if self.events.is_some() || self.seconds.is_some() {
            (load.events, load.seconds) = (self.events, self.seconds);
        }
        set(&mut load.rate, self.rate);
        set(&mut load.accounts, self.accounts);
        load.subjects = self.subjects.or(load.subjects);
        set(&mut load.skew, self.skew);
        set(&mut load.seed, self.seed);
        set(&mut scenario.ids.shape, self.ids);
        set(&mut scenario.ids.duplicates, self.duplicates);
        set(&mut scenario.time.late, self.late);
        set(&mut scenario.time.disorder, self.disorder);
        let send = &mut scenario.send;
        if let Some(target) = self.target.filter(|target| *target != send.target) {
            // What was said for another target is not meant for this one.
            (send.target, send.batch, send.in_flight) = (target, None, None);
        }
        set(&mut send.connections, self.connections);
        set(&mut send.processes, self.processes);
        set(&mut send.threads, self.threads);
        send.batch = self.batch.or(send.batch);
        send.in_flight = self.in_flight.or(send.in_flight);
        if let Some(file) = &self.trace {
            let speed = scenario.trace.as_ref().map_or(1, |trace| trace.speed);
            scenario.trace = Some(Trace { file: file.clone(), speed });
        }
        if let Some(trace) = &mut scenario.trace {
            set(&mut trace.speed, self.speed);
        }
        scenario.check().map_err(|mistake| mistake.by_flags(name))?;
        Ok(scenario)
    }
}

fn set<T: Copy>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}
