//! Ctrl-C and SIGTERM: a run that is measuring ends and reports, everything else ends at once.
//!
//! Owns: who is told. Leaves to others: what it does then (`workers`).
//!
//! Invariants: the second signal ends the program, whatever it does.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Exit status of a program that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

type Listener = Box<dyn FnOnce() + Send>;

/// Hears signals for as long as its runtime lives.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<Mutex<Option<Listener>>>);

/// Listens until it is dropped.
pub(crate) struct Listening<'a>(&'a Interrupt);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Interrupt {
    pub(crate) fn start(runtime: &Runtime) -> Result<Self> {
        let interrupt = Self(Arc::default());
        let _entered = runtime.enter();
        let (mut by_person, mut by_system) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let heard = interrupt.clone();
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    _ = by_person.recv() => {}
                    _ = by_system.recv() => {}
                }
                match heard.set(None) {
                    Some(listener) => listener(),
                    None => std::process::exit(INTERRUPTED),
                }
            }
        });
        Ok(interrupt)
    }

    /// Calls this at the next signal, which then ends nothing.
    pub(crate) fn listen(&self, listener: impl FnOnce() + Send + 'static) -> Listening<'_> {
        self.set(Some(Box::new(listener)));
        Listening(self)
    }

    fn set(&self, listener: Option<Listener>) -> Option<Listener> {
        // A listener is put and taken whole, so a panic elsewhere leaves nothing half done.
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), listener)
    }
}
