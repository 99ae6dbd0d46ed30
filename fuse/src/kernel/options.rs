//! How to mount.

use std::time::Duration;

use fuser::{Config, MountOption, SessionACL};

use super::error::MountError;

/// How to mount. The defaults suit an ordinary, private mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What `/proc/mounts` shows as the source.
    pub fs_name: String,
    /// What `/proc/mounts` shows after `fuse.` as the type.
    pub subtype: String,
    /// Refuse all changes.
    pub read_only: bool,
    /// Let other users in. An unprivileged user needs `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Let the kernel check permissions. Without it every caller may do everything.
    pub default_permissions: bool,
    /// Honour setuid and setgid on programs (root only).
    pub suid: bool,
    /// Honour device files (root only).
    pub dev: bool,
    /// Let programs be run from it.
    pub exec: bool,
    /// Mount over a directory that is not empty.
    pub over_non_empty: bool,
    /// Threads that read requests. One is enough, since none of them ever waits, and is fastest for
    /// a single program: the kernel wakes several in turn, each on the CPU where it slept last
    /// (measured for one request on two CPUs: 12 us with one thread, 51 with two, 26 with four; eight
    /// jobs of 4 KiB reads gain a tenth with four).
    pub threads: usize,
    /// After this long a waiting request gets an error.
    pub deadline: Duration,
    /// Most requests waited for at once; what comes on top gets `EAGAIN`.
    pub in_flight_max: usize,
    /// Largest write and read request in bytes.
    pub request_bytes_max: u32,
    /// How far the kernel reads ahead, in bytes. More than it offers is set through `/sys` as root.
    pub read_ahead_bytes: u32,
    /// Most notices to the kernel that may wait; above, everything is invalidated.
    pub notices_max: usize,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            fs_name: "cairn".into(),
            subtype: "cairn".into(),
            read_only: false,
            allow_other: false,
            default_permissions: true,
            suid: false,
            dev: false,
            exec: true,
            over_non_empty: false,
            threads: 1,
            deadline: Duration::from_secs(60),
            in_flight_max: 4096,
            request_bytes_max: 1 << 20,
            read_ahead_bytes: 1 << 20,
            notices_max: 16_384,
        }
    }
}

impl MountOptions {
    /// Whether this user may have all of them.
    ///
    /// # Errors
    /// The first that it may not.
    pub fn check(&self) -> Result<(), MountError> {
        self.check_for(rustix::process::geteuid().is_root())
    }

    fn check_for(&self, is_root: bool) -> Result<(), MountError> {
        let root_only = [(self.suid, "suid"), (self.dev, "dev")];
        match root_only.iter().find(|(is_set, _)| *is_set && !is_root) {
            Some((_, name)) => Err(MountError::RootOnly(name)),
            None => Ok(()),
        }
    }

    pub(super) fn config(&self) -> Config {
        let mut options = vec![
            MountOption::FSName(self.fs_name.clone()),
            // Not `Subtype`: the crate hands that to the helper only, never to the kernel.
            MountOption::CUSTOM(format!("subtype={}", self.subtype)),
        ];
        let mut add = |on: bool, option: MountOption| {
            if on {
                options.push(option);
            }
        };
        add(self.read_only, MountOption::RO);
        add(self.default_permissions, MountOption::DefaultPermissions);
        add(self.suid, MountOption::Suid);
        add(self.dev, MountOption::Dev);
        add(!self.exec, MountOption::NoExec);
        let mut config = Config::default();
        config.mount_options = options;
        config.acl = if self.allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        config.n_threads = Some(self.threads.max(1));
        // A descriptor for each further thread: they do not contend for one queue.
        config.clone_fd = true;
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_root_may_have_is_refused_to_others() {
        let plain = MountOptions::default();
        let suid = MountOptions {
            suid: true,
            ..MountOptions::default()
        };
        let dev = MountOptions {
            dev: true,
            ..MountOptions::default()
        };
        assert!(plain.check_for(false).is_ok());
        for (options, name) in [(&suid, "suid"), (&dev, "dev")] {
            assert!(options.check_for(true).is_ok());
            let refused = options.check_for(false).unwrap_err();
            assert!(matches!(refused, MountError::RootOnly(found) if found == name));
        }
    }
}
