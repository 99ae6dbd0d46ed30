//! What a caller can do about an error, the same seven words in every layer.

/// The class of an error: what its receiver may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may succeed if tried again, here or elsewhere.
    Retry,
    /// The thing is not there, or not enough of it.
    Missing,
    /// The thing is there and does not verify.
    Corrupt,
    /// No room: quota, disk, memory or a full queue that will not drain.
    Full,
    /// The caller may not, or the request makes no sense.
    Denied,
    /// The component is shut down or poisoned.
    Closed,
    /// An invariant of ours is broken.
    Bug,
}

/// Implemented by every error enum of the project.
pub trait Classify {
    /// The class of this error.
    fn class(&self) -> Class;
}
