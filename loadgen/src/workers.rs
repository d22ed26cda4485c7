//! Client processes: started, begun together, listened to, added up.
//!
//! Owns: children and what they say; the line of progress. Leaves to others: what they do (`worker`), when a person
//! interrupts (`interrupt`).
//!
//! Invariants: no child outlives its parent's handle; the seconds of all processes are added up by their number; a run that
//! began gives what it measured, however it ends.

use std::io::{BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use crate::cpu::{CpuUse, CpuWatch};
use crate::interrupt::Interrupt;
use crate::oracle::Told;
use crate::recorder::{Counts, Tick, histogram};
use crate::worker::{Job, Said, read_said};

/// A child that does not outlive its owner.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One second of all processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    pub(crate) counts: Counts,
    /// Microseconds.
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

/// What a run against one target measured.
pub(crate) struct Measured {
    pub(crate) counts: Counts,
    pub(crate) seconds: f64,
    pub(crate) latencies: Histogram<u64>,
    pub(crate) series: Vec<Second>,
    pub(crate) cpu: Option<CpuUse>,
    /// Why the run ended before its end: these figures are of a part of it.
    pub(crate) broken: Option<String>,
}

/// What a run hears.
enum Heard {
    Said(usize, Result<Said>),
    Interrupted,
}

/// Processes with open connections.
pub(crate) struct Workers {
    children: Vec<(Reaped, ChildStdin)>,
    heard: mpsc::Receiver<Heard>,
    tell: mpsc::Sender<Heard>,
}

/// Time for all workers to hear when to begin.
const HEAD_START: Duration = Duration::from_millis(50);

impl Workers {
    /// Starts a process for each job, and waits until all connections are open.
    pub(crate) fn start(jobs: &[Job]) -> Result<Self> {
        let (tell, heard) = mpsc::channel();
        let mut children = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            let mut child = Reaped(
                Command::new(std::env::current_exe()?)
                    .arg("worker")
                    // Ctrl-C in a terminal goes to a group; the parent alone decides what it means.
                    .process_group(0)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .context("cannot start a client process")?,
            );
            let mut stdin = child.0.stdin.take().context("a worker has an input")?;
            let stdout = child.0.stdout.take().context("a worker has an output")?;
            serde_json::to_writer(&mut stdin, job)?;
            stdin.write_all(b"\n")?;
            let to_parent = tell.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stdout);
                loop {
                    let said = read_said(&mut lines);
                    let is_last = matches!(said, Err(_) | Ok(Said::Done(_) | Said::Failed(_) | Said::Gone));
                    if to_parent.send(Heard::Said(index, said)).is_err() || is_last {
                        return;
                    }
                }
            });
            children.push((child, stdin));
        }
        let mut workers = Self { children, heard, tell };
        for _ in jobs {
            match workers.heard.recv()? {
                Heard::Said(_, Ok(Said::Ready)) | Heard::Interrupted => {}
                Heard::Said(_, Ok(Said::Failed(why))) => bail!("{why}"),
                Heard::Said(index, Ok(Said::Gone)) => bail!("{}", workers.end_of(index)),
                Heard::Said(_, Ok(Said::Tick(_) | Said::Done(_))) => {
                    bail!("a client process began too early")
                }
                Heard::Said(_, Err(error)) => return Err(error),
            }
        }
        Ok(workers)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|(child, _)| child.0.id()).collect()
    }

    /// How a process ended that said nothing of it.
    fn end_of(&mut self, index: usize) -> String {
        let ended = self.children[index].0.0.wait();
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("client process {} of {} ended without a word ({how})", index + 1, self.children.len())
    }

    /// Begins, listens until all are done, one fails or a person interrupts, and ends the processes.
    pub(crate) fn run(
        mut self,
        watch: &CpuWatch,
        label: &str,
        interrupt: &Interrupt,
    ) -> Result<(Measured, Told)> {
        let to_us = self.tell.clone();
        let _listening = interrupt.listen(move || drop(to_us.send(Heard::Interrupted)));
        let begin = SystemTime::now().duration_since(UNIX_EPOCH)? + HEAD_START;
        for (_, stdin) in &mut self.children {
            writeln!(stdin, "{}", begin.as_nanos())?;
        }
        let mut sums = Sums::new(self.children.len(), label);
        let mut told = Told::default();
        let (mut running, mut seconds, mut broken) = (self.children.len(), 0.0_f64, None);
        while running > 0 && broken.is_none() {
            match self.heard.recv()? {
                Heard::Said(index, Ok(Said::Tick(tick))) => {
                    seconds = seconds.max(tick.last_answer as f64 / 1e6);
                    sums.add(index, tick);
                }
                Heard::Said(index, Ok(Said::Done(part))) => {
                    told.merge(part);
                    sums.finish(index);
                    running -= 1;
                }
                Heard::Said(_, Ok(Said::Failed(why))) => broken = Some(why),
                Heard::Said(index, Ok(Said::Gone)) => broken = Some(self.end_of(index)),
                Heard::Said(_, Ok(Said::Ready)) => bail!("a client process is ready twice"),
                Heard::Said(_, Err(error)) => {
                    return Err(error.context("a client process said something unreadable"));
                }
                Heard::Interrupted => broken = Some("it was interrupted".to_string()),
            }
        }
        let cpu = watch.so_far();
        if broken.is_some() {
            sums.close_all();
        }
        for (mut child, stdin) in self.children {
            drop(stdin);
            if broken.is_some() {
                drop(child);
            } else {
                child.0.wait()?;
            }
        }
        // A run without any answer has no length of its own.
        let seconds = if seconds > 0.0 { seconds } else { sums.series.len().max(1) as f64 };
        let Sums { counts, latencies, series, .. } = sums;
        Ok((Measured { counts, seconds, latencies, series, cpu, broken }, told))
    }
}

