//! How a command ends when it does not succeed.

use std::io;

use crate::admin::{AdminError, Exit};

/// Exit code of a command that was interrupted: 128 and the number of SIGINT, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be told.
    Error(AdminError),
    /// Whoever reads the standard output has seen enough: nothing to tell.
    BrokenPipe,
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Failure::Error(error)
    }
}

/// Errors of the standard output; others get a message where they occur.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => AdminError::failed(format!("cannot write the standard output: {error}")).into(),
        }
    }
}

/// What to do about a target that is full.
pub(super) const MAKE_ROOM: &str = "make room there, or choose another place with -o";

/// An error of a file operation: what was done to which file, and whether it is full or denied.
pub(super) fn file_error(what: &str, path: &std::path::Path, error: &io::Error) -> AdminError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        StorageFull | QuotaExceeded => AdminError::new(Exit::Refused, message).hint(MAKE_ROOM),
        FileTooLarge => AdminError::new(Exit::Refused, message)
            .hint("that filesystem or its limits take no file of this size"),
        _ => AdminError::failed(message),
    }
}
