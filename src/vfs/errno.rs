//! What the kernel is told of each error.

use cairnfs_fuse::Errno;

use crate::base::{Class, Classify};
use crate::namespace::{OpError, StateError};
use crate::store::VolumeError;

/// Why a step was not carried out.
#[derive(Debug)]
pub(super) enum Stop {
    /// The caller gets this.
    Errno(Errno),
    /// Too much waits to be written: to be tried again when there is room.
    Busy,
}

/// What a step came to.
pub(super) type Step<T> = Result<T, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Errno(errno)
    }
}

/// What stands for an error of a class where nothing more is known.
pub(super) const fn of_class(class: Class) -> Errno {
    match class {
        Class::Full => Errno::ENOSPC,
        Class::Denied => Errno::EPERM,
        _ => Errno::EIO,
    }
}

impl From<VolumeError> for Stop {
    fn from(error: VolumeError) -> Stop {
        if error == VolumeError::Busy {
            return Stop::Busy;
        }
        let errno = match &error {
            VolumeError::TooLarge { .. } => Errno::EIO,
            error => of_class(error.class()),
        };
        if errno == Errno::EIO {
            tracing::error!("{error}");
        }
        Stop::Errno(errno)
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Stop {
        tracing::error!("the namespace: {error}");
        Stop::Errno(of_class(error.class))
    }
}

impl From<OpError> for Stop {
    fn from(error: OpError) -> Stop {
        Stop::Errno(match error {
            OpError::NotFound | OpError::Gone => Errno::ENOENT,
            OpError::Exists => Errno::EEXIST,
            OpError::NotADirectory => Errno::ENOTDIR,
            OpError::IsADirectory => Errno::EISDIR,
            OpError::NotEmpty => Errno::ENOTEMPTY,
            OpError::Fixed => Errno::EBUSY,
            OpError::WrongKind => Errno::EPERM,
            OpError::IntoItself | OpError::Invalid(_) => Errno::EINVAL,
            OpError::NameTooLong => Errno::ENAMETOOLONG,
            OpError::NoXattr => Errno::ENODATA,
            OpError::Changed => Errno::EAGAIN,
            OpError::State(error) => return error.into(),
        })
    }
}
