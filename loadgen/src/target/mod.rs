//! One connection's part of the load, from its first event to its last answer.
//!
//! Owns: what all targets have in common: how many events, when each should leave, when connections break off.
//! Leaves to others: the client library's way (`quic`), a peer that is slow (`slow`), HTTP (`http_lane`).
//!
//! Invariants: an event that was generated is sent until it is answered, or the run fails; latency is from the intended
//! send time in an open loop, and from sending in a closed one.

pub(crate) mod endpoint;
mod http;
pub(crate) use self::http::Connection as HttpConnection;
pub(crate) mod http_lane;
pub(crate) mod quic;
pub(crate) mod request;
pub(crate) mod slow;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::generator::{Generated, Generator, Plan};
use crate::recorder::Recorder;
use crate::scenario::Scenario;
use crate::timer::Timer;

/// How long a receiver may be away before a run fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection needs to know.
pub(crate) struct Lane {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) generator: Generator,
    pub(crate) timer: Timer,
    pub(crate) start: Instant,
    /// Events that are left; in a closed loop with an end in time, without number.
    left: u64,
    /// When a closed loop ends.
    end: Option<Instant>,
    /// When the connection breaks off next, and how often it does.
    breaks: Option<(Instant, Duration)>,
    /// How late each answer is taken.
    pub(crate) slowness: Option<Duration>,
}

/// The next batch's worth of events.
pub(crate) struct Due {
    /// When the last of them should leave, in an open loop.
    pub(crate) at: Option<Instant>,
    /// Whether the connection breaks off first.
    pub(crate) breaks_off: bool,
}

impl Lane {
    pub(crate) fn new(
        scenario: Arc<Scenario>,
        plan: Arc<Plan>,
        recorder: Arc<Recorder>,
        connection: u32,
        start: Instant,
    ) -> Result<Self> {
        let connections = u64::from(scenario.send.connections);
        let share =
            |events: u64| events / connections + u64::from(u64::from(connection) < events % connections);
        let (left, end) = match (scenario.load.events, scenario.load.seconds) {
            (Some(events), _) => (share(events), None),
            (None, Some(seconds)) if scenario.is_open_loop() => {
                (share(plan.pace.events_until(seconds)), None)
            }
            (None, seconds) => (u64::MAX, Some(start + Duration::from_secs(seconds.unwrap_or(0)))),
        };
        let breaks = scenario.reconnects.as_ref().filter(|breaks| is_one_of(connection, breaks.connections));
        let breaks = breaks.map(|breaks| {
            let every = Duration::from_secs(breaks.every_seconds.into());
            (start + every, every)
        });
        let slow = scenario.slow.as_ref().filter(|slow| is_one_of(connection, slow.connections));
        Ok(Self {
            generator: Generator::new(plan.clone(), connection.into()),
            timer: Timer::new()?,
            slowness: slow.map(|slow| Duration::from_millis(slow.milliseconds.into())),
            scenario,
            plan,
            recorder,
            start,
            left,
            end,
            breaks,
        })
    }

    /// Generates the events of the next batch; `None` when there are no more.
    pub(crate) fn next_batch<E>(
        &mut self,
        mut push: impl FnMut(&Generator, &Generated) -> Result<Pushed, E>,
    ) -> Result<Option<Due>, E> {
        let now = Instant::now();
        if self.left == 0 || self.end.is_some_and(|end| now >= end) {
            return Ok(None);
        }
        let mut due = 0;
        for _ in 0..self.scenario.batch() {
            if self.left == 0 {
                break;
            }
            let generated = self.generator.next();
            self.left -= 1;
            due = due.max(generated.due);
            if push(&self.generator, &generated)? == Pushed::Last {
                break;
            }
        }
        let at = self.scenario.is_open_loop().then(|| self.start + Duration::from_nanos(due));
        let breaks_off = self.breaks.as_mut().is_some_and(|(next, every)| {
            let is_due = at.unwrap_or(now) >= *next;
            while at.unwrap_or(now) >= *next {
                *next += *every;
            }
            is_due
        });
        Ok(Some(Due { at, breaks_off }))
    }
}

/// Whether a batch can take more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    HasRoom,
    Last,
}

/// Whether a connection is one of so many of 1,000, evenly spread; of few connections at least the first is.
fn is_one_of(connection: u32, of_thousand: u32) -> bool {
    let share = |connections: u32| (u64::from(connections) * u64::from(of_thousand)).div_ceil(1_000);
    share(connection + 1) > share(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_connections_are_spread_evenly() {
        for (connections, of_thousand, expected) in
            [(1, 1, 1), (50, 100, 5), (200, 1_000, 200), (1_000, 1, 1), (1_000, 333, 333), (3, 500, 2)]
        {
            let found = (0..connections).filter(|connection| is_one_of(*connection, of_thousand)).count();
            assert_eq!(found, expected, "{of_thousand} of 1,000 of {connections}");
        }
    }
}
