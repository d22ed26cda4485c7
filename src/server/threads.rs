//! Threads of a running server: each has a name, and none ends unnoticed.
//!
//! Owns: what happens when a thread fails or panics. Leaves to others: what threads do, and stopping them (`run`).
//!
//! Invariants: a panic is a broken invariant, so nothing may be acknowledged after it; whoever failed first is the cause,
//! and a thread that stops because another did ([`PeerStopped`]) lets that one speak first.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// Gets the cause when a thread fails; the first one ends the process.
pub type OnFailure = Arc<dyn Fn(anyhow::Error) + Send + Sync>;

/// Time in which a thread that failed says so. Its queues close earlier, while it unwinds.
const PEER_PATIENCE: Duration = Duration::from_secs(1);

/// A thread cannot go on because another one has stopped.
#[derive(Debug, thiserror::Error)]
#[error("{0} has stopped")]
pub struct PeerStopped(pub &'static str);

/// Starts a thread; `on_failure` gets its error or panic.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(
    name: &str,
    on_failure: OnFailure,
    run: impl FnOnce() -> Result<()> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let thread = name.to_string();
    std::thread::Builder::new().name(name.to_string()).spawn(move || {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                if error.is::<PeerStopped>() {
                    std::thread::sleep(PEER_PATIENCE);
                }
                on_failure(error.context(format!("the {thread} thread stopped")));
            }
            Err(panic) => on_failure(anyhow!("the {thread} thread panicked: {}", message_of(&*panic))),
        }
    })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, bail};

    fn check(run: impl FnOnce() -> Result<()> + Send + 'static, cause: Option<&str>) {
        let (failed, causes) = crossbeam_channel::unbounded();
        let on_failure: OnFailure = Arc::new(move |error| failed.send(format!("{error:#}")).unwrap());
        spawn("x", on_failure, run).unwrap().join().unwrap();
        assert_eq!(causes.try_iter().collect::<Vec<_>>(), cause.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_thread_that_fails_or_panics_says_why() {
        let number = 3;
        check(|| Ok(()), None);
        check(|| bail!("the disk is full"), Some("the x thread stopped: the disk is full"));
        check(|| panic!("a rule is broken"), Some("the x thread panicked: a rule is broken"));
        check(move || panic!("rule {number} is broken"), Some("the x thread panicked: rule 3 is broken"));
        check(move || std::panic::panic_any(number), Some("the x thread panicked: no message"));
    }

    #[test]
    fn the_cause_comes_before_its_consequence() {
        let (failed, causes) = crossbeam_channel::unbounded();
        let on_failure: OnFailure = Arc::new(move |error| failed.send(format!("{error:#}")).unwrap());
        let (queue, tasks) = crossbeam_channel::bounded::<()>(0);
        let sender =
            move || queue.send(()).ok().ok_or(PeerStopped("a shard")).context("a batch cannot be handed on");
        let consequence = spawn("usage-log", on_failure.clone(), sender).unwrap();
        // The queue closes while the shard unwinds, before anything is said about it.
        let slow: OnFailure = Arc::new(move |error| {
            std::thread::sleep(PEER_PATIENCE / 5);
            on_failure(error);
        });
        let shard = spawn("shard-0", slow, move || {
            let _tasks = tasks;
            panic!("a rule is broken")
        });
        shard.unwrap().join().unwrap();
        consequence.join().unwrap();
        let causes: Vec<String> = causes.try_iter().collect();
        assert_eq!(causes[0], "the shard-0 thread panicked: a rule is broken");
        assert_eq!(
            causes[1],
            "the usage-log thread stopped: a batch cannot be handed on: a shard has stopped"
        );
    }
}