/// Seconds as they come, of several processes.
struct Sums {
    label: String,
    counts: Counts,
    latencies: Histogram<u64>,
    series: Vec<Second>,
    /// Seconds that not all processes told yet, and how many of each process came.
    open: std::collections::VecDeque<(Counts, Histogram<u64>)>,
    told: Vec<Option<usize>>,
    is_terminal: bool,
}

impl Sums {
    fn new(processes: usize, label: &str) -> Self {
        Self {
            label: label.to_string(),
            counts: Counts::default(),
            latencies: histogram(),
            series: Vec::new(),
            open: std::collections::VecDeque::new(),
            told: vec![Some(0); processes],
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn add(&mut self, process: usize, tick: Tick) {
        let number = self.told[process].expect("a process that is done tells no more");
        self.told[process] = Some(number + 1);
        let place = number - self.series.len();
        while self.open.len() <= place {
            self.open.push_back((Counts::default(), histogram()));
        }
        let (counts, latencies) = &mut self.open[place];
        counts.add(&tick.counts);
        tick.add_latencies_to(latencies);
        self.close_whole();
    }

    /// A process has nothing more to tell.
    fn finish(&mut self, process: usize) {
        self.told[process] = None;
        self.close_whole();
    }

    /// Nobody has anything more to tell.
    fn close_all(&mut self) {
        self.told.fill(None);
        self.close_whole();
    }

    /// Closes the seconds that every process has told.
    fn close_whole(&mut self) {
        let whole = self.told.iter().flatten().min().copied();
        while whole.is_none_or(|whole| whole > self.series.len()) {
            let Some((counts, latencies)) = self.open.pop_front() else { return };
            self.counts.add(&counts);
            self.latencies.add(&latencies).expect("the bounds are the same");
            let second = Second {
                p50: latencies.value_at_percentile(50.0),
                p99: latencies.value_at_percentile(99.0),
                max: latencies.max(),
                counts,
            };
            self.show(&second);
            self.series.push(second);
        }
    }

    /// One line a second, for a person who waits.
    fn show(&self, second: &Second) {
        if !self.is_terminal {
            return;
        }
        let milliseconds = |microseconds: u64| microseconds as f64 / 1e3;
        eprintln!(
            "{} {:>4} s  {:>9} events  {:>7.1} MB  p50 {:>8.2} ms  p99 {:>8.2} ms  {:>11} events in all",
            self.label,
            self.series.len() + 1,
            second.counts.events,
            second.counts.bytes as f64 / 1e6,
            milliseconds(second.p50),
            milliseconds(second.p99),
            self.counts.events
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(events: u64, microseconds: u64) -> Tick {
        Tick {
            counts: Counts { events, ..Counts::default() },
            latencies: vec![(microseconds, events)],
            last_answer: 1,
        }
    }

    #[test]
    fn seconds_of_processes_are_added_up_by_their_number() {
        let mut sums = Sums::new(2, "test");
        sums.add(0, tick(1, 10));
        sums.add(0, tick(2, 20));
        assert_eq!(sums.series.len(), 0, "the other process has not told its first second");
        sums.add(1, tick(10, 100));
        assert_eq!(sums.series.len(), 1);
        sums.finish(1);
        assert_eq!(sums.series.len(), 2, "a process that is done has no second second");
        sums.add(0, tick(4, 40));
        sums.finish(0);
        let events: Vec<u64> = sums.series.iter().map(|second| second.counts.events).collect();
        assert_eq!(events, [11, 2, 4]);
        assert_eq!((sums.counts.events, sums.latencies.len()), (17, 17));
        assert_eq!(sums.series[0].max, 100);
    }

    #[test]
    fn what_a_broken_run_was_told_is_counted() {
        let mut sums = Sums::new(2, "test");
        sums.add(0, tick(1, 10));
        sums.add(0, tick(2, 20));
        sums.add(1, tick(10, 100));
        sums.close_all();
        assert_eq!((sums.series.len(), sums.counts.events), (2, 13));
    }
}
