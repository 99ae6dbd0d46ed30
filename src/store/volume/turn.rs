//! Whose turn it is to write: the engine, for one at a time, and what the writer has to know of it while
//! somebody else has it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::journal::Engine;

/// The engine of an open volume.
#[derive(Debug)]
pub(super) struct Turn {
    engine: Mutex<Engine>,
    is_ahead: AtomicBool,
    is_long: AtomicBool,
    has_more_to_carry: AtomicBool,
}

impl Turn {
    pub(super) fn new(engine: Engine) -> Turn {
        let turn = Turn {
            is_ahead: AtomicBool::new(false),
            is_long: AtomicBool::new(false),
            has_more_to_carry: AtomicBool::new(false),
            engine: Mutex::new(engine),
        };
        if let Some(engine) = turn.try_lock() {
            turn.looked_at(&engine);
        }
        turn
    }

    /// Waits until nobody else writes. Where somebody panicked while writing, nothing is known of the journal
    /// any more, and the volume takes no more writes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(|poisoned| {
            let engine = poisoned.into_inner();
            engine.shared.poison("its writer panicked".to_owned());
            engine
        })
    }

    /// The engine, if nobody writes; not where somebody panicked while writing either.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Engine>> {
        self.engine.try_lock().ok()
    }

    /// To be said by whoever has written.
    pub(super) fn looked_at(&self, engine: &Engine) {
        let is_long = engine.tail_bytes >= engine.shared.options.flush_tail_bytes;
        self.is_ahead.store(engine.is_ahead(), Ordering::Release);
        self.is_long.store(is_long, Ordering::Release);
        self.has_more_to_carry
            .store(engine.has_more_to_carry, Ordering::Release);
    }

    /// Whether the tables lack something that is durable.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_ahead.load(Ordering::Acquire)
    }

    /// Whether they lack so much that an opening would take long.
    pub(super) fn is_long(&self) -> bool {
        self.is_long.load(Ordering::Acquire)
    }

    /// Whether not all was carried forward that should be.
    pub(super) fn has_more_to_carry(&self) -> bool {
        self.has_more_to_carry.load(Ordering::Acquire)
    }
}
