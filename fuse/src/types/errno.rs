//! Error numbers as the kernel counts them.

use std::fmt;

/// A positive error number. The only error a filesystem can tell the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident: $what:literal,)*) => {
        impl Errno {
            $(#[doc = $what] pub const $name: Errno = Errno(libc::$name);)*

            /// The symbol of this number, where it is one of those named here.
            pub fn name(self) -> Option<&'static str> {
                $(if self == Errno::$name { return Some(stringify!($name)); })*
                None
            }
        }
    };
}

errnos! {
    E2BIG: "Argument list, or extended attribute, too long",
    EACCES: "Permission denied",
    EAGAIN: "Resource temporarily unavailable",
    EBADF: "Bad file descriptor",
    EBUSY: "Device or resource busy",
    EDEADLK: "Resource deadlock avoided",
    EDQUOT: "Disk quota exceeded",
    EEXIST: "File exists",
    EFBIG: "File too large",
    EINTR: "Interrupted system call",
    EINVAL: "Invalid argument",
    EIO: "Input/output error",
    EISDIR: "Is a directory",
    ELOOP: "Too many levels of symbolic links",
    EMFILE: "Too many open files",
    EMLINK: "Too many links",
    ENAMETOOLONG: "File name too long",
    ENODATA: "No data available: the extended attribute is absent",
    ENODEV: "No such device",
    ENOENT: "No such file or directory",
    ENOLCK: "No locks available",
    ENOMEM: "Cannot allocate memory",
    ENOSPC: "No space left on device",
    ENOSYS: "Function not implemented: the kernel remembers this for the whole mount",
    ENOTCONN: "Transport endpoint is not connected",
    ENOTDIR: "Not a directory",
    ENOTEMPTY: "Directory not empty",
    ENOTSUP: "Operation not supported",
    ENXIO: "No such device or address: nothing more to seek to",
    EPERM: "Operation not permitted",
    ERANGE: "Result too large for the buffer",
    EROFS: "Read-only file system",
    ESTALE: "Stale file handle",
    ETIMEDOUT: "Connection timed out",
    ETXTBSY: "Text file busy",
    EXDEV: "Invalid cross-device link",
}

impl Errno {
    /// The number itself.
    pub fn raw(self) -> i32 {
        self.0
    }

    /// From a number of the operating system; what is no positive number becomes `EIO`, so that
    /// an error is never mistaken for success.
    pub fn from_raw(raw: i32) -> Errno {
        if (1..4096).contains(&raw) {
            Errno(raw)
        } else {
            Errno::EIO
        }
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn no_number_is_success() {
        assert_eq!(Errno::from_raw(0), Errno::EIO);
        assert_eq!(Errno::from_raw(-5), Errno::EIO);
        assert_eq!(Errno::from_raw(2), Errno::ENOENT);
        assert_eq!(format!("{:?}", Errno::ENOSPC), "ENOSPC");
    }
}
