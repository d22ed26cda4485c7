//! Patience with what may never answer: a disk of somebody else, as that of the archive.
//!
//! Owns: the thread that asks, how long one waits for it, and the threads that a stop waits for. Leaves to others: what is asked.
//!
//! Invariants: who asks waits for the patience at most, and not at all while an earlier question that somebody gave up on has no
//! answer; questions are put one at a time, in order; what came back to life is asked again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};

/// Between two looks whether a thread has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A question that is put by a thread of its own.
pub struct Patient<T> {
    questions: Sender<Sender<T>>,
    counts: Arc<Mutex<Counts>>,
    patience: Duration,
}

/// Numbers of questions.
#[derive(Default)]
struct Counts {
    asked: u64,
    answered: u64,
    /// The last one that somebody waited for in vain.
    given_up: u64,
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().expect("nothing panics while it holds numbers")
}

impl<T: Send + 'static> Patient<T> {
    /// Starts the thread. It ends with the last answer after this is dropped, and nobody waits for it.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(name: &str, patience: Duration, ask: impl Fn() -> T + Send + 'static) -> io::Result<Self> {
        let (questions, queue) = unbounded::<Sender<T>>();
        let counts = Arc::new(Mutex::new(Counts::default()));
        let answers = counts.clone();
        std::thread::Builder::new().name(name.to_string()).spawn(move || {
            for answer_to in queue {
                let answer = ask();
                lock(&answers).answered += 1;
                // Nobody may wait any more.
                let _ = answer_to.send(answer);
            }
        })?;
        Ok(Self { questions, counts, patience })
    }

    /// The answer to a question that is put now; `None` if there is none in time.
    pub fn ask(&self) -> Option<T> {
        let (answer_to, answer) = bounded(1);
        let number = {
            let mut counts = lock(&self.counts);
            if counts.answered < counts.given_up {
                return None;
            }
            // In the order of their numbers.
            self.questions.send(answer_to).ok()?;
            counts.asked += 1;
            counts.asked
        };
        let answered = answer.recv_timeout(self.patience).ok();
        if answered.is_none() {
            let mut counts = lock(&self.counts);
            counts.given_up = counts.given_up.max(number);
        }
        answered
    }
}

/// Whether a thread ends in time.
pub async fn has_ended(thread: &JoinHandle<()>, patience: Duration) -> bool {
    let ended = async {
        while !thread.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(patience, ended).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that was mounted from another machine did not answer, and whoever asked it waited as long.
    #[test]
    fn who_asks_what_does_not_answer_waits_once_and_asks_again_when_it_does() {
        let (answers, given) = unbounded::<u32>();
        let (put, questions) = unbounded();
        let patient = Patient::start("asked", Duration::from_millis(50), move || {
            put.send(()).unwrap();
            given.recv().unwrap_or(7)
        })
        .unwrap();
        assert_eq!(patient.ask(), None);
        questions.recv().unwrap();
        for _ in 0..1_000 {
            assert_eq!(patient.ask(), None);
        }
        assert!(questions.is_empty(), "no question is put behind one without an answer");
        answers.send(1).unwrap();
        drop(answers);
        // The first answer is nobody's any more.
        let answer = loop {
            if let Some(answer) = patient.ask() {
                break answer;
            }
        };
        assert_eq!(answer, 7);
    }

    #[tokio::test]
    async fn a_thread_that_does_not_end_is_waited_for_in_vain() {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::spawn(move || _ = stopped.recv());
        assert!(!has_ended(&thread, Duration::from_millis(50)).await);
        drop(stop);
        assert!(has_ended(&thread, Duration::from_secs(600)).await);
    }
}
