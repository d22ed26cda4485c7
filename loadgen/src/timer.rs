//! A timer that is as exact as the kernel's: the runtime's own rounds up to the next millisecond, which is a lot when an
//! answer takes one.
//!
//! Invariants: a wait never ends early.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// The kernel's timer is a file that becomes readable, so the runtime may take it for a pipe.
pub(crate) struct Timer(Receiver);

impl Timer {
    /// # Errors
    /// If there are no more file descriptors.
    pub(crate) fn new() -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("cannot make a timer")?;
        Ok(Self(Receiver::from_file_unchecked(timer.into())?))
    }

    /// Waits until an instant.
    pub(crate) async fn until(&self, due: Instant) {
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.wait(left).await;
        }
    }

    async fn wait(&self, left: Duration) {
        let value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)
            .expect("the timer is open and the time is not zero");
        if self.0.readable().await.is_ok() {
            // Reading makes it quiet again; it may be quiet already if an earlier wait was given up.
            let _ = self.0.try_read(&mut [0; 8]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_never_ends_early_and_one_in_the_past_ends_at_once() {
        let timer = Timer::new().unwrap();
        let start = Instant::now();
        timer.until(start).await;
        for milliseconds in [1, 3, 7] {
            let due = start + Duration::from_millis(milliseconds);
            timer.until(due).await;
            assert!(Instant::now() >= due);
        }
        // A wait that is given up does not end the next one.
        let given_up = timer.until(Instant::now() + Duration::from_secs(60));
        assert!(tokio::time::timeout(Duration::from_millis(2), given_up).await.is_err());
        let due = Instant::now() + Duration::from_millis(5);
        timer.until(due).await;
        assert!(Instant::now() >= due);
    }
}
