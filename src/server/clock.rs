//! The only place that asks what time it is.
//!
//! Owns: the real clock, the scenario clock, and the check for steps. Leaves to others: writing time into logs.
//!
//! Invariants: the scenario clock moves only by record; the real one is never read where the scenario clock runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use domain::Timestamp;
use domain::time::SECOND;
use wire::control::ClockKind;

/// A step of the machine's clock beyond this stops the log writer.
pub const CLOCK_STEP_MAX: i64 = 600 * SECOND;

/// The clock of a data directory.
pub struct Clock {
    kind: ClockKind,
    scenario: AtomicI64,
    anchor: Mutex<(Timestamp, Instant)>,
}

/// The machine's clock moved by more than [`CLOCK_STEP_MAX`].
#[derive(Debug, thiserror::Error)]
#[error(
    "the machine's clock stepped from about {expected} to {found}; start with --accept-clock once it is right"
)]
pub struct ClockStepped {
    /// Where the clock was expected.
    pub expected: Timestamp,
    /// Where it is.
    pub found: Timestamp,
}

impl Clock {
    /// A clock; `scenario_now` is where a scenario stands.
    pub fn new(kind: ClockKind, scenario_now: Timestamp) -> Self {
        Self {
            kind,
            scenario: AtomicI64::new(scenario_now.nanoseconds()),
            anchor: Mutex::new((real_now(), Instant::now())),
        }
    }

    /// Which clock it is.
    pub fn kind(&self) -> ClockKind {
        self.kind
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        match self.kind {
            ClockKind::Real => real_now(),
            ClockKind::Scenario => Timestamp::from_nanoseconds(self.scenario.load(Ordering::Acquire)),
        }
    }

    /// Moves the scenario clock; the record that says so is durable.
    pub fn set_scenario(&self, now: Timestamp) {
        self.scenario.store(now.nanoseconds(), Ordering::Release);
    }

    /// The present, unless the machine's clock stepped since the last call.
    ///
    /// # Errors
    /// [`ClockStepped`]; the log writer stops then.
    pub fn checked_now(&self) -> Result<Timestamp, ClockStepped> {
        if self.kind == ClockKind::Scenario {
            return Ok(self.now());
        }
        let mut anchor = self.anchor.lock().expect("nothing panics while it holds the clock");
        let (now, instant) = (real_now(), Instant::now());
        let elapsed = i64::try_from(instant.duration_since(anchor.1).as_nanos()).unwrap_or(i64::MAX);
        let expected = anchor.0.plus(elapsed);
        if (now.nanoseconds() - expected.nanoseconds()).abs() > CLOCK_STEP_MAX {
            return Err(ClockStepped { expected, found: now });
        }
        *anchor = (now, instant);
        Ok(now)
    }
}

/// The machine's clock.
pub fn real_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanoseconds(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
