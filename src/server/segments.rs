//! What is done to segments of the usage log beside its writer: room is made ahead.
//!
//! Owns: the thread and its queue. Leaves to others: how room is made (`engine::log`), when (`usage_log`).
//!
//! Invariants: the writer never waits for this thread while it runs; a failure here costs time and no record, so it is
//! said and not an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use engine::io::Storage;
use engine::log::{LogOptions, LogWriter, SegmentRoom};

use crate::threads::{OnFailure, spawn};

/// The thread beside the writer of the usage log.
pub struct Segments {
    wanted: Sender<()>,
    /// Answers to wishes; `None` if there is no room to be had.
    rooms: Receiver<Option<SegmentRoom>>,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    wish: Wish,
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
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        on_failure: OnFailure,
    ) -> std::io::Result<Self> {
        let (wanted, asked) = bounded::<()>(1);
        let (made, rooms) = bounded(1);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let has_to_stop = is_stopping.clone();
        let thread = spawn("usage-segments", on_failure, move || {
            let is_wanted = || !has_to_stop.load(Ordering::Relaxed);
            while asked.recv().is_ok() {
                let room = SegmentRoom::make(&*storage, &options, &is_wanted).unwrap_or_else(|error| {
                    let error = anyhow::Error::new(error);
                    tracing::warn!("room for usage cannot be made ahead: {error:#}");
                    None
                });
                // The writer may have stopped meanwhile.
                let _ = made.send(room);
            }
            Ok(())
        })?;
        Ok(Self { wanted, rooms, is_stopping, thread, wish: Wish::None })
    }

    /// Asks for room once a segment is half full, and gives it to the writer when it is there.
    pub fn serve(&mut self, writer: &mut LogWriter, has_ended_segment: bool) {
        if has_ended_segment && self.wish == Wish::Refused {
            self.wish = Wish::None;
        }
        if !writer.needs_room() {
            return;
        }
        match self.wish {
            Wish::None => {
                // A thread that has stopped said why.
                let _ = self.wanted.send(());
                self.wish = Wish::Asked;
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
        drop(self.wanted);
        // A panic there was said.
        let _ = self.thread.join();
        if let Ok(Some(room)) = self.rooms.try_recv() {
            writer.take_room(room);
        }
    }
}
