//! Who asks.

/// The process a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user, for access to files.
    pub uid: u32,
    /// Its group, for access to files.
    pub gid: u32,
    /// The thread; 0 if it is outside the mount's view of processes, or the kernel itself.
    pub pid: u32,
}

impl Caller {
    /// The superuser.
    pub const ROOT: Caller = Caller {
        uid: 0,
        gid: 0,
        pid: 0,
    };

    /// Whether permission checks are waived. The protocol does not tell capabilities.
    pub fn is_privileged(&self) -> bool {
        self.uid == 0
    }

    /// All groups of the caller. The protocol tells only the first, so the others are read from
    /// `/proc`, which costs a few system calls: asked for only where it matters.
    pub fn groups(&self) -> Vec<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let mut groups = vec![self.gid];
        let line = status.iter().flat_map(|status| status.lines());
        let line = line.filter_map(|line| line.strip_prefix("Groups:")).next();
        for group in line.unwrap_or_default().split_ascii_whitespace() {
            if let Ok(group) = group.parse()
                && !groups.contains(&group)
            {
                groups.push(group);
            }
        }
        groups
    }
}
