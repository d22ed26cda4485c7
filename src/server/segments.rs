//! What is done to segments of the usage log beside its writer: room is made ahead, and ended ones are indexed.
//!
//! Owns: the thread and its queue, and that room comes before indexes. Leaves to others: how both are made
//! (`engine::log`), when (`usage_log`).
//!
//! Invariants: the writer never waits for this thread while it runs; a failure here costs time and no record, so it is
//! said and not an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{IndexError, LogIndex, LogOptions, LogWriter, SegmentRoom, build_index};

use crate::threads::{OnFailure, spawn};

/// Wishes that wait: at most one for room, and one that indexes all there is.
const TASKS_MAX: usize = 2;

/// The thread beside the writer of the usage log.
pub struct Segments {
    tasks: Sender<Task>,
    /// Answers to wishes; `None` if there is no room to be had.
    rooms: Receiver<Option<SegmentRoom>>,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    wish: Wish,
}

/// What the thread is asked to do.
enum Task {
    /// Make room.
    Room,
    /// A segment was ended: index all that have no index.
    Index,
}

/// At most one wish is under way, so that there is never room twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    Asked,
    /// Not asked again for this segment.
    Refused,
}

impl Segments {
    /// Starts the thread; segments without an index that is believed get one.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        key: IdentityKey,
        on_failure: OnFailure,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = bounded(TASKS_MAX);
        let (made, rooms) = bounded(1);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let worker = Worker { storage, options, key, is_stopping: is_stopping.clone(), made };
        let thread = spawn("usage-segments", on_failure, move || {
            worker.run(&queue);
            Ok(())
        })?;
        Ok(Self { tasks, rooms, is_stopping, thread, wish: Wish::None })
    }

    /// Asks for room once a segment is half full, and gives it to the writer when it is there.
    pub fn serve(&mut self, writer: &mut LogWriter, has_ended_segment: bool) {
        if has_ended_segment {
            // Whatever is queued already indexes this segment, too.
            let _ = self.tasks.try_send(Task::Index);
            if self.wish == Wish::Refused {
                self.wish = Wish::None;
            }
        }
        if !writer.needs_room() {
            return;
        }
        match self.wish {
            Wish::None => {
                // With a full queue, or a thread that has stopped and said why, the writer asks again.
                if self.tasks.try_send(Task::Room).is_ok() {
                    self.wish = Wish::Asked;
                }
            }
            Wish::Asked => match self.rooms.try_recv() {
                Ok(Some(room)) => {
                    writer.take_room(room);
                    self.wish = Wish::None;
                }
                Ok(None) => self.wish = Wish::Refused,
                Err(_) => {}
            },
            Wish::Refused => {}
        }
    }

    /// Ends the thread; room that it made goes when the writer closes the log.
    pub fn stop(self, writer: &mut LogWriter) {
        self.is_stopping.store(true, Ordering::Relaxed);
        drop(self.tasks);
        // A panic there was said.
        let _ = self.thread.join();
        if let Ok(Some(room)) = self.rooms.try_recv() {
            writer.take_room(room);
        }
    }
}

struct Worker {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    key: IdentityKey,
    is_stopping: Arc<AtomicBool>,
    made: Sender<Option<SegmentRoom>>,
}

impl Worker {
    fn run(&self, queue: &Receiver<Task>) {
        let mut is_to_index = true;
        loop {
            // Room is wanted now; an index can wait for it.
            let next = if is_to_index { queue.try_recv().ok() } else { queue.recv().ok() };
            match next {
                Some(Task::Room) => self.make_room(),
                Some(Task::Index) => is_to_index = true,
                None if is_to_index && self.is_wanted() => is_to_index = self.index_one(),
                None => return,
            }
        }
    }

    fn is_wanted(&self) -> bool {
        !self.is_stopping.load(Ordering::Relaxed)
    }

    fn make_room(&self) {
        let room = SegmentRoom::make(&*self.storage, &self.options, &|| self.is_wanted());
        let room = room.unwrap_or_else(|error| {
            tracing::warn!("room for usage cannot be made ahead: {:#}", anyhow::Error::new(error));
            None
        });
        // The writer may have stopped meanwhile.
        let _ = self.made.send(room);
    }

    /// Indexes one segment; whether another one may be left.
    fn index_one(&self) -> bool {
        let index = || -> Result<bool, IndexError> {
            let log = LogIndex::open(&*self.storage, self.options, self.key)?;
            let Some(segment) = log.unindexed().into_iter().next() else { return Ok(false) };
            build_index(&*self.storage, &self.options, self.key, segment.start, segment.end)?;
            Ok(true)
        };
        index().unwrap_or_else(|error| {
            tracing::warn!("a segment of usage cannot be indexed: {:#}", anyhow::Error::new(error));
            false
        })
    }
}
