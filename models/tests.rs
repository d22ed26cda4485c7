//! The models.

use std::collections::BTreeSet;

use loom::sync::atomic::{AtomicU8, Ordering};
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::sync::{Arc, Mutex};
use loom::{model, thread};

use super::handoff::{Busy, DurableEnd, VerdictSlots};

/// As in `server::shards`: every shard puts the codes of its events, then says that it is done.
#[test]
fn the_shard_that_is_done_last_sends_the_verdicts_of_all_once() {
    loom::model(|| {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let sent_to = sent.clone();
        let slots = VerdictSlots::new(5, 3, Box::new(move |codes| sent_to.lock().unwrap().push(codes)));
        let slots = Arc::new(slots);
        let shards = [[0, 4], [1, 2], [3, 3]].map(|events| {
            let slots = slots.clone();
            thread::spawn(move || {
                events.into_iter().for_each(|event| slots.put(event, event as u8 + 1));
                slots.finish_shard();
            })
        });
        shards.into_iter().for_each(|shard| shard.join().unwrap());
        assert_eq!(*sent.lock().unwrap(), [[1, 2, 3, 4, 5]]);
    });
}

/// As in `server::usage_log`: records are written and synced, then the end is said, then they are acknowledged. Who reads the
/// log up to its end, as queries and forgetting do, finds what is said to be there.
#[test]
fn what_stands_before_the_end_is_there_for_whoever_reads_the_end() {
    loom::model(|| {
        let log: Arc<[AtomicU8; 3]> = Arc::new(std::array::from_fn(|_| AtomicU8::new(0)));
        let end = Arc::new(DurableEnd::default());
        let (written, published) = (log.clone(), end.clone());
        let (acks, acked) = channel();
        let writer = thread::spawn(move || {
            for (offset, record) in (0..).zip(written.iter()) {
                record.store(7, Ordering::Relaxed);
                published.publish(offset + 1);
                acks.send(offset).unwrap();
            }
        });
        for _ in 0..2 {
            let offset = end.offset() as usize;
            assert!(log[..offset].iter().all(|record| record.load(Ordering::Relaxed) == 7));
        }
        let acknowledged: u64 = acked.recv().unwrap();
        assert!(end.offset() > acknowledged, "what is acknowledged is before the end");
        writer.join().unwrap();
    });
}

/// The folders of runs and snapshots.
#[derive(Default)]
struct Disk {
    runs: BTreeSet<u64>,
    /// Runs that a snapshot names.
    named: BTreeSet<u64>,
}

enum RunTask {
    Retired(BTreeSet<u64>),
    SnapshotEnded,
}

/// The shard has merged runs 1 and 2 into 3, and gives the old ones away.
fn merge(disk: &Mutex<Disk>, own: &mut BTreeSet<u64>, tasks: &Sender<RunTask>) {
    disk.lock().unwrap().runs.insert(3);
    let old = std::mem::replace(own, BTreeSet::from([3]));
    tasks.send(RunTask::Retired(old)).unwrap();
}

/// As in `server::runs`: old runs go when no snapshot is being made, and those that none names.
fn take_away(disk: &Mutex<Disk>, making: &Busy, tasks: &Receiver<RunTask>) {
    let mut retired = BTreeSet::new();
    for _ in 0..2 {
        if let RunTask::Retired(old) = tasks.recv().unwrap() {
            retired.extend(old);
        }
        if making.is_now() {
            continue;
        }
        let named = disk.lock().unwrap().named.clone();
        for run in retired.extract_if(.., |run| !named.contains(run)) {
            disk.lock().unwrap().runs.remove(&run);
        }
    }
}

/// A snapshot is made while old runs are taken away. As in `server::control`, making one begins before its barrier is sent; as in
/// `server::snapshots`, it ends when its file is whole.
#[test]
fn no_run_goes_that_a_snapshot_names_and_every_other_old_one_goes() {
    // All orders in which a thread is interrupted twice at most: without a bound it takes hours.
    let mut orders = model::Builder::new();
    orders.preemption_bound = Some(2);
    for is_merged_first in [true, false] {
        orders.check(move || {
            let runs = BTreeSet::from([1, 2]);
            let disk = Arc::new(Mutex::new(Disk { runs: runs.clone(), named: BTreeSet::new() }));
            let making = Arc::new(Busy::default());
            let (barriers, barrier) = channel();
            let (parts, part) = channel();
            let (tasks, run_tasks) = channel();
            let shard = thread::spawn({
                let (disk, tasks) = (disk.clone(), tasks.clone());
                move || {
                    let mut own = runs;
                    if is_merged_first {
                        merge(&disk, &mut own, &tasks);
                    }
                    barrier.recv().unwrap();
                    parts.send(own.clone()).unwrap();
                    if !is_merged_first {
                        merge(&disk, &mut own, &tasks);
                    }
                }
            });
            let snapshots = thread::spawn({
                let (disk, making) = (disk.clone(), making.clone());
                move || {
                    let named = part.recv().unwrap();
                    disk.lock().unwrap().named = named;
                    making.end();
                    tasks.send(RunTask::SnapshotEnded).unwrap();
                }
            });
            let runs = thread::spawn({
                let (disk, making) = (disk.clone(), making.clone());
                move || take_away(&disk, &making, &run_tasks)
            });
            making.begin();
            barriers.send(()).unwrap();
            [shard, snapshots, runs].into_iter().for_each(|thread| thread.join().unwrap());
            let Disk { runs, named } = &*disk.lock().unwrap();
            assert!(named.is_subset(runs), "{named:?} are named, and {runs:?} are there");
            assert_eq!(runs.len(), if is_merged_first { 1 } else { 3 });
        });
    }
}
